// SPDX-License-Identifier: MIT OR Apache-2.0
//! Push buffers, GP entries and instance blocks of any content, on channels of each engine.

use std::thread;
use std::time::{Duration, Instant};

use mirage_vgpu::gpu::Gpu;

use super::guest::{config, read, sys, vid, write, Guest, PAGE};
use super::input::Input;

/// How long an input may work before it is ended.
const WORK: Duration = Duration::from_millis(4);
/// GPU virtual pages that map themselves in VRAM; those behind them are in RAM, and the last ones of the 2 MiB are not mapped.
const IN_VRAM: u64 = 112;
const MAPPED: u64 = 128;
const INSTANCE: u64 = 0x2_0000;
const USERD: u64 = 0x2_1000;
const RUNLIST: u64 = 0x2_2000;
const RING: u64 = 0x1_0000;
const PUSH: u64 = 0x3_0000;
const PUSH_BYTES: u64 = 0x1_0000;
const BUSY: u32 = 1 << 28;
const PREEMPT: u32 = 0x2634;
const PMC_ENABLE: u32 = 0x200;
/// Of PMC_ENABLE: PFIFO, PGRAPH and the copy engines.
const ENGINE_BITS: [u32; 4] = [8, 12, 6, 7];

/// Classes that SET_OBJECT may name, with a subchannel for each.
const CLASSES: [(u32, u32); 3] = [(1, 0xfec0), (4, 0xc3b5), (2, 0x1234)];
/// Methods of host, the compute class and the copy class.
const METHODS: [u32; 52] = [
    0x000, 0x008, 0x020, 0x028, 0x02c, 0x030, 0x034, 0x050, 0x05c, 0x060, 0x064, 0x068, 0x06c,
    0x078, 0x080, 0x084, 0x100, 0x110, 0x200, 0x204, 0x208, 0x20c, 0x210, 0x214, 0x218, 0x21c,
    0x230, 0x234, 0x238, 0x23c, 0x240, 0x244, 0x248, 0x24c, 0x260, 0x264, 0x300, 0x300, 0x300,
    0x400, 0x404, 0x408, 0x40c, 0x410, 0x414, 0x418, 0x41c, 0x700, 0x704, 0x708, 0x250, 0x254,
];

struct Setup<'a> {
    guest: &'a Guest,
    gpu: &'a Gpu,
}

impl Setup<'_> {
    /// Page tables that map low addresses to themselves, and both fault buffers.
    fn memory(&self) {
        // PDE aperture 1 is VRAM, as is PTE aperture 0.
        let directories = [
            (0x1000, 0x2000),
            (0x2000, 0x3000),
            (0x3000, 0x4000),
            (0x4008, 0x5000),
        ];
        for (entry, table) in directories {
            self.guest.put_u64(vid(entry), (table >> 4) | (1 << 1));
        }
        for page in 0..IN_VRAM {
            self.guest
                .put_u64(vid(0x5000 + 8 * page), ((page * PAGE) >> 4) | 1);
        }
        for page in IN_VRAM..MAPPED {
            let at = sys((page - IN_VRAM) * PAGE);
            self.guest
                .put_u64(vid(0x5000 + 8 * page), (at.addr >> 4) | (2 << 1) | 1);
        }
        for (buffer, at) in [(0, 0x8000), (0x14, 0x9000)] {
            write(self.gpu, 0x100e24 + buffer, at | 1);
            write(self.gpu, 0x100e34 + buffer, (1 << 31) | 64);
        }
    }

    fn channel(&self, input: &mut Input<'_>) {
        let at = |offset| vid(INSTANCE + offset);
        self.guest.put_u64(at(0x008), USERD);
        self.guest.put_u64(at(0x010), 0xface);
        self.guest.put_u64(at(0x048), RING | (6 << 16 << 32));
        self.guest.put_u64(at(0x200), 0x1000 | 0xc10);
        let choice = input.u8();
        // CONFIG: AUTH_LEVEL is in bit 8.
        self.guest
            .put_u64(at(0x0f0), u64::from(choice & 1) << 8 << 32);
        if choice & 0xe0 == 0xe0 {
            let offset = u64::from(input.u16() & 0x1ff) * 8;
            self.guest.put_u64(at(offset), input.u64());
        }
        write(self.gpu, 0x80_0000, (1 << 31) | (INSTANCE >> 12) as u32);
        self.runlist(u32::from((choice >> 1) & 3), input);
        write(self.gpu, 0x80_0004, 1 << 10);
    }

    /// One group of one channel, on the runlist of an engine; now and then spoilt.
    fn runlist(&self, id: u32, input: &mut Input<'_>) {
        let group = [1_u64 | (3 << 16) | (0x80 << 24) | (1 << 32), 0];
        let channel = [USERD, INSTANCE];
        for (offset, qword) in (0_u64..).zip([group, channel].as_flattened()) {
            self.guest.put_u64(vid(RUNLIST + offset * 8), *qword);
        }
        if input.u8() % 8 == 7 {
            let offset = u64::from(input.u8() & 0x1f) * 8;
            self.guest.put_u64(vid(RUNLIST + offset), input.u64());
        }
        write(self.gpu, 0x2270, (RUNLIST >> 12) as u32);
        write(self.gpu, 0x2274, 2 | (id << 20));
    }

    /// Fills the push buffer; returns its dwords.
    fn push(&self, input: &mut Input<'_>) -> u64 {
        let mut words = Vec::new();
        for (subchannel, class) in CLASSES {
            words.extend([header(subchannel, 0), class]);
        }
        while !input.is_empty() && words.len() < 400 {
            let choice = input.u8();
            if choice == 0xff {
                words.push(input.u32());
                continue;
            }
            let (subchannel, _) = CLASSES[usize::from(choice & 0xf).min(15) % 2];
            let method = input.pick(&METHODS);
            let data = match choice >> 4 {
                0..6 => u32::from(input.u8()),
                6..9 => u32::from(input.u16()),
                9..12 => u32::from(input.u8()) << 12,
                _ => input.u32(),
            };
            words.extend([header(subchannel, method), data]);
        }
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        assert!(bytes.len() as u64 <= PUSH_BYTES);
        self.guest.memory_write(PUSH, &bytes);
        words.len() as u64
    }
}

impl Guest {
    fn memory_write(&self, at: u64, data: &[u8]) {
        use mirage_vgpu::bus::Bus;
        self.memory.write(vid(at), data).unwrap();
    }
}

/// INC, one method.
fn header(subchannel: u32, method: u32) -> u32 {
    (1 << 29) | (1 << 16) | (subchannel << 13) | (method >> 2)
}

/// What happens while the work goes on.
struct Disturbance {
    action: u8,
    after: Duration,
}

impl Disturbance {
    /// Up to eight, from the input's end.
    fn all(input: &mut Input<'_>, mood: u8) -> Vec<Self> {
        let one = |_| Self {
            action: input.last_u8(),
            after: Duration::from_micros(u64::from(input.last_u8()) * 2),
        };
        (0..(mood >> 4).min(8)).map(one).collect()
    }

    fn happen(&self, guest: &Guest, gpu: &Gpu) {
        thread::sleep(self.after);
        match self.action % 8 {
            0 => guest.unplug(),
            1 => guest.plug(),
            2 => guest.memory.set_bus_master(false),
            3 => guest.memory.set_bus_master(true),
            4 => write(gpu, PREEMPT, 0),
            5 => write(
                gpu,
                PMC_ENABLE,
                !(1 << ENGINE_BITS[usize::from(self.action >> 3) % 4]),
            ),
            6 => write(gpu, PMC_ENABLE, u32::MAX),
            _ => {
                // The kill sequence, without its wait, and back.
                write(gpu, 0x80_0004, 1 << 11);
                write(gpu, PREEMPT, 0);
                write(gpu, 0x80_0004, 1 << 10);
            }
        }
    }
}

/// Waits for the end of the work, for a while, and takes all interrupts that it makes.
fn let_work(gpu: &Gpu) {
    let start = Instant::now();
    while read(gpu, 0x80_0004) & BUSY != 0 && start.elapsed() < WORK {
        thread::sleep(Duration::from_micros(50));
    }
    for register in [0x2100, 0x40108, 0x400100, 0x104410, 0x104490, 0x100e60] {
        write(gpu, register, read(gpu, register));
    }
}

pub(crate) fn run(data: &[u8]) {
    let mut input = Input(data);
    let guest = Guest::new();
    let mood = input.last_u8();
    let disturbances = Disturbance::all(&mut input, mood);
    let gpu = guest.gpu(&config(mood));
    let setup = Setup {
        guest: &guest,
        gpu: &gpu,
    };
    setup.memory();
    setup.channel(&mut input);
    let raw = input.u8();
    let raw_entry = input.u64();
    let dwords = setup.push(&mut input);
    let entry = PUSH | (dwords << 42);
    let second = if raw & 7 == 7 { raw_entry } else { entry };
    guest.put_u64(vid(RING), entry);
    guest.put_u64(vid(RING + 8), second);
    let put = if raw & 0x70 == 0x70 {
        u64::from(raw)
    } else {
        2
    };
    guest.put_u64(vid(USERD + 0x88), put << 32);
    write(&gpu, 0x81_0090, 0);
    for disturbance in disturbances {
        disturbance.happen(&guest, &gpu);
    }
    write(&gpu, PMC_ENABLE, u32::MAX);
    guest.plug();
    guest.memory.set_bus_master(true);
    let_work(&gpu);
    // A fault of host or of a copy engine is tried again, one of an SM is cancelled.
    write(&gpu, 0x80_0004, (1 << 22) | (1 << 23));
    write(&gpu, 0x100cbc, (1 << 31) | 3 | (4 << 3));
    let_work(&gpu);
    if raw & 8 != 0 {
        gpu.reset();
    }
    drop(gpu);
    guest.check();
}
