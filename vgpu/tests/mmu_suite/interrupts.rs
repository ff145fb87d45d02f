// SPDX-License-Identifier: MIT OR Apache-2.0
//! The interrupt tree: levels, enables, messages.

use mirage_vgpu::mmu::Access;

use crate::memory::vid;
use crate::packets::{
    drain, enable, get, lo, put, size, wait_for_packets, CORRUPTED, ENABLE, NON_REPLAY, OVERFLOW,
    OVERFLOW_INTR, PHYSICAL, REPLAY,
};
use crate::rig::*;

const PMC_INTR: u64 = 0x100;
const PMC_EN: u64 = 0x140;
const PMC_EN_SET: u64 = 0x160;
const PMC_EN_CLEAR: u64 = 0x180;
const HUB: u32 = 1 << 9;
const NISO: u64 = 0x100a20;
const NISO_EN: u64 = 0x100a24;
const NISO_EN_SET: u64 = 0x100a2c;
const NISO_EN_CLR: u64 = 0x100a34;
const REPLAY_NOTIFY: u32 = 1 << 27;
const REPLAY_OVERFLOW: u32 = 1 << 28;
const NONREPLAY_NOTIFY: u32 = 1 << 29;
const NONREPLAY_OVERFLOW: u32 = 1 << 30;
const OTHER: u32 = 1 << 31;
const FAULT_STATUS: u64 = 0x100e60;

/// A device with buffer 0 of four entries, its interrupts enabled in tree 0.
fn armed() -> Rig {
    let rig = Rig::new();
    enable(&rig, NON_REPLAY, 4);
    enable(&rig, REPLAY, 4);
    rig.write(NISO_EN_SET, NONREPLAY_NOTIFY | NONREPLAY_OVERFLOW);
    rig.write(PMC_EN_SET, HUB);
    rig
}

fn fault(rig: &Rig) {
    let space = rig.space(0, vid(0x10_0000));
    rig.host(0).report(&space, pte_fault(0x1000, Access::Read));
}

#[test]
fn a_packet_raises_the_level_and_one_message() {
    let rig = armed();
    assert_eq!((rig.read(PMC_INTR), rig.sink.count(0)), (0, 0));
    fault(&rig);
    assert_eq!(rig.read(NISO), NONREPLAY_NOTIFY);
    assert_eq!(rig.read(PMC_INTR), HUB);
    assert_eq!(rig.sink.count(0), 1);
    fault(&rig);
    assert_eq!(rig.sink.count(0), 1, "the level was high already");
}

#[test]
fn the_level_falls_when_get_reaches_put() {
    let rig = armed();
    fault(&rig);
    fault(&rig);
    rig.write(get(NON_REPLAY), 1);
    assert_eq!(rig.read(PMC_INTR), HUB);
    rig.write(get(NON_REPLAY), 2);
    assert_eq!((rig.read(NISO), rig.read(PMC_INTR)), (0, 0));
    fault(&rig);
    assert_eq!(rig.sink.count(0), 2);
}

#[test]
fn a_level_still_pending_fires_again_when_it_is_re_armed() {
    let rig = armed();
    fault(&rig);
    rig.write(PMC_EN_CLEAR, HUB);
    assert_eq!(rig.read(PMC_EN), 0);
    fault(&rig);
    assert_eq!(rig.sink.count(0), 1, "disarmed");
    rig.write(PMC_EN_SET, HUB);
    assert_eq!(rig.sink.count(0), 2);
    rig.write(PMC_EN_CLEAR, HUB);
    drain(&rig, NON_REPLAY);
    rig.write(PMC_EN_SET, HUB);
    assert_eq!(rig.sink.count(0), 2, "nothing was left");
}

#[test]
fn each_tree_has_its_own_enables_and_vector() {
    let rig = armed();
    rig.write(PMC_EN_SET + 4, HUB | 1);
    fault(&rig);
    assert_eq!([rig.sink.count(0), rig.sink.count(1)], [1, 1]);
    rig.write(PMC_EN_CLEAR, HUB);
    assert_eq!([rig.read(PMC_EN), rig.read(PMC_EN + 4)], [0, HUB | 1]);
    assert_eq!(
        [rig.read(PMC_INTR), rig.read(PMC_INTR + 4)],
        [HUB, HUB],
        "INTR is not masked"
    );
}

#[test]
fn niso_enables_gate_the_level() {
    let rig = armed();
    rig.write(NISO_EN_CLR, NONREPLAY_NOTIFY);
    assert_eq!(rig.read(NISO_EN), NONREPLAY_OVERFLOW);
    fault(&rig);
    assert_eq!(rig.read(NISO), NONREPLAY_NOTIFY);
    assert_eq!((rig.read(PMC_INTR), rig.sink.count(0)), (0, 0));
    rig.write(NISO_EN_SET, NONREPLAY_NOTIFY);
    assert_eq!((rig.read(PMC_INTR), rig.sink.count(0)), (HUB, 1));
}

#[test]
fn overflow_has_a_level_of_its_own() {
    let rig = armed();
    (0..4).for_each(|_| fault(&rig));
    assert_eq!(rig.read(NISO), NONREPLAY_NOTIFY | NONREPLAY_OVERFLOW);
    rig.write(get(NON_REPLAY), 3);
    assert_eq!(rig.read(NISO), NONREPLAY_OVERFLOW);
    assert_eq!(rig.read(PMC_INTR), HUB);
    rig.write(get(NON_REPLAY), 3 | OVERFLOW);
    assert_eq!((rig.read(NISO), rig.read(PMC_INTR)), (0, 0));
}

#[test]
fn a_corrupted_get_is_an_other_interrupt() {
    let rig = armed();
    rig.write(get(REPLAY), 9);
    assert_eq!(rig.read(NISO), OTHER);
    rig.write(get(REPLAY), CORRUPTED);
    assert_eq!(rig.read(NISO), 0);
}

#[test]
fn the_replayable_buffer_has_its_own_bits() {
    let rig = armed();
    rig.write(NISO_EN_SET, REPLAY_NOTIFY);
    let space = rig.space(0, vid(0x10_0000));
    let _sm = rig.stall(0, space, &[pte_fault(0x1000, Access::Read)]);
    eventually("the message", || rig.sink.count(0) == 1);
    assert_eq!(rig.read(NISO), REPLAY_NOTIFY);
    rig.mmu.abandon(space.inst);
}

/// Faults on so many pages, for one buffer.
fn faults(rig: &Rig, buffer: u64, pages: u64) {
    if buffer == NON_REPLAY {
        (0..pages).for_each(|_| fault(rig));
        return;
    }
    let space = rig.space(0, vid(0x10_0000));
    let faults: Vec<_> = (1..=pages)
        .map(|page| pte_fault(page << 12, Access::Read))
        .collect();
    rig.stall(0, space, &faults);
}

#[test]
fn overflow_of_the_replayable_buffer_has_a_level_of_its_own() {
    let rig = armed();
    rig.write(NISO_EN_SET, REPLAY_OVERFLOW);
    faults(&rig, REPLAY, 4);
    eventually("the overflow", || rig.read(NISO) & REPLAY_OVERFLOW != 0);
    assert_eq!(rig.read(NISO), REPLAY_NOTIFY | REPLAY_OVERFLOW);
    rig.write(get(REPLAY), 3);
    assert_eq!(rig.read(NISO), REPLAY_OVERFLOW);
    assert_eq!(rig.read(PMC_INTR), HUB);
    rig.write(get(REPLAY), 3 | OVERFLOW);
    assert_eq!((rig.read(NISO), rig.read(PMC_INTR)), (0, 0));
    rig.pri.reset();
}

#[test]
fn without_overflow_intr_an_overflow_is_no_interrupt() {
    let bits = [
        (NON_REPLAY, NONREPLAY_NOTIFY, NONREPLAY_OVERFLOW),
        (REPLAY, REPLAY_NOTIFY, REPLAY_OVERFLOW),
    ];
    for (buffer, notify, overflow) in bits {
        let rig = armed();
        rig.write(size(buffer), 4 | ENABLE);
        faults(&rig, buffer, 4);
        eventually("the overflow", || rig.read(put(buffer)) & OVERFLOW != 0);
        assert_eq!(rig.read(NISO), notify);
        rig.write(size(buffer), 4 | ENABLE | OVERFLOW_INTR);
        assert_eq!(rig.read(NISO), notify | overflow);
        rig.pri.reset();
    }
}

#[test]
fn fault_status_tells_which_buffer_has_packets() {
    for (buffer, bit) in [(NON_REPLAY, 9), (REPLAY, 8)] {
        let rig = armed();
        assert_eq!(rig.read(FAULT_STATUS), 0);
        faults(&rig, buffer, 1);
        wait_for_packets(&rig, buffer, 1);
        assert_eq!(rig.read(FAULT_STATUS), 1 << bit);
        drain(&rig, buffer);
        assert_eq!(rig.read(FAULT_STATUS), 0);
        rig.pri.reset();
    }
}

#[test]
fn a_packet_that_reaches_no_memory_is_an_error_of_its_buffer_and_an_other_interrupt() {
    for (buffer, bit) in [(NON_REPLAY, 11), (REPLAY, 10)] {
        let rig = armed();
        rig.write(NISO_EN_SET, OTHER);
        rig.write(size(buffer), 0);
        rig.write(lo(buffer), PHYSICAL);
        rig.write(lo(buffer) + 4, 0x7fff_ffff);
        rig.write(size(buffer), 4 | ENABLE);
        faults(&rig, buffer, 1);
        eventually("the error", || rig.counter("bus_errors") > 0);
        rig.write(get(buffer), 1);
        eventually("the interrupt", || rig.read(NISO) == OTHER);
        assert_eq!(rig.read(FAULT_STATUS), 1 << bit);
        assert_eq!(rig.read(PMC_INTR), HUB);
        rig.write(FAULT_STATUS, 1 << bit);
        assert_eq!((rig.read(FAULT_STATUS), rig.read(NISO)), (0, 0));
        assert_eq!(rig.read(PMC_INTR), 0);
        rig.pri.reset();
    }
}
