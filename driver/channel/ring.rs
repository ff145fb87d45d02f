// SPDX-License-Identifier: GPL-2.0

//! The memory of a channel and what is in flight in it.
//!
//! Everything that the hardware reads for a channel is in one piece of coherent memory. USERD is reached by its physical address; the others are
//! mapped at a fixed place in the unmanaged range: GP entries and push buffers read-only, so that a program cannot rewrite them through the GPU, and the
//! semaphore writable, because the hardware releases it through the program's page tables. What a program can do to itself with
//! that is to finish work of its own channel early, or late: then the time-out ends it.

use super::{
    fifo::Fifo,
    PUSH_MAX, //
};
use crate::{
    gpu::Gpu,
    gpu_pt::Access,
    kapi::{coherent::CoherentBuf, fence::Fence, mmio},
    push,
    ram::*,
    vram::VramOffset,
};
use core::ops::Range;
use kernel::prelude::*;

/// Bytes of coherent memory of a channel.
pub(crate) const CHANNEL_MEM: u64 = 256 << 10;

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
/// Bytes of a GP entry.
const GP_ENTRY_SIZE: usize = 8;
/// Most pieces of work in flight; one less than fit, so that a full ring is not an empty one.
const JOBS_MAX: usize = FENCE_SLOTS - 1;
/// Push buffers of the driver's own, one for each piece of work in flight.
const FENCE_SLOTS: usize = GP_ENTRIES as usize / 2;
/// Bytes between them.
const FENCE_STRIDE: usize = 32;

const _: () =
    assert!(USERD_SIZE <= SEMAPHORE && GPFIFO + GP_ENTRIES as usize * GP_ENTRY_SIZE <= FENCES);
const _: () = assert!(FENCES + FENCE_SLOTS * FENCE_STRIDE <= PUSHES);
const _: () = assert!(push::FENCE_WORDS * 4 <= FENCE_STRIDE && PUSH_MAX * 2 < PUSHES_SIZE);

/// What the GPU maps of the memory, and whether it may write there. The rest of the page of USERD is not mapped.
pub(crate) const MAPPED: [(Range<u64>, Access); 2] = [
    (SEMAPHORE as u64..GPFIFO as u64, Access::ReadWrite),
    (GPFIFO as u64..CHANNEL_MEM, Access::ReadOnly),
];

/// Work in flight.
struct Job {
    fence: Fence,
    /// Where its push buffer begins.
    push_start: usize,
}

/// The ring of a channel.
pub(super) struct Ring {
    mem: CoherentBuf,
    /// GPU address of `mem`.
    va: u64,
    /// Oldest first.
    jobs: Fifo<Job>,
    gp_put: u32,
    /// Work put in so far, modulo the number of push buffers of the driver's own.
    submitted: usize,
    /// Where the next push buffer goes.
    push_next: usize,
}

/// Room for a push buffer, until the ring changes.
#[must_use]
pub(super) struct Room {
    start: usize,
}

impl Ring {
    /// A ring in `mem`, which is zeroed and mapped at `va`.
    pub(super) fn new(mem: CoherentBuf, va: u64) -> Result<Self> {
        Ok(Self {
            mem,
            va,
            jobs: Fifo::with_capacity(JOBS_MAX)?,
            submitted: 0,
            gp_put: 0,
            push_next: 0,
        })
    }

    /// Bus address of USERD.
    pub(super) fn userd(&self) -> u64 {
        self.mem.dma_addr() + USERD as u64
    }

    /// Room for `bytes` of push buffer, if there is now.
    pub(super) fn room(&self, bytes: usize) -> Option<Room> {
        if self.jobs.is_full() {
            return None;
        }
        let oldest = self.jobs.front().map(|job| job.push_start);
        place(oldest, self.push_next, taken(bytes)).map(|start| Room { start })
    }

    /// Writes push buffers and GP entries, and makes them visible to the hardware with GP_PUT.
    pub(super) fn submit(&mut self, room: Room, words: &[u32], fence: Fence) -> Result {
        for (i, word) in words.iter().enumerate() {
            self.mem.write32(PUSHES + room.start + i * 4, *word)?;
        }
        let own = FENCES + self.submitted * FENCE_STRIDE;
        // CAST: The low half of the sequence number; `retire` compares the same half.
        let release = push::fence(self.va + SEMAPHORE as u64, fence.seqno() as u32)?;
        for (i, word) in release.iter().enumerate() {
            self.mem.write32(own + i * 4, *word)?;
        }
        let mut put = self.gp_put;
        // Without a push buffer only the fence is passed on; an entry of no length would mean something else.
        if !words.is_empty() {
            self.write_gp_entry(put, PUSHES + room.start, words.len())?;
            put = (put + 1) % GP_ENTRIES;
        }
        self.write_gp_entry(put, own, push::FENCE_WORDS)?;
        put = (put + 1) % GP_ENTRIES;
        mmio::wmb();
        self.mem.write32(USERD + USERD_GP_PUT, put)?;
        mmio::wmb();
        // Last, so that what failed is not in the ring, and its fence is the caller's. There is room.
        let job = Job {
            fence,
            push_start: room.start,
        };
        self.jobs.push(job).map_err(|_| ENOSPC)?;
        self.submitted = (self.submitted + 1) % FENCE_SLOTS;
        self.push_next = room.start + taken(size_of_val(words));
        self.gp_put = put;
        Ok(())
    }

    /// Whether nothing is in flight.
    pub(super) fn is_idle(&self) -> bool {
        self.jobs.len() == 0
    }

    /// Takes finished work out and signals it. Returns how much there was.
    pub(super) fn retire(&mut self) -> Result<u64> {
        let done = self.mem.read32(SEMAPHORE)?;
        let mut finished = 0;
        // CAST: The semaphore holds the low half of the sequence number; far fewer than 2^31 are in flight.
        let is_done = |job: &Job| done.wrapping_sub(job.fence.seqno() as u32) <= u32::MAX / 2;
        while self.jobs.front().is_some_and(is_done) {
            let Some(job) = self.jobs.pop() else { break };
            job.fence.signal(Ok(()));
            finished += 1;
        }
        Ok(finished)
    }

    /// Signals what is left with an error. Returns how much there was.
    pub(super) fn abandon(&mut self, error: Error) -> u64 {
        let mut abandoned = 0;
        while let Some(job) = self.jobs.pop() {
            job.fence.signal(Err(error));
            abandoned += 1;
        }
        abandoned
    }

    /// Makes the ring of a channel that does not run empty, as it was at first. `seqno` is the last that was given out.
    pub(super) fn restart(&mut self, seqno: u32) -> Result {
        self.gp_put = 0;
        self.submitted = 0;
        self.push_next = 0;
        self.mem.write32(SEMAPHORE, seqno)?;
        for offset in (USERD..USERD + USERD_SIZE).step_by(4) {
            self.mem.write32(offset, 0)?;
        }
        Ok(())
    }

    /// Fills in an instance block, whose other words are zero, for the ring and the page tables at `pdb`.
    pub(super) fn write_instance_block(
        &self,
        gpu: &Gpu,
        at: VramOffset,
        pdb: VramOffset,
    ) -> Result {
        let userd = self.userd();
        let gpfifo = self.va + GPFIFO as u64;
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

    fn write_gp_entry(&self, index: u32, offset: usize, words: usize) -> Result {
        let va = self.va + offset as u64;
        // CAST: An index is less than GP_ENTRIES.
        let at = GPFIFO + (index % GP_ENTRIES) as usize * GP_ENTRY_SIZE;
        let high = GpEntry1::zeroed()
            .try_with_get_hi(u32::try_from(va >> 32)?)?
            .try_with_length(u32::try_from(words)?)?;
        // CAST: The low half.
        self.mem.write32(at, va as u32)?;
        self.mem.write32(at + 4, high.into_raw())
    }
}

/// What a push buffer of `bytes` takes: at least a word, so that the two ends are never equal while there is work.
fn taken(bytes: usize) -> usize {
    bytes.max(size_of::<u32>())
}

/// Where `bytes` fit that are not 0. In use is what lies from `head`, the oldest push buffer, if there is one, to `tail`, round the corner or
/// not.
fn place(head: Option<usize>, tail: usize, bytes: usize) -> Option<usize> {
    let Some(head) = head else { return Some(0) };
    if tail <= head {
        return (head - tail > bytes).then_some(tail);
    }
    if PUSHES_SIZE.checked_sub(tail)? >= bytes {
        return Some(tail);
    }
    (head > bytes).then_some(0)
}

#[cfg(CONFIG_KUNIT = "y")]
#[kernel::macros::kunit_tests(mirage_ring)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_without_work_begins_at_its_start() {
        assert_eq!(place(None, 400, PUSHES_SIZE), Some(0));
    }

    #[test]
    fn what_does_not_fit_at_the_end_goes_to_the_start() {
        assert_eq!(
            place(Some(400), PUSHES_SIZE - 100, 100),
            Some(PUSHES_SIZE - 100)
        );
        assert_eq!(place(Some(400), PUSHES_SIZE - 96, 100), Some(0));
        assert_eq!(place(Some(100), PUSHES_SIZE - 96, 100), None);
    }

    #[test]
    fn the_end_never_reaches_the_oldest() {
        assert_eq!(place(Some(400), 296, 100), Some(296));
        assert_eq!(place(Some(400), 300, 100), None);
    }

    #[test]
    fn work_without_a_push_buffer_takes_a_word() {
        assert_eq!(place(Some(0), PUSHES_SIZE, taken(0)), None);
        assert_eq!(place(Some(8), PUSHES_SIZE, taken(0)), Some(0));
        assert_eq!(place(Some(8), taken(0), taken(0)), None);
    }
}
