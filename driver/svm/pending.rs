// SPDX-License-Identifier: GPL-2.0

//! Faults that wait for service, who serves them, and who ends the address space. Pure logic.
//!
//! Each block of 2 MiB is served by one worker at a time; faults of different blocks do not wait for each other while there are workers.

use crate::{
    fault::Fault,
    gpu_pt::BLOCK_SHIFT, //
};
use kernel::prelude::*;

/// Most faults that wait; more fault again at the next replay.
const FAULTS_MAX: usize = 1024;
/// Most of them of one block that is being served.
const SERVED_MAX: usize = FAULTS_MAX / (WORKERS + 1);
/// Workers of an address space.
pub(crate) const WORKERS: usize = 4;
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

/// Whether the address space was closed, and who takes it down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Open,
    /// The last worker that gets done will.
    ByWorker,
    /// Somebody does, or has.
    Taken,
}

/// Something that is addressed by block; for tests something else than [`Fault`].
pub(super) trait InBlock: Clone {
    /// Number of its block.
    fn block(&self) -> u64;
    /// Whether to serve the one is to serve the other.
    fn is_same(&self, other: &Self) -> bool;
}

impl InBlock for Fault {
    fn block(&self) -> u64 {
        self.va >> BLOCK_SHIFT
    }

    fn is_same(&self, other: &Self) -> bool {
        let key = |fault: &Self| {
            let id = fault.channel.id();
            (fault.va, fault.access, id, fault.origin, fault.fatal)
        };
        key(self) == key(other)
    }
}

/// The queue of one address space.
pub(super) struct Pending<T> {
    /// Oldest first. Has room for [`FAULTS_MAX`].
    faults: KVec<T>,
    workers: [Activity; WORKERS],
    end: End,
}

impl<T: InBlock> Pending<T> {
    /// An empty queue.
    pub(super) fn new() -> Result<Self> {
        Ok(Self {
            faults: KVec::with_capacity(FAULTS_MAX, GFP_KERNEL_ACCOUNT)?,
            workers: [Activity::Idle; WORKERS],
            end: End::Open,
        })
    }

    /// Queues a fault.
    ///
    /// A block whose service waits for a program faults at each replay. It gets no more than its share of the queue, so that it cannot
    /// keep faults of other blocks out.
    ///
    /// # Errors
    ///
    /// `ENOSPC`: there is no room. `ENODEV`: it is closed.
    pub(super) fn push(&mut self, fault: T) -> Result {
        if self.end != End::Open {
            return Err(ENODEV);
        }
        if self.is_served(fault.block()) {
            let mut queued = 0;
            let same_block = |other: &&mut T| other.block() == fault.block();
            for other in self.faults.iter_mut().filter(same_block) {
                if other.is_same(&fault) {
                    // The younger one counts.
                    *other = fault;
                    return Ok(());
                }
                queued += 1;
            }
            if queued >= SERVED_MAX {
                return Err(ENOSPC);
            }
        }
        self.faults.push_within_capacity(fault).map_err(|_| ENOSPC)
    }

    /// Forgets all faults.
    pub(super) fn clear(&mut self) {
        self.faults.clear();
    }

    /// Forgets all faults and takes no more, so that no worker begins with another block. Returns whether the caller has to take the address
    /// space down; else a worker serves a block, which can last as long as a program likes, and the last of them is told to.
    pub(super) fn close(&mut self) -> bool {
        self.clear();
        let serves = self.count(|activity| matches!(activity, Activity::Serving(_))) != 0;
        self.end = if serves { End::ByWorker } else { End::Taken };
        !serves
    }

    /// Whether the caller, a worker that is done, has to take the address space down. One is told so, once.
    pub(super) fn take_end(&mut self) -> bool {
        let idle = self.count(|activity| activity == Activity::Idle);
        let last = self.end == End::ByWorker && idle == WORKERS;
        if last {
            self.end = End::Taken;
        }
        last
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

        fn is_same(&self, other: &Self) -> bool {
            self == other
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
    fn who_closes_ends_what_nobody_serves() -> Result {
        let mut pending = queue(&[7, 8])?;
        let mut batch = KVec::with_capacity(TAKE_MAX, GFP_KERNEL)?;
        assert_eq!(pending.start(), Some(0));
        assert!(pending.close());
        // The worker that was started finds nothing, and leaves the end to who closed.
        assert!(!pending.take(0, &mut batch));
        assert!(!pending.take_end());
        Ok(())
    }

    #[test]
    fn the_last_worker_ends_what_was_closed_while_it_served() -> Result {
        let mut pending = queue(&[7, 8, 9])?;
        let mut batch = KVec::with_capacity(TAKE_MAX, GFP_KERNEL)?;
        assert!(pending.take(0, &mut batch));
        assert!(pending.take(3, &mut batch));
        assert!(!pending.close());
        assert!(!pending.take_end());
        assert!(!pending.take(3, &mut batch));
        assert!(!pending.take_end());
        assert!(!pending.take(0, &mut batch));
        assert!(pending.take_end());
        assert!(!pending.take_end());
        Ok(())
    }

    #[test]
    fn a_worker_that_will_look_is_waited_for() -> Result {
        let mut pending = queue(&[7, 8])?;
        let mut batch = KVec::with_capacity(TAKE_MAX, GFP_KERNEL)?;
        assert!(pending.take(0, &mut batch));
        assert_eq!(pending.start(), Some(1));
        assert!(!pending.close());
        assert!(!pending.take(0, &mut batch));
        assert!(!pending.take_end());
        assert!(!pending.take(1, &mut batch));
        assert!(pending.take_end());
        Ok(())
    }

    #[test]
    fn blocks_that_are_served_for_ever_leave_room_for_others() -> Result {
        let mut pending = queue(&[1, 2, 3, 4])?;
        let mut batch = KVec::with_capacity(TAKE_MAX, GFP_KERNEL)?;
        for worker in 0..WORKERS {
            assert!(pending.take(worker, &mut batch));
        }
        for page in 0..2 * u32::try_from(FAULTS_MAX)? {
            for block in 1..=4 {
                let _ = pending.push(Item(block, page));
            }
        }
        assert!(pending.push(Item(5, 0)).is_ok());
        Ok(())
    }

    #[test]
    fn a_fault_of_a_block_that_is_served_is_queued_once() -> Result {
        let mut pending = queue(&[7])?;
        let mut batch = KVec::with_capacity(TAKE_MAX, GFP_KERNEL)?;
        assert!(pending.take(0, &mut batch));
        for _ in 0..3 {
            pending.push(Item(7, 9))?;
        }
        batch.clear();
        assert!(pending.take(0, &mut batch));
        assert_eq!(&*batch, &[Item(7, 9)]);
        Ok(())
    }

    #[test]
    fn what_is_open_has_no_end() -> Result {
        let mut pending = queue(&[])?;
        assert!(!pending.take_end());
        Ok(())
    }

    #[test]
    fn what_is_closed_takes_nothing() -> Result {
        let mut pending = queue(&[7])?;
        pending.close();
        assert!(pending.push(Item(7, 1)).is_err());
        assert_eq!(pending.start(), None);
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
