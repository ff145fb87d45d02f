// SPDX-License-Identifier: MIT OR Apache-2.0
//! A device with a driver of a few lines: page tables, channels, fault service. Layouts are spelled out again here, from the
//! manuals, so that a mistake of the device does not hide behind its own constants.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mirage_vgpu::bus::{Aperture, Bus, InterruptSink, PhysAddr, VramOffset};
use mirage_vgpu::config::Config;
use mirage_vgpu::gpu::Gpu;
use mirage_vgpu::memory::Memory;

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
const MMU_CTRL: u32 = 0x100c80;
const INVALIDATE: u32 = 0x100cbc;
const INVALIDATE_VADDR: u32 = 0x100cb4;
const INVALIDATE_UPPER_VADDR: u32 = 0x100ce8;
const INVALIDATE_PDB: u32 = 0x100cb8;
const FAULT_LO: u32 = 0x100e24;
const FAULT_HI: u32 = 0x100e28;
const FAULT_GET: u32 = 0x100e2c;
const FAULT_PUT: u32 = 0x100e30;
const FAULT_SIZE: u32 = 0x100e34;
const FAULT_STRIDE: u32 = 0x14;

pub(crate) const ENABLE: u32 = 1;
pub(crate) const ENABLE_SET: u32 = 1 << 10;
pub(crate) const ENABLE_CLR: u32 = 1 << 11;
pub(crate) const PBDMA_FAULTED: u32 = 1 << 22;
pub(crate) const ENG_FAULTED: u32 = 1 << 23;
const BIND: u32 = 1 << 31;

/// Replay codes, at their place in INVALIDATE.
pub(crate) const START: u32 = 1 << 3;
pub(crate) const CANCEL_GLOBAL: u32 = 4 << 3;

/// GPU virtual addresses of a channel's rings, one MiB for each channel.
const RINGS: u64 = 0x10_0000_0000;
const GP_ENTRIES: u32 = 64;
const PUSH_BYTES: u64 = 512 << 10;
/// Where the tests' data is.
pub(crate) const DATA: u64 = 0x7f00_0000_0000;

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

/// A packet of a fault buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Packet {
    pub(crate) va: u64,
    pub(crate) kind: u32,
    pub(crate) access: u32,
    pub(crate) hub: bool,
    pub(crate) engine: u32,
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
        let memory = Arc::new(Memory::new(VRAM).unwrap());
        let sink = Arc::new(Sink::default());
        let bus: Arc<dyn Bus> = Arc::<Memory>::clone(&memory);
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

    pub(crate) fn set_up_buffers(&self) {
        for (stride, buffer) in [0, FAULT_STRIDE].into_iter().zip(self.buffers) {
            self.write(FAULT_LO + stride, buffer.addr as u32 | 1);
            self.write(FAULT_HI + stride, 0);
            self.write(FAULT_SIZE + stride, (1 << 31) | 4096);
        }
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

    /// Triggers an invalidate of everything, with the given other bits, and waits until it is done.
    pub(crate) fn invalidate(&self, bits: u32) {
        self.write(INVALIDATE, (1 << 31) | 0b11 | bits);
        self.until("invalidate", || (self.read(MMU_CTRL) >> 15) & 1 == 1);
    }

    /// Cancels the requests for one page, whatever their access; the others are replayed.
    pub(crate) fn cancel_va(&self, va: u64) {
        self.write(INVALIDATE_VADDR, ((va >> 12) as u32) << 4);
        self.write(INVALIDATE_UPPER_VADDR, (va >> 40) as u32);
        self.write(INVALIDATE_PDB, ((self.root.addr >> 12) as u32) << 4);
        self.write(INVALIDATE, (1 << 31) | (7 << 24) | (5 << 3));
        self.until("cancel", || (self.read(MMU_CTRL) >> 15) & 1 == 1);
    }

    /// Takes the packets that are in a fault buffer.
    pub(crate) fn faults(&self, buffer: u32) -> Vec<Packet> {
        let stride = buffer * FAULT_STRIDE;
        let put = self.read(FAULT_PUT + stride) & 0xf_ffff;
        let mut get = self.read(FAULT_GET + stride) & 0xf_ffff;
        let mut packets = Vec::new();
        while get != put {
            let at = self.buffers[buffer as usize].offset(32 * u64::from(get));
            let word = |i: u64| self.memory.read_u32(at.offset(4 * i)).unwrap();
            self.until("VALID", || word(7) >> 31 == 1);
            let info = word(7);
            packets.push(Packet {
                va: (u64::from(word(3)) << 32) | u64::from(word(2) & !0xfff),
                kind: info & 0x1f,
                access: (info >> 16) & 0xf,
                hub: (info >> 20) & 1 == 1,
                engine: word(6) & 0x1ff,
            });
            self.memory.write_u32(at.offset(28), 0).unwrap();
            get = (get + 1) % 4096;
        }
        self.write(FAULT_GET + stride, get);
        packets
    }

    /// Waits for at least one packet.
    pub(crate) fn wait_faults(&self, buffer: u32) -> Vec<Packet> {
        self.wait_n_faults(buffer, 1)
    }

    /// Waits for `count` packets, or more.
    pub(crate) fn wait_n_faults(&self, buffer: u32, count: usize) -> Vec<Packet> {
        let mut packets = Vec::new();
        self.until("fault packets", || {
            packets.extend(self.faults(buffer));
            packets.len() >= count
        });
        packets
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

    /// A channel, bound, enabled and in runlist 0.
    pub(crate) fn channel(&self, id: u32) -> Channel<'_> {
        let rings = RINGS + u64::from(id) * (1 << 20);
        let ring = self.map(rings, PAGE);
        let push = self.map(rings + PAGE, PUSH_BYTES);
        let semaphore = self.map(rings + PAGE + PUSH_BYTES, PAGE);
        let inst = self.alloc(PAGE);
        let userd = self.alloc(PAGE);
        let words = [
            (0x008, userd.addr as u32),
            (0x010, 0xface),
            (0x048, rings as u32),
            (
                0x04c,
                (rings >> 32) as u32 | (GP_ENTRIES.trailing_zeros() << 16),
            ),
            // VER2 page tables, 64 KiB big pages, replay of SM faults.
            (
                0x200,
                self.root.addr as u32 | (1 << 10) | (1 << 11) | (1 << 4),
            ),
        ];
        for (offset, word) in words {
            self.memory.write_u32(inst.offset(offset), word).unwrap();
        }
        let channel = Channel {
            rig: self,
            id,
            inst,
            userd,
            ring,
            push,
            rings,
            semaphore,
            put: 0.into(),
            pushed: 0.into(),
            serial: 0.into(),
        };
        channel.bind();
        channel.enable();
        self.list(id);
        channel
    }

    /// Adds a channel to runlist 0, in a TSG of its own.
    fn list(&self, id: u32) {
        let mut ids = self.listed.lock().unwrap().clone();
        ids.insert(id);
        let groups: Vec<[u32; 1]> = ids.into_iter().map(|id| [id]).collect();
        let groups: Vec<(u32, &[u32])> = groups.iter().map(|id| (id[0], &id[..])).collect();
        self.submit_runlist(0, &groups);
    }
}

/// A driver's view of a channel.
pub(crate) struct Channel<'a> {
    pub(crate) rig: &'a Rig,
    pub(crate) id: u32,
    pub(crate) inst: PhysAddr,
    pub(crate) userd: PhysAddr,
    pub(crate) ring: PhysAddr,
    push: PhysAddr,
    rings: u64,
    pub(crate) semaphore: PhysAddr,
    put: Mutex<u32>,
    pushed: Mutex<u64>,
    serial: Mutex<u32>,
}

impl Channel<'_> {
    fn control_register(&self) -> u32 {
        0x80_0004 + 8 * self.id
    }

    pub(crate) fn bind(&self) {
        self.rig.write(
            0x80_0000 + 8 * self.id,
            BIND | target(self.inst) | (self.inst.addr >> 12) as u32,
        );
        *self.put.lock().unwrap() = 0;
    }

    pub(crate) fn enable(&self) {
        self.rig.write(self.control_register(), ENABLE_SET);
    }

    pub(crate) fn control(&self) -> u32 {
        self.rig.read(self.control_register())
    }

    pub(crate) fn is_busy(&self) -> bool {
        (self.control() >> 28) & 1 == 1
    }

    pub(crate) fn write_control(&self, value: u32) {
        self.rig.write(self.control_register(), value);
    }

    /// Makes it a privileged channel: AUTH_LEVEL of CONFIG.
    pub(crate) fn privilege(&self) {
        self.kill();
        let config = self.inst.offset(0xf4);
        self.rig.memory.write_u32(config, 1 << 8).unwrap();
        self.bind();
        self.enable();
    }

    /// The kill sequence.
    pub(crate) fn kill(&self) {
        self.write_control(ENABLE_CLR);
        self.rig.write(PREEMPT, self.id);
        self.rig
            .until("preempt", || (self.rig.read(PREEMPT) >> 20) & 1 == 0);
    }

    /// The GPU virtual address of the semaphore page.
    pub(crate) fn semaphore_va(&self) -> u64 {
        self.rings + PAGE + PUSH_BYTES
    }

    pub(crate) fn rings_va(&self) -> u64 {
        self.rings
    }

    /// Appends a raw GP entry and rings.
    pub(crate) fn raw_entry(&self, entry: u64) {
        let mut put = self.put.lock().unwrap();
        self.rig
            .put_u64(self.ring.offset(8 * u64::from(*put)), entry);
        *put = (*put + 1) % GP_ENTRIES;
        self.rig
            .memory
            .write_u32(self.userd.offset(0x8c), *put)
            .unwrap();
        self.rig.write(DOORBELL, self.id);
    }

    /// Submits a push buffer.
    pub(crate) fn submit(&self, words: &[u32]) {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let at = {
            let mut pushed = self.pushed.lock().unwrap();
            if *pushed + bytes.len() as u64 > PUSH_BYTES {
                *pushed = 0;
            }
            let at = *pushed;
            *pushed += bytes.len() as u64;
            at
        };
        self.rig.memory.write(self.push.offset(at), &bytes).unwrap();
        let va = self.rings + PAGE + at;
        self.raw_entry(va | ((words.len() as u64) << 42));
    }

    /// Appends a release that waits for the launches before it, and returns its payload.
    pub(crate) fn fence(&self) -> u32 {
        let serial = {
            let mut serial = self.serial.lock().unwrap();
            *serial += 1;
            *serial
        };
        self.submit(&release(self.semaphore_va(), serial, RELEASE_WFI));
        serial
    }

    pub(crate) fn is_past(&self, serial: u32) -> bool {
        self.rig.memory.read_u32(self.semaphore).unwrap() >= serial
    }

    pub(crate) fn wait(&self, serial: u32) {
        self.rig.until("a fence", || self.is_past(serial));
    }

    /// Runs a push buffer to its end.
    pub(crate) fn run(&self, words: &[u32]) {
        self.submit(words);
        let serial = self.fence();
        self.wait(serial);
    }
}
