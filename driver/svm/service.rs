// SPDX-License-Identifier: GPL-2.0

//! Serving faults: what the driver exists for.
//!
//! Several workers serve an address space, a 2 MiB block at a time ([`super::pending`]). The faults of a block are sorted and
//! duplicates dropped; they are served in one window ([`super::part`]): what faulted must become valid, what else the CPU has
//! there is mapped along, but never faulted in. One replay ends a batch of blocks ([`super::batch`]).

use super::{
    batch::Batch,
    part::{BlockScratch, Part},
    pending::TAKE_MAX,
    refuse::diagnose,
    room::with_room,
    space::position,
    Reason, Svm,
};
use crate::{
    fault::{Fault, FaultAccess, Origin, VA_BITS},
    gpu_pt::{block::Stale, BIG_PAGES, BLOCK_PAGES, BLOCK_SHIFT},
    kapi::{
        hmm::Need,
        mm::{put_async, task_size},
        sort::sort_by_key,
    },
    mirror::{BlockMemory, Region},
};
use core::ops::Range;
use kernel::{
    mm::MmWithUser,
    new_mutex,
    prelude::*,
    sync::{atomic::Relaxed, Arc, Mutex},
    time::{Delta, Instant, Monotonic},
};

/// Most blocks, and longest time, before the accesses that were served are let go on.
const BATCH_BLOCKS: usize = 64;
const BATCH_BUDGET: Delta = Delta::from_millis(20);

/// One that serves faults.
#[pin_data]
pub(super) struct Worker {
    /// Held while it does.
    #[pin]
    scratch: Mutex<Scratch>,
}

/// Memory for serving faults, so that none is allocated on the way.
struct Scratch {
    batch: KVec<Fault>,
    block: KBox<BlockScratch>,
}

impl Worker {
    pub(super) fn new() -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            scratch <- new_mutex!(Scratch {
                batch: KVec::with_capacity(TAKE_MAX, GFP_KERNEL_ACCOUNT)?,
                block: BlockScratch::new()?,
            }, "mirage::scratch"),
        }? Error)
    }
}

impl Svm {
    /// Serves faults that are queued until there is no block that nobody serves. Takes the address space down if it was closed meanwhile.
    pub(super) fn service(self: &Arc<Self>, worker: usize) {
        let Some(state) = self.workers.get(worker) else {
            return;
        };
        {
            let mut scratch = state.scratch.lock();
            let Scratch { batch, block } = &mut *scratch;
            while self.service_batch(worker, batch, block) {}
        }
        let ends = self.pending.lock().take_end();
        if ends {
            self.take_down();
        }
    }

    /// Serves some blocks and lets their accesses go on. Returns whether there may be more.
    fn service_batch(
        &self,
        worker: usize,
        faults: &mut KVec<Fault>,
        scratch: &mut BlockScratch,
    ) -> bool {
        let begin = Instant::<Monotonic>::now();
        let mut batch = Batch::default();
        let mut more = true;
        let mut blocks = 0;
        while blocks < BATCH_BLOCKS && begin.elapsed() < BATCH_BUDGET {
            faults.clear();
            more = self.pending.lock().take(worker, faults);
            if !more {
                break;
            }
            if blocks == 0 {
                batch.number = self.gpu.counters.batches.next();
            }
            blocks += 1;
            self.service_faults(faults, scratch, &mut batch);
        }
        faults.clear();
        if blocks != 0 {
            self.end_batch(batch);
        }
        more
    }

    /// Serves the faults of one block.
    fn service_faults(
        &self,
        faults: &mut KVec<Fault>,
        scratch: &mut BlockScratch,
        batch: &mut Batch,
    ) {
        faults
            .iter()
            .for_each(|fault| self.trace_fault(fault, batch.number));
        let Some(mm) = self.mm.mmget_not_zero() else {
            return faults
                .iter()
                .for_each(|fault| self.fail_channel(fault, Reason::Exited, batch.number));
        };
        let is_reported = |fault: &&Fault| fault.origin == Origin::Reported;
        for fault in faults.iter().filter(is_reported) {
            self.fail_reported(&mm, fault, batch.number);
        }
        faults.retain(|fault| !is_reported(&&*fault));

        let before = faults.len();
        sort_by_key(faults, |fault| (fault.va, fault.access, fault.channel.id()));
        let mut last = None;
        faults.retain(|fault| {
            let key = (fault.va, fault.access, fault.channel.id(), fault.origin);
            last.replace(key) != Some(key)
        });
        self.gpu.counters.duplicates.add(before - faults.len());

        if let Err(bad) = self.service_block(&mm, faults, scratch, batch) {
            faults
                .iter()
                .for_each(|fault| self.fail_access(fault, bad, batch.number));
        }
        batch.add_switched(faults);
        // The last user tears the address space down, which takes update locks; not here.
        put_async(mm);
    }

    /// Serves the faults of one block. An error is one that all of them get.
    fn service_block(
        &self,
        mm: &MmWithUser,
        faults: &[Fault],
        scratch: &mut BlockScratch,
        batch: &mut Batch,
    ) -> Result<(), Reason> {
        for fault in faults {
            if let Some(reason) = fault.fatal {
                self.fail_access(fault, reason, batch.number);
            }
        }
        let mut good = faults.iter().filter(|fault| fault.fatal.is_none());
        let Some(first) = good.next() else {
            return Ok(());
        };
        if self.unmanaged.contains(&first.va) {
            return Err(Reason::Unmanaged);
        }
        let block_va = first.va & !((1 << BLOCK_SHIFT) - 1);
        let region = self.reserve(mm, block_va)?;
        let (block, _) = position(block_va);
        scratch.needs.fill(Need::Snapshot);
        for fault in faults.iter().filter(|fault| fault.fatal.is_none()) {
            if let Some(need) = scratch.needs.get_mut(position(fault.va).1) {
                *need = (*need).max(fault.access.into());
            }
        }
        let (window, known) = self.plan(&region, block, &mut scratch.needs);
        if known {
            // It faults on what is mapped: it may have kept what was there before, and the replay that drops that may not have come yet.
            batch.add_upgraded(Stale::Pde0, block_va..block_va + (1 << BLOCK_SHIFT));
        }
        let Some(pages) = window else {
            // Not served: a device that faults on what is mapped, again and again, does not get on.
            for fault in faults.iter().filter(|fault| fault.fatal.is_none()) {
                fault.channel.clear_suspect(fault.va);
            }
            return Ok(());
        };
        let part = Part {
            region: &region,
            mm,
            block_va,
            pages,
        };
        match self.service_part(&part, scratch, batch) {
            Ok(()) => {
                served(faults);
                Ok(())
            }
            Err(e) if e == EBUSY => Ok(()),
            Err(e) if e == ENOMEM => Err(Reason::OutOfMemory),
            // Some page cannot be had: find out which.
            Err(_) => {
                for page in faults.chunk_by(|a, b| a.va == b.va) {
                    self.service_page(&part, page, scratch, batch);
                }
                Ok(())
            }
        }
    }

    /// Serves the faults of one page, and fails those that cannot be served.
    fn service_page(
        &self,
        whole: &Part<'_>,
        faults: &[Fault],
        scratch: &mut BlockScratch,
        batch: &mut Batch,
    ) {
        let Some(first) = faults.first() else { return };
        let page = position(first.va).1;
        let part = Part {
            pages: page..page + 1,
            ..*whole
        };
        for access in [Need::Write, Need::Read] {
            let wants =
                |fault: &&Fault| fault.fatal.is_none() && Need::from(fault.access) == access;
            if !faults.iter().any(|fault| wants(&fault)) {
                continue;
            }
            if let Some(need) = scratch.needs.get_mut(page) {
                *need = access;
            }
            let reason = match self.service_part(&part, scratch, batch) {
                Ok(()) => {
                    served(faults);
                    continue;
                }
                Err(e) if e == EBUSY => continue,
                Err(e) if e == ENOMEM => Reason::OutOfMemory,
                Err(_) => diagnose(whole.mm, first.va, access),
            };
            faults
                .iter()
                .filter(wants)
                .for_each(|fault| self.fail_access(fault, reason, batch.number));
        }
    }

    /// The region of a block, with tables for the block, so that mapping needs no memory.
    pub(super) fn reserve(&self, mm: &MmWithUser, block_va: u64) -> Result<Arc<Region>, Reason> {
        // Before there is a region: the notifier would take any address.
        if block_va >= task_size(mm).min(1 << VA_BITS) {
            return Err(Reason::NoVma);
        }
        let _inside = self.gpu.gate.enter();
        match with_room(&self.gpu, self.client.id, || self.try_reserve(mm, block_va)) {
            Ok(region) => Ok(region),
            Err(e) if e == ENOMEM => Err(Reason::OutOfMemory),
            Err(e) if e == ENODEV => Err(Reason::Device),
            // The notifier takes no address space that is going away.
            Err(_) => Err(Reason::NoVma),
        }
    }

    fn try_reserve(&self, mm: &MmWithUser, block_va: u64) -> Result<Arc<Region>> {
        let mut guard = self.space.lock();
        let space = Option::as_mut(&mut guard).ok_or(ENODEV)?;
        let region = space.region(&self.gpu, mm, block_va);
        self.regions.store(space.count(), Relaxed);
        let region = region?;
        let block = position(block_va).0;
        if !region.notifier.lock().tables().is_reserved(block) {
            // Not under the update lock, and neither is what it does not need freed.
            let memory = BlockMemory::new(&self.gpu.vram)?;
            let unused = region.notifier.lock().tables().reserve(block, memory);
            drop(unused);
        }
        Ok(region)
    }

    /// Takes back needs that the GPU's page table meets already, and chooses the window for the others: the whole block if nothing is
    /// mapped there, so that it can become one leaf; else what the faults span, so that a single page costs little. Also returns whether
    /// needs were taken back.
    fn plan(
        &self,
        region: &Region,
        block: usize,
        needs: &mut [Need; BLOCK_PAGES],
    ) -> (Option<Range<usize>>, bool) {
        let mut state = region.notifier.lock();
        let (mut window, mut known) = (None::<Range<usize>>, false);
        let wanted = needs.iter_mut().enumerate();
        for (page, need) in wanted.filter(|(_, need)| **need != Need::Snapshot) {
            if state.satisfies(block, page, *need) {
                *need = Need::Snapshot;
                self.gpu.counters.duplicates.inc();
                known = true;
                continue;
            }
            let first = page - page % BIG_PAGES;
            let start = window.map_or(first, |window| window.start);
            window = Some(start..first + BIG_PAGES);
        }
        let empty = state.tables().block(block).is_none_or(|b| b.mapped() == 0);
        let window = window.map(|window| if empty { 0..BLOCK_PAGES } else { window });
        (window, known)
    }
}

/// Tells the channels of faults that are not fatal that they were served.
fn served(faults: &[Fault]) {
    let can_be = |fault: &&Fault| fault.fatal.is_none();
    for fault in faults.iter().filter(can_be) {
        fault.channel.served(fault.va);
    }
}

impl From<FaultAccess> for Need {
    fn from(access: FaultAccess) -> Self {
        match access {
            FaultAccess::Prefetch | FaultAccess::Read => Need::Read,
            FaultAccess::Write | FaultAccess::Atomic => Need::Write,
        }
    }
}
