// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory that tests share with the GPU, and the system calls that they torture it with.
//!
//! A [`Region`] never hands out a reference: everything goes through loads and stores of words, which may race with the
//! GPU as they may with another thread.
#![allow(unsafe_code)]

mod calls;
mod heap;

use std::fs::File;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use mirage::{GpuPtr, Strided};
use nix::errno::Errno;
use nix::libc::{self, c_void};
use nix::sys::mman::{
    madvise, mlock, mmap, mmap_anonymous, mprotect, mremap, munmap, MRemapFlags, MapFlags,
    MmapAdvise, ProtFlags,
};

pub(crate) use calls::{Advice, OldPlace};
pub(crate) use heap::Heap;

/// Bytes of a page.
pub(crate) const PAGE: usize = 4096;
/// Bytes of a huge page.
pub(crate) const HUGE: usize = 2 << 20;
/// Bytes, and alignment, of what one interval notifier of the driver is for (driver/mirror.rs).
pub(crate) const NEIGHBOURHOOD: usize = 32 << 20;
/// Bytes of a word.
pub(crate) const WORD: usize = 8;

/// Reading and writing.
pub(crate) const RW: ProtFlags = ProtFlags::PROT_READ.union(ProtFlags::PROT_WRITE);

/// A mapping of whole pages.
///
/// # Invariants
/// `[addr, addr + len)` was mapped by this value. What was unmapped or moved away since is in `holes` and is not touched again.
#[derive(Debug)]
pub(crate) struct Region {
    addr: NonNull<c_void>,
    len: usize,
    holes: Vec<Range<usize>>,
}

// SAFETY: a mapping belongs to the process, not to a thread.
unsafe impl Send for Region {}
// SAFETY: shared access is by atomic words only.
unsafe impl Sync for Region {}

impl Region {
    /// Private anonymous memory, not touched yet.
    pub(crate) fn anonymous(len: usize) -> Result<Self> {
        Self::map(len, MapFlags::MAP_PRIVATE)
    }

    /// Shared anonymous memory, which forked children see too.
    pub(crate) fn shared(len: usize) -> Result<Self> {
        Self::map(len, MapFlags::MAP_SHARED)
    }

    /// Anonymous memory with flags of the caller's.
    pub(crate) fn map(len: usize, flags: MapFlags) -> Result<Self> {
        let size = NonZeroUsize::new(len).context("an empty mapping")?;
        // SAFETY: without MAP_FIXED the kernel picks a place that is free.
        let addr = unsafe { mmap_anonymous(None, size, RW, flags) }.context("mmap")?;
        Ok(Region {
            addr,
            len,
            holes: Vec::new(),
        })
    }

    /// Private anonymous memory that starts at a multiple of the huge page size.
    pub(crate) fn huge_aligned(len: usize) -> Result<Self> {
        let mut region = Self::anonymous(len + HUGE)?;
        let before =
            region.addr.as_ptr().addr().next_multiple_of(HUGE) - region.addr.as_ptr().addr();
        region.unmap(0..before)?;
        region.unmap(before + len..len + HUGE)?;
        // SAFETY: `before` is at most HUGE, inside the mapping that was made above.
        let addr = unsafe { region.addr.byte_add(before) };
        std::mem::forget(region);
        Ok(Region {
            addr,
            len,
            holes: Vec::new(),
        })
    }

    /// `len` bytes of a file from its start.
    pub(crate) fn file(file: &File, len: usize, prot: ProtFlags, flags: MapFlags) -> Result<Self> {
        Self::file_at(file, 0..len as i64, prot, flags)
    }

    /// Part of a file.
    pub(crate) fn file_at(
        file: &File,
        part: Range<i64>,
        prot: ProtFlags,
        flags: MapFlags,
    ) -> Result<Self> {
        let len = usize::try_from(part.end - part.start)?;
        let size = NonZeroUsize::new(len).context("an empty mapping")?;
        // SAFETY: without MAP_FIXED the kernel picks a place that is free.
        let addr = unsafe { mmap(None, size, prot, flags, file, part.start) };
        let addr = addr.context("mmap of a file")?;
        Ok(Region {
            addr,
            len,
            holes: Vec::new(),
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn pages(&self) -> usize {
        self.len / PAGE
    }

    /// The address of `offset`, for the GPU.
    pub(crate) fn at(&self, offset: usize) -> GpuPtr {
        GpuPtr::from(self.addr.as_ptr()).offset(offset as u64)
    }

    /// Lanes that start at `offset`, `stride` bytes apart.
    pub(crate) fn lanes(&self, offset: usize, stride: usize) -> Strided {
        self.at(offset).stride(stride as u32)
    }

    /// The address of `offset`, for results of type `T`.
    pub(crate) fn results<T>(&self, offset: usize) -> *mut T {
        self.addr.as_ptr().cast::<u8>().wrapping_add(offset).cast()
    }

    /// The word at `offset`. The process dies by a signal if the page may not be touched.
    fn word(&self, offset: usize) -> &AtomicU64 {
        assert!(
            offset % WORD == 0 && offset < self.len,
            "no word at {offset:#x}"
        );
        assert!(
            !self.holes.iter().any(|hole| hole.contains(&offset)),
            "{offset:#x} was unmapped"
        );
        let word = self.results::<u64>(offset);
        // SAFETY: aligned, inside the mapping and not in a hole by the checks above; all accesses are atomic, the GPU's too.
        unsafe { AtomicU64::from_ptr(word) }
    }

    pub(crate) fn load(&self, offset: usize) -> u64 {
        self.word(offset).load(Ordering::Acquire)
    }

    pub(crate) fn store(&self, offset: usize, value: u64) {
        self.word(offset).store(value, Ordering::Release);
    }

    /// Writes `value` to every word of a range.
    pub(crate) fn fill(&self, range: Range<usize>, value: u64) {
        range
            .step_by(WORD)
            .for_each(|offset| self.store(offset, value));
    }

    /// All words of a range.
    pub(crate) fn words(&self, range: Range<usize>) -> Vec<u64> {
        range
            .step_by(WORD)
            .map(|offset| self.load(offset))
            .collect()
    }

    /// The first word of each page.
    pub(crate) fn page_words(&self) -> Vec<u64> {
        (0..self.pages())
            .map(|page| self.load(page * PAGE))
            .collect()
    }

    pub(crate) fn unmap(&mut self, range: Range<usize>) -> Result<()> {
        let Some((start, len)) = self.part(&range)? else {
            return Ok(());
        };
        self.holes.push(range);
        // SAFETY: the range is ours, nothing borrows from it, and `holes` keeps us from touching it again.
        unsafe { munmap(start, len) }.context("munmap")
    }

    pub(crate) fn protect(&self, range: Range<usize>, prot: ProtFlags) -> Result<()> {
        let Some((start, len)) = self.part(&range)? else {
            return Ok(());
        };
        // SAFETY: the range is ours; an access that is no longer allowed ends in a signal.
        unsafe { mprotect(start, len, prot) }.context("mprotect")
    }

    pub(crate) fn advise(&self, range: Range<usize>, advice: MmapAdvise) -> Result<()> {
        let Some((start, len)) = self.part(&range)? else {
            return Ok(());
        };
        // SAFETY: the range is ours, and words of any value are valid words.
        unsafe { madvise(start, len, advice) }.with_context(|| format!("madvise({advice:?})"))
    }

    /// How many pages are there.
    pub(crate) fn resident(&self) -> Result<usize> {
        let mut pages = vec![0_u8; self.pages()];
        // SAFETY: the kernel writes one byte for each page of the region, and `pages` has as many.
        Errno::result(unsafe { libc::mincore(self.addr.as_ptr(), self.len, pages.as_mut_ptr()) })
            .context("mincore")?;
        Ok(pages.iter().filter(|&&page| page & 1 != 0).count())
    }

    pub(crate) fn lock(&self) -> Result<()> {
        // SAFETY: the range is ours; locking changes no contents.
        unsafe { mlock(self.addr, self.len) }.context("mlock")
    }

    /// Moves a range to a new place, away from this region.
    pub(crate) fn move_away(&mut self, range: Range<usize>) -> Result<Region> {
        let Some((start, len)) = self.part(&range)? else {
            anyhow::bail!("nothing to move")
        };
        let target = Region::anonymous(len)?;
        let flags = MRemapFlags::MREMAP_MAYMOVE | MRemapFlags::MREMAP_FIXED;
        // SAFETY: both ranges are ours, of equal length, and nothing borrows from them; `holes` keeps us from the old one.
        unsafe { mremap(start, len, len, flags, Some(target.addr)) }.context("mremap")?;
        self.holes.push(range);
        Ok(target)
    }

    /// Moves all of `other` over a range of this region, replacing what is there.
    pub(crate) fn replace(&mut self, offset: usize, other: Region) -> Result<()> {
        let range = offset..offset + other.len;
        let Some((start, len)) = self.part(&range)? else {
            return Ok(());
        };
        let flags = MRemapFlags::MREMAP_MAYMOVE | MRemapFlags::MREMAP_FIXED;
        // SAFETY: both ranges are ours and of equal length; `other` is forgotten, so the old place is not touched again.
        unsafe { mremap(other.addr, len, len, flags, Some(start)) }.context("mremap")?;
        std::mem::forget(other);
        self.holes.retain(|hole| *hole != range);
        Ok(())
    }

    /// Maps fresh private anonymous memory over a range of this region, replacing what is there.
    pub(crate) fn map_over(&mut self, range: Range<usize>) -> Result<()> {
        self.replace(range.start, Region::anonymous(range.len())?)
    }

    /// Puts the pages of a range themselves, not a copy, into a pipe. They outlive their mapping there.
    pub(crate) fn put_into_pipe(&self, range: Range<usize>, pipe: BorrowedFd<'_>) -> Result<()> {
        let Some((start, len)) = self.part(&range)? else {
            return Ok(());
        };
        let part = libc::iovec {
            iov_base: start.as_ptr(),
            iov_len: len,
        };
        // SAFETY: the range is ours, and the kernel takes references to its pages without reading them.
        let taken = Errno::result(unsafe { libc::vmsplice(pipe.as_raw_fd(), &part, 1, 0) })
            .context("vmsplice")?;
        anyhow::ensure!(
            taken as usize == len,
            "the pipe took {taken} of {len} bytes"
        );
        Ok(())
    }

    /// Address and length of a range of whole pages; nothing if it is empty.
    fn part(&self, range: &Range<usize>) -> Result<Option<(NonNull<c_void>, usize)>> {
        let pages = range.start % PAGE == 0 && range.end % PAGE == 0;
        anyhow::ensure!(
            pages && range.end <= self.len,
            "{range:x?} is not a range of pages of the region"
        );
        // SAFETY: the start of the range lies inside the mapping, by the check above.
        let start = unsafe { self.addr.byte_add(range.start) };
        Ok((!range.is_empty()).then_some((start, range.len())))
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // Something else may live in the holes by now; the end of the process takes care of the rest.
        if self.holes.is_empty() {
            // SAFETY: the whole mapping is ours, and nothing borrows from it.
            let _ = unsafe { munmap(self.addr, self.len) };
        }
    }
}
