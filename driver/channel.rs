// SPDX-License-Identifier: GPL-2.0

//! One channel: how work gets on it, and how it ends.
//!
//! Owner: the channel table of [`Gpu`]. A channel is live until it fails, is freed, or the device goes; then the hardware has
//! been made to forget it, all fences of unfinished work have signalled with an error, and EXEC gives the error. One that failed
//! can be reset: it begins anew, with an empty queue.

use crate::{
    gpu::Gpu,
    kapi::{coherent::CoherentBuf, errno, fence::FenceTimeline, mmio, workqueue::flush_work},
    ram::Target,
    regs::*,
    runlist::RunlistChannel,
    svm::Svm,
    vram::{VramOffset, VramPage},
};
use kernel::{
    impl_has_work,
    io::register::Array,
    new_condvar, new_mutex, new_work,
    prelude::*,
    sync::{atomic::Atomic, Arc, CondVar, Mutex},
    time::{delay, Delta, Instant, Monotonic},
    workqueue::Work,
};

mod exec;
mod faulted;
mod fifo;
mod queue;
mod ring;
mod robust;
mod slot;

pub(crate) use exec::{Exec, Room};
use faulted::FaultState;
pub(crate) use faulted::LookTime;
use queue::Queue;
use ring::Ring;
pub(crate) use ring::{CHANNEL_MEM, MAPPED};
use robust::timeout_ns;
pub(crate) use robust::Notifier;
pub(crate) use slot::{EngineKind, Slot, Slots};

/// Channels of a device.
pub(crate) const CHANNELS: usize = 128;
/// Channels of one file, so that others get some.
pub(crate) const CHANNELS_PER_FILE: usize = 48;
/// Most bytes of all push buffers of one EXEC.
pub(crate) const PUSH_MAX: usize = 64 << 10;
/// Most push buffers of one EXEC.
pub(crate) const PUSHES_MAX: u32 = 256;
/// Most fences that one EXEC waits for, and most places that get its fence.
pub(crate) const SYNCS_MAX: u32 = 256;
/// Time-out of a channel that asks for none.
pub(crate) const TIMEOUT_DEFAULT_MS: u32 = 120_000;
/// Longest time-out of a channel.
pub(crate) const TIMEOUT_MAX_MS: u32 = 3_600_000;
/// Longest wait for the hardware to let go of a channel.
const PREEMPT_TIMEOUT: Delta = Delta::from_secs(5);

/// A hardware channel ID, less than [`CHANNELS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ChannelId(u32);

impl ChannelId {
    /// `None` if there is no such channel.
    pub(crate) fn new(id: u32) -> Option<Self> {
        ((id as usize) < CHANNELS).then_some(Self(id))
    }

    /// Position in tables.
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }

    /// The number, as programs see it.
    pub(crate) fn get(self) -> u32 {
        self.0
    }
}

struct State {
    /// Taken when the channel is released.
    ring: Option<Ring>,
    queue: Queue,
    /// The hardware channel; given back when the channel is released.
    slot: Option<Slot>,
    /// Why the channel takes no more work: `EIO` can be reset, the others are for good.
    error: Option<Error>,
    notifier: Notifier,
}

/// One channel.
#[pin_data]
pub(crate) struct Channel {
    id: ChannelId,
    engine: Engine,
    gpu: Arc<Gpu>,
    svm: Arc<Svm>,
    inst: VramPage,
    /// GPU address of the ring.
    va: u64,
    timeline: FenceTimeline,
    #[pin]
    state: Mutex<State>,
    #[pin]
    faults: FaultState,
    /// Signalled when work is finished or the channel ends.
    #[pin]
    progress: CondVar,
    /// When work last got on, CLOCK_MONOTONIC in nanoseconds.
    progress_at: Atomic<u64>,
    timeout_ns: u64,
    /// Lets work begin whose fences have signalled.
    #[pin]
    work: Work<Channel>,
}

impl_has_work! {
    impl HasWork<Self> for Channel { self.work }
}

/// How a channel is made.
#[derive(Clone, Copy)]
pub(crate) struct ChannelConfig {
    pub(crate) engine: EngineKind,
    /// How long work may run without getting on; 0 stands for the default.
    pub(crate) timeout_ms: u32,
}

impl Channel {
    /// Makes a channel that is not started. Its memory is or will be mapped at `va`.
    pub(crate) fn new(
        slot: Slot,
        svm: &Arc<Svm>,
        va: u64,
        config: ChannelConfig,
    ) -> Result<Arc<Self>> {
        let gpu = svm.gpu();
        let (id, engine) = (slot.id, slot.engine);
        let state = State {
            ring: None,
            queue: Queue::new()?,
            slot: Some(slot),
            error: None,
            notifier: Notifier::default(),
        };
        Arc::pin_init(
            try_pin_init!(Self {
                id,
                engine,
                gpu: gpu.clone(),
                svm: svm.clone(),
                inst: gpu.vram.alloc_page()?,
                va,
                timeline: FenceTimeline::new(c"mirage"),
                state <- new_mutex!(state, "mirage::channel"),
                faults <- FaultState::new(),
                progress <- new_condvar!("mirage::progress"),
                progress_at: Atomic::new(0),
                timeout_ns: timeout_ns(config.timeout_ms),
                work <- new_work!("mirage::channel_work"),
            }? Error),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// Maps `mem`, and lets the hardware run the channel. After an error the channel must be released.
    pub(crate) fn start(&self, mem: CoherentBuf) -> Result {
        let dma = mem.dma_addr();
        let ring = Ring::new(mem, self.va)?;
        ring.write_instance_block(&self.gpu, self.inst.offset(), self.svm.pdb())?;
        let userd = ring.userd();
        // From here on release unmaps the memory before it frees it.
        self.state.lock().ring = Some(ring);
        self.svm.map_unmanaged(self.va, dma)?;
        self.start_hardware(userd)
    }

    /// The hardware ID.
    pub(crate) fn id(&self) -> ChannelId {
        self.id
    }

    /// Address of the instance block, which is what fault packets name.
    pub(crate) fn inst(&self) -> VramOffset {
        self.inst.offset()
    }

    /// The address space that it runs in.
    pub(crate) fn svm(&self) -> &Arc<Svm> {
        &self.svm
    }

    /// Ends the channel and gives its memory back. It is out of the channel table.
    pub(crate) fn release(&self) {
        self.end(errno::canceled(), None);
        let ring = self.state.lock().ring.take();
        if let Some(ring) = ring {
            // The GPU must forget the memory before it is freed.
            self.svm.unmap_unmanaged(self.va);
            drop(ring);
        }
        // Nothing queues it any more: who waited for fences has been dropped.
        flush_work(&self.work);
        let slot = self.state.lock().slot.take();
        drop(slot);
    }

    /// Lets the hardware run the channel, whose USERD is at bus address `userd`.
    fn start_hardware(&self, userd: u64) -> Result {
        let inst = NV_PCCSR_CHANNEL_INST::try_at(self.id.index()).ok_or(EINVAL)?;
        let ccsr = NV_PCCSR_CHANNEL::try_at(self.id.index()).ok_or(EINVAL)?;
        let bind = NV_PCCSR_CHANNEL_INST::zeroed()
            .try_with_ptr(u32::try_from(self.inst.offset().0 >> 12)?)?
            .try_with_target(Target::VidMem as u32)?
            .with_bind(true);
        mmio::wmb();
        self.forget_faults();
        self.gpu.bar0.write(inst, bind);
        self.gpu.runlist_add(RunlistChannel {
            engine: self.engine,
            id: self.id,
            inst: self.inst.offset(),
            userd,
        })?;
        let enable = NV_PCCSR_CHANNEL::zeroed().with_enable_set(true);
        self.gpu.bar0.write(ccsr, enable);
        Ok(())
    }

    /// The kill sequence: from its end on nothing reaches memory on behalf of the channel.
    fn stop_hardware(&self) -> Result {
        let ccsr = NV_PCCSR_CHANNEL::try_at(self.id.index()).ok_or(EINVAL)?;
        let inst = NV_PCCSR_CHANNEL_INST::try_at(self.id.index()).ok_or(EINVAL)?;
        let bar0 = &self.gpu.bar0;
        let _one_at_a_time = self.gpu.preempt.lock();
        // One channel that did not stop is enough to wait for: it was cut off from memory then, with all others.
        if self.gpu.tlb.is_given_up() {
            return Ok(());
        }
        bar0.write(ccsr, NV_PCCSR_CHANNEL::zeroed().with_enable_clr(true));
        bar0.write_reg(NV_PFIFO_PREEMPT::zeroed().try_with_id(self.id.get())?);
        let begin = Instant::<Monotonic>::now();
        loop {
            // Whoever was held up looks once more.
            let late = begin.elapsed() > PREEMPT_TIMEOUT;
            let preempt = bar0.read(NV_PFIFO_PREEMPT);
            // All ones: the device is gone, and with it the channel.
            if !preempt.pending() || preempt.into_raw() == u32::MAX {
                break;
            }
            if late {
                return Err(ETIMEDOUT);
            }
            delay::fsleep(Delta::from_micros(50));
        }
        self.gpu.runlist_remove(self.engine, self.id)?;
        bar0.write(inst, NV_PCCSR_CHANNEL_INST::zeroed());
        Ok(())
    }
}
