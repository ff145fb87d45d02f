// SPDX-License-Identifier: MIT OR Apache-2.0
//! A fault that finds its buffer disabled is kept in registers.

use mirage_vgpu::mmu::Access;

use crate::memory::vid;
use crate::packets::{enable, pending, report, NON_REPLAY, REPLAY};
use crate::rig::*;

const ADDR: u64 = 0x100e4c;
const INST: u64 = 0x100e54;
const INFO: u64 = 0x100e5c;
const STATUS: u64 = 0x100e60;
const NISO: u64 = 0x100a20;
const VALID: u32 = 1 << 31;
const DROPPED_OTHER_VIRT: u32 = 1 << 7;
const OTHER: u32 = 1 << 31;
const VA: u64 = 0x1_7f12_3456_7000;

#[test]
fn the_first_fault_without_a_buffer_is_kept_until_valid_is_cleared() {
    let rig = Rig::new();
    let space = rig.space(4, vid(0x10_0000));
    report(&rig, &space, VA | 0x123);
    assert_eq!(rig.read(STATUS), VALID);
    assert_eq!(rig.read(NISO), OTHER);
    assert_eq!(rig.read(ADDR), VA as u32);
    assert_eq!(rig.read(ADDR + 4), (VA >> 32) as u32);
    assert_eq!(
        rig.read(INST),
        space.inst.addr as u32 | 32,
        "aperture VID in 11:10, engine HOST0"
    );
    assert_eq!(rig.read(INST + 4), 0);
    let info = 2 | (6 << 8) | (1 << 16) | (1 << 20) | (1 << 30) | VALID;
    assert_eq!(rig.read(INFO), info);

    report(&rig, &space, 0x9000);
    assert_eq!(rig.read(STATUS), VALID | DROPPED_OTHER_VIRT);
    assert_eq!(rig.read(ADDR), VA as u32, "the first one stays");
    rig.write(STATUS, VALID | DROPPED_OTHER_VIRT);
    assert_eq!((rig.read(STATUS), rig.read(NISO)), (0, 0));
    report(&rig, &space, 0xa000);
    assert_eq!((rig.read(ADDR), rig.read(ADDR + 4)), (0xa000, 0));
    assert_eq!(rig.counter("snapshots"), 2);
    assert_eq!(rig.counter("dropped_packets"), 3);
}

#[test]
fn a_request_that_waits_for_replay_is_kept_too_and_reported_again() {
    let rig = Rig::new();
    let space = rig.space(0, vid(0x10_0000));
    let sm = rig.stall(0, space, &[pte_fault(VA, Access::Read)]);
    eventually("the snapshot", || rig.read(STATUS) == VALID);
    assert_eq!((rig.read(INFO) >> 7) & 1, 1, "REPLAYABLE_FAULT");
    enable(&rig, REPLAY, 4);
    rig.invalidate(ALL | START_ACK_ALL);
    assert_eq!(pending(&rig, REPLAY).len(), 1);
    rig.mmu.abandon(space.inst);
    let _ = sm.join().unwrap();
}

#[test]
fn an_overflow_makes_no_snapshot() {
    let rig = Rig::new();
    enable(&rig, NON_REPLAY, 2);
    let space = rig.space(0, vid(0x10_0000));
    (0..3).for_each(|page| report(&rig, &space, page << 12));
    assert_eq!(rig.read(STATUS) & VALID, 0);
    assert_eq!(rig.counter("dropped_packets"), 2);
}
