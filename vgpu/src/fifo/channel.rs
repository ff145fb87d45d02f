// SPDX-License-Identifier: MIT OR Apache-2.0
//! A channel: its registers, and the activations that they start and end.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::bus::PhysAddr;
use crate::engine::{ChannelEvents, Failure, Run};
use crate::mmu::AddressSpace;

use super::ramfc::{BadInstance, RamFc};
use super::regs::{ChannelControl, ChannelInst};
use super::worker;
use super::Host;

/// One activation, as the worker is given it.
#[derive(Clone)]
pub(super) struct Activation {
    pub(super) run: Arc<Run>,
    pub(super) ramfc: RamFc,
}

#[derive(Default)]
struct State {
    inst: ChannelInst,
    /// The instance block of BIND.
    bound: Option<PhysAddr>,
    enabled: bool,
    pbdma_faulted: bool,
    eng_faulted: bool,
    /// The channel had an error: nothing more before the next BIND.
    stopped: bool,
    gp_get: u32,
    doorbell: bool,
    /// The worker executes entries.
    serving: bool,
    current: Option<Activation>,
    /// Earlier activations, dead, that the worker has not seen the end of.
    ending: Vec<Arc<Run>>,
    shutdown: bool,
}

impl State {
    /// Whether there is a doorbell to answer.
    fn is_ready(&self) -> bool {
        self.enabled && self.doorbell && !self.stopped
    }
}

/// A channel. Its lock is a leaf: nothing is called with it held.
pub(super) struct Channel {
    pub(super) id: u16,
    pub(super) host: Arc<Host>,
    this: Weak<Self>,
    state: Mutex<State>,
    changed: Condvar,
    worker: Mutex<Option<JoinHandle<()>>>,
}

/// What a worker is to do.
pub(super) enum Task {
    /// See this run to its end.
    End(Arc<Run>),
    /// Look at GP_PUT.
    Serve(Activation),
    /// The device goes away.
    Quit,
}

impl Channel {
    pub(super) fn new(id: u16, host: &Arc<Host>) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            id,
            host: Arc::clone(host),
            this: this.clone(),
            state: Mutex::default(),
            changed: Condvar::new(),
            worker: Mutex::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn read_inst(&self) -> u32 {
        self.lock().inst.into()
    }

    pub(super) fn read_control(&self) -> u32 {
        let (control, run) = {
            let state = self.lock();
            let control = ChannelControl::new()
                .with_enable(state.enabled)
                .with_pbdma_faulted(state.pbdma_faulted)
                .with_eng_faulted(state.eng_faulted)
                .with_busy(state.serving || state.is_ready());
            (
                control,
                state
                    .current
                    .as_ref()
                    .map(|current| Arc::clone(&current.run)),
            )
        };
        let launches = run.is_some_and(|run| self.host.is_busy(&run));
        control.with_busy(control.busy() || launches).into()
    }

    /// NV_PCCSR_CHANNEL_INST: binds, or unbinds.
    pub(super) fn write_inst(&self, value: ChannelInst) {
        {
            let mut state = self.lock();
            if !state.enabled {
                state.inst = value;
                state.bound = value.address().filter(|_| value.bind());
                state.gp_get = 0;
                state.doorbell = false;
                state.stopped = false;
                state.pbdma_faulted = false;
                state.eng_faulted = false;
                return;
            }
        }
        log::warn!("Channel {}: INST was written while it was enabled", self.id);
        self.host.errors.bind_error();
    }

    /// NV_PCCSR_CHANNEL.
    pub(super) fn write_control(&self, value: ChannelControl) {
        {
            let mut state = self.lock();
            state.pbdma_faulted &= !value.pbdma_faulted();
            state.eng_faulted &= !value.eng_faulted();
            self.changed.notify_all();
        }
        if value.enable_clr() {
            self.disable();
        } else if value.enable_set() {
            self.enable();
        }
    }

    fn disable(&self) {
        let mut state = self.lock();
        state.enabled = false;
        if let Some(current) = &state.current {
            current.run.pause();
        }
        self.changed.notify_all();
    }

    fn enable(&self) {
        let bound = {
            let state = self.lock();
            if state.enabled {
                return;
            }
            state.bound
        };
        if let Err(reason) = self.activate(bound) {
            log::warn!("Channel {}: ENABLE_SET refused: {reason}", self.id);
            self.host.errors.bind_error();
        }
    }

    fn activate(&self, bound: Option<PhysAddr>) -> Result<(), String> {
        let inst = bound.ok_or("not bound")?;
        let read = |bad: BadInstance| format!("instance block at {inst:?}: {bad:x?}");
        let ramfc = RamFc::read(&*self.host.bus, inst).map_err(read)?;
        let space = AddressSpace::from_instance_block(&*self.host.bus, inst);
        self.start_worker()
            .map_err(|error| format!("no thread: {error}"))?;
        // What an earlier activation left unfinished is lost.
        self.kill();
        let events = Weak::<Self>::clone(&self.this);
        let run = Arc::new(Run::new(self.id, space, events));
        log::info!(
            "Channel {}: {inst:?}, {} GP entries at {:?}",
            self.id,
            ramfc.entries,
            ramfc.entry(0)
        );
        let mut state = self.lock();
        state.enabled = true;
        state.current = Some(Activation { run, ramfc });
        self.changed.notify_all();
        Ok(())
    }

    fn start_worker(&self) -> std::io::Result<()> {
        let mut worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner);
        if let (None, Some(channel)) = (&*worker, self.this.upgrade()) {
            let name = format!("channel{}", self.id);
            *worker = Some(
                std::thread::Builder::new()
                    .name(name)
                    .spawn(move || worker::serve(&channel))?,
            );
        }
        Ok(())
    }

    /// PREEMPT: ends what a disabled channel still does. An enabled one is left alone: it would only be switched in again.
    pub(super) fn preempt(&self) {
        let disabled = !self.lock().enabled;
        if disabled {
            self.kill();
        }
    }

    /// Ends the current activation, without waiting for the end.
    fn kill(&self) {
        let run = {
            let mut state = self.lock();
            let Some(current) = state.current.take() else {
                return;
            };
            current.run.kill();
            state.ending.push(Arc::clone(&current.run));
            self.changed.notify_all();
            current.run
        };
        self.host.wake(&run);
    }

    /// Whether a killed activation can still reach memory.
    pub(super) fn is_ending(&self) -> bool {
        !self.lock().ending.is_empty()
    }

    /// A doorbell with this channel's id.
    pub(super) fn ring(&self) {
        let mut state = self.lock();
        if state.enabled {
            state.doorbell = true;
            self.changed.notify_all();
        }
    }

    /// Power-on state; all that the channel did has ended on return.
    pub(super) fn reset(&self) {
        self.disable();
        self.kill();
        let mut state = self.lock();
        while !state.ending.is_empty() {
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        *state = State::default();
    }

    /// Ends the channel and its worker.
    pub(super) fn shut_down(&self) {
        self.disable();
        self.kill();
        {
            self.lock().shutdown = true;
            self.changed.notify_all();
        }
        let worker = self
            .worker
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if worker.is_some_and(|worker| worker.join().is_err()) {
            log::error!("The worker of channel {} ended with a panic", self.id);
        }
    }

    /// For the worker: waits for something to do.
    pub(super) fn next(&self) -> Task {
        let mut state = self.lock();
        state.serving = false;
        loop {
            if let Some(run) = state.ending.first() {
                return Task::End(Arc::clone(run));
            }
            if state.shutdown {
                return Task::Quit;
            }
            if let (true, Some(activation)) = (state.is_ready(), state.current.clone()) {
                state.doorbell = false;
                state.serving = true;
                return Task::Serve(activation);
            }
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// For the worker: the run's end has come.
    pub(super) fn ended(&self, run: &Arc<Run>) {
        let mut state = self.lock();
        state.ending.retain(|ending| !Arc::ptr_eq(ending, run));
        self.changed.notify_all();
    }

    /// For the worker: where to go on.
    pub(super) fn gp_get(&self) -> u32 {
        self.lock().gp_get
    }

    pub(super) fn set_gp_get(&self, index: u32) {
        self.lock().gp_get = index;
    }

    /// For the worker: the channel had an error.
    pub(super) fn stop(&self) {
        self.lock().stopped = true;
    }

    /// For the worker: host faulted. Waits until software clears PBDMA_FAULTED or the run ends.
    pub(super) fn pbdma_faulted(&self, run: &Run, report: impl FnOnce()) {
        // Before the report: whoever reads the packet must find the bit set.
        self.lock().pbdma_faulted = true;
        report();
        let mut state = self.lock();
        while state.pbdma_faulted && run.is_active() {
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// For the worker: sleeps, but wakes when the run ends.
    pub(super) fn sleep(&self, run: &Run, time: Duration) {
        let state = self.lock();
        if run.is_active() {
            drop(
                self.changed
                    .wait_timeout(state, time)
                    .unwrap_or_else(PoisonError::into_inner),
            );
        }
    }
}

impl ChannelEvents for Channel {
    fn engine_failed(&self, failure: Failure) {
        let mut state = self.lock();
        state.eng_faulted |= matches!(failure, Failure::Faulted(_));
        state.stopped = true;
        self.changed.notify_all();
    }
}
