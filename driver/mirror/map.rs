// SPDX-License-Identifier: GPL-2.0

//! Mapping the pages of a window: first rights of what is mapped, then DMA addresses for what is not, then leaves.

use super::Slot;
use crate::{
    gpu::Gpu,
    gpu_pt::{
        block::{
            Block,
            Leaf,
            Stale, //
        },
        Access,
        LeafSize,
        Pte,
        PAGE_SHIFT, //
    },
    kapi::hmm::{
        MirroredPages,
        Need, //
    },
};
use kernel::prelude::*;

/// What mapping a window did.
#[derive(Default)]
pub(crate) struct Mapped {
    /// What the device may have cached of before.
    pub(crate) stale: Stale,
    /// Pages that were not mapped before.
    pub(crate) pages: usize,
    /// Pages of the largest leaf that was written; 0: none was.
    pub(crate) largest: usize,
    /// Leaves that became writable.
    pub(crate) upgrades: usize,
}

impl Mapped {
    /// What this and `then` did together.
    pub(super) fn and(self, then: Self) -> Self {
        Self {
            stale: self.stale.max(then.stale),
            pages: self.pages + then.pages,
            largest: self.largest.max(then.largest),
            upgrades: self.upgrades + then.upgrades,
        }
    }
}

/// Makes pages writable that are mapped read-only, that a fault wants to write, and that the CPU may write by now.
pub(super) fn upgrade_leaves(
    gpu: &Gpu,
    block: &mut Block,
    first: usize,
    needs: &[Need],
    pages: MirroredPages<'_>,
) -> Result<Mapped> {
    let mut mapped = Mapped::default();
    let writes = needs
        .iter()
        .enumerate()
        .filter(|(_, need)| **need == Need::Write);
    for (page, cpu) in writes.filter_map(|(i, _)| Some((first + i, pages.get(i)?))) {
        let Some((Access::ReadOnly, size)) = block.lookup(page) else {
            continue;
        };
        if !cpu.writable() {
            continue;
        }
        let leaf = page - page % size.pages()..page - page % size.pages() + size.pages();
        let cpu_page = |p: usize| pages.get(p.checked_sub(first)?).filter(|p| p.writable());
        let whole = leaf.clone().all(|p| cpu_page(p).is_some());
        let dirty = if whole { leaf } else { page..page + 1 };
        dirty.filter_map(cpu_page).for_each(|p| p.mark_dirty());
        mapped.stale = mapped.stale.max(block.upgrade(&gpu.vram, page, whole)?);
        mapped.upgrades += 1;
        gpu.counters.upgrades.inc();
        gpu.counters.splits.add(block.take_splits());
    }
    Ok(mapped)
}

/// DMA-maps the pages that the CPU has and the GPU has not.
pub(super) fn dma_map_missing(
    gpu: &Gpu,
    block: &Block,
    first: usize,
    needs: &[Need],
    pages: MirroredPages<'_>,
    slots: &mut [Slot],
) -> Result {
    let empty = block.mapped() == 0;
    for (i, slot) in slots.iter_mut().enumerate() {
        let Some(page) = pages.get(i) else { continue };
        if page.is_secret() {
            // Not mapped along; who needs it is told.
            if needs.get(i).is_some_and(|need| *need != Need::Snapshot) {
                return Err(EPERM);
            }
            continue;
        }
        if !empty && block.lookup(first + i).is_some() {
            continue;
        }
        let access = if page.writable() {
            // Before the device can write: reclaim must not take the page for clean.
            page.mark_dirty();
            Access::ReadWrite
        } else {
            Access::ReadOnly
        };
        *slot = Some((gpu.dma.map(page)?.0, access));
    }
    Ok(())
}

/// Writes a leaf for each address in `slots`, the largest that contiguity, alignment and equal rights allow, and empties
/// the slots that it has written.
pub(super) fn write_leaves(
    gpu: &Gpu,
    block: &mut Block,
    first: usize,
    slots: &mut [Slot],
) -> Result<Mapped> {
    let mut mapped = Mapped::default();
    let mut counts = LeafCounts::default();
    let mut i = 0;
    while let Some(rest) = slots.get_mut(i..).filter(|rest| !rest.is_empty()) {
        let Some(Some((dma, access))) = rest.first().copied() else {
            i += 1;
            continue;
        };
        let size = [LeafSize::Huge, LeafSize::Big]
            .into_iter()
            .find(|size| fits(*size, first + i, rest))
            .unwrap_or(LeafSize::Small);
        let leaf = Leaf {
            page: first + i,
            size,
            pte: Pte::sysmem(dma, access)?,
        };
        mapped.stale = mapped.stale.max(block.map(&gpu.vram, leaf)?);
        mapped.pages += size.pages();
        mapped.largest = mapped.largest.max(size.pages());
        counts.add(size);
        rest.iter_mut()
            .take(size.pages())
            .for_each(|slot| *slot = None);
        i += size.pages();
    }
    gpu.counters.leaves_4k.add(counts.small);
    gpu.counters.leaves_64k.add(counts.big);
    gpu.counters.leaves_2m.add(counts.huge);
    Ok(mapped)
}

/// Whether a leaf of `size` at `page` can stand for the first of `slots`.
fn fits(size: LeafSize, page: usize, slots: &[Slot]) -> bool {
    let (pages, bytes) = (size.pages(), (size.pages() as u64) << PAGE_SHIFT);
    let Some(Some((base, access))) = slots.first().copied() else {
        return false;
    };
    let Some(run) = slots.get(..pages) else {
        return false;
    };
    page % pages == 0
        && base % bytes == 0
        && run
            .iter()
            .enumerate()
            .all(|(i, slot)| *slot == Some((base + ((i as u64) << PAGE_SHIFT), access)))
}

/// How many leaves of each size were written.
#[derive(Default)]
struct LeafCounts {
    small: usize,
    big: usize,
    huge: usize,
}

impl LeafCounts {
    /// Adds one leaf.
    fn add(&mut self, size: LeafSize) {
        match size {
            LeafSize::Small => self.small += 1,
            LeafSize::Big => self.big += 1,
            LeafSize::Huge => self.huge += 1,
        }
    }
}
