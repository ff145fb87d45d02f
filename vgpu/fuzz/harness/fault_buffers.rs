// SPDX-License-Identifier: MIT OR Apache-2.0
//! Fault buffers set up anyhow, moved and switched off while faults come in, on devices of every mood.

use std::sync::atomic::AtomicBool;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use mirage_vgpu::bus::{Bus, GpuVa};
use mirage_vgpu::config::{Config, InterruptTrouble, PacketTrouble};
use mirage_vgpu::counters::Counters;
use mirage_vgpu::intr::InterruptTree;
use mirage_vgpu::mmu::{Access, AddressSpace, Client, ClientKind, Fault, FaultType, Mmu, Unit};
use mirage_vgpu::pri::Pri;

use super::guest::{config, sys, vid, Guest};
use super::input::Input;

const MOST: u32 = 200;
/// Units that stall at the same time.
const STALLS: usize = 3;
const REGISTERS: [u64; 20] = [
    0x100e24, 0x100e28, 0x100e2c, 0x100e30, 0x100e34, 0x100e38, 0x100e3c, 0x100e40, 0x100e44,
    0x100e48, 0x100e4c, 0x100e54, 0x100e60, 0x100a20, 0x100a2c, 0x100a34, 0x100cf8, 0x160, 0x180,
    0x100cbc,
];
const ENABLE: u32 = 1 << 31;

fn moody(input: &mut Input<'_>) -> Config {
    let mood = input.last_u8();
    let mut percent = || input.u8() % 101;
    let (duplicate, stale, nonsense) = (percent(), percent(), percent());
    let (spurious, lost, late) = (percent(), percent(), percent());
    Config {
        packets: PacketTrouble {
            delayed_valid: (late > 50).then(|| Duration::from_micros(late.into())),
            duplicate_percent: duplicate,
            stale_percent: stale,
            nonsense_percent: nonsense,
        },
        interrupts: InterruptTrouble {
            spurious_percent: spurious,
            lost_percent: lost,
        },
        ..config(mood)
    }
}

fn fault(input: &mut Input<'_>) -> Fault {
    Fault {
        va: GpuVa(input.u64()),
        access: input.pick(&[Access::Read, Access::Write, Access::Atomic]),
        kind: input.pick(&[FaultType::Pte, FaultType::Ro, FaultType::VaLimit]),
    }
}

fn write(pri: &Pri, register: u64, value: u32) {
    pri.write(register, &value.to_le_bytes());
}

/// Sets a buffer up as a driver would, somewhere in memory or near its end.
fn enable(pri: &Pri, input: &mut Input<'_>) {
    let buffer = 0x14 * u64::from(input.u8() & 1);
    let place = u32::from(input.u8()) << 12;
    let in_ram = input.u8() & 1 == 1;
    let entries = u32::from(input.u8() % 20);
    write(pri, 0x100e34 + buffer, 0);
    write(pri, 0x100e24 + buffer, place | 1 | (u32::from(in_ram) << 2));
    write(pri, 0x100e28 + buffer, u32::from(in_ram));
    write(pri, 0x100e34 + buffer, entries | ENABLE);
}

pub(crate) fn run(data: &[u8]) {
    let mut input = Input(data);
    let guest = Guest::new();
    let config = moody(&mut input);
    let counters = Arc::new(Counters::default());
    let intr = Arc::new(InterruptTree::new(Guest::sink(), counters.clone(), &config));
    let bus: Arc<dyn Bus> = guest.memory.clone();
    let mmu = Mmu::new(bus, intr.clone(), counters, &config).unwrap();
    let pri = Pri::new(vec![mmu.clone(), intr]);
    let (inst, other) = (vid(0x8_0000), sys(0x8000));
    for at in [inst, other] {
        guest.put_u64(at.offset(0x200), 0x1000 | 0xc10);
    }
    let spaces = [inst, other].map(|at| AddressSpace::from_instance_block(&*guest.memory, at));
    let unit = |kind| {
        mmu.register_unit(
            Client {
                kind,
                engine_id: 64,
            },
            0,
        )
    };
    let gpc = |gpc| unit(ClientKind::Gpc { gpc, client: 0 });
    let mut sms: Vec<Unit> = (0..).take(STALLS).map(gpc).collect();
    let mut prefetcher = gpc(31);
    let hub = unit(ClientKind::Hub { client: 1 });
    let killed = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..MOST {
            if input.is_empty() {
                break;
            }
            let space = input.pick(&spaces);
            match input.u8() % 8 {
                0 | 1 => enable(&pri, &mut input),
                2 | 3 => write(&pri, input.pick(&REGISTERS), input.u32()),
                4 => {
                    let register = 0x100e2c + 0x14 * u64::from(input.u8() & 1);
                    let flags = u32::from(input.u8()) << 24;
                    write(&pri, register, flags | u32::from(input.u8()));
                }
                5 => hub.report(&space, fault(&mut input)),
                6 => prefetcher.prefetch(&space, GpuVa(input.u64())),
                _ => {
                    let faults = [fault(&mut input), fault(&mut input)];
                    let Some(mut sm) = sms.pop() else { continue };
                    let killed = &killed;
                    scope.spawn(move || {
                        let _ = sm.stall(&space, &faults, killed);
                    });
                }
            }
            let mut value = [0; 4];
            pri.read(input.pick(&REGISTERS), &mut value);
        }
        killed.store(true, std::sync::atomic::Ordering::Release);
        spaces.iter().for_each(|space| mmu.abandon(space.inst));
    });
    pri.reset();
    drop((pri, prefetcher, hub, sms));
    drop(mmu);
    guest.check();
}
