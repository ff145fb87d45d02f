// SPDX-License-Identifier: MIT OR Apache-2.0
//! Page tables of any content, walked for any address, with invalidations in between.

use std::sync::Arc;

use mirage_vgpu::bus::{AtomicOp, Bus, GpuVa, PhysAddr, Width};
use mirage_vgpu::counters::Counters;
use mirage_vgpu::intr::InterruptTree;
use mirage_vgpu::mmu::{
    Access, AddressSpace, Backing, Client, ClientKind, MemOp, Mmu, Translation, Unit,
};
use mirage_vgpu::pri::RegisterBlock;

use super::guest::{config, sys, vid, Guest, PAGE};
use super::input::Input;

/// Pages of each memory that tables lie in.
const TABLES: u64 = 8;
const MOST: u32 = 200;
const INVALIDATE: u32 = 0x100cbc;

/// Where an entry may point: tables, other memory, nowhere.
fn target(input: &mut Input<'_>) -> PhysAddr {
    let choice = input.u8();
    let page = u64::from(choice & 0x1f) * PAGE;
    match choice >> 5 {
        0..4 => vid(page % (TABLES * PAGE)),
        4 | 5 => sys(page % (TABLES * PAGE)),
        6 => vid(page << 20),
        _ => sys(page << 20),
    }
}

/// An entry that often leads on; or any.
fn entry(input: &mut Input<'_>) -> u64 {
    let kind = input.u8();
    if kind == 0xff {
        return input.u64();
    }
    let at = target(input);
    let is_vid = at.aperture == mirage_vgpu::bus::Aperture::Vid;
    // The aperture codes of PDEs and PTEs differ; bit 4 takes the wrong one.
    let aperture = match (is_vid, kind & 1 == 0) {
        (true, true) => 1,
        (true, false) => 0,
        (false, _) => 2,
    };
    let flags = u64::from((kind >> 1) & 0x7c);
    (at.addr >> 4) | (aperture << 1) | u64::from(kind & 1) | flags
}

fn access(unit: &mut Unit, space: &AddressSpace, va: GpuVa, input: &mut Input<'_>) {
    let access = input.pick(&[
        Access::Read,
        Access::Write,
        Access::Atomic,
        Access::Prefetch,
    ]);
    let mut window = unit.window();
    let Ok(found) = window.translate(space, va, access) else {
        return;
    };
    assert!(found.bytes > 0 && found.bytes <= 2 << 20);
    if found.backing == Backing::Memory {
        assert_eq!(found.phys.addr % PAGE, va.0 % PAGE);
    }
    let mut data = [0; 64];
    let fits = usize::try_from(found.bytes).unwrap().min(data.len());
    window.load(found, &mut data[..fits]);
    // Stores go where no table is, so that the walks that follow do not depend on them.
    let aside = Translation {
        phys: PhysAddr {
            addr: found.phys.addr | (TABLES * PAGE),
            ..found.phys
        },
        ..found
    };
    match access {
        Access::Write => window.store(aside, &data),
        Access::Atomic => {
            window.atomic(aside, Width::Bits64, AtomicOp::Add(1));
        }
        Access::Read | Access::Prefetch => {}
    }
}

pub(crate) fn run(data: &[u8]) {
    let mut input = Input(data);
    let guest = Guest::new();
    let counters = Arc::new(Counters::default());
    let config = config(input.last_u8());
    let intr = Arc::new(InterruptTree::new(Guest::sink(), counters.clone(), &config));
    let bus: Arc<dyn Bus> = guest.memory.clone();
    let mmu = Mmu::new(bus, intr, counters, &config).unwrap();
    let sm = ClientKind::Gpc { gpc: 0, client: 0 };
    let mut unit = mmu.register_unit(
        Client {
            kind: sm,
            engine_id: 64,
        },
        0,
    );
    let inst = vid(0x8_0000);
    guest.put_u64(inst.offset(0x200), 0xc10);
    for _ in 0..MOST {
        if input.is_empty() {
            break;
        }
        match input.u8() % 8 {
            0 => {
                // PAGE_DIR_BASE, CONFIG.
                let low = input.u64();
                guest.put_u64(inst.offset(0x200), low ^ 0xc10);
                guest.put_u64(inst.offset(0xf0), input.u64());
            }
            1..4 => {
                let table = target(&mut input);
                let at = table.offset(u64::from(input.u16() & 0x1ff) * 8);
                let _ = guest.memory.write_u64(at, entry(&mut input));
            }
            4 => {
                // An operation that waits for windows would wait for this thread's: there is none open here.
                mmu.write(INVALIDATE, input.u32());
            }
            5 => {
                let (a, b, c, d) = (input.u32(), input.u32(), input.u32(), input.u32());
                let _ = mmu.mem_op(MemOp { a, b, c, d });
            }
            _ => {
                let space = AddressSpace::from_instance_block(&*guest.memory, inst);
                let va = match input.u8() % 4 {
                    0 => input.u64(),
                    // Few directories, so that they are met again.
                    1 => u64::from(input.u32()),
                    _ => u64::from(input.u16()) << 9,
                };
                access(&mut unit, &space, GpuVa(va), &mut input);
            }
        }
    }
    mmu.reset();
    drop(unit);
    drop(mmu);
    guest.check();
}
