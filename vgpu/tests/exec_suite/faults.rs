// SPDX-License-Identifier: MIT OR Apache-2.0
//! Replayable faults: stall, replay, and every access exactly once.

use std::collections::BTreeSet;

use mirage_vgpu::bus::Bus;

use crate::rig::*;

const R: u64 = DATA + (1 << 30);

#[test]
fn an_atomic_whose_result_faults_again_and_again_happens_once() {
    let rig = Rig::new();
    let a = rig.map(DATA, PAGE);
    let channel = rig.channel(0);
    let launch = Launch {
        op: ATOMIC_ADD,
        size: 3,
        flags: RESULT,
        a: DATA,
        r: R,
        value: 1,
        lanes: 1,
        ..Default::default()
    };
    channel.submit(&launch.words());
    let serial = channel.fence();
    for _ in 0..5 {
        assert_eq!(rig.wait_faults(1)[0].va, R);
        assert_eq!(rig.u64_at(a), 1);
        rig.invalidate(START);
    }
    rig.wait_faults(1);
    let r = rig.map(R, PAGE);
    rig.put_u64(r, 77);
    rig.invalidate(START);
    channel.wait(serial);
    assert_eq!((rig.u64_at(a), rig.u64_at(r)), (1, 0));
}

#[test]
fn a_node_whose_next_pointer_faults_again_and_again_is_updated_once() {
    let rig = Rig::new();
    // The value is in the first page of the node, the next pointer in its second.
    let node = rig.map(DATA, PAGE);
    rig.put_u64(node, DATA);
    let channel = rig.channel(0);
    let chase = Launch {
        op: CHASE,
        a: DATA,
        value: 1,
        lanes: 1,
        next_offset: PAGE as u32,
        value_offset: 8,
        ..Default::default()
    };
    channel.submit(&chase.words());
    let serial = channel.fence();
    for _ in 0..3 {
        assert_eq!(rig.wait_faults(1)[0].va, DATA + PAGE);
        assert_eq!(rig.u64_at(node.offset(8)), 1);
        rig.invalidate(START);
    }
    rig.wait_faults(1);
    rig.map(DATA + PAGE, PAGE);
    rig.invalidate(START);
    channel.wait(serial);
    assert_eq!(rig.u64_at(node.offset(8)), 1);
}

#[test]
fn a_warp_raises_one_packet_for_each_page() {
    let rig = Rig::new();
    let channel = rig.channel(0);
    let launch = Launch {
        op: STORE,
        size: 3,
        a: DATA,
        stride_a: 512,
        lanes: 32,
        ..Default::default()
    };
    channel.submit(&launch.words());
    let serial = channel.fence();
    let mut pages = Vec::new();
    rig.until("four packets", || {
        pages.extend(rig.faults(1).into_iter().map(|packet| packet.va));
        pages.len() >= 4
    });
    pages.sort_unstable();
    assert_eq!(pages, [0, 1, 2, 3].map(|i| DATA + i * PAGE));
    rig.map(DATA, 4 * PAGE);
    rig.invalidate(START);
    channel.wait(serial);
}

#[test]
fn a_packet_says_what_was_tried() {
    for (op, access) in [(LOAD, 0), (STORE, 1), (ATOMIC_ADD, 2)] {
        let rig = Rig::new();
        let channel = rig.channel(0);
        channel.submit(
            &Launch {
                op,
                size: 3,
                a: DATA,
                lanes: 1,
                ..Default::default()
            }
            .words(),
        );
        let packet = Packet {
            va: DATA,
            kind: 0,
            access,
            hub: false,
            engine: 64,
        };
        assert_eq!(rig.wait_faults(1), [packet]);
        channel.kill();
    }
}

#[test]
fn while_one_sm_is_stalled_the_others_finish_their_warps() {
    let rig = Rig::new();
    let channel = rig.channel(0);
    // Warps 0 to 6 have their page, warp 7 has not.
    let a = rig.map(DATA, 7 * PAGE);
    let launch = Launch {
        op: STORE,
        size: 3,
        a: DATA,
        value: 3,
        stride_a: 128,
        lanes: 256,
        ..Default::default()
    };
    channel.submit(&launch.words());
    assert_eq!(rig.wait_faults(1)[0].va, DATA + 7 * PAGE);
    rig.until("the other warps", || {
        (0..7 * 32).all(|lane| rig.u64_at(a.offset(128 * lane)) == 3)
    });
    channel.kill();
}

#[test]
fn an_address_of_more_than_49_bits_faults_with_va_limit() {
    let rig = Rig::new();
    for (id, a) in [(1, 1 << 49), (2, u64::MAX - 7)] {
        let channel = rig.channel(id);
        channel.submit(
            &Launch {
                op: LOAD,
                size: 3,
                a,
                lanes: 1,
                ..Default::default()
            }
            .words(),
        );
        assert_eq!(rig.wait_faults(1)[0].kind, 3, "{a:#x}");
        channel.kill();
    }
}

#[test]
fn a_store_to_a_page_that_was_taken_away_and_acked_never_lands() {
    let rig = Rig::with(&all_writes_late());
    let channel = rig.channel(0);
    let page = rig.map(DATA, PAGE);
    let launch = Launch {
        op: STORE,
        size: 3,
        a: DATA,
        value: 1,
        stride_a: 8,
        lanes: 500,
        ..Default::default()
    };
    channel.submit(&launch.words());
    rig.until("stores in flight", || {
        rig.gpu.counters()["late_stores"] == 500
    });
    assert_eq!(rig.u64_at(page), 0, "nothing has landed yet");
    rig.clear(DATA);
    rig.invalidate(ACKED);
    assert_eq!(rig.u64_at(page), 1, "the ack has drained it");
    let zeroes = [0; PAGE as usize];
    rig.memory.write(page, &zeroes).unwrap();
    let serial = channel.fence();
    channel.wait(serial);
    assert_eq!(rig.bytes(page, PAGE as usize), zeroes);
}

#[test]
fn a_prefetch_stalls_nobody_and_is_reported_once_where_software_asks_for_it() {
    const PAGE_FAULT_CTRL: u32 = 0x100cf8;
    const SEND_ALL: u32 = 0;
    let rig = Rig::new();
    let channel = rig.channel(0);
    let prefetch = Launch {
        op: PREFETCH,
        a: DATA + 1,
        stride_a: PAGE as u32,
        lanes: 40,
        ..Default::default()
    };
    channel.run(&prefetch.words());
    assert_eq!(rig.faults(1), []);
    rig.write(PAGE_FAULT_CTRL, SEND_ALL);
    rig.map(DATA, PAGE);
    channel.run(&prefetch.words());
    let packets = rig.faults(1);
    let pages: BTreeSet<u64> = packets.iter().map(|packet| packet.va).collect();
    assert!(packets.iter().all(|packet| packet.access == 3));
    assert!(pages.into_iter().eq((1..40).map(|page| DATA + page * PAGE)));
    rig.invalidate(START);
    assert_eq!(rig.faults(1), [], "a prefetch was kept for replay");
}
