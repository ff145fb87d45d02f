// SPDX-License-Identifier: MIT OR Apache-2.0
//! Ranges of whole pages.

use crate::ptr::GpuPtr;

/// Bytes of a page, for prefetches and queries.
pub const PAGE_SIZE: u64 = 4096;

/// Whole pages of 4 KiB that lie next to each other.
///
/// ```
/// use mirage::PageRange;
///
/// let words = vec![0_u64; 1024];
/// let range = PageRange::of(&words);
/// assert!((2..=3).contains(&range.pages()));
/// assert!(range.start() <= words.as_ptr() as u64);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PageRange {
    start: u64,
    pages: u64,
}

impl PageRange {
    /// The pages that hold `bytes` bytes from `start` on. A range that would go on behind the last address ends there.
    pub fn new(start: impl Into<GpuPtr>, bytes: u64) -> Self {
        let first = start.into().addr();
        let end = first.saturating_add(bytes);
        let start = first / PAGE_SIZE * PAGE_SIZE;
        PageRange {
            start,
            pages: (end - start).div_ceil(PAGE_SIZE),
        }
    }

    /// The pages that hold a slice. A `&Vec` will do; its elements count, not the `Vec`.
    pub fn of<T>(slice: &[T]) -> Self {
        PageRange::new(slice.as_ptr(), size_of_val(slice) as u64)
    }

    /// Address of the first page.
    pub const fn start(self) -> u64 {
        self.start
    }

    /// Number of pages.
    pub const fn pages(self) -> u64 {
        self.pages
    }

    /// Size in bytes.
    pub const fn bytes(self) -> u64 {
        self.pages.saturating_mul(PAGE_SIZE)
    }

    /// What is left behind the first `pages` pages.
    #[must_use]
    pub const fn skip(self, pages: u64) -> Self {
        let skipped = if pages < self.pages {
            pages
        } else {
            self.pages
        };
        PageRange {
            start: self.start.wrapping_add(skipped * PAGE_SIZE),
            pages: self.pages - skipped,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, bytes: u64) -> (u64, u64) {
        let range = PageRange::new(GpuPtr::new(start), bytes);
        (range.start(), range.pages())
    }

    #[test]
    fn a_range_has_every_page_that_a_byte_lies_in() {
        assert_eq!(range(0x1000, 0x1000), (0x1000, 1));
        assert_eq!(range(0x1fff, 2), (0x1000, 2));
        assert_eq!(range(0x1234, 1), (0x1000, 1));
        assert_eq!(range(0x1000, 0x1001), (0x1000, 2));
    }

    #[test]
    fn no_bytes_on_a_page_boundary_are_no_pages() {
        assert_eq!(range(0x1000, 0), (0x1000, 0));
    }

    #[test]
    fn a_range_ends_where_addresses_end() {
        assert_eq!(range(u64::MAX, u64::MAX), (u64::MAX - 0xfff, 1));
    }

    #[test]
    fn skipping_never_leaves_the_range() {
        let range = PageRange::new(GpuPtr::new(0x1000), 0x4000);
        assert_eq!((range.skip(3).start(), range.skip(3).pages()), (0x4000, 1));
        assert_eq!((range.skip(9).start(), range.skip(9).pages()), (0x5000, 0));
    }
}
