// SPDX-License-Identifier: MIT OR Apache-2.0
//! The fault packet (dev_mmu_fault, NV_MMU_FAULT_BUF_ENTRY): 32 bytes, the same in both buffers.

use bitfield_struct::bitfield;

use crate::bus::{Aperture, PhysAddr};
use crate::clock;
use crate::regs::fault as regs;

use super::format::PAGE_SHIFT;
use super::types::{AddressSpace, Client, ClientKind, Fault, Replay};

/// NV_MMU_FAULT_BUF_SIZE.
pub(crate) const PACKET_BYTES: usize = 32;

/// ENGINE_ID has 9 bits.
const ENGINE_MASK: u16 = 0x1ff;

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

/// A packet, in the order in which it lies in memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packet {
    inst: (InstLo, u32),
    addr: (AddrLo, u32),
    time: u64,
    engine: Engine,
    info: Info,
}

/// FAULT_ADDR, FAULT_INST and FAULT_INFO.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Snapshot {
    pub(crate) addr: [u32; 2],
    pub(crate) inst: [u32; 2],
    pub(crate) info: u32,
}

#[bitfield(u32)]
#[derive(PartialEq, Eq)]
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

/// INST_APERTURE.
fn target(aperture: Aperture) -> u8 {
    match aperture {
        Aperture::Vid => 0,
        Aperture::Sys => 2,
    }
}

fn instance(inst: PhysAddr) -> (InstLo, u32) {
    let (low, high) = split(inst.addr);
    let aperture = target(inst.aperture);
    (InstLo::new().with_aperture(aperture).with_addr(low), high)
}

impl Packet {
    pub(crate) fn bytes(&self) -> [u8; PACKET_BYTES] {
        let dwords = [
            self.inst.0.into_bits(),
            self.inst.1,
            self.addr.0.into_bits(),
            self.addr.1,
            self.time as u32,
            (self.time >> 32) as u32,
            self.engine.into_bits(),
            self.info.into_bits(),
        ];
        let mut bytes = [0; PACKET_BYTES];
        for (out, dword) in bytes.chunks_exact_mut(4).zip(dwords) {
            out.copy_from_slice(&dword.to_le_bytes());
        }
        bytes
    }

    /// Whether both are about the same channel.
    pub(crate) fn is_of_channel_of(&self, other: &Self) -> bool {
        self.inst == other.inst
    }

    pub(crate) fn is_from_hub(&self) -> bool {
        self.info.mmu_client_type_hub()
    }

    /// With an instance block beyond all memory.
    pub(crate) fn of_no_channel(self) -> Self {
        let inst = (self.inst.0, u32::MAX);
        Self { inst, ..self }
    }

    /// With this in the uppermost byte of the address.
    pub(crate) fn with_addr_top(self, top: u8) -> Self {
        let high = (self.addr.1 & 0xff_ffff) | (u32::from(top) << 24);
        let addr = (self.addr.0, high);
        Self { addr, ..self }
    }

    pub(crate) fn with_engine(self, id: u16) -> Self {
        let engine = Engine::new().with_id(id & ENGINE_MASK);
        Self { engine, ..self }
    }

    /// With another FAULT_TYPE and REPLAYABLE_FAULT.
    pub(crate) fn with_type(self, fault_type: u8, replayable: bool) -> Self {
        let info = self
            .info
            .with_fault_type(fault_type)
            .with_replayable_fault(replayable);
        Self { info, ..self }
    }
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

    /// The same in the snapshot registers.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let inst = self.space.inst;
        let ((addr_lo, addr_hi), (inst_lo, inst_hi)) = (split(self.fault.va.0), split(inst.addr));
        Snapshot {
            addr: [AddrLo::new().with_addr(addr_lo).into_bits(), addr_hi],
            inst: [
                regs::InstLo::new()
                    .with_engine_id(self.client.engine_id & ENGINE_MASK)
                    .with_aperture(target(inst.aperture))
                    .with_addr(inst_lo)
                    .into_bits(),
                inst_hi,
            ],
            info: self.info().into_bits(),
        }
    }

    /// The packet, VALID set in its last byte.
    pub(crate) fn encode(&self) -> Packet {
        let (addr_lo, addr_hi) = split(self.fault.va.0);
        Packet {
            inst: instance(self.space.inst),
            addr: (AddrLo::new().with_addr(addr_lo), addr_hi),
            time: clock::now_ns(),
            engine: Engine::new().with_id(self.client.engine_id & ENGINE_MASK),
            info: self.info(),
        }
    }
}
