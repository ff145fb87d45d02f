// SPDX-License-Identifier: MIT OR Apache-2.0
//! NV_PFIFO_INTR_0 and NV_PPBDMA: where host's interrupts and errors are shown.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::engine::Run;
use crate::intr::{InterruptTree, Source};

use super::latch::Latch;
use super::push::Method;
use super::regs::{self, Intr0, PbdmaChannel, PbdmaIntr};
use super::runlist::SchedError;

/// An error of a channel's PBDMA.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PbdmaError {
    pub(crate) kind: PbdmaIntr,
    pub(crate) channel: u16,
    /// The method, or the header, where there is one.
    pub(crate) method: Option<Method>,
}

struct State {
    intr: Intr0,
    enabled: Intr0,
    pbdma: Latch<PbdmaError>,
    sched: Option<SchedError>,
}

impl State {
    fn new() -> Self {
        Self {
            intr: Intr0::new(),
            enabled: Intr0::new(),
            pbdma: Latch::new(),
            sched: None,
        }
    }

    /// Write one to clear.
    fn clear(&mut self, bits: u32) {
        self.intr = (u32::from(self.intr) & !bits).into();
        if !self.intr.sched_error() {
            self.sched = None;
        }
    }

    fn pending(&self) -> Intr0 {
        self.intr.with_pbdma_intr(self.pbdma.level())
    }
}

/// The interrupt and error registers of host.
pub(crate) struct Errors {
    intr: Arc<InterruptTree>,
    state: Mutex<State>,
}

impl Errors {
    pub(crate) fn new(intr: Arc<InterruptTree>) -> Self {
        Self {
            intr,
            state: Mutex::new(State::new()),
        }
    }

    /// A channel was enabled with an instance block that is of no use, or bound while it was enabled.
    pub(crate) fn bind_error(&self) {
        self.change(|state| state.intr.set_bind_error(true));
    }

    /// A runlist was not taken; the first reason is shown until the interrupt is cleared.
    pub(super) fn sched_error(&self, error: SchedError) {
        self.change(|state| {
            state.sched.get_or_insert(error);
            state.intr.set_sched_error(true);
        });
    }

    /// NON_STALL_INT.
    pub(crate) fn channel_intr(&self) {
        self.change(|state| state.intr.set_channel_intr(true));
    }

    /// Shows an error of a channel, when those before it have been cleared; unless the channel was bound anew since.
    pub(crate) fn pbdma(&self, error: PbdmaError, run: &Run) {
        log::warn!(
            "Channel {}: {:?}, {:x?}",
            error.channel,
            error.kind,
            error.method
        );
        self.change(|state| {
            // Looked at under the lock that `forget` takes after the run was disowned.
            if !run.is_disowned() && !state.pbdma.push(error.kind as u32, error) {
                log::warn!("PBDMA error dropped: too many are waiting");
            }
        });
    }

    /// Drops the errors of a channel. The level stays: it is that of the error shown.
    pub(crate) fn forget(&self, channel: u16) {
        self.lock().pbdma.forget(|error| error.channel == channel);
    }

    pub(crate) fn reset(&self) {
        self.change(|state| *state = State::new());
    }

    pub(crate) fn read(&self, offset: u32) -> Option<u32> {
        let state = self.lock();
        let error = state.pbdma.current();
        let method = error.and_then(|error| error.method);
        Some(match offset {
            regs::INTR_0 => state.pending().into(),
            regs::INTR_EN_0 => state.enabled.into(),
            regs::SCHED_ERROR => state.sched.map_or(0, |error| error as u32),
            regs::PBDMA_INTR_0 => state.pbdma.pending(),
            regs::PBDMA_INTR_EN_0 => state.pbdma.enabled(),
            regs::PBDMA_CHANNEL => {
                let shown = |error: &PbdmaError| {
                    PbdmaChannel::new()
                        .with_chid(error.channel)
                        .with_valid(true)
                };
                error.map_or(0, |error| shown(error).into())
            }
            regs::PBDMA_METHOD0 => method.map_or(0, Method::trapped),
            regs::PBDMA_DATA0 => method.map_or(0, |method| method.data),
            _ => return None,
        })
    }

    pub(crate) fn write(&self, offset: u32, value: u32) -> Option<()> {
        let change: fn(&mut State, u32) = match offset {
            regs::INTR_0 => State::clear,
            regs::INTR_EN_0 => |state, value| state.enabled = value.into(),
            regs::PBDMA_INTR_0 => |state, value| state.pbdma.clear(value),
            regs::PBDMA_INTR_EN_0 => |state, value| state.pbdma.set_enabled(value),
            regs::SCHED_ERROR | regs::PBDMA_CHANNEL | regs::PBDMA_METHOD0 | regs::PBDMA_DATA0 => {
                |_, _| {}
            }
            _ => return None,
        };
        self.change(|state| change(state, value));
        Some(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.intr.update(Source::Pfifo, || {
            let state = self.lock();
            u32::from(state.pending()) & u32::from(state.enabled) != 0
        });
    }
}
