// SPDX-License-Identifier: GPL-2.0

//! One channel: its ring, the work in flight, and how it ends.
//!
//! Owner: the channel table of [`Gpu`]. A channel is live until it fails, is freed, or the device goes; then the hardware has
//! been made to forget it, all fences of unfinished work have signalled with an error, and EXEC gives the error.
//!
//! Everything that the hardware reads for a channel is in one piece of coherent memory, mapped at a fixed place in the unmanaged range.
//! The program can write there through the GPU. That hurts no one but itself: addresses in it are translated by the program's own page tables,
//! and the driver takes nothing from it but the semaphore, which can only finish work of the same channel early.

use crate::{
    gpu::Gpu,
    kapi::{
        coherent::CoherentBuf,
        errno,
        fence::{Fence, FenceTimeline, NewFence},
        mmio,
        syncobj::Syncobj,
    },
    push,
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

/// Channels of a device.
pub(crate) const CHANNELS: usize = 64;
/// Bytes of coherent memory of a channel.
pub(crate) const CHANNEL_MEM: u64 = 256 << 10;
/// Most bytes of one push buffer.
pub(crate) const PUSH_MAX: usize = 64 << 10;

// Layout of the coherent memory.
const USERD: usize = 0;
const SEMAPHORE: usize = 0x1000;
const GPFIFO: usize = 0x2000;
const FENCES: usize = 0x3000;
const PUSHES: usize = 0x10000;
const PUSHES_SIZE: usize = CHANNEL_MEM as usize - PUSHES;

/// log2 of the number of GP entries; each piece of work takes two.
const GP_ENTRIES_LOG2: u32 = 8;
const GP_ENTRIES: u32 = 1 << GP_ENTRIES_LOG2;
/// Most pieces of work in flight; one less than fit, so that a full ring is not an empty one.
const JOBS_MAX: usize = (GP_ENTRIES / 2 - 1) as usize;
/// Bytes between the driver's own push buffers.
const FENCE_STRIDE: usize = 32;
/// Longest wait for the hardware to let go of a channel.
const PREEMPT_TIMEOUT: Delta = Delta::from_secs(2);

const _: () = assert!(USERD_SIZE <= SEMAPHORE && GPFIFO + GP_ENTRIES as usize * 8 <= FENCES);
const _: () = assert!(
    FENCES + GP_ENTRIES as usize / 2 * FENCE_STRIDE <= PUSHES
        && push::FENCE_WORDS * 4 <= FENCE_STRIDE
);
const _: () = assert!(PUSH_MAX * 2 < PUSHES_SIZE);

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

/// Work in flight.
struct Job {
    fence: Fence,
    /// Where its push buffer begins in the ring.
    push_start: usize,
}

struct State {
    /// Taken when the channel is released.
    mem: Option<CoherentBuf>,
    /// Why the channel takes no more work.
    error: Option<Error>,
    /// Oldest first. Has room for [`JOBS_MAX`], so that no memory is allocated while a fence is unsignalled.
    jobs: KVec<Job>,
    gp_put: u32,
    /// Where the next push buffer goes.
    push_next: usize,
}

/// One channel.
#[pin_data]
pub(crate) struct Channel {
    id: ChannelId,
    gpu: Arc<Gpu>,
    svm: Arc<Svm>,
    inst: VramPage,
    /// GPU address of the coherent memory.
    va: u64,
    timeline: FenceTimeline,
    #[pin]
    state: Mutex<State>,
    /// Signalled when work is finished or the channel ends.
    #[pin]
    progress: CondVar,
}

impl Channel {
    /// Makes a channel that is not started. `va` is where `mem` is mapped.
    pub(crate) fn new(
        id: ChannelId,
        svm: &Arc<Svm>,
        mem: &CoherentBuf,
        va: u64,
    ) -> Result<Arc<Self>> {
        let gpu = svm.gpu();
        let inst = gpu.vram.alloc_page()?;
        write_instance_block(gpu, inst.offset(), svm.pdb(), mem, va)?;
        let state = State {
            mem: None,
            error: None,
            jobs: KVec::with_capacity(JOBS_MAX, GFP_KERNEL)?,
            gp_put: 0,
            push_next: 0,
        };
        Arc::pin_init(
            try_pin_init!(Self {
                id,
                gpu: gpu.clone(),
                svm: svm.clone(),
                inst,
                va,
                timeline: FenceTimeline::new(c"mirage"),
                state <- new_mutex!(state, "mirage::channel"),
                progress <- new_condvar!("mirage::progress"),
            }? Error),
            GFP_KERNEL,
        )
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

    /// Appends a push buffer.
    ///
    /// # Errors
    ///
    /// `EIO` or `ENODEV`: the channel has ended. `EINTR`: a signal came while the ring was full. `ENOMEM`.
    pub(crate) fn exec(&self, push: &[u32], out_sync: Option<&Syncobj>) -> Result {
        push::validate(push)?;
        let bytes = push
            .len()
            .checked_mul(4)
            .filter(|n| *n <= PUSH_MAX)
            .ok_or(EINVAL)?;
        let new_fence = NewFence::alloc()?;
        let mut state = self.state.lock();
        let start = loop {
            state.error.map_or(Ok(()), Err)?;
            self.retire(&mut state)?;
            if let Some(start) = state.push_space(bytes) {
                break start;
            }
            if self.progress.wait_interruptible(&mut state) {
                return Err(EINTR);
            }
        };
        let fence = self.timeline.emit(new_fence);
        self.write_job(&mut state, start, push, &fence)?;
        if let Some(sync) = out_sync {
            sync.replace_fence(&fence);
        }
        state.push_next = start + bytes;
        let job = Job {
            fence,
            push_start: start,
        };
        state.jobs.push_within_capacity(job).map_err(|_| ENOSPC)?;
        self.gpu.counters.execs.inc();
        self.ring_doorbell();
        Ok(())
    }

    /// Signals the fences of work that is finished.
    pub(crate) fn complete(&self) {
        let mut state = self.state.lock();
        // Fails only after release, when there is no work.
        let _ = self.retire(&mut state);
    }

    /// Ends the channel because of a bad method.
    pub(crate) fn fail_method(&self, method: u32) {
        self.fail(FaultReport::new(
            self.id,
            u64::from(method),
            ReportAccess::None,
            Reason::Method,
        ));
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
        // What was finished was finished.
        let _ = self.retire(&mut state);
        for job in state.jobs.drain_all() {
            job.fence.signal_error(error);
        }
        drop(state);
        self.progress.notify_all();
    }

    /// Ends the channel and gives its memory back. It is out of the channel table.
    pub(crate) fn release(&self) {
        self.end(errno::canceled(), None);
        let mem = self.state.lock().mem.take();
        if let Some(mem) = mem {
            // The GPU must forget the memory before it is freed.
            self.svm.unmap_unmanaged(self.va);
            drop(mem);
        }
    }

    /// Takes finished work off the queue and signals it.
    fn retire(&self, state: &mut State) -> Result {
        let mem = state.mem.as_ref().ok_or(ENODEV)?;
        let done = mem.read32(SEMAPHORE)?;
        let before = state.jobs.len();
        while let Some(job) = state.jobs.first() {
            // CAST: The semaphore holds the low half of the sequence number; far fewer than 2^31 are in flight.
            if done.wrapping_sub(job.fence.seqno() as u32) > u32::MAX / 2 {
                break;
            }
            job.fence.signal(Ok(()));
            state.jobs.remove(0).map_err(|_| EINVAL)?;
        }
        if state.jobs.len() != before {
            self.progress.notify_all();
        }
        Ok(())
    }

    /// Writes push buffers and GP entries, and makes them visible to the hardware with GP_PUT.
    fn write_job(&self, state: &mut State, start: usize, words: &[u32], fence: &Fence) -> Result {
        let mem = state.mem.as_ref().ok_or(ENODEV)?;
        let put = state.gp_put;
        for (i, word) in words.iter().enumerate() {
            mem.write32(PUSHES + start + i * 4, *word)?;
        }
        let slot = FENCES + put as usize / 2 * FENCE_STRIDE;
        // CAST: The low half of the sequence number.
        let fence_words = push::fence(self.va + SEMAPHORE as u64, fence.seqno() as u32)?;
        for (i, word) in fence_words.iter().enumerate() {
            mem.write32(slot + i * 4, *word)?;
        }
        write_gp_entry(mem, put, self.va + (PUSHES + start) as u64, words.len())?;
        write_gp_entry(mem, put + 1, self.va + slot as u64, push::FENCE_WORDS)?;
        mmio::wmb();
        state.gp_put = (put + 2) % GP_ENTRIES;
        mem.write32(USERD + USERD_GP_PUT, state.gp_put)?;
        mmio::wmb();
        Ok(())
    }

    fn ring_doorbell(&self) {
        self.gpu
            .bar0
            .write_reg(NV_USERMODE_NOTIFY_CHANNEL_PENDING::from(self.id.get()));
    }

    /// Gives the channel its memory and lets the hardware run it.
    pub(crate) fn start(&self, mem: CoherentBuf) -> Result {
        self.state.lock().mem = Some(mem);
        let inst = NV_PCCSR_CHANNEL_INST::try_at(self.id.index()).ok_or(EINVAL)?;
        let ccsr = NV_PCCSR_CHANNEL::try_at(self.id.index()).ok_or(EINVAL)?;
        let ptr = u32::try_from(self.inst.offset().0 >> 12)?;
        mmio::wmb();
        self.gpu.bar0.write(
            inst,
            NV_PCCSR_CHANNEL_INST::zeroed()
                .try_with_ptr(ptr)?
                .try_with_target(Target::VidMem as u32)?
                .with_bind(true),
        );
        self.gpu
            .bar0
            .write(ccsr, NV_PCCSR_CHANNEL::zeroed().with_enable_set(true));
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

impl State {
    /// Where `bytes` of push buffer fit, if they do now.
    fn push_space(&self, bytes: usize) -> Option<usize> {
        let Some(oldest) = self.jobs.first() else {
            return Some(0);
        };
        if self.jobs.len() >= JOBS_MAX {
            return None;
        }
        // In use is what lies from the oldest push buffer to `push_next`, round the corner or not. They are never equal
        // while there is work.
        let (head, tail) = (oldest.push_start, self.push_next);
        if tail <= head {
            return (head - tail > bytes).then_some(tail);
        }
        if PUSHES_SIZE - tail >= bytes {
            return Some(tail);
        }
        (head > bytes).then_some(0)
    }
}

fn write_gp_entry(mem: &CoherentBuf, index: u32, va: u64, words: usize) -> Result {
    let at = GPFIFO + (index % GP_ENTRIES) as usize * 8;
    let high = GpEntry1::zeroed()
        .try_with_get_hi(u32::try_from(va >> 32)?)?
        .try_with_length(u32::try_from(words)?)?;
    // CAST: The low half.
    mem.write32(at, va as u32)?;
    mem.write32(at + 4, high.into_raw())
}

/// Fills in a zeroed instance block.
fn write_instance_block(
    gpu: &Gpu,
    at: VramOffset,
    pdb: VramOffset,
    mem: &CoherentBuf,
    va: u64,
) -> Result {
    let userd = mem.dma_addr() + USERD as u64;
    let gpfifo = va + GPFIFO as u64;
    // CAST: Low halves of 64-bit addresses, masked to the fields.
    let userd_lo = RamfcUserdLo::from(userd as u32 & !(USERD_SIZE as u32 - 1))
        .try_with_target(Target::SysMemCoherent as u32)?;
    let gp_hi = RamfcGpBaseHi::zeroed()
        .try_with_base(u32::try_from(gpfifo >> 32)?)?
        .try_with_limit2(GP_ENTRIES_LOG2)?;
    let pdb_lo = RaminPdbLo::from(pdb.0 as u32 & !0xfff)
        .try_with_target(Target::VidMem as u32)?
        .with_vol(true)
        .with_fault_replay_tex(true)
        .with_fault_replay_gcc(true)
        .with_use_ver2_pt_format(true)
        .with_big_page_size_64k(true);
    for (offset, value) in [
        (ramin::USERD_LO, userd_lo.into_raw()),
        (ramin::USERD_HI, u32::try_from(userd >> 32)?),
        (ramin::SIGNATURE, ramin::SIGNATURE_VALUE),
        (ramin::GP_BASE, gpfifo as u32),
        (ramin::GP_BASE_HI, gp_hi.into_raw()),
        (ramin::PDB_LO, pdb_lo.into_raw()),
        (ramin::PDB_HI, u32::try_from(pdb.0 >> 32)?),
    ] {
        gpu.vram.write32(at.add(offset as u64), value)?;
    }
    Ok(())
}
