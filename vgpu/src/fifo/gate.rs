// SPDX-License-Identifier: MIT OR Apache-2.0
//! The worker's side of a channel: what to do next, and when it may reach memory.
//!
//! A worker keeps what it is in the middle of on its stack. It reaches memory only between [`Channel::enter`] and
//! [`Channel::leave`]; a channel that is not to run keeps it in `enter`. That is what a context switch comes down to here.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use crate::engine::Run;

use super::channel::{Channel, Task};
use super::worker::Stop;

impl Channel {
    /// Waits for something to do.
    pub(super) fn next(&self) -> Task {
        let mut state = self.lock();
        state.serving = false;
        loop {
            if let Some(run) = state.ending.first() {
                return Task::End(Arc::clone(run));
            }
            if state.shutdown {
                return Task::Quit;
            }
            if let (true, Some(activation)) = (state.is_ready(), state.current.clone()) {
                state.doorbell = false;
                state.serving = true;
                return Task::Serve(activation);
            }
            state = self.wait(state);
        }
    }

    /// The run's end has come.
    pub(super) fn ended(&self, run: &Arc<Run>) {
        let mut state = self.lock();
        state.ending.retain(|ending| !Arc::ptr_eq(ending, run));
        self.changed.notify_all();
    }

    /// The worker is going to reach memory for `run`: waits until the channel may. `Err`: the run is dead.
    pub(super) fn enter(&self, run: &Run) -> Result<(), Stop> {
        loop {
            // Whoever closes the channel first closes the run and then looks at `inside`.
            self.inside.store(true, Ordering::SeqCst);
            if run.is_open() {
                return Ok(());
            }
            self.leave();
            let mut state = self.lock();
            while !run.is_open() {
                if run.is_dead() {
                    return Err(Stop::Ended);
                }
                state = self.wait(state);
            }
        }
    }

    /// The worker reaches no memory before it enters again.
    pub(super) fn leave(&self) {
        self.inside.store(false, Ordering::SeqCst);
    }

    /// Sleeps outside, for this long or until something has changed.
    pub(super) fn sleep(&self, run: &Run, time: Duration) -> Result<(), Stop> {
        self.leave();
        let state = self.lock();
        if run.is_open() {
            let woken = self.changed.wait_timeout(state, time);
            drop(woken.unwrap_or_else(PoisonError::into_inner));
        } else {
            drop(state);
        }
        self.enter(run)
    }

    /// Where to go on.
    pub(super) fn gp_get(&self) -> u32 {
        self.lock().gp_get
    }

    /// `Err`: the run has ended, and where to go on is another's affair.
    pub(super) fn set_gp_get(&self, run: &Run, index: u32) -> Result<(), Stop> {
        let mut state = self.lock();
        if !state.is_current(run) {
            return Err(Stop::Ended);
        }
        state.gp_get = index;
        Ok(())
    }

    /// The channel had an error.
    pub(super) fn stop(&self, run: &Run) {
        self.change(|state| state.stopped |= state.is_current(run));
    }

    /// Host faulted: the channel waits until software clears PBDMA_FAULTED.
    pub(super) fn pbdma_faulted(&self, run: &Run) {
        self.change(|state| state.pbdma_faulted |= state.is_current(run));
    }
}
