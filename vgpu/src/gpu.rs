// SPDX-License-Identifier: MIT OR Apache-2.0
//! One device, put together: it sees a memory bus and an interrupt sink and nothing else of the world.

use std::io;
use std::sync::Arc;

use crate::bus::{Bus, InterruptSink};
use crate::config::Config;
use crate::counters::{Counters, Snapshot};
use crate::engine::{Compute, ComputeParts, Copy, CopyParts, Graph};
use crate::fifo::{Fifo, FifoParts};
use crate::intr::InterruptTree;
use crate::mmu::Mmu;
use crate::pmc::Pmc;
use crate::pramin::Pramin;
use crate::pri::{Pri, RegisterBlock};
use crate::regs::pmc;

/// One virtual GPU.
pub struct Gpu {
    mmu: Arc<Mmu>,
    pri: Pri,
}

impl Gpu {
    /// A device after power-on.
    ///
    /// # Errors
    /// The operating system gives no thread.
    pub fn new(
        bus: Arc<dyn Bus>,
        sink: Arc<dyn InterruptSink>,
        config: &Config,
    ) -> io::Result<Self> {
        let counters = Arc::new(Counters::default());
        let intr = Arc::new(InterruptTree::new(sink, Arc::clone(&counters), config));
        let mmu = Mmu::new(
            Arc::clone(&bus),
            Arc::clone(&intr),
            Arc::clone(&counters),
            config,
        )?;
        let graph = Arc::new(Graph::new(Arc::clone(&intr)));
        let parts = ComputeParts {
            mmu: Arc::clone(&mmu),
            graph: Arc::clone(&graph),
            counters: Arc::clone(&counters),
        };
        let compute = Arc::new(Compute::new(parts, config.sms)?);
        let copy = |index| {
            let parts = CopyParts {
                mmu: Arc::clone(&mmu),
                intr: Arc::clone(&intr),
                counters: Arc::clone(&counters),
            };
            Copy::new(parts, index).map(Arc::new)
        };
        let pramin = Arc::new(Pramin::new(Arc::clone(&bus), Arc::clone(&counters)));
        let copies = [copy(0)?, copy(1)?];
        let fifo = Arc::new(Fifo::new(FifoParts {
            bus,
            mmu: Arc::clone(&mmu),
            intr: Arc::clone(&intr),
            counters: Arc::clone(&counters),
            graph: Arc::clone(&graph),
            engines: vec![
                Arc::clone(&compute) as _,
                Arc::clone(&copies[0]) as _,
                Arc::clone(&copies[1]) as _,
            ],
        }));
        let [ce0, ce1] = copies;
        // Host first: what it gave to the engines goes with it.
        let pmc = Arc::new(Pmc::new(vec![
            (pmc::ENABLE_PFIFO, Arc::clone(&fifo) as _),
            (pmc::ENABLE_PGRAPH, Arc::clone(&compute) as _),
            (pmc::ENABLE_CE0, Arc::clone(&ce0) as _),
            (pmc::ENABLE_CE1, Arc::clone(&ce1) as _),
        ]));
        // In the order of a reset: what uses the MMU stops before the MMU does.
        let blocks: Vec<Arc<dyn RegisterBlock>> = vec![
            fifo,
            compute,
            ce0,
            ce1,
            graph,
            Arc::clone(&mmu) as _,
            intr,
            pmc,
            pramin,
        ];
        let pri = Pri::new(blocks);
        Ok(Self { mmu, pri })
    }

    /// Reads BAR0 at `offset` into `data`; a refused access (not 4 bytes, misaligned, past the end) reads all ones.
    pub fn read_register(&self, offset: u64, data: &mut [u8]) {
        self.pri.read(offset, data);
    }

    /// Writes `data` to BAR0 at `offset`; a refused access is dropped.
    pub fn write_register(&self, offset: u64, data: &[u8]) {
        self.pri.write(offset, data);
    }

    /// Function level reset: the state after power-on, VRAM kept.
    pub fn reset(&self) {
        self.pri.reset();
    }

    /// All counters, by name.
    pub fn counters(&self) -> Snapshot {
        self.mmu.counters()
    }

    /// What a driver author wants to know at exit: unmodelled registers, refused accesses, spins. One line each.
    pub fn report(&self) -> Vec<String> {
        self.pri.report()
    }
}
