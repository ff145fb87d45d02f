// SPDX-License-Identifier: GPL-2.0

//! What the trace events of an address space say. The events themselves: [`trace`].

use super::{Reason, Svm};
use crate::{
    fault::{Fault, FaultAccess, Origin},
    kapi::{raw, trace},
    mirror::Mapped,
    tlb::Scope,
};
use core::ops::Range;

impl Svm {
    /// A fault is about to be served.
    pub(super) fn trace_fault(&self, fault: &Fault, batch: u64) {
        trace::fault(|| trace::Fault {
            client: self.client.id,
            batch,
            va: fault.va,
            channel: fault.channel.id().get(),
            access: access(fault.access),
            replayable: fault.origin == Origin::Replayable,
        });
    }

    /// The pages of `range` that the CPU has, looked up at `seq`, were mapped.
    pub(super) fn trace_commit(&self, range: Range<u64>, seq: u64, mapped: &Mapped, batch: u64) {
        trace::commit(|| trace::Commit {
            client: self.client.id,
            batch,
            start: range.start,
            end: range.end,
            seq,
            // CAST: A block has 512 pages.
            pages: mapped.pages as u32,
            order: mapped.largest.max(1).ilog2(),
            upgrades: mapped.upgrades as u32,
        });
    }

    /// What was looked up at `seq` is true no more.
    pub(super) fn trace_retry(&self, range: Range<u64>, seq: u64, batch: u64) {
        trace::retry(|| trace::Retry {
            client: self.client.id,
            batch,
            start: range.start,
            end: range.end,
            seq,
        });
    }

    /// The batch is done.
    pub(super) fn trace_replay(&self, upgraded: Option<&Scope>, batch: u64) {
        trace::replay(|| {
            let range = upgraded
                .and_then(|scope| scope.range.clone())
                .unwrap_or_default();
            trace::Replay {
                client: self.client.id,
                batch,
                start: range.start,
                end: range.end,
            }
        });
    }

    /// An access cannot be served.
    pub(super) fn trace_cancel(&self, fault: &Fault, reason: Reason, batch: u64) {
        trace::cancel(|| trace::Cancel {
            client: self.client.id,
            batch,
            va: fault.va,
            channel: fault.channel.id().get(),
            access: access(fault.access),
            reason: reason as u32,
        });
    }
}

/// The number of the user interface; a prefetch of the GPU is shown as "prefetch".
fn access(access: FaultAccess) -> u32 {
    match access {
        FaultAccess::Prefetch => raw::drm_mirage_access_DRM_MIRAGE_ACCESS_NONE,
        FaultAccess::Read => raw::drm_mirage_access_DRM_MIRAGE_ACCESS_READ,
        FaultAccess::Write => raw::drm_mirage_access_DRM_MIRAGE_ACCESS_WRITE,
        FaultAccess::Atomic => raw::drm_mirage_access_DRM_MIRAGE_ACCESS_ATOMIC,
    }
}
