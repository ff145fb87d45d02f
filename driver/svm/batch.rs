// SPDX-License-Identifier: GPL-2.0

//! A batch: what is done for some blocks together, once they are served.

use super::Svm;
use crate::{
    fault::{Fault, Origin},
    gpu_pt::block::Stale,
    tlb::Scope,
    vram::VramOffset,
};
use core::ops::Range;
use kernel::prelude::*;

/// What is to be done at the end of a batch.
#[derive(Default)]
pub(super) struct Batch {
    /// Its number, for reports.
    pub(super) number: u64,
    /// What the replay must drop from the TLB, because rights were added.
    upgraded: Option<Range<u64>>,
    stale: Stale,
    /// Faults whose channels wait to be resumed.
    switched: KVec<Fault>,
}

impl Batch {
    /// What must be dropped from the TLB, if rights were added.
    pub(super) fn scope(&self, pdb: VramOffset) -> Option<Scope> {
        Some(Scope {
            pdb,
            range: Some(self.upgraded.clone()?),
            level: self.stale.into(),
        })
    }

    pub(super) fn add_upgraded(&mut self, stale: Stale, range: Range<u64>) {
        if stale == Stale::Nothing {
            return;
        }
        self.stale = self.stale.max(stale);
        self.upgraded = Some(match self.upgraded.take() {
            None => range,
            Some(old) => old.start.min(range.start)..old.end.max(range.end),
        });
    }

    pub(super) fn add_switched(&mut self, faults: &[Fault]) {
        let switched = |fault: &&Fault| matches!(fault.origin, Origin::Switched(_));
        for fault in faults.iter().filter(switched) {
            // Out of memory: it goes on now, and faults again if it has to.
            if self.switched.push(fault.clone(), GFP_KERNEL).is_err() {
                fault.channel.resume(fault.origin);
            }
        }
    }
}

impl Svm {
    /// Lets the accesses of a batch go on.
    pub(super) fn end_batch(&self, batch: Batch) {
        let scope = batch.scope(self.pdb);
        self.trace_replay(scope.as_ref(), batch.number);
        if self.gpu.tlb.lock().replay(scope.as_ref()).is_err() {
            self.gpu.stop_dma("the device takes no replay");
        }
        // After the replay, which drops what the engines may have cached.
        batch
            .switched
            .iter()
            .for_each(|fault| fault.channel.resume(fault.origin));
    }
}
