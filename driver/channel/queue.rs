// SPDX-License-Identifier: GPL-2.0

//! Work that was accepted and is not in the ring yet: it waits for fences, or for room.

use super::{
    fifo::Fifo,
    Channel,
    PUSH_MAX, //
};
use crate::kapi::fence::{
    Fence,
    FenceWaiter, //
};
use kernel::prelude::*;

/// Most pieces of work that wait.
const JOBS_MAX: usize = 256;
/// Most bytes of push buffers that wait.
const BYTES_MAX: usize = 1 << 20;

const _: () = assert!(PUSH_MAX <= BYTES_MAX);

/// One EXEC.
pub(super) struct Job {
    /// All push buffers.
    pub(super) words: KVVec<u32>,
    /// What it waits for.
    pub(super) waits: KVec<Pin<KBox<FenceWaiter<Channel>>>>,
    pub(super) fence: Fence,
}

impl Job {
    /// Bytes of push buffers.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.words)
    }

    /// Whether everything that it waits for has signalled.
    pub(super) fn is_ready(&self) -> bool {
        self.waits.iter().all(|wait| wait.is_signaled())
    }
}

/// The queue of a channel.
pub(super) struct Queue {
    jobs: Fifo<Job>,
    bytes: usize,
}

impl Queue {
    /// An empty queue.
    pub(super) fn new() -> Result<Self> {
        Ok(Self {
            jobs: Fifo::with_capacity(JOBS_MAX)?,
            bytes: 0,
        })
    }

    /// Whether work with `bytes` of push buffers may be added.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        !self.jobs.is_full() && self.bytes.saturating_add(bytes) <= BYTES_MAX
    }

    /// Adds work for which there is room.
    pub(super) fn push(&mut self, job: Job) {
        let bytes = job.bytes();
        // A job that is given back is dropped, and its fence says so.
        if self.jobs.push(job).is_ok() {
            self.bytes += bytes;
        }
    }

    /// The oldest work, if it waits for nothing but room.
    pub(super) fn ready(&self) -> Option<&Job> {
        self.jobs.front().filter(|job| job.is_ready())
    }

    /// Takes the oldest work out.
    pub(super) fn pop(&mut self) -> Option<Job> {
        let job = self.jobs.pop()?;
        self.bytes -= job.bytes();
        Some(job)
    }
}
