// SPDX-License-Identifier: GPL-2.0

//! Runlists: which channels an engine runs. Every channel is a channel group (TSG) of its own, so that a fault or a preemption of one
//! does not hold up another.
//!
//! Sources: open-gpu-doc `manuals/volta/gv100/` (`dev_ram`, "RAMRL"; `dev_fifo`).

use crate::{
    channel::{ChannelId, CHANNELS},
    kapi::mmio::{self, Bar0},
    ram::{RunlistChan0, RunlistChan2, RunlistTsg0, RunlistTsg1, RunlistTsg2, Target},
    regs::*,
    vram::{Vram, VramOffset, VramPage, VRAM_PAGE_SIZE},
};
use kernel::{
    io::register::Array,
    prelude::*,
    time::{delay, Delta, Instant, Monotonic},
};

/// Bytes of an entry.
const ENTRY_SIZE: usize = 16;
/// Entries for a channel: its group, and itself.
const ENTRIES_PER_CHANNEL: usize = 2;
/// Longest wait for the hardware to take a list.
const TIMEOUT: Delta = Delta::from_secs(5);

const _: () = assert!(CHANNELS * ENTRIES_PER_CHANNEL * ENTRY_SIZE <= VRAM_PAGE_SIZE);

/// A channel as a runlist names it.
#[derive(Clone, Copy)]
pub(crate) struct RunlistChannel {
    pub(crate) engine: Engine,
    pub(crate) id: ChannelId,
    /// Instance block.
    pub(crate) inst: VramOffset,
    /// Bus address of USERD, in system memory.
    pub(crate) userd: u64,
}

/// The list of one engine. The hardware reads one page while the next list is written to the other.
struct Runlist {
    pages: [VramPage; 2],
    current: usize,
    /// Has room for all channels.
    channels: KVec<RunlistChannel>,
}

/// All runlists.
pub(crate) struct Runlists([Runlist; ENGINES.len()]);

impl Runlists {
    /// Empty lists; the hardware has none yet.
    pub(crate) fn new(vram: &Vram) -> Result<Self> {
        Ok(Self([
            Runlist::new(vram)?,
            Runlist::new(vram)?,
            Runlist::new(vram)?,
        ]))
    }

    /// Has the engine run a channel, as soon as that is enabled.
    ///
    /// # Errors
    ///
    /// `ETIMEDOUT`: the device does not take the list.
    pub(crate) fn add(&mut self, vram: &Vram, bar0: &Bar0, channel: RunlistChannel) -> Result {
        let list = self.list(channel.engine)?;
        list.channels
            .push_within_capacity(channel)
            .map_err(|_| ENOSPC)?;
        list.submit(vram, bar0, channel.engine)
    }

    /// Takes a channel, which is disabled and preempted, off its list.
    ///
    /// # Errors
    ///
    /// `ETIMEDOUT`: the device does not take the list.
    pub(crate) fn remove(
        &mut self,
        vram: &Vram,
        bar0: &Bar0,
        engine: Engine,
        id: ChannelId,
    ) -> Result {
        let list = self.list(engine)?;
        let before = list.channels.len();
        list.channels.retain(|channel| channel.id != id);
        if list.channels.len() == before {
            return Ok(());
        }
        list.submit(vram, bar0, engine)
    }

    fn list(&mut self, engine: Engine) -> Result<&mut Runlist> {
        self.0.get_mut(engine as usize).ok_or(EINVAL)
    }
}

impl Runlist {
    fn new(vram: &Vram) -> Result<Self> {
        Ok(Self {
            pages: [vram.alloc_page()?, vram.alloc_page()?],
            current: 0,
            channels: KVec::with_capacity(CHANNELS, GFP_KERNEL)?,
        })
    }

    /// Writes the list and waits until the hardware has read it.
    fn submit(&mut self, vram: &Vram, bar0: &Bar0, engine: Engine) -> Result {
        self.current ^= 1;
        let base = self.pages.get(self.current).ok_or(EINVAL)?.offset();
        for (i, channel) in self.channels.iter().enumerate() {
            let at = i * ENTRIES_PER_CHANNEL * ENTRY_SIZE;
            for (word, value) in channel.entries()?.into_iter().enumerate() {
                vram.write32(base.add((at + word * 4) as u64), value)?;
            }
        }
        mmio::wmb();
        let length = self.channels.len() * ENTRIES_PER_CHANNEL;
        bar0.write_reg(
            NV_PFIFO_RUNLIST_BASE::zeroed()
                .try_with_ptr(u32::try_from(base.0 >> 12)?)?
                .try_with_target(Target::VidMem as u32)?,
        );
        bar0.write_reg(
            NV_PFIFO_RUNLIST::zeroed()
                .try_with_id(engine as u32)?
                .try_with_length(u32::try_from(length)?)?,
        );
        let begin = Instant::<Monotonic>::now();
        loop {
            // Whoever was held up looks once more.
            let late = begin.elapsed() > TIMEOUT;
            let status = NV_PFIFO_RUNLIST_STATUS::try_at(engine as usize).ok_or(EINVAL)?;
            let status = bar0.read(status);
            // All ones: the device is gone, and runs nothing.
            if !status.pending() || status.into_raw() == u32::MAX {
                return Ok(());
            }
            if late {
                return Err(ETIMEDOUT);
            }
            delay::fsleep(Delta::from_micros(20));
        }
    }
}

impl RunlistChannel {
    /// The words of its group and of itself.
    fn entries(&self) -> Result<[u32; ENTRIES_PER_CHANNEL * ENTRY_SIZE / 4]> {
        let chid = self.id.get();
        let group = RunlistTsg0::zeroed().with_tsg(true);
        // CAST: Low halves, masked to the fields.
        let userd = RunlistChan0::from(self.userd as u32 & RunlistChan0::USERD_MASK)
            .try_with_inst_target(Target::VidMem as u32)?
            .try_with_userd_target(Target::SysMemCoherent as u32)?;
        let inst = RunlistChan2::from(self.inst.0 as u32 & !(VRAM_PAGE_SIZE as u32 - 1))
            .try_with_chid(chid)?;
        Ok([
            group.into_raw(),
            RunlistTsg1::zeroed().try_with_length(1)?.into_raw(),
            RunlistTsg2::zeroed().try_with_tsgid(chid)?.into_raw(),
            0,
            userd.into_raw(),
            u32::try_from(self.userd >> 32)?,
            inst.into_raw(),
            u32::try_from(self.inst.0 >> 32)?,
        ])
    }
}
