// SPDX-License-Identifier: MIT OR Apache-2.0
//! NV_PGRAPH's error registers, and the methods of MIRAGE_COMPUTE_A (`docs/vgpu.md`).

use bitfield_struct::bitfield;

use crate::bus::{Aperture, PhysAddr};

/// NV_PGRAPH_INTR.
pub(crate) const INTR: u32 = 0x400100;
/// NV_PGRAPH_INTR_EN.
pub(crate) const INTR_EN: u32 = 0x40013c;
/// NV_PGRAPH_TRAPPED_ADDR, R.
pub(crate) const TRAPPED_ADDR: u32 = 0x400704;
/// NV_PGRAPH_TRAPPED_DATA_LOW, R.
pub(crate) const TRAPPED_DATA_LOW: u32 = 0x400708;
/// NV_PGRAPH_PRI_FECS_CURRENT_CTX, R.
pub(crate) const CURRENT_CTX: u32 = 0x409b00;

/// Bits of NV_PGRAPH_INTR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum GraphIntr {
    /// The class has no such method.
    IllegalMethod = 1 << 4,
    /// The subchannel has no class, or SET_OBJECT named one that does not exist.
    IllegalClass = 1 << 5,
    /// Bad launch parameters or a misaligned operand.
    ClassError = 1 << 20,
}

/// NV_PGRAPH_PRI_FECS_CURRENT_CTX.
#[bitfield(u32)]
pub(crate) struct CurrentCtx {
    /// Instance block address >> 12.
    #[bits(28)]
    pub(crate) ptr: u32,
    #[bits(2)]
    pub(crate) target: u8,
    __: bool,
    pub(crate) valid: bool,
}

impl CurrentCtx {
    pub(crate) fn of(inst: PhysAddr) -> Self {
        let target = match inst.aperture {
            Aperture::Vid => 0,
            Aperture::Sys => 2,
        };
        let ptr = (inst.addr >> 12) as u32 & 0x0fff_ffff;
        Self::new()
            .with_ptr(ptr)
            .with_target(target)
            .with_valid(true)
    }
}

/// The class.
pub(crate) const MIRAGE_COMPUTE_A: u32 = 0xfec0;

/// Byte offsets of its methods.
pub(crate) mod method {
    pub(crate) const SET_OBJECT: u16 = 0x0000;
    pub(crate) const NO_OPERATION: u16 = 0x0100;
    pub(crate) const WAIT_FOR_IDLE: u16 = 0x0110;
    pub(crate) const SET_A_UPPER: u16 = 0x0200;
    pub(crate) const SET_A_LOWER: u16 = 0x0204;
    pub(crate) const SET_B_UPPER: u16 = 0x0208;
    pub(crate) const SET_B_LOWER: u16 = 0x020c;
    pub(crate) const SET_R_UPPER: u16 = 0x0210;
    pub(crate) const SET_R_LOWER: u16 = 0x0214;
    pub(crate) const SET_VALUE_UPPER: u16 = 0x0218;
    pub(crate) const SET_VALUE_LOWER: u16 = 0x021c;
    pub(crate) const SET_COMPARE_UPPER: u16 = 0x0220;
    pub(crate) const SET_COMPARE_LOWER: u16 = 0x0224;
    pub(crate) const SET_STRIDE_A: u16 = 0x0230;
    pub(crate) const SET_STRIDE_B: u16 = 0x0234;
    pub(crate) const SET_STRIDE_R: u16 = 0x0238;
    pub(crate) const SET_LANES: u16 = 0x023c;
    pub(crate) const SET_LENGTH: u16 = 0x0240;
    pub(crate) const SET_STEPS: u16 = 0x0244;
    pub(crate) const SET_NEXT_OFFSET: u16 = 0x0248;
    pub(crate) const SET_VALUE_OFFSET: u16 = 0x024c;
    pub(crate) const LAUNCH: u16 = 0x0300;
}

/// Data of LAUNCH.
#[bitfield(u32)]
pub(crate) struct LaunchData {
    #[bits(4)]
    pub(crate) op: u8,
    #[bits(4)]
    pub(crate) reserved_low: u8,
    #[bits(2)]
    pub(crate) size: u8,
    #[bits(2)]
    pub(crate) reserved_middle: u8,
    pub(crate) result: bool,
    pub(crate) add_lane: bool,
    #[bits(18)]
    pub(crate) reserved_high: u32,
}
