// SPDX-License-Identifier: GPL-2.0

//! One process on one GPU: regions, channels, reports. How faults are served is in [`service`].
//!
//! Owner: the open file, until it is closed; work in flight and channels hold references. The address space may end
//! before: then faults are answered with [`Reason::Exited`]. Teardown, by [`Svm::close`] (file) and [`Svm::lose_device`], whichever comes
//! first: channels stop, work is drained, regions go (mappings first, then notifiers), then the directory. A worker that serves a fault when
//! the file is closed does the rest itself; until then the device lists the address space.

use crate::{
    channel::{Channel, ChannelConfig, ChannelId, Slot, CHANNEL_MEM},
    fault::{Fault, FaultAccess},
    gpu::Gpu,
    kapi::{time, workqueue::flush_work},
    tlb::{CacheLevel, Scope},
    vram::VramOffset,
};
use core::ops::Range;
use kernel::{
    impl_has_work,
    mm::{Mm, MmWithUser},
    new_mutex, new_work,
    prelude::*,
    sync::{
        aref::ARef,
        atomic::{Atomic, Relaxed},
        Arc, Mutex,
    },
    workqueue::{HasWork, Work, WorkItem},
};

mod batch;
mod bind;
mod busy;
mod dump;
mod events;
mod part;
mod pending;
mod query;
mod refuse;
mod room;
mod service;
mod space;
mod traces;
mod unmanaged;

pub(crate) use bind::FEATURES;
use busy::BusyTimes;
pub(crate) use dump::Dump;
pub(crate) use events::{Client, FaultLog};
use pending::Pending;
pub(crate) use pending::WORKERS;
pub(crate) use query::QUERY_PAGES_MAX;
use room::with_room;
use service::Worker;
use space::Space;

/// What a report says the GPU tried; the numbers are those of the user interface.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ReportAccess {
    Read = 0,
    Write = 1,
    Atomic = 2,
    None = 3,
}

impl From<FaultAccess> for ReportAccess {
    fn from(access: FaultAccess) -> Self {
        match access {
            FaultAccess::Prefetch | FaultAccess::Read => Self::Read,
            FaultAccess::Write => Self::Write,
            FaultAccess::Atomic => Self::Atomic,
        }
    }
}

/// Why a channel was stopped; the numbers are those of the user interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    NoVma = 1,
    Permission = 2,
    Bus = 3,
    Unmanaged = 4,
    OutOfMemory = 5,
    Exited = 6,
    Method = 7,
    Device = 8,
    Timeout = 9,
    Reset = 10,
}

/// Why a channel was stopped, for the program.
#[derive(Clone, Copy)]
pub(crate) struct FaultReport {
    pub(crate) addr: u64,
    /// CLOCK_MONOTONIC, ns.
    pub(crate) timestamp: u64,
    /// Number of the batch that the fault was served in; 0 if it was no fault.
    pub(crate) batch: u64,
    pub(crate) channel: u32,
    pub(crate) access: ReportAccess,
    pub(crate) reason: Reason,
}

impl FaultReport {
    /// A report of now.
    pub(crate) fn new(channel: ChannelId, addr: u64, access: ReportAccess, reason: Reason) -> Self {
        Self {
            addr,
            timestamp: time::monotonic_ns(),
            batch: 0,
            channel: channel.get(),
            access,
            reason,
        }
    }
}

/// An address space that a GPU mirrors.
#[pin_data]
pub(crate) struct Svm {
    gpu: Arc<Gpu>,
    mm: ARef<Mm>,
    /// The file.
    client: Client,
    /// Events that were lost since the last one that was sent.
    #[pin]
    dropped_events: Mutex<u32>,
    /// Left to the driver; never mirrored.
    unmanaged: Range<u64>,
    pdb: VramOffset,
    /// Held during each step of its end, so that nobody takes that for done, and lets the device go, before it is.
    #[pin]
    closing: Mutex<()>,
    /// Page-table levels above the regions, and the regions. `None` after teardown.
    #[pin]
    space: Mutex<Option<Space>>,
    /// Regions in `space`, for who looks for device memory without its lock.
    regions: Atomic<usize>,
    /// Faults that wait for service.
    #[pin]
    pending: Mutex<Pending<Fault>>,
    #[pin]
    workers: [Worker; WORKERS],
    /// Engines that work for it.
    #[pin]
    busy: BusyTimes,
    #[pin]
    worker_0: Work<Svm, 0>,
    #[pin]
    worker_1: Work<Svm, 1>,
    #[pin]
    worker_2: Work<Svm, 2>,
    #[pin]
    worker_3: Work<Svm, 3>,
}

impl_has_work! {
    impl HasWork<Self, 0> for Svm { self.worker_0 }
    impl HasWork<Self, 1> for Svm { self.worker_1 }
    impl HasWork<Self, 2> for Svm { self.worker_2 }
    impl HasWork<Self, 3> for Svm { self.worker_3 }
}

impl<const ID: u64> WorkItem<ID> for Svm
where
    Self: HasWork<Self, ID>,
{
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        // CAST: Less than WORKERS.
        this.service(ID as usize);
    }
}

impl Svm {
    /// Mirrors the address space `mm` on `gpu`, except for `unmanaged`, which is aligned to regions, for the file
    /// `client`.
    pub(crate) fn new(
        gpu: &Arc<Gpu>,
        mm: &MmWithUser,
        unmanaged: Range<u64>,
        client: Client,
    ) -> Result<Arc<Self>> {
        // Takes the mmap lock, which a program may have somebody hold for long; so not below.
        query::watch_first(mm)?;
        let _inside = gpu.gate.enter();
        let space = with_room(gpu, client.id, || {
            Space::new(&gpu.vram, unmanaged.start, client.id)
        })?;
        let svm = Arc::pin_init(
            try_pin_init!(Self {
                gpu: gpu.clone(),
                mm: ARef::from(&**mm),
                client,
                dropped_events <- new_mutex!(0, "mirage::dropped_events"),
                unmanaged,
                pdb: space.pdb(),
                closing <- new_mutex!((), "mirage::closing"),
                space <- new_mutex!(Some(space), "mirage::space"),
                regions: Atomic::new(0),
                pending <- new_mutex!(Pending::new()?, "mirage::pending"),
                workers <- pin_init::pin_init_array_from_fn(|_| Worker::new()),
                busy <- BusyTimes::new(),
                worker_0 <- new_work!("mirage::service"),
                worker_1 <- new_work!("mirage::service"),
                worker_2 <- new_work!("mirage::service"),
                worker_3 <- new_work!("mirage::service"),
            }? Error),
            GFP_KERNEL_ACCOUNT,
        )?;
        gpu.add_svm(&svm)?;
        Ok(svm)
    }

    /// The device.
    pub(crate) fn gpu(&self) -> &Arc<Gpu> {
        &self.gpu
    }

    /// How long engines have worked for it.
    pub(crate) fn busy(&self) -> &BusyTimes {
        &self.busy
    }

    /// Number of the file.
    pub(crate) fn client(&self) -> u64 {
        self.client.id
    }

    /// Root of the page tables.
    pub(crate) fn pdb(&self) -> VramOffset {
        self.pdb
    }

    /// The file is closed: stops the channels and forgets the address space.
    ///
    /// A fault that is being served may wait for a program for as long as that likes, even for one that can only answer, or give up, when this
    /// has returned. So that is not waited for: the worker forgets the address space when it is done.
    pub(crate) fn close(self: &Arc<Self>) {
        self.release_channels();
        // After this nothing queues faults for us any more.
        self.gpu.flush_faults();
        let mine = self.pending.lock().close();
        if mine {
            // None serves a block, or will. Not under `closing`, which a worker takes.
            flush_work(&self.worker_0);
            flush_work(&self.worker_1);
            flush_work(&self.worker_2);
            flush_work(&self.worker_3);
            self.take_down();
        }
    }

    /// Stops the channels and gives back what they have.
    fn release_channels(self: &Arc<Self>) {
        let _closing = self.closing.lock();
        let channels = self
            .gpu
            .remove_channels(|channel| Arc::ptr_eq(channel.svm(), self));
        {
            let _inside = self.gpu.gate.enter();
            for channel in channels.into_iter().flatten() {
                channel.release();
            }
        }
    }

    /// Forgets the address space, which was closed; nobody serves it any more.
    fn take_down(self: &Arc<Self>) {
        let _closing = self.closing.lock();
        self.detach();
        // Last: an unbind waits for those that are listed.
        self.gpu.remove_svm(self);
    }

    /// The device goes: forgets the address space. No channel of it runs, no work for it is queued.
    pub(crate) fn lose_device(&self) {
        let _closing = self.closing.lock();
        self.detach();
    }

    /// Gives back every mapping and all device memory.
    fn detach(&self) {
        self.pending.lock().clear();
        let _inside = self.gpu.gate.enter();
        let space = {
            let mut guard = self.space.lock();
            // Nobody is to look for room here any more.
            self.regions.store(0, Relaxed);
            guard.take()
        };
        let Some(space) = space else { return };
        space.detach_regions(&self.gpu.vram);
        // What the device may have cached of the tables must go before they are freed.
        let all = Scope {
            pdb: self.pdb,
            range: None,
            level: CacheLevel::All,
        };
        self.gpu.tlb_invalidate(&all);
    }

    /// Takes every mapping of the process's memory away, because the device is about to be reset.
    pub(crate) fn unmap_all(&self) {
        if let Some(space) = &*self.space.lock() {
            space.unmap_all();
        }
    }

    /// Makes a channel; returns its handle.
    pub(crate) fn channel_alloc(self: &Arc<Self>, config: ChannelConfig) -> Result<u32> {
        let _inside = self.gpu.gate.enter();
        self.gpu.check_usable()?;
        with_room(&self.gpu, self.client.id, || self.try_channel_alloc(config))
    }

    fn try_channel_alloc(self: &Arc<Self>, config: ChannelConfig) -> Result<u32> {
        let slot = Slot::take(config.engine, self)?;
        let mem = self.gpu.dma.coherent(usize::try_from(CHANNEL_MEM)?)?;
        let va = self.unmanaged.start + slot.id.index() as u64 * CHANNEL_MEM;
        let channel = Channel::new(slot, self, va, config)?;
        channel
            .start(mem)
            .and_then(|()| self.gpu.insert_channel(&channel))
            .inspect_err(|_| channel.release())?;
        Ok(channel.id().get())
    }

    /// Ends a channel.
    pub(crate) fn channel_free(self: &Arc<Self>, handle: u32) -> Result {
        let channel = self.channel(handle)?;
        let _inside = self.gpu.gate.enter();
        let removed = self
            .gpu
            .remove_channels(|other| core::ptr::eq(other, &*channel));
        // Two threads may free it at once; one of them has it now.
        removed
            .into_iter()
            .flatten()
            .next()
            .ok_or(ENOENT)?
            .release();
        Ok(())
    }

    /// The channel of this address space with that handle.
    pub(crate) fn channel(self: &Arc<Self>, handle: u32) -> Result<Arc<Channel>> {
        ChannelId::new(handle)
            .and_then(|id| self.gpu.channel(id))
            .filter(|channel| Arc::ptr_eq(channel.svm(), self))
            .ok_or(ENOENT)
    }

    /// Queues a fault for service. If there is no room it is dropped: the replay at the end of a batch, or the watchdog, has the access
    /// tried again.
    pub(crate) fn queue_fault(&self, fault: Fault) {
        if self.pending.lock().push(fault).is_err() {
            self.gpu.counters.dropped_faults.inc();
        }
    }

    /// Has the queued faults served.
    pub(crate) fn start_service(self: &Arc<Self>) {
        let queue = &self.gpu.service;
        loop {
            let worker = self.pending.lock().start();
            // A worker that is just ending is queued once more.
            match worker {
                Some(0) => drop(queue.enqueue::<_, 0>(self.clone())),
                Some(1) => drop(queue.enqueue::<_, 1>(self.clone())),
                Some(2) => drop(queue.enqueue::<_, 2>(self.clone())),
                Some(_) => drop(queue.enqueue::<_, 3>(self.clone())),
                None => return,
            }
        }
    }
}

const _: () = assert!(
    CHANNEL_MEM * crate::channel::CHANNELS as u64 <= crate::mirror::REGION_SIZE,
    "the smallest unmanaged range has room for all channels"
);
