// SPDX-License-Identifier: MIT OR Apache-2.0
//! Stores land late, but not later than an acked invalidate allows. Acked invalidates wait for open windows.

use std::time::{Duration, Instant};

use mirage_vgpu::bus::GpuVa;
use mirage_vgpu::config::{Config, LateWrites};
use mirage_vgpu::mmu::{Access, AddressSpace, Unit};

use crate::memory::{sys, vid};
use crate::packets::{enable, wait_for_packets, REPLAY};
use crate::rig::*;
use crate::tables::*;

const IN_VRAM: u64 = 0x1000;
const IN_RAM: u64 = 0x2000;

/// Holds every store back for as long as nothing lands it.
fn late(depth: usize) -> Config {
    Config {
        late_writes: Some(LateWrites {
            percent: 100,
            depth,
            window: Duration::from_secs(3600),
        }),
        ..Config::default()
    }
}

/// A device with a page of VRAM and one of guest RAM mapped.
fn rig_with_pages(config: &Config) -> (Rig, AddressSpace) {
    let rig = Rig::with(config);
    let tables = Tables::new(&rig.memory, 0x10_0000);
    tables.map(IN_VRAM, pte(vid(0x60_0000)));
    tables.map(IN_RAM, pte(sys(0)));
    let space = rig.space(0, tables.root);
    (rig, space)
}

fn landed(rig: &Rig) -> [u8; 2] {
    [rig.memory.byte(vid(0x60_0000)), rig.memory.byte(sys(0))]
}

fn store_both(unit: &mut Unit, space: &AddressSpace) {
    store(unit, space, IN_VRAM, &[1]);
    store(unit, space, IN_RAM, &[2]);
}

#[test]
fn a_late_store_lands_with_what_the_ack_covers() {
    let cases = [
        (0, [0, 0], "ACK NONE_REQUIRED"),
        (SYS_MEMBAR, [0, 0], "ACK NONE ignores SYS_MEMBAR"),
        (ACK_GLOBALLY, [1, 0], "ACK without SYS_MEMBAR covers VRAM"),
        (ACK_GLOBALLY | SYS_MEMBAR, [1, 2], "GLOBALLY"),
        (ACK_INTRANODE | SYS_MEMBAR, [1, 2], "INTRANODE"),
        (
            HUBTLB_ONLY | ACK_GLOBALLY | SYS_MEMBAR,
            [0, 0],
            "HUBTLB_ONLY ignores ACK",
        ),
    ];
    for (command, expected, why) in cases {
        let (rig, space) = rig_with_pages(&late(16));
        let mut sm = rig.sm(0);
        store_both(&mut sm, &space);
        assert_eq!(landed(&rig), [0, 0], "held");
        rig.invalidate(ALL | command);
        assert_eq!(landed(&rig), expected, "{why}");
    }
}

#[test]
fn a_late_store_lands_in_the_page_that_it_was_translated_to() {
    let (rig, space) = rig_with_pages(&late(16));
    let mut sm = rig.sm(0);
    store(&mut sm, &space, IN_VRAM, &[9]);
    let tables = Tables::new(&rig.memory, 0x10_0000);
    tables.map(IN_VRAM, pte(vid(0x61_0000)));
    rig.invalidate(ALL);
    sm.flush();
    assert_eq!(rig.memory.byte(vid(0x60_0000)), 9);
    assert_eq!(rig.memory.byte(vid(0x61_0000)), 0);
}

#[test]
fn a_unit_sees_its_own_stores() {
    for access in [Access::Read, Access::Atomic] {
        let (rig, space) = rig_with_pages(&late(16));
        let mut sm = rig.sm(0);
        store_both(&mut sm, &space);
        translate(&mut sm, &space, IN_RAM, access).unwrap();
        assert_eq!(landed(&rig), [1, 2], "{access:?}");
    }
}

#[test]
fn flush_and_land_stores_and_the_end_of_a_unit_land_everything() {
    let ends: [fn(&Rig, Unit); 3] = [
        |_, sm| sm.flush(),
        |rig, sm| {
            rig.mmu.land_stores();
            std::mem::forget(sm);
        },
        |_, sm| drop(sm),
    ];
    for end in ends {
        let (rig, space) = rig_with_pages(&late(16));
        let mut sm = rig.sm(0);
        store_both(&mut sm, &space);
        end(&rig, sm);
        assert_eq!(landed(&rig), [1, 2]);
    }
}

#[test]
fn the_queue_is_bounded_and_lands_its_oldest() {
    let (rig, space) = rig_with_pages(&late(2));
    let mut sm = rig.sm(0);
    for byte in 0..4 {
        store(&mut sm, &space, IN_VRAM + u64::from(byte), &[byte + 1]);
    }
    assert_eq!(
        rig.memory.get(vid(0x60_0000)),
        0x0201,
        "two landed, two held"
    );
    assert_eq!(rig.counter("late_stores"), 4);
}

#[test]
fn stores_of_one_unit_land_in_their_order() {
    for seed in 0..20 {
        let mut config = late(8);
        config.seed = seed;
        config.late_writes.as_mut().unwrap().percent = 60;
        let (rig, space) = rig_with_pages(&config);
        let mut sm = rig.sm(0);
        for value in 0..200_u8 {
            store(&mut sm, &space, IN_VRAM, &[value]);
        }
        sm.flush();
        assert_eq!(landed(&rig)[0], 199, "seed {seed}");
        let writes = rig.memory.take_writes();
        let values: Vec<u8> = writes.iter().map(|write| write.data[0]).collect();
        assert!(values.is_sorted(), "seed {seed}: {values:?}");
    }
}

#[test]
fn nothing_is_held_longer_than_the_window() {
    let mut config = late(16);
    config.late_writes.as_mut().unwrap().window = Duration::from_millis(5);
    let (rig, space) = rig_with_pages(&config);
    let mut sm = rig.sm(0);
    store_both(&mut sm, &space);
    eventually("the stores land", || landed(&rig) == [1, 2]);
}

#[test]
fn a_store_ends_with_its_leaf() {
    let (rig, space) = rig_with_pages(&Config::default());
    let mut sm = rig.sm(0);
    store(&mut sm, &space, IN_VRAM + KIB4 - 2, &[5; 8]);
    assert_eq!(rig.memory.get(vid(0x60_0000 + KIB4 - 2)), 0x0505);
}

#[test]
fn an_acked_invalidate_waits_for_open_windows() {
    let (rig, space) = rig_with_pages(&Config::default());
    let mut sm = rig.sm(0);
    let mut window = sm.window();
    let to = window
        .translate(&space, GpuVa(IN_VRAM), Access::Write)
        .unwrap();
    rig.trigger(ALL | ACK_GLOBALLY);
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(20) {
        assert!(!rig.fifo_empty(), "finished with the window open");
    }
    window.store(to, &[7]);
    drop(window);
    rig.wait_for_fifo();
    assert_eq!(landed(&rig)[0], 7);
}

#[test]
fn ack_none_does_not_wait_for_open_windows() {
    let (rig, space) = rig_with_pages(&Config::default());
    let mut sm = rig.sm(0);
    let mut window = sm.window();
    window
        .translate(&space, GpuVa(IN_VRAM), Access::Write)
        .unwrap();
    rig.invalidate(ALL);
}

#[test]
fn a_window_sees_invalidates_that_come_while_it_is_open() {
    let (rig, space) = rig_with_pages(&Config::default());
    let tables = Tables::new(&rig.memory, 0x10_0000);
    let mut sm = rig.sm(0);
    let mut window = sm.window();
    window
        .translate(&space, GpuVa(IN_VRAM), Access::Read)
        .unwrap();
    tables.map(IN_VRAM, 0);
    rig.invalidate(ALL);
    assert!(window
        .translate(&space, GpuVa(IN_VRAM), Access::Read)
        .is_err());
}

#[test]
fn a_stalled_unit_does_not_hold_up_an_acked_invalidate() {
    let (rig, space) = rig_with_pages(&late(16));
    enable(&rig, REPLAY, 16);
    let mut sm = rig.sm(1);
    let killed = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            store_both(&mut sm, &space);
            sm.stall(&space, &[pte_fault(0x9000, Access::Read)], &killed)
        });
        wait_for_packets(&rig, REPLAY, 1);
        rig.invalidate(ALL | ACK_GLOBALLY | SYS_MEMBAR);
        assert_eq!(landed(&rig), [1, 2]);
        assert_eq!(rig.counter("drained_stores"), 2);
        rig.mmu.abandon(space.inst);
    });
}

#[test]
fn a_reset_forgets_held_stores() {
    let (rig, space) = rig_with_pages(&late(16));
    let mut sm = rig.sm(0);
    store_both(&mut sm, &space);
    rig.pri.reset();
    sm.flush();
    assert_eq!(landed(&rig), [0, 0]);
}

/// Which of the unit's stores are held back.
fn held(rig: &Rig, space: &AddressSpace, mut unit: Unit) -> Vec<bool> {
    let mut is_held = || {
        let before = rig.counter("late_stores");
        store(&mut unit, space, IN_VRAM, &[1]);
        rig.counter("late_stores") > before
    };
    (0..64).map(|_| is_held()).collect()
}

#[test]
fn which_stores_are_late_follows_from_the_seed_and_the_unit_and_not_from_who_came_first() {
    let rig = |seed| {
        let mut config = late(64);
        config.seed = seed;
        config.late_writes.as_mut().unwrap().percent = 50;
        rig_with_pages(&config)
    };
    let units: [fn(&Rig) -> Unit; 5] = [
        |rig| rig.sm(0),
        |rig| rig.sm(1),
        |rig| rig.numbered_sm(0, 32),
        |rig| rig.host(0),
        |rig| rig.host(1),
    ];
    let alone = |seed, unit: fn(&Rig) -> Unit| {
        let (rig, space) = rig(seed);
        held(&rig, &space, unit(&rig))
    };
    let first = units.map(|unit| alone(1, unit));
    let (rig, space) = rig(1);
    for (i, unit) in units.into_iter().enumerate().rev() {
        assert_eq!(
            held(&rig, &space, unit(&rig)),
            first[i],
            "unit {i}, not first"
        );
        assert_ne!(alone(2, unit), first[i], "unit {i}, another seed");
        let twins = first.iter().filter(|other| **other == first[i]);
        assert_eq!(twins.count(), 1, "unit {i} is like another");
    }
}
