// SPDX-License-Identifier: MIT OR Apache-2.0
//! The unsafe lines of the crate: ioctls and the reservation of address space.
#![allow(unsafe_code)]

use std::num::NonZeroUsize;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;

use nix::errno::Errno;
use nix::libc::c_void;
use nix::sys::mman::{mmap_anonymous, munmap, MapFlags, ProtFlags};

use crate::uapi::{
    ChannelAlloc, ChannelFree, Exec, FaultReport, Getparam, IoctlId, Push, SvmInit, SyncFileInfo,
    SyncPoint, DRM_IOCTL_BASE, SYNC_SYNCOBJ,
};

/// The generated functions, unsafe because a request code and its argument must fit.
mod raw {
    use super::*;
    nix::ioctl_readwrite!(getparam, DRM_IOCTL_BASE, IoctlId::Getparam.nr(), Getparam);
    nix::ioctl_write_ptr!(svm_init, DRM_IOCTL_BASE, IoctlId::SvmInit.nr(), SvmInit);
    nix::ioctl_readwrite!(
        channel_alloc,
        DRM_IOCTL_BASE,
        IoctlId::ChannelAlloc.nr(),
        ChannelAlloc
    );
    nix::ioctl_write_ptr!(
        channel_free,
        DRM_IOCTL_BASE,
        IoctlId::ChannelFree.nr(),
        ChannelFree
    );
    nix::ioctl_write_ptr!(exec, DRM_IOCTL_BASE, IoctlId::Exec.nr(), Exec);
    nix::ioctl_readwrite!(
        fault_report,
        DRM_IOCTL_BASE,
        IoctlId::FaultReport.nr(),
        FaultReport
    );
    nix::ioctl_readwrite!(sync_file_info, b'>', 4, SyncFileInfo);
}

/// GETPARAM
pub(crate) fn getparam(fd: BorrowedFd<'_>, args: &mut Getparam) -> nix::Result<()> {
    // SAFETY: the request code was made from the type of `args`, which outlives the call.
    unsafe { raw::getparam(fd.as_raw_fd(), args) }.map(drop)
}

/// SVM_INIT
///
/// # Safety
/// The range must be one that nothing else in the process uses, for as long as the file is open.
pub(crate) unsafe fn svm_init(fd: BorrowedFd<'_>, args: &SvmInit) -> nix::Result<()> {
    // SAFETY: the request code was made from the type of `args`; the caller vouches for the range.
    unsafe { raw::svm_init(fd.as_raw_fd(), args) }.map(drop)
}

/// CHANNEL_ALLOC
pub(crate) fn channel_alloc(fd: BorrowedFd<'_>, args: &mut ChannelAlloc) -> nix::Result<()> {
    // SAFETY: the request code was made from the type of `args`, which outlives the call.
    unsafe { raw::channel_alloc(fd.as_raw_fd(), args) }.map(drop)
}

/// CHANNEL_FREE
pub(crate) fn channel_free(fd: BorrowedFd<'_>, args: &ChannelFree) -> nix::Result<()> {
    // SAFETY: the request code was made from the type of `args`, which outlives the call.
    unsafe { raw::channel_free(fd.as_raw_fd(), args) }.map(drop)
}

/// EXEC of `push`; the driver copies it before it returns. The binary syncobj `signal` gets the fence.
pub(crate) fn exec(fd: BorrowedFd<'_>, push: &[u32], channel: u32, signal: u32) -> nix::Result<()> {
    let bytes: &[u8] = bytemuck::cast_slice(push);
    let pushes = [Push {
        va: bytes.as_ptr().expose_provenance() as u64,
        size: u32::try_from(bytes.len()).map_err(|_| Errno::EINVAL)?,
        flags: 0,
    }];
    let signals = [SyncPoint {
        kind: SYNC_SYNCOBJ,
        handle: signal,
        point: 0,
    }];
    let args = Exec {
        channel,
        push_count: 1,
        sig_count: 1,
        push_ptr: pushes.as_ptr().expose_provenance() as u64,
        sig_ptr: signals.as_ptr().expose_provenance() as u64,
        ..Exec::default()
    };
    // SAFETY: the request code was made from the type of `args`; the arrays and `push` are borrowed for the call. What the
    // methods in it may do to memory is the promise of whoever called `Gpu::svm`.
    unsafe { raw::exec(fd.as_raw_fd(), &args) }.map(drop)
}

/// FAULT_REPORT
pub(crate) fn fault_report(fd: BorrowedFd<'_>, args: &mut FaultReport) -> nix::Result<()> {
    // SAFETY: the request code was made from the type of `args`, which outlives the call.
    unsafe { raw::fault_report(fd.as_raw_fd(), args) }.map(drop)
}

/// Status of a sync file: 1 signalled, 0 active, negative errno when its fence signalled with an error.
pub(crate) fn sync_file_status(fd: BorrowedFd<'_>) -> nix::Result<i32> {
    let mut info = SyncFileInfo::default();
    // SAFETY: the request code was made from the type of `info`; with `num_fences` 0 no other pointer is followed.
    unsafe { raw::sync_file_info(fd.as_raw_fd(), &mut info) }?;
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
