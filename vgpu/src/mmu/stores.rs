// SPDX-License-Identifier: MIT OR Apache-2.0
//! Stores whose translation is done and which have not landed in memory yet.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::bus::{Aperture, Bus, PhysAddr};
use crate::counters::Counters;

/// Longer stores are not held back: they land at once, behind those before them.
pub(crate) const LONGEST_HELD: usize = 4096;

struct Held {
    at: PhysAddr,
    data: Vec<u8>,
    since: Instant,
}

/// Which of the held stores are to land.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Landing {
    All,
    /// Those to VRAM.
    Vidmem,
    /// The oldest ones, until they are younger than this.
    OlderThan(Duration),
    /// The oldest ones, until so many are left.
    AllBut(usize),
}

/// One unit's held stores, oldest first.
#[derive(Default)]
pub(crate) struct StoreQueue {
    held: VecDeque<Held>,
}

impl StoreQueue {
    pub(crate) fn hold(&mut self, at: PhysAddr, data: &[u8]) {
        let data = data.to_vec();
        let since = Instant::now();
        self.held.push_back(Held { at, data, since });
    }

    /// Lands stores in their order and returns how many.
    pub(crate) fn land(&mut self, bus: &dyn Bus, counters: &Counters, which: Landing) -> u64 {
        let before = self.held.len();
        match which {
            Landing::All => self.land_first(bus, counters, before),
            Landing::AllBut(left) => self.land_first(bus, counters, before.saturating_sub(left)),
            Landing::OlderThan(age) => {
                let old = self
                    .held
                    .iter()
                    .take_while(|store| store.since.elapsed() >= age);
                let old = old.count();
                self.land_first(bus, counters, old);
            }
            Landing::Vidmem => self.held.retain(|store| {
                let stays = store.at.aperture == Aperture::Sys;
                if !stays {
                    write(bus, counters, store);
                }
                stays
            }),
        }
        (before - self.held.len()) as u64
    }

    /// Forgets all stores.
    pub(crate) fn discard(&mut self) {
        self.held.clear();
    }

    fn land_first(&mut self, bus: &dyn Bus, counters: &Counters, count: usize) {
        for store in self.held.drain(..count) {
            write(bus, counters, &store);
        }
    }
}

fn write(bus: &dyn Bus, counters: &Counters, store: &Held) {
    if bus.write(store.at, &store.data).is_err() {
        counters.bus_errors.count();
    }
}
