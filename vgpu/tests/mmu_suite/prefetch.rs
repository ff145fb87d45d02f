// SPDX-License-Identifier: MIT OR Apache-2.0
//! Prefetches: they stall nobody, and PRF_FILTER decides whether their faults are seen.

use mirage_vgpu::bus::GpuVa;
use mirage_vgpu::mmu::Access;

use crate::memory::vid;
use crate::packets::{drain, enable, pending, NON_REPLAY, REPLAY};
use crate::rig::*;
use crate::tables::*;

const PAGE_FAULT_CTRL: u64 = 0x100cf8;
const SEND_ALL: u32 = 0;
const SEND_NONE: u32 = 3;
const VA: u64 = 0x7f00_0000_5000;

#[test]
fn a_prefetch_fault_is_reported_only_where_the_filter_sends_all() {
    let rig = Rig::new();
    enable(&rig, REPLAY, 16);
    enable(&rig, NON_REPLAY, 16);
    let tables = Tables::new(&rig.memory, 0x10_0000);
    let space = rig.space(0, tables.root);
    let mut sm = rig.sm(2);
    assert_eq!(rig.read(PAGE_FAULT_CTRL), SEND_NONE, "after power-on");
    sm.prefetch(&space, GpuVa(VA));
    assert_eq!(pending(&rig, REPLAY), []);
    assert_eq!(rig.counter("filtered_prefetches"), 1);
    rig.write(PAGE_FAULT_CTRL, SEND_ALL);
    sm.prefetch(&space, GpuVa(VA));
    let packets = pending(&rig, REPLAY);
    assert_eq!(packets.len(), 1);
    assert_eq!((packets[0].access_type(), packets[0].address()), (3, VA));
    assert!(packets[0].replayable() && packets[0].valid());
    assert_eq!((packets[0].dwords[7] >> 24) & 0x1f, 2, "GPC_ID");
    assert_eq!(pending(&rig, NON_REPLAY), []);
}

#[test]
fn a_prefetch_fault_is_not_kept_for_replay() {
    let rig = Rig::new();
    enable(&rig, REPLAY, 16);
    rig.write(PAGE_FAULT_CTRL, SEND_ALL);
    let tables = Tables::new(&rig.memory, 0x10_0000);
    let space = rig.space(0, tables.root);
    rig.sm(0).prefetch(&space, GpuVa(VA));
    drain(&rig, REPLAY);
    rig.invalidate(ALL | START_ACK_ALL);
    assert_eq!(pending(&rig, REPLAY), []);
    rig.invalidate(ALL | CANCEL_GLOBAL);
    assert_eq!(rig.counter("cancelled_requests"), 0);
}

#[test]
fn a_prefetch_of_a_mapped_page_makes_a_tlb_entry() {
    let rig = Rig::new();
    let tables = Tables::new(&rig.memory, 0x10_0000);
    let space = rig.space(0, tables.root);
    tables.map(VA, pte(vid(0x60_0000)) | READ_ONLY);
    let mut sm = rig.sm(0);
    sm.prefetch(&space, GpuVa(VA));
    assert_eq!(rig.counter("faults"), 0);
    let found = translate(&mut sm, &space, VA, Access::Read);
    assert!(found.is_ok());
    assert_eq!(rig.counter("utlb_hits"), 1);
}
