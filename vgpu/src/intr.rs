// SPDX-License-Identifier: MIT OR Apache-2.0
//! The interrupt tree: levels of the device's units, gathered by NV_PMC_INTR and sent as MSI-X messages.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::bus::InterruptSink;
use crate::config::{Config, InterruptTrouble};
use crate::counters::Counters;
use crate::pri::RegisterBlock;
use crate::regs::pmc;

/// Trees, and MSI-X vectors: vector i follows NV_PMC_INTR(i).
pub const TREES: usize = 2;

/// A unit with an interrupt level; the value is its bit in NV_PMC_INTR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Source {
    /// The first copy engine.
    Ce0 = 5,
    /// The second copy engine.
    Ce1 = 6,
    /// Channels and PBDMA.
    Pfifo = 8,
    /// MMU faults.
    Hub = 9,
    /// The compute engine.
    Graph = 12,
}

impl Source {
    const fn bit(self) -> u32 {
        1 << self as u32
    }
}

#[derive(Default)]
struct Tree {
    pending: [u32; TREES],
    enabled: [u32; TREES],
}

impl Tree {
    fn active(&self) -> [bool; TREES] {
        let mut active = [false; TREES];
        for (active, (pending, enabled)) in
            active.iter_mut().zip(self.pending.iter().zip(self.enabled))
        {
            *active = pending & enabled != 0;
        }
        active
    }
}

/// Decides about each message.
struct Postman {
    mode: InterruptTrouble,
    random: fastrand::Rng,
}

/// What comes of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Message {
    None,
    Due,
    /// Due, and lost.
    Lost,
    /// Sent with nothing pending.
    Spurious,
}

impl Postman {
    /// A spurious message needs somebody who listens, or a driver sees it before it has set anything up.
    fn decide(&mut self, before: bool, after: bool, listening: bool) -> Message {
        let lost = self.mode.lost_percent;
        let spurious = self.mode.spurious_percent;
        match (before, after) {
            (false, true) if self.happens(lost) => Message::Lost,
            (false, true) => Message::Due,
            (_, false) if listening && self.happens(spurious) => Message::Spurious,
            _ => Message::None,
        }
    }

    fn happens(&mut self, percent: u8) -> bool {
        percent > 0 && self.random.u8(..100) < percent
    }
}

/// NV_PMC_INTR and its enables, and NV_PMC_BOOT_0 beside them.
pub struct InterruptTree {
    sink: Arc<dyn InterruptSink>,
    counters: Arc<Counters>,
    tree: Mutex<Tree>,
    postman: Mutex<Postman>,
}

impl InterruptTree {
    /// A tree with all levels low and all enables clear.
    pub fn new(sink: Arc<dyn InterruptSink>, counters: Arc<Counters>, config: &Config) -> Self {
        Self {
            sink,
            counters,
            tree: Mutex::default(),
            postman: Mutex::new(Postman {
                mode: config.interrupts,
                random: fastrand::Rng::with_seed(config.seed),
            }),
        }
    }

    /// Sets the level of one unit.
    pub fn set_level(&self, source: Source, level: bool) {
        self.update(source, || level);
    }

    /// Sets the level of one unit, in all trees, to what `level` says. It runs under the tree's lock, so that of two concurrent
    /// updates the later one decides: a level computed before the call could be stale by the time it is set.
    pub fn update(&self, source: Source, level: impl FnOnce() -> bool) {
        self.update_trees(source, || [level(); TREES]);
    }

    /// Sets the levels of a unit that tells stalling interrupts (tree 0) from others (tree 1), as [`Self::update`] does.
    pub fn update_trees(&self, source: Source, levels: impl FnOnce() -> [bool; TREES]) {
        self.change(|tree| {
            for (pending, level) in tree.pending.iter_mut().zip(levels()) {
                if level {
                    *pending |= source.bit();
                } else {
                    *pending &= !source.bit();
                }
            }
        });
    }

    fn change_enabled(&self, index: usize, change: impl FnOnce(u32) -> u32) {
        self.change(|tree| {
            if let Some(enabled) = tree.enabled.get_mut(index) {
                *enabled = change(*enabled);
            }
        });
    }

    /// Applies a change and raises the vectors of the trees that it made active.
    fn change(&self, change: impl FnOnce(&mut Tree)) {
        let (before, after, enabled) = {
            let mut tree = self.tree();
            let before = tree.active();
            change(&mut tree);
            (before, tree.active(), tree.enabled)
        };
        let trees = before.into_iter().zip(after).zip(enabled).enumerate();
        for (vector, ((before, after), enabled)) in trees {
            // Not under the lock: the sink may block.
            let message = self.postman().decide(before, after, enabled != 0);
            self.send(vector, message);
        }
    }

    fn send(&self, vector: usize, message: Message) {
        match message {
            Message::None => return,
            Message::Due => {}
            Message::Lost => {
                self.counters.lost_interrupts.count();
                return;
            }
            Message::Spurious => self.counters.spurious_interrupts.count(),
        }
        self.sink.raise(vector);
    }

    fn postman(&self) -> MutexGuard<'_, Postman> {
        self.postman.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tree(&self) -> MutexGuard<'_, Tree> {
        self.tree.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The tree whose register of the array at `base` is at `offset`.
fn tree_index(offset: u32, base: u32) -> Option<usize> {
    let index = offset.checked_sub(base)? / pmc::TREE_STRIDE;
    usize::try_from(index).ok().filter(|index| *index < TREES)
}

impl RegisterBlock for InterruptTree {
    fn read(&self, offset: u32) -> Option<u32> {
        if offset == pmc::BOOT_0 {
            return Some(pmc::BOOT_0_GV100_A1);
        }
        if let Some(i) = tree_index(offset, pmc::INTR) {
            return self.tree().pending.get(i).copied();
        }
        if let Some(i) = tree_index(offset, pmc::INTR_EN) {
            return self.tree().enabled.get(i).copied();
        }
        let write_only = [pmc::INTR_EN_SET, pmc::INTR_EN_CLEAR];
        write_only
            .iter()
            .any(|base| tree_index(offset, *base).is_some())
            .then_some(0)
    }

    fn write(&self, offset: u32, value: u32) -> Option<()> {
        if let Some(i) = tree_index(offset, pmc::INTR_EN_SET) {
            self.change_enabled(i, |enabled| enabled | value);
            return Some(());
        }
        if let Some(i) = tree_index(offset, pmc::INTR_EN_CLEAR) {
            self.change_enabled(i, |enabled| enabled & !value);
            return Some(());
        }
        let read_only = [pmc::INTR, pmc::INTR_EN];
        let in_tree = |base: &u32| tree_index(offset, *base).is_some();
        let known = offset == pmc::BOOT_0 || read_only.iter().any(in_tree);
        known.then_some(())
    }

    fn reset(&self) {
        // The units reset their own levels, because they know them.
        self.change(|tree| tree.enabled = [0; TREES]);
    }
}
