// SPDX-License-Identifier: MIT OR Apache-2.0
//! A small guest: VRAM, and RAM between two strips of memory that nobody may touch.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use mirage_vgpu::bus::{Bus, BusAddr, InterruptSink, PhysAddr, VramOffset};
use mirage_vgpu::config::{Config, LateAcks, LateWrites};
use mirage_vgpu::gpu::Gpu;
use mirage_vgpu::memory::{Memory, RamRegion, Rights};
use rustix::fs::{ftruncate, memfd_create, MemfdFlags};

pub(crate) const PAGE: u64 = 4096;
pub(crate) const VRAM: u64 = 1 << 20;
pub(crate) const RAM: u64 = 256 << 10;
/// Where RAM begins on the bus.
pub(crate) const RAM_BASE: u64 = 1 << 32;
/// Bytes of each strip.
const STRIP: usize = 16 << 10;
const CANARY: u8 = 0xc5;

pub(crate) fn vid(addr: u64) -> PhysAddr {
    VramOffset(addr).into()
}

pub(crate) fn sys(offset: u64) -> PhysAddr {
    BusAddr(RAM_BASE + offset).into()
}

struct Deaf;

impl InterruptSink for Deaf {
    fn raise(&self, _vector: usize) {}
}

pub(crate) struct Guest {
    pub(crate) memory: Arc<Memory>,
    file: File,
}

impl Guest {
    pub(crate) fn new() -> Self {
        let memory = Arc::new(Memory::new(VRAM).unwrap());
        let fd = memfd_create("fuzz-ram", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&fd, RAM + 2 * STRIP as u64).unwrap();
        let file = File::from(fd);
        for at in Self::strips() {
            file.write_all_at(&[CANARY; STRIP], at).unwrap();
        }
        let guest = Self { memory, file };
        guest.plug();
        guest.memory.set_bus_master(true);
        guest
    }

    fn strips() -> [u64; 2] {
        [0, STRIP as u64 + RAM]
    }

    /// Makes RAM reachable.
    pub(crate) fn plug(&self) {
        let region = RamRegion {
            start: BusAddr(RAM_BASE),
            size: RAM,
            file: self.file.try_clone().unwrap(),
            offset: STRIP as u64,
            rights: Rights::ReadWrite,
        };
        // It may be there already.
        let _ = self.memory.map(region);
    }

    pub(crate) fn unplug(&self) {
        self.memory.unmap_all();
    }

    pub(crate) fn gpu(&self, config: &Config) -> Gpu {
        let bus: Arc<dyn Bus> = Arc::<Memory>::clone(&self.memory);
        Gpu::new(bus, Arc::new(Deaf), config).unwrap()
    }

    pub(crate) fn sink() -> Arc<dyn InterruptSink> {
        Arc::new(Deaf)
    }

    pub(crate) fn put_u64(&self, at: PhysAddr, value: u64) {
        self.memory.write_u64(at, value).unwrap();
    }

    /// Nothing outside RAM was written.
    pub(crate) fn check(&self) {
        for at in Self::strips() {
            let mut strip = [0; STRIP];
            self.file.read_exact_at(&mut strip, at).unwrap();
            assert!(strip.iter().all(|byte| *byte == CANARY), "strip at {at:#x}");
        }
    }
}

/// A configuration of few threads, late with stores (bit 0) and with acks (bit 1), eager to walk (bit 2).
pub(crate) fn config(mood: u8) -> Config {
    Config {
        sms: 2,
        fault_buffer_entries: 16,
        late_writes: (mood & 1 != 0).then_some(LateWrites {
            percent: 50,
            depth: 8,
            window: Duration::from_millis(1),
        }),
        late_acks: (mood & 2 != 0).then_some(LateAcks {
            most: Duration::from_micros(50),
        }),
        eager_walks: (mood & 4 != 0).then_some(Duration::from_micros(10)),
        ..Config::default()
    }
}

/// A register write, four bytes wide.
pub(crate) fn write(gpu: &Gpu, register: u32, value: u32) {
    gpu.write_register(register.into(), &value.to_le_bytes());
}

pub(crate) fn read(gpu: &Gpu, register: u32) -> u32 {
    let mut data = [0; 4];
    gpu.read_register(register.into(), &mut data);
    u32::from_le_bytes(data)
}
