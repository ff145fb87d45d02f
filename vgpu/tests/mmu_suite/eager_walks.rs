// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where the device was told so, it walks to where requests wait, and keeps what is valid then.

use std::time::Duration;

use mirage_vgpu::config::Config;
use mirage_vgpu::mmu::{Access, Stalled};

use crate::memory::vid;
use crate::packets::{enable, wait_for_packets, REPLAY};
use crate::rig::*;
use crate::tables::*;

const VA: u64 = 0x7f12_3456_7000;

fn eager() -> Rig {
    let rig = Rig::with(&Config {
        eager_walks: Some(Duration::from_micros(10)),
        ..Config::default()
    });
    enable(&rig, REPLAY, 16);
    rig
}

/// Waits for a walk that has begun after this was called.
fn wait_for_walk(rig: &Rig) {
    let before = rig.counter("eager_walks");
    eventually("a walk", || rig.counter("eager_walks") > before + 1);
}

#[test]
fn half_of_a_pde0_is_kept_until_an_invalidate_of_its_level() {
    let rig = eager();
    let tables = Tables::new(&rig.memory, 0x10_0000);
    let space = rig.space(0, tables.root);
    tables.entry(VA, Level::Pde0);
    let sm = rig.stall(0, space, &[pte_fault(VA, Access::Read)]);
    wait_for_packets(&rig, REPLAY, 1);

    tables.entry(VA, Level::Pte);
    wait_for_walk(&rig);
    tables.map_big(VA, pte(vid(KIB64)));
    rig.point_at(tables.root, VA);
    rig.invalidate(cache_level(1) | START_ACK_ALL);
    wait_for_packets(&rig, REPLAY, 2);
    rig.invalidate(cache_level(2) | START_ACK_ALL);
    assert_eq!(sm.join().unwrap(), Stalled::Replay);
}

#[test]
fn nothing_is_walked_to_when_nothing_waits() {
    let rig = eager();
    let tables = Tables::new(&rig.memory, 0x10_0000);
    let space = rig.space(0, tables.root);
    let sm = rig.stall(0, space, &[pte_fault(VA, Access::Read)]);
    wait_for_walk(&rig);
    rig.mmu.abandon(space.inst);
    assert_eq!(sm.join().unwrap(), Stalled::Abandoned);
    let walks = rig.counter("eager_walks");
    std::thread::sleep(Duration::from_millis(5));
    assert_eq!(rig.counter("eager_walks"), walks);
}

#[test]
fn a_request_that_waits_goes_on_by_a_replay_only() {
    let rig = eager();
    let tables = Tables::new(&rig.memory, 0x10_0000);
    let space = rig.space(0, tables.root);
    let sm = rig.stall(0, space, &[pte_fault(VA, Access::Read)]);
    wait_for_walk(&rig);
    tables.map(VA, pte(vid(KIB64)));
    wait_for_walk(&rig);
    assert!(!sm.is_finished());
    // Its translation is in the TLB by now.
    tables.map(VA, 0);
    rig.point_at(tables.root, VA + MIB2);
    rig.invalidate(START_ACK_ALL);
    assert_eq!(sm.join().unwrap(), Stalled::Replay);
}
