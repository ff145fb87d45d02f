// SPDX-License-Identifier: GPL-2.0

//! Device memory: a page allocator on [`GpuBuddy`] and the window through which the CPU reaches it.
//!
//! Allocating and freeing take the allocator's lock, under which memory is allocated. So neither may happen under the
//! update lock: see the lock order in the crate root.

use crate::{
    gpu_pt::TableMem,
    kapi::mmio::{self, Bar1},
};
use kernel::{
    gpu::buddy::{
        AllocatedBlocks, GpuBuddy, GpuBuddyAllocFlags, GpuBuddyAllocMode, GpuBuddyParams,
    },
    prelude::*,
    ptr::Alignment,
    sizes::SZ_4K,
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
};

/// An address in device memory, which is also the offset in BAR1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct VramOffset(pub(crate) u64);

impl VramOffset {
    /// The address `bytes` further on; saturates, and the window refuses what is out of range.
    pub(crate) const fn add(self, bytes: u64) -> Self {
        Self(self.0.saturating_add(bytes))
    }
}

/// Bytes of a [`VramPage`].
pub(crate) const VRAM_PAGE_SIZE: usize = SZ_4K;

/// All device memory.
pub(crate) struct Vram {
    window: Bar1,
    buddy: GpuBuddy,
    /// Times that there was no page.
    refused: Atomic<u64>,
}

/// One zeroed 4 KiB page of device memory; freed on drop, which sleeps.
pub(crate) struct VramPage {
    at: VramOffset,
    _blocks: Pin<KBox<AllocatedBlocks>>,
}

impl VramPage {
    /// Its address.
    pub(crate) fn offset(&self) -> VramOffset {
        self.at
    }
}

impl Vram {
    /// Takes charge of the device memory behind `window`.
    pub(crate) fn new(window: Bar1) -> Result<Self> {
        let size = u64::try_from(window.len())?;
        let buddy = GpuBuddy::new(GpuBuddyParams {
            base_offset: 0,
            size,
            chunk_size: Alignment::new::<SZ_4K>(),
        })?;
        Ok(Self {
            window,
            buddy,
            refused: Atomic::new(0),
        })
    }

    /// Bytes of device memory.
    pub(crate) fn size(&self) -> u64 {
        self.buddy.size()
    }

    /// How often there was no page: whoever got `ENOMEM` and sees that grow may have room made.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    /// Allocates a zeroed page. Sleeps.
    ///
    /// # Errors
    ///
    /// `ENOMEM`: device memory is full, or system memory.
    pub(crate) fn alloc_page(&self) -> Result<VramPage> {
        let allocate = || {
            let blocks = self.buddy.alloc_blocks(
                GpuBuddyAllocMode::Simple,
                SZ_4K as u64,
                Alignment::new::<SZ_4K>(),
                GpuBuddyAllocFlags::default(),
            );
            KBox::pin_init(blocks, GFP_KERNEL)
        };
        // `gpu_buddy_alloc_blocks()` says ENOSPC also when it has no memory for its own lists.
        let is_full = || self.buddy.avail() < SZ_4K as u64;
        let mut blocks = allocate();
        if blocks.is_err() && !is_full() {
            blocks = allocate();
        }
        if blocks.is_err() && is_full() {
            self.refused.fetch_add(1, Relaxed);
        }
        let blocks = blocks.map_err(|_| ENOMEM)?;
        let at = VramOffset(blocks.iter().next().ok_or(ENOMEM)?.offset());
        self.window.zero(usize::try_from(at.0)?, VRAM_PAGE_SIZE)?;
        Ok(VramPage {
            at,
            _blocks: blocks,
        })
    }

    /// Zeroes a page again.
    pub(crate) fn zero(&self, page: &VramPage) -> Result {
        self.window
            .zero(usize::try_from(page.at.0)?, VRAM_PAGE_SIZE)
    }

    /// Writes a 32-bit word of a structure that the device reads.
    pub(crate) fn write32(&self, at: VramOffset, value: u32) -> Result {
        self.window.write32(usize::try_from(at.0)?, value)
    }
}

impl TableMem for Vram {
    fn write(&self, at: VramOffset, value: u64) {
        // A write past the end cannot happen (the allocator knows the size); one to a device that is gone may be lost.
        let _ = usize::try_from(at.0).map(|off| self.window.write64(off, value));
    }

    fn write_run(&self, at: VramOffset, entries: &[u64]) {
        // As for a single one.
        let _ = usize::try_from(at.0).map(|off| self.window.write64s(off, entries));
    }

    fn barrier(&self) {
        mmio::wmb();
    }
}
