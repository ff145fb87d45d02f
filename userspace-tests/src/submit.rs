// SPDX-License-Identifier: MIT OR Apache-2.0
//! EXEC with arrays of push buffers and syncobjs, as the driver sees it, and the syncobjs for it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use anyhow::{ensure, Result};
use drm::control::{syncobj, Device as _};
use mirage::uapi::{Exec, IoctlId, SyncPoint, SYNC_SYNCOBJ, SYNC_TIMELINE};
use mirage::{lanes, Channel, Chase, Gpu, Operation, Store};
use nix::errno::Errno;
use nix::time::{clock_gettime, ClockId};

use crate::fixture::LIMIT;
use crate::ioctls::{call, describe};
use crate::region::Region;

/// What goes into one EXEC.
#[derive(Clone, Debug, Default)]
pub(crate) struct Submission {
    pub(crate) pushes: Vec<Vec<u32>>,
    pub(crate) waits: Vec<SyncPoint>,
    pub(crate) signals: Vec<SyncPoint>,
}

impl Submission {
    /// One push buffer.
    pub(crate) fn of(push: Vec<u32>) -> Self {
        Submission {
            pushes: vec![push],
            ..Default::default()
        }
    }

    /// Waits for `sync` before it runs.
    pub(crate) fn after(mut self, sync: SyncPoint) -> Self {
        self.waits.push(sync);
        self
    }

    /// Gives `sync` its fence.
    pub(crate) fn signals(mut self, sync: SyncPoint) -> Self {
        self.signals.push(sync);
        self
    }

    /// EXEC, once.
    pub(crate) fn exec(&self, gpu: &Gpu, channel: &Channel) -> nix::Result<()> {
        let pushes: Vec<_> = self.pushes.iter().map(|push| describe(push)).collect();
        let args = Exec {
            channel: channel.handle(),
            push_count: pushes.len() as u32,
            wait_count: self.waits.len() as u32,
            sig_count: self.signals.len() as u32,
            push_ptr: pushes.as_ptr().expose_provenance() as u64,
            wait_ptr: self.waits.as_ptr().expose_provenance() as u64,
            sig_ptr: self.signals.as_ptr().expose_provenance() as u64,
            ..Default::default()
        };
        call(gpu.as_fd(), IoctlId::Exec, args).map(drop)
    }
}

/// A push buffer with one operation over one lane.
pub(crate) fn push_of(channel: &Channel, operation: impl Operation) -> Result<Vec<u32>> {
    let mut push = channel.push_buffer();
    push.launch(&operation, lanes(1))?;
    Ok(push.words().to_vec())
}

/// Work that writes `value` to the start of a page.
pub(crate) fn marker(channel: &Channel, page: &Region, value: u64) -> Result<Submission> {
    Ok(Submission::of(push_of(
        channel,
        Store::new(page.lanes(0, 0), value),
    )?))
}

/// A push buffer with GPU work that does not end by itself.
pub(crate) fn push_of_spinner(channel: &Channel, spin: (Chase, mirage::Lanes)) -> Result<Vec<u32>> {
    let mut push = channel.push_buffer();
    push.launch(&spin.0, spin.1)?;
    Ok(push.words().to_vec())
}

/// Borrows a file for the generic ioctls of DRM.
#[derive(Debug)]
struct Node<'a>(BorrowedFd<'a>);

impl AsFd for Node<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0
    }
}

impl drm::Device for Node<'_> {}
impl drm::control::Device for Node<'_> {}

/// A syncobj, gone with this value.
#[derive(Debug)]
pub(crate) struct Syncobj<'a> {
    node: Node<'a>,
    handle: syncobj::Handle,
}

impl<'a> Syncobj<'a> {
    /// One without a fence.
    pub(crate) fn new(gpu: &'a Gpu) -> Result<Self> {
        let node = Node(gpu.as_fd());
        let handle = node.create_syncobj(false)?;
        Ok(Syncobj { node, handle })
    }

    /// One that has the fence of a sync file.
    pub(crate) fn import(gpu: &'a Gpu, file: BorrowedFd<'_>) -> Result<Self> {
        let syncobj = Syncobj::new(gpu)?;
        import_into(&syncobj, file)?;
        Ok(syncobj)
    }

    /// It, as a binary one.
    pub(crate) fn binary(&self) -> SyncPoint {
        SyncPoint {
            kind: SYNC_SYNCOBJ,
            handle: self.handle.into(),
            point: 0,
        }
    }

    /// A point of it, as a timeline.
    pub(crate) fn point(&self, point: u64) -> SyncPoint {
        SyncPoint {
            kind: SYNC_TIMELINE,
            handle: self.handle.into(),
            point,
        }
    }

    /// Waits for the fence that it has now.
    pub(crate) fn wait(&self) -> Result<()> {
        self.node
            .syncobj_wait(&[self.handle], deadline(LIMIT), true, false)?;
        Ok(())
    }

    /// Waits for a point of the timeline.
    pub(crate) fn wait_point(&self, point: u64) -> Result<()> {
        self.node.syncobj_timeline_wait(
            &[self.handle],
            &[point],
            deadline(LIMIT),
            true,
            false,
            false,
        )?;
        Ok(())
    }

    /// Whether the fence has signalled; `None` if there is no fence.
    pub(crate) fn is_signaled(&self) -> Result<Option<bool>> {
        let errno = |error: &io::Error| error.raw_os_error().map(Errno::from_raw);
        match self.node.syncobj_wait(&[self.handle], 0, true, false) {
            Ok(_) => Ok(Some(true)),
            Err(error) if errno(&error) == Some(Errno::ETIME) => Ok(Some(false)),
            Err(error) if errno(&error) == Some(Errno::EINVAL) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// How the fence ended: waits for it, `None` is success.
    pub(crate) fn error(&self) -> Result<Option<Errno>> {
        self.wait()?;
        let file = self.sync_file()?;
        let status = crate::sys::sync_file_status(file.as_fd())?;
        ensure!(status != 0, "the fence is signalled, but its file is not");
        Ok((status < 0).then(|| Errno::from_raw(-status)))
    }

    /// The last point that has signalled.
    pub(crate) fn value(&self) -> Result<u64> {
        let mut points = [0];
        self.node
            .syncobj_timeline_query(&[self.handle], &mut points, false)?;
        Ok(points[0])
    }

    /// Signals a point from the CPU.
    pub(crate) fn signal_point(&self, point: u64) -> Result<()> {
        Ok(self
            .node
            .syncobj_timeline_signal(&[self.handle], &[point])?)
    }

    /// The fence that it has now, as a file.
    pub(crate) fn sync_file(&self) -> Result<OwnedFd> {
        Ok(self.node.syncobj_to_fd(self.handle, true)?)
    }
}

impl Drop for Syncobj<'_> {
    fn drop(&mut self) {
        // The file takes it along in any case.
        let _ = self.node.destroy_syncobj(self.handle);
    }
}

fn import_into(syncobj: &Syncobj<'_>, file: BorrowedFd<'_>) -> Result<()> {
    const IMPORT_SYNC_FILE: u32 = 1;
    const FD_TO_HANDLE: u8 = 0xc2;
    // struct drm_syncobj_handle: handle, flags, fd, pad. The crate would make a new syncobj.
    let mut words = [
        u32::from(syncobj.handle),
        IMPORT_SYNC_FILE,
        std::os::fd::AsRawFd::as_raw_fd(&file) as u32,
        0,
    ];
    crate::sys::ioctl(
        syncobj.node.0,
        nix::request_code_readwrite!(b'd', FD_TO_HANDLE, 16),
        bytemuck::cast_slice_mut(&mut words),
    )?;
    Ok(())
}

fn deadline(timeout: Duration) -> i64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map(Duration::from)
        .unwrap_or_default();
    i64::try_from((now + timeout).as_nanos()).unwrap_or(i64::MAX)
}
