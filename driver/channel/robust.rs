// SPDX-License-Identifier: GPL-2.0

//! How a channel ends and begins anew, and what it tells about that: error notifier, time-out, reset.

use super::{
    Channel,
    State,
    TIMEOUT_DEFAULT_MS, //
};
use crate::{
    kapi::{
        fence::Signalling,
        time, //
    },
    regs::{
        Engine,
        NV_PCCSR_CHANNEL,
        NV_PFIFO_ENGINE_STATUS, //
    },
    svm::{
        FaultReport,
        Reason,
        ReportAccess, //
    },
};
use kernel::{
    io::register::Array,
    prelude::*,
    sync::atomic::Relaxed, //
};

/// Time without getting on after which accesses may wait whose packets were lost.
const STALLED_NS: u64 = 1_000_000_000;

/// What CHANNEL_QUERY tells.
#[derive(Clone, Copy, Default)]
pub(crate) struct Notifier {
    /// Why the channel was stopped, if it was.
    pub(crate) stopped: Option<FaultReport>,
    /// Work that was accepted.
    pub(crate) submitted: u64,
    /// Work whose fence has signalled.
    pub(crate) finished: u64,
    /// Times that the channel was reset.
    pub(crate) resets: u32,
}

impl Channel {
    /// What the error notifier says now.
    pub(crate) fn notifier(&self) -> Notifier {
        self.state.lock().notifier
    }

    /// Whether the channel takes no work.
    pub(crate) fn has_ended(&self) -> bool {
        self.state.lock().error.is_some()
    }

    /// Ends the channel because of a bad method.
    pub(crate) fn fail_method(&self, method: u32) {
        self.fail_without_access(u64::from(method), Reason::Method);
    }

    /// Ends the channel because of what `report` says. Only the first end of a channel has an effect.
    pub(crate) fn fail(&self, report: FaultReport) {
        self.end(EIO, Some(report));
    }

    fn fail_without_access(&self, addr: u64, reason: Reason) {
        self.fail(FaultReport::new(self.id, addr, ReportAccess::None, reason));
    }

    /// Ends the channel because of a fault that the device reported at `timestamp`. One from before the last reset has no effect.
    pub(crate) fn fail_for_fault(&self, report: FaultReport, timestamp: u64) {
        self.end_unless_reset_since(EIO, Some(report), timestamp);
    }

    /// Ends the channel: the hardware forgets it, its unfinished work signals with `error`.
    pub(crate) fn end(&self, error: Error, report: Option<FaultReport>) {
        self.end_unless_reset_since(error, report, u64::MAX);
    }

    fn end_unless_reset_since(&self, error: Error, report: Option<FaultReport>, timestamp: u64) {
        let mut state = self.state.lock();
        // Under the lock: who was told of the fault by another packet may be resetting the channel right now.
        if !self.is_of_this_life(timestamp) {
            return;
        }
        if let Some(before) = state.error {
            // One that could be reset cannot be any more.
            if before == EIO {
                state.error = Some(error);
            }
            return;
        }
        let _signalling = Signalling::begin();
        state.error = Some(error);
        // Before the fences signal, so that who waits for them finds it.
        let lost = || FaultReport::new(self.id, 0, ReportAccess::None, Reason::Device);
        state.notifier.stopped = Some(report.unwrap_or_else(lost));
        if let Some(report) = report {
            self.gpu.counters.channel_errors.inc();
            self.svm.report(report);
        }
        if self.stop_hardware().is_err() {
            self.gpu.stop_dma("a channel does not stop");
        }
        if state.ring.as_ref().is_some_and(|ring| !ring.is_idle()) {
            self.svm.busy().end(self.engine);
        }
        state.abandon(error);
        drop(state);
        self.progress.notify_all();
    }

    /// Makes a channel that was stopped usable again. Does nothing to one that is usable.
    ///
    /// # Errors
    ///
    /// `ENODEV`: the device is gone, or the channel was freed meanwhile. `EAGAIN`: the device is being reset.
    pub(crate) fn reset(&self) -> Result {
        let _inside = self.gpu.gate.enter();
        let mut state = self.state.lock();
        match state.error {
            None => return Ok(()),
            Some(error) if error != EIO => return Err(ENODEV),
            Some(_) => self.gpu.check_usable()?,
        }
        let ring = state.ring.as_mut().ok_or(ENODEV)?;
        // CAST: The low half, as the semaphore has it.
        ring.restart(self.timeline.last() as u32)?;
        // The hardware has left its state of the work before in it.
        self.gpu.vram.zero(&self.inst)?;
        ring.write_instance_block(&self.gpu, self.inst.offset(), self.svm.pdb())?;
        let userd = ring.userd();
        self.start_hardware(userd).inspect_err(|_| {
            // The channel stays stopped.
            let _ = self.stop_hardware();
        })?;
        state.error = None;
        state.notifier.stopped = None;
        state.notifier.resets = state.notifier.resets.saturating_add(1);
        Ok(())
    }

    /// The channel has got on: its time-out begins anew.
    pub(crate) fn note_progress(&self) {
        self.progress_at.store(time::monotonic_ns(), Relaxed);
    }

    /// Ends the channel if its work has not got on for too long. To be called from time to time. Returns whether it has not got on for
    /// a while.
    pub(crate) fn check_timeout(&self) -> bool {
        self.complete();
        let (ended, idle) = {
            let state = self.state.lock();
            let ring = state.ring.as_ref();
            (
                state.error.is_some(),
                ring.is_none_or(|ring| ring.is_idle()),
            )
        };
        // A program can write its semaphore, and have the ring look idle.
        let busy = !ended && (!idle || self.is_running());
        if !busy || !self.has_engine() {
            self.note_progress();
            return false;
        }
        // The work may have finished since; then the channel ends nonetheless, like one whose work finishes a moment too late.
        let idle = time::monotonic_ns().saturating_sub(self.progress_at.load(Relaxed));
        if idle > self.timeout_ns {
            self.fail_without_access(0, Reason::Timeout);
        }
        idle > STALLED_NS
    }

    /// Whether the hardware has work of the channel.
    fn is_running(&self) -> bool {
        NV_PCCSR_CHANNEL::try_at(self.id.index()).is_some_and(|at| {
            let ccsr = self.gpu.bar0.read(at);
            ccsr.into_raw() != u32::MAX && ccsr.busy()
        })
    }

    /// Whether the engine works for the channel: copy engines serve one at a time, and waiting for another's work is no hang.
    fn has_engine(&self) -> bool {
        let status = NV_PFIFO_ENGINE_STATUS::try_at(self.engine as usize);
        let has = |status: NV_PFIFO_ENGINE_STATUS| status.id().get() == self.id.get();
        self.engine == Engine::Compute || status.is_some_and(|at| has(self.gpu.bar0.read(at)))
    }
}

/// A time-out in nanoseconds; 0 stands for the default.
pub(super) fn timeout_ns(timeout_ms: u32) -> u64 {
    let timeout_ms = if timeout_ms == 0 {
        TIMEOUT_DEFAULT_MS
    } else {
        timeout_ms
    };
    u64::from(timeout_ms) * 1_000_000
}

impl State {
    /// Signals all unfinished work with an error.
    fn abandon(&mut self, error: Error) {
        let mut finished = 0;
        if let Some(ring) = &mut self.ring {
            // What was finished was finished; of a device that is gone nothing is known.
            finished += ring.retire().unwrap_or(0);
            finished += ring.abandon(error);
        }
        while let Some(job) = self.queue.pop() {
            job.fence.signal(Err(error));
            finished += 1;
        }
        self.notifier.finished += finished;
    }
}
