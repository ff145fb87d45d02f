// SPDX-License-Identifier: MIT OR Apache-2.0
//! Host: channels and the PBDMA that fetches their work (dev_fifo, dev_pbdma, dev_usermode).
//!
//! Each channel that was ever enabled has a thread of its own, so that none waits for another. Locks, none held while another is
//! taken, but for the first: the interrupt tree's, then a leaf (`Errors`, `Graph`). Leaves: a channel's state, the scheduler of an engine.

mod channel;
mod errors;
mod gate;
mod host;
mod latch;
mod push;
mod ramfc;
mod regs;
mod runlist;
mod state;
mod worker;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use crate::bus::Bus;
use crate::clock;
use crate::counters::Counters;
use crate::engine::{Engine, Graph, Run};
use crate::intr::InterruptTree;
use crate::mmu::Mmu;
use crate::pri::{PmcUnit, RegisterBlock};

use channel::Channel;
use errors::Errors;
use regs::{
    ChannelControl, ChannelInst, EngineStatus, Preempt, RunlistBase, RunlistSubmit, PREEMPT_TSG,
};
use runlist::{List, RUNLISTS};

pub(crate) use latch::Latch;
pub(crate) use push::Method;

/// What host is connected to.
pub(crate) struct FifoParts {
    /// Memory, for instance blocks and USERD.
    pub(crate) bus: Arc<dyn Bus>,
    /// Translations.
    pub(crate) mmu: Arc<Mmu>,
    /// Where interrupts go.
    pub(crate) intr: Arc<InterruptTree>,
    /// Counters.
    pub(crate) counters: Arc<Counters>,
    /// Where errors of engine methods are shown.
    pub(crate) graph: Arc<Graph>,
    /// What SET_OBJECT can name.
    pub(crate) engines: Vec<Arc<dyn Engine>>,
}

/// What all channels share.
struct Host {
    bus: Arc<dyn Bus>,
    mmu: Arc<Mmu>,
    counters: Arc<Counters>,
    graph: Arc<Graph>,
    engines: Vec<Arc<dyn Engine>>,
    errors: Errors,
    channels: OnceLock<Vec<Weak<Channel>>>,
}

impl Host {
    fn channel(&self, id: u16) -> Option<Arc<Channel>> {
        self.channels.get()?.get(usize::from(id))?.upgrade()
    }

    fn is_busy(&self, run: &Run) -> bool {
        self.engines.iter().any(|engine| engine.is_busy(run))
    }

    /// Whether an engine may reach memory for the run at this moment.
    fn is_active(&self, run: &Run) -> bool {
        self.engines.iter().any(|engine| engine.is_active(run))
    }

    /// Waits until the run has no work in any engine and its stores have landed.
    fn wait_idle(&self, run: &Run) {
        for engine in &self.engines {
            engine.wait_idle(run);
        }
    }

    /// Wakes what waits on behalf of a run that was killed or switched out.
    fn wake(&self, run: &Run) {
        self.mmu.abandon(run.space.inst);
        self.kick();
    }

    /// Lets engines look at their runs again.
    fn kick(&self) {
        for engine in &self.engines {
            engine.kick();
        }
    }
}

/// Host.
pub(crate) struct Fifo {
    host: Arc<Host>,
    channels: Vec<Arc<Channel>>,
    preempt: Mutex<Preempt>,
    /// Held in reset.
    disabled: AtomicBool,
    runlists: Mutex<Runlists>,
}

/// What was written to the runlist registers.
#[derive(Default)]
struct Runlists {
    base: RunlistBase,
    submit: RunlistSubmit,
    /// NV_PFIFO_RUNLIST_PREEMPT, as far as it is pending.
    preempt: u32,
    /// What each runlist was made of.
    taken: [(RunlistBase, RunlistSubmit); RUNLISTS],
}

impl Fifo {
    pub(crate) fn new(parts: FifoParts) -> Self {
        let host = Arc::new(Host {
            bus: parts.bus,
            mmu: parts.mmu,
            counters: parts.counters,
            graph: parts.graph,
            engines: parts.engines,
            errors: Errors::new(parts.intr),
            channels: OnceLock::new(),
        });
        let channel = |id| Channel::new(id, &host);
        let channels: Vec<_> = (0..regs::CHANNELS as u16).map(channel).collect();
        host.channels
            .get_or_init(|| channels.iter().map(Arc::downgrade).collect());
        Self {
            channels,
            host,
            preempt: Mutex::default(),
            disabled: AtomicBool::new(false),
            runlists: Mutex::default(),
        }
    }

    /// The channel whose register of the array at `base` is at `offset`.
    fn channel(&self, offset: u32, base: u32) -> Option<&Channel> {
        let distance = offset.checked_sub(base)?;
        if distance % regs::CHANNEL_STRIDE != 0 {
            return None;
        }
        self.by_id(distance / regs::CHANNEL_STRIDE)
    }

    fn by_id(&self, id: u32) -> Option<&Channel> {
        let channel = self.channels.get(usize::try_from(id).ok()?)?;
        Some(channel)
    }

    fn runlists(&self) -> MutexGuard<'_, Runlists> {
        self.runlists.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The channels that a PREEMPT is about.
    fn preempted(&self, preempt: Preempt) -> impl Iterator<Item = &Arc<Channel>> {
        let id = preempt.id();
        self.channels.iter().filter(move |channel| {
            if preempt.kind() == PREEMPT_TSG {
                channel.is_of_tsg(id)
            } else {
                channel.id == id
            }
        })
    }

    fn read_preempt(&self) -> u32 {
        let preempt = *self.preempt.lock().unwrap_or_else(PoisonError::into_inner);
        // Each of them has to be asked: that is what sees it gone.
        let leaving = self
            .preempted(preempt)
            .filter(|channel| channel.is_leaving());
        let pending = leaving.count() > 0;
        preempt.with_pending(pending).into()
    }

    fn write_preempt(&self, value: Preempt) {
        let value = Preempt::new().with_id(value.id()).with_kind(value.kind());
        *self.preempt.lock().unwrap_or_else(PoisonError::into_inner) = value;
        for channel in self.preempted(value) {
            channel.preempt();
        }
    }

    /// The channels that are in one of these runlists, or were when they were last in one.
    fn of_runlists(&self, runlists: u32) -> impl Iterator<Item = &Arc<Channel>> {
        let selected = move |channel: &&Arc<Channel>| (runlists >> channel.last_runlist()) & 1 == 1;
        self.channels.iter().filter(selected)
    }

    fn preempt_runlists(&self, runlists: u32) {
        let known = runlists & ((1 << RUNLISTS) - 1);
        self.runlists().preempt |= known;
        for channel in self.of_runlists(known) {
            channel.preempt();
        }
    }

    fn read_runlist_preempt(&self) -> u32 {
        let pending = self.runlists().preempt;
        let mut left = 0;
        for channel in self.of_runlists(pending) {
            if channel.is_leaving() {
                left |= 1 << channel.last_runlist();
            }
        }
        self.runlists().preempt &= left;
        left
    }

    /// NV_PFIFO_RUNLIST: takes a runlist, or leaves the old one where it is bad.
    fn submit(&self, submit: RunlistSubmit) {
        let base = {
            let mut runlists = self.runlists();
            runlists.submit = submit;
            runlists.base
        };
        let id = submit.id();
        if usize::from(id) >= RUNLISTS {
            log::warn!("Runlist {id} was submitted, which does not exist");
            return;
        }
        match runlist::read(&*self.host.bus, base, submit) {
            Ok(list) => self.take(&list, (base, submit)),
            Err(error) => {
                log::warn!("Runlist {id}: {error:?}");
                self.host.errors.sched_error(error);
            }
        }
    }

    fn take(&self, list: &List, submitted: (RunlistBase, RunlistSubmit)) {
        let id = submitted.1.id();
        if let Some(taken) = self.runlists().taken.get_mut(usize::from(id)) {
            *taken = submitted;
        }
        for channel in &self.channels {
            let place = list.get(&channel.id).copied();
            if place.is_some() || channel.is_in(id) {
                channel.set_place(place);
            }
        }
    }

    fn read_runlist(&self, offset: u32) -> Option<u32> {
        let runlists = self.runlists();
        let at = |base| index(offset, base).and_then(|index| runlists.taken.get(index));
        if let Some((base, _)) = at(regs::ENG_RUNLIST_BASE) {
            return Some((*base).into());
        }
        // PENDING is never seen: a list is taken while it is submitted.
        let length = |submit: &RunlistSubmit| submit.with_id(0).into();
        at(regs::ENG_RUNLIST).map(|(_, submit)| length(submit))
    }

    fn read_engine_status(&self, offset: u32) -> Option<u32> {
        let runlist = index(offset, regs::ENGINE_STATUS)?;
        let mut engines = self.host.engines.iter();
        let engine = engines.find(|engine| usize::from(engine.runlist()) == runlist)?;
        let status = engine.status();
        let shown = EngineStatus::new()
            .with_id(status.channel.unwrap_or(0))
            .with_ctx_status(status.channel.is_some().into())
            .with_faulted(status.faulted)
            .with_busy(status.busy);
        Some(shown.into())
    }
}

/// The index of the register at `offset` in the array at `base`.
fn index(offset: u32, base: u32) -> Option<usize> {
    let distance = offset.checked_sub(base)?;
    let aligned = distance % regs::RUNLIST_STRIDE == 0;
    let index = usize::try_from(distance / regs::RUNLIST_STRIDE).ok()?;
    (aligned && index < RUNLISTS).then_some(index)
}

impl RegisterBlock for Fifo {
    fn read(&self, offset: u32) -> Option<u32> {
        if let Some(channel) = self.channel(offset, regs::CHANNEL_INST) {
            return Some(channel.read_inst());
        }
        if let Some(channel) = self.channel(offset, regs::CHANNEL) {
            return Some(channel.read_control());
        }
        let array = self.read_runlist(offset);
        if let Some(value) = array.or_else(|| self.read_engine_status(offset)) {
            return Some(value);
        }
        let time = clock::now_ns();
        Some(match offset {
            regs::PREEMPT => self.read_preempt(),
            regs::RUNLIST_BASE => self.runlists().base.into(),
            regs::RUNLIST => self.runlists().submit.into(),
            regs::RUNLIST_PREEMPT => self.read_runlist_preempt(),
            regs::USERMODE_CFG0 => regs::USERMODE_CLASS,
            // 31:5 of the low half; the next 29 bits in the high one.
            regs::USERMODE_TIME_0 => time as u32 & !0x1f,
            regs::USERMODE_TIME_1 => (time >> 32) as u32 & 0x1fff_ffff,
            regs::NOTIFY_CHANNEL_PENDING => 0,
            _ => return self.host.errors.read(offset),
        })
    }

    fn write(&self, offset: u32, value: u32) -> Option<()> {
        if self.disabled.load(Ordering::Relaxed) {
            // Its registers, and nobody else's, take no writes.
            return self.read(offset).map(|_| ());
        }
        if let Some(channel) = self.channel(offset, regs::CHANNEL_INST) {
            channel.write_inst(ChannelInst::from(value));
            return Some(());
        }
        if let Some(channel) = self.channel(offset, regs::CHANNEL) {
            channel.write_control(ChannelControl::from(value));
            return Some(());
        }
        match offset {
            regs::PREEMPT => self.write_preempt(Preempt::from(value)),
            regs::RUNLIST_BASE => self.runlists().base = value.into(),
            regs::RUNLIST => self.submit(value.into()),
            regs::RUNLIST_PREEMPT => self.preempt_runlists(value),
            regs::NOTIFY_CHANNEL_PENDING => {
                if let Some(channel) = self.by_id(value) {
                    channel.ring();
                }
            }
            regs::USERMODE_CFG0 | regs::USERMODE_TIME_0 | regs::USERMODE_TIME_1 => {}
            _ => return self.host.errors.write(offset, value),
        }
        Some(())
    }

    fn reset(&self) {
        // All first: the others would go on, and be waited for.
        self.channels.iter().for_each(|channel| channel.kill());
        for channel in &self.channels {
            channel.reset();
        }
        *self.preempt.lock().unwrap_or_else(PoisonError::into_inner) = Preempt::new();
        *self.runlists() = Runlists::default();
        self.host.errors.reset();
    }
}

impl PmcUnit for Fifo {
    fn set_enabled(&self, enabled: bool) {
        self.disabled.store(!enabled, Ordering::Relaxed);
        if !enabled {
            RegisterBlock::reset(self);
        }
    }
}

impl Drop for Fifo {
    fn drop(&mut self) {
        self.channels.iter().for_each(|channel| channel.kill());
        for channel in &self.channels {
            channel.shut_down();
        }
    }
}
