// SPDX-License-Identifier: MIT OR Apache-2.0
//! The registers of both fault buffers, the snapshot beside them, and NISO_INTR.

use crate::regs::fault as regs;

use super::buffer::Buffer;
use super::packet::Snapshot;

/// Number of fault buffers.
pub(crate) const BUFFERS: usize = 2;

/// A register of the fault buffers.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Register {
    Lo(usize),
    Hi(usize),
    Get(usize),
    Put(usize),
    Size(usize),
    Addr(usize),
    Inst(usize),
    Info,
    Status,
    NisoIntr,
    NisoEnabled,
    NisoEnSet,
    NisoEnClr,
}

impl Register {
    pub(crate) fn decode(offset: u32) -> Option<Self> {
        let (first, index) = match offset.checked_sub(regs::FAULT_BUFFER_STRIDE) {
            Some(first) if first >= regs::FAULT_BUFFER_LO => (first, 1),
            _ => (offset, 0),
        };
        Some(match (offset, first) {
            (regs::FAULT_ADDR_LO, _) => Self::Addr(0),
            (regs::FAULT_ADDR_HI, _) => Self::Addr(1),
            (regs::FAULT_INST_LO, _) => Self::Inst(0),
            (regs::FAULT_INST_HI, _) => Self::Inst(1),
            (regs::FAULT_INFO, _) => Self::Info,
            (regs::FAULT_STATUS, _) => Self::Status,
            (regs::NISO_INTR, _) => Self::NisoIntr,
            (regs::NISO_INTR_EN, _) => Self::NisoEnabled,
            (regs::NISO_INTR_EN_SET, _) => Self::NisoEnSet,
            (regs::NISO_INTR_EN_CLR, _) => Self::NisoEnClr,
            (_, regs::FAULT_BUFFER_LO) => Self::Lo(index),
            (_, regs::FAULT_BUFFER_HI) => Self::Hi(index),
            (_, regs::FAULT_BUFFER_GET) => Self::Get(index),
            (_, regs::FAULT_BUFFER_PUT) => Self::Put(index),
            (_, regs::FAULT_BUFFER_SIZE) => Self::Size(index),
            _ => return None,
        })
    }
}

/// What the registers hold.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) buffers: [Buffer; BUFFERS],
    snapshot: Snapshot,
    /// VALID and DROPPED of FAULT_STATUS.
    latched: regs::FaultStatus,
    niso_enabled: regs::NisoIntr,
}

impl State {
    /// Keeps a fault that fits in no buffer; false if there is one already.
    pub(crate) fn keep(&mut self, snapshot: Snapshot) -> bool {
        if self.latched.valid() {
            self.latched.set_dropped_other_virt(true);
            return false;
        }
        self.snapshot = snapshot;
        self.latched.set_valid(true);
        true
    }

    pub(crate) fn is_enabled(&self, index: usize) -> bool {
        self.buffer(index).size.enable()
    }

    pub(crate) fn has_room(&self, index: usize) -> bool {
        self.buffer(index).has_room()
    }

    /// Whether an enabled interrupt is pending.
    pub(crate) fn level(&self) -> bool {
        self.niso().into_bits() & self.niso_enabled.into_bits() != 0
    }

    fn niso(&self) -> regs::NisoIntr {
        let [non_replay, replay] = self.buffers;
        let stopped = |buffer: Buffer| buffer.getptr_corrupted || buffer.error;
        regs::NisoIntr::new()
            .with_replay_notify(replay.notifies())
            .with_replay_overflow(replay.overflow_notifies())
            .with_nonreplay_notify(non_replay.notifies())
            .with_nonreplay_overflow(non_replay.overflow_notifies())
            .with_other(stopped(replay) || stopped(non_replay) || self.latched.valid())
    }

    fn status(&self) -> regs::FaultStatus {
        let [non_replay, replay] = self.buffers;
        self.latched
            .with_replayable(replay.notifies())
            .with_non_replayable(non_replay.notifies())
            .with_replayable_error(replay.error)
            .with_non_replayable_error(non_replay.error)
            .with_replayable_overflow(replay.overflow)
            .with_non_replayable_overflow(non_replay.overflow)
            .with_replayable_getptr_corrupted(replay.getptr_corrupted)
            .with_non_replayable_getptr_corrupted(non_replay.getptr_corrupted)
    }

    fn write_status(&mut self, value: regs::FaultStatus) {
        let latched = self.latched.into_bits() & !value.into_bits();
        self.latched = latched.into();
        let [non_replay, replay] = &mut self.buffers;
        non_replay.error &= !value.non_replayable_error();
        replay.error &= !value.replayable_error();
    }

    fn buffer(&self, index: usize) -> Buffer {
        self.buffers.get(index).copied().unwrap_or_default()
    }

    pub(crate) fn read(&self, register: Register) -> u32 {
        let half = |halves: [u32; 2], i: usize| halves.get(i).copied().unwrap_or(0);
        match register {
            Register::Lo(i) => self.buffer(i).lo.into_bits(),
            Register::Hi(i) => self.buffer(i).hi,
            Register::Get(i) => self.buffer(i).pointer(self.buffer(i).get).into_bits(),
            Register::Put(i) => self.buffer(i).pointer(self.buffer(i).put).into_bits(),
            Register::Size(i) => self.buffer(i).size.into_bits(),
            Register::Addr(i) => half(self.snapshot.addr, i),
            Register::Inst(i) => half(self.snapshot.inst, i),
            Register::Info => self.snapshot.info,
            Register::Status => self.status().into_bits(),
            Register::NisoIntr => self.niso().into_bits(),
            Register::NisoEnabled => self.niso_enabled.into_bits(),
            Register::NisoEnSet | Register::NisoEnClr => 0,
        }
    }

    pub(crate) fn write(&mut self, register: Register, value: u32, default_entries: u32) {
        let enabled = self.niso_enabled.into_bits();
        match register {
            Register::Lo(i) => self.change(i, |b| b.write_address(|b| b.lo = value.into())),
            Register::Hi(i) => self.change(i, |b| b.write_address(|b| b.hi = value)),
            Register::Size(i) => self.change(i, |b| b.write_size(value.into(), default_entries)),
            Register::Get(i) => self.change(i, |b| b.write_get(value.into())),
            Register::Status => self.write_status(value.into()),
            Register::NisoEnSet => self.niso_enabled = (enabled | value).into(),
            Register::NisoEnClr => self.niso_enabled = (enabled & !value).into(),
            Register::Put(_)
            | Register::Addr(_)
            | Register::Inst(_)
            | Register::Info
            | Register::NisoIntr
            | Register::NisoEnabled => {}
        }
    }

    fn change(&mut self, index: usize, change: impl FnOnce(&mut Buffer)) {
        if let Some(buffer) = self.buffers.get_mut(index) {
            change(buffer);
        }
    }
}
