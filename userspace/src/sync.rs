// SPDX-License-Identifier: MIT OR Apache-2.0
//! DRM syncobjs: what work waits for, and what tells that it has finished.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use drm::control::{syncobj, Device as _};
use nix::errno::Errno;

use crate::deadline::Deadline;
use crate::error::{Error, Result};
use crate::node::Node;
use crate::sys;
use crate::uapi;

/// A handle of the file, destroyed with this value.
#[derive(Debug)]
struct Handle {
    node: Arc<Node>,
    handle: syncobj::Handle,
}

impl Handle {
    fn create(node: &Arc<Node>) -> Result<Self> {
        Self::own(node, node.create_syncobj(false))
    }

    fn import(node: &Arc<Node>, fd: BorrowedFd<'_>) -> Result<Self> {
        Self::own(node, node.fd_to_syncobj(fd, false))
    }

    fn own(node: &Arc<Node>, handle: io::Result<syncobj::Handle>) -> Result<Self> {
        Ok(Handle {
            node: Arc::clone(node),
            handle: handle.map_err(Error::Syncobj)?,
        })
    }

    fn point(&self, point: u64) -> SyncPoint<'_> {
        SyncPoint {
            node: &self.node,
            handle: self.handle,
            point,
        }
    }

    fn export(&self) -> Result<OwnedFd> {
        self.node
            .syncobj_to_fd(self.handle, false)
            .map_err(Error::Syncobj)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // Work that uses it keeps its fence; the file takes the handle along in any case.
        let _ = self.node.destroy_syncobj(self.handle);
    }
}

/// A binary syncobj: a place for the fence of the work that was told to signal it last.
///
/// ```no_run
/// # fn main() -> mirage::Result<()> {
/// # let (gpu, channel, first, second): (mirage::Gpu, mirage::Channel, mirage::PushBuffer, mirage::PushBuffer) = todo!();
/// use std::time::Duration;
///
/// let ready = gpu.syncobj()?;
/// channel.submission().push(&first).signal(&ready).submit()?;
/// channel.submission().push(&second).wait(&ready).submit()?.wait(Duration::from_secs(10))?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Syncobj(Handle);

impl Syncobj {
    pub(crate) fn new(node: &Arc<Node>) -> Result<Self> {
        Handle::create(node).map(Syncobj)
    }

    pub(crate) fn import(node: &Arc<Node>, fd: BorrowedFd<'_>) -> Result<Self> {
        Handle::import(node, fd).map(Syncobj)
    }

    /// Waits until it has a fence and the fence is signalled.
    ///
    /// Errors: [`Error::Timeout`]; [`Error::Stopped`] when the work behind it was abandoned.
    pub fn wait(&self, deadline: impl Into<Deadline>) -> Result<()> {
        SyncPoint::from(self).wait(deadline)
    }

    /// Signals it from the CPU.
    pub fn signal(&self) -> Result<()> {
        let Handle { node, handle } = &self.0;
        node.syncobj_signal(&[*handle]).map_err(Error::Syncobj)
    }

    /// Takes its fence away, so that it can be used again.
    pub fn reset(&self) -> Result<()> {
        let Handle { node, handle } = &self.0;
        node.syncobj_reset(&[*handle]).map_err(Error::Syncobj)
    }

    /// A file descriptor for another process or another DRM device, which may import it.
    pub fn export(&self) -> Result<OwnedFd> {
        self.0.export()
    }

    /// A sync file of its fence: pollable, it becomes readable when the fence is signalled.
    ///
    /// Errors: [`Error::Syncobj`] when it has no fence yet.
    pub fn sync_file(&self) -> Result<OwnedFd> {
        let Handle { node, handle } = &self.0;
        node.syncobj_to_fd(*handle, true).map_err(Error::Syncobj)
    }
}

/// A timeline syncobj: points that count up, each reached when the work that signals it has finished.
///
/// ```no_run
/// # fn main() -> mirage::Result<()> {
/// # let (gpu, compute, copy, fill, read_back): (mirage::Gpu, mirage::Channel, mirage::Channel, mirage::PushBuffer, mirage::PushBuffer) = todo!();
/// use std::time::Duration;
///
/// let frame = gpu.timeline()?;
/// compute.submission().push(&fill).signal(frame.point(1)).submit()?;
/// copy.submission().push(&read_back).wait(frame.point(1)).signal(frame.point(2)).submit()?;
/// frame.point(2).wait(Duration::from_secs(10))?;
/// assert_eq!(frame.reached()?, 2);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Timeline(Handle);

impl Timeline {
    pub(crate) fn new(node: &Arc<Node>) -> Result<Self> {
        Handle::create(node).map(Timeline)
    }

    pub(crate) fn import(node: &Arc<Node>, fd: BorrowedFd<'_>) -> Result<Self> {
        Handle::import(node, fd).map(Timeline)
    }

    /// The point `point`, which begins at 1. Work that signals points of one timeline has to be submitted in their order.
    pub fn point(&self, point: u64) -> SyncPoint<'_> {
        self.0.point(point)
    }

    /// The last point that was reached; 0 at first.
    pub fn reached(&self) -> Result<u64> {
        let Handle { node, handle } = &self.0;
        let mut point = [0];
        node.syncobj_timeline_query(&[*handle], &mut point, false)
            .map_err(Error::Syncobj)?;
        let [point] = point;
        Ok(point)
    }

    /// Reaches `point` from the CPU.
    pub fn signal(&self, point: u64) -> Result<()> {
        let Handle { node, handle } = &self.0;
        node.syncobj_timeline_signal(&[*handle], &[point])
            .map_err(Error::Syncobj)
    }

    /// A file descriptor for another process or another DRM device, which may import it.
    pub fn export(&self) -> Result<OwnedFd> {
        self.0.export()
    }
}

/// Something to wait for or to signal: a [`Syncobj`], a [`Job`](crate::Job) or a point of a [`Timeline`].
#[derive(Clone, Copy, Debug)]
pub struct SyncPoint<'a> {
    node: &'a Arc<Node>,
    handle: syncobj::Handle,
    /// 0 for a binary syncobj.
    point: u64,
}

impl<'a> From<&'a Syncobj> for SyncPoint<'a> {
    fn from(Syncobj(handle): &'a Syncobj) -> Self {
        handle.point(0)
    }
}

impl SyncPoint<'_> {
    /// Waits until somebody submits work that signals it, and until the work has finished.
    ///
    /// Errors: [`Error::Timeout`]; [`Error::Stopped`] when the work was abandoned, which only a binary syncobj can tell: a timeline reaches the
    /// point in any case.
    pub fn wait(self, deadline: impl Into<Deadline>) -> Result<()> {
        wait(&[self], deadline.into(), Until::All)?;
        match self.point {
            0 => self.status(),
            _ => Ok(()),
        }
    }

    /// Whether [`SyncPoint::wait`] would return at once.
    pub fn is_signaled(self) -> bool {
        !matches!(self.wait(Deadline::NOW), Err(Error::Timeout(_)))
    }

    /// How a signalled fence ended. A wait on a syncobj does not tell, the fence's sync file does.
    fn status(self) -> Result<()> {
        let file = self
            .node
            .syncobj_to_fd(self.handle, true)
            .map_err(Error::Syncobj)?;
        match sys::sync_file_status(file.as_fd()).map_err(Error::ioctl("SYNC_IOC_FILE_INFO"))? {
            status if status < 0 => Err(Error::Stopped {
                errno: Errno::from_raw(-status),
            }),
            _ => Ok(()),
        }
    }

    /// For EXEC on a channel of `node`, whose handles mean nothing in another file.
    pub(crate) fn describe(self, node: &Arc<Node>) -> Result<uapi::SyncPoint> {
        if !Arc::ptr_eq(self.node, node) {
            return Err(Error::OtherGpu);
        }
        Ok(uapi::SyncPoint {
            kind: match self.point {
                0 => uapi::SYNC_SYNCOBJ,
                _ => uapi::SYNC_TIMELINE,
            },
            handle: self.handle.into(),
            point: self.point,
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Until {
    All,
    Any,
}

/// Waits for all of several points, which must be of one [`Gpu`](crate::Gpu). How their work ended, each one's own wait tells.
///
/// Errors: [`Error::Timeout`]; [`Error::OtherGpu`].
pub fn wait_all(points: &[SyncPoint<'_>], deadline: impl Into<Deadline>) -> Result<()> {
    wait(points, deadline.into(), Until::All).map(drop)
}

/// Waits for any of several points, which must be of one [`Gpu`](crate::Gpu), and returns the index of one that is signalled.
///
/// Errors: [`Error::Timeout`], always for no points at all; [`Error::OtherGpu`].
pub fn wait_any(points: &[SyncPoint<'_>], deadline: impl Into<Deadline>) -> Result<usize> {
    wait(points, deadline.into(), Until::Any)
}

fn wait(points: &[SyncPoint<'_>], deadline: Deadline, until: Until) -> Result<usize> {
    let timeout = deadline.left();
    let Some(SyncPoint { node, .. }) = points.first() else {
        return match until {
            Until::All => Ok(0),
            Until::Any => Err(Error::Timeout(timeout)),
        };
    };
    if points.iter().any(|point| !Arc::ptr_eq(point.node, node)) {
        return Err(Error::OtherGpu);
    }
    let handles: Vec<_> = points.iter().map(|point| point.handle).collect();
    let values: Vec<_> = points.iter().map(|point| point.point).collect();
    let (all, at) = (until == Until::All, deadline.nanoseconds());
    loop {
        let outcome = node.syncobj_timeline_wait(&handles, &values, at, all, true, false);
        match outcome.map_err(|error| (error.raw_os_error().map(Errno::from_raw), error)) {
            Ok(first) => return Ok(first as usize),
            // A signal came; the deadline is the same for the next try.
            Err((Some(Errno::EINTR), _)) => {}
            Err((Some(Errno::ETIME), _)) => return Err(Error::Timeout(timeout)),
            Err((_, error)) => return Err(Error::Syncobj(error)),
        }
    }
}
