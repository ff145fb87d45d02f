// SPDX-License-Identifier: GPL-2.0

//! One device: bring-up, interrupts, the channels that run on it, and the end of it.
//!
//! A [`Gpu`] outlives unbind for as long as files are open. After [`Gpu::shutdown`] it owns no DMA memory or mapping,
//! register writes go nowhere, and nothing new is begun ([`Gpu::is_lost`]).

use crate::{
    channel::{
        Channel, ChannelId, Slots, CHANNELS, CHANNELS_PER_FILE, PUSHES_MAX, PUSH_MAX, SYNCS_MAX,
        TIMEOUT_DEFAULT_MS, TIMEOUT_MAX_MS,
    },
    counters::Counters,
    fault::FaultBuffers,
    kapi::{
        dma::MirrorDma,
        mmio::{Bar0, Bar1},
        workqueue::{flush_work, OwnedQueue, Progress},
    },
    mirror::REGION_SIZE,
    ptimer::ptimer_ns,
    regs::*,
    runlist::{RunlistChannel, Runlists},
    svm::{FaultLog, Svm, FEATURES, QUERY_PAGES_MAX},
    tlb::{Scope, Tlb},
    vram::{Vram, VramOffset},
};
use kernel::{
    device::Bound,
    impl_has_delayed_work, impl_has_work, new_delayed_work, new_mutex, new_work, pci,
    prelude::*,
    sync::{
        atomic::{Atomic, Full, Relaxed},
        Arc, Mutex,
    },
    workqueue::{DelayedWork, Work, WorkItem},
};

mod gate;
mod intr;
mod reset;
mod svms;
mod watchdog;

use gate::Gate;
use intr::disarm;

/// Work items of a [`Gpu`], one per interrupt tree.
const STALL_WORK: u64 = IntrTree::Stall as u64;
const NON_STALL_WORK: u64 = IntrTree::NonStall as u64;
/// Work item of the watchdog.
const WATCHDOG: u64 = 2;

/// What GETPARAM can ask.
#[derive(Clone, Copy)]
pub(crate) enum Param {
    Chipset,
    VramSize,
    ComputeClass,
    ChannelsMax,
    UnmanagedAlign,
    UnmanagedMin,
    PushMax,
    Features,
    CopyClass,
    CopyEngines,
    PushesMax,
    SyncsMax,
    ChannelsPerFile,
    TimeoutDefault,
    TimeoutMax,
    QueryPagesMax,
}

/// What the PCI driver has mapped for the device.
pub(crate) struct GpuResources {
    pub(crate) bar0: Bar0,
    pub(crate) bar1: Bar1,
}

/// One device.
#[pin_data]
pub(crate) struct Gpu {
    pub(crate) bar0: Arc<Bar0>,
    pub(crate) vram: Vram,
    pub(crate) dma: MirrorDma,
    pub(crate) counters: Arc<Counters>,
    /// The last channels that were stopped.
    #[pin]
    pub(crate) fault_log: FaultLog,
    #[pin]
    pub(crate) tlb: Tlb,
    /// Channel table; the index is the hardware's channel ID.
    #[pin]
    channels: Mutex<[Option<Arc<Channel>>; CHANNELS]>,
    #[pin]
    pub(crate) slots: Mutex<Slots>,
    /// Address spaces, for shutdown.
    #[pin]
    svms: Mutex<KVec<Arc<Svm>>>,
    #[pin]
    pub(crate) faults: Mutex<Option<FaultBuffers>>,
    /// Registers that stop a channel; one channel at a time.
    #[pin]
    pub(crate) preempt: Mutex<()>,
    #[pin]
    runlists: Mutex<Runlists>,
    lost: Atomic<bool>,
    /// While the device is being reset.
    resetting: Atomic<bool>,
    /// Closed while the device is being reset.
    #[pin]
    pub(crate) gate: Gate,
    /// Runs what signals fences: interrupts, finished work, the watchdog. Nothing in it waits for memory or for a program.
    pub(crate) queue: OwnedQueue,
    /// Runs the service of faults, which may wait for programs.
    ///
    /// `shutdown` empties both queues, so the last reference to the device is never dropped in them.
    pub(crate) service: OwnedQueue,
    #[pin]
    stall_work: Work<Gpu, STALL_WORK>,
    #[pin]
    non_stall_work: Work<Gpu, NON_STALL_WORK>,
    #[pin]
    watchdog: DelayedWork<Gpu, WATCHDOG>,
}

impl_has_work! {
    impl HasWork<Self, STALL_WORK> for Gpu { self.stall_work }
    impl HasWork<Self, NON_STALL_WORK> for Gpu { self.non_stall_work }
}

impl_has_delayed_work! {
    impl HasDelayedWork<Self, WATCHDOG> for Gpu { self.watchdog }
}

impl WorkItem<STALL_WORK> for Gpu {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        this.service_stall();
    }
}

impl WorkItem<NON_STALL_WORK> for Gpu {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        this.service_non_stall();
    }
}

impl Gpu {
    /// Brings the device up, interrupts still off.
    ///
    /// # Errors
    ///
    /// `ENODEV`: this is no device that the driver knows. `EOPNOTSUPP`: it cannot mirror memory. `ENOMEM`.
    pub(crate) fn new(pdev: &pci::Device<Bound>, res: GpuResources) -> Result<Arc<Self>> {
        let bar0 = Arc::new(res.bar0, GFP_KERNEL)?;
        let chipset = bar0.read(NV_PMC_BOOT_0).into_raw();
        if chipset == 0 || chipset == u32::MAX {
            dev_err!(
                pdev,
                "no answer from the device (NV_PMC_BOOT_0 = {chipset:#x})\n"
            );
            return Err(ENODEV);
        }
        // Whoever had the device before may have left interrupts on.
        disarm(&bar0);
        let counters = Arc::new(Counters::new(), GFP_KERNEL)?;
        let vram = Vram::new(res.bar1)?;
        let dma = MirrorDma::new(pdev)?;
        let queue = OwnedQueue::new(c"mirage", Progress::ForReclaim)?;
        let service = OwnedQueue::new(c"mirage_service", Progress::MayWait(svms::WORKERS_MAX))?;
        let runlists = Runlists::new(&vram)?;
        let tlb_bar0 = bar0.clone();
        let tlb_counters = counters.clone();
        let gpu = Arc::pin_init(
            try_pin_init!(Self {
                bar0,
                vram,
                dma,
                counters,
                fault_log <- FaultLog::new(),
                tlb <- Tlb::new(tlb_bar0, tlb_counters),
                channels <- new_mutex!([const { None }; CHANNELS], "mirage::channels"),
                slots <- new_mutex!(Slots::new(), "mirage::slots"),
                svms <- new_mutex!(KVec::new(), "mirage::svms"),
                faults <- new_mutex!(None, "mirage::faults"),
                preempt <- new_mutex!((), "mirage::preempt"),
                runlists <- new_mutex!(runlists, "mirage::runlists"),
                lost: Atomic::new(false),
                resetting: Atomic::new(false),
                gate <- Gate::new(),
                queue,
                service,
                stall_work <- new_work!("mirage::stall"),
                non_stall_work <- new_work!("mirage::non_stall"),
                watchdog <- new_delayed_work!("mirage::watchdog"),
            }? Error),
            GFP_KERNEL,
        )?;
        // Last: the device writes into them from now on, and `shutdown` stops that.
        let buffers = FaultBuffers::new(&gpu.bar0, &gpu.dma)?;
        *gpu.faults.lock() = Some(buffers);
        Ok(gpu)
    }

    /// A parameter, in the unit that the user interface gives.
    pub(crate) fn param(&self, param: Param) -> u64 {
        match param {
            Param::Chipset => self.bar0.read(NV_PMC_BOOT_0).value().get().into(),
            Param::VramSize => self.vram.size(),
            Param::ComputeClass => MIRAGE_COMPUTE_A.into(),
            Param::ChannelsMax => CHANNELS as u64,
            Param::UnmanagedAlign | Param::UnmanagedMin => REGION_SIZE,
            Param::PushMax => PUSH_MAX as u64,
            Param::Features => FEATURES.into(),
            Param::CopyClass => VOLTA_DMA_COPY_A.into(),
            Param::CopyEngines => COPY_ENGINES.len() as u64,
            Param::PushesMax => PUSHES_MAX.into(),
            Param::SyncsMax => SYNCS_MAX.into(),
            Param::ChannelsPerFile => CHANNELS_PER_FILE as u64,
            Param::TimeoutDefault => TIMEOUT_DEFAULT_MS.into(),
            Param::TimeoutMax => TIMEOUT_MAX_MS.into(),
            Param::QueryPagesMax => QUERY_PAGES_MAX as u64,
        }
    }

    /// The channel whose instance block is at `inst`.
    pub(crate) fn channel_of(&self, inst: VramOffset) -> Option<Arc<Channel>> {
        let channels = self.channels.lock();
        channels
            .iter()
            .flatten()
            .find(|channel| channel.inst() == inst)
            .cloned()
    }

    /// The channel with a hardware ID.
    pub(crate) fn channel(&self, id: ChannelId) -> Option<Arc<Channel>> {
        self.channels.lock().get(id.index())?.clone()
    }

    /// Puts a channel that is started into the table.
    ///
    /// # Errors
    ///
    /// `ENODEV`: the device is lost. `EAGAIN`: it is being reset.
    pub(crate) fn insert_channel(self: &Arc<Self>, channel: &Arc<Channel>) -> Result {
        let mut channels = self.channels.lock();
        self.check_usable()?;
        *channels.get_mut(channel.id().index()).ok_or(EINVAL)? = Some(channel.clone());
        self.start_watchdog();
        Ok(())
    }

    /// Takes the channels out of the table that `which` names.
    pub(crate) fn remove_channels(
        &self,
        which: impl Fn(&Channel) -> bool,
    ) -> [Option<Arc<Channel>>; CHANNELS] {
        let mut removed = [const { None }; CHANNELS];
        let mut channels = self.channels.lock();
        for (slot, out) in channels.iter_mut().zip(&mut removed) {
            if slot.as_ref().is_some_and(|channel| which(channel)) {
                *out = slot.take();
            }
        }
        removed
    }

    /// Calls `f` for every channel, with no lock held.
    fn each_channel(&self, mut f: impl FnMut(&Arc<Channel>)) {
        (0..CHANNELS as u32)
            .filter_map(|id| self.channel(ChannelId::new(id)?))
            .for_each(|channel| f(&channel));
    }

    /// Has an engine run a channel, as soon as that is enabled.
    pub(crate) fn runlist_add(&self, channel: RunlistChannel) -> Result {
        self.runlists.lock().add(&self.vram, &self.bar0, channel)
    }

    /// Takes a channel that does not run off its runlist.
    pub(crate) fn runlist_remove(&self, engine: Engine, id: ChannelId) -> Result {
        let mut runlists = self.runlists.lock();
        runlists.remove(&self.vram, &self.bar0, engine, id)
    }

    /// Nanoseconds of the device's clock, which fault packets carry.
    pub(crate) fn ptimer_ns(&self) -> u64 {
        ptimer_ns(&self.bar0)
    }

    /// Waits until the fault packets that were there have been handed out.
    pub(crate) fn flush_faults(&self) {
        flush_work(&self.stall_work);
    }

    /// Whether channels can be started.
    ///
    /// # Errors
    ///
    /// `ENODEV`: the device is lost. `EAGAIN`: it is being reset.
    pub(crate) fn check_usable(&self) -> Result {
        if self.is_lost() {
            return Err(ENODEV);
        }
        if self.is_resetting() {
            return Err(EAGAIN);
        }
        Ok(())
    }

    /// Whether the device is being reset. Set before update locks are taken to empty the page tables.
    pub(crate) fn is_resetting(&self) -> bool {
        self.resetting.load(Relaxed)
    }

    /// Whether the device is stopped or gone.
    pub(crate) fn is_lost(&self) -> bool {
        self.lost.load(Relaxed)
    }

    /// Drops translations; when it returns, the device cannot use them any more.
    pub(crate) fn tlb_invalidate(self: &Arc<Self>, scope: &Scope) {
        if self.tlb.lock().invalidate(scope).is_err() {
            self.stop_dma("a TLB invalidate was not acknowledged");
        }
    }

    /// The device does not do what it must: takes it off the bus, so that it can reach no page any more, and has its
    /// channels ended. Does not sleep.
    pub(crate) fn stop_dma(self: &Arc<Self>, why: &str) {
        self.dma.stop();
        // It reaches nothing now, so nobody has to wait for it to forget a translation.
        self.tlb.give_up();
        if !self.lost.xchg(true, Full) {
            dev_err!(self.dma.dev(), "device stopped: {why}\n");
            drop(self.queue.enqueue::<_, STALL_WORK>(self.clone()));
        }
    }

    /// First step of unbind: ends all work, so that no ioctl waits for the device any more.
    pub(crate) fn stop(&self) {
        self.lost.store(true, Relaxed);
        // Who looked before that, under its lock, has put its channel or address space in by now. One lock after the other: memory is
        // allocated under the second, and fences signal by way of the first.
        drop(self.channels.lock());
        drop(self.svms.lock());
        self.each_channel(|channel| channel.end(ENODEV, None));
    }

    /// Last step of unbind, when no ioctl and no interrupt handler runs: gives all memory and mappings back.
    pub(crate) fn shutdown(self: &Arc<Self>) {
        self.stop();
        self.stop_watchdog();
        // In this order: interrupt work starts service, which on a device that is lost starts no interrupt work.
        self.queue.flush();
        self.service.flush();
        for channel in self.remove_channels(|_| true).into_iter().flatten() {
            channel.release();
        }
        let svms = core::mem::replace(&mut *self.svms.lock(), KVec::new());
        for svm in svms {
            svm.lose_device();
        }
        disarm(&self.bar0);
        let buffers = self.faults.lock().take();
        if let Some(buffers) = buffers {
            buffers.disable(&self.bar0);
        }
        self.queue.flush();
    }
}
