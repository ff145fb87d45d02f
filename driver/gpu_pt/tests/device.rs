// SPDX-License-Identifier: GPL-2.0

//! What a device may make of a PDE0, which it reads while the driver writes it.

use super::{
    super::{
        block::Stale,
        TableMem,
        BIG_PAGES, //
    },
    Memory,
    BIG,
    PDE0,
    SMALL, //
};
use crate::vram::VramOffset;
use kernel::{
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
};

/// A device that walks whenever something is written, and keeps the first valid PDE0 that it finds.
pub(super) struct Device {
    mem: Memory,
    cached: [Atomic<u64>; 2],
}

impl Device {
    pub(super) fn new() -> Result<Self> {
        Ok(Self {
            mem: Memory::new()?,
            cached: [Atomic::new(0), Atomic::new(0)],
        })
    }

    /// IS_PTE or an APERTURE.
    fn is_valid(half: u64) -> bool {
        half & 7 != 0
    }

    fn cached(&self) -> [u64; 2] {
        [self.cached[0].load(Relaxed), self.cached[1].load(Relaxed)]
    }

    fn walk(&self) {
        if self.cached().into_iter().any(Self::is_valid) {
            return;
        }
        self.cached[0].store(self.mem.read(PDE0), Relaxed);
        self.cached[1].store(self.mem.read(PDE0.add(8)), Relaxed);
    }

    /// Drops what the driver says is stale.
    pub(super) fn invalidate(&self, stale: Stale) {
        if stale == Stale::Pde0 {
            self.cached.iter().for_each(|half| half.store(0, Relaxed));
            self.walk();
        }
    }

    pub(super) fn finds(&self, page: usize) -> bool {
        let is_leaf =
            |table: VramOffset, index: usize| self.mem.read(table.add(index as u64 * 8)) & 1 != 0;
        let [low, high] = self.cached();
        low & 1 != 0
            || Self::is_valid(low) && is_leaf(BIG, page / BIG_PAGES)
            || Self::is_valid(high) && is_leaf(SMALL, page)
    }
}

impl TableMem for Device {
    fn write(&self, at: VramOffset, value: u64) {
        self.mem.write(at, value);
        self.walk();
    }

    fn write_run(&self, at: VramOffset, entries: &[u64]) {
        self.mem.write_run(at, entries);
        self.walk();
    }

    fn barrier(&self) {}
}
