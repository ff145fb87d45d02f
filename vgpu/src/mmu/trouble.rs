// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a hard-to-please device does to its fault packets: VALID comes late, packets come twice, long after their
//! fault, or without one.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::bus::PhysAddr;
use crate::config::{Config, PacketTrouble};
use crate::counters::Counters;

use super::packet::{Kind, Packet};

/// Packets that can come again, per device.
const REMEMBERED: usize = 64;

/// The last byte of a packet, with VALID in it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Late {
    pub(crate) at: PhysAddr,
    pub(crate) byte: u8,
    /// The buffer that it is for.
    pub(crate) buffer: usize,
}

/// State of the packet modes.
pub(crate) struct Trouble {
    mode: PacketTrouble,
    random: fastrand::Rng,
    late: Vec<(Instant, Late)>,
    past: VecDeque<(Kind, Packet)>,
}

impl Trouble {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            mode: config.packets,
            random: fastrand::Rng::with_seed(config.seed),
            late: Vec::new(),
            past: VecDeque::new(),
        }
    }

    /// Whether VALID of some packet is still to be written.
    pub(crate) fn is_late(&self) -> bool {
        !self.late.is_empty()
    }

    /// Keeps the last byte of a packet back; or gives it back, to be written now. One that is left from an earlier use
    /// of the slot is forgotten.
    pub(crate) fn postpone(&mut self, last: Late, counters: &Counters) -> Option<Late> {
        let Some(most) = self.mode.delayed_valid else {
            return Some(last);
        };
        self.late.retain(|(_, other)| other.at != last.at);
        let most = u64::try_from(most.as_nanos()).unwrap_or(u64::MAX);
        let delay = self.random.u64(..=most);
        let due = Instant::now() + Duration::from_nanos(delay);
        self.late.push((due, last));
        counters.delayed_valids.count();
        counters.valid_delay_ns.add(delay);
        None
    }

    /// Takes out what is to be written now.
    pub(crate) fn take_late(&mut self, which: impl Fn(&Late, Instant) -> bool) -> Vec<Late> {
        let mut taken = Vec::new();
        self.late.retain(|(due, late)| {
            let now = which(late, *due);
            if now {
                taken.push(*late);
            }
            !now
        });
        taken
    }

    /// How long until the next VALID is due.
    pub(crate) fn next_due(&self) -> Option<Duration> {
        let next = self.late.iter().map(|(due, _)| *due).min()?;
        Some(next.saturating_duration_since(Instant::now()))
    }

    /// The packets that follow one without a fault of their own.
    pub(crate) fn extras(
        &mut self,
        kind: Kind,
        packet: &Packet,
        counters: &Counters,
    ) -> Vec<Packet> {
        let mut extras = Vec::new();
        if self.happens(self.mode.duplicate_percent) {
            counters.duplicate_packets.count();
            extras.push(*packet);
        }
        if self.happens(self.mode.stale_percent) {
            if let Some(stale) = self.stale(kind, packet) {
                counters.stale_packets.count();
                extras.push(stale);
            }
        }
        if self.happens(self.mode.nonsense_percent) {
            counters.nonsense_packets.count();
            extras.push(self.nonsense(packet));
        }
        self.remember(kind, packet);
        extras
    }

    fn happens(&mut self, percent: u8) -> bool {
        // No draw where the mode is off: each mode's choices then follow from the seed alone.
        percent > 0 && self.random.u8(..100) < percent
    }

    /// An earlier packet of the same channel and buffer.
    fn stale(&mut self, kind: Kind, packet: &Packet) -> Option<Packet> {
        let same = |(past_kind, past): &&(Kind, Packet)| {
            *past_kind == kind && past.is_of_channel_of(packet)
        };
        let candidates: Vec<_> = self.past.iter().filter(same).collect();
        let chosen = self.random.choice(candidates)?;
        Some(chosen.1)
    }

    /// A packet that no fault makes: it differs from a good one in a field that rules it out.
    fn nonsense(&mut self, packet: &Packet) -> Packet {
        match self.random.u8(..4) {
            0 => packet.of_no_channel(),
            // More than 49 bits, which is not what the packet says is wrong with it.
            1 => packet.with_addr_top(0x80 | self.random.u8(..)),
            // There is no such engine,
            2 => packet.with_engine(0x1ff),
            // ... nor such a fault type.
            _ => {
                let any = self.random.u8(..);
                packet.with_type(0x10 | (any & 0xf), any & 0x80 != 0)
            }
        }
    }

    fn remember(&mut self, kind: Kind, packet: &Packet) {
        // A cancelled request ended its channel: a second packet would be about whoever has the instance block by then.
        let cancelled = kind == Kind::NonReplayable && !packet.is_from_hub();
        if self.mode.stale_percent == 0 || cancelled {
            return;
        }
        if self.past.len() == REMEMBERED {
            self.past.pop_front();
        }
        self.past.push_back((kind, *packet));
    }

    /// Forgets all packets.
    pub(crate) fn reset(&mut self) {
        self.late.clear();
        self.past.clear();
    }
}
