// SPDX-License-Identifier: MIT OR Apache-2.0
//! The two fault buffers, their registers and their interrupt level.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::bus::{Aperture, Bus, PhysAddr};
use crate::config::{Config, MAX_FAULT_BUFFER_ENTRIES, MIN_FAULT_BUFFER_ENTRIES};
use crate::counters::Counters;
use crate::intr::{InterruptTree, Source};
use crate::regs::fault as regs;

use super::format::PAGE_SHIFT;
use super::packet::{Kind, Report, PACKET_BYTES};

const BUFFERS: usize = 2;

/// One buffer's registers.
#[derive(Clone, Copy, Debug, Default)]
struct Buffer {
    lo: regs::BufferLo,
    hi: u32,
    size: regs::BufferSize,
    get: u32,
    put: u32,
    overflow: bool,
    getptr_corrupted: bool,
}

/// Where the next packet goes.
enum Slot {
    At(PhysAddr),
    /// Disabled, full, or stopped by an error that software has to clear.
    Closed,
}

impl Buffer {
    fn entries(&self) -> u32 {
        self.size.val()
    }

    fn aperture(&self) -> Option<Aperture> {
        match self.lo.aperture() {
            0 => Some(Aperture::Vid),
            2 | 3 => Some(Aperture::Sys),
            _ => None,
        }
    }

    fn next_put(&self) -> u32 {
        let next = self.put + 1;
        if next < self.entries() {
            next
        } else {
            0
        }
    }

    fn is_full(&self) -> bool {
        self.next_put() == self.get
    }

    fn notifies(&self) -> bool {
        self.get != self.put
    }

    fn overflow_notifies(&self) -> bool {
        self.overflow && self.size.overflow_intr()
    }

    fn pointer(&self, ptr: u32) -> regs::BufferPtr {
        regs::BufferPtr::new()
            .with_ptr(ptr)
            .with_getptr_corrupted(self.getptr_corrupted)
            .with_overflow(self.overflow)
    }

    /// Takes the slot at PUT and advances PUT.
    fn take_slot(&mut self) -> Slot {
        let Some(aperture) = self.aperture().filter(|_| self.size.enable()) else {
            return Slot::Closed;
        };
        if self.overflow || self.getptr_corrupted {
            return Slot::Closed;
        }
        if self.is_full() {
            self.overflow = true;
            return Slot::Closed;
        }
        let base = (u64::from(self.hi) << 32) | (u64::from(self.lo.addr()) << PAGE_SHIFT);
        let addr = base.wrapping_add(u64::from(self.put) * PACKET_BYTES as u64);
        self.put = self.next_put();
        Slot::At(PhysAddr { aperture, addr })
    }

    fn write_size(&mut self, value: regs::BufferSize, default_entries: u32) {
        if !self.size.enable() {
            let entries = if value.set_default() {
                default_entries
            } else {
                value.val()
            };
            self.size.set_val(entries);
        }
        let usable = self.lo.physical() && self.aperture().is_some() && self.entries() > 0;
        let enable = value.enable() && usable;
        if enable && !self.size.enable() && self.get.max(self.put) >= self.entries() {
            (self.get, self.put) = (0, 0);
        }
        self.size.set_enable(enable);
        self.size.set_overflow_intr(value.overflow_intr());
    }

    /// Flags are judged by the pointer that was there before: a write that both moves GET and clears OVERFLOW does
    /// not clear it while the buffer was full, as one that races with the next fault would not.
    fn write_get(&mut self, value: regs::BufferPtr) {
        let was_full = self.is_full();
        if value.ptr() >= self.entries().max(1) {
            self.getptr_corrupted = true;
            return;
        }
        self.get = value.ptr();
        self.overflow &= !value.overflow() || was_full;
        self.getptr_corrupted &= !value.getptr_corrupted();
    }

    fn write_address(&mut self, write: impl FnOnce(&mut Self)) {
        // The address is latched while the buffer is enabled.
        if !self.size.enable() {
            write(self);
        }
    }
}

#[derive(Debug, Default)]
struct State {
    buffers: [Buffer; BUFFERS],
    niso_enabled: regs::NisoIntr,
}

/// A register of the fault buffers.
enum Register {
    Lo(usize),
    Hi(usize),
    Get(usize),
    Put(usize),
    Size(usize),
    Status,
    NisoIntr,
    NisoEnabled,
    NisoEnSet,
    NisoEnClr,
}

impl Register {
    fn decode(offset: u32) -> Option<Self> {
        let (first, index) = match offset.checked_sub(regs::FAULT_BUFFER_STRIDE) {
            Some(first) if first >= regs::FAULT_BUFFER_LO => (first, 1),
            _ => (offset, 0),
        };
        Some(match (offset, first) {
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

impl State {
    fn niso(&self) -> regs::NisoIntr {
        let [non_replay, replay] = self.buffers;
        regs::NisoIntr::new()
            .with_replay_notify(replay.notifies())
            .with_replay_overflow(replay.overflow_notifies())
            .with_nonreplay_notify(non_replay.notifies())
            .with_nonreplay_overflow(non_replay.overflow_notifies())
            .with_other(replay.getptr_corrupted || non_replay.getptr_corrupted)
    }

    fn status(&self) -> regs::FaultStatus {
        let [non_replay, replay] = self.buffers;
        regs::FaultStatus::new()
            .with_replayable(replay.notifies())
            .with_non_replayable(non_replay.notifies())
            .with_replayable_overflow(replay.overflow)
            .with_non_replayable_overflow(non_replay.overflow)
            .with_replayable_getptr_corrupted(replay.getptr_corrupted)
            .with_non_replayable_getptr_corrupted(non_replay.getptr_corrupted)
    }

    fn buffer(&self, index: usize) -> Buffer {
        self.buffers.get(index).copied().unwrap_or_default()
    }

    fn read(&self, register: &Register) -> u32 {
        match *register {
            Register::Lo(i) => self.buffer(i).lo.into_bits(),
            Register::Hi(i) => self.buffer(i).hi,
            Register::Get(i) => self.buffer(i).pointer(self.buffer(i).get).into_bits(),
            Register::Put(i) => self.buffer(i).pointer(self.buffer(i).put).into_bits(),
            Register::Size(i) => self.buffer(i).size.into_bits(),
            Register::Status => self.status().into_bits(),
            Register::NisoIntr => self.niso().into_bits(),
            Register::NisoEnabled => self.niso_enabled.into_bits(),
            Register::NisoEnSet | Register::NisoEnClr => 0,
        }
    }

    fn write(&mut self, register: &Register, value: u32, default_entries: u32) {
        let index = match *register {
            Register::Lo(i) | Register::Hi(i) | Register::Get(i) | Register::Size(i) => i,
            Register::NisoEnSet | Register::NisoEnClr => {
                let set = matches!(register, Register::NisoEnSet);
                let enabled = self.niso_enabled.into_bits();
                let enabled = if set {
                    enabled | value
                } else {
                    enabled & !value
                };
                self.niso_enabled = regs::NisoIntr::from(enabled);
                return;
            }
            Register::Put(_) | Register::Status | Register::NisoIntr | Register::NisoEnabled => {
                return
            }
        };
        let Some(buffer) = self.buffers.get_mut(index) else {
            return;
        };
        match *register {
            Register::Lo(_) => buffer.write_address(|b| b.lo = value.into()),
            Register::Hi(_) => buffer.write_address(|b| b.hi = value),
            Register::Size(_) => buffer.write_size(value.into(), default_entries),
            _ => buffer.write_get(value.into()),
        }
    }
}

/// The fault buffers.
pub(crate) struct FaultBuffers {
    bus: Arc<dyn Bus>,
    intr: Arc<InterruptTree>,
    counters: Arc<Counters>,
    default_entries: u32,
    state: Mutex<State>,
    /// The PUT registers, read without the lock: a driver may see PUT move before the packet is there.
    put: [AtomicU32; BUFFERS],
}

impl FaultBuffers {
    pub(crate) fn new(
        bus: Arc<dyn Bus>,
        intr: Arc<InterruptTree>,
        counters: Arc<Counters>,
        config: &Config,
    ) -> Self {
        let limits = MIN_FAULT_BUFFER_ENTRIES..=MAX_FAULT_BUFFER_ENTRIES;
        let entries = config.fault_buffer_entries;
        Self {
            bus,
            intr,
            counters,
            default_entries: entries.clamp(*limits.start(), *limits.end()),
            state: Mutex::default(),
            put: Default::default(),
        }
    }

    /// Writes a packet, VALID last. The caller calls [`Self::update_level`] when it holds no lock any more.
    pub(crate) fn push(&self, report: &Report<'_>) {
        let mut state = self.lock();
        let (index, counter) = match report.kind {
            Kind::NonReplayable => (0, &self.counters.non_replayable_packets),
            Kind::Replayable => (1, &self.counters.replayable_packets),
        };
        let Some(buffer) = state.buffers.get_mut(index) else {
            return;
        };
        let slot = buffer.take_slot();
        self.publish_put(&state);
        let Slot::At(at) = slot else {
            self.counters.dropped_packets.count();
            return;
        };
        counter.count();
        let packet = report.encode();
        let (body, valid) = packet.split_at(PACKET_BYTES - 1);
        let written = self.bus.write(at, body);
        let written = written.and_then(|()| self.bus.write(at.offset(body.len() as u64), valid));
        if written.is_err() {
            self.counters.bus_errors.count();
        }
    }

    /// Brings the interrupt level up to date. Takes the interrupt tree's lock and then this one's.
    pub(crate) fn update_level(&self) {
        self.intr.update(Source::Hub, || {
            let state = self.lock();
            state.niso().into_bits() & state.niso_enabled.into_bits() != 0
        });
    }

    pub(crate) fn read(&self, offset: u32) -> Option<u32> {
        let register = Register::decode(offset)?;
        if let Register::Put(index) = register {
            return self.put.get(index).map(|put| put.load(Ordering::Acquire));
        }
        Some(self.lock().read(&register))
    }

    pub(crate) fn write(&self, offset: u32, value: u32) -> Option<()> {
        let register = Register::decode(offset)?;
        {
            let mut state = self.lock();
            state.write(&register, value, self.default_entries);
            self.publish_put(&state);
        }
        self.update_level();
        Some(())
    }

    pub(crate) fn reset(&self) {
        {
            let mut state = self.lock();
            *state = State::default();
            self.publish_put(&state);
        }
        self.update_level();
    }

    fn publish_put(&self, state: &State) {
        for (put, buffer) in self.put.iter().zip(&state.buffers) {
            put.store(buffer.pointer(buffer.put).into_bits(), Ordering::Release);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
