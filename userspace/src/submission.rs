// SPDX-License-Identifier: MIT OR Apache-2.0
//! Work on its way to a channel, and work that was submitted.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;

use crate::channel::Channel;
use crate::deadline::Deadline;
use crate::error::{Error, Result};
use crate::push::PushBuffer;
use crate::sync::{SyncPoint, Syncobj};
use crate::sys::{self, Work};
use crate::uapi;

/// Work that is being put together; from [`Channel::submission`].
///
/// Its push buffers run one after the other, when everything that it waits for is signalled. Without push buffers it only passes
/// fences on.
///
/// ```no_run
/// # fn main() -> mirage::Result<()> {
/// # let (gpu, channel, one, two): (mirage::Gpu, mirage::Channel, mirage::PushBuffer, mirage::PushBuffer) = todo!();
/// # let earlier: mirage::Job = todo!();
/// let (start, progress) = (gpu.syncobj()?, gpu.timeline()?);
/// let job = channel
///     .submission()
///     .push(&one)
///     .push(&two)
///     .wait(&earlier)
///     .wait(&start)
///     .signal(progress.point(7))
///     .submit()?;
/// start.signal()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "submit() starts it"]
pub struct Submission<'a> {
    channel: &'a Channel,
    pushes: Vec<&'a [u32]>,
    waits: Vec<SyncPoint<'a>>,
    signals: Vec<SyncPoint<'a>>,
}

impl<'a> Submission<'a> {
    pub(crate) fn new(channel: &'a Channel) -> Self {
        Submission {
            channel,
            pushes: Vec::new(),
            waits: Vec::new(),
            signals: Vec::new(),
        }
    }

    /// Adds a push buffer. At most [`Limits::pushes_max`](crate::Limits::pushes_max), of [`Limits::push_max`](crate::Limits::push_max) bytes together.
    pub fn push(mut self, push: &'a PushBuffer) -> Self {
        self.pushes.push(push.words());
        self
    }

    /// Does not run before `point` is signalled: a [`Syncobj`], a [`Job`] or a [`Timeline`](crate::Timeline)'s point. Its work must
    /// have been submitted by now.
    pub fn wait(mut self, point: impl Into<SyncPoint<'a>>) -> Self {
        self.waits.push(point.into());
        self
    }

    /// Signals `point` when it has finished.
    pub fn signal(mut self, point: impl Into<SyncPoint<'a>>) -> Self {
        self.signals.push(point.into());
        self
    }

    /// Submits it. All or nothing of it is accepted. Push buffers and syncobjs may be reused at once.
    ///
    /// Errors: [`Error::OtherGpu`] for a syncobj of another open file; [`Error::Ioctl`] with EIO when the channel was stopped before,
    /// EINVAL for more or larger push buffers or more syncobjs than there may be, a timeline point that is not above the last one,
    /// or a wait for something that nobody has submitted yet.
    pub fn submit(self) -> Result<Job> {
        let node = self.channel.node();
        let done = Syncobj::new(node)?;
        let describe = |points: &[SyncPoint<'_>]| {
            let points = points.iter().map(|point| point.describe(node));
            points.collect::<Result<Vec<uapi::SyncPoint>>>()
        };
        let (waits, mut signals) = (describe(&self.waits)?, describe(&self.signals)?);
        signals.push(SyncPoint::from(&done).describe(node)?);
        let work = Work {
            pushes: &self.pushes,
            waits: &waits,
            signals: &signals,
        };
        loop {
            match sys::exec(node.as_fd(), self.channel.handle(), &work) {
                // A signal came while the queue was full.
                Err(Errno::EINTR) => {}
                outcome => return outcome.map(|()| Job { done }).map_err(Error::ioctl("EXEC")),
            }
        }
    }
}

/// Work that was submitted. Dropping it does not stop the work.
#[derive(Debug)]
pub struct Job {
    done: Syncobj,
}

impl Job {
    /// Waits until the work has finished; what it wrote is visible then.
    ///
    /// Errors: [`Error::Timeout`] if it has not; [`Error::Stopped`] if it never will.
    pub fn wait(&self, deadline: impl Into<Deadline>) -> Result<()> {
        self.done.wait(deadline)
    }

    /// Whether [`Job::wait`] would return at once.
    pub fn is_done(&self) -> bool {
        SyncPoint::from(self).is_signaled()
    }

    /// A sync file that becomes readable when the work has ended, for poll, epoll or an async runtime.
    pub fn sync_file(&self) -> Result<OwnedFd> {
        self.done.sync_file()
    }
}

impl<'a> From<&'a Job> for SyncPoint<'a> {
    fn from(job: &'a Job) -> Self {
        SyncPoint::from(&job.done)
    }
}
