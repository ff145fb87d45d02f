// SPDX-License-Identifier: GPL-2.0

//! What a channel has to do with its faults: those for which the hardware switches it out until the driver has seen to them, and a second
//! look at those that nobody can serve.

use super::Channel;
use crate::{
    fault::{Fault, Origin, Switched},
    regs::NV_PCCSR_CHANNEL,
};
use kernel::{io::register::Array, new_mutex, prelude::*, sync::Mutex};

/// Replays without it after which a bad access that was seen once is taken for an old packet, and another one is looked at.
const ABSENT_MAX: u32 = 8;
/// Looks after which an access counts as waiting although others are replayed all the time.
const LOOKS_MAX: u32 = 64;
/// Ticks of the watchdog that a channel may be switched out before the access is tried again.
const TICKS_MAX: u32 = 2;

/// A bad access that was seen once. While it waits for its second packet others of its channel are not looked at: whichever comes first ends
/// the channel.
struct Suspect {
    va: u64,
    /// When it was looked at, on the device's clock.
    since: u64,
    /// Times that it was looked at since.
    looks: u32,
    /// The last replay that is known of.
    replayed: u64,
    /// Replays since it was last seen, as far as they are known of. Time would not do: who serves many bad accesses may need long.
    absent: u32,
}

/// When a bad access is looked at, on the device's clock.
#[derive(Clone, Copy)]
pub(crate) struct LookTime {
    pub(crate) now: u64,
    /// When all accesses were last tried again: one that waits has a packet from after that. An older packet may be of
    /// an access that went through meanwhile, at an address that is no more.
    pub(crate) replayed: u64,
}

#[derive(Default)]
struct State {
    suspect: Option<Suspect>,
    /// Ticks of the watchdog since the channel was last resumed.
    ticks: u32,
    /// When the hardware began to run the channel, on the device's clock.
    begun: u64,
}

/// Faults of one channel.
#[pin_data]
pub(super) struct FaultState {
    #[pin]
    state: Mutex<State>,
}

impl Suspect {
    /// Looks at a bad access. Returns whether it is known to wait.
    fn look(suspect: &mut Option<Self>, va: u64, timestamp: u64, at: LookTime) -> bool {
        if let Some(known) = suspect {
            if !known.is_absent(va, at) {
                return known.is_confirmed(va, timestamp, at);
            }
        }
        *suspect = Some(Self::new(va, at));
        false
    }

    fn new(va: u64, at: LookTime) -> Self {
        Self {
            va,
            since: at.now,
            looks: 0,
            replayed: at.replayed,
            absent: 0,
        }
    }

    /// Whether it should have come again by now, when a packet of `va` is looked at.
    fn is_absent(&mut self, va: u64, at: LookTime) -> bool {
        if self.va == va {
            self.absent = 0;
        } else if self.replayed != at.replayed {
            self.absent += 1;
        }
        self.replayed = at.replayed;
        self.absent > ABSENT_MAX
    }

    /// Whether a packet of `va` shows that it waits: one from after the first look, and after the last replay.
    fn is_confirmed(&mut self, va: u64, timestamp: u64, at: LookTime) -> bool {
        if self.va != va || timestamp <= self.since {
            return false;
        }
        self.looks += 1;
        timestamp > at.replayed || self.looks > LOOKS_MAX
    }
}

impl FaultState {
    pub(super) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            state <- new_mutex!(State::default(), "mirage::fault_state"),
        })
    }
}

impl Channel {
    /// Whether a bad access has really come a second time, so that it must be waiting.
    pub(crate) fn second_look(&self, fault: &Fault, at: LookTime) -> bool {
        let mut state = self.faults.state.lock();
        if fault.timestamp < state.begun {
            return false;
        }
        Suspect::look(&mut state.suspect, fault.va, fault.timestamp, at)
    }

    /// The hardware is about to run the channel, for the first time or again: what it did before is forgotten.
    pub(super) fn forget_faults(&self) {
        let begun = self.gpu.ptimer_ns();
        *self.faults.state.lock() = State {
            begun,
            ..State::default()
        };
        if let Some(ccsr) = NV_PCCSR_CHANNEL::try_at(self.id().index()) {
            let clear = NV_PCCSR_CHANNEL::zeroed()
                .with_eng_faulted(true)
                .with_pbdma_faulted(true);
            self.gpu.bar0.write(ccsr, clear);
        }
    }

    /// Whether a fault of that time is of the channel as it runs now.
    pub(crate) fn is_of_this_life(&self, timestamp: u64) -> bool {
        timestamp >= self.faults.state.lock().begun
    }

    /// An access was served: the channel gets on.
    pub(crate) fn served(&self, va: u64) {
        self.note_progress();
        self.clear_suspect(va);
    }

    /// An access is a good one: another bad one at its address is a new one.
    pub(crate) fn clear_suspect(&self, va: u64) {
        let mut state = self.faults.state.lock();
        if state
            .suspect
            .as_ref()
            .is_some_and(|suspect| suspect.va == va)
        {
            state.suspect = None;
        }
    }

    /// Whether the hardware has switched the channel out because of a fault of `unit`.
    pub(crate) fn is_switched_out(&self, unit: Switched) -> bool {
        let Some(ccsr) = NV_PCCSR_CHANNEL::try_at(self.id.index()) else {
            return false;
        };
        let ccsr = self.gpu.bar0.read(ccsr);
        match unit {
            Switched::Engine => ccsr.eng_faulted(),
            Switched::Pbdma => ccsr.pbdma_faulted(),
        }
    }

    /// Lets a channel that is switched out go on; the access is tried again.
    pub(crate) fn resume(&self, origin: Origin) {
        let Origin::Switched(unit) = origin else {
            return;
        };
        // Under the lock under which it ends, so that the ID is still its own.
        let state = self.state.lock();
        if state.error.is_some() {
            return;
        }
        self.faults.state.lock().ticks = 0;
        self.gpu.counters.resumes.inc();
        let clear = match unit {
            Switched::Engine => NV_PCCSR_CHANNEL::zeroed().with_eng_faulted(true),
            Switched::Pbdma => NV_PCCSR_CHANNEL::zeroed().with_pbdma_faulted(true),
        };
        if let Some(ccsr) = NV_PCCSR_CHANNEL::try_at(self.id.index()) {
            self.gpu.bar0.write(ccsr, clear);
        }
    }

    /// A tick of the watchdog: a channel that is switched out and that nobody resumes has lost its packet, for example to an overflow. Its
    /// access is tried again, and has a new one.
    pub(crate) fn resume_if_forgotten(&self) {
        for unit in [Switched::Engine, Switched::Pbdma] {
            if !self.is_switched_out(unit) {
                continue;
            }
            let ticks = {
                let mut state = self.faults.state.lock();
                state.ticks += 1;
                state.ticks
            };
            if ticks > TICKS_MAX {
                self.gpu.counters.watchdog_kicks.inc();
                self.resume(Origin::Switched(unit));
            }
        }
    }
}

#[cfg(CONFIG_KUNIT = "y")]
#[kernel::macros::kunit_tests(mirage_suspect)]
mod tests {
    use super::*;

    const A: u64 = 0x1000;
    const B: u64 = 0x2000;

    const fn at(now: u64, replayed: u64) -> LookTime {
        LookTime { now, replayed }
    }

    #[test]
    fn an_access_is_believed_when_it_comes_again_after_a_replay() {
        let mut suspect = None;
        assert!(!Suspect::look(&mut suspect, A, 5, at(10, 0)));
        assert!(Suspect::look(&mut suspect, A, 21, at(30, 20)));
    }

    #[test]
    fn the_same_packet_twice_is_one_access() {
        let mut suspect = None;
        assert!(!Suspect::look(&mut suspect, A, 5, at(10, 0)));
        assert!(!Suspect::look(&mut suspect, A, 5, at(30, 20)));
    }

    #[test]
    fn a_packet_from_before_the_last_replay_proves_nothing() {
        let mut suspect = None;
        assert!(!Suspect::look(&mut suspect, A, 5, at(10, 0)));
        assert!(!Suspect::look(&mut suspect, A, 15, at(30, 20)));
    }

    #[test]
    fn an_access_beside_replays_without_end_is_believed_in_the_end() {
        let mut suspect = None;
        let looks =
            (0..1000).take_while(|i| !Suspect::look(&mut suspect, A, 15 + i, at(10, 2000 + i)));
        // CAST: Small.
        assert_eq!(looks.count() as u32, LOOKS_MAX + 1);
    }

    /// However slowly they are looked at, one of several accesses is the one that is waited for.
    #[test]
    fn accesses_that_all_wait_do_not_keep_each_other_from_being_believed() {
        const SLOW: u64 = 1 << 40;
        let mut suspect = None;
        let packets = [(A, 1), (B, 1), (A, 2), (B, 2)];
        let believed = packets.map(|(va, round)| {
            let replay = round * 8 * SLOW;
            Suspect::look(
                &mut suspect,
                va,
                replay + 1,
                at(replay + SLOW * (va / A), replay),
            )
        });
        assert_eq!(believed, [false, false, true, false]);
    }

    #[test]
    fn an_old_packet_does_not_keep_another_access_from_being_believed() {
        let mut suspect = None;
        assert!(!Suspect::look(&mut suspect, A, 5, at(10, 0)));
        let replays = (1..100)
            .take_while(|i| !Suspect::look(&mut suspect, B, 100 * i + 1, at(100 * i + 2, 100 * i)));
        // CAST: Small.
        assert_eq!(replays.count() as u32, ABSENT_MAX + 1);
    }
}
