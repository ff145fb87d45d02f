// SPDX-License-Identifier: MIT OR Apache-2.0
//! Fault buffers: packets, pointers, overflow.

use mirage_vgpu::bus::{Aperture, GpuVa, PhysAddr};
use mirage_vgpu::config::Config;
use mirage_vgpu::mmu::{Access, Fault, FaultType, Stalled};

use crate::memory::{vid, Write};
use crate::packets::*;
use crate::rig::*;
use crate::tables::*;

const FAULT_STATUS: u64 = 0x100e60;

#[test]
fn a_replayable_packet_has_the_manuals_fields() {
    let rig = Rig::new();
    enable(&rig, REPLAY, 256);
    let space = rig.space(3, vid(0x10_0000));
    let va = 0x1_7f12_3456_7abc;
    let fault = Fault {
        va: GpuVa(va),
        access: Access::Atomic,
        kind: FaultType::Atomic,
    };
    let _sm = rig.stall(5, space, &[fault]);
    wait_for_packets(&rig, REPLAY, 1);
    let packet = packet(&rig, REPLAY, 0);
    let [inst_lo, inst_hi, addr_lo, addr_hi, _, _, engine, info] = packet.dwords;
    assert_eq!(
        inst_lo, space.inst.addr as u32,
        "INST_APERTURE VID_MEM, INST_LO"
    );
    assert_eq!(inst_hi, 0);
    assert_eq!(addr_lo, va as u32 & !0xfff);
    assert_eq!(addr_hi, (va >> 32) as u32);
    assert_eq!(engine, 64, "GRAPHICS");
    let expected = 0xf | (1 << 7) | (2 << 16) | (5 << 24) | (1 << 30) | (1 << 31);
    assert_eq!(info, expected, "type, RF, access, GPC_ID, RF_EN, VALID");
    rig.mmu.abandon(space.inst);
}

#[test]
fn a_non_replayable_packet_goes_to_buffer_0() {
    let rig = Rig::new();
    enable(&rig, NON_REPLAY, 256);
    let mut space = rig.space(0, vid(0x10_0000));
    space.inst = PhysAddr {
        aperture: Aperture::Sys,
        addr: 0x12_3456_7000,
    };
    report(&rig, &space, 0x5000);
    let packet = packet(&rig, NON_REPLAY, 0);
    assert_eq!(packet.dwords[0], 0x3456_7000 | (2 << 8), "SYS_MEM_COHERENT");
    assert_eq!(packet.dwords[1], 0x12);
    assert_eq!(packet.dwords[6], 32, "HOST0");
    let expected = 2 | (6 << 8) | (1 << 16) | (1 << 20) | (1 << 30) | (1 << 31);
    assert_eq!(
        packet.dwords[7], expected,
        "PTE, HOST, write, hub, RF_EN, VALID"
    );
}

#[test]
fn time_stamps_do_not_run_backwards() {
    let rig = Rig::new();
    enable(&rig, NON_REPLAY, 256);
    let space = rig.space(0, vid(0x10_0000));
    (0..20).for_each(|i| report(&rig, &space, i << 12));
    let stamp = |p: &Packet| (u64::from(p.dwords[5]) << 32) | u64::from(p.dwords[4]);
    let stamps: Vec<u64> = pending(&rig, NON_REPLAY).iter().map(stamp).collect();
    assert!(stamps.is_sorted(), "{stamps:?}");
}

#[test]
fn valid_is_written_last_in_the_last_byte() {
    let rig = Rig::new();
    enable(&rig, NON_REPLAY, 256);
    let space = rig.space(0, vid(0x10_0000));
    rig.memory.take_writes();
    report(&rig, &space, 0x5000);
    let writes = rig.memory.take_writes();
    let (last, body) = writes.split_last().unwrap();
    let end = base(NON_REPLAY).offset(31);
    assert!(matches!(last, Write { at, data } if *at == end && data.len() == 1));
    assert_eq!(last.data[0] >> 7, 1, "VALID");
    let covered: usize = body.iter().map(|write| write.data.len()).sum();
    assert_eq!(covered, 31);
    assert!(body
        .iter()
        .all(|write| write.at.addr + write.data.len() as u64 <= end.addr));
}

#[test]
fn packets_come_in_order_and_wrap_around() {
    let rig = Rig::new();
    enable(&rig, NON_REPLAY, 5);
    let space = rig.space(0, vid(0x10_0000));
    for round in 0..7_u64 {
        let faults = [3 * round, 3 * round + 1, 3 * round + 2].map(|page| page << 12);
        faults.iter().for_each(|va| report(&rig, &space, *va));
        assert_eq!(addresses(&rig, NON_REPLAY), faults);
        assert!(pending(&rig, NON_REPLAY).iter().all(Packet::valid));
        drain(&rig, NON_REPLAY);
    }
}

#[test]
fn a_full_buffer_overflows_and_stays_shut_until_it_is_cleared() {
    let rig = Rig::new();
    enable(&rig, NON_REPLAY, 4);
    let space = rig.space(0, vid(0x10_0000));
    (1..=3).for_each(|page| report(&rig, &space, page << 12));
    assert_eq!(rig.read(put(NON_REPLAY)), 3, "PUT == GET - 1");
    report(&rig, &space, 4 << 12);
    assert_eq!(rig.read(put(NON_REPLAY)), 3 | OVERFLOW);
    assert_eq!(rig.read(get(NON_REPLAY)), OVERFLOW);
    assert_eq!(rig.counter("dropped_packets"), 1);

    rig.write(get(NON_REPLAY), 3);
    report(&rig, &space, 5 << 12);
    assert_eq!(
        rig.read(put(NON_REPLAY)),
        3 | OVERFLOW,
        "GET moved, not cleared"
    );

    rig.write(get(NON_REPLAY), 3 | OVERFLOW);
    assert_eq!(rig.read(get(NON_REPLAY)), 3);
    report(&rig, &space, 6 << 12);
    assert_eq!(addresses(&rig, NON_REPLAY), [6 << 12]);
}

#[test]
fn moving_get_and_clearing_overflow_in_one_write_does_not_clear_it() {
    let rig = Rig::new();
    enable(&rig, NON_REPLAY, 2);
    let space = rig.space(0, vid(0x10_0000));
    (1..=2).for_each(|page| report(&rig, &space, page << 12));
    rig.write(get(NON_REPLAY), 1 | OVERFLOW);
    assert_eq!(rig.read(get(NON_REPLAY)), 1 | OVERFLOW);
    rig.write(get(NON_REPLAY), 1 | OVERFLOW);
    assert_eq!(rig.read(get(NON_REPLAY)), 1);
}

#[test]
fn a_get_outside_the_buffer_is_corrupted() {
    let rig = Rig::new();
    enable(&rig, REPLAY, 16);
    rig.write(get(REPLAY), 16);
    assert_eq!(rig.read(get(REPLAY)), CORRUPTED);
    assert_eq!(rig.read(put(REPLAY)), CORRUPTED);
    assert_eq!(rig.read(FAULT_STATUS), 1 << 14);
    let space = rig.space(0, vid(0x10_0000));
    let _sm = rig.stall(0, space, &[pte_fault(0x1000, Access::Read)]);
    eventually("a packet is dropped", || {
        rig.counter("dropped_packets") == 1
    });
    rig.write(get(REPLAY), 3 | CORRUPTED);
    assert_eq!(rig.read(get(REPLAY)), 3);
    assert_eq!(rig.read(FAULT_STATUS) & (1 << 14), 0);
    rig.mmu.abandon(space.inst);
}

#[test]
fn set_default_gives_the_devices_number_of_entries() {
    for (asked, given) in [(1024, 1024), (1, 2), (1 << 20, 65536)] {
        let config = Config {
            fault_buffer_entries: asked,
            ..Config::default()
        };
        let rig = Rig::with(&config);
        rig.write(size(REPLAY), SET_DEFAULT);
        assert_eq!(rig.read(size(REPLAY)), given);
    }
}

#[test]
fn enable_is_refused_where_the_buffer_cannot_work() {
    let cases = [
        (SYS_COH, 16, "ADDR_MODE virtual"),
        (PHYSICAL | (1 << 1), 16, "no such aperture"),
        (PHYSICAL | SYS_COH, 0, "no entries"),
    ];
    for (low, entries, why) in cases {
        let rig = Rig::new();
        rig.write(lo(REPLAY), low);
        rig.write(size(REPLAY), entries);
        rig.write(size(REPLAY), entries | ENABLE);
        assert_eq!(rig.read(size(REPLAY)), entries, "{why}");
    }
}

#[test]
fn the_address_is_latched_while_the_buffer_is_enabled() {
    let rig = Rig::new();
    enable(&rig, REPLAY, 16);
    let before = rig.read(lo(REPLAY));
    rig.write(lo(REPLAY), 0x9000 | PHYSICAL);
    assert_eq!(rig.read(lo(REPLAY)), before);
    rig.write(size(REPLAY), 0);
    rig.write(lo(REPLAY), 0x9000 | PHYSICAL);
    assert_eq!(rig.read(lo(REPLAY)), 0x9000 | PHYSICAL);
}

#[test]
fn a_buffer_outside_memory_harms_nobody() {
    let rig = Rig::new();
    rig.write(lo(NON_REPLAY), 0xffff_f000 | PHYSICAL);
    rig.write(lo(NON_REPLAY) + 4, 0x7fff_ffff);
    rig.write(size(NON_REPLAY), 0xf_ffff | ENABLE);
    rig.write(size(NON_REPLAY), 0xf_ffff | ENABLE);
    let space = rig.space(0, vid(0x10_0000));
    (0..300).for_each(|page| report(&rig, &space, page << 12));
    assert_eq!(rig.counter("bus_errors"), 300);
    assert_eq!(rig.read(FAULT_STATUS) & (1 << 11), 1 << 11, "error");
    rig.write(FAULT_STATUS, 1 << 11);
    assert_eq!(rig.read(FAULT_STATUS) & (1 << 11), 0);
}

#[test]
fn a_full_replayable_buffer_loses_nothing() {
    let rig = Rig::new();
    enable(&rig, REPLAY, 3);
    let tables = Tables::new(&rig.memory, 0x10_0000);
    // The tables above them are there, so that each page is a fault of its own.
    (1..=4).for_each(|page| tables.map(page << 12, 0));
    let space = rig.space(0, tables.root);
    let faults = [1, 2, 3, 4].map(|page| pte_fault(page << 12, Access::Read));
    let sm = rig.stall(0, space, &faults);
    eventually("all have asked", || rig.counter("dropped_packets") == 2);
    assert_eq!(rig.read(put(REPLAY)) & OVERFLOW, OVERFLOW);
    assert_eq!(rig.read(FAULT_STATUS) & (0xf << 12), 1 << 12);
    let mut served = Vec::new();
    // Each replay reports all that still waits.
    for _ in 0..4 {
        let seen = addresses(&rig, REPLAY);
        for va in &seen {
            tables.map(*va, pte(vid(0x60_0000)));
        }
        served.extend(seen);
        drain(&rig, REPLAY);
        rig.write(get(REPLAY), (rig.read(get(REPLAY)) & 0xf_ffff) | OVERFLOW);
        rig.invalidate(ALL | START_ACK_ALL);
    }
    eventually("the end of the stall", || sm.is_finished());
    assert_eq!(sm.join().unwrap(), Stalled::Replay);
    assert_eq!(served, [0x1000, 0x2000, 0x3000, 0x4000]);
}

#[test]
fn overflow_and_a_bad_get_are_shown_for_each_buffer_by_itself() {
    for (buffer, overflow_bit, corrupted_bit) in [(NON_REPLAY, 13, 15), (REPLAY, 12, 14)] {
        let rig = Rig::new();
        let other = 1 - buffer;
        (0..2).for_each(|buffer| enable(&rig, buffer, 2));
        let space = rig.space(0, vid(0x10_0000));
        if buffer == REPLAY {
            let _sm = rig.stall(0, space, &[1, 2].map(|p| pte_fault(p << 12, Access::Read)));
            eventually("the overflow", || rig.read(put(buffer)) & OVERFLOW != 0);
        } else {
            (1..=2).for_each(|page| report(&rig, &space, page << 12));
        }
        assert_eq!(rig.read(put(buffer)), 1 | OVERFLOW);
        assert_eq!(rig.read(put(other)), 0);
        assert_eq!(rig.read(FAULT_STATUS) & (0xf << 12), 1 << overflow_bit);
        rig.write(get(buffer), 1);
        rig.write(get(buffer), 1 | OVERFLOW);
        rig.write(get(buffer), 2);
        assert_eq!(rig.read(get(buffer)), 1 | CORRUPTED, "not taken");
        assert_eq!(rig.read(FAULT_STATUS) & (0xf << 12), 1 << corrupted_bit);
        rig.write(get(buffer), CORRUPTED);
        assert_eq!(rig.read(FAULT_STATUS) & (0xf << 12), 0);
        rig.mmu.abandon(space.inst);
    }
}

#[test]
fn faults_that_cannot_be_replayed_end_the_stall_at_once() {
    let rig = Rig::new();
    enable(&rig, NON_REPLAY, 16);
    enable(&rig, REPLAY, 16);
    let fault = pte_fault(0x1000, Access::Read);
    let replay_disabled = rig.space_with(0, vid(0x10_0000), (1 << 10) | (1 << 11));
    let unbound = rig.space_with(1, vid(0x10_0000), 0);
    for space in [replay_disabled, unbound] {
        let stalled = rig.stall(0, space, &[fault]).join().unwrap();
        assert_eq!(stalled, Stalled::Cancelled(fault));
    }
    let packets = pending(&rig, NON_REPLAY);
    assert_eq!(packets.len(), 2);
    assert!(
        packets
            .iter()
            .all(|packet| (packet.dwords[7] >> 30) & 1 == 0),
        "RF_EN"
    );
    assert_eq!(pending(&rig, REPLAY), []);
}

#[test]
fn one_packet_for_each_page_and_access() {
    let rig = Rig::new();
    enable(&rig, REPLAY, 16);
    let space = rig.space(0, vid(0x10_0000));
    let faults = [
        pte_fault(0x1008, Access::Read),
        pte_fault(0x1010, Access::Read),
        pte_fault(0x1018, Access::Write),
        pte_fault(0x2000, Access::Read),
    ];
    let _sm = rig.stall(0, space, &faults);
    wait_for_packets(&rig, REPLAY, 3);
    let packets = pending(&rig, REPLAY);
    let seen: Vec<_> = packets
        .iter()
        .map(|p| (p.address(), p.access_type()))
        .collect();
    assert_eq!(seen, [(0x1000, 0), (0x1000, 1), (0x2000, 0)]);
    assert!(packets
        .iter()
        .all(|packet| packet.replayable() && packet.fault_type() == 2));
    rig.mmu.abandon(space.inst);
}
