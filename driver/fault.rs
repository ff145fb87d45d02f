// SPDX-License-Identifier: GPL-2.0

//! The fault buffers: packets in, faults out to the address spaces that they belong to.
//!
//! Packets are untrusted. One that names no live channel, or makes no sense, is counted and dropped.

use crate::{
    channel::Channel,
    gpu::Gpu,
    kapi::{coherent::CoherentBuf, dma::MirrorDma, mmio, mmio::Bar0},
    ram::*,
    regs::*,
    svm::{Reason, Svm},
    vram::VramOffset,
};
use kernel::{
    alloc::flags::GFP_NOWAIT,
    io::register::Array,
    prelude::*,
    sync::Arc,
    time::{delay, Delta, Instant, Monotonic},
};

mod cursor;
use cursor::Cursor;

/// Most packets that are read before their address spaces get to work.
const BATCH: u32 = 256;
/// Looks at a packet whose VALID is not set yet, 1 us apart, before it is left for the next interrupt.
const VALID_POLLS: usize = 100;
/// Longest wait for VALID, over many interrupts.
const VALID_TIMEOUT: Delta = Delta::from_secs(1);
/// Bits of a virtual address.
pub(crate) const VA_BITS: u32 = 49;

/// What the GPU tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum FaultAccess {
    /// A hint: nobody waits for it.
    Prefetch,
    Read,
    Write,
    Atomic,
}

/// Which buffer a fault was in, and so what can be done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The access waits, and can be replayed.
    Replayable,
    /// The channel is switched out, and tries the access again when it is resumed.
    Switched(Switched),
    /// The access is over: it was cancelled. All that is left is to report it.
    Reported,
}

/// Which part of a channel cannot go on (PCCSR: ENG_FAULTED, PBDMA_FAULTED).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Switched {
    Engine,
    Pbdma,
}

/// One access that faulted.
#[derive(Clone)]
pub(crate) struct Fault {
    pub(crate) channel: Arc<Channel>,
    /// Address, 4 KiB aligned.
    pub(crate) va: u64,
    /// Nanoseconds of the device's clock.
    pub(crate) timestamp: u64,
    pub(crate) access: FaultAccess,
    pub(crate) origin: Origin,
    /// Why no service can help, if none can.
    pub(crate) fatal: Option<Reason>,
}

/// The two buffers of a device.
pub(crate) struct FaultBuffers {
    non_replayable: FaultBuffer,
    replayable: FaultBuffer,
}

/// A buffer, by its index in the register arrays.
#[derive(Clone, Copy)]
enum Kind {
    NonReplayable = 0,
    Replayable = 1,
}

/// Accesses that may wait though no fault was handed out for them.
#[derive(Default)]
struct Drained {
    /// Their packets did not fit.
    overflow: bool,
    /// Their packets made no sense.
    dropped: bool,
}

struct FaultBuffer {
    kind: Kind,
    mem: CoherentBuf,
    /// The SIZE register while the device writes.
    enabled: NV_PFB_PRI_MMU_FAULT_BUFFER_SIZE,
    cursor: Cursor,
    /// Since when the packet at GET is not complete.
    incomplete: Option<Instant<Monotonic>>,
}

impl FaultBuffers {
    /// Allocates and enables both.
    pub(crate) fn new(bar0: &Bar0, dma: &MirrorDma) -> Result<Self> {
        let buffers = Self {
            non_replayable: FaultBuffer::new(Kind::NonReplayable, bar0, dma)?,
            replayable: FaultBuffer::new(Kind::Replayable, bar0, dma)?,
        };
        // Nothing fails from here on, so no memory is freed that the device writes to.
        mmio::wmb();
        buffers.non_replayable.enable(bar0);
        buffers.replayable.enable(bar0);
        Ok(buffers)
    }

    /// Switches both off, before their memory is freed.
    pub(crate) fn disable(&self, bar0: &Bar0) {
        for buffer in [&self.non_replayable, &self.replayable] {
            let size = || NV_PFB_PRI_MMU_FAULT_BUFFER_SIZE::try_at(buffer.kind as usize);
            if let Some((write, read)) = size().zip(size()) {
                bar0.write(write, NV_PFB_PRI_MMU_FAULT_BUFFER_SIZE::zeroed());
                // The read comes back after the write has taken effect.
                bar0.read(read);
            }
        }
    }
}

/// Reads both buffers until they are empty and sets the address spaces to work.
pub(crate) fn drain(gpu: &Arc<Gpu>) {
    let mut buffers = gpu.faults.lock();
    let Some(buffers) = &mut *buffers else { return };
    let mut touched = KVec::<Arc<Svm>>::new();
    let mut replay_comes = false;
    let mut queue = |fault: Fault| {
        replay_comes = true;
        let svm = fault.channel.svm().clone();
        svm.queue_fault(fault);
        if !touched.iter().any(|other| Arc::ptr_eq(other, &svm)) {
            // Out of memory, for which fences cannot wait: start it now instead of once at the end.
            touched
                .push(svm.clone(), GFP_NOWAIT)
                .unwrap_or_else(|_| svm.start_service());
        }
    };
    // Channels whose packets are lost here the watchdog finds.
    buffers.non_replayable.drain(gpu, &mut queue);
    let drained = buffers.replayable.drain(gpu, &mut queue);
    touched.iter().for_each(Svm::start_service);
    // Without a replay, accesses whose packets were lost would stall for ever. A service that runs already may replay before an
    // overflow is cleared, and then nothing new is written.
    if drained.overflow || drained.dropped && !replay_comes {
        let _ = gpu.tlb.lock().replay(None);
    }
}

impl FaultBuffer {
    /// Allocates the buffer and tells the device where it is; not enabled yet.
    fn new(kind: Kind, bar0: &Bar0, dma: &MirrorDma) -> Result<Self> {
        let i = kind as usize;
        let size = NV_PFB_PRI_MMU_FAULT_BUFFER_SIZE::try_at(i).ok_or(EINVAL)?;
        bar0.write(
            size,
            NV_PFB_PRI_MMU_FAULT_BUFFER_SIZE::zeroed().with_set_default(true),
        );
        let size = NV_PFB_PRI_MMU_FAULT_BUFFER_SIZE::try_at(i).ok_or(EINVAL)?;
        let entries = Cursor::entries(bar0.read(size).val().get())?;
        let mem = dma.coherent(usize::try_from(entries)? * packet::SIZE)?;
        let addr = mem.dma_addr();
        let hi = NV_PFB_PRI_MMU_FAULT_BUFFER_HI::try_at(i).ok_or(EINVAL)?;
        bar0.write(
            hi,
            NV_PFB_PRI_MMU_FAULT_BUFFER_HI::from(u32::try_from(addr >> 32)?),
        );
        let lo = NV_PFB_PRI_MMU_FAULT_BUFFER_LO::try_at(i).ok_or(EINVAL)?;
        // CAST: The low half; it is page aligned.
        let lo_value = NV_PFB_PRI_MMU_FAULT_BUFFER_LO::from(addr as u32)
            .with_addr_mode_physical(true)
            .try_with_aperture(Target::SysMemCoherent as u32)?;
        bar0.write(lo, lo_value);
        // PUT stays where another user of the device left it; what was before is not for us.
        let put = NV_PFB_PRI_MMU_FAULT_BUFFER_PUT::try_at(i).ok_or(EINVAL)?;
        let cursor = Cursor::new(entries, bar0.read(put).ptr().get())?;
        let get = NV_PFB_PRI_MMU_FAULT_BUFFER_GET::try_at(i).ok_or(EINVAL)?;
        bar0.write(get, NV_PFB_PRI_MMU_FAULT_BUFFER_GET::from(cursor.get()));
        let enabled = NV_PFB_PRI_MMU_FAULT_BUFFER_SIZE::zeroed()
            .try_with_val(entries)?
            .with_overflow_intr(true)
            .with_enable(true);
        Ok(Self {
            kind,
            mem,
            enabled,
            cursor,
            incomplete: None,
        })
    }

    fn enable(&self, bar0: &Bar0) {
        if let Some(size) = NV_PFB_PRI_MMU_FAULT_BUFFER_SIZE::try_at(self.kind as usize) {
            bar0.write(size, self.enabled);
        }
    }

    /// Hands out faults until the buffer is empty, a batch is full, or a packet is not complete yet.
    fn drain(&mut self, gpu: &Gpu, mut f: impl FnMut(Fault)) -> Drained {
        let mut drained = Drained::default();
        let Some(location) = NV_PFB_PRI_MMU_FAULT_BUFFER_PUT::try_at(self.kind as usize) else {
            return drained;
        };
        let put = gpu.bar0.read(location);
        if put.into_raw() == u32::MAX {
            return drained;
        }
        let Some(waiting) = self.cursor.waiting(put.ptr().get()) else {
            gpu.counters.stale_faults.inc();
            return drained;
        };
        drained.overflow = put.overflow();
        for _ in 0..waiting.min(BATCH) {
            let fault = match self.take_packet() {
                Ok(words) => parse(gpu, self.kind, &words),
                Err(_) if self.gives_up() => None,
                Err(_) => break,
            };
            // Before it can be served.
            gpu.counters.faults.inc();
            match fault {
                Some(fault) => f(fault),
                None => {
                    gpu.counters.stale_faults.inc();
                    drained.dropped = true;
                }
            }
            self.incomplete = None;
            self.cursor.advance();
        }
        self.write_get(gpu, put);
        drained
    }

    /// Reads the packet at GET once it is complete, and clears its VALID for the next round.
    fn take_packet(&self) -> Result<[u32; packet::SIZE / 4]> {
        let base = usize::try_from(self.cursor.get())? * packet::SIZE;
        let info = base + packet::SIZE - 4;
        for polls in 0.. {
            if packet::Info::from(self.mem.read32(info)?).valid() {
                break;
            }
            if polls == VALID_POLLS {
                return Err(EAGAIN);
            }
            delay::udelay(Delta::from_micros(1));
        }
        mmio::rmb();
        let mut words = [0; packet::SIZE / 4];
        for (i, word) in words.iter_mut().enumerate() {
            *word = self.mem.read32(base + i * 4)?;
        }
        self.mem.write32(info, 0)?;
        Ok(words)
    }

    /// Whether the packet at GET has been incomplete for so long that it is taken for lost. Sleeps a little otherwise: the interrupt stays
    /// pending, and should not come again at once.
    fn gives_up(&mut self) -> bool {
        let since = *self.incomplete.get_or_insert_with(Instant::now);
        if since.elapsed() > VALID_TIMEOUT {
            return true;
        }
        delay::fsleep(Delta::from_millis(1));
        false
    }

    /// Gives the packets back to the hardware, and clears an overflow, which needs room in the buffer first.
    fn write_get(&self, gpu: &Gpu, put: NV_PFB_PRI_MMU_FAULT_BUFFER_PUT) {
        // VALID must be cleared before the hardware may write the packet again.
        mmio::wmb();
        let value = NV_PFB_PRI_MMU_FAULT_BUFFER_GET::from(self.cursor.get());
        let i = self.kind as usize;
        if let Some(get) = NV_PFB_PRI_MMU_FAULT_BUFFER_GET::try_at(i) {
            gpu.bar0.write(get, value);
        }
        if !put.overflow() && !put.getptr_corrupted() {
            return;
        }
        gpu.counters.overflows.inc();
        if let Some(get) = NV_PFB_PRI_MMU_FAULT_BUFFER_GET::try_at(i) {
            gpu.bar0
                .write(get, value.with_overflow(true).with_getptr_corrupted(true));
        }
    }
}

/// Makes a fault of a packet; `None` if it names no channel or access.
fn parse(gpu: &Gpu, kind: Kind, words: &[u32; packet::SIZE / 4]) -> Option<Fault> {
    let [inst_lo, inst_hi, addr_lo, addr_hi, time_lo, time_hi, engine, info] = *words;
    let inst = packet::Inst::from(inst_lo);
    if inst.aperture().get() != Target::VidMem as u32 {
        return None;
    }
    let inst = VramOffset(u64::from(inst_hi) << 32 | u64::from(inst.lo().get()) << 12);
    let va = u64::from(addr_hi) << 32 | u64::from(packet::Addr::from(addr_lo).lo().get()) << 12;
    let info = packet::Info::from(info);
    let access = match info.access_type().get() {
        access_type::READ => FaultAccess::Read,
        access_type::WRITE => FaultAccess::Write,
        access_type::ATOMIC_STRONG | access_type::ATOMIC_WEAK => FaultAccess::Atomic,
        access_type::PREFETCH => FaultAccess::Prefetch,
        _ => return None,
    };
    let fatal = match info.fault_type().get() {
        fault_type::PDE
        | fault_type::PTE
        | fault_type::RO_VIOLATION
        | fault_type::ATOMIC_VIOLATION => None,
        fault_type::VA_LIMIT_VIOLATION => Some(Reason::Unmanaged),
        fault_type::POISONED => Some(Reason::Bus),
        0..fault_type::END => Some(Reason::Device),
        _ => return None,
    };
    // Only one type of fault has an address that does not fit the page tables.
    if va >> VA_BITS != 0 && fatal != Some(Reason::Unmanaged) {
        return None;
    }
    let timestamp = u64::from(time_hi) << 32 | u64::from(time_lo);
    let channel = gpu
        .channel_of(inst)
        .filter(|channel| channel.is_of_this_life(timestamp))?;
    let engine = packet::Engine::from(engine).id().get();
    let origin = match kind {
        Kind::Replayable if engine_id::GRAPHICS.contains(&engine) => Origin::Replayable,
        Kind::Replayable => return None,
        Kind::NonReplayable => origin(&channel, info, engine)?,
    };
    Some(Fault {
        channel,
        va,
        timestamp,
        access,
        origin,
        fatal,
    })
}

/// What can be done about a fault that is not replayable; `None` if its channel does not wait for anything, so the packet is old.
fn origin(channel: &Channel, info: packet::Info, engine: u32) -> Option<Origin> {
    let hub = info.mmu_client_type_hub();
    let (unit, origin) = if hub && engine_id::HOSTS.contains(&engine) {
        (Switched::Pbdma, Origin::Switched(Switched::Pbdma))
    } else if hub && engine_id::COPY_ENGINES.contains(&engine) {
        (Switched::Engine, Origin::Switched(Switched::Engine))
    } else if !hub && engine_id::GRAPHICS.contains(&engine) {
        (Switched::Engine, Origin::Reported)
    } else {
        return None;
    };
    // The hardware may set ENG_FAULTED a moment after such a packet; one of before the channel's reset is known by its age.
    let waits = origin == Origin::Reported || channel.is_switched_out(unit);
    waits.then_some(origin)
}
