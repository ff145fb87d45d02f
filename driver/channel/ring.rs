// SPDX-License-Identifier: GPL-2.0

//! The memory of a channel and what is in flight in it.
//!
//! Everything that the hardware reads for a channel is in one piece of coherent memory, mapped at a fixed place in the unmanaged range.
//! The program can write there through the GPU. That hurts no one but itself: addresses in it are translated by the program's own page
//! tables, and the driver takes nothing from it but the semaphore, which can only finish work of the same channel early.

use super::PUSH_MAX;
use crate::{
    gpu::Gpu,
    kapi::{coherent::CoherentBuf, fence::Fence, mmio},
    push,
    ram::*,
    vram::VramOffset,
};
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
const JOBS_MAX: usize = (GP_ENTRIES / 2 - 1) as usize;
/// Bytes between the driver's own push buffers.
const FENCE_STRIDE: usize = 32;

const _: () =
    assert!(USERD_SIZE <= SEMAPHORE && GPFIFO + GP_ENTRIES as usize * GP_ENTRY_SIZE <= FENCES);
const _: () = assert!(FENCES + GP_ENTRIES as usize / 2 * FENCE_STRIDE <= PUSHES);
const _: () = assert!(push::FENCE_WORDS * 4 <= FENCE_STRIDE && PUSH_MAX * 2 < PUSHES_SIZE);

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
    /// Oldest first. Has room for [`JOBS_MAX`], so that no memory is allocated while a fence is unsignalled.
    jobs: KVec<Job>,
    gp_put: u32,
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
            jobs: KVec::with_capacity(JOBS_MAX, GFP_KERNEL)?,
            gp_put: 0,
            push_next: 0,
        })
    }

    /// Room for `bytes` of push buffer, if there is now.
    pub(super) fn room(&self, bytes: usize) -> Option<Room> {
        let Some(oldest) = self.jobs.first() else {
            return Some(Room { start: 0 });
        };
        if self.jobs.len() >= JOBS_MAX {
            return None;
        }
        // In use is what lies from the oldest push buffer to `push_next`, round the corner or not. They are never equal
        // while there is work.
        let (head, tail) = (oldest.push_start, self.push_next);
        let start = if tail <= head {
            (head - tail > bytes).then_some(tail)
        } else if PUSHES_SIZE - tail >= bytes {
            Some(tail)
        } else {
            (head > bytes).then_some(0)
        };
        start.map(|start| Room { start })
    }

    /// Writes push buffers and GP entries, and makes them visible to the hardware with GP_PUT.
    pub(super) fn submit(&mut self, room: Room, words: &[u32], fence: Fence) -> Result {
        let put = self.gp_put;
        for (i, word) in words.iter().enumerate() {
            self.mem.write32(PUSHES + room.start + i * 4, *word)?;
        }
        // CAST: `put` is less than GP_ENTRIES.
        let own = FENCES + put as usize / 2 * FENCE_STRIDE;
        // CAST: The low half of the sequence number; `retire` compares the same half.
        let release = push::fence(self.va + SEMAPHORE as u64, fence.seqno() as u32)?;
        for (i, word) in release.iter().enumerate() {
            self.mem.write32(own + i * 4, *word)?;
        }
        self.write_gp_entry(put, PUSHES + room.start, words.len())?;
        self.write_gp_entry(put + 1, own, push::FENCE_WORDS)?;
        let job = Job {
            fence,
            push_start: room.start,
        };
        self.jobs.push_within_capacity(job).map_err(|_| ENOSPC)?;
        self.push_next = room.start + words.len() * 4;
        self.gp_put = (put + 2) % GP_ENTRIES;
        mmio::wmb();
        self.mem.write32(USERD + USERD_GP_PUT, self.gp_put)?;
        mmio::wmb();
        Ok(())
    }

    /// Takes finished work out and signals it. Returns whether there was any.
    pub(super) fn retire(&mut self) -> Result<bool> {
        let done = self.mem.read32(SEMAPHORE)?;
        let before = self.jobs.len();
        while let Some(job) = self.jobs.first() {
            // CAST: The semaphore holds the low half of the sequence number; far fewer than 2^31 are in flight.
            if done.wrapping_sub(job.fence.seqno() as u32) > u32::MAX / 2 {
                break;
            }
            job.fence.signal(Ok(()));
            self.jobs.remove(0).map_err(|_| EINVAL)?;
        }
        Ok(self.jobs.len() != before)
    }

    /// Signals what is left with an error.
    pub(super) fn abandon(&mut self, error: Error) {
        for job in self.jobs.drain_all() {
            job.fence.signal_error(error);
        }
    }

    /// Fills in a zeroed instance block for the ring and the page tables at `pdb`.
    pub(super) fn write_instance_block(
        &self,
        gpu: &Gpu,
        at: VramOffset,
        pdb: VramOffset,
    ) -> Result {
        let userd = self.mem.dma_addr() + USERD as u64;
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
