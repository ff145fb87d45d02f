// SPDX-License-Identifier: MIT OR Apache-2.0
//! NV_PFIFO, NV_PCCSR (dev_fifo), NV_PPBDMA (dev_pbdma), NV_USERMODE (dev_usermode), RAMFC and USERD (dev_ram).

use bitfield_struct::bitfield;

use crate::bus::{Aperture, PhysAddr};

/// NV_PFIFO_INTR_0.
pub(crate) const INTR_0: u32 = 0x002100;
/// NV_PFIFO_INTR_EN_0.
pub(crate) const INTR_EN_0: u32 = 0x002140;
/// NV_PFIFO_RUNLIST_BASE.
pub(crate) const RUNLIST_BASE: u32 = 0x002270;
/// NV_PFIFO_RUNLIST.
pub(crate) const RUNLIST: u32 = 0x002274;
/// NV_PFIFO_ENG_RUNLIST_BASE(0), R; NV_PFIFO_ENG_RUNLIST(0) follows it.
pub(crate) const ENG_RUNLIST_BASE: u32 = 0x002280;
/// NV_PFIFO_ENG_RUNLIST(0), R.
pub(crate) const ENG_RUNLIST: u32 = 0x002284;
/// NV_PFIFO_INTR_SCHED_ERROR, R.
pub(crate) const SCHED_ERROR: u32 = 0x00254c;
/// NV_PFIFO_PREEMPT.
pub(crate) const PREEMPT: u32 = 0x002634;
/// NV_PFIFO_RUNLIST_PREEMPT.
pub(crate) const RUNLIST_PREEMPT: u32 = 0x002638;
/// NV_PFIFO_ENGINE_STATUS(0), R.
pub(crate) const ENGINE_STATUS: u32 = 0x002640;
/// Bytes between the registers of neighbouring runlists, and of neighbouring engines.
pub(crate) const RUNLIST_STRIDE: u32 = 8;

/// NV_PPBDMA_METHOD0(0), R.
pub(crate) const PBDMA_METHOD0: u32 = 0x0400c0;
/// NV_PPBDMA_DATA0(0), R.
pub(crate) const PBDMA_DATA0: u32 = 0x0400c4;
/// NV_PPBDMA_INTR_0(0).
pub(crate) const PBDMA_INTR_0: u32 = 0x040108;
/// NV_PPBDMA_INTR_EN_0(0).
pub(crate) const PBDMA_INTR_EN_0: u32 = 0x04010c;
/// NV_PPBDMA_CHANNEL(0), R.
pub(crate) const PBDMA_CHANNEL: u32 = 0x040120;

/// Channels of the device.
pub(crate) const CHANNELS: usize = 128;
/// NV_PCCSR_CHANNEL_INST(0).
pub(crate) const CHANNEL_INST: u32 = 0x800000;
/// NV_PCCSR_CHANNEL(0).
pub(crate) const CHANNEL: u32 = 0x800004;
/// Bytes between the registers of neighbouring channels.
pub(crate) const CHANNEL_STRIDE: u32 = 8;

/// NV_USERMODE_CFG0, R.
pub(crate) const USERMODE_CFG0: u32 = 0x810000;
/// VOLTA_USERMODE_A, the class that NV_USERMODE_CFG0 names.
pub(crate) const USERMODE_CLASS: u32 = 0xc361;
/// NV_USERMODE_TIME_0, R.
pub(crate) const USERMODE_TIME_0: u32 = 0x810080;
/// NV_USERMODE_TIME_1, R.
pub(crate) const USERMODE_TIME_1: u32 = 0x810084;
/// NV_USERMODE_NOTIFY_CHANNEL_PENDING, W.
pub(crate) const NOTIFY_CHANNEL_PENDING: u32 = 0x810090;

/// NV_PFIFO_INTR_0 and its enables.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub(crate) struct Intr0 {
    pub(crate) bind_error: bool,
    #[bits(7)]
    __: u8,
    pub(crate) sched_error: bool,
    #[bits(20)]
    __: u32,
    pub(crate) pbdma_intr: bool,
    __: bool,
    pub(crate) channel_intr: bool,
}

/// NV_PFIFO_RUNLIST_BASE and NV_PFIFO_ENG_RUNLIST_BASE.
#[bitfield(u32)]
pub(crate) struct RunlistBase {
    /// Address >> 12.
    #[bits(28)]
    pub(crate) ptr: u32,
    #[bits(2)]
    pub(crate) target: u8,
    #[bits(2)]
    __: u8,
}

/// NV_PFIFO_RUNLIST, and NV_PFIFO_ENG_RUNLIST with another use of 20.
#[bitfield(u32)]
pub(crate) struct RunlistSubmit {
    /// Entries.
    pub(crate) length: u16,
    #[bits(4)]
    __: u8,
    #[bits(4)]
    pub(crate) id: u8,
    __: u8,
}

/// NV_PFIFO_ENGINE_STATUS.
#[bitfield(u32)]
pub(crate) struct EngineStatus {
    #[bits(12)]
    pub(crate) id: u16,
    pub(crate) id_is_tsg: bool,
    /// 0 INVALID, 1 VALID.
    #[bits(3)]
    pub(crate) ctx_status: u8,
    #[bits(14)]
    __: u16,
    pub(crate) faulted: bool,
    pub(crate) busy: bool,
}

/// TYPE of NV_PFIFO_PREEMPT.
pub(crate) const PREEMPT_TSG: u8 = 1;

/// NV_PFIFO_PREEMPT.
#[bitfield(u32)]
pub(crate) struct Preempt {
    #[bits(12)]
    pub(crate) id: u16,
    __: u8,
    pub(crate) pending: bool,
    #[bits(3)]
    __: u8,
    #[bits(2)]
    pub(crate) kind: u8,
    #[bits(6)]
    __: u8,
}

/// NV_PPBDMA_CHANNEL.
#[bitfield(u32)]
pub(crate) struct PbdmaChannel {
    #[bits(12)]
    pub(crate) chid: u16,
    __: bool,
    pub(crate) valid: bool,
    #[bits(18)]
    __: u32,
}

/// Bits of NV_PPBDMA_INTR_0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum PbdmaIntr {
    /// GP_PUT is out of range.
    GpPtr = 1 << 14,
    /// A GP entry cannot be decoded.
    GpEntry = 1 << 15,
    /// A method header cannot be decoded.
    PbEntry = 1 << 18,
    /// CLEAR_FAULTED of a channel that did not fault.
    ClearFaulted = 1 << 20,
    /// A semaphore was not acquired in time.
    Acquire = 1 << 26,
    /// A host method is unknown, privileged, or has bad data.
    Method = 1 << 21,
}

/// NV_PCCSR_CHANNEL_INST.
#[bitfield(u32)]
pub(crate) struct ChannelInst {
    /// Instance block address >> 12.
    #[bits(28)]
    pub(crate) ptr: u32,
    #[bits(2)]
    pub(crate) target: u8,
    __: bool,
    pub(crate) bind: bool,
}

impl ChannelInst {
    /// The instance block, unless the target is none.
    pub(crate) fn address(self) -> Option<PhysAddr> {
        let aperture = aperture(self.target())?;
        let addr = u64::from(self.ptr()) << 12;
        Some(PhysAddr { aperture, addr })
    }
}

/// NV_PCCSR_CHANNEL.
#[bitfield(u32)]
pub(crate) struct ChannelControl {
    pub(crate) enable: bool,
    #[bits(9)]
    __: u16,
    pub(crate) enable_set: bool,
    pub(crate) enable_clr: bool,
    #[bits(10)]
    __: u16,
    pub(crate) pbdma_faulted: bool,
    pub(crate) eng_faulted: bool,
    #[bits(4)]
    __: u8,
    pub(crate) busy: bool,
    #[bits(3)]
    __: u8,
}

/// The memory that a 2-bit target names: 0 VID_MEM, 2 SYS_MEM_COHERENT, 3 SYS_MEM_NONCOHERENT.
pub(crate) fn aperture(target: u8) -> Option<Aperture> {
    match target {
        0 => Some(Aperture::Vid),
        2 | 3 => Some(Aperture::Sys),
        _ => None,
    }
}

/// NV_RAMFC_*: bytes from the start of the instance block.
pub(crate) mod ramfc {
    pub(crate) const GP_PUT: u64 = 0x000;
    pub(crate) const USERD: u64 = 0x008;
    pub(crate) const USERD_HI: u64 = 0x00c;
    pub(crate) const SIGNATURE: u64 = 0x010;
    pub(crate) const GP_GET: u64 = 0x014;
    pub(crate) const REF: u64 = 0x028;
    pub(crate) const ACQUIRE: u64 = 0x030;
    pub(crate) const GP_BASE: u64 = 0x048;
    pub(crate) const GP_BASE_HI: u64 = 0x04c;
    /// NV_PPBDMA_SIGNATURE_HW_VALID.
    pub(crate) const SIGNATURE_VALID: u32 = 0xface;
}

/// NV_RAMUSERD_*: bytes from the start of USERD.
pub(crate) mod userd {
    pub(crate) const PUT: u64 = 0x40;
    pub(crate) const GET: u64 = 0x44;
    pub(crate) const REF: u64 = 0x48;
    pub(crate) const PUT_HI: u64 = 0x4c;
    pub(crate) const GET_HI: u64 = 0x60;
    pub(crate) const GP_GET: u64 = 0x88;
    pub(crate) const GP_PUT: u64 = 0x8c;
}

/// NV_PPBDMA_USERD, low half.
#[bitfield(u32)]
pub(crate) struct UserdLo {
    #[bits(2)]
    pub(crate) target: u8,
    #[bits(7)]
    __: u8,
    /// Address bits 31:9.
    #[bits(23)]
    pub(crate) addr: u32,
}

/// NV_PPBDMA_USERD, high half; 39:32 of the address.
#[bitfield(u32)]
pub(crate) struct UserdHi {
    pub(crate) addr: u8,
    #[bits(24)]
    __: u32,
}

/// NV_PPBDMA_ACQUIRE.
#[bitfield(u32)]
pub(crate) struct Acquire {
    #[bits(11)]
    __: u16,
    #[bits(4)]
    pub(crate) timeout_exp: u8,
    pub(crate) timeout_man: u16,
    pub(crate) timeout_en: bool,
}

/// NV_PPBDMA_GP_BASE, low half.
#[bitfield(u32)]
pub(crate) struct GpBaseLo {
    #[bits(3)]
    __: u8,
    /// Address bits 31:3.
    #[bits(29)]
    pub(crate) offset: u32,
}

/// NV_PPBDMA_GP_BASE, high half.
#[bitfield(u32)]
pub(crate) struct GpBaseHi {
    /// Address bits 39:32.
    pub(crate) offset: u8,
    __: u8,
    /// log2 of the number of entries.
    #[bits(5)]
    pub(crate) limit2: u8,
    #[bits(11)]
    __: u16,
}
