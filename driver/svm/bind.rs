// SPDX-License-Identifier: GPL-2.0

//! SVM_BIND: a process has pages mapped before the GPU needs them, by the way that faults take.

use super::{
    batch::Batch,
    part::{BlockScratch, Part},
    space::position,
    Reason, Svm,
};
use crate::{
    gpu_pt::{BIG_PAGES, BLOCK_PAGES, BLOCK_SHIFT, PAGE_SHIFT},
    kapi::{
        hmm::{Need, USERFAULTFD},
        raw,
    },
    mirror::Region,
};
use core::ops::Range;
use kernel::{current, mm::MmWithUser, prelude::*};

/// What faults and prefetches can do here: bits of `enum drm_mirage_feature`.
pub(crate) const FEATURES: u32 = if USERFAULTFD {
    raw::drm_mirage_feature_DRM_MIRAGE_FEATURE_USERFAULTFD
} else {
    0
};

/// One SVM_BIND under way.
struct Prefetch<'a> {
    svm: &'a Svm,
    mm: &'a MmWithUser,
    need: Need,
    scratch: KBox<BlockScratch>,
    batch: Batch,
}

impl Svm {
    /// Maps the pages of `range`, from its start, and counts in `done` those that were mapped, one after the other.
    ///
    /// # Errors
    ///
    /// `EINVAL`: it touches the unmanaged range. `EFAULT`: the next page is one that an access could not have. `EINTR`: a signal
    /// came. `EAGAIN`: the memory changed all the time. `ENODEV`. `ENOMEM`.
    pub(crate) fn prefetch(
        &self,
        mm: &MmWithUser,
        range: Range<u64>,
        need: Need,
        done: &mut u64,
    ) -> Result {
        if range.start < self.unmanaged.end && self.unmanaged.start < range.end {
            return Err(EINVAL);
        }
        let mut prefetch = Prefetch {
            svm: self,
            mm,
            need,
            scratch: BlockScratch::new()?,
            batch: Batch::default(),
        };
        let mut start = range.start;
        while start < range.end {
            if current!().signal_pending() {
                return Err(EINTR);
            }
            let block_va = start >> BLOCK_SHIFT << BLOCK_SHIFT;
            let end = range.end.min(block_va + (1 << BLOCK_SHIFT));
            let first = position(start).1;
            // CAST: At most a block.
            let pages = first..first + ((end - start) >> PAGE_SHIFT) as usize;
            let outcome = prefetch.block(block_va, pages, done);
            // Also after an error: what was upgraded before it was.
            let batch = core::mem::take(&mut prefetch.batch);
            if let Some(scope) = batch.scope(self.pdb) {
                self.gpu.tlb_invalidate(&scope);
            }
            outcome?;
            start = end;
        }
        Ok(())
    }
}

impl Prefetch<'_> {
    /// Maps pages of one block: all at once, or, if some page cannot be had, those before it.
    fn block(&mut self, block_va: u64, pages: Range<usize>, done: &mut u64) -> Result {
        let region = self.svm.reserve(self.mm, block_va).map_err(error_of)?;
        let window = self.plan(&region, block_va, pages.clone());
        let outcome = match window {
            None => Ok(()),
            Some(window) => self.map(&region, block_va, window),
        };
        if outcome != Err(EFAULT) {
            return self.count(pages.len(), outcome, done);
        }
        let mut first = pages.start;
        while first < pages.end {
            let end = pages.end.min(first - first % BIG_PAGES + BIG_PAGES);
            let outcome = self.exactly(&region, block_va, first..end);
            if outcome == Err(EFAULT) {
                for page in first..end {
                    let outcome = self.exactly(&region, block_va, page..page + 1);
                    self.count(1, outcome, done)?;
                }
            } else {
                self.count(end - first, outcome, done)?;
            }
            first = end;
        }
        Ok(())
    }

    fn count(&self, pages: usize, outcome: Result, done: &mut u64) -> Result {
        if outcome.is_ok() {
            *done += pages as u64;
        }
        outcome
    }

    /// Notes what the pages need that they have not, and chooses the window: the whole block if nothing is mapped there, so that it
    /// can become one leaf.
    fn plan(
        &mut self,
        region: &Region,
        block_va: u64,
        pages: Range<usize>,
    ) -> Option<Range<usize>> {
        let block = position(block_va).0;
        let mut state = region.notifier.lock();
        let mut missing = false;
        for (page, need) in self.scratch.needs.iter_mut().enumerate() {
            let wanted = pages.contains(&page) && !state.satisfies(block, page, self.need);
            *need = if wanted { self.need } else { Need::Snapshot };
            missing |= wanted;
        }
        let empty = state.tables().block(block).is_none_or(|b| b.mapped() == 0);
        missing.then_some(if empty { 0..BLOCK_PAGES } else { pages })
    }

    /// Maps exactly these pages.
    fn exactly(&mut self, region: &Region, block_va: u64, pages: Range<usize>) -> Result {
        self.scratch.needs.fill(Need::Snapshot);
        let needs = self.scratch.needs.get_mut(pages.clone()).ok_or(EINVAL)?;
        needs.fill(self.need);
        self.map(region, block_va, pages)
    }

    /// Maps a window, which has what its pages need.
    fn map(&mut self, region: &Region, block_va: u64, pages: Range<usize>) -> Result {
        let part = Part {
            region,
            mm: self.mm,
            block_va,
            pages,
        };
        let svm = self.svm;
        match svm.service_part(&part, &mut self.scratch, &mut self.batch) {
            Err(_) if svm.gpu.is_lost() => Err(ENODEV),
            Err(e) if e == EBUSY => Err(EAGAIN),
            Err(e) if e == ENOMEM || e == EINTR => Err(e),
            Err(_) => Err(EFAULT),
            Ok(()) => Ok(()),
        }
    }
}

fn error_of(reason: Reason) -> Error {
    match reason {
        Reason::OutOfMemory => ENOMEM,
        Reason::Device => ENODEV,
        _ => EFAULT,
    }
}
