// SPDX-License-Identifier: GPL-2.0

//! Accesses that cannot be served: the channel ends, the program is told why, and everything else goes on.

use super::{FaultReport, Reason, Svm};
use crate::{
    channel::{Channel, LookTime},
    fault::{Fault, FaultAccess, Origin},
    kapi::{
        hmm::Need,
        mm::{is_guarded, is_secret},
    },
    tlb::CancelAccess,
};
use kernel::mm::{
    virt::flags,
    MmWithUser, //
};

impl Svm {
    /// An access that cannot be served: its channel ends, and the access with it, once it has come a second time.
    ///
    /// Packets can be old or make no sense. An access that really waits is tried again at the end of the batch, and has a
    /// newer packet then.
    pub(super) fn fail_access(&self, fault: &Fault, reason: Reason, batch: u64) {
        if fault.access == FaultAccess::Prefetch {
            return;
        }
        let at = LookTime {
            now: self.gpu.ptimer_ns(),
            replayed: self.gpu.tlb.suspect(),
        };
        if !fault.channel.second_look(fault, at) {
            self.gpu.counters.second_looks.inc();
            return;
        }
        if fault.channel.has_ended() || !fault.channel.is_of_this_life(fault.timestamp) {
            // Its accesses are gone with it, and one at the same address may be of another channel by now.
            return;
        }
        if fault.origin == Origin::Replayable {
            self.cancel(fault);
        }
        // Last: from here on the program may use the address for something else.
        self.fail_channel(fault, reason, batch);
    }

    /// Ends an access that waits, and those of other channels to the same page, whose packets may have been dropped.
    fn cancel(&self, fault: &Fault) {
        let access = match fault.access {
            FaultAccess::Prefetch | FaultAccess::Read => CancelAccess::All,
            FaultAccess::Write | FaultAccess::Atomic => CancelAccess::WriteAndAtomic,
        };
        let tlb = self.gpu.tlb.lock();
        if tlb.cancel(self.pdb, fault.va, access).is_err() {
            drop(tlb);
            self.gpu.stop_dma("a cancel was not acknowledged");
        }
    }

    /// Ends the channel of a bad access and tells the program why.
    pub(super) fn fail_channel(&self, fault: &Fault, reason: Reason, batch: u64) {
        let channel: &Channel = &fault.channel;
        if !channel.is_of_this_life(fault.timestamp) {
            return;
        }
        self.trace_cancel(fault, reason, batch);
        let report = FaultReport::new(channel.id(), fault.va, fault.access.into(), reason);
        channel.fail_for_fault(FaultReport { batch, ..report }, fault.timestamp);
    }

    /// Ends the channel of an access that the hardware has given up.
    pub(super) fn fail_reported(&self, mm: &MmWithUser, fault: &Fault, batch: u64) {
        let reason = fault
            .fatal
            .unwrap_or_else(|| diagnose(mm, fault.va, fault.access.into()));
        self.fail_channel(fault, reason, batch);
    }
}

/// Why the CPU's page table does not let the GPU do that.
pub(super) fn diagnose(mm: &MmWithUser, va: u64, need: Need) -> Reason {
    let mmap = mm.mmap_read_lock();
    // CAST: `usize` has 64 bits.
    let Some(vma) = mmap.vma_lookup(va as usize) else {
        return Reason::NoVma;
    };
    let required = if need == Need::Write {
        flags::READ | flags::WRITE
    } else {
        flags::READ
    };
    let allowed =
        vma.flags() & required == required && vma.flags() & (flags::IO | flags::PFNMAP) == 0;
    let write = need == Need::Write;
    // CAST: `usize` has 64 bits.
    if !allowed || is_secret(&vma) || is_guarded(&vma, va as usize, write) {
        return Reason::Permission;
    }
    // The mapping allows it, so the page itself could not be had.
    Reason::Bus
}
