// SPDX-License-Identifier: MIT OR Apache-2.0
//! Engines: what executes the methods that host does not keep for itself.
//!
//! Host knows an engine only as [`Engine`] and [`Context`].

mod compute;
mod copy;
mod graph;
mod lane;
mod launch;
pub(crate) mod reduction;
mod regs;
mod run;
mod scheduler;
mod sm;
mod warp;

use std::sync::Arc;

use crate::fifo::Method;

pub(crate) use compute::{Compute, ComputeParts};
pub(crate) use copy::{Copy, CopyParts};
pub(crate) use graph::{Graph, GraphError};
pub(crate) use regs::GraphIntr;
pub(crate) use run::{ChannelEvents, Failure, Run};

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
    /// The runlist whose channels it serves, which is also its number in NV_PFIFO_ENGINE_STATUS.
    fn runlist(&self) -> u8;
    /// Fresh state of the class for one subchannel of a run.
    fn context(&self, run: &Arc<Run>) -> Box<dyn Context>;
    /// Waits until the run has no launch left; at once, as far as the launches are concerned, if it is dead.
    /// Then all its stores have landed.
    fn wait_idle(&self, run: &Run);
    /// Whether the run has launches.
    fn is_busy(&self, run: &Run) -> bool;
    /// Whether the engine works on a launch of the run at this moment, and so may reach memory for it.
    fn is_active(&self, run: &Run) -> bool;
    /// The channel that it works on, or worked on last.
    fn status(&self) -> Status;
    /// Lets everything that waits look at its run again.
    fn kick(&self);
}

/// The state of a class on one subchannel.
pub(crate) trait Context: Send {
    /// Executes a method of the class.
    fn method(&mut self, method: Method) -> Result<(), Refusal>;
}

/// What NV_PFIFO_ENGINE_STATUS shows of an engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Status {
    /// The channel whose context is loaded.
    pub(crate) channel: Option<u16>,
    /// That channel's last access faulted.
    pub(crate) faulted: bool,
    /// The engine is at work, or stopped in the middle of it.
    pub(crate) busy: bool,
}
