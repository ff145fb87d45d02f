// SPDX-License-Identifier: MIT OR Apache-2.0
//! PRAMIN: the window of the register space on physical memory.

use std::sync::Arc;

use mirage_vgpu::config::Config;
use mirage_vgpu::gpu::Gpu;

use crate::memory::{sys, vid, Memory, RAM_BASE, VRAM_BYTES};
use crate::rig::Sink;

const BAR0_WINDOW: u64 = 0x1700;
const PRAMIN: u64 = 0x70_0000;
const LAST: u64 = 0x7f_fffc;
const SYS_COH: u32 = 2 << 24;

struct Device {
    memory: Arc<Memory>,
    gpu: Gpu,
}

impl Device {
    fn new() -> Self {
        let memory = Arc::new(Memory::new());
        let config = Config {
            sms: 1,
            ..Config::default()
        };
        let gpu = Gpu::new(memory.clone(), Arc::new(Sink::default()), &config).unwrap();
        Self { memory, gpu }
    }

    fn read(&self, register: u64) -> u32 {
        let mut data = [0; 4];
        self.gpu.read_register(register, &mut data);
        u32::from_le_bytes(data)
    }

    fn write(&self, register: u64, value: u32) {
        self.gpu.write_register(register, &value.to_le_bytes());
    }
}

#[test]
fn the_window_shows_the_mib_that_bar0_window_names() {
    let device = Device::new();
    device.memory.set_u32(vid(0x8), 1);
    device.memory.set_u32(vid(0x23_0008), 2);
    device.memory.set_u32(sys(0x8), 3);
    assert_eq!(device.read(PRAMIN + 8), 1, "VRAM from 0 on after power-on");
    device.write(BAR0_WINDOW, 0x23);
    assert_eq!(device.read(BAR0_WINDOW), 0x23);
    assert_eq!(device.read(PRAMIN + 8), 2, "in steps of 64 KiB");
    device.write(LAST, 4);
    assert_eq!(device.memory.get(vid(0x32_fff8)) >> 32, 4);
    for target in [SYS_COH, 3 << 24] {
        device.write(BAR0_WINDOW, (RAM_BASE >> 16) as u32 | target);
        assert_eq!(device.read(PRAMIN + 8), 3);
        device.write(PRAMIN, target);
        assert_eq!(device.memory.get(sys(0)) as u32, target);
    }
}

#[test]
fn a_window_on_no_memory_reads_ones_and_writes_nothing() {
    let device = Device::new();
    let nowhere = [
        (VRAM_BYTES >> 16) as u32,
        0xff_ffff,
        0xff_ffff | SYS_COH,
        1 << 24,
    ];
    for window in nowhere {
        device.write(BAR0_WINDOW, window);
        assert_eq!(device.read(PRAMIN), u32::MAX, "{window:#x}");
        device.write(PRAMIN, 5);
    }
    assert_eq!(device.memory.take_writes(), []);
    assert_eq!(device.gpu.counters()["bus_errors"], 8);
    device.write(BAR0_WINDOW, u32::MAX);
    assert_eq!(device.read(BAR0_WINDOW), 0x3ff_ffff, "no other bits");
    device.gpu.reset();
    assert_eq!(device.read(BAR0_WINDOW), 0);
}
