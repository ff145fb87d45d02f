// SPDX-License-Identifier: GPL-2.0

//! What an address space consists of: the directory, the regions, the unmanaged range.
//!
//! Regions come when a fault needs them. They go when there are too many: those with nothing mapped first, then one
//! that was not used lately; the GPU faults again if that was wrong.

use crate::{
    directory::Directory,
    gpu::Gpu,
    gpu_pt::{
        block::{Block, Leaf, Stale},
        Access, LeafSize, Pte, BLOCK_PAGES, BLOCK_SHIFT, PAGE_SHIFT,
    },
    kapi::notifier::Mirror as _,
    mirror::{BlockArray, BlockMemory, Owner, Region, REGION_SHIFT},
    tlb::{CacheLevel, Scope},
    vram::{Vram, VramOffset},
};
use core::ops::Range;
use kernel::{
    mm::MmWithUser,
    prelude::*,
    rbtree::{RBTree, RBTreeNode},
    sync::{atomic::Relaxed, Arc},
};

/// Most regions of an address space: 64 GiB.
const REGIONS_MAX: usize = 2048;
/// Empty regions are looked for when there are this many, then at each doubling.
const REAP_MIN: usize = 64;

/// The regions and tables of one address space. Protected by the space lock.
pub(super) struct Space {
    /// Number of the file, for traces.
    client: u64,
    regions: RBTree<u64, Arc<Region>>,
    count: usize,
    reap_at: usize,
    /// Where the search for a region to give up goes on.
    hand: u64,
    unmanaged: BlockArray,
    // After the users of its tables.
    directory: Directory,
}

impl Space {
    /// An empty address space, with page tables for the driver's own memory at `unmanaged`.
    pub(super) fn new(vram: &Vram, unmanaged: u64, client: u64) -> Result<Self> {
        let mut directory = Directory::new(vram)?;
        let pde0 = directory.get(vram, unmanaged)?;
        let unmanaged = BlockArray::new(unmanaged, pde0, vram.alloc_page()?)?;
        Ok(Self {
            client,
            regions: RBTree::new(),
            count: 0,
            reap_at: REAP_MIN,
            hand: 0,
            unmanaged,
            directory,
        })
    }

    /// The page directory base.
    pub(super) fn pdb(&self) -> VramOffset {
        self.directory.pdb()
    }

    /// Pages of device memory above the regions.
    pub(super) fn directory_pages(&self) -> usize {
        self.directory.pages()
    }

    /// How many regions there are.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// The region of `va`, made if there is none.
    pub(super) fn region(
        &mut self,
        gpu: &Arc<Gpu>,
        mm: &MmWithUser,
        va: u64,
    ) -> Result<Arc<Region>> {
        let key = va >> REGION_SHIFT;
        if let Some(region) = self.regions.get(&key) {
            region.used.store(true, Relaxed);
            return Ok(region.clone());
        }
        if self.count >= self.reap_at {
            self.reap(gpu);
        }
        while self.count >= REGIONS_MAX {
            self.evict(gpu)?;
        }
        let start = key << REGION_SHIFT;
        let pde0 = self.directory.get(&gpu.vram, start);
        let pde0 = pde0.inspect_err(|_| self.free_tables(gpu, start))?;
        let region = self
            .make_region(gpu, mm, start, pde0)
            .inspect_err(|_| self.put_directory(gpu, start))?;
        gpu.counters.regions.inc();
        Ok(region)
    }

    fn make_region(
        &mut self,
        gpu: &Arc<Gpu>,
        mm: &MmWithUser,
        start: u64,
        pde0: VramOffset,
    ) -> Result<Arc<Region>> {
        let tables = BlockArray::new(start, pde0, gpu.vram.alloc_page()?)?;
        let owner = Owner {
            gpu: gpu.clone(),
            pdb: self.directory.pdb(),
            client: self.client,
        };
        let region = Arc::pin_init(Region::new(mm, owner, tables), GFP_KERNEL)?;
        let node = RBTreeNode::new(start >> REGION_SHIFT, region.clone(), GFP_KERNEL)?;
        self.regions.insert(node);
        self.count += 1;
        Ok(region)
    }

    /// The region of `va`, if there is one.
    pub(super) fn find(&self, va: u64) -> Option<Arc<Region>> {
        self.regions.get(&(va >> REGION_SHIFT)).cloned()
    }

    /// The first region whose number is `key` or more.
    pub(super) fn region_from(&self, key: u64) -> Option<Arc<Region>> {
        let cursor = self.regions.cursor_lower_bound(&key)?;
        Some(cursor.current().1.clone())
    }

    /// Gives up a region that was not used lately: the next, in the order of addresses, that no fault has named since the hand
    /// passed it (the clock algorithm).
    ///
    /// # Errors
    ///
    /// `ENOMEM`: there is none.
    pub(super) fn evict(&mut self, gpu: &Arc<Gpu>) -> Result {
        // Once round makes every region a candidate.
        for _ in 0..=self.count {
            let (key, used) = self
                .regions
                .cursor_lower_bound(&self.hand)
                .or_else(|| self.regions.cursor_front())
                .map(|cursor| {
                    let (key, region) = cursor.current();
                    (*key, region.used.xchg(false, Relaxed))
                })
                .ok_or(ENOMEM)?;
            self.hand = key + 1;
            if !used {
                gpu.counters.regions_evicted.inc();
                self.remove(gpu, key);
                return Ok(());
            }
        }
        Err(ENOMEM)
    }

    /// Gives up regions with nothing mapped.
    fn reap(&mut self, gpu: &Arc<Gpu>) {
        let mut next = 0;
        while let Some(key) = self
            .regions
            .cursor_lower_bound(&next)
            .map(|cursor| *cursor.current().0)
        {
            next = key + 1;
            let empty = self
                .regions
                .get(&key)
                .is_some_and(|region| region.notifier.lock().tables().mapped() == 0);
            if empty {
                self.remove(gpu, key);
            }
        }
        self.reap_at = REAP_MIN.max(self.count * 2);
    }

    fn remove(&mut self, gpu: &Arc<Gpu>, key: u64) {
        let Some(region) = self.regions.remove(&key) else {
            return;
        };
        self.count -= 1;
        region.notifier.lock().unlink();
        drop(region);
        self.put_directory(gpu, key << REGION_SHIFT);
    }

    fn put_directory(&mut self, gpu: &Arc<Gpu>, va: u64) {
        self.directory.put(va);
        self.free_tables(gpu, va);
    }

    /// Frees the tables on the way to `va` that nobody uses.
    fn free_tables(&mut self, gpu: &Arc<Gpu>, va: u64) {
        let unused = self.directory.take_unused(&gpu.vram, va);
        if unused.iter().all(Option::is_none) {
            return;
        }
        let all = Scope {
            pdb: self.directory.pdb(),
            range: None,
            level: CacheLevel::All,
        };
        gpu.tlb_invalidate(&all);
        drop(unused);
    }

    /// Takes every mapping of mirrored memory away; the GPU faults them in again.
    pub(super) fn unmap_all(&self) {
        for region in self.regions.values() {
            region.notifier.lock().detach();
        }
    }

    /// Takes every mapping away, for good. The caller invalidates all levels before it drops the address space.
    pub(super) fn detach_regions(&self, vram: &Vram) {
        for region in self.regions.values() {
            region.notifier.detach();
        }
        self.directory.unlink_all(vram);
    }

    /// Maps driver memory, contiguous on the bus, in the unmanaged range. Returns what the device may have cached of before.
    pub(super) fn map_unmanaged(
        &mut self,
        vram: &Vram,
        range: Range<u64>,
        dma: u64,
        access: Access,
    ) -> Result<Stale> {
        let mut stale = Stale::Nothing;
        for (i, va) in range.step_by(1 << PAGE_SHIFT).enumerate() {
            let (index, page) = position(va);
            if !self.unmanaged.is_reserved(index) {
                self.unmanaged.reserve(index, BlockMemory::new(vram)?);
            }
            let block = self.unmanaged.block(index).ok_or(EINVAL)?;
            let pte = Pte::sysmem(dma + ((i as u64) << PAGE_SHIFT), access)?;
            let leaf = Leaf {
                page,
                size: LeafSize::Small,
                pte,
            };
            stale = stale.max(block.map(vram, leaf)?);
        }
        Ok(stale)
    }

    /// Unmaps driver memory. `invalidate` is called when the tables no longer map it.
    pub(super) fn unmap_unmanaged(
        &mut self,
        vram: &Vram,
        range: &Range<u64>,
        invalidate: impl FnOnce(),
    ) {
        self.unmanaged_blocks(range, |block, pages| {
            // Fails only for pages outside of the block.
            let _ = block.retire(vram, pages);
        });
        invalidate();
        // Coherent memory has no streaming mapping to give back.
        self.unmanaged_blocks(range, |block, pages| block.reap(vram, pages, |_| ()));
    }

    fn unmanaged_blocks(
        &mut self,
        range: &Range<u64>,
        mut f: impl FnMut(&mut Block, Range<usize>),
    ) {
        let mut va = range.start;
        while va < range.end {
            let (index, page) = position(va);
            let left = (range.end - va) >> PAGE_SHIFT;
            // CAST: At most BLOCK_PAGES.
            let count = left.min((BLOCK_PAGES - page) as u64) as usize;
            if let Some(block) = self.unmanaged.block(index) {
                f(block, page..page + count);
            }
            va += (count as u64) << PAGE_SHIFT;
        }
    }
}

/// The block of `va` in its region, and the page in that.
pub(super) fn position(va: u64) -> (usize, usize) {
    // CAST: Both are masked to a few bits.
    let block = (va >> BLOCK_SHIFT) as usize & ((1 << (REGION_SHIFT - BLOCK_SHIFT)) - 1);
    let page = (va >> PAGE_SHIFT) as usize & (BLOCK_PAGES - 1);
    (block, page)
}
