// SPDX-License-Identifier: MIT OR Apache-2.0
//! Channels: queues of work.

use std::fmt;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use crate::copy;
use crate::error::{Error, Result};
use crate::node::Node;
use crate::ops::{Lanes, Operation};
use crate::push::PushBuffer;
use crate::report::{Access, Reason};
use crate::submission::{Job, Submission};
use crate::sys;
use crate::uapi::{self, ChannelAlloc, ChannelFree, ChannelQuery, ChannelReset, Param};

/// What a channel's work runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Engine {
    /// Many lanes: [`Channel::launch`].
    Compute,
    /// A copy engine, which one is up to the driver: [`Channel::run`].
    Copy,
}

impl Engine {
    fn number(self) -> u32 {
        match self {
            Engine::Compute => uapi::ENGINE_COMPUTE,
            Engine::Copy => uapi::ENGINE_COPY,
        }
    }

    fn class(self) -> Param {
        match self {
            Engine::Compute => Param::ComputeClass,
            Engine::Copy => Param::CopyClass,
        }
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Engine::Compute => "compute",
            Engine::Copy => "copy",
        })
    }
}

/// What a channel should be like; from [`Svm::channel_builder`](crate::Svm::channel_builder).
///
/// ```no_run
/// # fn main() -> mirage::Result<()> {
/// # let svm: mirage::Svm = todo!();
/// use std::time::Duration;
/// use mirage::Engine;
///
/// let channel = svm.channel_builder().engine(Engine::Copy).timeout(Duration::from_secs(2)).build()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "build() makes the channel"]
pub struct ChannelBuilder {
    node: Arc<Node>,
    engine: Engine,
    timeout: Option<Duration>,
}

impl ChannelBuilder {
    pub(crate) fn new(node: &Arc<Node>) -> Self {
        ChannelBuilder {
            node: Arc::clone(node),
            engine: Engine::Compute,
            timeout: None,
        }
    }

    /// The kind of engine; [`Engine::Compute`] if nothing is said.
    pub fn engine(mut self, engine: Engine) -> Self {
        self.engine = engine;
        self
    }

    /// How long work may run without finishing and without having faults served, before the channel is stopped with [`Reason::Timeout`]. Rounded up to
    /// milliseconds. [`Limits::timeout_default`](crate::Limits::timeout_default) if nothing is said.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Makes the channel.
    ///
    /// Errors: [`Error::Ioctl`] with ENOSPC when the device or this file has no channel left, EINVAL when the time-out is longer than
    /// [`Limits::timeout_max`](crate::Limits::timeout_max), EAGAIN while the device is being reset.
    pub fn build(self) -> Result<Channel> {
        let milliseconds = |timeout: Duration| timeout.as_nanos().div_ceil(1_000_000).max(1);
        let timeout = self.timeout.map_or(0, milliseconds);
        let mut args = ChannelAlloc {
            engine: self.engine.number(),
            timeout_ms: u32::try_from(timeout).unwrap_or(u32::MAX),
            ..Default::default()
        };
        let class = self.node.param(self.engine.class())? as u32;
        sys::channel_alloc(self.node.as_fd(), &mut args).map_err(Error::ioctl("CHANNEL_ALLOC"))?;
        Ok(Channel {
            node: self.node,
            engine: self.engine,
            class,
            handle: args.channel,
        })
    }
}

/// A queue of GPU work. Its work runs in order; channels run side by side.
///
/// A bad access stops the channel: its jobs end with [`Error::Stopped`], further submissions fail with EIO, until [`Channel::reset`]. Dropping
/// it stops it at once and abandons what has not finished.
#[derive(Debug)]
pub struct Channel {
    node: Arc<Node>,
    engine: Engine,
    class: u32,
    handle: u32,
}

impl Channel {
    /// Starts `operation` over `lanes` lanes of the compute engine.
    ///
    /// Errors: [`Error::Range`] for a parameter that the device would refuse; [`Error::WrongEngine`] on a copy channel; [`Error::Ioctl`] with
    /// EIO when the channel was stopped before.
    pub fn launch(&self, operation: impl Operation, lanes: Lanes) -> Result<Job> {
        let mut push = self.push_buffer();
        push.launch(&operation, lanes)?;
        self.submit(&push)
    }

    /// Starts `operation` on a copy engine.
    ///
    /// Errors: [`Error::Range`] for a parameter that the device would refuse; [`Error::WrongEngine`] on a compute channel; [`Error::Ioctl`] with
    /// EIO when the channel was stopped before.
    pub fn run(&self, operation: impl copy::Operation) -> Result<Job> {
        let mut push = self.push_buffer();
        push.run(&operation)?;
        self.submit(&push)
    }

    /// An empty push buffer for the class of this channel's engine, for several operations in one submission.
    pub fn push_buffer(&self) -> PushBuffer {
        PushBuffer::for_engine(self.engine, self.class)
    }

    /// Starts what is in a push buffer, which may be reused at once.
    ///
    /// Errors: [`Error::Ioctl`] with EIO when the channel was stopped before, EINVAL when the push buffer is too long.
    pub fn submit(&self, push: &PushBuffer) -> Result<Job> {
        self.submission().push(push).submit()
    }

    /// Work with several push buffers, or with syncobjs to wait for and to signal.
    pub fn submission(&self) -> Submission<'_> {
        Submission::new(self)
    }

    /// Whether it is usable, why not, and what it has done.
    pub fn state(&self) -> Result<ChannelState> {
        let mut args = ChannelQuery {
            channel: self.handle,
            ..Default::default()
        };
        sys::channel_query(self.node.as_fd(), &mut args).map_err(Error::ioctl("CHANNEL_QUERY"))?;
        Ok(ChannelState::from(args))
    }

    /// Makes a channel that was stopped usable again, with an empty queue. Does nothing to one that is usable.
    ///
    /// Errors: [`Error::Ioctl`] with EAGAIN while the device is being reset: try again.
    pub fn reset(&self) -> Result<()> {
        let args = ChannelReset {
            channel: self.handle,
            flags: 0,
        };
        sys::channel_reset(self.node.as_fd(), &args).map_err(Error::ioctl("CHANNEL_RESET"))
    }

    /// The handle that fault reports name.
    pub fn handle(&self) -> u32 {
        self.handle
    }

    /// The kind of engine that it runs on.
    pub fn engine(&self) -> Engine {
        self.engine
    }

    pub(crate) fn node(&self) -> &Arc<Node> {
        &self.node
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        let args = ChannelFree {
            channel: self.handle,
            pad: 0,
        };
        // Only a device that is gone, or a forked child, gets an error here; neither has a channel to free.
        let _ = sys::channel_free(self.node.as_fd(), &args);
    }
}

/// What [`Channel::state`] finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ChannelState {
    /// Why it was stopped; `None` while it is usable.
    pub stopped: Option<Stop>,
    /// Submissions accepted so far.
    pub submitted: u64,
    /// Submissions that have ended, one way or the other.
    pub finished: u64,
    /// Times that it was reset.
    pub resets: u32,
}

/// Why and when a channel was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stop {
    /// Address of the access, down to its 4 KiB page; the method, if the reason is [`Reason::Method`].
    pub addr: u64,
    /// What the GPU tried.
    pub access: Access,
    /// Why it was refused.
    pub reason: Reason,
    /// When, by CLOCK_MONOTONIC.
    pub timestamp: Duration,
}

impl From<ChannelQuery> for ChannelState {
    fn from(raw: ChannelQuery) -> Self {
        let stop = Stop {
            addr: raw.addr,
            access: raw.access.into(),
            reason: raw.reason.into(),
            timestamp: Duration::from_nanos(raw.timestamp),
        };
        ChannelState {
            stopped: (raw.state != uapi::CHANNEL_USABLE).then_some(stop),
            submitted: raw.submitted,
            finished: raw.finished,
            resets: raw.resets,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_usable_channel_has_no_reason_to_be_stopped() {
        let raw = ChannelQuery {
            submitted: 3,
            finished: 2,
            ..Default::default()
        };
        let state = ChannelState::from(raw);
        assert_eq!(
            (state.stopped, state.submitted, state.finished),
            (None, 3, 2)
        );
    }

    #[test]
    fn a_stopped_channel_says_what_stopped_it() {
        let raw = ChannelQuery {
            state: uapi::CHANNEL_STOPPED,
            addr: 0x1000,
            access: 2,
            reason: 9,
            ..Default::default()
        };
        let stop = ChannelState::from(raw).stopped.expect("the state says so");
        assert_eq!(
            (stop.addr, stop.access, stop.reason),
            (0x1000, Access::Atomic, Reason::Timeout)
        );
    }
}
