// SPDX-License-Identifier: MIT OR Apache-2.0
//! Launches whose pages come when they fault, and go again, do what they do over memory that stays.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mirage_vgpu::bus::PhysAddr;
use mirage_vgpu::config::{Config, LateWrites};

use crate::rig::*;

const R: u64 = DATA + (1 << 30);
const B: u64 = DATA + (2 << 30);
const PAGES: u64 = 40;

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

/// Runs a launch over memory that comes and goes on a device with `config`, and compares with memory that stays.
fn compare(config: &Config, seed: u64, launch: &Launch) {
    let calm = Rig::new();
    let mapped = Lazy::new(&calm, seed);
    mapped.map_all();
    calm.channel(0).run(&launch.words());

    let rig = Rig::with(config);
    let mut lazy = Lazy::new(&rig, seed);
    let channel = rig.channel(0);
    channel.submit(&launch.words());
    let serial = channel.fence();
    lazy.serve(&channel, serial);
    assert!(rig.gpu.counters()["faults"] > 0);
    let same = lazy.contents() == mapped.contents();
    assert!(same, "seed {seed}, {launch:?}");
}

#[test]
fn faults_and_evictions_in_the_middle_change_no_result() {
    for (seed, launch) in (0..).zip(launches()) {
        compare(&Config::default(), seed, &launch);
    }
}

#[test]
fn late_writes_change_no_result_either() {
    let late = Config {
        late_writes: Some(LateWrites {
            percent: 60,
            depth: 16,
            window: Duration::from_millis(5),
        }),
        ..Config::default()
    };
    for (seed, launch) in (100..).zip(launches()) {
        compare(&late, seed, &launch);
    }
}
