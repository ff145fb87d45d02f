// SPDX-License-Identifier: MIT OR Apache-2.0
//! The ioctls of the driver, and the reservation of address space: the unsafe lines of the crate.
#![allow(unsafe_code)]

use std::num::NonZeroUsize;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;

use nix::errno::Errno;
use nix::libc::c_void;
use nix::sys::mman::{mmap_anonymous, munmap, MapFlags, ProtFlags};

use crate::uapi::{
    ChannelAlloc, ChannelFree, ChannelQuery, ChannelReset, Exec, Getparam, IoctlId, Page, Push,
    SvmBind, SvmInit, SvmQuery, SyncFileInfo, SyncPoint, DRM_IOCTL_BASE,
};

/// Defines `raw::NAME`, made by nix and unsafe because a request code and its argument must fit, and `NAME`, where they do.
macro_rules! ioctls {
    ($($(#[$doc:meta])* $visibility:vis fn $name:ident($how:ident, $id:ident, $($kind:tt)+);)*) => {
        mod raw {
            use super::*;
            $(nix::$how!($name, DRM_IOCTL_BASE, IoctlId::$id.nr(), $id);)*
        }
        $(
            $(#[$doc])*
            $visibility fn $name(fd: BorrowedFd<'_>, args: $($kind)+ $id) -> nix::Result<()> {
                // SAFETY: the request code was made from the type of `args`, which outlives the call and points to nothing.
                unsafe { raw::$name(fd.as_raw_fd(), args) }.map(drop)
            }
        )*
    };
}

ioctls! {
    /// GETPARAM
    pub(crate) fn getparam(ioctl_readwrite, Getparam, &mut);
    /// SVM_BIND
    pub(crate) fn svm_bind(ioctl_readwrite, SvmBind, &mut);
    /// CHANNEL_ALLOC
    pub(crate) fn channel_alloc(ioctl_readwrite, ChannelAlloc, &mut);
    /// CHANNEL_FREE
    pub(crate) fn channel_free(ioctl_write_ptr, ChannelFree, &);
    /// CHANNEL_QUERY
    pub(crate) fn channel_query(ioctl_readwrite, ChannelQuery, &mut);
    /// CHANNEL_RESET
    pub(crate) fn channel_reset(ioctl_write_ptr, ChannelReset, &);
}

/// The ioctls whose arguments point to memory, or give memory away.
mod pointing {
    use super::*;
    nix::ioctl_write_ptr!(svm_init, DRM_IOCTL_BASE, IoctlId::SvmInit.nr(), SvmInit);
    nix::ioctl_write_ptr!(svm_query, DRM_IOCTL_BASE, IoctlId::SvmQuery.nr(), SvmQuery);
    nix::ioctl_write_ptr!(exec, DRM_IOCTL_BASE, IoctlId::Exec.nr(), Exec);
    nix::ioctl_readwrite!(sync_file_info, b'>', 4, SyncFileInfo);
}

/// SVM_INIT: the driver takes the range of `hole`, for the life of the file.
///
/// # Safety
/// `hole` must live until the file is closed.
pub(crate) unsafe fn svm_init(fd: BorrowedFd<'_>, hole: &Hole) -> nix::Result<()> {
    let args = SvmInit {
        unmanaged_addr: hole.addr(),
        unmanaged_size: hole.size(),
        flags: 0,
        pad: 0,
    };
    // SAFETY: the request code was made from the type of `args`; nothing else uses the range, by the invariant of `Hole`.
    unsafe { pointing::svm_init(fd.as_raw_fd(), &args) }.map(drop)
}

/// SVM_QUERY of the pages from `va` on, one for each element of `pages`.
pub(crate) fn svm_query(fd: BorrowedFd<'_>, va: u64, pages: &mut [Page]) -> nix::Result<()> {
    let args = SvmQuery {
        va,
        size: crate::range::PAGE_SIZE * pages.len() as u64,
        pages_ptr: pages.as_mut_ptr().expose_provenance() as u64,
        flags: 0,
        page_size: size_of::<Page>() as u32,
    };
    // SAFETY: the request code was made from the type of `args`; the driver writes `size / 4096` elements of `page_size` bytes, which is
    // what `pages` has, and any bytes are a valid `Page`.
    unsafe { pointing::svm_query(fd.as_raw_fd(), &args) }.map(drop)
}

/// What EXEC takes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Work<'a> {
    pub(crate) pushes: &'a [&'a [u32]],
    pub(crate) waits: &'a [SyncPoint],
    pub(crate) signals: &'a [SyncPoint],
}

/// EXEC on `channel`. The driver copies everything before it returns.
pub(crate) fn exec(fd: BorrowedFd<'_>, channel: u32, work: &Work<'_>) -> nix::Result<()> {
    let count = |length: usize| u32::try_from(length).map_err(|_| Errno::EINVAL);
    let push = |words: &&[u32]| {
        Ok(Push {
            va: words.as_ptr().expose_provenance() as u64,
            size: count(size_of_val(*words))?,
            flags: 0,
        })
    };
    let pushes = work
        .pushes
        .iter()
        .map(push)
        .collect::<nix::Result<Vec<_>>>()?;
    let args = Exec {
        channel,
        push_count: count(pushes.len())?,
        wait_count: count(work.waits.len())?,
        sig_count: count(work.signals.len())?,
        push_ptr: pushes.as_ptr().expose_provenance() as u64,
        wait_ptr: work.waits.as_ptr().expose_provenance() as u64,
        sig_ptr: work.signals.as_ptr().expose_provenance() as u64,
        flags: 0,
        pad: 0,
    };
    // SAFETY: the request code was made from the type of `args`; all arrays are borrowed for the call and only read. What the methods in the
    // push buffers may do to memory is the promise of whoever called `Gpu::svm`.
    unsafe { pointing::exec(fd.as_raw_fd(), &args) }.map(drop)
}

/// Status of a sync file: 1 signalled, 0 active, negative errno when its fence signalled with an error.
pub(crate) fn sync_file_status(fd: BorrowedFd<'_>) -> nix::Result<i32> {
    let mut info = SyncFileInfo::default();
    // SAFETY: the request code was made from the type of `info`; with `num_fences` 0 no other pointer is followed.
    unsafe { pointing::sync_file_info(fd.as_raw_fd(), &mut info) }?;
    Ok(info.status)
}

/// A piece of address space that nothing can be read from or written to: what SVM_INIT hands to the driver.
///
/// # Invariants
/// `addr` is the start of a PROT_NONE mapping of `size` bytes that this value owns.
#[derive(Debug)]
pub(crate) struct Hole {
    addr: NonNull<c_void>,
    size: NonZeroUsize,
}

// SAFETY: the mapping belongs to the process, not to a thread, and is never read or written.
unsafe impl Send for Hole {}
// SAFETY: no method changes it.
unsafe impl Sync for Hole {}

impl Hole {
    /// Reserves exactly `[addr, addr + size)`; EEXIST if something is mapped there.
    pub(crate) fn reserve(addr: NonZeroUsize, size: NonZeroUsize) -> nix::Result<Self> {
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE | MapFlags::MAP_FIXED_NOREPLACE;
        // SAFETY: MAP_FIXED_NOREPLACE never replaces a mapping that exists.
        let got = unsafe { mmap_anonymous(Some(addr), size, ProtFlags::PROT_NONE, flags) }?;
        let hole = Hole { addr: got, size };
        // A kernel that does not know the flag takes the address as a hint.
        if hole.addr() != addr.get() as u64 {
            return Err(Errno::EEXIST);
        }
        Ok(hole)
    }

    pub(crate) fn addr(&self) -> u64 {
        self.addr.as_ptr().addr() as u64
    }

    pub(crate) fn size(&self) -> u64 {
        self.size.get() as u64
    }
}

impl Drop for Hole {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours by the type's invariant, and no Rust reference points into it.
        let _ = unsafe { munmap(self.addr, self.size.get()) };
    }
}
