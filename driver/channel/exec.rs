// SPDX-License-Identifier: GPL-2.0

//! EXEC: work goes into the queue of the channel, from there into the ring when its fences have signalled, and its own fence signals when
//! the hardware has done it.
//!
//! From the moment that a fence can be seen until it signals nothing is allocated and no lock is taken under which memory is
//! allocated. What runs in between is [`Channel::advance`], under the state lock, and lockdep is told.

use super::{
    queue::Job,
    Channel,
    State, //
};
use crate::{
    kapi::{
        drm::ioctl::Wait,
        fence::{
            FenceClient,
            FenceWaiter,
            InFence,
            NewFence,
            Signalling, //
        },
        syncobj::Signal,
        workqueue::flush_work, //
    },
    regs::NV_USERMODE_NOTIFY_CHANNEL_PENDING, //
};
use kernel::{
    prelude::*,
    sync::Arc,
    workqueue::WorkItem, //
};

/// One EXEC, validated.
pub(crate) struct Exec {
    /// All push buffers, one behind the other, each a sequence of whole methods.
    pub(crate) words: KVVec<u32>,
    /// To wait for before it runs.
    pub(crate) waits: KVec<InFence>,
    /// Get its fence.
    pub(crate) signals: KVec<Signal>,
}

/// Room in the queue of a channel, which was full.
pub(crate) struct Room {
    channel: Arc<Channel>,
    bytes: usize,
}

impl Wait for Room {
    /// Waits until there was room. Somebody else may have it by then.
    ///
    /// # Errors
    ///
    /// `EIO` or `ENODEV`: the channel has ended. `EINTR`: a signal came.
    fn wait(self) -> Result {
        let mut state = self.channel.state.lock();
        loop {
            state.error.map_or(Ok(()), Err)?;
            if state.queue.has_room(self.bytes) {
                return Ok(());
            }
            if self.channel.progress.wait_interruptible(&mut state) {
                return Err(EINTR);
            }
        }
    }
}

impl FenceClient for Channel {
    fn fence_signaled(this: &Arc<Self>) {
        // Work that is queued already will see it.
        drop(this.gpu.queue.enqueue(this.clone()));
    }
}

impl WorkItem for Channel {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        this.complete();
    }
}

impl Channel {
    /// Queues work. If there is no room, nothing has happened, and what is to be waited for is returned.
    ///
    /// # Errors
    ///
    /// `EIO` or `ENODEV`: the channel has ended. `ENOMEM`. Nothing has happened then.
    pub(crate) fn exec(self: &Arc<Self>, exec: Exec) -> Result<Option<Room>> {
        let outcome = self.try_exec(exec);
        if !matches!(outcome, Ok(None)) {
            // A fence may have signalled meanwhile, and the channel may be freed: no work must be left behind.
            flush_work(&self.work);
        }
        outcome
    }

    fn try_exec(self: &Arc<Self>, exec: Exec) -> Result<Option<Room>> {
        let new_fence = NewFence::alloc()?;
        let mut waits = KVec::with_capacity(exec.waits.len(), GFP_KERNEL_ACCOUNT)?;
        for fence in exec.waits {
            // What comes earlier on the same channel is done earlier.
            if !self.timeline.has(&fence) {
                waits.push(FenceWaiter::new(fence, self)?, GFP_KERNEL_ACCOUNT)?;
            }
        }
        let bytes = size_of_val(&*exec.words);
        let mut state = self.state.lock();
        state.error.map_or(Ok(()), Err)?;
        if !state.queue.has_room(bytes) {
            let channel = self.clone();
            return Ok(Some(Room { channel, bytes }));
        }

        // Nothing fails from here on.
        let fence = self.timeline.emit(new_fence);
        state.queue.push(Job {
            words: exec.words,
            waits,
            fence: fence.clone(),
        });
        state.notifier.submitted += 1;
        for signal in exec.signals {
            signal.install(&fence);
        }
        self.gpu.counters.execs.inc();
        let advanced = self.advance(&mut state);
        drop(state);
        if advanced {
            self.progress.notify_all();
        }
        Ok(None)
    }

    /// Signals the fences of work that is finished, and lets the next work begin.
    pub(crate) fn complete(&self) {
        let advanced = {
            let mut state = self.state.lock();
            self.advance(&mut state)
        };
        if advanced {
            self.progress.notify_all();
        }
    }

    /// Takes finished work out of the ring and puts work that is ready into it. Returns whether there was any.
    pub(super) fn advance(&self, state: &mut State) -> bool {
        let _signalling = Signalling::begin();
        let (ring, queue) = (&mut state.ring, &mut state.queue);
        let Some(ring) = ring else { return false };
        let was_idle = ring.is_idle();
        // Of a device that is gone nothing is known; the channel is about to end.
        let Ok(finished) = ring.retire() else {
            return false;
        };
        state.notifier.finished += finished;
        let mut begun = false;
        while let Some(room) = queue.ready().and_then(|job| ring.room(job.bytes())) {
            let Some(job) = queue.pop() else { break };
            if ring.is_idle() {
                self.note_progress();
            }
            if let Err(error) = ring.submit(room, &job.words, job.fence.clone()) {
                job.fence.signal(Err(error));
                state.notifier.finished += 1;
            }
            begun = true;
        }
        if begun {
            let doorbell = NV_USERMODE_NOTIFY_CHANNEL_PENDING::from(self.id.get());
            self.gpu.bar0.write_reg(doorbell);
        }
        match (was_idle, ring.is_idle()) {
            (true, false) => self.svm.busy().begin(self.engine),
            (false, true) => self.svm.busy().end(self.engine),
            _ => {}
        }
        if finished != 0 {
            self.note_progress();
        }
        begun || finished != 0
    }
}
