// SPDX-License-Identifier: MIT OR Apache-2.0
//! The fault packet (dev_mmu_fault, NV_MMU_FAULT_BUF_ENTRY): 32 bytes, the same in both buffers.

use bitfield_struct::bitfield;

use crate::bus::{Aperture, PhysAddr};
use crate::clock;

use super::format::PAGE_SHIFT;
use super::types::{AddressSpace, Client, ClientKind, Fault, Replay};

/// NV_MMU_FAULT_BUF_SIZE.
pub(crate) const PACKET_BYTES: usize = 32;

/// Which buffer a packet goes to, and REPLAYABLE_FAULT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Buffer 0.
    NonReplayable,
    /// Buffer 1.
    Replayable,
}

/// A fault and all that its packet tells of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Report<'a> {
    pub(crate) kind: Kind,
    pub(crate) space: &'a AddressSpace,
    pub(crate) client: Client,
    pub(crate) fault: Fault,
}

#[bitfield(u32)]
struct InstLo {
    __: u8,
    #[bits(2)]
    aperture: u8,
    #[bits(2)]
    __: u8,
    #[bits(20)]
    addr: u32,
}

#[bitfield(u32)]
struct AddrLo {
    #[bits(2)]
    phys_aperture: u8,
    #[bits(10)]
    __: u16,
    #[bits(20)]
    addr: u32,
}

#[bitfield(u32)]
struct Engine {
    #[bits(9)]
    id: u16,
    #[bits(23)]
    __: u32,
}

#[bitfield(u32)]
struct Info {
    #[bits(5)]
    fault_type: u8,
    #[bits(2)]
    __: u8,
    replayable_fault: bool,
    #[bits(7)]
    client: u8,
    __: bool,
    #[bits(4)]
    access_type: u8,
    mmu_client_type_hub: bool,
    #[bits(3)]
    __: u8,
    #[bits(5)]
    gpc_id: u8,
    __: bool,
    replayable_fault_en: bool,
    valid: bool,
}

/// Splits a 4 KiB aligned address into bits 31:12 and 63:32.
fn split(addr: u64) -> (u32, u32) {
    let low = (addr as u32) >> PAGE_SHIFT;
    (low, (addr >> 32) as u32)
}

fn instance(inst: PhysAddr) -> (InstLo, u32) {
    let (low, high) = split(inst.addr);
    let aperture = match inst.aperture {
        Aperture::Vid => 0,
        Aperture::Sys => 2,
    };
    (InstLo::new().with_aperture(aperture).with_addr(low), high)
}

impl Report<'_> {
    fn info(&self) -> Info {
        let (gpc, client, hub) = match self.client.kind {
            ClientKind::Gpc { gpc, client } => (gpc, client, false),
            ClientKind::Hub { client } => (0, client, true),
        };
        Info::new()
            .with_fault_type(self.fault.kind as u8)
            .with_replayable_fault(self.kind == Kind::Replayable)
            .with_client(client & 0x7f)
            .with_access_type(self.fault.access as u8)
            .with_mmu_client_type_hub(hub)
            .with_gpc_id(gpc & 0x1f)
            .with_replayable_fault_en(self.space.replay() == Replay::Enabled)
            .with_valid(true)
    }

    /// The packet, VALID set in its last byte.
    pub(crate) fn encode(&self) -> [u8; PACKET_BYTES] {
        let (inst_lo, inst_hi) = instance(self.space.inst);
        let (addr_lo, addr_hi) = split(self.fault.va.0);
        let time = clock::now_ns();
        let dwords = [
            inst_lo.into_bits(),
            inst_hi,
            AddrLo::new().with_addr(addr_lo).into_bits(),
            addr_hi,
            time as u32,
            (time >> 32) as u32,
            Engine::new()
                .with_id(self.client.engine_id & 0x1ff)
                .into_bits(),
            self.info().into_bits(),
        ];
        let mut bytes = [0; PACKET_BYTES];
        for (out, dword) in bytes.chunks_exact_mut(4).zip(dwords) {
            out.copy_from_slice(&dword.to_le_bytes());
        }
        bytes
    }
}
