// SPDX-License-Identifier: MIT OR Apache-2.0
//! NV_PGRAPH: where errors of engine methods and launches are shown.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::bus::PhysAddr;
use crate::fifo::{Latch, Method};
use crate::intr::{InterruptTree, Source};
use crate::pri::RegisterBlock;

use super::regs::{self, CurrentCtx, GraphIntr};

/// An error and where it came from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GraphError {
    pub(crate) kind: GraphIntr,
    pub(crate) inst: PhysAddr,
    pub(crate) method: Method,
}

/// The error registers.
pub(crate) struct Graph {
    intr: Arc<InterruptTree>,
    latch: Mutex<Latch<GraphError>>,
}

impl Graph {
    /// No error, nothing enabled.
    pub(crate) fn new(intr: Arc<InterruptTree>) -> Self {
        Self {
            intr,
            latch: Mutex::new(Latch::new()),
        }
    }

    /// Shows an error, when those before it have been cleared.
    pub(crate) fn raise(&self, error: GraphError) {
        log::warn!(
            "Channel of {:?}: {:?}, method {:#x} data {:#x}",
            error.inst,
            error.kind,
            error.method.address,
            error.method.data
        );
        if !self.lock().push(error.kind as u32, error) {
            log::warn!("PGRAPH error dropped: too many are waiting");
        }
        self.update();
    }

    fn lock(&self) -> MutexGuard<'_, Latch<GraphError>> {
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
