// SPDX-License-Identifier: MIT OR Apache-2.0
//! A driver's side of the fault buffers: their registers and packets.

use mirage_vgpu::bus::PhysAddr;
use mirage_vgpu::mmu::{Access, AddressSpace};

use crate::memory::sys;
use crate::rig::*;

pub(crate) const NON_REPLAY: u64 = 0;
pub(crate) const REPLAY: u64 = 1;

pub(crate) const CORRUPTED: u32 = 1 << 30;
pub(crate) const OVERFLOW: u32 = 1 << 31;
pub(crate) const ENABLE: u32 = 1 << 31;
pub(crate) const SET_DEFAULT: u32 = 1 << 30;
pub(crate) const OVERFLOW_INTR: u32 = 1 << 29;
pub(crate) const PHYSICAL: u32 = 1;
pub(crate) const SYS_COH: u32 = 2 << 1;

pub(crate) fn lo(buffer: u64) -> u64 {
    0x100e24 + 0x14 * buffer
}

pub(crate) fn get(buffer: u64) -> u64 {
    0x100e2c + 0x14 * buffer
}

pub(crate) fn put(buffer: u64) -> u64 {
    0x100e30 + 0x14 * buffer
}

pub(crate) fn size(buffer: u64) -> u64 {
    0x100e34 + 0x14 * buffer
}

/// Where the tests put a buffer.
pub(crate) fn base(buffer: u64) -> PhysAddr {
    sys(0x10_0000 * (buffer + 1))
}

/// Sets a buffer up in guest RAM and enables it.
pub(crate) fn enable(rig: &Rig, buffer: u64, entries: u32) {
    let at = base(buffer).addr;
    rig.write(lo(buffer), at as u32 | SYS_COH | PHYSICAL);
    rig.write(lo(buffer) + 4, (at >> 32) as u32);
    rig.write(size(buffer), entries);
    rig.write(size(buffer), entries | ENABLE | OVERFLOW_INTR);
    assert_eq!(rig.read(size(buffer)), entries | ENABLE | OVERFLOW_INTR);
}

/// A packet, by the manual's fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Packet {
    pub(crate) dwords: [u32; 8],
}

impl Packet {
    pub(crate) fn address(&self) -> u64 {
        (u64::from(self.dwords[3]) << 32) | u64::from(self.dwords[2] & !0xfff)
    }

    pub(crate) fn fault_type(&self) -> u32 {
        self.dwords[7] & 0x1f
    }

    pub(crate) fn access_type(&self) -> u32 {
        (self.dwords[7] >> 16) & 0xf
    }

    pub(crate) fn replayable(&self) -> bool {
        (self.dwords[7] >> 7) & 1 == 1
    }

    pub(crate) fn valid(&self) -> bool {
        self.dwords[7] >> 31 == 1
    }
}

pub(crate) fn packet(rig: &Rig, buffer: u64, index: u32) -> Packet {
    let at = base(buffer).offset(u64::from(index) * 32);
    let qwords: [u64; 4] = std::array::from_fn(|i| rig.memory.get(at.offset(8 * i as u64)));
    let dwords = std::array::from_fn(|i| (qwords[i / 2] >> (32 * (i % 2))) as u32);
    Packet { dwords }
}

/// The packets between GET and PUT.
pub(crate) fn pending(rig: &Rig, buffer: u64) -> Vec<Packet> {
    let entries = rig.read(size(buffer)) & 0xf_ffff;
    let end = rig.read(put(buffer)) & 0xf_ffff;
    let mut at = rig.read(get(buffer)) & 0xf_ffff;
    let mut packets = Vec::new();
    while at != end {
        packets.push(packet(rig, buffer, at));
        at = (at + 1) % entries;
    }
    packets
}

pub(crate) fn addresses(rig: &Rig, buffer: u64) -> Vec<u64> {
    pending(rig, buffer).iter().map(Packet::address).collect()
}

/// Takes all packets, as a driver does: clears VALID, then moves GET to PUT.
pub(crate) fn drain(rig: &Rig, buffer: u64) {
    let entries = rig.read(size(buffer)) & 0xf_ffff;
    let end = rig.read(put(buffer)) & 0xf_ffff;
    let mut at = rig.read(get(buffer)) & 0xf_ffff;
    while at != end {
        rig.memory
            .set_u32(base(buffer).offset(u64::from(at) * 32 + 28), 0);
        at = (at + 1) % entries;
    }
    rig.write(get(buffer), end);
}

pub(crate) fn wait_for_packets(rig: &Rig, buffer: u64, count: usize) {
    eventually("packets", || pending(rig, buffer).len() >= count);
}

pub(crate) fn report(rig: &Rig, space: &AddressSpace, va: u64) {
    rig.host(0).report(space, pte_fault(va, Access::Write));
}
