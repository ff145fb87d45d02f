// SPDX-License-Identifier: MIT OR Apache-2.0
//! Channels and the work on them.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use drm::control::{syncobj, Device as _};
use nix::errno::Errno;
use nix::time::{clock_gettime, ClockId};

use crate::error::{Error, Result};
use crate::ops::{Lanes, Operation};
use crate::push::PushBuffer;
use crate::svm::{Shared, Svm};
use crate::sys;
use crate::uapi::{ChannelAlloc, ChannelFree};

/// A queue of GPU work. Its work runs in order; channels run side by side.
///
/// A bad access stops the channel for good: its jobs end with [`Error::Stopped`], further launches fail with EIO. Dropping it
/// stops it at once and abandons what has not finished.
#[derive(Debug)]
pub struct Channel {
    shared: Arc<Shared>,
    handle: u32,
}

impl Channel {
    pub(crate) fn new(svm: &Svm) -> Result<Self> {
        let mut args = ChannelAlloc::default();
        sys::channel_alloc(svm.shared.node.as_fd(), &mut args)
            .map_err(Error::ioctl("CHANNEL_ALLOC"))?;
        Ok(Channel {
            shared: Arc::clone(&svm.shared),
            handle: args.channel,
        })
    }

    /// Starts `operation` over `lanes` lanes.
    ///
    /// Errors: [`Error::Range`] for a parameter that the device would refuse; [`Error::Ioctl`] with EIO when the channel
    /// was stopped before.
    pub fn launch(&self, operation: impl Operation, lanes: Lanes) -> Result<Job> {
        let mut push = self.push_buffer();
        push.launch(&operation, lanes)?;
        self.submit(&push)
    }

    /// An empty push buffer for the compute class, for several launches in one submission.
    pub fn push_buffer(&self) -> PushBuffer {
        PushBuffer::for_class(self.shared.class)
    }

    /// Starts what is in a push buffer, which may be reused at once.
    ///
    /// Errors: [`Error::Ioctl`] with EIO when the channel was stopped before, EINVAL when the push buffer is too long.
    pub fn submit(&self, push: &PushBuffer) -> Result<Job> {
        let syncobj = self
            .shared
            .node
            .create_syncobj(false)
            .map_err(Error::Syncobj)?;
        let job = Job {
            shared: Arc::clone(&self.shared),
            syncobj,
        };
        loop {
            match sys::exec(
                self.shared.node.as_fd(),
                push.words(),
                self.handle,
                syncobj.into(),
            ) {
                // A signal came while the ring was full.
                Err(Errno::EINTR) => {}
                done => return done.map(|()| job).map_err(Error::ioctl("EXEC")),
            }
        }
    }

    /// The handle that fault reports name.
    pub fn handle(&self) -> u32 {
        self.handle
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        let args = ChannelFree {
            channel: self.handle,
            pad: 0,
        };
        // Only a device that is gone, or a forked child, gets an error here; neither has a channel to free.
        let _ = sys::channel_free(self.shared.node.as_fd(), &args);
    }
}

/// Work that was submitted. Dropping it does not stop the work.
#[derive(Debug)]
pub struct Job {
    shared: Arc<Shared>,
    syncobj: syncobj::Handle,
}

impl Job {
    /// Waits until the work has finished; what it wrote is visible then.
    ///
    /// Errors: [`Error::Timeout`] if it has not; [`Error::Stopped`] if it never will.
    pub fn wait(&self, timeout: Duration) -> Result<()> {
        match self
            .shared
            .node
            .syncobj_wait(&[self.syncobj], deadline(timeout), true, false)
        {
            Ok(_) => self.status(),
            Err(error) if error.raw_os_error() == Some(Errno::ETIME as i32) => {
                Err(Error::Timeout(timeout))
            }
            Err(error) => Err(Error::Syncobj(error)),
        }
    }

    /// Whether [`Job::wait`] would return at once.
    pub fn is_done(&self) -> bool {
        !matches!(self.wait(Duration::ZERO), Err(Error::Timeout(_)))
    }

    /// How a signalled fence ended. A wait on a syncobj does not tell, the fence's sync file does.
    fn status(&self) -> Result<()> {
        let file = self
            .shared
            .node
            .syncobj_to_fd(self.syncobj, true)
            .map_err(Error::Syncobj)?;
        let status =
            sys::sync_file_status(file.as_fd()).map_err(Error::ioctl("SYNC_IOC_FILE_INFO"))?;
        if status < 0 {
            return Err(Error::Stopped {
                errno: Errno::from_raw(-status),
            });
        }
        Ok(())
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        // Nothing depends on the syncobj any more, and the file takes it along in any case.
        let _ = self.shared.node.destroy_syncobj(self.syncobj);
    }
}

/// `timeout` from now in the terms of DRM_IOCTL_SYNCOBJ_WAIT: CLOCK_MONOTONIC nanoseconds.
fn deadline(timeout: Duration) -> i64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map(Duration::from)
        .unwrap_or_default();
    i64::try_from(now.saturating_add(timeout).as_nanos()).unwrap_or(i64::MAX)
}
