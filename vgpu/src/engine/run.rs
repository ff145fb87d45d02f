// SPDX-License-Identifier: MIT OR Apache-2.0
//! A channel as engines see it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Weak;

use crate::mmu::{AddressSpace, Fault};

use super::GraphIntr;

/// The work of a channel between two BINDs. Work of an earlier run never touches a later one.
pub(crate) struct Run {
    /// The channel.
    pub(crate) channel: u16,
    /// Its address space, as the instance block had it at ENABLE_SET.
    pub(crate) space: AddressSpace,
    /// Methods are executed.
    open: AtomicBool,
    /// Engines let go of it: it was switched out or killed.
    off: AtomicBool,
    /// An access of a copy engine waits until software has cleared ENG_FAULTED.
    faulted: AtomicBool,
    dead: AtomicBool,
    /// Its channel is another's now: nothing of it is to be shown.
    disowned: AtomicBool,
    events: Weak<dyn ChannelEvents>,
}

/// What an engine tells the channel that work belongs to. Called with no lock held.
pub(crate) trait ChannelEvents: Send + Sync {
    /// The run was killed because a launch of it failed.
    fn engine_failed(&self, run: &Run, failure: Failure);
    /// An access of the run has no translation, and the engine goes on with others.
    fn engine_faulted(&self, run: &Run);
}

/// How a launch fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The driver cancelled a fault, or it could not be replayed.
    Faulted(Fault),
    /// An error that PGRAPH shows.
    Error(GraphIntr),
    /// An error that the engine shows itself, or its reset.
    Engine,
}

impl Run {
    pub(crate) fn new(channel: u16, space: AddressSpace, events: Weak<dyn ChannelEvents>) -> Self {
        Self {
            channel,
            space,
            open: AtomicBool::new(false),
            off: AtomicBool::new(false),
            faulted: AtomicBool::new(false),
            dead: AtomicBool::new(false),
            disowned: AtomicBool::new(false),
            events,
        }
    }

    /// Says whether methods are executed; launches that were submitted go on either way.
    pub(crate) fn set_open(&self, open: bool) {
        self.open.store(open, Ordering::SeqCst);
    }

    /// Whether methods are executed.
    pub(crate) fn is_open(&self) -> bool {
        self.open.load(Ordering::SeqCst) && !self.is_dead()
    }

    /// Engines are to let go of it and to keep what is unfinished. Whoever calls this wakes those that wait:
    /// [`super::Engine::kick`], the MMU's abandon.
    pub(crate) fn switch_out(&self) {
        self.off.store(true, Ordering::SeqCst);
    }

    /// Engines may go on. True if they were told to let go before.
    pub(crate) fn switch_in(&self) -> bool {
        let was_off = self.off.swap(false, Ordering::SeqCst);
        // A kill that came in between must not be undone.
        if self.is_dead() {
            self.off.store(true, Ordering::SeqCst);
        }
        was_off
    }

    /// Shows ENG_FAULTED to the engines. True if that lets them go on.
    pub(crate) fn set_faulted(&self, faulted: bool) -> bool {
        self.faulted.swap(faulted, Ordering::SeqCst) && !faulted
    }

    /// Everything of it is to end now; who calls this wakes those that wait, as with [`Run::switch_out`].
    /// True for the first one who does.
    pub(crate) fn kill(&self) -> bool {
        let first = !self.dead.swap(true, Ordering::SeqCst);
        self.off.store(true, Ordering::SeqCst);
        first
    }

    /// Its channel has no more to do with it. Whoever calls this kills it, and then drops the errors that are shown of it.
    pub(crate) fn disown(&self) {
        self.disowned.store(true, Ordering::SeqCst);
    }

    /// Whether its channel has no more to do with it.
    pub(crate) fn is_disowned(&self) -> bool {
        self.disowned.load(Ordering::SeqCst)
    }

    /// Whether it was killed.
    pub(crate) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::SeqCst)
    }

    /// Whether engines have to let go of it.
    pub(crate) fn is_off(&self) -> bool {
        self.off.load(Ordering::SeqCst)
    }

    /// The flag behind [`Run::is_off`], for the MMU to look at while it holds an SM.
    pub(crate) fn off(&self) -> &AtomicBool {
        &self.off
    }

    /// Whether an access waits until software has cleared ENG_FAULTED.
    pub(super) fn is_faulted(&self) -> bool {
        self.faulted.load(Ordering::SeqCst)
    }

    /// Whether engines may work on it.
    pub(super) fn may_work(&self) -> bool {
        !self.is_off() && !self.is_faulted()
    }

    pub(super) fn failed(&self, failure: Failure) {
        if let Some(events) = self.events.upgrade() {
            events.engine_failed(self, failure);
        }
    }

    pub(super) fn has_faulted(&self) {
        if let Some(events) = self.events.upgrade() {
            events.engine_faulted(self);
        }
    }
}
