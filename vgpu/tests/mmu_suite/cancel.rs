// SPDX-License-Identifier: MIT OR Apache-2.0
//! Cancels hit the requests that they name and no others.

use mirage_vgpu::mmu::{Access, Fault, Stalled};

use crate::memory::vid;
use crate::packets::{addresses, enable, pending, wait_for_packets, NON_REPLAY, REPLAY};
use crate::rig::*;
use crate::tables::*;

const PAGE: u64 = 0x60_0000;
const BAD: u64 = 0x7fff_dead_b000;

fn rig_with_buffers() -> Rig {
    let rig = Rig::new();
    enable(&rig, NON_REPLAY, 64);
    enable(&rig, REPLAY, 64);
    rig
}

#[test]
fn cancel_global_cancels_what_faults_again_and_replays_the_rest() {
    let rig = rig_with_buffers();
    let tables = Tables::new(&rig.memory, 0x10_0000);
    let space = rig.space(0, tables.root);
    let bad = pte_fault(BAD, Access::Write);
    let doomed = rig.stall(0, space, &[bad]);
    let mended = rig.stall(1, space, &[pte_fault(0x1000, Access::Read)]);
    wait_for_packets(&rig, REPLAY, 2);
    tables.map(0x1000, pte(vid(PAGE)));
    rig.invalidate(ALL | CANCEL_GLOBAL);
    let cancelled = doomed.join().unwrap();
    assert!(
        matches!(cancelled, Stalled::Cancelled(fault) if fault.va == bad.va),
        "{cancelled:?}"
    );
    assert_eq!(mended.join().unwrap(), Stalled::Replay);
    let packets = pending(&rig, NON_REPLAY);
    assert_eq!(packets.len(), 1);
    assert_eq!(packets[0].address(), BAD);
    assert!(!packets[0].replayable(), "REPLAYABLE_FAULT = 0");
    assert_eq!((packets[0].dwords[7] >> 20) & 1, 0, "still a GPC client");
    assert_eq!(rig.counter("cancelled_requests"), 1);
}

#[test]
fn cancel_targeted_cancels_on_one_client() {
    let rig = rig_with_buffers();
    let tables = Tables::new(&rig.memory, 0x10_0000);
    let space = rig.space(0, tables.root);
    let sms: Vec<_> = (0..3)
        .map(|n| rig.stall(n, space, &[pte_fault(BAD, Access::Read)]))
        .collect();
    wait_for_packets(&rig, REPLAY, 3);
    let gpc = |n: u32| n << 15;
    let hub = 1 << 20;
    rig.invalidate(ALL | CANCEL_TARGETED | gpc(1) | hub);
    assert_eq!(pending(&rig, NON_REPLAY), [], "no hub client waits");
    rig.invalidate(ALL | CANCEL_TARGETED | gpc(1));
    let packets = pending(&rig, NON_REPLAY);
    assert_eq!(packets.len(), 1);
    assert_eq!((packets[0].dwords[7] >> 24) & 0x1f, 1, "GPC_ID");
    rig.mmu.abandon(space.inst);
    let ends: Vec<_> = sms.into_iter().map(|sm| sm.join().unwrap()).collect();
    assert!(matches!(
        ends[..],
        [
            Stalled::Abandoned,
            Stalled::Cancelled(_),
            Stalled::Abandoned
        ]
    ));
}

/// Lets SM 0 stall on `fault` in the space of `tables`, sends the cancel and says whether it hit.
fn va_cancel_hits(fault: Fault, access_type: u32, page: u64) -> bool {
    let rig = rig_with_buffers();
    let tables = Tables::new(&rig.memory, 0x10_0000);
    let space = rig.space(0, tables.root);
    let sm = rig.stall(0, space, &[fault]);
    wait_for_packets(&rig, REPLAY, 1);
    rig.point_at(tables.root, page);
    rig.invalidate(CANCEL_VA_GLOBAL | cache_level(access_type));
    rig.mmu.abandon(space.inst);
    match sm.join().unwrap() {
        Stalled::Cancelled(cancelled) => {
            assert_eq!(addresses(&rig, NON_REPLAY), [fault.va.0 & !0xfff]);
            assert_eq!(cancelled, fault);
            true
        }
        other => {
            assert_eq!(other, Stalled::Abandoned);
            assert_eq!(pending(&rig, NON_REPLAY), []);
            false
        }
    }
}

#[test]
fn cancel_va_global_selects_by_access_type() {
    use Access::{Atomic, Read, Write};
    let cases: [(u32, &[Access]); 8] = [
        (0, &[Read]),
        (1, &[Write]),
        (2, &[Atomic]),
        (3, &[]),
        (4, &[]),
        (5, &[Atomic]),
        (6, &[Write, Atomic]),
        (7, &[Read, Write, Atomic]),
    ];
    for (access_type, hit) in cases {
        for access in [Read, Write, Atomic] {
            let hits = va_cancel_hits(pte_fault(BAD + 8, access), access_type, BAD);
            assert_eq!(hits, hit.contains(&access), "{access_type} {access:?}");
        }
    }
}

#[test]
fn cancel_va_global_selects_one_4k_page() {
    let fault = pte_fault(BAD + 0xff8, Access::Read);
    for (page, hit) in [
        (BAD, true),
        (BAD - KIB4, false),
        (BAD + KIB4, false),
        (BAD ^ (1 << 40), false),
    ] {
        assert_eq!(va_cancel_hits(fault, 7, page), hit, "{page:#x}");
    }
}

#[test]
fn cancel_va_global_selects_one_directory_and_replays_the_rest() {
    let rig = rig_with_buffers();
    let here = Tables::new(&rig.memory, 0x10_0000);
    let there = Tables::new(&rig.memory, 0x20_0000);
    let (space, other) = (rig.space(0, here.root), rig.space(1, there.root));
    let fault = pte_fault(BAD, Access::Read);
    let doomed = rig.stall(0, space, &[fault]);
    let same_va = rig.stall(1, other, &[fault]);
    let same_space = rig.stall(2, space, &[pte_fault(0x1000, Access::Read)]);
    wait_for_packets(&rig, REPLAY, 3);
    here.map(0x1000, pte(vid(PAGE)));
    rig.point_at(here.root, BAD);
    rig.invalidate(CANCEL_VA_GLOBAL | cache_level(7));
    assert_eq!(doomed.join().unwrap(), Stalled::Cancelled(fault));
    assert_eq!(same_space.join().unwrap(), Stalled::Replay);
    assert_eq!(
        pending(&rig, REPLAY).len(),
        4,
        "the other space's request faulted again"
    );
    rig.mmu.abandon(other.inst);
    assert_eq!(same_va.join().unwrap(), Stalled::Abandoned);
}

#[test]
fn cancel_va_global_takes_the_access_type_for_no_cache_level() {
    let rig = rig_with_buffers();
    let tables = Tables::new(&rig.memory, 0x10_0000);
    let other = Tables::new(&rig.memory, 0x20_0000);
    let space = rig.space(0, tables.root);
    let mut sm = rig.sm(0);
    tables.map(0x1000, pte(vid(PAGE)));
    other.map(0x1000, pte(vid(PAGE + KIB4)));
    assert_eq!(reaches(&mut sm, &space, 0x1000), Ok(vid(PAGE)));
    rig.memory.set(tables.root, rig.memory.get(other.root));
    rig.point_at(tables.root, 0x1000);
    // As a CACHE_LEVEL this would be PTE_ONLY.
    rig.invalidate(CANCEL_VA_GLOBAL | cache_level(1));
    assert_eq!(reaches(&mut sm, &space, 0x1000), Ok(vid(PAGE + KIB4)));
}
