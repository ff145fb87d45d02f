// SPDX-License-Identifier: MIT OR Apache-2.0
//! One device, put together: it sees a memory bus and an interrupt sink and nothing else of the world.

use std::sync::Arc;

use crate::bus::{Bus, InterruptSink};
use crate::config::Config;
use crate::counters::{Counters, Snapshot};
use crate::intr::InterruptTree;
use crate::mmu::Mmu;
use crate::pri::RegisterBlock;

/// One virtual GPU.
pub struct Gpu {
    counters: Arc<Counters>,
    blocks: Vec<Arc<dyn RegisterBlock>>,
}

impl Gpu {
    /// A device after power-on.
    pub fn new(bus: Arc<dyn Bus>, sink: Arc<dyn InterruptSink>, config: &Config) -> Self {
        let counters = Arc::new(Counters::default());
        let intr = Arc::new(InterruptTree::new(sink));
        let mmu = Mmu::new(bus, intr, Arc::clone(&counters), config);
        let blocks: Vec<Arc<dyn RegisterBlock>> = vec![mmu];
        Self { counters, blocks }
    }

    /// Reads BAR0 at `offset` into `data`; a refused access (not 4 bytes, misaligned, past the end) reads all ones.
    pub fn read_register(&self, offset: u64, data: &mut [u8]) {
        let _ = offset;
        data.fill(0);
    }

    /// Writes `data` to BAR0 at `offset`; a refused access is dropped.
    pub fn write_register(&self, offset: u64, data: &[u8]) {
        let _ = (offset, data);
    }

    /// Function level reset: the state after power-on, VRAM kept.
    pub fn reset(&self) {
        for block in &self.blocks {
            block.reset();
        }
    }

    /// All counters, by name.
    pub fn counters(&self) -> Snapshot {
        self.counters.snapshot()
    }

    /// What a driver author wants to know at exit: unmodelled registers, refused accesses, spins. One line each.
    pub fn report(&self) -> Vec<String> {
        Vec::new()
    }
}
