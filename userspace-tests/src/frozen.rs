// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory whose faults are not served before the test wants it.

use std::time::Duration;

use anyhow::Result;
use nix::sys::mman::MapFlags;

use crate::harness::wait_until;
use crate::kernel::Disk;
use crate::region::{Region, HUGE, PAGE, RW};
use crate::sys::{fork, Child};

/// How long the disk stays frozen if nobody has it thawed. What is to be served meanwhile has as long, and comes far earlier.
pub(crate) const FROZEN: Duration = Duration::from_secs(60);

/// Blocks whose service takes as long as we like: a write to a page of a file waits while the file's disk is frozen. So a worker that
/// serves one of them does not end, and holds the mmap lock of its process: nobody there may map or unmap anything meanwhile.
///
/// The disk is thawed by another process.
pub(crate) struct Frozen {
    child: Option<Child>,
    step: Region,
}

impl Frozen {
    /// Freezes the disk, once the child is there that thaws it.
    pub(crate) fn new(disk: &Disk) -> Result<Self> {
        let step = Region::shared(PAGE)?;
        let child = fork(|| {
            let _ = wait_until(FROZEN, || step.load(0) == 1);
            disk.thaw()
        })?;
        let frozen = Frozen {
            child: Some(child),
            step,
        };
        disk.freeze()?;
        Ok(frozen)
    }

    pub(crate) fn thaw(mut self) -> Result<()> {
        self.step.store(0, 1);
        self.child.take().map_or(Ok(()), Child::join)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.step.store(0, 1);
        // Killing it would leave the disk frozen.
        let _ = self.child.take().map(Child::join);
    }
}

/// `blocks` blocks of a file, not touched yet.
pub(crate) fn file_blocks(disk: &Disk, blocks: usize) -> Result<Region> {
    let file = disk.file(blocks * HUGE)?;
    Region::file(&file, blocks * HUGE, RW, MapFlags::MAP_SHARED)
}
