// SPDX-License-Identifier: MIT OR Apache-2.0
//! Replayable faults: stall, replay, and every access exactly once.

use std::collections::{BTreeMap, BTreeSet};

use mirage_vgpu::bus::{Bus, PhysAddr};
use mirage_vgpu::config::{Config, LateWrites};

use crate::rig::*;

const R: u64 = DATA + (1 << 30);
const B: u64 = DATA + (2 << 30);
const PAGES: u64 = 40;
/// ACK GLOBALLY and SYS_MEMBAR of an invalidate.
const ACKED: u32 = (1 << 7) | (1 << 6);

/// Pages that exist but are mapped only when they fault.
struct Lazy<'a> {
    rig: &'a Rig,
    pages: BTreeMap<u64, PhysAddr>,
    mapped: BTreeSet<u64>,
    random: fastrand::Rng,
}

impl<'a> Lazy<'a> {
    fn new(rig: &'a Rig, seed: u64) -> Self {
        let mut pages = BTreeMap::new();
        for base in [DATA, R, B] {
            let at = rig.alloc(PAGES * PAGE);
            pages.extend((0..PAGES).map(|i| (base + i * PAGE, at.offset(i * PAGE))));
        }
        let lazy = Self {
            rig,
            pages,
            mapped: BTreeSet::new(),
            random: fastrand::Rng::with_seed(seed),
        };
        lazy.fill_with_list();
        lazy
    }

    /// Every 64 bytes of the first region a node (value at 8, next at 16, a head at 0), the next one far away.
    fn fill_with_list(&self) {
        let nodes = PAGES * PAGE / 64;
        for i in 0..nodes {
            let next = DATA + 64 * ((i * 37 + 64) % nodes);
            for (offset, value) in [(0, DATA + 64 * i), (8, i), (16, next)] {
                self.rig.put_u64(self.at(DATA + 64 * i + offset), value);
            }
            self.rig.put_u64(self.at(B + 64 * i + 24), i * 0x0101_0101);
        }
    }

    fn at(&self, va: u64) -> PhysAddr {
        self.pages[&(va & !(PAGE - 1))].offset(va & (PAGE - 1))
    }

    fn map_all(&self) {
        for (va, page) in &self.pages {
            self.rig.map_page(*va, *page);
        }
    }

    /// Serves faults until the fence is passed; each time a page that was mapped goes away again.
    fn serve(&mut self, channel: &Channel<'_>, serial: u32) {
        self.rig.until("the launch to end", || {
            let packets = self.rig.faults(1);
            if packets.is_empty() {
                return channel.is_past(serial);
            }
            self.evict_one();
            for packet in packets {
                self.rig.map_page(packet.va, self.pages[&packet.va]);
                self.mapped.insert(packet.va);
            }
            self.rig.invalidate(START | ACKED);
            false
        });
    }

    fn evict_one(&mut self) {
        if self.mapped.is_empty() {
            return;
        }
        let choice = self.random.usize(..self.mapped.len());
        if let Some(va) = self.mapped.iter().nth(choice).copied() {
            self.mapped.remove(&va);
            self.rig.clear(va);
            self.rig.invalidate(ACKED);
        }
    }

    fn contents(&self) -> Vec<Vec<u8>> {
        let pages = self.pages.values();
        pages
            .map(|page| self.rig.bytes(*page, PAGE as usize))
            .collect()
    }
}

fn launches() -> Vec<Launch> {
    let bytes = (PAGES - 1) * PAGE - 100;
    let elements = Launch {
        size: 3,
        flags: RESULT | ADD_LANE,
        a: DATA,
        b: B,
        r: R,
        value: 5,
        compare: 64 * 3,
        stride_a: 64,
        stride_b: 64,
        stride_r: 64,
        lanes: 2000,
        next_offset: 16,
        value_offset: 8,
        steps: 30,
        length: 1,
        ..Default::default()
    };
    let spans = Launch {
        a: DATA + 17,
        b: B + 33,
        stride_a: (bytes / 3) as u32,
        stride_b: (bytes / 3) as u32,
        stride_r: 4096,
        length: (bytes / 3) as u32,
        lanes: 3,
        ..elements.clone()
    };
    let with = |base: &Launch, op| Launch { op, ..base.clone() };
    let mut launches: Vec<Launch> = [STORE, LOAD, ATOMIC_ADD, ATOMIC_EXCH, ATOMIC_CAS]
        .map(|op| with(&elements, op))
        .into();
    launches.extend([FILL, COPY, COMPARE].map(|op| with(&spans, op)));
    // The heads are the nodes' own first words; only sums of one lane do not depend on the order of lanes.
    launches.push(Launch {
        lanes: 1,
        steps: 1000,
        flags: RESULT,
        ..with(&elements, CHASE)
    });
    launches.push(Launch {
        lanes: 500,
        flags: 0,
        ..with(&elements, CHASE)
    });
    launches
}

#[test]
fn faults_and_evictions_in_the_middle_change_no_result() {
    for (seed, launch) in (0..).zip(launches()) {
        let calm = Rig::new();
        let mapped = Lazy::new(&calm, seed);
        mapped.map_all();
        calm.channel(0).run(&launch.words());

        let rig = Rig::new();
        let mut lazy = Lazy::new(&rig, seed);
        let channel = rig.channel(0);
        channel.submit(&launch.words());
        let serial = channel.fence();
        lazy.serve(&channel, serial);
        assert!(rig.gpu.counters()["faults"] > 0);
        let same = lazy.contents() == mapped.contents();
        assert!(same, "seed {seed}, {launch:?}");
    }
}

#[test]
fn late_writes_change_no_result_either() {
    let late = Config {
        late_writes: Some(LateWrites {
            percent: 60,
            depth: 16,
            window: std::time::Duration::from_millis(5),
        }),
        ..Config::default()
    };
    for (seed, launch) in (100..).zip(launches()) {
        let calm = Rig::new();
        let mapped = Lazy::new(&calm, seed);
        mapped.map_all();
        calm.channel(0).run(&launch.words());

        let rig = Rig::with(&late);
        let mut lazy = Lazy::new(&rig, seed);
        let channel = rig.channel(0);
        channel.submit(&launch.words());
        let serial = channel.fence();
        lazy.serve(&channel, serial);
        assert!(
            lazy.contents() == mapped.contents(),
            "seed {seed}, {launch:?}"
        );
    }
}

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
    let rig = Rig::with(&Config {
        late_writes: Some(LateWrites {
            percent: 100,
            depth: 4096,
            window: std::time::Duration::from_secs(100),
        }),
        ..Config::default()
    });
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
