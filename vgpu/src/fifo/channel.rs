// SPDX-License-Identifier: MIT OR Apache-2.0
//! A channel: its registers, and the runs that they start, hold up and end.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;

use crate::bus::PhysAddr;
use crate::engine::{ChannelEvents, Failure, Run};
use crate::mmu::AddressSpace;

use super::ramfc::{BadInstance, RamFc};
use super::regs::{ChannelControl, ChannelInst};
use super::runlist::Place;
use super::state::{Activation, State};
use super::worker;
use super::Host;

/// A channel. Its lock is a leaf: nothing is called with it held.
pub(super) struct Channel {
    pub(super) id: u16,
    pub(super) host: Arc<Host>,
    this: Weak<Self>,
    state: Mutex<State>,
    pub(super) changed: Condvar,
    /// The worker may reach memory.
    pub(super) inside: AtomicBool,
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
            inside: AtomicBool::new(false),
            worker: Mutex::default(),
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sleeps until the state has changed.
    pub(super) fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed
            .wait(state)
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, and tells all whom it concerns.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let (result, resumed) = {
            let mut state = self.lock();
            let result = change(&mut state);
            let resumed = state.settle();
            self.changed.notify_all();
            (result, resumed)
        };
        if resumed {
            self.host.kick();
        }
        result
    }

    pub(super) fn read_inst(&self) -> u32 {
        self.lock().inst.into()
    }

    pub(super) fn read_control(&self) -> u32 {
        let (control, host, run) = {
            let state = self.lock();
            let control = ChannelControl::new()
                .with_enable(state.enabled)
                .with_pbdma_faulted(state.pbdma_faulted)
                .with_eng_faulted(state.eng_faulted);
            let waits = state.pbdma_faulted || state.eng_faulted;
            let host = if state.is_open() || (state.is_scheduled() && waits && !state.stopped) {
                state.serving || state.doorbell
            } else {
                self.inside.load(Ordering::SeqCst)
            };
            let run = state.current.as_ref().map(|current| &current.run);
            (control, host, run.map(Arc::clone))
        };
        let engines = run.is_some_and(|run| {
            if run.is_off() {
                self.host.is_active(&run)
            } else {
                self.host.is_busy(&run)
            }
        });
        control.with_busy(host || engines).into()
    }

    /// NV_PCCSR_CHANNEL_INST: binds, or unbinds. What an earlier run left unfinished is lost.
    pub(super) fn write_inst(&self, value: ChannelInst) {
        let bound = self.change(|state| {
            if state.enabled {
                return None;
            }
            let lost = state.kill();
            state.inst = value;
            state.bound = value.address().filter(|_| value.bind());
            state.gp_get = 0;
            state.doorbell = false;
            state.stopped = false;
            state.pbdma_faulted = false;
            state.eng_faulted = false;
            Some(lost)
        });
        match bound {
            Some(Some(run)) => self.lose(&run),
            Some(None) => {}
            None => {
                log::warn!("Channel {}: INST was written while it was enabled", self.id);
                self.host.errors.bind_error();
            }
        }
    }

    /// NV_PCCSR_CHANNEL.
    pub(super) fn write_control(&self, value: ChannelControl) {
        self.change(|state| {
            state.pbdma_faulted &= !value.pbdma_faulted();
            state.eng_faulted &= !value.eng_faulted();
        });
        if value.enable_clr() {
            self.change(|state| state.enabled = false);
        } else if value.enable_set() {
            self.enable();
        }
    }

    /// CLEAR_FAULTED: true if the bit was set.
    pub(super) fn clear_faulted(&self, engine: bool) -> bool {
        self.change(|state| {
            let bit = if engine {
                &mut state.eng_faulted
            } else {
                &mut state.pbdma_faulted
            };
            std::mem::take(bit)
        })
    }

    /// What the submitted runlists say of the channel.
    pub(super) fn set_place(&self, place: Option<Place>) {
        self.change(|state| {
            state.place = place;
            state.last_place = place.or(state.last_place);
        });
    }

    /// Whether it is in this runlist.
    pub(super) fn is_in(&self, runlist: u8) -> bool {
        let place = self.lock().place;
        place.is_some_and(|place| place.runlist == runlist)
    }

    /// The runlist that it is or was in; that of the graphics engine where it never was in one.
    pub(super) fn last_runlist(&self) -> u8 {
        self.lock().last_place.map_or(0, |place| place.runlist)
    }

    /// Whether it is in this TSG, or was when it was last in a runlist.
    pub(super) fn is_of_tsg(&self, tsg: u16) -> bool {
        let place = self.lock().last_place;
        place.is_some_and(|place| place.tsg == tsg)
    }

    fn enable(&self) {
        let (enabled, fresh, bound) = {
            let state = self.lock();
            (state.enabled, state.current.is_none(), state.bound)
        };
        if enabled {
            return;
        }
        let activation = if fresh {
            self.activate(bound).map(Some)
        } else {
            Ok(None)
        };
        match activation {
            Ok(activation) => self.change(|state| {
                state.enabled = true;
                state.current = activation.or(state.current.take());
            }),
            Err(reason) => {
                log::warn!("Channel {}: ENABLE_SET refused: {reason}", self.id);
                self.host.errors.bind_error();
            }
        }
    }

    fn activate(&self, bound: Option<PhysAddr>) -> Result<Activation, String> {
        let inst = bound.ok_or("not bound")?;
        let read = |bad: BadInstance| format!("instance block at {inst:?}: {bad:x?}");
        let ramfc = RamFc::read(&*self.host.bus, inst).map_err(read)?;
        let space = AddressSpace::from_instance_block(&*self.host.bus, inst);
        self.start_worker()
            .map_err(|error| format!("no thread: {error}"))?;
        let events = Weak::<Self>::clone(&self.this);
        let run = Arc::new(Run::new(self.id, space, events));
        log::info!(
            "Channel {}: {inst:?}, {} GP entries at {:?}",
            self.id,
            ramfc.entries,
            ramfc.entry(0)
        );
        Ok(Activation { run, ramfc })
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

    /// PREEMPT: takes what the channel still does off the engines, where it is not to run. A channel that is to run is
    /// left alone: it would only be switched in again.
    pub(super) fn preempt(&self) {
        let run = {
            let mut state = self.lock();
            if state.is_scheduled() {
                return;
            }
            let Some(current) = &state.current else {
                return;
            };
            current.run.switch_out();
            let run = Arc::clone(&current.run);
            state.leaving = true;
            run
        };
        self.host.wake(&run);
    }

    /// Whether a run that was switched out or killed can still reach memory.
    pub(super) fn is_leaving(&self) -> bool {
        let (run, ramfc) = {
            let state = self.lock();
            if !state.ending.is_empty() {
                return true;
            }
            match &state.current {
                Some(current) if state.leaving => (Arc::clone(&current.run), current.ramfc),
                _ => return false,
            }
        };
        if self.inside.load(Ordering::SeqCst) || self.host.is_active(&run) {
            return true;
        }
        self.host.mmu.land_stores();
        let mut state = self.lock();
        if state.is_current(&run) {
            state.leaving = false;
            let gp_get = state.gp_get;
            drop(state);
            if ramfc.save(&*self.host.bus, gp_get).is_err() {
                self.host.counters.bus_errors.count();
            }
        }
        false
    }

    /// A doorbell with this channel's id.
    pub(super) fn ring(&self) {
        self.change(|state| state.doorbell |= state.enabled);
    }

    /// Ends the current run, without waiting for the end.
    pub(super) fn kill(&self) {
        let run = self.change(|state| {
            state.enabled = false;
            state.kill()
        });
        if let Some(run) = run {
            self.lose(&run);
        }
    }

    /// The run was disowned: what the error registers say of it would be taken for an error of the channel's next owner.
    fn lose(&self, run: &Run) {
        self.host.errors.forget(self.id);
        self.host.graph.forget(self.id);
        self.host.wake(run);
    }

    /// Power-on state; all that the channel did has ended on return.
    pub(super) fn reset(&self) {
        self.kill();
        let mut state = self.lock();
        while !state.ending.is_empty() {
            state = self.wait(state);
        }
        *state = State::default();
    }

    /// Ends the channel and its worker.
    pub(super) fn shut_down(&self) {
        self.kill();
        self.change(|state| state.shutdown = true);
        let worker = self
            .worker
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if worker.is_some_and(|worker| worker.join().is_err()) {
            log::error!("The worker of channel {} ended with a panic", self.id);
        }
    }
}

impl ChannelEvents for Channel {
    fn engine_failed(&self, run: &Run, failure: Failure) {
        self.change(|state| {
            if state.is_current(run) {
                state.eng_faulted |= matches!(failure, Failure::Faulted(_));
                state.stopped = true;
            }
        });
        // Other engines may work for it, or wait for a replay on its behalf.
        self.host.wake(run);
    }

    fn engine_faulted(&self, run: &Run) {
        self.change(|state| state.eng_faulted |= state.is_current(run));
    }
}
