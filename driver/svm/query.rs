// SPDX-License-Identifier: GPL-2.0

//! SVM_QUERY: two views of each page of a range, the GPU's and the CPU's. Nothing is faulted in and nothing changed.

use super::{space::position, Svm};
use crate::{
    gpu_pt::{Access, BLOCK_PAGES, BLOCK_SHIFT, PAGE_SHIFT},
    kapi::{
        hmm::{FaultRequest, MirroredPage, Need},
        notifier::{IntervalNotifier, Invalidation, Mirror, WouldBlock},
        raw,
    },
};
use core::ops::Range;
use kernel::{
    current,
    mm::MmWithUser,
    prelude::*,
    time::{Delta, Instant, Monotonic},
};

/// Most pages of one query: 256 MiB.
pub(crate) const QUERY_PAGES_MAX: usize = 1 << 16;
/// Words of a `struct drm_mirage_page`: the GPU's view and the CPU's.
const WORDS: usize = 2;
/// Longest time to look at one block while it changes.
const BLOCK_BUDGET: Delta = Delta::from_secs(1);

/// Watches the range of a query, so that what was seen of it can be told from what has changed since.
struct Watch;

impl Mirror for Watch {
    fn invalidate(&mut self, _inv: &Invalidation<'_>) -> Result<(), WouldBlock> {
        Ok(())
    }

    fn detach(&mut self) {}
}

impl Svm {
    /// Hands the views of the pages of `range` to `out`, in order, some at a time: two words for each page.
    ///
    /// # Errors
    ///
    /// `EINTR`: a signal came. `EAGAIN`: a part of the range changed all the time. `ENOMEM`. What `out` returns.
    pub(crate) fn query(
        &self,
        mm: &MmWithUser,
        range: Range<u64>,
        mut out: impl FnMut(&[u32]) -> Result,
    ) -> Result {
        let bytes = usize::try_from(range.start)?..usize::try_from(range.end)?;
        let watch = KBox::pin_init(IntervalNotifier::new(mm, bytes, Watch), GFP_KERNEL)?;
        let mut pfns = KVec::from_elem(0usize, BLOCK_PAGES, GFP_KERNEL)?;
        let mut words = KVec::from_elem(0u32, BLOCK_PAGES * WORDS, GFP_KERNEL)?;

        let mut start = range.start;
        while start < range.end {
            if current!().signal_pending() {
                return Err(EINTR);
            }
            let end = range
                .end
                .min((start >> BLOCK_SHIFT << BLOCK_SHIFT) + (1 << BLOCK_SHIFT));
            // CAST: At most a block.
            let pages = ((end - start) >> PAGE_SHIFT) as usize;
            let words = words.get_mut(..pages * WORDS).ok_or(EINVAL)?;
            let pfns = pfns.get_mut(..pages).ok_or(EINVAL)?;
            self.look_at_gpu(start, words);
            let request = FaultRequest {
                mm,
                // CAST: `usize` has 64 bits.
                start: start as usize,
                need: Need::Snapshot,
            };
            look_at_cpu(&watch, &request, pfns, words)?;
            out(words)?;
            start = end;
        }
        Ok(())
    }

    /// Fills in what the GPU's page table has, from `start` on, all in one block.
    fn look_at_gpu(&self, start: u64, words: &mut [u32]) {
        let (block, first) = position(start);
        let pages = words.chunks_exact_mut(WORDS).enumerate();
        let space = self.space.lock();
        let Some(space) = space.as_ref() else {
            pages.for_each(|(_, page)| page.fill(0));
            return;
        };
        let region = space.find(start);
        let mut state = region.as_ref().map(|region| region.notifier.lock());
        for (i, page) in pages {
            let leaf = match &mut state {
                Some(state) => state.leaf(block, first + i),
                None => None,
            };
            if let Some(gpu) = page.first_mut() {
                *gpu = leaf.map_or(0, |(access, size)| gpu_view(access, size.order()));
            }
        }
    }
}

fn gpu_view(access: Access, order: u32) -> u32 {
    let rights = match access {
        Access::ReadOnly => 0,
        Access::ReadWrite => {
            raw::drm_mirage_page_gpu_DRM_MIRAGE_GPU_WRITE
                | raw::drm_mirage_page_gpu_DRM_MIRAGE_GPU_ATOMIC
        }
    };
    let order = order << raw::drm_mirage_page_gpu_DRM_MIRAGE_GPU_ORDER_SHIFT;
    raw::drm_mirage_page_gpu_DRM_MIRAGE_GPU_VALID | rights | order
}

/// Registers a notifier and takes it away again: the first one of an address space takes the mmap lock for writing
/// (`mmu_notifier_register()`), later ones do not.
///
/// # Errors
///
/// `ERESTARTSYS`: a signal came. `ENOMEM`.
pub(super) fn watch_first(mm: &MmWithUser) -> Result {
    let page = 0..1 << PAGE_SHIFT;
    match KBox::pin_init(IntervalNotifier::new(mm, page, Watch), GFP_KERNEL) {
        // Nothing has happened yet, so the call may simply begin again.
        Err(e) if e == EINTR => Err(ERESTARTSYS),
        made => made.map(drop),
    }
}

/// Fills in what the CPU's page table has.
fn look_at_cpu(
    watch: &IntervalNotifier<Watch>,
    request: &FaultRequest<'_>,
    pfns: &mut [usize],
    words: &mut [u32],
) -> Result {
    let begin = Instant::<Monotonic>::now();
    while begin.elapsed() < BLOCK_BUDGET && !current!().signal_pending() {
        let seen = match watch.fault(request, pfns) {
            Err(e) if e == EBUSY => break,
            other => other?,
        };
        let mut commit = match seen.commit() {
            Err(e) if e == EAGAIN => continue,
            other => other?,
        };
        let (_, pages) = commit.parts();
        for (i, page) in words.chunks_exact_mut(WORDS).enumerate() {
            if let Some(cpu) = page.last_mut() {
                *cpu = pages.get(i).as_ref().map_or(0, cpu_view);
            }
        }
        return Ok(());
    }
    Err(EAGAIN)
}

fn cpu_view(page: &MirroredPage<'_>) -> u32 {
    let flag = |is: bool, flag: u32| if is { flag } else { 0 };
    raw::drm_mirage_page_cpu_DRM_MIRAGE_CPU_READ
        | flag(
            page.writable(),
            raw::drm_mirage_page_cpu_DRM_MIRAGE_CPU_WRITE,
        )
        | flag(page.is_zero(), raw::drm_mirage_page_cpu_DRM_MIRAGE_CPU_ZERO)
        | page.order() << raw::drm_mirage_page_cpu_DRM_MIRAGE_CPU_ORDER_SHIFT
}
