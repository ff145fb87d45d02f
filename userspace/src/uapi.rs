// SPDX-License-Identifier: MIT OR Apache-2.0
//! `uapi/mirage_drm.h` in Rust: the structures, numbers and constants of the driver's own ioctls.
//!
//! A program uses the rest of the crate instead. This module is public for tests that talk to the driver directly. Its
//! layout is checked against the C header by `tests/uapi_layout.rs`.

use bytemuck::{Pod, Zeroable};

/// Type byte of all DRM ioctls.
pub const DRM_IOCTL_BASE: u8 = b'd';
/// First number that belongs to the driver.
pub const DRM_COMMAND_BASE: u8 = 0x40;

/// Ioctl numbers relative to [`DRM_COMMAND_BASE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum IoctlId {
    /// Query a parameter of the device.
    Getparam = 0,
    /// Mirror the address space of the caller.
    SvmInit,
    /// Make a channel.
    ChannelAlloc,
    /// Stop and free a channel.
    ChannelFree,
    /// Run a push buffer on a channel.
    Exec,
    /// Take the oldest fault report of the file.
    FaultReport,
}

impl IoctlId {
    /// The `nr` field of the request code.
    pub const fn nr(self) -> u8 {
        DRM_COMMAND_BASE + self as u8
    }
}

/// Parameters of GETPARAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Param {
    /// NV_PMC_BOOT_0 of the device.
    Chipset = 0,
    /// Bytes of device memory.
    VramSize,
    /// Class to bind to subchannel 1.
    ComputeClass,
    /// Channels of the device, over all files.
    ChannelsMax,
    /// Alignment, in bytes, of address and size in SVM_INIT.
    UnmanagedAlign,
    /// Smallest unmanaged size, in bytes.
    UnmanagedMin,
    /// Most bytes of one push buffer.
    PushMax,
}

/// `struct drm_mirage_getparam`
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Getparam {
    /// One of [`Param`].
    pub param: u64,
    /// Out: its value.
    pub value: u64,
}

/// `struct drm_mirage_svm_init`
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct SvmInit {
    /// First address of the range left to the driver.
    pub unmanaged_addr: u64,
    /// Its size in bytes.
    pub unmanaged_size: u64,
    /// Must be 0.
    pub flags: u32,
    /// Must be 0.
    pub pad: u32,
}

/// `struct drm_mirage_channel_alloc`
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct ChannelAlloc {
    /// Must be 0.
    pub flags: u32,
    /// Out: handle, valid in this file.
    pub channel: u32,
}

/// `struct drm_mirage_channel_free`
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct ChannelFree {
    /// Handle from CHANNEL_ALLOC.
    pub channel: u32,
    /// Must be 0.
    pub pad: u32,
}

/// `struct drm_mirage_exec`
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Exec {
    /// User address of the push buffer.
    pub push_ptr: u64,
    /// Its size in bytes.
    pub push_size: u32,
    /// Handle from CHANNEL_ALLOC.
    pub channel: u32,
    /// Syncobj handle that gets the fence, or 0.
    pub out_sync: u32,
    /// Must be 0.
    pub flags: u32,
}

/// `struct drm_mirage_fault_report`
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct FaultReport {
    /// Out: GPU address of the access, 4 KiB aligned.
    pub addr: u64,
    /// Out: CLOCK_MONOTONIC nanoseconds.
    pub timestamp: u64,
    /// Out: handle of the channel that was stopped.
    pub channel: u32,
    /// Out: `enum drm_mirage_access`.
    pub access: u32,
    /// Out: `enum drm_mirage_reason`.
    pub reason: u32,
    /// Out: reports dropped since the last one taken.
    pub dropped: u32,
}

/// `struct sync_file_info` of `linux/sync_file.h`, asked without the list of fences.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct SyncFileInfo {
    pub(crate) name: [u8; 32],
    pub(crate) status: i32,
    pub(crate) flags: u32,
    pub(crate) num_fences: u32,
    pub(crate) pad: u32,
    pub(crate) sync_fence_info: u64,
}
