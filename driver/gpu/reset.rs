// SPDX-License-Identifier: GPL-2.0

//! A reset of the device from outside, for example through sysfs.
//!
//! The device forgets its channels, runlists, fault buffers and interrupts; device memory stays. In between it does not answer: reads are all
//! ones, and writes, page tables included, are lost. So all mappings of mirrors are taken away before, and none comes back until the device
//! does; the [`super::gate`] keeps everything else out. Invalidations in between find nothing mapped.

use super::{intr::disarm, Gpu};
use crate::{
    fault::FaultBuffers,
    kapi::pci::ResetHandler,
    svm::{FaultReport, Reason, ReportAccess},
};
use kernel::sync::{
    atomic::Relaxed,
    Arc, //
};

impl ResetHandler for Gpu {
    /// Stops all channels, with a report, and takes memory back that the device writes to.
    fn reset_prepare(self: &Arc<Self>) {
        {
            // Under the lock that new channels take, so that none is missed.
            let _channels = self.channels.lock();
            self.resetting.store(true, Relaxed);
        }
        self.gate.close();
        self.each_channel(|channel| {
            let report = FaultReport::new(channel.id(), 0, ReportAccess::None, Reason::Reset);
            channel.fail(report);
        });
        let mut next = self.next_svm(0);
        while let Some(svm) = next {
            svm.unmap_all();
            next = self.next_svm(svm.client() + 1);
        }
        disarm(&self.bar0);
        let buffers = self.faults.lock().take();
        if let Some(buffers) = buffers {
            buffers.disable(&self.bar0);
        }
    }

    /// Brings the device up again. Channels wait for the program to reset them.
    fn reset_done(self: &Arc<Self>) {
        self.bring_up_again();
        self.resetting.store(false, Relaxed);
        self.gate.open();
    }
}

impl Gpu {
    fn bring_up_again(self: &Arc<Self>) {
        if self.is_lost() {
            // The reset has restored what the device may do on the bus.
            return self.dma.stop();
        }
        disarm(&self.bar0);
        match FaultBuffers::new(&self.bar0, &self.dma) {
            Ok(buffers) => *self.faults.lock() = Some(buffers),
            Err(_) => return self.stop_dma("it does not come up after a reset"),
        }
        self.counters.resets.inc();
        self.enable_interrupts();
    }
}
