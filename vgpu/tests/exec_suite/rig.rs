// SPDX-License-Identifier: MIT OR Apache-2.0
//! A device with a driver of a few lines: page tables, channels, fault service. Layouts are spelled out again here, from the
//! manuals, so that a mistake of the device does not hide behind its own constants.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mirage_vgpu::bus::{Aperture, Bus, BusAddr, InterruptSink, PhysAddr, VramOffset};
use mirage_vgpu::config::{Config, LateWrites};
use mirage_vgpu::gpu::Gpu;
use mirage_vgpu::memory::{Memory, RamRegion, Rights};

mod channel;
mod faults;

pub(crate) use channel::Channel;
pub(crate) use faults::*;

pub(crate) use crate::push::*;

pub(crate) const PAGE: u64 = 4096;
const VRAM: u64 = 64 << 20;
/// How long anything may take before a test fails.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) const INTR: u32 = 0x100;
pub(crate) const INTR_EN_SET: u32 = 0x160;
pub(crate) const PFIFO_INTR: u32 = 0x2100;
pub(crate) const PFIFO_INTR_EN: u32 = 0x2140;
pub(crate) const PREEMPT: u32 = 0x2634;
pub(crate) const PBDMA_METHOD0: u32 = 0x400c0;
pub(crate) const PBDMA_DATA0: u32 = 0x400c4;
pub(crate) const PBDMA_INTR: u32 = 0x40108;
pub(crate) const PBDMA_CHANNEL: u32 = 0x40120;
pub(crate) const GRAPH_INTR: u32 = 0x400100;
pub(crate) const GRAPH_ADDR: u32 = 0x400704;
pub(crate) const GRAPH_DATA: u32 = 0x400708;
pub(crate) const GRAPH_CTX: u32 = 0x409b00;
pub(crate) const DOORBELL: u32 = 0x810090;
const RUNLIST_BASE: u32 = 0x2270;
const RUNLIST: u32 = 0x2274;
const ENG_RUNLIST: u32 = 0x2284;

pub(crate) const ENABLE: u32 = 1;
pub(crate) const ENABLE_SET: u32 = 1 << 10;
pub(crate) const ENABLE_CLR: u32 = 1 << 11;
pub(crate) const PBDMA_FAULTED: u32 = 1 << 22;
pub(crate) const ENG_FAULTED: u32 = 1 << 23;

/// Where the tests' data is.
pub(crate) const DATA: u64 = 0x7f00_0000_0000;

/// Each store is held back for as long as the device may.
pub(crate) fn all_writes_late() -> Config {
    Config {
        late_writes: Some(LateWrites {
            percent: 100,
            depth: 4096,
            window: Duration::from_secs(100),
        }),
        ..Config::default()
    }
}

/// TARGET, at its place in INST and RUNLIST_BASE.
fn target(at: PhysAddr) -> u32 {
    match at.aperture {
        Aperture::Vid => 0,
        Aperture::Sys => 2 << 28,
    }
}

#[derive(Default)]
struct Sink(AtomicU64);

impl InterruptSink for Sink {
    fn raise(&self, _vector: usize) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

pub(crate) struct Rig {
    pub(crate) gpu: Gpu,
    pub(crate) memory: Arc<Memory>,
    sink: Arc<Sink>,
    free: Mutex<u64>,
    root: PhysAddr,
    buffers: [PhysAddr; 2],
    /// Channels of runlist 0.
    listed: Mutex<BTreeSet<u32>>,
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self::with(&Config::default())
    }

    pub(crate) fn with(config: &Config) -> Self {
        Self::over(config, |memory| memory)
    }

    /// A device that sees memory through another bus.
    pub(crate) fn over(config: &Config, bus: impl FnOnce(Arc<Memory>) -> Arc<dyn Bus>) -> Self {
        let memory = Arc::new(Memory::new(VRAM).unwrap());
        let sink = Arc::new(Sink::default());
        let bus = bus(Arc::clone(&memory));
        let interrupts: Arc<dyn InterruptSink> = Arc::<Sink>::clone(&sink);
        let vid = |addr| VramOffset(addr).into();
        let rig = Self {
            gpu: Gpu::new(bus, interrupts, config).unwrap(),
            memory,
            sink,
            root: vid(PAGE),
            free: Mutex::new(2 * PAGE),
            listed: Mutex::default(),
            buffers: [vid(VRAM - (256 << 10)), vid(VRAM - (128 << 10))],
        };
        rig.set_up_buffers();
        rig
    }

    pub(crate) fn read(&self, register: u32) -> u32 {
        let mut data = [0; 4];
        self.gpu.read_register(register.into(), &mut data);
        u32::from_le_bytes(data)
    }

    pub(crate) fn write(&self, register: u32, value: u32) {
        self.gpu
            .write_register(register.into(), &value.to_le_bytes());
    }

    pub(crate) fn interrupts(&self) -> u64 {
        self.sink.0.load(Ordering::Relaxed)
    }

    /// Waits for something that must come.
    pub(crate) fn until(&self, what: &str, mut done: impl FnMut() -> bool) {
        let start = Instant::now();
        while !done() {
            assert!(
                start.elapsed() < PATIENCE,
                "{what}: {:#?}",
                self.gpu.counters()
            );
            std::thread::sleep(Duration::from_micros(100));
        }
    }

    /// Fresh zeroed VRAM.
    pub(crate) fn alloc(&self, bytes: u64) -> PhysAddr {
        let mut free = self.free.lock().unwrap();
        let at = *free;
        *free += bytes.next_multiple_of(PAGE);
        assert!(*free < self.runlist_memory().0.addr);
        VramOffset(at).into()
    }

    /// Guest RAM that the device may reach, zeroed. There is none before.
    pub(crate) fn plug_ram(&self, bytes: u64) -> PhysAddr {
        self.memory.set_bus_master(true);
        let fd = rustix::fs::memfd_create("ram", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&fd, bytes).unwrap();
        let start = BusAddr(1 << 32);
        let region = RamRegion {
            start,
            size: bytes,
            file: fd.into(),
            offset: 0,
            rights: Rights::ReadWrite,
        };
        self.memory.map(region).unwrap();
        start.into()
    }

    /// Maps fresh memory at `va`, as 4 KiB pages.
    pub(crate) fn map(&self, va: u64, bytes: u64) -> PhysAddr {
        let at = self.alloc(bytes);
        for offset in (0..bytes).step_by(PAGE as usize) {
            self.map_page(va + offset, at.offset(offset));
        }
        at
    }

    /// VALID, aperture VID.
    pub(crate) fn map_page(&self, va: u64, page: PhysAddr) {
        self.memory
            .write_u64(self.pte(va), (page.addr >> 4) | 1)
            .unwrap();
    }

    /// Takes the page away, without an invalidate.
    pub(crate) fn clear(&self, va: u64) {
        self.memory.write_u64(self.pte(va), 0).unwrap();
    }

    /// The place of a 4 KiB PTE, with the tables above it.
    fn pte(&self, va: u64) -> PhysAddr {
        let mut table = self.root;
        for shift in [47, 38, 29] {
            let index = (va >> shift) & if shift == 47 { 3 } else { 0x1ff };
            table = self.table(table.offset(8 * index));
        }
        let small = table.offset(16 * ((va >> 21) & 0xff) + 8);
        self.table(small).offset(8 * ((va >> 12) & 0x1ff))
    }

    /// The table that the entry at `entry` points to (PDE aperture 1 is VID), made if there is none.
    fn table(&self, entry: PhysAddr) -> PhysAddr {
        let value = self.memory.read_u64(entry).unwrap();
        if value != 0 {
            return VramOffset((value & !0xff) << 4).into();
        }
        let table = self.alloc(PAGE);
        self.memory
            .write_u64(entry, (table.addr >> 4) | (1 << 1))
            .unwrap();
        table
    }

    /// Where [`Rig::submit_runlist`] puts runlists: its memory, and its bytes for each of them.
    pub(crate) fn runlist_memory(&self) -> (PhysAddr, u64) {
        (VramOffset(self.buffers[0].addr - 3 * PAGE).into(), PAGE)
    }

    /// Submits a runlist of TSGs, each with its id and channels.
    pub(crate) fn submit_runlist(&self, runlist: u32, groups: &[(u32, &[u32])]) {
        {
            let mut listed = self.listed.lock().unwrap();
            if runlist == 0 {
                listed.clear();
            }
            for id in groups.iter().flat_map(|(_, channels)| *channels) {
                if runlist == 0 {
                    listed.insert(*id);
                } else {
                    listed.remove(id);
                }
            }
        }
        let (base, bytes) = self.runlist_memory();
        self.write_runlist(runlist, base.offset(bytes * u64::from(runlist)), groups);
    }

    pub(crate) fn write_runlist(&self, runlist: u32, base: PhysAddr, groups: &[(u32, &[u32])]) {
        let entries: Vec<[u32; 4]> = groups
            .iter()
            .flat_map(|(tsg, channels)| {
                let header = [1, channels.len() as u32, *tsg, 0];
                let channels = channels.iter().map(|id| [0, 0, *id, 0]);
                std::iter::once(header).chain(channels)
            })
            .collect();
        let bytes: Vec<u8> = entries
            .iter()
            .flatten()
            .flat_map(|word| word.to_le_bytes())
            .collect();
        self.memory.write(base, &bytes).unwrap();
        self.write(RUNLIST_BASE, (base.addr >> 12) as u32 | target(base));
        self.write(RUNLIST, entries.len() as u32 | (runlist << 20));
        let pending = || (self.read(ENG_RUNLIST + 8 * runlist) >> 20) & 1 == 1;
        self.until("the runlist", || !pending());
    }

    pub(crate) fn u64_at(&self, at: PhysAddr) -> u64 {
        self.memory.read_u64(at).unwrap()
    }

    pub(crate) fn put_u64(&self, at: PhysAddr, value: u64) {
        self.memory.write_u64(at, value).unwrap();
    }

    pub(crate) fn bytes(&self, at: PhysAddr, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.memory.read(at, &mut bytes).unwrap();
        bytes
    }
}
