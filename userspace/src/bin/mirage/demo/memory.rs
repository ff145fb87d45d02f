// SPDX-License-Identifier: MIT OR Apache-2.0
//! The unsafe lines of the demo: system calls that rearrange memory in use, without changing what a program sees in it.
#![allow(unsafe_code)]

use std::num::NonZeroUsize;
use std::ops::Range;
use std::ptr::NonNull;

use mirage::{Gpu, Svm};
use nix::libc::{self, c_void};
use nix::sys::mman::{
    madvise, mmap_anonymous, mprotect, mremap, MRemapFlags, MapFlags, MmapAdvise, ProtFlags,
};
use nix::sys::wait::{waitpid, WaitStatus};
use nix::unistd::{fork, ForkResult};

use crate::Outcome;

/// Bytes of a page.
pub(crate) const PAGE: usize = 4096;
/// Bytes of a huge page.
const HUGE: usize = 2 << 20;

/// Reading and writing.
const RW: ProtFlags = ProtFlags::PROT_READ.union(ProtFlags::PROT_WRITE);

/// Mirrors this process.
pub(crate) fn mirror(gpu: &Gpu) -> mirage::Result<Svm> {
    // SAFETY: the launches of the demo write atomics that are shared, vectors that nobody borrows until the wait, and read what
    // nobody changes.
    unsafe { gpu.svm() }
}

/// The pages that lie completely inside of a slice: their addresses.
pub(crate) fn whole_pages<T>(slice: &[T]) -> Range<usize> {
    let Range { start, end } = slice.as_ptr_range();
    start.addr().next_multiple_of(PAGE)..end.addr() / PAGE * PAGE
}

/// An address of this process as a pointer.
fn pointer(addr: usize) -> Outcome<NonNull<c_void>> {
    NonNull::new(std::ptr::with_exposed_provenance_mut(addr))
        .ok_or_else(|| "null is no place for data".into())
}

/// Replaces the page at `addr` by another page with the same contents, as mremap moves it there. The old one is freed.
///
/// `slice` must have all of the page; while it is borrowed, nobody writes there.
pub(crate) fn move_page<T>(slice: &[T], addr: usize) -> Outcome<()> {
    let pages = whole_pages(slice);
    if addr % PAGE != 0 || !pages.contains(&addr) {
        return Err("the page is not part of the slice".into());
    }
    let (old, size) = (pointer(addr)?, NonZeroUsize::new(PAGE).ok_or("no page")?);
    // SAFETY: without MAP_FIXED the kernel picks a place that is free.
    let new = unsafe { mmap_anonymous(None, size, RW, MapFlags::MAP_PRIVATE) }?;
    // SAFETY: both are whole pages, the new one nobody's, the old one readable and not written by the borrow of `slice`.
    unsafe { new.copy_from_nonoverlapping(old, PAGE) };
    let flags = MRemapFlags::MREMAP_MAYMOVE | MRemapFlags::MREMAP_FIXED;
    // SAFETY: puts the same bytes in place of the old ones in one step; no reader can tell.
    unsafe { mremap(new, PAGE, PAGE, flags, Some(old)) }?;
    Ok(())
}

/// Makes the page of a value executable and takes that back: no access is lost, but all mappings of the page are made anew.
pub(crate) fn reprotect<T>(value: &T) -> Outcome<()> {
    let page = pointer(std::ptr::from_ref(value).addr() / PAGE * PAGE)?;
    // SAFETY: the page may be read and written as before.
    unsafe { mprotect(page, PAGE, RW | ProtFlags::PROT_EXEC) }?;
    // SAFETY: as above.
    unsafe { mprotect(page, PAGE, RW) }?;
    Ok(())
}

/// Asks for a huge page around a value; returns whether there is one now.
pub(crate) fn collapse<T>(value: &T) -> bool {
    let start = std::ptr::from_ref(value).addr() / HUGE * HUGE;
    let Ok(start) = pointer(start) else {
        return false;
    };
    // SAFETY: collapsing changes where bytes are kept, not which.
    unsafe { libc::madvise(start.as_ptr(), HUGE, libc::MADV_COLLAPSE) == 0 }
}

/// Gives the pages inside of a slice back to the kernel; they read as zeros afterwards.
pub(crate) fn discard(words: &mut [u64]) -> Outcome<()> {
    let pages = whole_pages(words);
    // SAFETY: the borrow is exclusive, and zeros are valid words.
    unsafe {
        madvise(
            pointer(pages.start)?,
            pages.len(),
            MmapAdvise::MADV_DONTNEED,
        )
    }?;
    Ok(())
}

/// Runs `child` in a forked process; it says whether it was content. It must not allocate.
pub(crate) fn in_child(child: impl FnOnce() -> bool) -> Outcome<bool> {
    // SAFETY: the child only reads memory and sleeps, then ends without destructors.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(waitpid(child, None)? == WaitStatus::Exited(child, 0)),
        ForkResult::Child => {
            let status = i32::from(!child());
            // SAFETY: ends the process.
            unsafe { libc::_exit(status) }
        }
    }
}

/// A line of /proc/self/status.
pub(crate) fn status(name: &str) -> Outcome<String> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    Ok(line.unwrap_or(" unknown").trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moved_page_has_the_same_contents() {
        let words: Vec<u64> = (0..2048).collect();
        for page in whole_pages(&words).step_by(PAGE) {
            move_page(&words, page).expect("memory for a page");
        }
        assert!(words.iter().copied().eq(0..2048));
    }

    #[test]
    fn a_page_outside_of_the_slice_is_not_moved() {
        let words = vec![0_u64; 2048];
        assert!(move_page(&words, whole_pages(&words).end).is_err());
        assert!(move_page(&words, whole_pages(&words).start + 8).is_err());
    }

    #[test]
    fn discarded_pages_read_as_zeros() {
        let mut words = vec![1_u64; 2048];
        discard(&mut words).expect("the pages are ours");
        assert!(words.contains(&0));
    }

    #[test]
    fn a_child_tells_whether_it_was_content() {
        assert!(in_child(|| true).expect("room for a process"));
        assert!(!in_child(|| false).expect("room for a process"));
    }
}
