// SPDX-License-Identifier: MIT OR Apache-2.0
//! The range of the address space that is left to the driver.

use std::num::NonZeroUsize;

use crate::error::{Error, Result};
use crate::sys::Hole;

/// Rings and push buffers take 40-bit addresses, so the range left to the driver must lie below this.
const HOLE_END: u64 = 1 << 40;
/// Where the search for a free range begins: above what executables without PIE and their heaps use.
const HOLE_START: u64 = 1 << 36;
/// The search looks at this many places, spread evenly.
const HOLE_TRIES: u64 = 64;

/// Reserves `size` bytes at a multiple of `align`, below what rings can address.
pub(crate) fn reserve(size: u64, align: u64) -> Result<Hole> {
    let candidates = candidates(size, align);
    let as_usize = |value: u64| usize::try_from(value).ok().and_then(NonZeroUsize::new);
    for addr in candidates {
        let (Some(addr), Some(size)) = (as_usize(addr), as_usize(size)) else {
            continue;
        };
        if let Ok(hole) = Hole::reserve(addr, size) {
            return Ok(hole);
        }
    }
    Err(Error::NoHole { size })
}

/// Addresses to try, all aligned and ending below [`HOLE_END`].
fn candidates(size: u64, align: u64) -> impl Iterator<Item = u64> {
    let step = (HOLE_END - HOLE_START) / HOLE_TRIES;
    (0..HOLE_TRIES)
        .filter_map(move |i| (HOLE_START + i * step).checked_next_multiple_of(align))
        .filter(move |addr| addr.checked_add(size).is_some_and(|end| end <= HOLE_END))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_for_the_hole_are_aligned_and_end_below_one_tebibyte() {
        let (size, align) = (64 << 20, 2 << 20);
        let all: Vec<u64> = candidates(size, align).collect();
        assert_eq!(all.len() as u64, HOLE_TRIES);
        assert!(all
            .iter()
            .all(|addr| addr % align == 0 && addr + size <= 1 << 40));
    }

    #[test]
    fn a_hole_too_large_for_the_space_below_one_tebibyte_has_no_place() {
        assert_eq!(candidates(1 << 40, 4096).count(), 0);
    }

    #[test]
    fn two_holes_do_not_overlap() {
        let first = reserve(2 << 20, 2 << 20).expect("address space is mostly empty");
        let second = reserve(2 << 20, 2 << 20).expect("address space is mostly empty");
        assert!(
            first.addr() + first.size() <= second.addr()
                || second.addr() + second.size() <= first.addr()
        );
    }
}
