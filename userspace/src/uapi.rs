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
    /// Act on a range of the mirror ahead of use.
    SvmBind,
    /// What GPU and CPU map, page by page.
    SvmQuery,
    /// Make a channel.
    ChannelAlloc,
    /// Stop and free a channel.
    ChannelFree,
    /// State of a channel, and why it was stopped.
    ChannelQuery,
    /// Make a stopped channel usable again.
    ChannelReset,
    /// Run push buffers on a channel.
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
    /// Class to bind to subchannel 1 of a compute channel.
    ComputeClass,
    /// Channels of the device, over all files.
    ChannelsMax,
    /// Alignment, in bytes, of address and size in SVM_INIT.
    UnmanagedAlign,
    /// Smallest unmanaged size, in bytes.
    UnmanagedMin,
    /// Most bytes of all push buffers of one EXEC.
    PushMax,
    /// Bits of `enum drm_mirage_feature`.
    Features,
    /// Class to bind to subchannel 4 of a copy channel.
    CopyClass,
    /// How many copy engines there are.
    CopyEngines,
    /// Most push buffers of one EXEC.
    PushesMax,
    /// Most entries of each of the two arrays of syncobjs of one EXEC.
    SyncsMax,
    /// Most channels of one file.
    ChannelsPerFile,
    /// Time-out of a channel that asks for none, milliseconds.
    TimeoutDefault,
    /// Longest time-out of a channel, milliseconds.
    TimeoutMax,
    /// Most pages of one SVM_QUERY.
    QueryPagesMax,
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

/// `struct drm_mirage_svm_bind`
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct SvmBind {
    /// First address.
    pub va: u64,
    /// Bytes.
    pub size: u64,
    /// One of `enum drm_mirage_bind_op`.
    pub op: u32,
    /// Bits of `enum drm_mirage_bind_flags`.
    pub flags: u32,
    /// Out: pages of 4 KiB, from `va`, that the GPU maps as asked.
    pub pages_done: u64,
}

/// `struct drm_mirage_page`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Page {
    /// Bits of `enum drm_mirage_page_gpu`.
    pub gpu: u32,
    /// Bits of `enum drm_mirage_page_cpu`.
    pub cpu: u32,
}

/// `struct drm_mirage_svm_query`
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct SvmQuery {
    /// First address.
    pub va: u64,
    /// Bytes.
    pub size: u64,
    /// User address of an array of [`Page`].
    pub pages_ptr: u64,
    /// Must be 0.
    pub flags: u32,
    /// Size of one array element.
    pub page_size: u32,
}

/// `enum drm_mirage_engine`: a copy engine.
pub const ENGINE_COPY: u32 = 1;

/// `struct drm_mirage_channel_alloc`
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct ChannelAlloc {
    /// Must be 0.
    pub flags: u32,
    /// Out: handle, valid in this file.
    pub channel: u32,
    /// One of `enum drm_mirage_engine`.
    pub engine: u32,
    /// How long work may run without progress, milliseconds; 0: the default.
    pub timeout_ms: u32,
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

/// `enum drm_mirage_channel_state`: the channel was stopped.
pub const CHANNEL_STOPPED: u32 = 1;

/// `struct drm_mirage_channel_query`
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct ChannelQuery {
    /// Handle from CHANNEL_ALLOC.
    pub channel: u32,
    /// Out: one of `enum drm_mirage_channel_state`.
    pub state: u32,
    /// Out: address of the access that stopped it, 4 KiB aligned, or the method.
    pub addr: u64,
    /// Out: CLOCK_MONOTONIC nanoseconds when it was stopped, or 0.
    pub timestamp: u64,
    /// Out: `enum drm_mirage_access`.
    pub access: u32,
    /// Out: `enum drm_mirage_reason`; 0 if it is usable.
    pub reason: u32,
    /// Out: EXECs accepted so far.
    pub submitted: u64,
    /// Out: EXECs whose fence is signalled, with or without an error.
    pub finished: u64,
    /// Out: times that the channel was reset.
    pub resets: u32,
    /// Must be 0.
    pub pad: u32,
}

/// `struct drm_mirage_channel_reset`
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct ChannelReset {
    /// Handle from CHANNEL_ALLOC.
    pub channel: u32,
    /// Must be 0.
    pub flags: u32,
}

/// `struct drm_mirage_push`
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Push {
    /// User address of method headers and data.
    pub va: u64,
    /// Bytes.
    pub size: u32,
    /// Must be 0.
    pub flags: u32,
}

/// `enum drm_mirage_sync_type`: a binary DRM syncobj.
pub const SYNC_SYNCOBJ: u32 = 0;
/// `enum drm_mirage_sync_type`: a point of a timeline DRM syncobj.
pub const SYNC_TIMELINE: u32 = 1;

/// `struct drm_mirage_sync`
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct SyncPoint {
    /// One of `enum drm_mirage_sync_type`.
    pub kind: u32,
    /// DRM syncobj handle.
    pub handle: u32,
    /// Point of the timeline; 0 for a binary syncobj.
    pub point: u64,
}

/// `struct drm_mirage_exec`
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Exec {
    /// Handle from CHANNEL_ALLOC.
    pub channel: u32,
    /// Push buffers.
    pub push_count: u32,
    /// Syncobjs to wait for.
    pub wait_count: u32,
    /// Syncobjs that get the fence.
    pub sig_count: u32,
    /// User address of an array of [`Push`].
    pub push_ptr: u64,
    /// User address of an array of [`SyncPoint`].
    pub wait_ptr: u64,
    /// User address of an array of [`SyncPoint`].
    pub sig_ptr: u64,
    /// Must be 0.
    pub flags: u32,
    /// Must be 0.
    pub pad: u32,
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
