// SPDX-License-Identifier: GPL-2.0

//! One channel: how work gets on it, and how it ends.
//!
//! Owner: the channel table of [`Gpu`]. A channel is live until it fails, is freed, or the device goes; then the hardware has
//! been made to forget it, all fences of unfinished work have signalled with an error, and EXEC gives the error.

use crate::{
    gpu::Gpu,
    kapi::{
        coherent::CoherentBuf,
        errno,
        fence::{FenceTimeline, NewFence},
        mmio,
        syncobj::{
            InFence,
            Signal, //
        },
    },
    ram::Target,
    regs::*,
    svm::{FaultReport, Reason, ReportAccess, Svm},
    vram::{VramOffset, VramPage},
};
use kernel::{
    io::register::Array,
    new_condvar, new_mutex,
    prelude::*,
    sync::{Arc, CondVar, Mutex},
    time::{delay, Delta, Instant, Monotonic},
};

mod ring;

use ring::Ring;
pub(crate) use ring::CHANNEL_MEM;

/// Channels of a device.
pub(crate) const CHANNELS: usize = 64;
/// Most bytes of all push buffers of one EXEC.
pub(crate) const PUSH_MAX: usize = 64 << 10;
/// Most push buffers of one EXEC.
pub(crate) const PUSHES_MAX: u32 = 256;
/// Most fences that one EXEC waits for, and most places that get its fence.
pub(crate) const SYNCS_MAX: u32 = 256;
/// Time-out of a channel that asks for none.
pub(crate) const TIMEOUT_DEFAULT_MS: u32 = 30_000;
/// Longest time-out of a channel.
pub(crate) const TIMEOUT_MAX_MS: u32 = 3_600_000;
/// Longest wait for the hardware to let go of a channel.
const PREEMPT_TIMEOUT: Delta = Delta::from_secs(2);

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

/// One EXEC, validated.
pub(crate) struct Exec {
    /// All push buffers, one behind the other, each a sequence of whole methods.
    pub(crate) words: KVVec<u32>,
    /// To wait for before it runs.
    pub(crate) waits: KVec<InFence>,
    /// Get its fence.
    pub(crate) signals: KVec<Signal>,
}

struct State {
    /// Taken when the channel is released.
    ring: Option<Ring>,
    /// Why the channel takes no more work.
    error: Option<Error>,
}

/// One channel.
#[pin_data]
pub(crate) struct Channel {
    id: ChannelId,
    gpu: Arc<Gpu>,
    svm: Arc<Svm>,
    inst: VramPage,
    /// GPU address of the ring.
    va: u64,
    timeline: FenceTimeline,
    #[pin]
    state: Mutex<State>,
    /// Signalled when work is finished or the channel ends.
    #[pin]
    progress: CondVar,
}

impl Channel {
    /// Makes a channel that is not started. Its memory is or will be mapped at `va`.
    pub(crate) fn new(id: ChannelId, svm: &Arc<Svm>, va: u64) -> Result<Arc<Self>> {
        let gpu = svm.gpu();
        let state = State {
            ring: None,
            error: None,
        };
        Arc::pin_init(
            try_pin_init!(Self {
                id,
                gpu: gpu.clone(),
                svm: svm.clone(),
                inst: gpu.vram.alloc_page()?,
                va,
                timeline: FenceTimeline::new(c"mirage"),
                state <- new_mutex!(state, "mirage::channel"),
                progress <- new_condvar!("mirage::progress"),
            }? Error),
            GFP_KERNEL,
        )
    }

    /// Maps `mem`, and lets the hardware run the channel. After an error the channel must be released.
    pub(crate) fn start(&self, mem: CoherentBuf) -> Result {
        let dma = mem.dma_addr();
        let ring = Ring::new(mem, self.va)?;
        ring.write_instance_block(&self.gpu, self.inst.offset(), self.svm.pdb())?;
        // From here on release unmaps the memory before it frees it.
        self.state.lock().ring = Some(ring);
        self.svm.map_unmanaged(self.va, dma)?;
        self.start_hardware()
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

    /// Appends work.
    ///
    /// # Errors
    ///
    /// `EIO` or `ENODEV`: the channel has ended. `EINTR`: a signal came while the ring was full. `ENOMEM`.
    pub(crate) fn exec(&self, exec: Exec) -> Result {
        let bytes = size_of_val(&*exec.words);
        let new_fence = NewFence::alloc()?;
        exec.waits.iter().try_for_each(InFence::wait)?;
        let mut state = self.state.lock();
        let room = loop {
            state.error.map_or(Ok(()), Err)?;
            let ring = state.ring.as_mut().ok_or(ENODEV)?;
            ring.retire()?;
            if let Some(room) = ring.room(bytes) {
                break room;
            }
            if self.progress.wait_interruptible(&mut state) {
                return Err(EINTR);
            }
        };
        let fence = self.timeline.emit(new_fence);
        let ring = state.ring.as_mut().ok_or(ENODEV)?;
        ring.submit(room, &exec.words, fence.clone())?;
        for signal in exec.signals {
            signal.install(&fence);
        }
        self.gpu.counters.execs.inc();
        let doorbell = NV_USERMODE_NOTIFY_CHANNEL_PENDING::from(self.id.get());
        self.gpu.bar0.write_reg(doorbell);
        Ok(())
    }

    /// Signals the fences of work that is finished.
    pub(crate) fn complete(&self) {
        let mut state = self.state.lock();
        // Without a ring, or with a device that is gone, there is no work.
        let retired = state.ring.as_mut().map(Ring::retire);
        drop(state);
        if matches!(retired, Some(Ok(true))) {
            self.progress.notify_all();
        }
    }

    /// Ends the channel because of a bad method.
    pub(crate) fn fail_method(&self, method: u32) {
        let (addr, access) = (u64::from(method), ReportAccess::None);
        self.fail(FaultReport::new(self.id, addr, access, Reason::Method));
    }

    /// Ends the channel because of what `report` says. Only the first end of a channel has an effect.
    pub(crate) fn fail(&self, report: FaultReport) {
        self.end(EIO, Some(report));
    }

    /// Ends the channel: the hardware forgets it, its unfinished work signals with `error`.
    pub(crate) fn end(&self, error: Error, report: Option<FaultReport>) {
        let mut state = self.state.lock();
        if state.error.is_some() {
            return;
        }
        state.error = Some(error);
        // Before the fences signal, so that who waits for them finds it.
        if let Some(report) = report {
            self.gpu.counters.channel_errors.inc();
            self.svm.report(report);
        }
        if self.stop_hardware().is_err() {
            self.gpu.stop_dma("a channel does not stop");
        }
        if let Some(ring) = &mut state.ring {
            // What was finished was finished; of a device that is gone nothing is known.
            let _ = ring.retire();
            ring.abandon(error);
        }
        drop(state);
        self.progress.notify_all();
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
    }

    fn start_hardware(&self) -> Result {
        let inst = NV_PCCSR_CHANNEL_INST::try_at(self.id.index()).ok_or(EINVAL)?;
        let ccsr = NV_PCCSR_CHANNEL::try_at(self.id.index()).ok_or(EINVAL)?;
        let bind = NV_PCCSR_CHANNEL_INST::zeroed()
            .try_with_ptr(u32::try_from(self.inst.offset().0 >> 12)?)?
            .try_with_target(Target::VidMem as u32)?
            .with_bind(true);
        mmio::wmb();
        self.gpu.bar0.write(inst, bind);
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
        bar0.write(ccsr, NV_PCCSR_CHANNEL::zeroed().with_enable_clr(true));
        bar0.write_reg(NV_PFIFO_PREEMPT::zeroed().try_with_id(self.id.get())?);
        let begin = Instant::<Monotonic>::now();
        loop {
            let preempt = bar0.read(NV_PFIFO_PREEMPT);
            // All ones: the device is gone, and with it the channel.
            if !preempt.pending() || preempt.into_raw() == u32::MAX {
                break;
            }
            if begin.elapsed() > PREEMPT_TIMEOUT {
                return Err(ETIMEDOUT);
            }
            delay::fsleep(Delta::from_micros(50));
        }
        bar0.write(inst, NV_PCCSR_CHANNEL_INST::zeroed());
        Ok(())
    }
}
