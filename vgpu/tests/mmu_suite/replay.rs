// SPDX-License-Identifier: MIT OR Apache-2.0
//! Replay: stalled units wait until their requests translate.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use mirage_vgpu::mmu::{Access, Stalled};

use crate::memory::vid;
use crate::packets::{
    addresses, drain, enable, get, pending, put, wait_for_packets, OVERFLOW, REPLAY,
};
use crate::rig::*;
use crate::tables::*;

const PAGE: u64 = 0x60_0000;

/// A device with a replayable buffer of 16 entries and tables that map nothing.
macro_rules! stage {
    ($rig:ident, $tables:ident, $space:ident) => {
        let $rig = Rig::new();
        enable(&$rig, REPLAY, 16);
        let $tables = Tables::new(&$rig.memory, 0x10_0000);
        let $space = $rig.space(0, $tables.root);
    };
}

#[test]
fn a_stalled_unit_goes_on_when_its_page_is_mapped_and_replayed() {
    stage!(rig, tables, space);
    let sm = rig.stall(0, space, &[pte_fault(0x1000, Access::Write)]);
    wait_for_packets(&rig, REPLAY, 1);
    tables.map(0x1000, pte(vid(PAGE)));
    rig.invalidate(ALL | START);
    assert_eq!(sm.join().unwrap(), Stalled::Replay);
    assert_eq!(rig.counter("replays"), 1);
}

#[test]
fn an_invalidate_without_replay_wakes_nobody() {
    stage!(rig, tables, space);
    let sm = rig.stall(0, space, &[pte_fault(0x1000, Access::Write)]);
    wait_for_packets(&rig, REPLAY, 1);
    tables.map(0x1000, pte(vid(PAGE)));
    rig.invalidate(ALL | ACK_GLOBALLY | SYS_MEMBAR);
    tables.map(0x1000, 0);
    rig.invalidate(ALL | START_ACK_ALL);
    assert_eq!(
        addresses(&rig, REPLAY),
        [0x1000, 0x1000],
        "it was still waiting"
    );
    rig.mmu.abandon(space.inst);
    assert_eq!(sm.join().unwrap(), Stalled::Abandoned);
}

#[test]
fn a_request_that_faults_again_is_reported_again() {
    stage!(rig, tables, space);
    let faults = [0x1000, 0x2000].map(|va| pte_fault(va, Access::Read));
    let sm = rig.stall(0, space, &faults);
    wait_for_packets(&rig, REPLAY, 2);
    drain(&rig, REPLAY);
    tables.map(0x1000, pte(vid(PAGE)));
    rig.invalidate(ALL | START_ACK_ALL);
    assert_eq!(
        addresses(&rig, REPLAY),
        [0x2000],
        "0x1000 has its translation"
    );
    drain(&rig, REPLAY);
    tables.map(0x2000, pte(vid(PAGE)));
    rig.invalidate(ALL | START_ACK_ALL);
    assert_eq!(sm.join().unwrap(), Stalled::Replay);
    assert_eq!(pending(&rig, REPLAY), []);
}

#[test]
fn the_invalidation_of_a_trigger_comes_before_its_replay() {
    stage!(rig, tables, space);
    tables.map(0x1000, pte(vid(PAGE)) | READ_ONLY);
    let mut other = rig.sm(1);
    reaches(&mut other, &space, 0x1000).unwrap();
    let sm = rig.stall(0, space, &[pte_fault(0x1000, Access::Write)]);
    wait_for_packets(&rig, REPLAY, 1);
    tables.map(0x1000, pte(vid(PAGE)));
    rig.point_at(tables.root, 0x2000);
    rig.invalidate(START_ACK_ALL);
    assert_eq!(
        pending(&rig, REPLAY).len(),
        2,
        "the read-only entry is still cached"
    );
    rig.point_at(tables.root, 0x1000);
    rig.invalidate(START_ACK_ALL);
    assert_eq!(sm.join().unwrap(), Stalled::Replay);
}

#[test]
fn start_is_finished_while_the_replay_is_under_way() {
    stage!(rig, tables, space);
    let sm = rig.stall(0, space, &[pte_fault(0x1000, Access::Read)]);
    wait_for_packets(&rig, REPLAY, 1);
    tables.map(0x1000, pte(vid(PAGE)));
    rig.memory.close_gate(tables.entry(0x1000, Level::Pte));
    rig.trigger(ALL | START);
    rig.memory.wait_for_reader();
    assert!(rig.fifo_empty());
    rig.memory.open_gate();
    assert_eq!(sm.join().unwrap(), Stalled::Replay);
}

#[test]
fn start_ack_all_is_finished_after_the_replay() {
    stage!(rig, tables, space);
    let _sm = rig.stall(0, space, &[pte_fault(0x1000, Access::Read)]);
    wait_for_packets(&rig, REPLAY, 1);
    tables.entry(0x1000, Level::Pte);
    rig.memory.close_gate(tables.entry(0x1000, Level::Pte));
    rig.trigger(ALL | START_ACK_ALL);
    rig.memory.wait_for_reader();
    assert!(!rig.fifo_empty());
    rig.memory.open_gate();
    rig.wait_for_fifo();
    assert_eq!(
        pending(&rig, REPLAY).len(),
        2,
        "the second packet was there before the ack"
    );
    rig.mmu.abandon(space.inst);
}

#[test]
fn requests_that_overflowed_are_reported_at_the_next_replay() {
    let rig = Rig::new();
    enable(&rig, REPLAY, 4);
    let tables = Tables::new(&rig.memory, 0x10_0000);
    let space = rig.space(0, tables.root);
    let pages: Vec<u64> = (1..=5).map(|page| page << 12).collect();
    let faults: Vec<_> = pages
        .iter()
        .map(|va| pte_fault(*va, Access::Read))
        .collect();
    let sm = rig.stall(0, space, &faults);
    eventually("all have asked", || rig.counter("dropped_packets") == 2);
    assert_eq!(rig.read(put(REPLAY)), 3 | OVERFLOW);
    assert_eq!(addresses(&rig, REPLAY), pages[..3]);
    drain(&rig, REPLAY);
    rig.write(get(REPLAY), 3 | OVERFLOW);
    for va in &pages[..3] {
        tables.map(*va, pte(vid(PAGE)));
    }
    rig.invalidate(ALL | START_ACK_ALL);
    assert_eq!(addresses(&rig, REPLAY), pages[3..]);
    for va in &pages[3..] {
        tables.map(*va, pte(vid(PAGE)));
    }
    rig.invalidate(ALL | START);
    assert_eq!(sm.join().unwrap(), Stalled::Replay);
}

#[test]
fn requests_of_a_disabled_buffer_wait_all_the_same() {
    let rig = Rig::new();
    let tables = Tables::new(&rig.memory, 0x10_0000);
    let space = rig.space(0, tables.root);
    let sm = rig.stall(0, space, &[pte_fault(0x1000, Access::Read)]);
    eventually("the packet is dropped", || {
        rig.counter("dropped_packets") == 1
    });
    tables.map(0x1000, pte(vid(PAGE)));
    rig.invalidate(ALL | START);
    assert_eq!(sm.join().unwrap(), Stalled::Replay);
}

#[test]
fn a_killed_channel_is_abandoned_and_no_other() {
    stage!(rig, tables, space);
    let other = rig.space(1, tables.root);
    let killed = rig.stall(0, space, &[pte_fault(0x1000, Access::Read)]);
    let living = rig.stall(1, other, &[pte_fault(0x2000, Access::Read)]);
    wait_for_packets(&rig, REPLAY, 2);
    rig.mmu.abandon(space.inst);
    assert_eq!(killed.join().unwrap(), Stalled::Abandoned);
    tables.map(0x2000, pte(vid(PAGE)));
    rig.invalidate(ALL | START);
    assert_eq!(living.join().unwrap(), Stalled::Replay);
}

#[test]
fn a_unit_of_a_killed_channel_does_not_begin_to_stall() {
    stage!(rig, _tables, space);
    let killed = AtomicBool::new(true);
    let faults = [pte_fault(0x1000, Access::Read)];
    assert_eq!(
        rig.sm(0).stall(&space, &faults, &killed),
        Stalled::Abandoned
    );
    assert_eq!(pending(&rig, REPLAY), []);
}

#[test]
fn a_kill_at_any_moment_ends_the_stall() {
    stage!(rig, _tables, space);
    for _ in 0..200 {
        let killed = AtomicBool::new(false);
        let mut sm = rig.sm(0);
        let faults = [pte_fault(0x1000, Access::Read)];
        thread::scope(|scope| {
            let stalled = scope.spawn(|| sm.stall(&space, &faults, &killed));
            killed.store(true, Ordering::Release);
            rig.mmu.abandon(space.inst);
            assert_eq!(stalled.join().unwrap(), Stalled::Abandoned);
        });
    }
}

#[test]
fn a_reset_abandons_all_stalls_and_disables_the_buffers() {
    stage!(rig, _tables, space);
    let sm = rig.stall(0, space, &[pte_fault(0x1000, Access::Read)]);
    wait_for_packets(&rig, REPLAY, 1);
    rig.pri.reset();
    assert_eq!(sm.join().unwrap(), Stalled::Abandoned);
    assert_eq!(rig.read(crate::packets::size(REPLAY)), 0);
    assert_eq!(rig.read(put(REPLAY)), 0);
    assert!(rig.fifo_empty());
}

#[test]
fn a_device_that_goes_away_abandons_all_stalls() {
    let Rig { mmu, memory, .. } = Rig::new();
    let space = mirage_vgpu::mmu::AddressSpace {
        inst: vid(0x1000),
        binding: mirage_vgpu::mmu::Binding::Bound {
            pdb: vid(0x10_0000),
            replay: mirage_vgpu::mmu::Replay::Enabled,
        },
        privilege: mirage_vgpu::mmu::Privilege::User,
    };
    let mut sm = mmu.register_unit(
        mirage_vgpu::mmu::Client {
            kind: mirage_vgpu::mmu::ClientKind::Gpc { gpc: 0, client: 0 },
            engine_id: 64,
        },
        0,
    );
    drop(mmu);
    let faults = [pte_fault(0x1000, Access::Read)];
    let stalled = sm.stall(&space, &faults, &AtomicBool::new(false));
    assert_eq!(stalled, Stalled::Abandoned);
    drop(memory);
}
