// SPDX-License-Identifier: GPL-2.0

//! What a channel has to do with its faults: those for which the hardware switches it out until the driver has seen to them, and a second
//! look at those that nobody can serve.

use super::Channel;
use crate::{
    fault::{Fault, Origin, Switched},
    regs::NV_PCCSR_CHANNEL,
};
use kernel::{io::register::Array, new_mutex, prelude::*, sync::Mutex, time::Delta};

/// How long a bad access that does not come again keeps another one from being looked at, nanoseconds of the device's clock.
const SECOND_LOOK_MAX: u64 = Delta::from_millis(10).as_nanos() as u64;
/// Looks after which an access counts as waiting although others are replayed all the time.
const LOOKS_MAX: u32 = 64;
/// Ticks of the watchdog that a channel may be switched out before the access is tried again.
const TICKS_MAX: u32 = 2;

/// A bad access that was seen once.
struct Suspect {
    va: u64,
    /// When it was looked at, on the device's clock.
    since: u64,
    /// Times that it was looked at since.
    looks: u32,
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
        match &mut state.suspect {
            Some(suspect) if suspect.va == fault.va && fault.timestamp > suspect.since => {
                suspect.looks += 1;
                fault.timestamp > at.replayed || suspect.looks > LOOKS_MAX
            }
            Some(suspect) if at.now.saturating_sub(suspect.since) < SECOND_LOOK_MAX => false,
            _ => {
                state.suspect = Some(Suspect {
                    va: fault.va,
                    since: at.now,
                    looks: 0,
                });
                false
            }
        }
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

    /// An access was served: another bad one at its address is a new one.
    pub(crate) fn served(&self, va: u64) {
        self.note_progress();
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
