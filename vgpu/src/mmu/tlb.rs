// SPDX-License-Identifier: MIT OR Apache-2.0
//! TLBs and page-directory caches. They hold what was valid when it was read, and nothing tells them that memory has
//! changed but an invalidation.
//!
//! Each unit has a TLB of its own that its thread uses without a lock. An invalidation is entered in a log and raises
//! the epoch; a unit whose epoch is behind applies the log before it looks anything up.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::bus::{GpuVa, PhysAddr};

use super::cache::Cache;
use super::format::{Leaf, Level, PageSize};
use super::invalidation::{Depth, Invalidation, Reach, Scope};
use super::walk::{Path, Start, Step};

/// Set bits of each page size; four entries a set.
struct Geometry {
    small: u32,
    big: u32,
    huge: u32,
}

const UNIT: Geometry = Geometry {
    small: 6,
    big: 4,
    huge: 4,
};
const SHARED: Geometry = Geometry {
    small: 10,
    big: 8,
    huge: 6,
};

/// Invalidations that the log keeps; a unit that is further behind drops its whole TLB.
const LOG_LENGTH: usize = 128;

/// Leaves of all sizes.
pub(crate) struct Tlb {
    small: Cache<Leaf>,
    big: Cache<Leaf>,
    huge: Cache<Leaf>,
}

impl Tlb {
    fn new(geometry: &Geometry) -> Self {
        Self {
            small: Cache::new(PageSize::Small.shift(), geometry.small),
            big: Cache::new(PageSize::Big.shift(), geometry.big),
            huge: Cache::new(PageSize::Huge.shift(), geometry.huge),
        }
    }

    fn get(&self, pdb: PhysAddr, va: GpuVa) -> Option<Leaf> {
        let huge = self.huge.get(pdb, va.0);
        let big = || self.big.get(pdb, va.0);
        huge.or_else(big).or_else(|| self.small.get(pdb, va.0))
    }

    fn insert(&mut self, pdb: PhysAddr, va: GpuVa, leaf: Leaf) {
        let cache = match leaf.size {
            PageSize::Small => &mut self.small,
            PageSize::Big => &mut self.big,
            PageSize::Huge => &mut self.huge,
        };
        cache.insert(pdb, va.0, leaf);
    }

    fn invalidate(&mut self, scope: &Scope) {
        self.small.invalidate(scope);
        self.big.invalidate(scope);
        self.huge.invalidate(scope);
    }

    fn clear(&mut self) {
        self.small.clear();
        self.big.clear();
        self.huge.clear();
    }
}

/// One cache of valid directory entries for each level, from the root.
struct DirectoryCaches {
    levels: [(Level, Cache<Step>); Level::ALL.len()],
}

impl DirectoryCaches {
    fn new() -> Self {
        let set_bits = |level| match level {
            Level::Pde3 => 2,
            Level::Pde2 => 4,
            Level::Pde1 => 6,
            Level::Pde0 => 8,
        };
        let levels = Level::ALL.map(|level| (level, Cache::new(level.shift(), set_bits(level))));
        Self { levels }
    }

    /// The lowest cached entry for `va`.
    fn get(&self, pdb: PhysAddr, va: GpuVa) -> Option<Step> {
        let mut lowest_first = self.levels.iter().rev();
        lowest_first.find_map(|(_, cache)| cache.get(pdb, va.0))
    }

    fn insert(&mut self, pdb: PhysAddr, va: GpuVa, step: Step) {
        let cache = self
            .levels
            .iter_mut()
            .find(|(level, _)| *level == step.level);
        if let Some((_, cache)) = cache {
            cache.insert(pdb, va.0, step);
        }
    }

    fn invalidate(&mut self, scope: &Scope, depth: Depth) {
        for (level, cache) in &mut self.levels {
            if depth.includes(*level) {
                cache.invalidate(scope);
            }
        }
    }
}

struct Contents {
    tlb: Tlb,
    directories: DirectoryCaches,
    log: VecDeque<Invalidation>,
}

/// The TLB and directory caches behind the units' own TLBs, and the log of invalidations.
pub(crate) struct SharedTlb {
    /// Invalidations so far. Written under the lock.
    epoch: AtomicU64,
    contents: Mutex<Contents>,
}

/// What the shared caches know about an address.
pub(crate) enum Lookup {
    Hit(Leaf),
    Miss(Miss),
}

/// A walk that has to be done, and the epoch that it belongs to.
pub(crate) struct Miss {
    pub(crate) start: Start,
    epoch: u64,
}

/// The outcome of a walk, to be cached.
pub(crate) struct Walked<'a> {
    pub(crate) pdb: PhysAddr,
    pub(crate) va: GpuVa,
    pub(crate) leaf: Option<Leaf>,
    pub(crate) path: &'a Path,
}

impl SharedTlb {
    pub(crate) fn new() -> Self {
        let contents = Contents {
            tlb: Tlb::new(&SHARED),
            directories: DirectoryCaches::new(),
            log: VecDeque::with_capacity(LOG_LENGTH),
        };
        Self {
            epoch: AtomicU64::new(0),
            contents: Mutex::new(contents),
        }
    }

    pub(crate) fn lookup(&self, pdb: PhysAddr, va: GpuVa) -> Lookup {
        let contents = self.lock();
        if let Some(leaf) = contents.tlb.get(pdb, va) {
            return Lookup::Hit(leaf);
        }
        let start = match contents.directories.get(pdb, va) {
            Some(step) => Start::Cached(step),
            None => Start::Root(pdb),
        };
        let epoch = self.epoch.load(Ordering::Relaxed);
        Lookup::Miss(Miss { start, epoch })
    }

    /// Caches what a walk found, unless an invalidation came in between: the walk may have read what it is about.
    pub(crate) fn fill(&self, miss: &Miss, walked: &Walked<'_>) {
        let mut contents = self.lock();
        if self.epoch.load(Ordering::Relaxed) != miss.epoch {
            return;
        }
        if let Some(leaf) = walked.leaf {
            contents.tlb.insert(walked.pdb, walked.va, leaf);
        }
        for step in walked.path.steps() {
            contents.directories.insert(walked.pdb, walked.va, step);
        }
    }

    /// Drops entries here and, by the log, in the TLBs of the units before their next lookup.
    pub(crate) fn invalidate(&self, invalidation: Invalidation) {
        let mut contents = self.lock();
        contents.tlb.invalidate(&invalidation.scope);
        contents
            .directories
            .invalidate(&invalidation.scope, invalidation.depth);
        if contents.log.len() == LOG_LENGTH {
            contents.log.pop_front();
        }
        contents.log.push_back(invalidation);
        let epoch = self.epoch.load(Ordering::Relaxed) + 1;
        // SeqCst: pairs with the units' windows, see `Unit::window`.
        self.epoch.store(epoch, Ordering::SeqCst);
    }

    fn lock(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which invalidations concern a unit's TLB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Gpc,
    Hub,
}

/// One unit's TLB.
pub(crate) struct UnitTlb {
    tlb: Tlb,
    side: Side,
    epoch: u64,
}

impl UnitTlb {
    pub(crate) fn new(side: Side, shared: &SharedTlb) -> Self {
        Self {
            tlb: Tlb::new(&UNIT),
            side,
            epoch: shared.epoch.load(Ordering::SeqCst),
        }
    }

    pub(crate) fn get(&mut self, shared: &SharedTlb, pdb: PhysAddr, va: GpuVa) -> Option<Leaf> {
        if shared.epoch.load(Ordering::SeqCst) != self.epoch {
            self.catch_up(shared);
        }
        self.tlb.get(pdb, va)
    }

    /// Enters a leaf that was looked up after `get`. An invalidation since then is still ahead of this TLB's epoch and
    /// will be applied before the entry is used.
    pub(crate) fn insert(&mut self, pdb: PhysAddr, va: GpuVa, leaf: Leaf) {
        self.tlb.insert(pdb, va, leaf);
    }

    fn catch_up(&mut self, shared: &SharedTlb) {
        let contents = shared.lock();
        let now = shared.epoch.load(Ordering::Relaxed);
        let behind = usize::try_from(now - self.epoch).unwrap_or(usize::MAX);
        self.epoch = now;
        let Some(skip) = contents.log.len().checked_sub(behind) else {
            self.tlb.clear();
            return;
        };
        for invalidation in contents.log.iter().skip(skip) {
            if self.side == Side::Hub || invalidation.reach == Reach::All {
                self.tlb.invalidate(&invalidation.scope);
            }
        }
    }
}
