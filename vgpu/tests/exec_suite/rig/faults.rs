// SPDX-License-Identifier: MIT OR Apache-2.0
//! The MMU: fault packets, and what a driver answers them with.

use mirage_vgpu::bus::Bus;

use super::*;

const MMU_CTRL: u32 = 0x100c80;
const INVALIDATE: u32 = 0x100cbc;
const INVALIDATE_VADDR: u32 = 0x100cb4;
const INVALIDATE_UPPER_VADDR: u32 = 0x100ce8;
const INVALIDATE_PDB: u32 = 0x100cb8;
const FAULT_LO: u32 = 0x100e24;
const FAULT_HI: u32 = 0x100e28;
const FAULT_GET: u32 = 0x100e2c;
const FAULT_PUT: u32 = 0x100e30;
const FAULT_SIZE: u32 = 0x100e34;
const FAULT_STRIDE: u32 = 0x14;

/// Replay codes, at their place in INVALIDATE.
pub(crate) const START: u32 = 1 << 3;
pub(crate) const CANCEL_GLOBAL: u32 = 4 << 3;
/// ACK GLOBALLY and SYS_MEMBAR of an invalidate.
pub(crate) const ACKED: u32 = (1 << 7) | (1 << 6);

/// A packet of a fault buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Packet {
    pub(crate) va: u64,
    pub(crate) kind: u32,
    pub(crate) access: u32,
    pub(crate) hub: bool,
    pub(crate) engine: u32,
}

impl Rig {
    pub(crate) fn set_up_buffers(&self) {
        for (stride, buffer) in [0, FAULT_STRIDE].into_iter().zip(self.buffers) {
            self.write(FAULT_LO + stride, buffer.addr as u32 | 1);
            self.write(FAULT_HI + stride, 0);
            self.write(FAULT_SIZE + stride, (1 << 31) | 4096);
        }
    }

    /// Triggers an invalidate of everything, with the given other bits, and waits until it is done.
    pub(crate) fn invalidate(&self, bits: u32) {
        self.write(INVALIDATE, (1 << 31) | 0b11 | bits);
        self.until("invalidate", || (self.read(MMU_CTRL) >> 15) & 1 == 1);
    }

    /// Cancels the requests for one page, whatever their access; the others are replayed.
    pub(crate) fn cancel_va(&self, va: u64) {
        self.write(INVALIDATE_VADDR, ((va >> 12) as u32) << 4);
        self.write(INVALIDATE_UPPER_VADDR, (va >> 40) as u32);
        self.write(INVALIDATE_PDB, ((self.root.addr >> 12) as u32) << 4);
        self.write(INVALIDATE, (1 << 31) | (7 << 24) | (5 << 3));
        self.until("cancel", || (self.read(MMU_CTRL) >> 15) & 1 == 1);
    }

    /// Takes the packets that are in a fault buffer.
    pub(crate) fn faults(&self, buffer: u32) -> Vec<Packet> {
        let stride = buffer * FAULT_STRIDE;
        let put = self.read(FAULT_PUT + stride) & 0xf_ffff;
        let mut get = self.read(FAULT_GET + stride) & 0xf_ffff;
        let mut packets = Vec::new();
        while get != put {
            let at = self.buffers[buffer as usize].offset(32 * u64::from(get));
            let word = |i: u64| self.memory.read_u32(at.offset(4 * i)).unwrap();
            self.until("VALID", || word(7) >> 31 == 1);
            let info = word(7);
            packets.push(Packet {
                va: (u64::from(word(3)) << 32) | u64::from(word(2) & !0xfff),
                kind: info & 0x1f,
                access: (info >> 16) & 0xf,
                hub: (info >> 20) & 1 == 1,
                engine: word(6) & 0x1ff,
            });
            self.memory.write_u32(at.offset(28), 0).unwrap();
            get = (get + 1) % 4096;
        }
        self.write(FAULT_GET + stride, get);
        packets
    }

    /// Waits for at least one packet.
    pub(crate) fn wait_faults(&self, buffer: u32) -> Vec<Packet> {
        self.wait_n_faults(buffer, 1)
    }

    /// Waits for `count` packets, or more.
    pub(crate) fn wait_n_faults(&self, buffer: u32, count: usize) -> Vec<Packet> {
        let mut packets = Vec::new();
        self.until("fault packets", || {
            packets.extend(self.faults(buffer));
            packets.len() >= count
        });
        packets
    }
}
