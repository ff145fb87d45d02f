// SPDX-License-Identifier: MIT OR Apache-2.0
//! Registers of a copy engine, and the methods of VOLTA_DMA_COPY_A (classes/dma-copy clc3b5.h).

use bitfield_struct::bitfield;

/// VOLTA_DMA_COPY_A.
pub(super) const VOLTA_DMA_COPY_A: u32 = 0xc3b5;

/// NV_CE_INTR_EN(0).
pub(super) const INTR_EN: u32 = 0x10440c;
/// NV_CE_INTR_STATUS(0).
pub(super) const INTR_STATUS: u32 = 0x104410;
/// NV_CE_LAUNCHERR(0), R.
pub(super) const LAUNCHERR: u32 = 0x104418;
/// Bytes between the registers of neighbouring engines.
pub(super) const STRIDE: u32 = 0x80;

/// NV_CE_INTR_STATUS and NV_CE_INTR_EN.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub(super) struct Intr {
    pub(super) blockpipe: bool,
    pub(super) nonblockpipe: bool,
    pub(super) launcherr: bool,
    #[bits(29)]
    __: u32,
}

/// Codes of NV_CE_LAUNCHERR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum LaunchError {
    /// A semaphore is not aligned to its size.
    InvalidAlignment = 0x2,
    /// A component of the destination selects one that the source has not.
    BadSrcPixelCompRef = 0x8,
    /// A field has a value without meaning.
    InvalidValue = 0x9,
    /// The class has no such method, or this device does not have what it asks for.
    InvalidOperation = 0xb,
    /// The channel may not do that, or the layout is not supported.
    InvalidConfig = 0xd,
}

/// Byte offsets of the methods.
pub(super) mod method {
    pub(crate) const SET_OBJECT: u16 = 0x0000;
    pub(crate) const NOP: u16 = 0x0100;
    pub(crate) const PM_TRIGGER: u16 = 0x0140;
    pub(crate) const SET_SEMAPHORE_A: u16 = 0x0240;
    pub(crate) const SET_SEMAPHORE_B: u16 = 0x0244;
    pub(crate) const SET_SEMAPHORE_PAYLOAD: u16 = 0x0248;
    pub(crate) const SET_SRC_PHYS_MODE: u16 = 0x0260;
    pub(crate) const SET_DST_PHYS_MODE: u16 = 0x0264;
    pub(crate) const LAUNCH_DMA: u16 = 0x0300;
    pub(crate) const OFFSET_IN_UPPER: u16 = 0x0400;
    pub(crate) const OFFSET_IN_LOWER: u16 = 0x0404;
    pub(crate) const OFFSET_OUT_UPPER: u16 = 0x0408;
    pub(crate) const OFFSET_OUT_LOWER: u16 = 0x040c;
    pub(crate) const PITCH_IN: u16 = 0x0410;
    pub(crate) const PITCH_OUT: u16 = 0x0414;
    pub(crate) const LINE_LENGTH_IN: u16 = 0x0418;
    pub(crate) const LINE_COUNT: u16 = 0x041c;
    pub(crate) const SET_REMAP_CONST_A: u16 = 0x0700;
    pub(crate) const SET_REMAP_CONST_B: u16 = 0x0704;
    pub(crate) const SET_REMAP_COMPONENTS: u16 = 0x0708;
    /// First and last of the parameters of block-linear layouts, which have no effect on others.
    pub(crate) const BLOCK_LINEAR: [u16; 2] = [0x070c, 0x0750];
    pub(crate) const PM_TRIGGER_END: u16 = 0x1114;
}

/// LAUNCH_DMA.
#[bitfield(u32)]
pub(super) struct LaunchDma {
    #[bits(2)]
    pub(super) transfer: u8,
    pub(super) flush: bool,
    #[bits(2)]
    pub(super) semaphore: u8,
    #[bits(2)]
    pub(super) interrupt: u8,
    pub(super) src_pitch: bool,
    pub(super) dst_pitch: bool,
    pub(super) multi_line: bool,
    pub(super) remap: bool,
    pub(super) force_rmw_disable: bool,
    pub(super) src_physical: bool,
    pub(super) dst_physical: bool,
    #[bits(4)]
    pub(super) reduction: u8,
    pub(super) reduction_unsigned: bool,
    pub(super) reduction_enable: bool,
    pub(super) src_bypass_l2: bool,
    pub(super) dst_bypass_l2: bool,
    #[bits(3)]
    pub(super) reserved_middle: u8,
    pub(super) flush_gl: bool,
    #[bits(6)]
    pub(super) reserved_high: u8,
}

/// SET_REMAP_COMPONENTS.
#[bitfield(u32)]
pub(super) struct RemapComponents {
    #[bits(3)]
    pub(super) dst_x: u8,
    __: bool,
    #[bits(3)]
    pub(super) dst_y: u8,
    __: bool,
    #[bits(3)]
    pub(super) dst_z: u8,
    __: bool,
    #[bits(3)]
    pub(super) dst_w: u8,
    __: bool,
    /// Bytes of a component - 1.
    #[bits(2)]
    pub(super) component_size: u8,
    #[bits(2)]
    __: u8,
    /// Components of the source - 1.
    #[bits(2)]
    pub(super) num_src: u8,
    #[bits(2)]
    __: u8,
    /// Components of the destination - 1.
    #[bits(2)]
    pub(super) num_dst: u8,
    #[bits(6)]
    __: u8,
}
