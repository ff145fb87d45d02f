// SPDX-License-Identifier: MIT OR Apache-2.0
//! The structures of `uapi/mirage_drm.h`, in its order and with its names; and two of the kernel's that go with them.

use bytemuck::{Pod, Zeroable};

/// `struct drm_mirage_getparam`
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Getparam {
    /// One of [`Param`](super::Param).
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
    /// [`BIND_PREFETCH`](super::BIND_PREFETCH).
    pub op: u32,
    /// [`BIND_WRITE`](super::BIND_WRITE) or 0.
    pub flags: u32,
    /// Out: pages of 4 KiB, from `va`, that the GPU maps as asked.
    pub pages_done: u64,
}

/// `struct drm_mirage_page`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Page {
    /// Bits `GPU_...`; 0: nothing.
    pub gpu: u32,
    /// Bits `CPU_...`; 0: absent.
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
    /// User address of an array of [`Page`], one for each page of 4 KiB.
    pub pages_ptr: u64,
    /// Must be 0.
    pub flags: u32,
    /// Size of one array element.
    pub page_size: u32,
}

/// `struct drm_mirage_channel_alloc`
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct ChannelAlloc {
    /// Must be 0.
    pub flags: u32,
    /// Out: handle, valid in this file.
    pub channel: u32,
    /// [`ENGINE_COMPUTE`](super::ENGINE_COMPUTE) or [`ENGINE_COPY`](super::ENGINE_COPY).
    pub engine: u32,
    /// Milliseconds that work may run without progress; 0: the default.
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

/// `struct drm_mirage_channel_query`
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct ChannelQuery {
    /// Handle from CHANNEL_ALLOC.
    pub channel: u32,
    /// Out: [`CHANNEL_USABLE`](super::CHANNEL_USABLE) or [`CHANNEL_STOPPED`](super::CHANNEL_STOPPED).
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
    /// Bytes: not 0, a multiple of 4.
    pub size: u32,
    /// Must be 0.
    pub flags: u32,
}

/// `struct drm_mirage_sync`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct SyncPoint {
    /// [`SYNC_SYNCOBJ`](super::SYNC_SYNCOBJ) or [`SYNC_TIMELINE`](super::SYNC_TIMELINE); `type` in C.
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

/// `struct drm_event`: what each event that read(2) returns begins with.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct DrmEvent {
    /// What kind of event; `type` in C.
    pub kind: u32,
    /// Bytes of the whole event.
    pub length: u32,
}

/// `struct drm_mirage_event_fault`
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct EventFault {
    /// Type and length of the record.
    pub base: DrmEvent,
    /// Address of the access, 4 KiB aligned, or the method.
    pub addr: u64,
    /// CLOCK_MONOTONIC nanoseconds when the driver stopped the channel.
    pub timestamp: u64,
    /// Number of the batch of faults that it was served in; 0 if it was not a fault.
    pub batch: u64,
    /// Handle of the channel.
    pub channel: u32,
    /// `enum drm_mirage_access`.
    pub access: u32,
    /// `enum drm_mirage_reason`.
    pub reason: u32,
    /// Events dropped since the last one that was queued.
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
