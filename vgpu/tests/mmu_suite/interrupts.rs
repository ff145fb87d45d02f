// SPDX-License-Identifier: MIT OR Apache-2.0
//! The interrupt tree: levels, enables, messages.

use mirage_vgpu::mmu::Access;

use crate::memory::vid;
use crate::packets::{drain, enable, get, CORRUPTED, NON_REPLAY, OVERFLOW, REPLAY};
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
const NONREPLAY_NOTIFY: u32 = 1 << 29;
const NONREPLAY_OVERFLOW: u32 = 1 << 30;
const OTHER: u32 = 1 << 31;

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
