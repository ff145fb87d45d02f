// SPDX-License-Identifier: MIT OR Apache-2.0
//! The two fault buffers: packets into memory, and the interrupt level that they make.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::bus::{Bus, PhysAddr};
use crate::config::{Config, MAX_FAULT_BUFFER_ENTRIES, MIN_FAULT_BUFFER_ENTRIES};
use crate::counters::Counters;
use crate::intr::{InterruptTree, Source};

use super::buffer::Slot;
use super::fault_regs::{Register, State, BUFFERS};
use super::packet::{Kind, Packet, Report, PACKET_BYTES};
use super::trouble::{Late, Trouble};

/// What the lock protects.
struct Locked {
    state: State,
    trouble: Trouble,
}

/// The fault buffers.
pub(crate) struct FaultBuffers {
    bus: Arc<dyn Bus>,
    intr: Arc<InterruptTree>,
    counters: Arc<Counters>,
    default_entries: u32,
    locked: Mutex<Locked>,
    /// The PUT registers, read without the lock: a driver may see PUT move before the packet is there.
    put: [AtomicU32; BUFFERS],
}

/// The place of a buffer among the two.
fn index(kind: Kind) -> usize {
    match kind {
        Kind::NonReplayable => 0,
        Kind::Replayable => 1,
    }
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
            locked: Mutex::new(Locked {
                state: State::default(),
                trouble: Trouble::new(config),
            }),
            put: Default::default(),
        }
    }

    /// Writes a packet, VALID last. The caller calls [`Self::update_level`] when it holds no lock any more. True: VALID
    /// of a packet is late, and [`Self::deliver`] has to be called when it is due.
    pub(crate) fn push(&self, report: &Report<'_>) -> bool {
        let mut locked = self.lock();
        let packet = report.encode();
        if !self.put(&mut locked, report.kind, &packet) {
            self.counters.dropped_packets.count();
            let disabled = !locked.state.is_enabled(index(report.kind));
            if disabled && locked.state.keep(report.snapshot()) {
                self.counters.snapshots.count();
            }
            return false;
        }
        match report.kind {
            Kind::NonReplayable => self.counters.non_replayable_packets.count(),
            Kind::Replayable => self.counters.replayable_packets.count(),
        }
        for extra in locked.trouble.extras(report.kind, &packet, &self.counters) {
            if locked.state.has_room(index(report.kind)) {
                self.put(&mut locked, report.kind, &extra);
            }
        }
        locked.trouble.is_late()
    }

    /// Puts a packet into the next slot. False: there is none.
    fn put(&self, locked: &mut Locked, kind: Kind, packet: &Packet) -> bool {
        let index = index(kind);
        let Some(buffer) = locked.state.buffers.get_mut(index) else {
            return false;
        };
        let slot = buffer.take_slot();
        self.publish_put(&locked.state);
        let Slot::At(at) = slot else {
            return false;
        };
        let packet = packet.bytes();
        let (body, last) = packet.split_at(PACKET_BYTES - 1);
        let end = at.offset(body.len() as u64);
        let mut written = self.bus.write(at, body).is_ok();
        let last = Late {
            at: end,
            byte: last.first().copied().unwrap_or(0),
            buffer: index,
        };
        if let Some(now) = locked.trouble.postpone(last, &self.counters) {
            written &= self.write_last(now.at, now.byte);
        }
        if !written {
            self.counters.bus_errors.count();
            if let Some(buffer) = locked.state.buffers.get_mut(index) {
                buffer.error = true;
            }
        }
        true
    }

    fn write_last(&self, at: PhysAddr, byte: u8) -> bool {
        self.bus.write(at, &[byte]).is_ok()
    }

    /// Writes the VALID bits that are due. Returns how long until the next one is.
    pub(crate) fn deliver(&self) -> Option<Duration> {
        let mut locked = self.lock();
        self.write_late(&mut locked.trouble, |_, due| due <= Instant::now());
        locked.trouble.next_due()
    }

    fn write_late(&self, trouble: &mut Trouble, which: impl Fn(&Late, Instant) -> bool) {
        for late in trouble.take_late(which) {
            if !self.write_last(late.at, late.byte) {
                self.counters.bus_errors.count();
            }
        }
    }

    /// Brings the interrupt level up to date. Takes the interrupt tree's lock and then this one's.
    pub(crate) fn update_level(&self) {
        self.intr.update(Source::Hub, || self.lock().state.level());
    }

    pub(crate) fn read(&self, offset: u32) -> Option<u32> {
        let register = Register::decode(offset)?;
        if let Register::Put(index) = register {
            return self.put.get(index).map(|put| put.load(Ordering::Acquire));
        }
        Some(self.lock().state.read(register))
    }

    pub(crate) fn write(&self, offset: u32, value: u32) -> Option<()> {
        let register = Register::decode(offset)?;
        {
            let mut guard = self.lock();
            let Locked { state, trouble } = &mut *guard;
            state.write(register, value, self.default_entries);
            // Software may give the memory of a disabled buffer to somebody else.
            self.write_late(trouble, |late, _| !state.is_enabled(late.buffer));
            self.publish_put(state);
        }
        self.update_level();
        Some(())
    }

    pub(crate) fn reset(&self) {
        {
            let mut locked = self.lock();
            locked.state = State::default();
            locked.trouble.reset();
            self.publish_put(&locked.state);
        }
        self.update_level();
    }

    fn publish_put(&self, state: &State) {
        for (put, buffer) in self.put.iter().zip(&state.buffers) {
            put.store(buffer.pointer(buffer.put).into_bits(), Ordering::Release);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Locked> {
        self.locked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
