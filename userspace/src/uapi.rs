// SPDX-License-Identifier: MIT OR Apache-2.0
//! `uapi/mirage_drm.h` in Rust: the structures, numbers and constants of the driver's own ioctls.
//!
//! A program uses the rest of the crate instead. This module is public for tests that talk to the driver directly. Everything
//! here is checked against the C header by `tests/uapi_layout.rs`.

mod structs;

pub use structs::*;

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
    /// Bits `FEATURE_...`.
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

/// [`Param::Features`]: pages that a userfaultfd handler has to supply can be faulted in.
pub const FEATURE_USERFAULTFD: u64 = 1 << 0;

/// [`SvmBind::op`]: fault pages in and map them, as accesses of the GPU would.
pub const BIND_PREFETCH: u32 = 0;
/// Flag of SVM_BIND: make the pages writable.
pub const BIND_WRITE: u32 = 1 << 0;

/// [`Page::gpu`]: there is a translation.
pub const GPU_VALID: u32 = 1 << 0;
/// [`Page::gpu`]: writes are allowed.
pub const GPU_WRITE: u32 = 1 << 1;
/// [`Page::gpu`]: atomics are allowed.
pub const GPU_ATOMIC: u32 = 1 << 2;
/// [`Page::gpu`]: in device memory; without it, in system memory.
pub const GPU_VRAM: u32 = 1 << 3;
/// [`Page::gpu`] 15:8: the leaf has `4096 << order` bytes.
pub const GPU_ORDER_SHIFT: u32 = 8;

/// [`Page::cpu`]: the page is there and can be read.
pub const CPU_READ: u32 = 1 << 0;
/// [`Page::cpu`]: it can be written without a fault.
pub const CPU_WRITE: u32 = 1 << 1;
/// [`Page::cpu`]: it is the zero page or part of the huge zero page.
pub const CPU_ZERO: u32 = 1 << 2;
/// [`Page::cpu`]: it is device-private memory of this device.
pub const CPU_DEVICE: u32 = 1 << 3;
/// [`Page::cpu`] 15:8: the CPU maps it with an entry of `4096 << order` bytes.
pub const CPU_ORDER_SHIFT: u32 = 8;

/// [`ChannelAlloc::engine`]: the compute engine.
pub const ENGINE_COMPUTE: u32 = 0;
/// [`ChannelAlloc::engine`]: a copy engine, the driver chooses which.
pub const ENGINE_COPY: u32 = 1;

/// [`ChannelQuery::state`]: it takes and runs work.
pub const CHANNEL_USABLE: u32 = 0;
/// [`ChannelQuery::state`]: it was stopped; EXEC returns EIO until CHANNEL_RESET.
pub const CHANNEL_STOPPED: u32 = 1;

/// [`SyncPoint::kind`]: a binary DRM syncobj.
pub const SYNC_SYNCOBJ: u32 = 0;
/// [`SyncPoint::kind`]: a point of a timeline DRM syncobj.
pub const SYNC_TIMELINE: u32 = 1;

/// [`DrmEvent::kind`] of an [`EventFault`].
pub const EVENT_FAULT: u32 = 0x8000_0000;
