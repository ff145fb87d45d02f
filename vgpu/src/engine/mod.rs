// SPDX-License-Identifier: MIT OR Apache-2.0
//! Engines: what executes the methods that host does not keep for itself.
//!
//! Host knows an engine only as [`Engine`] and [`Context`]; the compute class is the one there is.

mod compute;
mod graph;
mod lane;
mod launch;
mod regs;
mod scheduler;
mod sm;
mod warp;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use crate::fifo::Method;
use crate::mmu::{AddressSpace, Fault};

pub(crate) use compute::{Compute, ComputeParts};
pub(crate) use graph::{Graph, GraphError};
pub(crate) use regs::GraphIntr;

/// One activation of a channel: from ENABLE_SET to its end. Work of an earlier activation never touches a later one.
pub(crate) struct Run {
    /// The channel.
    pub(crate) channel: u16,
    /// Its address space, as the instance block had it at ENABLE_SET.
    pub(crate) space: AddressSpace,
    paused: AtomicBool,
    dead: AtomicBool,
    events: Weak<dyn ChannelEvents>,
}

/// What an engine tells the channel that work belongs to. Called with no lock held.
pub(crate) trait ChannelEvents: Send + Sync {
    /// The run was killed because a launch of it failed.
    fn engine_failed(&self, failure: Failure);
}

/// How a launch fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The driver cancelled a fault, or it could not be replayed.
    Faulted(Fault),
    /// An error that PGRAPH shows.
    Error(GraphIntr),
}

impl Run {
    pub(crate) fn new(channel: u16, space: AddressSpace, events: Weak<dyn ChannelEvents>) -> Self {
        Self {
            channel,
            space,
            paused: AtomicBool::new(false),
            dead: AtomicBool::new(false),
            events,
        }
    }

    /// No further method is begun; launches that were submitted go on.
    pub(crate) fn pause(&self) {
        self.paused.store(true, Ordering::Release);
    }

    /// Whether methods are still executed.
    pub(crate) fn is_active(&self) -> bool {
        !self.paused.load(Ordering::Acquire) && !self.is_dead()
    }

    /// Everything of it is to end now. Whoever calls this wakes those that wait: [`Engine::kick`], the MMU's abandon.
    /// True for the first one who does.
    pub(crate) fn kill(&self) -> bool {
        !self.dead.swap(true, Ordering::AcqRel)
    }

    /// Whether it was killed.
    pub(crate) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Acquire)
    }

    /// The flag behind [`Run::is_dead`], for the MMU to look at while it holds an SM.
    pub(crate) fn dead(&self) -> &AtomicBool {
        &self.dead
    }

    fn failed(&self, failure: Failure) {
        if let Some(events) = self.events.upgrade() {
            events.engine_failed(failure);
        }
    }
}

/// Why an engine did not execute a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The class has no such method.
    IllegalMethod,
    /// The method's data, or the state that it acts on, break the rules of the class.
    ClassError,
    /// The run ended while the method waited.
    Ended,
}

/// A class that can be bound to subchannels.
pub(crate) trait Engine: Send + Sync {
    /// The class that SET_OBJECT names.
    fn class(&self) -> u32;
    /// Fresh state of the class for one subchannel of a run.
    fn context(&self, run: &Arc<Run>) -> Box<dyn Context>;
    /// Waits until the run has no launch left; at once, as far as the launches are concerned, if it is dead.
    /// Then all its stores have landed.
    fn wait_idle(&self, run: &Run);
    /// Whether the run has launches.
    fn is_busy(&self, run: &Run) -> bool;
    /// Lets everything that waits look at its run again.
    fn kick(&self);
}

/// The state of a class on one subchannel.
pub(crate) trait Context: Send {
    /// Executes a method of the class.
    fn method(&mut self, method: Method) -> Result<(), Refusal>;
}
