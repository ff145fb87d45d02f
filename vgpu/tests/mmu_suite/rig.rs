// SPDX-License-Identifier: MIT OR Apache-2.0
//! A device on test: the register bus, the MMU and units of it, over plain memory.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use mirage_vgpu::bus::{GpuVa, InterruptSink, PhysAddr};
use mirage_vgpu::config::Config;
use mirage_vgpu::counters::Counters;
use mirage_vgpu::intr::InterruptTree;
use mirage_vgpu::mmu::{
    Access, AddressSpace, Client, ClientKind, Fault, FaultType, Mmu, Stalled, Translation, Unit,
};
use mirage_vgpu::pri::Pri;

use crate::memory::{vid, Memory};

pub(crate) const MMU_CTRL: u64 = 0x100c80;
pub(crate) const FIFO_ERROR: u32 = 1 << 14;
pub(crate) const FIFO_EMPTY: u32 = 1 << 15;
pub(crate) const VADDR: u64 = 0x100cb4;
pub(crate) const VADDR_UPPER: u64 = 0x100ce8;
pub(crate) const PDB: u64 = 0x100cb8;
pub(crate) const PDB_UPPER: u64 = 0x100cec;
pub(crate) const SIZE: u64 = 0x100e68;
pub(crate) const INVALIDATE: u64 = 0x100cbc;

pub(crate) const ALL_VA: u32 = 1 << 0;
pub(crate) const ALL_PDB: u32 = 1 << 1;
pub(crate) const HUBTLB_ONLY: u32 = 1 << 2;
pub(crate) const START: u32 = 1 << 3;
pub(crate) const START_ACK_ALL: u32 = 2 << 3;
pub(crate) const CANCEL_TARGETED: u32 = 3 << 3;
pub(crate) const CANCEL_GLOBAL: u32 = 4 << 3;
pub(crate) const CANCEL_VA_GLOBAL: u32 = 5 << 3;
pub(crate) const SYS_MEMBAR: u32 = 1 << 6;
pub(crate) const ACK_GLOBALLY: u32 = 1 << 7;
pub(crate) const ACK_INTRANODE: u32 = 2 << 7;
pub(crate) const USE_SIZE: u32 = 1 << 22;
pub(crate) const TRIGGER: u32 = 1 << 31;
pub(crate) const ALL: u32 = ALL_VA | ALL_PDB;

pub(crate) fn cache_level(level: u32) -> u32 {
    level << 24
}

/// How long a test waits for what must happen. Only a device that is broken needs it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for a condition that must come true.
pub(crate) fn eventually(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "never came true: {what}");
        thread::yield_now();
    }
}

#[derive(Default)]
pub(crate) struct Sink {
    pub(crate) raised: [AtomicUsize; 2],
}

impl Sink {
    pub(crate) fn count(&self, vector: usize) -> usize {
        self.raised[vector].load(Ordering::SeqCst)
    }
}

impl InterruptSink for Sink {
    fn raise(&self, vector: usize) {
        self.raised[vector].fetch_add(1, Ordering::SeqCst);
    }
}

pub(crate) struct Rig {
    pub(crate) memory: Arc<Memory>,
    pub(crate) sink: Arc<Sink>,
    pub(crate) mmu: Arc<Mmu>,
    pub(crate) pri: Arc<Pri>,
}

/// The instance block of address space `n`, outside what tests map.
fn instance(n: u64) -> PhysAddr {
    vid(0x1000 * (n + 1))
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self::with(&Config::default())
    }

    pub(crate) fn with(config: &Config) -> Self {
        let memory = Arc::new(Memory::new());
        let sink = Arc::new(Sink::default());
        let counters = Arc::new(Counters::default());
        let intr = Arc::new(InterruptTree::new(sink.clone(), counters.clone(), config));
        let mmu = Mmu::new(memory.clone(), intr.clone(), counters, config).unwrap();
        let pri = Arc::new(Pri::new(vec![mmu.clone(), intr]));
        Self {
            memory,
            sink,
            mmu,
            pri,
        }
    }

    pub(crate) fn read(&self, register: u64) -> u32 {
        let mut data = [0; 4];
        self.pri.read(register, &mut data);
        u32::from_le_bytes(data)
    }

    pub(crate) fn write(&self, register: u64, value: u32) {
        self.pri.write(register, &value.to_le_bytes());
    }

    pub(crate) fn counter(&self, name: &str) -> u64 {
        self.mmu.counters()[name]
    }

    /// Address space `n` over these tables, replay enabled.
    pub(crate) fn space(&self, n: u64, pdb: PhysAddr) -> AddressSpace {
        self.space_with(n, pdb, (1 << 10) | (1 << 11) | (1 << 4))
    }

    /// Address space `n` with these low bits in NV_RAMIN_PAGE_DIR_BASE.
    pub(crate) fn space_with(&self, n: u64, pdb: PhysAddr, bits: u64) -> AddressSpace {
        let target = match pdb.aperture {
            mirage_vgpu::bus::Aperture::Vid => 0,
            mirage_vgpu::bus::Aperture::Sys => 2,
        };
        self.memory
            .set(instance(n).offset(0x200), pdb.addr | bits | target);
        AddressSpace::from_instance_block(&*self.memory, instance(n))
    }

    /// SM `n`: a client of GPC `n`, engine GRAPHICS.
    pub(crate) fn sm(&self, n: u8) -> Unit {
        self.numbered_sm(n, n.into())
    }

    /// One of the SMs of GPC `gpc`.
    pub(crate) fn numbered_sm(&self, gpc: u8, number: u32) -> Unit {
        let client = Client {
            kind: ClientKind::Gpc { gpc, client: 0 },
            engine_id: 64,
        };
        self.mmu.register_unit(client, number)
    }

    /// HOST, for this channel: a hub client.
    pub(crate) fn host(&self, channel: u32) -> Unit {
        let client = Client {
            kind: ClientKind::Hub { client: 6 },
            engine_id: 32,
        };
        self.mmu.register_unit(client, channel)
    }

    pub(crate) fn fifo_empty(&self) -> bool {
        self.read(MMU_CTRL) & FIFO_EMPTY != 0
    }

    pub(crate) fn point_at(&self, pdb: PhysAddr, va: u64) {
        let sys = u32::from(pdb.aperture == mirage_vgpu::bus::Aperture::Sys);
        self.write(VADDR, ((va >> 12) as u32) << 4);
        self.write(VADDR_UPPER, (va >> 40) as u32);
        self.write(PDB, (((pdb.addr >> 12) as u32) << 4) | (sys << 1));
        self.write(PDB_UPPER, (pdb.addr >> 40) as u32);
    }

    pub(crate) fn trigger(&self, command: u32) {
        self.write(INVALIDATE, command | TRIGGER);
    }

    /// Triggers and waits until the PRI FIFO is empty.
    pub(crate) fn invalidate(&self, command: u32) {
        self.trigger(command);
        self.wait_for_fifo();
    }

    pub(crate) fn wait_for_fifo(&self) {
        eventually("PRI_FIFO_EMPTY", || self.fifo_empty());
    }

    /// Stalls SM `n` on these faults, on a thread of its own.
    pub(crate) fn stall(
        &self,
        n: u8,
        space: AddressSpace,
        faults: &[Fault],
    ) -> JoinHandle<Stalled> {
        let mut unit = self.sm(n);
        let faults = faults.to_vec();
        thread::spawn(move || unit.stall(&space, &faults, &AtomicBool::new(false)))
    }
}

pub(crate) fn translate(
    unit: &mut Unit,
    space: &AddressSpace,
    va: u64,
    access: Access,
) -> Result<Translation, FaultType> {
    let result = unit.window().translate(space, GpuVa(va), access);
    result.map_err(|fault| fault.kind)
}

/// The physical address that `va` leads to for reading.
pub(crate) fn reaches(
    unit: &mut Unit,
    space: &AddressSpace,
    va: u64,
) -> Result<PhysAddr, FaultType> {
    translate(unit, space, va, Access::Read).map(|translation| translation.phys)
}

/// Writes through the unit, which must be able to.
pub(crate) fn store(unit: &mut Unit, space: &AddressSpace, va: u64, data: &[u8]) {
    let mut window = unit.window();
    let to = window.translate(space, GpuVa(va), Access::Write).unwrap();
    window.store(to, data);
}

pub(crate) fn pte_fault(va: u64, access: Access) -> Fault {
    Fault {
        va: GpuVa(va),
        access,
        kind: FaultType::Pte,
    }
}
