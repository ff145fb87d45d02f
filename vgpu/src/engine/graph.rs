// SPDX-License-Identifier: MIT OR Apache-2.0
//! NV_PGRAPH: where errors of engine methods and launches are shown.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::bus::PhysAddr;
use crate::fifo::{Latch, Method};
use crate::intr::{InterruptTree, Source};
use crate::pri::RegisterBlock;

use super::regs::{self, CurrentCtx, GraphIntr};
use super::Run;

/// An error and the method that it is about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GraphError {
    pub(crate) kind: GraphIntr,
    pub(crate) method: Method,
}

/// An error in the registers.
#[derive(Debug)]
struct Shown {
    channel: u16,
    inst: PhysAddr,
    method: Method,
}

/// The error registers.
pub(crate) struct Graph {
    intr: Arc<InterruptTree>,
    latch: Mutex<Latch<Shown>>,
}

impl Graph {
    /// No error, nothing enabled.
    pub(crate) fn new(intr: Arc<InterruptTree>) -> Self {
        Self {
            intr,
            latch: Mutex::new(Latch::new()),
        }
    }

    /// Shows an error of a run, when those before it have been cleared; unless its channel was bound anew since.
    pub(crate) fn raise(&self, error: GraphError, run: &Run) {
        log::warn!(
            "Channel {}: {:?}, method {:#x} data {:#x}",
            run.channel,
            error.kind,
            error.method.address,
            error.method.data
        );
        self.latch(error, run);
        self.update();
    }

    fn latch(&self, error: GraphError, run: &Run) {
        let mut latch = self.lock();
        // Looked at under the lock that `forget` takes after the run was disowned.
        if run.is_disowned() {
            return;
        }
        let shown = Shown {
            channel: run.channel,
            inst: run.space.inst,
            method: error.method,
        };
        if !latch.push(error.kind as u32, shown) {
            log::warn!("PGRAPH error dropped: too many are waiting");
        }
    }

    /// Drops the errors of a channel. The level stays: it is that of the error shown.
    pub(crate) fn forget(&self, channel: u16) {
        self.lock().forget(|error| error.channel == channel);
    }

    fn lock(&self) -> MutexGuard<'_, Latch<Shown>> {
        self.latch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn update(&self) {
        self.intr.update(Source::Graph, || self.lock().level());
    }
}

impl RegisterBlock for Graph {
    fn read(&self, offset: u32) -> Option<u32> {
        let latch = self.lock();
        let error = latch.current();
        Some(match offset {
            regs::INTR => latch.pending(),
            regs::INTR_EN => latch.enabled(),
            regs::TRAPPED_ADDR => error.map_or(0, |error| error.method.trapped()),
            regs::TRAPPED_DATA_LOW => error.map_or(0, |error| error.method.data),
            regs::CURRENT_CTX => error.map_or(0, |error| CurrentCtx::of(error.inst).into()),
            _ => return None,
        })
    }

    fn write(&self, offset: u32, value: u32) -> Option<()> {
        match offset {
            regs::INTR => self.lock().clear(value),
            regs::INTR_EN => self.lock().set_enabled(value),
            regs::TRAPPED_ADDR | regs::TRAPPED_DATA_LOW | regs::CURRENT_CTX => {}
            _ => return None,
        }
        self.update();
        Some(())
    }

    fn reset(&self) {
        *self.lock() = Latch::new();
        self.update();
    }
}
