// SPDX-License-Identifier: GPL-2.0

//! Interrupts of a [`Gpu`]: the hard interrupt disarms its tree and queues work; the work deals with the cause and arms the tree again, which
//! fires at once if something is pending by then.

use super::{Gpu, NON_STALL_WORK, STALL_WORK};
use crate::{
    channel::ChannelId,
    fault,
    kapi::mmio::Bar0,
    regs::*,
    vram::VramOffset, //
};
use kernel::{
    io::register::Array,
    prelude::*,
    sync::Arc, //
};

impl Gpu {
    /// Switches interrupts on, once their handlers are registered.
    pub(crate) fn enable_interrupts(&self) {
        self.bar0.write_reg(
            NV_PFB_NISO_INTR_EN_SET::zeroed()
                .with_other(true)
                .with_replay_notify(true)
                .with_replay_overflow(true)
                .with_nonreplay_notify(true)
                .with_nonreplay_overflow(true),
        );
        self.bar0.write_reg(
            NV_PFIFO_INTR_EN_0::zeroed()
                .with_bind_error(true)
                .with_pbdma_intr(true)
                .with_channel_intr(true),
        );
        for index in 0..COPY_ENGINES.len() {
            if let Some(enable) = NV_CE_INTR_EN::try_at(index) {
                // Both stop the engine until they are cleared, for all channels.
                let stops = NV_CE_INTR_EN::zeroed()
                    .with_launcherr(true)
                    .with_blockpipe(true);
                self.bar0.write(enable, stops);
            }
        }
        self.bar0.write_reg(NV_PPBDMA_INTR_EN_0::from(u32::MAX));
        // Prefetch faults are worth serving.
        self.bar0
            .write_reg(NV_PFB_PRI_MMU_PAGE_FAULT_CTRL::zeroed());
        self.bar0.write_reg(NV_PGRAPH_INTR_EN::from(u32::MAX));
        self.rearm(IntrTree::Stall);
        self.rearm(IntrTree::NonStall);
    }

    /// Hard interrupt of a tree. Returns whether it was ours.
    pub(crate) fn handle_interrupt(self: &Arc<Self>, tree: IntrTree) -> bool {
        let index = tree as usize;
        let Some((intr, disarm)) =
            NV_PMC_INTR::try_at(index).zip(NV_PMC_INTR_EN_CLEAR::try_at(index))
        else {
            return false;
        };
        if self.bar0.read(intr).into_raw() == 0 {
            return false;
        }
        // The levels stay until the work has dealt with their cause; it arms the tree again.
        self.bar0
            .write(disarm, NV_PMC_INTR_EN_CLEAR::from(u32::MAX));
        // A queued work item that is queued again runs once more, so `Err` loses nothing.
        match tree {
            IntrTree::Stall => drop(self.queue.enqueue::<_, STALL_WORK>(self.clone())),
            IntrTree::NonStall => drop(self.queue.enqueue::<_, NON_STALL_WORK>(self.clone())),
        }
        true
    }

    /// Faults and errors of the engines.
    pub(super) fn service_stall(self: &Arc<Self>) {
        if self.is_lost() {
            return self.each_channel(|channel| channel.end(ENODEV, None));
        }
        fault::drain(self);
        // Its channel is found by the watchdog, or by its time-out.
        let status = self.bar0.read(NV_PFB_PRI_MMU_FAULT_STATUS);
        if status.valid() || status.error().get() != 0 || status.dropped().get() != 0 {
            // Write one to clear, as far as they can be cleared.
            self.counters.unbuffered_faults.inc();
            self.bar0.write_reg(status);
        }
        self.service_graph();
        for (index, engine) in COPY_ENGINES.into_iter().enumerate() {
            self.service_copy(index, engine);
        }
        self.rearm(IntrTree::Stall);
    }

    fn service_graph(&self) {
        let intr = self.bar0.read(NV_PGRAPH_INTR);
        if intr.into_raw() != 0 {
            let context = self.bar0.read(NV_PGRAPH_PRI_FECS_CURRENT_CTX);
            let method = self.bar0.read(NV_PGRAPH_TRAPPED_ADDR).mthd().get() << 2;
            let inst = VramOffset(u64::from(context.ptr().get()) << 12);
            if let Some(channel) = self.channel_of(inst).filter(|_| context.valid()) {
                channel.fail_method(method);
            }
            self.bar0.write_reg(intr);
        }
    }

    /// An engine that refuses a launch stands still until it is told to go on; until then it says whose launch it was.
    fn service_copy(&self, index: usize, engine: Engine) {
        let status = || NV_CE_INTR_STATUS::try_at(index);
        let Some((read, write)) = status().zip(status()) else {
            return;
        };
        let intr = self.bar0.read(read);
        if intr.into_raw() == 0 || intr.into_raw() == u32::MAX {
            return;
        }
        if intr.launcherr() {
            let owner = NV_PFIFO_ENGINE_STATUS::try_at(engine as usize)
                .map(|status| self.bar0.read(status))
                .filter(|status| status.ctx_status().get() != 0)
                .and_then(|status| self.channel(ChannelId::new(status.id().get())?));
            if let Some(channel) = owner {
                channel.fail_method(CE_LAUNCH_DMA);
            }
        }
        self.bar0.write(write, intr);
    }

    /// Finished work, and errors of Host.
    pub(super) fn service_non_stall(self: &Arc<Self>) {
        let intr = self.bar0.read(NV_PFIFO_INTR_0);
        if self.is_lost() {
            return;
        }
        // Before the semaphores are read, so that one that comes in between raises it again.
        self.bar0.write_reg(intr);
        if intr.channel_intr() {
            self.each_channel(|channel| channel.complete());
        }
        let error = self.bar0.read(NV_PPBDMA_INTR_0);
        if intr.pbdma_intr() && error.into_raw() != 0 {
            let context = self.bar0.read(NV_PPBDMA_CHANNEL);
            let method = self.bar0.read(NV_PPBDMA_METHOD0).addr().get() << 2;
            let id = ChannelId::new(context.chid().get());
            if let Some(channel) = id
                .and_then(|id| self.channel(id))
                .filter(|_| context.valid())
            {
                channel.fail_method(method);
            }
            self.bar0.write_reg(error);
        }
        self.rearm(IntrTree::NonStall);
    }

    fn rearm(&self, tree: IntrTree) {
        if self.is_lost() {
            return;
        }
        let bits = match tree {
            IntrTree::Stall => NV_PMC_INTR_EN_SET::zeroed()
                .with_hub(true)
                .with_graph(true)
                .with_ce0(true)
                .with_ce1(true),
            IntrTree::NonStall => NV_PMC_INTR_EN_SET::zeroed().with_pfifo(true),
        };
        if let Some(location) = NV_PMC_INTR_EN_SET::try_at(tree as usize) {
            self.bar0.write(location, bits);
        }
    }
}

/// Switches all interrupts off and forgets pending ones, so that the next that comes is an edge.
pub(super) fn disarm(bar0: &Bar0) {
    for tree in 0..2 {
        if let Some(disarm) = NV_PMC_INTR_EN_CLEAR::try_at(tree) {
            bar0.write(disarm, NV_PMC_INTR_EN_CLEAR::from(u32::MAX));
        }
    }
    bar0.write_reg(NV_PFB_NISO_INTR_EN_CLR::from(u32::MAX));
    bar0.write_reg(NV_PFIFO_INTR_EN_0::zeroed());
    bar0.write_reg(NV_PFIFO_INTR_0::from(u32::MAX));
    bar0.write_reg(NV_PPBDMA_INTR_0::from(u32::MAX));
    bar0.write_reg(NV_PGRAPH_INTR::from(u32::MAX));
    for index in 0..COPY_ENGINES.len() {
        if let Some(enable) = NV_CE_INTR_EN::try_at(index) {
            bar0.write(enable, NV_CE_INTR_EN::zeroed());
        }
        if let Some(status) = NV_CE_INTR_STATUS::try_at(index) {
            bar0.write(status, NV_CE_INTR_STATUS::from(u32::MAX));
        }
    }
}
