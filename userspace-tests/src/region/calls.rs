// SPDX-License-Identifier: MIT OR Apache-2.0
//! System calls on regions that only few tests need.

use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::NonNull;

use anyhow::{ensure, Context, Result};
use nix::errno::Errno;
use nix::libc::{self, c_int, c_void};
use nix::sys::mman::{mmap_anonymous, mremap, MRemapFlags, MapFlags, MmapAdvise, ProtFlags};

use super::{Region, PAGE, RW};

/// Pages that are there move, if nobody else maps them.
const MPOL_MF_MOVE: c_int = 2;

/// Advice that the nix crate does not know.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Advice {
    Cold,
    Collapse,
    HwPoison,
    SoftOffline,
    GuardInstall,
    GuardRemove,
}

impl Advice {
    fn number(self) -> c_int {
        match self {
            Advice::Cold => libc::MADV_COLD,
            Advice::Collapse => 25,
            Advice::HwPoison => libc::MADV_HWPOISON,
            Advice::SoftOffline => libc::MADV_SOFT_OFFLINE,
            Advice::GuardInstall => 102,
            Advice::GuardRemove => 103,
        }
    }
}

/// Whether mremap keeps the old place mapped, empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OldPlace {
    Unmap,
    Keep,
}

impl Region {
    /// As [`Region::advise`], and with what it does not know. An error is the kernel's, to be looked at.
    pub(crate) fn ask(&self, range: Range<usize>, advice: Advice) -> nix::Result<()> {
        let Ok(Some((start, len))) = self.part(&range) else {
            return Err(Errno::EINVAL);
        };
        // SAFETY: the range is ours. A page that is gone after this ends whoever touches it in a signal.
        Errno::result(unsafe { libc::madvise(start.as_ptr(), len, advice.number()) }).map(drop)
    }

    /// Moves a range to another place, which is a multiple of the huge page size if `huge`; the old one is unmapped or left empty.
    pub(crate) fn relocate(
        &mut self,
        range: Range<usize>,
        old: OldPlace,
        huge: bool,
    ) -> Result<Region> {
        let Some((start, len)) = self.part(&range)? else {
            anyhow::bail!("nothing to move")
        };
        let target = if huge {
            Region::huge_aligned(len)?
        } else {
            Region::anonymous(len)?
        };
        let mut flags = MRemapFlags::MREMAP_MAYMOVE | MRemapFlags::MREMAP_FIXED;
        if old == OldPlace::Keep {
            flags |= MRemapFlags::MREMAP_DONTUNMAP;
        }
        // SAFETY: both ranges are ours, of equal length, and nothing borrows from them.
        unsafe { mremap(start, len, len, flags, Some(target.addr)) }.context("mremap")?;
        if old == OldPlace::Unmap {
            self.holes.push(range);
        }
        Ok(target)
    }

    /// Maps new private memory where a range was unmapped.
    pub(crate) fn fill_hole(&mut self, range: Range<usize>) -> Result<()> {
        let Some((start, len)) = self.part(&range)? else {
            return Ok(());
        };
        let size = std::num::NonZeroUsize::new(len).context("an empty range")?;
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_FIXED_NOREPLACE;
        // SAFETY: MAP_FIXED_NOREPLACE replaces nothing.
        unsafe { mmap_anonymous(Some(start.addr()), size, RW, flags) }.context("mmap")?;
        self.holes.retain(|hole| *hole != range);
        Ok(())
    }

    /// A mapping that grows towards lower addresses, as a stack does: the last page of the region is there, the rest is room.
    pub(crate) fn growing_down(len: usize) -> Result<Self> {
        let mut room = Region::anonymous(len)?;
        room.unmap(0..len)?;
        // SAFETY: `len - PAGE` lies inside the mapping that was made above.
        let last = unsafe { room.addr.byte_add(len - PAGE) };
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_GROWSDOWN | MapFlags::MAP_FIXED_NOREPLACE;
        let (at, size) = (
            last.addr(),
            std::num::NonZeroUsize::new(PAGE).context("a page")?,
        );
        // SAFETY: MAP_FIXED_NOREPLACE replaces nothing.
        unsafe { mmap_anonymous(Some(at), size, RW, flags) }.context("mmap that grows down")?;
        // INVARIANT: the rest of the range was unmapped just now, and is mapped again when something is stored there.
        room.holes.clear();
        Ok(room)
    }

    /// Maps a System V segment of the region's length over it. The segment goes with its last mapping.
    pub(crate) fn attach_segment(&self) -> Result<()> {
        // SAFETY: makes a segment and touches no memory.
        let id = Errno::result(unsafe { libc::shmget(libc::IPC_PRIVATE, self.len, 0o600) })
            .context("shmget")?;
        // SAFETY: the place is ours, SHM_REMAP replaces what is there, and any words are valid words.
        let at = unsafe { libc::shmat(id, self.addr.as_ptr(), libc::SHM_REMAP) };
        // SAFETY: only marks the segment, which lives on while it is mapped.
        unsafe { libc::shmctl(id, libc::IPC_RMID, std::ptr::null_mut()) };
        ensure!(at == self.addr.as_ptr(), "shmat: {}", Errno::last());
        Ok(())
    }

    /// mseal(2): the mapping can not be changed any more.
    pub(crate) fn seal(&self) -> nix::Result<()> {
        const SYS_MSEAL: libc::c_long = 462;
        // SAFETY: changes no contents, and takes rights to change the mapping away.
        Errno::result(unsafe { libc::syscall(SYS_MSEAL, self.addr.as_ptr(), self.len, 0) })
            .map(drop)
    }

    /// munlock(2)
    pub(crate) fn unlock(&self) -> Result<()> {
        // SAFETY: the range is ours; unlocking changes no contents.
        unsafe { nix::sys::mman::munlock(self.addr, self.len) }.context("munlock")
    }

    /// pread(2) into the region.
    pub(crate) fn read_from(&self, file: impl AsFd, range: Range<usize>, at: usize) -> Result<()> {
        let Some((start, len)) = self.part(&range)? else {
            return Ok(());
        };
        // SAFETY: the range is ours, and any words are valid words.
        let got = unsafe { libc::pread(file.as_fd().as_raw_fd(), start.as_ptr(), len, at as i64) };
        ensure!(
            Errno::result(got).context("pread")? as usize == len,
            "pread gave {got} of {len} bytes"
        );
        Ok(())
    }

    /// pwrite(2) from the region.
    pub(crate) fn write_to(&self, file: impl AsFd, range: Range<usize>, at: usize) -> Result<()> {
        let Some((start, len)) = self.part(&range)? else {
            return Ok(());
        };
        // SAFETY: the range is ours, and the kernel only reads it.
        let put = unsafe { libc::pwrite(file.as_fd().as_raw_fd(), start.as_ptr(), len, at as i64) };
        ensure!(
            Errno::result(put).context("pwrite")? as usize == len,
            "pwrite took {put} of {len} bytes"
        );
        Ok(())
    }

    /// Asks for every page to be moved to a node; returns the nodes that they are on, or errors as negative numbers.
    pub(crate) fn move_to_node(&self, node: c_int) -> Result<Vec<c_int>> {
        let pages: Vec<*mut c_void> = (0..self.pages())
            .map(|page| self.results(page * PAGE))
            .collect();
        let (nodes, mut status) = (vec![node; pages.len()], vec![0; pages.len()]);
        // SAFETY: three arrays of as many entries as the count says; moving changes no contents.
        let moved = unsafe {
            libc::syscall(
                libc::SYS_move_pages,
                0,
                pages.len(),
                pages.as_ptr(),
                nodes.as_ptr(),
                status.as_mut_ptr(),
                MPOL_MF_MOVE,
            )
        };
        Errno::result(moved).context("move_pages")?;
        Ok(status)
    }

    /// mbind(2): this node and no other, and what is there moves.
    pub(crate) fn bind_to_node(&self, node: u32) -> Result<()> {
        let mask: libc::c_ulong = 1 << node;
        let (mode, bits) = (libc::MPOL_BIND, libc::c_ulong::from(libc::c_ulong::BITS));
        // SAFETY: the range is ours and the mask has as many bits as said; moving changes no contents.
        let bound = unsafe {
            libc::syscall(
                libc::SYS_mbind,
                self.addr.as_ptr(),
                self.len,
                mode,
                &raw const mask,
                bits,
                MPOL_MF_MOVE,
            )
        };
        Errno::result(bound).context("mbind").map(drop)
    }

    /// Has the kernel make a huge page of each huge piece of the region, and says whether it did.
    pub(crate) fn collapse_all(&self) -> bool {
        self.ask(0..self.len, Advice::Collapse).is_ok()
    }

    /// Asks for no huge pages here. Without huge pages in the kernel there is nothing to switch off.
    pub(crate) fn no_huge_pages(&self) {
        let _ = self.advise(0..self.len, MmapAdvise::MADV_NOHUGEPAGE);
    }

    /// Splits the kernel's mapping of huge pages into small ones: one page has another protection for a moment, with no right less.
    pub(crate) fn split_mapping(&self, at: usize) -> Result<()> {
        self.protect(at..at + PAGE, RW | ProtFlags::PROT_EXEC)?;
        self.protect(at..at + PAGE, RW)
    }

    /// Address as a pointer, for calls that take one.
    pub(crate) fn start(&self) -> NonNull<c_void> {
        self.addr
    }
}
