// SPDX-License-Identifier: GPL-2.0

//! One region of a mirrored address space: notifier, update lock, commit, invalidate.
//!
//! A region is 32 MiB of addresses, aligned. It owns the 16 PDE0s for it and everything below them, so its update lock
//! covers all page-table writes for its addresses, and regions do not wait for each other. 16 tables of 64 KiB PTEs fill one
//! page, which is why it is 32 MiB.
//!
//! Owner: [`crate::svm::Svm`], in its map of regions. Memory: one page of device memory, and one more for each 2 MiB block that was
//! ever mapped; all allocated before the update lock is taken.

use crate::{
    gpu::Gpu,
    gpu_pt::{
        block::{Block, BlockTables, Stale},
        shadow::Shadow,
        Access, LeafSize, BIG_PAGES, BIG_TABLE_SIZE, BLOCK_PAGES, BLOCK_SHIFT, PAGE_SHIFT,
    },
    kapi::{
        dma::DmaAddr,
        hmm::{MirroredPages, Need},
        notifier::{IntervalNotifier, Invalidation, Mirror, WouldBlock},
        trace,
    },
    tlb::{CacheLevel, Scope, TlbGuard},
    vram::{Vram, VramOffset, VramPage},
};
use core::ops::Range;
use kernel::{
    mm::MmWithUser,
    prelude::*,
    sync::{atomic::Atomic, Arc},
};

mod map;

pub(crate) use map::Mapped;
use map::{dma_map_missing, upgrade_leaves, write_leaves};

/// log2 of the size of a region.
pub(crate) const REGION_SHIFT: u32 = 25;
/// Bytes of a region.
pub(crate) const REGION_SIZE: u64 = 1 << REGION_SHIFT;
/// Blocks of a region.
pub(crate) const REGION_BLOCKS: usize = 1 << (REGION_SHIFT - BLOCK_SHIFT);
/// Pages of a region.
const REGION_PAGES: usize = REGION_BLOCKS * BLOCK_PAGES;

/// A region of an address space and the notifier that watches it.
#[pin_data]
pub(crate) struct Region {
    /// Holds the state; see [`RegionState`].
    #[pin]
    pub(crate) notifier: IntervalNotifier<RegionState>,
    /// First address.
    pub(crate) start: u64,
    /// Whether a fault has named it since the search for a region to give up came by.
    pub(crate) used: Atomic<bool>,
}

impl Region {
    /// Registers the notifier; `tables` are the region's own.
    pub(crate) fn new<'a>(
        mm: &'a MmWithUser,
        owner: Owner,
        tables: BlockArray,
    ) -> impl PinInit<Self, Error> + 'a {
        let start = tables.start;
        let Owner { gpu, pdb, client } = owner;
        let state = RegionState {
            gpu,
            pdb,
            client,
            tables,
            unlinked: false,
        };
        // CAST: `usize` has 64 bits.
        let range = start as usize..(start + REGION_SIZE) as usize;
        try_pin_init!(Self {
            notifier <- IntervalNotifier::new(mm, range, state),
            start,
            used: Atomic::new(true),
        })
    }
}

/// The page tables for 32 MiB: PDE0s, and what they point to.
pub(crate) struct BlockArray {
    start: u64,
    pde0: VramOffset,
    big: VramPage,
    // Boxed, so that regions can be made on a kernel stack.
    blocks: KBox<[Option<BlockSlot>; REGION_BLOCKS]>,
}

/// Memory that a block needs before something is mapped in it.
pub(crate) struct BlockMemory {
    /// For 512 PTEs of 4 KiB.
    small: VramPage,
    shadow: Shadow,
}

impl BlockMemory {
    /// Allocates it.
    pub(crate) fn new(vram: &Vram) -> Result<Self> {
        Ok(Self {
            small: vram.alloc_page()?,
            shadow: Shadow::new()?,
        })
    }
}

struct BlockSlot {
    block: Block,
    // Freed after `block`, whose PDE0 points to it.
    _small: VramPage,
}

impl BlockArray {
    /// Tables for the region at `start`, whose first PDE0 is at `pde0`. `big` is zeroed.
    pub(crate) fn new(start: u64, pde0: VramOffset, big: VramPage) -> Result<Self> {
        Ok(Self {
            start,
            pde0,
            big,
            blocks: KBox::init(pin_init::init_array_from_fn(|_| None), GFP_KERNEL)?,
        })
    }

    /// Whether block `index` can be mapped without allocating.
    pub(crate) fn is_reserved(&self, index: usize) -> bool {
        matches!(self.blocks.get(index), Some(Some(_)))
    }

    /// Gives block `index` its memory; what it has already is kept, and `memory` returned.
    pub(crate) fn reserve(&mut self, index: usize, memory: BlockMemory) -> Option<BlockMemory> {
        let Some(slot @ None) = self.blocks.get_mut(index) else {
            return Some(memory);
        };
        let BlockMemory { small, shadow } = memory;
        let tables = BlockTables {
            pde0: self.pde0.add(index as u64 * 16),
            big: self.big.offset().add(index as u64 * BIG_TABLE_SIZE),
            small: small.offset(),
        };
        *slot = Some(BlockSlot {
            block: Block::new(tables, shadow),
            _small: small,
        });
        None
    }

    /// Block `index`, if it has tables.
    pub(crate) fn block(&mut self, index: usize) -> Option<&mut Block> {
        Some(&mut self.blocks.get_mut(index)?.as_mut()?.block)
    }

    /// 4 KiB pages that are mapped.
    pub(crate) fn mapped(&self) -> usize {
        self.blocks
            .iter()
            .flatten()
            .map(|slot| slot.block.mapped())
            .sum()
    }

    /// Pages of device memory that the tables take.
    pub(crate) fn pages(&self) -> usize {
        1 + self.blocks.iter().flatten().count()
    }

    /// Calls `f` for each block with tables that has pages of `pages` (counted in the region), with the pages (counted in the block).
    fn for_each(
        &mut self,
        pages: &Range<usize>,
        mut f: impl FnMut(&mut Block, Range<usize>, usize),
    ) {
        for (i, slot) in self.blocks.iter_mut().enumerate() {
            let first = i * BLOCK_PAGES;
            let start = pages.start.max(first);
            let end = pages.end.min(first + BLOCK_PAGES);
            if let (Some(slot), true) = (slot, start < end) {
                f(&mut slot.block, start - first..end - first, first);
            }
        }
    }
}

/// The address space that a region belongs to.
pub(crate) struct Owner {
    pub(crate) gpu: Arc<Gpu>,
    pub(crate) pdb: VramOffset,
    /// Number of the file, for traces.
    pub(crate) client: u64,
}

/// What the update lock of a region protects.
pub(crate) struct RegionState {
    gpu: Arc<Gpu>,
    pdb: VramOffset,
    client: u64,
    tables: BlockArray,
    /// The directory does not lead to the tables any more; another region may be there.
    unlinked: bool,
}

/// Part of a block to map.
pub(crate) struct Window<'a> {
    /// Which block of the region.
    pub(crate) block: usize,
    /// First page in the block.
    pub(crate) first: usize,
    /// What the faults need; other pages are mapped if the CPU has them.
    pub(crate) needs: &'a [Need],
    /// Bus addresses while a block is being mapped. No allocation under the lock.
    pub(crate) scratch: &'a mut [Slot; BLOCK_PAGES],
}

/// A page on its way into the page table: its bus address and what the GPU may do.
pub(crate) type Slot = Option<(u64, Access)>;

impl RegionState {
    /// Page tables, for reservations.
    pub(crate) fn tables(&mut self) -> &mut BlockArray {
        &mut self.tables
    }

    /// What the GPU may do with a page of a block, if it is mapped, and by a leaf of which size.
    pub(crate) fn leaf(&mut self, block: usize, page: usize) -> Option<(Access, LeafSize)> {
        self.tables.block(block)?.lookup(page)
    }

    /// Whether the GPU has what `need` says for a page already.
    pub(crate) fn satisfies(&mut self, block: usize, page: usize, need: Need) -> bool {
        let access = self.leaf(block, page).map(|(access, _)| access);
        match need {
            Need::Snapshot => true,
            Need::Read => access.is_some(),
            Need::Write => access == Some(Access::ReadWrite),
        }
    }

    /// Maps the pages of a window, each in the largest leaf that they allow. Called with a commit's pages only, so they are current.
    ///
    /// # Errors
    ///
    /// `ENOMEM`: a page could not be DMA-mapped; pages before it may be mapped. `EPERM`: a needed page is not for devices. `EBUSY`: the
    /// region was given up meanwhile, or the device is being reset.
    pub(crate) fn map(&mut self, window: Window<'_>, pages: MirroredPages<'_>) -> Result<Mapped> {
        let gpu = &self.gpu;
        // What is written while the device is being reset is lost.
        if self.unlinked || gpu.is_resetting() {
            return Err(EBUSY);
        }
        let block = self.tables.block(window.block).ok_or(ENOENT)?;
        let Window { first, needs, .. } = window;
        let scratch = window.scratch.get_mut(..needs.len()).ok_or(EINVAL)?;

        scratch.fill(None);
        let mapped = upgrade_leaves(gpu, block, first, needs, pages).and_then(|upgraded| {
            dma_map_missing(gpu, block, first, needs, pages, scratch)?;
            Ok(upgraded.and(write_leaves(gpu, block, first, scratch)?))
        });
        // What is left was mapped for DMA and not written, because of an error.
        scratch
            .iter()
            .flatten()
            .for_each(|(addr, _)| gpu.dma.unmap(DmaAddr(*addr)));
        mapped
    }

    /// Takes the mappings of `pages` away. Returns how many there were.
    fn unmap(&mut self, pages: Range<usize>, tlb: &TlbGuard<'_>) -> usize {
        let gpu = &self.gpu;
        let mut retired = 0;
        let mut stale = Stale::Nothing;
        let mut union: Option<Range<usize>> = None;
        self.tables.for_each(&pages, |block, range, first| {
            match block.retire(&gpu.vram, range.clone()) {
                Ok(r) => {
                    retired += r.pages;
                    gpu.counters.splits.add(block.take_splits());
                    stale = stale.max(r.stale);
                    if r.stale != Stale::Nothing {
                        let start = union.as_ref().map_or(first + range.start, |u| u.start);
                        union = Some(start..first + range.end);
                    }
                }
                // Cannot happen with ranges inside the block; but the device must not keep what we could not clear.
                Err(_) => gpu.stop_dma("a page table could not be cleared"),
            }
        });
        if let Some(union) = union {
            let region = self.tables.start;
            let va = |page: usize| region + ((page as u64) << PAGE_SHIFT);
            let scope = Scope {
                pdb: self.pdb,
                range: Some(va(union.start)..va(union.end)),
                level: stale.into(),
            };
            if tlb.invalidate(&scope).is_err() {
                gpu.stop_dma("a TLB invalidate was not acknowledged");
            }
            self.tables.for_each(&union, |block, range, _| {
                block.reap(&gpu.vram, range, |addr| gpu.dma.unmap(DmaAddr(addr)));
            });
        }
        retired
    }

    /// Takes every mapping away, and the tables out of the directory. They may be freed then.
    pub(crate) fn unlink(&mut self) {
        self.unlinked = true;
        self.detach();
        for slot in self.tables.blocks.iter_mut().flatten() {
            slot.block.unlink(&self.gpu.vram);
        }
        let range = self.tables.start..self.tables.start + REGION_SIZE;
        self.gpu.tlb_invalidate(&Scope {
            pdb: self.pdb,
            range: Some(range),
            level: CacheLevel::UpToPde0,
        });
    }

    /// Records what an invalidation did: how many pages went.
    fn trace(&self, inv: &Invalidation<'_>, taken: Result<usize, WouldBlock>) {
        trace::invalidate(|| trace::Invalidate {
            client: self.client,
            start: inv.range().start as u64,
            end: inv.range().end as u64,
            seq: inv.seq(),
            // CAST: A region has fewer.
            pages: *taken.as_ref().unwrap_or(&0) as u32,
            cause: inv.cause(),
            blockable: inv.blockable(),
            refused: taken.is_err(),
        });
    }

    /// The pages of `range` that are in the region.
    fn pages_in(&self, range: &Range<usize>) -> Range<usize> {
        let page = |va: usize| {
            let offset = (va as u64)
                .saturating_sub(self.tables.start)
                .min(REGION_SIZE);
            (offset >> PAGE_SHIFT) as usize
        };
        page(range.start)..page(range.end)
    }
}

impl Mirror for RegionState {
    fn invalidate(&mut self, inv: &Invalidation<'_>) -> Result<(), WouldBlock> {
        let gpu = self.gpu.clone();
        let pages = self.pages_in(&inv.range());
        if self.tables.mapped() == 0 || pages.is_empty() {
            gpu.counters.empty_invalidations.inc();
            self.trace(inv, Ok(0));
            return Ok(());
        }
        let tlb = if inv.blockable() {
            gpu.tlb.lock()
        } else {
            gpu.tlb.try_lock().ok_or(WouldBlock).inspect_err(|_| {
                gpu.counters.refused_invalidations.inc();
                self.trace(inv, Err(WouldBlock));
            })?
        };
        let taken = self.unmap(pages, &tlb);
        if taken == 0 {
            gpu.counters.empty_invalidations.inc();
        } else {
            gpu.counters.invalidations.inc();
            gpu.counters.invalidated_pages.add(taken);
        }
        self.trace(inv, Ok(taken));
        Ok(())
    }

    fn detach(&mut self) {
        let gpu = self.gpu.clone();
        if self.tables.mapped() != 0 {
            self.unmap(0..REGION_PAGES, &gpu.tlb.lock());
        }
    }
}

const _: () =
    assert!(BIG_TABLE_SIZE * REGION_BLOCKS as u64 == 4096 && BIG_PAGES * 32 == BLOCK_PAGES);
