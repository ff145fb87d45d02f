// SPDX-License-Identifier: GPL-2.0

//! The fault loop: pages of one block become valid, for faults ([`super::service`]) and for SVM_BIND ([`super::bind`]).
//!
//! Work that an invalidation undoes is begun again. After a second of that the accesses are replayed all the same, fault again,
//! and are served in a later batch, so nobody waits for ever under a lock.

use super::{batch::Batch, space::position, Svm};
use crate::{
    gpu_pt::{block::Stale, BLOCK_PAGES, BLOCK_SHIFT, PAGE_SHIFT},
    kapi::hmm::{FaultRequest, Faulted, Need},
    mirror::{Region, Slot, Window},
};
use core::ops::Range;
use kernel::{
    mm::MmWithUser,
    prelude::*,
    time::{Delta, Instant, Monotonic},
};

/// Longest time for one block, over all its retries, from when its pages are there first.
const BLOCK_BUDGET: Delta = Delta::from_secs(1);

/// Memory for a block, so that none is allocated on the way.
pub(super) struct BlockScratch {
    pub(super) needs: [Need; BLOCK_PAGES],
    pfns: [usize; BLOCK_PAGES],
    slots: [Slot; BLOCK_PAGES],
}

/// Part of a block that is faulted in at once.
pub(super) struct Part<'a> {
    pub(super) region: &'a Region,
    pub(super) mm: &'a MmWithUser,
    /// Address of the block.
    pub(super) block_va: u64,
    /// Pages in the block.
    pub(super) pages: Range<usize>,
}

impl BlockScratch {
    /// Made in place: it is as big as a kernel stack.
    pub(super) fn new() -> Result<KBox<Self>> {
        KBox::init(
            init!(Self {
                needs <- pin_init::init_array_from_fn(|_| Need::Snapshot),
                pfns <- pin_init::init_array_from_fn(|_| 0),
                slots <- pin_init::init_array_from_fn(|_| None),
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }
}

impl Svm {
    /// The fault loop: look, fault in what is missing, look again, lock, check the sequence, map. An invalidation in between makes it
    /// start again.
    ///
    /// # Errors
    ///
    /// A page that is needed cannot be had; `ENOMEM`; `EBUSY`: it changed all the time.
    pub(super) fn service_part(
        &self,
        part: &Part<'_>,
        scratch: &mut BlockScratch,
        batch: &mut Batch,
    ) -> Result {
        let (mut begin, mut timed) = (Instant::<Monotonic>::now(), false);
        let needs = scratch.needs.get(part.pages.clone()).ok_or(EINVAL)?;
        let pfns = scratch.pfns.get_mut(part.pages.clone()).ok_or(EINVAL)?;
        let look = part.request(0, Need::Snapshot);
        while begin.elapsed() < BLOCK_BUDGET && !self.gpu.is_lost() {
            let faulted = match part.region.notifier.fault(&look, pfns) {
                Err(e) if e == EBUSY => break,
                other => other?,
            };
            if (0..needs.len()).any(|i| needs.get(i).is_some_and(|need| !faulted.has(i, *need))) {
                match fault_in(part, needs, pfns) {
                    Err(e) if e == EBUSY && timed => break,
                    // HMM counts the time that a page takes to come, too.
                    Err(e) if e == EBUSY => {}
                    other => other?,
                }
                // A page may take its time, from a disk for example. Only what is lost again is a retry.
                if !timed {
                    (begin, timed) = (Instant::now(), true);
                }
                continue;
            }
            timed = true;
            let seq = faulted.seq();
            match faulted.commit() {
                Err(e) if e == EAGAIN => {
                    self.gpu.counters.retries.inc();
                    self.trace_retry(part.addresses(), seq, batch.number);
                }
                Err(e) => return Err(e),
                Ok(mut commit) => {
                    let (state, pages) = commit.parts();
                    let window = Window {
                        block: position(part.block_va).0,
                        first: part.pages.start,
                        needs,
                        scratch: &mut scratch.slots,
                    };
                    let block = part.block_va..part.block_va + (1 << BLOCK_SHIFT);
                    // Rights may have been added before an error, and the TLB has the old ones.
                    let mapped = state
                        .map(window, pages)
                        .inspect_err(|_| batch.add_upgraded(Stale::Pde0, block.clone()))?;
                    self.trace_commit(part.addresses(), seq, &mapped, batch.number);
                    batch.add_upgraded(mapped.stale, block);
                    return Ok(());
                }
            }
        }
        self.gpu.counters.retry_timeouts.inc();
        Err(EBUSY)
    }
}

impl<'a> Part<'a> {
    /// Its addresses.
    fn addresses(&self) -> Range<u64> {
        let address = |page: usize| self.block_va + ((page as u64) << PAGE_SHIFT);
        address(self.pages.start)..address(self.pages.end)
    }

    /// A request from the page at position `index` of the part on.
    fn request(&self, index: usize, need: Need) -> FaultRequest<'a> {
        // CAST: `usize` has 64 bits.
        let start = self.block_va as usize + ((self.pages.start + index) << PAGE_SHIFT);
        FaultRequest {
            mm: self.mm,
            start,
            need,
        }
    }
}

/// Faults in exactly the pages that are needed, a run of neighbours at a time. What comes of it is looked up afterwards.
fn fault_in(part: &Part<'_>, needs: &[Need], pfns: &mut [usize]) -> Result {
    let mut index = 0;
    for run in needs.chunk_by(|a, b| a == b) {
        let need = run.first().copied().unwrap_or_default();
        if need != Need::Snapshot {
            let pfns = pfns.get_mut(index..index + run.len()).ok_or(EINVAL)?;
            let request = part.request(index, need);
            // Nothing is mapped by this, so it is not committed.
            let _: Faulted<'_, _> = part.region.notifier.fault(&request, pfns)?;
        }
        index += run.len();
    }
    Ok(())
}
