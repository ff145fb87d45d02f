// SPDX-License-Identifier: MIT OR Apache-2.0
//! Guests that make no sense: nothing they write may panic the device, hang it, or reach outside its memory.

use mirage_vgpu::bus::Bus;
use mirage_vgpu::config::{Config, LateWrites};

use crate::rig::*;

const ROUNDS: u64 = 300;

fn config(seed: u64) -> Config {
    let late = LateWrites {
        percent: 50,
        depth: 8,
        window: std::time::Duration::from_millis(1),
    };
    Config {
        seed,
        late_writes: (seed % 2 == 0).then_some(late),
        ..Config::default()
    }
}

/// A word that often has the shape of a header for a subchannel with a class.
fn word(random: &mut fastrand::Rng) -> u32 {
    const OPS: [u32; 5] = [1, 3, 4, 5, 7];
    const METHODS: [u32; 8] = [0x0, 0x20, 0x5c, 0x78, 0x110, 0x200, 0x230, 0x300];
    match random.u32(..4) {
        0 => random.u32(..),
        1 => random.u32(..64),
        2 => (DATA >> 32) as u32,
        _ => {
            let (op, method) = (
                OPS[random.usize(..OPS.len())],
                METHODS[random.usize(..METHODS.len())],
            );
            (op << 29) | (random.u32(..12) << 16) | (1 << 13) | (method >> 2)
        }
    }
}

/// Whatever happened: the channel can be killed, and a fresh one works.
fn still_works(rig: &Rig, channels: &[Channel<'_>]) {
    for channel in channels {
        channel.kill();
    }
    rig.gpu.reset();
    rig.set_up_buffers();
    let channel = rig.channel(63);
    channel.wait(channel.fence());
}

#[test]
fn random_push_buffers_never_hurt() {
    for seed in 0..4 {
        let mut random = fastrand::Rng::with_seed(seed);
        let rig = Rig::with(&config(seed));
        let channels: Vec<_> = (0..8).map(|id| rig.channel(id)).collect();
        for channel in &channels {
            for page in 0..4 {
                rig.map(channel.semaphore_va() + (1 << 19) + page * PAGE, PAGE);
            }
        }
        for round in 0..ROUNDS {
            let channel = &channels[random.usize(..channels.len())];
            let mut words = methods(1, 0, &[0xfec0]);
            words.extend((0..random.usize(1..100)).map(|_| word(&mut random)));
            channel.submit(&words);
            if random.bool() {
                let code = random.u32(..8) << 3;
                rig.faults(1);
                rig.invalidate(code);
            }
            if round % 7 == 0 {
                channel.kill();
                channel.bind();
                channel.enable();
            }
        }
        still_works(&rig, &channels);
    }
}

#[test]
fn random_launches_in_a_small_memory_never_hurt() {
    for seed in 0..4 {
        let mut random = fastrand::Rng::with_seed(seed);
        let rig = Rig::with(&config(seed));
        let memory = rig.map(DATA, 8 * PAGE);
        let noise: Vec<u8> = (0..8 * PAGE).map(|_| random.u8(..)).collect();
        rig.memory.write(memory, &noise).unwrap();
        let channels: Vec<_> = (0..4).map(|id| rig.channel(id)).collect();
        for _ in 0..ROUNDS {
            let mut va = || DATA + random.u64(..10 * PAGE) / 8 * 8;
            let (a, b, r) = (va(), va(), va());
            let launch = Launch {
                op: random.u32(..11),
                size: random.u32(..4),
                flags: random.u32(..4) << 12,
                a,
                b,
                r,
                value: random.u64(..),
                compare: random.u64(..),
                stride_a: random.u32(..64) * 8,
                stride_b: random.u32(..64),
                stride_r: random.u32(..64) * 8,
                lanes: random.u32(..100),
                length: random.u32(..20_000),
                steps: random.u32(..50),
                next_offset: random.u32(..4) * 8,
                value_offset: random.u32(..4) * 8,
            };
            let channel = &channels[random.usize(..channels.len())];
            channel.submit(&launch.words());
            if random.u32(..4) == 0 {
                channel.kill();
                channel.bind();
                channel.enable();
            }
            rig.faults(0);
            rig.faults(1);
            rig.invalidate([START, CANCEL_GLOBAL][random.usize(..2)]);
        }
        still_works(&rig, &channels);
    }
}

#[test]
fn random_register_writes_never_hurt() {
    const BLOCKS: [u32; 9] = [
        0x0, 0x2100, 0x2600, 0x40080, 0x100c80, 0x100e00, 0x400100, 0x800000, 0x810080,
    ];
    for seed in 0..4 {
        let mut random = fastrand::Rng::with_seed(seed);
        let rig = Rig::with(&config(seed));
        let channels: Vec<_> = (0..4).map(|id| rig.channel(id)).collect();
        for _ in 0..20_000 {
            let register = BLOCKS[random.usize(..BLOCKS.len())] + 4 * random.u32(..160);
            let value = match random.u32(..3) {
                0 => random.u32(..),
                1 => 1 << random.u32(..32),
                _ => random.u32(..256),
            };
            rig.write(register, value);
            rig.read(register);
        }
        rig.gpu.reset();
        rig.set_up_buffers();
        still_works(&rig, &channels);
    }
}

#[test]
fn random_instance_blocks_and_rings_never_hurt() {
    for seed in 0..4 {
        let mut random = fastrand::Rng::with_seed(seed);
        let rig = Rig::with(&config(seed));
        let channel = rig.channel(0);
        for _ in 0..ROUNDS {
            channel.kill();
            for offset in [0x08, 0x0c, 0x48, 0x4c, 0x200, 0x204] {
                if random.u32(..8) == 0 {
                    rig.memory
                        .write_u32(channel.inst.offset(offset), random.u32(..))
                        .unwrap();
                }
            }
            channel.bind();
            channel.enable();
            rig.memory
                .write_u32(channel.userd.offset(0x8c), random.u32(..70))
                .unwrap();
            for entry in 0..64 {
                rig.put_u64(channel.ring.offset(8 * entry), random.u64(..));
            }
            rig.write(DOORBELL, 0);
            rig.faults(0);
            channel.write_control(PBDMA_FAULTED);
        }
        still_works(&rig, &[channel]);
    }
}
