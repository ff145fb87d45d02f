// SPDX-License-Identifier: MIT OR Apache-2.0
//! NV_PFB_PRI_MMU (pri_mmu_hub, pri_mmu_both): TLB invalidation.

use bitfield_struct::bitfield;

/// NV_PFB_PRI_MMU_CTRL.
pub(crate) const CTRL: u32 = 0x100c80;
/// NV_PFB_PRI_MMU_INVALIDATE_VADDR.
pub(crate) const INVALIDATE_VADDR: u32 = 0x100cb4;
/// NV_PFB_PRI_MMU_INVALIDATE_PDB.
pub(crate) const INVALIDATE_PDB: u32 = 0x100cb8;
/// NV_PFB_PRI_MMU_INVALIDATE.
pub(crate) const INVALIDATE: u32 = 0x100cbc;
/// NV_PFB_PRI_MMU_INVALIDATE_UPPER_VADDR.
pub(crate) const INVALIDATE_UPPER_VADDR: u32 = 0x100ce8;
/// NV_PFB_PRI_MMU_INVALIDATE_UPPER_PDB.
pub(crate) const INVALIDATE_UPPER_PDB: u32 = 0x100cec;
/// NV_PFB_PRI_MMU_PAGE_FAULT_CTRL.
pub(crate) const PAGE_FAULT_CTRL: u32 = 0x100cf8;
/// NV_PFB_PRI_MMU_INVALIDATE_SIZE.
pub(crate) const INVALIDATE_SIZE: u32 = 0x100e68;

/// Invalidations that the PRI FIFO holds (NV_PFB_PRI_MMU_CTRL_PRI_FIFO_SPACE_INIT).
pub(crate) const PRI_FIFO_DEPTH: usize = 32;

/// NV_PFB_PRI_MMU_CTRL.
#[bitfield(u32)]
pub(crate) struct Ctrl {
    #[bits(13)]
    __: u16,
    pub(crate) pri_fifo_error_clear: bool,
    pub(crate) pri_fifo_error: bool,
    pub(crate) pri_fifo_empty: bool,
    pub(crate) pri_fifo_space: u8,
    __: u8,
}

/// NV_PFB_PRI_MMU_INVALIDATE_VADDR.
#[bitfield(u32)]
pub(crate) struct InvalidateVaddr {
    #[bits(4)]
    __: u8,
    /// VA[39:12].
    #[bits(28)]
    pub(crate) bits: u32,
}

/// NV_PFB_PRI_MMU_INVALIDATE_PDB.
#[bitfield(u32)]
pub(crate) struct InvalidatePdb {
    __: bool,
    pub(crate) sys_mem: bool,
    #[bits(2)]
    __: u8,
    /// PDB[39:12].
    #[bits(28)]
    pub(crate) addr: u32,
}

/// NV_PFB_PRI_MMU_INVALIDATE_UPPER_VADDR and _UPPER_PDB: address bits 59:40.
#[bitfield(u32)]
pub(crate) struct InvalidateUpper {
    #[bits(20)]
    pub(crate) bits: u32,
    #[bits(12)]
    __: u16,
}

/// NV_PFB_PRI_MMU_INVALIDATE_SIZE.
#[bitfield(u32)]
pub(crate) struct InvalidateSize {
    #[bits(6)]
    pub(crate) val: u8,
    #[bits(26)]
    __: u32,
}

/// PRF_FILTER: all prefetch faults are reported. Of its other values, NONE is the one that this device knows.
pub(crate) const PRF_FILTER_SEND_ALL: u8 = 0;

/// NV_PFB_PRI_MMU_PAGE_FAULT_CTRL.
#[bitfield(u32)]
pub(crate) struct PageFaultCtrl {
    #[bits(2, default = 3)]
    pub(crate) prf_filter: u8,
    #[bits(30)]
    __: u32,
}

/// NV_PFB_PRI_MMU_INVALIDATE.
#[bitfield(u32)]
pub(crate) struct Invalidate {
    pub(crate) all_va: bool,
    pub(crate) all_pdb: bool,
    pub(crate) hubtlb_only: bool,
    #[bits(3)]
    pub(crate) replay: u8,
    pub(crate) sys_membar: bool,
    #[bits(2)]
    pub(crate) ack: u8,
    #[bits(6)]
    pub(crate) cancel_client_id: u8,
    #[bits(5)]
    pub(crate) cancel_gpc_id: u8,
    pub(crate) cancel_client_type_hub: bool,
    pub(crate) use_pasid: bool,
    pub(crate) use_size: bool,
    pub(crate) prop_flush: bool,
    /// CACHE_LEVEL, or for CANCEL_VA_GLOBAL the access type.
    #[bits(3)]
    pub(crate) cache_level: u8,
    #[bits(4)]
    __: u8,
    pub(crate) trigger: bool,
}
