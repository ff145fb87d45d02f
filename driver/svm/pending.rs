// SPDX-License-Identifier: GPL-2.0

//! Faults that wait for service, and who serves them. Pure logic.
//!
//! Each block of 2 MiB is served by one worker at a time; faults of different blocks do not wait for each other while there are workers.

use crate::{
    fault::Fault,
    gpu_pt::BLOCK_SHIFT, //
};
use kernel::prelude::*;

/// Most faults that wait; more fault again at the next replay.
const FAULTS_MAX: usize = 1024;
/// Workers of an address space.
pub(super) const WORKERS: usize = 4;
/// Most faults that a worker takes at once.
pub(super) const TAKE_MAX: usize = 256;

/// What one worker does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Activity {
    Idle,
    /// It will look for a block.
    Looking,
    /// It serves this block.
    Serving(u64),
}

/// Something that is addressed by block; for tests something else than [`Fault`].
pub(super) trait InBlock: Clone {
    /// Number of its block.
    fn block(&self) -> u64;
}

impl InBlock for Fault {
    fn block(&self) -> u64 {
        self.va >> BLOCK_SHIFT
    }
}

/// The queue of one address space.
pub(super) struct Pending<T> {
    /// Oldest first. Has room for [`FAULTS_MAX`].
    faults: KVec<T>,
    workers: [Activity; WORKERS],
}

impl<T: InBlock> Pending<T> {
    /// An empty queue.
    pub(super) fn new() -> Result<Self> {
        Ok(Self {
            faults: KVec::with_capacity(FAULTS_MAX, GFP_KERNEL)?,
            workers: [Activity::Idle; WORKERS],
        })
    }

    /// Queues a fault.
    ///
    /// # Errors
    ///
    /// `ENOSPC`: there is no room.
    pub(super) fn push(&mut self, fault: T) -> Result {
        self.faults.push_within_capacity(fault).map_err(|_| ENOSPC)
    }

    /// Forgets all faults.
    pub(super) fn clear(&mut self) {
        self.faults.clear();
    }

    /// An idle worker that has to be started, if there are blocks that no worker serves or is about to serve.
    pub(super) fn start(&mut self) -> Option<usize> {
        let looking = self.count(|activity| activity == Activity::Looking);
        let idle = self.workers.iter().position(|w| *w == Activity::Idle)?;
        if self.unserved_blocks(looking + 1) <= looking {
            return None;
        }
        *self.workers.get_mut(idle)? = Activity::Looking;
        Some(idle)
    }

    /// Moves faults of the first block that nobody else serves to `batch`, as many as fit. Without one, the worker is idle from now on.
    pub(super) fn take(&mut self, worker: usize, batch: &mut KVec<T>) -> bool {
        self.set(worker, Activity::Looking);
        let block = self
            .faults
            .iter()
            .map(T::block)
            .find(|b| !self.is_served(*b));
        let Some(block) = block else {
            self.set(worker, Activity::Idle);
            return false;
        };
        self.set(worker, Activity::Serving(block));
        self.faults.retain(|fault| {
            fault.block() != block || batch.push_within_capacity(fault.clone()).is_err()
        });
        true
    }

    /// How many blocks wait that nobody serves; counts up to `limit`.
    fn unserved_blocks(&self, limit: usize) -> usize {
        let mut found = [None; WORKERS + 1];
        let mut count = 0;
        for block in self.faults.iter().map(T::block) {
            if count == limit.min(found.len()) {
                break;
            }
            if !self.is_served(block) && !found.contains(&Some(block)) {
                if let Some(slot) = found.get_mut(count) {
                    *slot = Some(block);
                    count += 1;
                }
            }
        }
        count
    }

    fn is_served(&self, block: u64) -> bool {
        self.workers.contains(&Activity::Serving(block))
    }

    fn count(&self, which: impl Fn(Activity) -> bool) -> usize {
        self.workers.iter().filter(|w| which(**w)).count()
    }

    fn set(&mut self, worker: usize, activity: Activity) {
        if let Some(slot) = self.workers.get_mut(worker) {
            *slot = activity;
        }
    }
}

#[cfg(CONFIG_KUNIT = "y")]
#[kernel::macros::kunit_tests(mirage_pending)]
mod tests {
    use super::*;

    #[derive(Clone, Debug, PartialEq)]
    struct Item(u64, u32);

    impl InBlock for Item {
        fn block(&self) -> u64 {
            self.0
        }
    }

    fn queue(blocks: &[u64]) -> Result<Pending<Item>> {
        let mut pending = Pending::new()?;
        for (i, block) in blocks.iter().enumerate() {
            pending.push(Item(*block, u32::try_from(i)?))?;
        }
        Ok(pending)
    }

    #[test]
    fn a_worker_gets_all_faults_of_the_first_block() -> Result {
        let mut pending = queue(&[7, 8, 7])?;
        let mut batch = KVec::with_capacity(TAKE_MAX, GFP_KERNEL)?;
        assert!(pending.take(0, &mut batch));
        assert_eq!(&*batch, &[Item(7, 0), Item(7, 2)]);
        Ok(())
    }

    #[test]
    fn a_block_has_one_worker_at_a_time() -> Result {
        let mut pending = queue(&[7])?;
        let mut batch = KVec::with_capacity(TAKE_MAX, GFP_KERNEL)?;
        assert!(pending.take(0, &mut batch));
        pending.push(Item(7, 9))?;
        batch.clear();
        assert!(!pending.take(1, &mut batch));
        assert!(pending.take(0, &mut batch));
        assert_eq!(&*batch, &[Item(7, 9)]);
        Ok(())
    }

    #[test]
    fn as_many_workers_start_as_there_are_blocks() -> Result {
        let mut pending = queue(&[7, 7, 8])?;
        assert_eq!(pending.start(), Some(0));
        assert_eq!(pending.start(), Some(1));
        assert_eq!(pending.start(), None);
        Ok(())
    }

    #[test]
    fn a_block_that_is_served_starts_nobody() -> Result {
        let mut pending = queue(&[7])?;
        let mut batch = KVec::with_capacity(TAKE_MAX, GFP_KERNEL)?;
        assert!(pending.take(2, &mut batch));
        pending.push(Item(7, 1))?;
        assert_eq!(pending.start(), None);
        pending.push(Item(9, 2))?;
        assert_eq!(pending.start(), Some(0));
        Ok(())
    }

    #[test]
    fn what_does_not_fit_stays() -> Result {
        let mut pending = queue(&[7, 7, 7])?;
        let mut batch = KVec::with_capacity(2, GFP_KERNEL)?;
        let room = batch.capacity().min(3);
        assert!(pending.take(0, &mut batch));
        assert_eq!(batch.len(), room);
        batch.clear();
        assert_eq!(pending.take(0, &mut batch), room < 3);
        Ok(())
    }
}
