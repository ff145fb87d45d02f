// SPDX-License-Identifier: GPL-2.0

//! The watchdog: while there are channels, looks now and then for what no interrupt has told.

use super::{Gpu, WATCHDOG};
use crate::{
    kapi::workqueue::cancel_delayed_work,
    regs::*, //
};
use kernel::{
    io::register::Array,
    sync::Arc,
    time::msecs_to_jiffies,
    workqueue::WorkItem, //
};

/// Time between two looks, milliseconds.
const TICK_MS: u32 = 200;

impl WorkItem<WATCHDOG> for Gpu {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        if !this.is_lost() && this.watch() {
            this.start_watchdog();
        }
    }
}

impl Gpu {
    /// Has the watchdog look in a while; does nothing if it will anyway.
    pub(super) fn start_watchdog(self: &Arc<Self>) {
        drop(
            self.queue
                .enqueue_delayed::<_, WATCHDOG>(self.clone(), msecs_to_jiffies(TICK_MS)),
        );
    }

    /// Ends it. The device is lost by now, so that it is not started again.
    pub(super) fn stop_watchdog(self: &Arc<Self>) {
        cancel_delayed_work(self, |gpu| &gpu.watchdog);
    }

    /// One look. Returns whether there are channels.
    fn watch(self: &Arc<Self>) -> bool {
        for tree in [IntrTree::Stall, IntrTree::NonStall] {
            if self.is_armed_and_pending(tree) {
                self.counters.watchdog_kicks.inc();
                self.handle_interrupt(tree);
            }
        }
        let (mut channels, mut stalled) = (false, false);
        self.each_channel(|channel| {
            channels = true;
            stalled |= channel.check_timeout();
            channel.resume_if_forgotten();
        });
        if stalled {
            // A device that does not take it is found by the time-outs.
            let _ = self.tlb.lock().replay(None);
        }
        channels
    }

    /// Whether an interrupt is due; a tree that is not armed has its work queued already.
    fn is_armed_and_pending(&self, tree: IntrTree) -> bool {
        let index = tree as usize;
        let registers = NV_PMC_INTR::try_at(index).zip(NV_PMC_INTR_EN::try_at(index));
        registers.is_some_and(|(intr, enabled)| {
            self.bar0.read(intr).into_raw() & self.bar0.read(enabled).into_raw() != 0
        })
    }
}
