// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a channel is, between register accesses and what its worker and the engines report.

use std::sync::Arc;

use crate::bus::PhysAddr;
use crate::engine::Run;

use super::ramfc::RamFc;
use super::regs::ChannelInst;
use super::runlist::Place;

/// One run, as the worker is given it.
#[derive(Clone)]
pub(super) struct Activation {
    pub(super) run: Arc<Run>,
    pub(super) ramfc: RamFc,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) inst: ChannelInst,
    /// The instance block of BIND.
    pub(super) bound: Option<PhysAddr>,
    pub(super) enabled: bool,
    /// Where the submitted runlists have it.
    pub(super) place: Option<Place>,
    /// Where the last runlist that named it had it.
    pub(super) last_place: Option<Place>,
    pub(super) pbdma_faulted: bool,
    pub(super) eng_faulted: bool,
    /// The channel had an error: nothing more before the next BIND.
    pub(super) stopped: bool,
    pub(super) gp_get: u32,
    pub(super) doorbell: bool,
    /// The worker executes entries.
    pub(super) serving: bool,
    pub(super) current: Option<Activation>,
    /// PREEMPT took the current run off the engines, and nobody has seen it gone yet.
    pub(super) leaving: bool,
    /// Earlier runs, dead, that the worker has not seen the end of.
    pub(super) ending: Vec<Arc<Run>>,
    pub(super) shutdown: bool,
}

impl State {
    /// Whether engines may work for the channel.
    pub(super) fn is_scheduled(&self) -> bool {
        self.enabled && self.place.is_some()
    }

    /// Whether methods are executed.
    pub(super) fn is_open(&self) -> bool {
        self.is_scheduled() && !self.stopped && !self.pbdma_faulted && !self.eng_faulted
    }

    /// Whether there is a doorbell to answer.
    pub(super) fn is_ready(&self) -> bool {
        self.is_open() && self.doorbell
    }

    /// Tells the run what has become of the channel. True if engines may go on that could not before.
    pub(super) fn settle(&mut self) -> bool {
        let Some(current) = &self.current else {
            return false;
        };
        let run = &current.run;
        if run.is_dead() {
            return false;
        }
        run.set_open(self.is_open());
        let resumed = run.set_faulted(self.eng_faulted);
        if !self.is_scheduled() {
            return resumed;
        }
        self.leaving = false;
        run.switch_in() || resumed
    }

    /// Ends the current run, without waiting for the end.
    pub(super) fn kill(&mut self) -> Option<Arc<Run>> {
        let current = self.current.take()?;
        current.run.disown();
        current.run.kill();
        self.leaving = false;
        self.ending.push(Arc::clone(&current.run));
        Some(current.run)
    }

    pub(super) fn is_current(&self, run: &Run) -> bool {
        let current = self.current.as_ref();
        current.is_some_and(|current| std::ptr::eq(&*current.run, run))
    }
}
