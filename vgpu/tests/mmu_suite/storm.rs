// SPDX-License-Identifier: MIT OR Apache-2.0
//! Many units at once against a driver that maps and unmaps: the two promises that a page's owner relies on.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use mirage_vgpu::bus::GpuVa;
use mirage_vgpu::config::{Config, LateAcks, LateWrites};
use mirage_vgpu::mmu::{Access, AddressSpace, Stalled, Unit};

use crate::memory::vid;
use crate::packets::{addresses, drain, enable, get, put, OVERFLOW, REPLAY};
use crate::rig::*;
use crate::tables::*;

const VA: u64 = 0x7f00_0000_0000;
const UNITS: u8 = 4;

fn configs() -> [Config; 2] {
    let late = Config {
        seed: 3,
        late_writes: Some(LateWrites {
            percent: 70,
            depth: 8,
            window: Duration::from_secs(3600),
        }),
        late_acks: Some(LateAcks {
            most: Duration::from_micros(50),
        }),
        ..Config::default()
    };
    [Config::default(), late]
}

/// Writes to VA until it is told to stop; where VA is not mapped, tries again.
fn write_on(unit: &mut Unit, space: &AddressSpace, stop: &AtomicBool, written: &AtomicU64) {
    while !stop.load(Ordering::Acquire) {
        let mut window = unit.window();
        if let Ok(to) = window.translate(space, GpuVa(VA), Access::Write) {
            window.store(to, &[1; 8]);
            written.fetch_add(1, Ordering::Relaxed);
        }
        drop(window);
        thread::yield_now();
    }
}

#[test]
fn after_an_acked_invalidate_nobody_writes_the_old_page() {
    for config in configs() {
        let rig = Rig::with(&config);
        let tables = Tables::new(&rig.memory, 0x10_0000);
        let space = rig.space(0, tables.root);
        let (stop, written) = (AtomicBool::new(false), AtomicU64::new(0));
        thread::scope(|scope| {
            for n in 0..UNITS {
                let (mut unit, stop, written) = (rig.sm(n), &stop, &written);
                scope.spawn(move || write_on(&mut unit, &space, stop, written));
            }
            for round in 0..200 {
                let page = vid(0x60_0000 + (round % 16) * KIB4);
                tables.map(VA, pte(page));
                let before = written.load(Ordering::Relaxed);
                eventually("a write", || written.load(Ordering::Relaxed) > before);
                tables.map(VA, 0);
                rig.point_at(tables.root, VA);
                rig.invalidate(ACK_GLOBALLY | SYS_MEMBAR);
                rig.memory.set(page, 0);
                thread::yield_now();
                assert_eq!(rig.memory.get(page), 0, "round {round}");
            }
            stop.store(true, Ordering::Release);
        });
        for page in 0..16 {
            assert_eq!(
                rig.memory.get(vid(0x60_0000 + page * KIB4)),
                0,
                "{config:?}"
            );
        }
    }
}

const PAGES_PER_UNIT: u64 = 500;
const LANES: u64 = 16;

/// Touches its pages, `LANES` at a time, and waits for the driver where they fault.
fn touch_all(unit: &mut Unit, space: &AddressSpace, first: u64) {
    let killed = AtomicBool::new(false);
    for warp in (0..PAGES_PER_UNIT).step_by(LANES as usize) {
        let mut lanes: Vec<u64> = (warp..PAGES_PER_UNIT.min(warp + LANES)).collect();
        while !lanes.is_empty() {
            let mut faults = Vec::new();
            lanes.retain(|lane| {
                let mut window = unit.window();
                let va = GpuVa(first + lane * KIB4);
                match window.translate(space, va, Access::Write) {
                    Ok(to) => window.store(to, &va.0.to_le_bytes()),
                    Err(fault) => faults.push(fault),
                }
                faults.last().is_some_and(|fault| fault.va == va)
            });
            if !faults.is_empty() {
                assert_eq!(unit.stall(space, &faults, &killed), Stalled::Replay);
            }
        }
    }
}

/// Maps what faults and replays, until all units are done.
fn serve(rig: &Rig, tables: &Tables<'_>, page_of: impl Fn(u64) -> u64, done: &AtomicU64) {
    while done.load(Ordering::Acquire) < u64::from(UNITS) {
        for va in addresses(rig, REPLAY) {
            tables.map(va, pte(vid(page_of(va))));
        }
        drain(rig, REPLAY);
        if rig.read(put(REPLAY)) & OVERFLOW != 0 {
            rig.write(get(REPLAY), rig.read(get(REPLAY)));
        }
        rig.invalidate(ALL | START);
    }
}

#[test]
fn a_storm_of_faults_in_a_small_buffer_is_served_to_the_end() {
    for config in configs() {
        let rig = Rig::with(&config);
        enable(&rig, REPLAY, 16);
        let tables = Tables::new(&rig.memory, 0x10_0000);
        let space = rig.space(0, tables.root);
        let done = AtomicU64::new(0);
        let page_of = |va: u64| 0x40_0000 + (va - VA) / KIB4 % 1000 * KIB4;
        thread::scope(|scope| {
            for n in 0..UNITS {
                let (mut unit, done) = (rig.sm(n), &done);
                let first = VA + u64::from(n) * PAGES_PER_UNIT * KIB4;
                scope.spawn(move || {
                    touch_all(&mut unit, &space, first);
                    done.fetch_add(1, Ordering::Release);
                });
            }
            serve(&rig, &tables, page_of, &done);
        });
        let total = u64::from(UNITS) * PAGES_PER_UNIT;
        for page in total - 1000..total {
            let va = VA + page * KIB4;
            assert_ne!(rig.memory.get(vid(page_of(va))), 0, "{va:#x}");
        }
        assert!(
            rig.counter("dropped_packets") > 0,
            "the buffer was to overflow"
        );
    }
}
