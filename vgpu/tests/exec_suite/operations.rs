// SPDX-License-Identifier: MIT OR Apache-2.0
//! What each operation of the compute class does, on mapped memory.

use mirage_vgpu::bus::{Bus, PhysAddr, VramOffset};

use crate::rig::*;

const NODES: u64 = DATA + (1 << 30);

/// Page of operands, page of results.
fn pages(rig: &Rig) -> [PhysAddr; 2] {
    [rig.map(DATA, PAGE), rig.map(DATA + PAGE, PAGE)]
}

#[test]
fn store_writes_value_plus_lane_at_each_stride() {
    let rig = Rig::new();
    let [a, _] = pages(&rig);
    for size in 0..4 {
        let launch = Launch {
            op: STORE,
            size,
            flags: ADD_LANE,
            a: DATA,
            value: 0xf0,
            stride_a: 16,
            lanes: 40,
            ..Default::default()
        };
        rig.channel(size).run(&launch.words());
        for lane in 0..40 {
            let expected = (0xf0 + lane) & (u64::MAX >> (64 - (8 << size)));
            assert_eq!(
                rig.u64_at(a.offset(16 * lane)),
                expected,
                "size {size}, lane {lane}"
            );
            rig.put_u64(a.offset(16 * lane), 0);
        }
    }
}

#[test]
fn load_writes_the_element_to_its_result() {
    let rig = Rig::new();
    let [a, r] = pages(&rig);
    for lane in 0..100 {
        rig.put_u64(a.offset(8 * lane), 0x1111_0000_0000 + lane);
    }
    let launch = Launch {
        op: LOAD,
        size: 3,
        flags: RESULT,
        a: DATA,
        r: DATA + PAGE,
        stride_a: 8,
        stride_r: 16,
        lanes: 100,
        ..Default::default()
    };
    rig.channel(0).run(&launch.words());
    for lane in 0..100 {
        assert_eq!(rig.u64_at(r.offset(16 * lane)), 0x1111_0000_0000 + lane);
    }
}

#[test]
fn fill_repeats_the_element_and_touches_nothing_else() {
    let rig = Rig::new();
    let a = rig.map(DATA, 64 * PAGE);
    let length = 50 * PAGE as u32 + 3;
    let launch = Launch {
        op: FILL,
        size: 2,
        a: DATA + 101,
        value: 0x4433_2211,
        length,
        lanes: 1,
        ..Default::default()
    };
    rig.channel(0).run(&launch.words());
    let bytes = rig.bytes(a, 64 * PAGE as usize);
    let end = 101 + length as usize;
    assert_eq!(bytes[..101], [0; 101]);
    assert!(bytes[101..end]
        .iter()
        .zip([0x11, 0x22, 0x33, 0x44].into_iter().cycle())
        .all(|(byte, expected)| *byte == expected));
    assert!(bytes[end..].iter().all(|byte| *byte == 0));
}

#[test]
fn copy_moves_each_lanes_bytes() {
    let rig = Rig::new();
    let to = rig.map(DATA, 16 * PAGE);
    let from = rig.map(DATA + (1 << 30), 16 * PAGE);
    let data: Vec<u8> = (0..16 * PAGE as usize)
        .map(|i| (i * 7 % 251) as u8)
        .collect();
    rig.memory.write(from, &data).unwrap();
    let launch = Launch {
        op: COPY,
        a: DATA,
        b: DATA + (1 << 30),
        stride_a: 5000,
        stride_b: 5000,
        length: 4999,
        lanes: 13,
        ..Default::default()
    };
    rig.channel(0).run(&launch.words());
    let copied = rig.bytes(to, 13 * 5000);
    for lane in 0..13 {
        let (start, end) = (lane * 5000, lane * 5000 + 4999);
        assert_eq!(copied[start..end], data[start..end], "lane {lane}");
        assert_eq!(copied[end], 0, "the byte after lane {lane}");
    }
}

#[test]
fn compare_tells_the_first_difference_or_all_ones() {
    let rig = Rig::new();
    let a = rig.map(DATA, 40 * PAGE);
    rig.map(DATA + (1 << 30), 40 * PAGE);
    let r = rig.map(DATA + (2 << 30), PAGE);
    rig.memory
        .write(a.offset(20 * PAGE + 17_001), &[1])
        .unwrap();
    rig.memory
        .write(a.offset(20 * PAGE + 17_003), &[1])
        .unwrap();
    let launch = Launch {
        op: COMPARE,
        flags: RESULT,
        a: DATA,
        b: DATA + (1 << 30),
        r: DATA + (2 << 30),
        stride_a: 20 * PAGE as u32,
        stride_b: 20 * PAGE as u32,
        stride_r: 8,
        length: 20 * PAGE as u32,
        lanes: 2,
        ..Default::default()
    };
    rig.channel(0).run(&launch.words());
    assert_eq!(rig.u64_at(r), u64::MAX);
    assert_eq!(rig.u64_at(r.offset(8)), 17_001);
}

#[test]
fn atomics_of_all_lanes_on_one_word_lose_nothing_and_return_each_old_value_once() {
    let rig = Rig::new();
    let a = rig.map(DATA, PAGE);
    let lanes = 5000;
    let r = rig.map(DATA + PAGE, 10 * PAGE);
    let launch = Launch {
        op: ATOMIC_ADD,
        size: 3,
        flags: RESULT,
        a: DATA,
        r: DATA + PAGE,
        value: 1,
        stride_r: 8,
        lanes,
        ..Default::default()
    };
    rig.channel(0).run(&launch.words());
    assert_eq!(rig.u64_at(a), u64::from(lanes));
    let mut old: Vec<u64> = (0..u64::from(lanes))
        .map(|lane| rig.u64_at(r.offset(8 * lane)))
        .collect();
    old.sort_unstable();
    assert!(old.into_iter().eq(0..u64::from(lanes)));
}

#[test]
fn exchange_and_compare_exchange_return_the_old_element() {
    let rig = Rig::new();
    let [a, r] = pages(&rig);
    let channel = rig.channel(0);
    rig.put_u64(a, 7);
    let exchange = Launch {
        op: ATOMIC_EXCH,
        size: 3,
        flags: RESULT,
        a: DATA,
        r: DATA + PAGE,
        value: 9,
        lanes: 1,
        ..Default::default()
    };
    channel.run(&exchange.words());
    assert_eq!((rig.u64_at(a), rig.u64_at(r)), (9, 7));
    for (compare, left) in [(8, 9), (9, 5)] {
        let cas = Launch {
            op: ATOMIC_CAS,
            value: 5,
            compare,
            ..exchange.clone()
        };
        channel.run(&cas.words());
        assert_eq!((rig.u64_at(a), rig.u64_at(r)), (left, 9));
    }
}

#[test]
fn a_32_bit_atomic_leaves_its_neighbour_alone() {
    let rig = Rig::new();
    let [a, _] = pages(&rig);
    rig.put_u64(a, u64::MAX);
    let launch = Launch {
        op: ATOMIC_ADD,
        size: 2,
        a: DATA,
        value: 1,
        lanes: 1,
        ..Default::default()
    };
    rig.channel(0).run(&launch.words());
    assert_eq!(rig.u64_at(a), 0xffff_ffff_0000_0000);
}

/// A list of nodes of 32 bytes (value at 8, next at 16), its head at DATA. Returns head page and nodes.
fn list(rig: &Rig, nodes: u64) -> [PhysAddr; 2] {
    let heads = rig.map(DATA, PAGE);
    let at = rig.map(NODES, (nodes * 32).next_multiple_of(PAGE));
    for i in 0..nodes {
        let next = if i + 1 < nodes {
            NODES + 32 * (i + 1)
        } else {
            0
        };
        rig.put_u64(at.offset(32 * i + 8), i);
        rig.put_u64(at.offset(32 * i + 16), next);
    }
    rig.put_u64(heads, NODES);
    [heads, at]
}

/// Results go behind the head.
fn chase(steps: u32) -> Launch {
    Launch {
        op: CHASE,
        flags: RESULT,
        a: DATA,
        r: DATA + 64,
        value: 1000,
        lanes: 1,
        steps,
        next_offset: 16,
        value_offset: 8,
        ..Default::default()
    }
}

fn results(rig: &Rig, heads: PhysAddr) -> [u64; 3] {
    [64, 72, 80].map(|offset| rig.u64_at(heads.offset(offset)))
}

#[test]
fn chase_updates_every_node_and_reports_count_sum_and_last_pointer() {
    let rig = Rig::new();
    let [heads, nodes] = list(&rig, 500);
    rig.channel(0).run(&chase(0).words());
    assert!((0..500).all(|i| rig.u64_at(nodes.offset(32 * i + 8)) == i + 1000));
    assert_eq!(results(&rig, heads), [500, 499 * 500 / 2, 0]);
}

#[test]
fn chase_stops_after_steps_and_names_the_next_node() {
    let rig = Rig::new();
    let [heads, nodes] = list(&rig, 500);
    rig.channel(0).run(&chase(100).words());
    assert_eq!(rig.u64_at(nodes.offset(32 * 99 + 8)), 1099);
    assert_eq!(rig.u64_at(nodes.offset(32 * 100 + 8)), 100);
    assert_eq!(results(&rig, heads), [100, 99 * 100 / 2, NODES + 3200]);
}

#[test]
fn chase_of_a_null_head_visits_nothing() {
    let rig = Rig::new();
    let head = rig.map(DATA, PAGE);
    rig.put_u64(head.offset(64), u64::MAX);
    rig.channel(0).run(&chase(0).words());
    assert_eq!(results(&rig, head), [0, 0, 0]);
}

#[test]
fn launches_of_one_channel_run_in_order() {
    let rig = Rig::new();
    let [a, _] = pages(&rig);
    let mut words = Vec::new();
    for value in 1..=50 {
        words.extend(
            Launch {
                op: STORE,
                size: 3,
                a: DATA,
                value,
                lanes: 64,
                ..Default::default()
            }
            .words(),
        );
    }
    rig.channel(0).run(&words);
    assert_eq!(rig.u64_at(a), 50);
}

#[test]
fn an_access_to_memory_that_is_not_there_reads_ones_and_writes_nothing() {
    let rig = Rig::new();
    let [_, r] = pages(&rig);
    rig.map_page(DATA + (1 << 30), VramOffset(1 << 35).into());
    let load = Launch {
        op: LOAD,
        size: 3,
        flags: RESULT,
        a: DATA + (1 << 30),
        r: DATA + PAGE,
        lanes: 1,
        ..Default::default()
    };
    let channel = rig.channel(0);
    channel.run(&load.words());
    assert_eq!(rig.u64_at(r), u64::MAX);
    channel.run(
        &Launch {
            op: FILL,
            length: 100,
            ..load.clone()
        }
        .words(),
    );
    assert!(rig.gpu.counters()["bus_errors"] >= 1);
}
