// SPDX-License-Identifier: MIT OR Apache-2.0
//! Fault buffers and their interrupts (pri_mmu_hub; NISO_INTR as nvgpu and nouveau use it).

use bitfield_struct::bitfield;

/// NV_PFB_NISO_INTR, R.
pub(crate) const NISO_INTR: u32 = 0x100a20;
/// NV_PFB_NISO_INTR_EN, R.
pub(crate) const NISO_INTR_EN: u32 = 0x100a24;
/// NV_PFB_NISO_INTR_EN_SET, W.
pub(crate) const NISO_INTR_EN_SET: u32 = 0x100a2c;
/// NV_PFB_NISO_INTR_EN_CLR, W.
pub(crate) const NISO_INTR_EN_CLR: u32 = 0x100a34;

/// NV_PFB_PRI_MMU_FAULT_BUFFER_LO(0).
pub(crate) const FAULT_BUFFER_LO: u32 = 0x100e24;
/// NV_PFB_PRI_MMU_FAULT_BUFFER_HI(0).
pub(crate) const FAULT_BUFFER_HI: u32 = 0x100e28;
/// NV_PFB_PRI_MMU_FAULT_BUFFER_GET(0).
pub(crate) const FAULT_BUFFER_GET: u32 = 0x100e2c;
/// NV_PFB_PRI_MMU_FAULT_BUFFER_PUT(0), R.
pub(crate) const FAULT_BUFFER_PUT: u32 = 0x100e30;
/// NV_PFB_PRI_MMU_FAULT_BUFFER_SIZE(0).
pub(crate) const FAULT_BUFFER_SIZE: u32 = 0x100e34;
/// Bytes between the registers of the two buffers.
pub(crate) const FAULT_BUFFER_STRIDE: u32 = 0x14;
/// NV_PFB_PRI_MMU_FAULT_ADDR_LO, R.
pub(crate) const FAULT_ADDR_LO: u32 = 0x100e4c;
/// NV_PFB_PRI_MMU_FAULT_ADDR_HI, R.
pub(crate) const FAULT_ADDR_HI: u32 = 0x100e50;
/// NV_PFB_PRI_MMU_FAULT_INST_LO, R.
pub(crate) const FAULT_INST_LO: u32 = 0x100e54;
/// NV_PFB_PRI_MMU_FAULT_INST_HI, R.
pub(crate) const FAULT_INST_HI: u32 = 0x100e58;
/// NV_PFB_PRI_MMU_FAULT_INFO, R: dword 7 of the packet.
pub(crate) const FAULT_INFO: u32 = 0x100e5c;
/// NV_PFB_PRI_MMU_FAULT_STATUS.
pub(crate) const FAULT_STATUS: u32 = 0x100e60;

/// NV_PFB_NISO_INTR and its enables.
#[bitfield(u32)]
pub(crate) struct NisoIntr {
    #[bits(27)]
    __: u32,
    pub(crate) replay_notify: bool,
    pub(crate) replay_overflow: bool,
    pub(crate) nonreplay_notify: bool,
    pub(crate) nonreplay_overflow: bool,
    pub(crate) other: bool,
}

/// NV_PFB_PRI_MMU_FAULT_BUFFER_LO.
#[bitfield(u32)]
pub(crate) struct BufferLo {
    pub(crate) physical: bool,
    #[bits(2)]
    pub(crate) aperture: u8,
    pub(crate) vol: bool,
    #[bits(8)]
    __: u8,
    /// Address bits 31:12.
    #[bits(20)]
    pub(crate) addr: u32,
}

/// NV_PFB_PRI_MMU_FAULT_BUFFER_GET and _PUT.
#[bitfield(u32)]
pub(crate) struct BufferPtr {
    #[bits(20)]
    pub(crate) ptr: u32,
    #[bits(10)]
    __: u16,
    pub(crate) getptr_corrupted: bool,
    pub(crate) overflow: bool,
}

/// NV_PFB_PRI_MMU_FAULT_BUFFER_SIZE.
#[bitfield(u32)]
pub(crate) struct BufferSize {
    #[bits(20)]
    pub(crate) val: u32,
    #[bits(9)]
    __: u16,
    pub(crate) overflow_intr: bool,
    pub(crate) set_default: bool,
    pub(crate) enable: bool,
}

/// NV_PFB_PRI_MMU_FAULT_INST_LO.
#[bitfield(u32)]
pub(crate) struct InstLo {
    #[bits(9)]
    pub(crate) engine_id: u16,
    __: bool,
    #[bits(2)]
    pub(crate) aperture: u8,
    /// Address bits 31:12.
    #[bits(20)]
    pub(crate) addr: u32,
}

/// NV_PFB_PRI_MMU_FAULT_STATUS: the fields that this device sets. DROPPED, ERROR and VALID are W1C, the others levels.
#[bitfield(u32)]
pub(crate) struct FaultStatus {
    #[bits(7)]
    __: u8,
    /// Faults of units that are neither BAR1, BAR2 nor the instance fetch.
    pub(crate) dropped_other_virt: bool,
    pub(crate) replayable: bool,
    pub(crate) non_replayable: bool,
    pub(crate) replayable_error: bool,
    pub(crate) non_replayable_error: bool,
    pub(crate) replayable_overflow: bool,
    pub(crate) non_replayable_overflow: bool,
    pub(crate) replayable_getptr_corrupted: bool,
    pub(crate) non_replayable_getptr_corrupted: bool,
    #[bits(15)]
    __: u16,
    pub(crate) valid: bool,
}
