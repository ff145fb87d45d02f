// SPDX-License-Identifier: MIT OR Apache-2.0
//! Host: channels and the PBDMA that fetches their work (dev_fifo, dev_pbdma, dev_usermode).
//!
//! Each channel that was ever enabled has a thread of its own, so that none waits for another. Locks, none held while another is
//! taken, but for the first: the interrupt tree's, then a leaf (`Errors`, `Graph`). Leaves: a channel's state, the scheduler of an engine.

mod channel;
mod errors;
mod host;
mod latch;
mod push;
mod ramfc;
mod regs;
mod worker;

use std::sync::{Arc, Mutex, PoisonError};

use crate::bus::Bus;
use crate::clock;
use crate::counters::Counters;
use crate::engine::{Engine, Graph, Run};
use crate::intr::InterruptTree;
use crate::mmu::Mmu;
use crate::pri::RegisterBlock;

use channel::Channel;
use errors::Errors;
use regs::{ChannelControl, ChannelInst, Preempt};

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
}

impl Host {
    fn is_busy(&self, run: &Run) -> bool {
        self.engines.iter().any(|engine| engine.is_busy(run))
    }

    /// Waits until the run has no work in any engine and its stores have landed.
    fn wait_idle(&self, run: &Run) {
        for engine in &self.engines {
            engine.wait_idle(run);
        }
    }

    /// Wakes what waits on behalf of a run that was killed.
    fn wake(&self, run: &Run) {
        self.mmu.abandon(run.space.inst);
        for engine in &self.engines {
            engine.kick();
        }
    }
}

/// Host.
pub(crate) struct Fifo {
    host: Arc<Host>,
    channels: Vec<Arc<Channel>>,
    preempt: Mutex<u16>,
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
        });
        let channel = |id| Channel::new(id, &host);
        Self {
            channels: (0..regs::CHANNELS as u16).map(channel).collect(),
            host,
            preempt: Mutex::new(0),
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

    fn read_preempt(&self) -> u32 {
        let id = *self.preempt.lock().unwrap_or_else(PoisonError::into_inner);
        let pending = self.by_id(id.into()).is_some_and(Channel::is_ending);
        Preempt::new().with_id(id).with_pending(pending).into()
    }

    fn write_preempt(&self, value: Preempt) {
        *self.preempt.lock().unwrap_or_else(PoisonError::into_inner) = value.id();
        if let Some(channel) = self.by_id(value.id().into()) {
            channel.preempt();
        }
    }
}

impl RegisterBlock for Fifo {
    fn read(&self, offset: u32) -> Option<u32> {
        if let Some(channel) = self.channel(offset, regs::CHANNEL_INST) {
            return Some(channel.read_inst());
        }
        if let Some(channel) = self.channel(offset, regs::CHANNEL) {
            return Some(channel.read_control());
        }
        let time = clock::now_ns();
        Some(match offset {
            regs::PREEMPT => self.read_preempt(),
            regs::USERMODE_CFG0 => regs::USERMODE_CLASS,
            // 31:5 of the low half; the next 29 bits in the high one.
            regs::USERMODE_TIME_0 => time as u32 & !0x1f,
            regs::USERMODE_TIME_1 => (time >> 32) as u32 & 0x1fff_ffff,
            regs::NOTIFY_CHANNEL_PENDING => 0,
            _ => return self.host.errors.read(offset),
        })
    }

    fn write(&self, offset: u32, value: u32) -> Option<()> {
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
        for channel in &self.channels {
            channel.reset();
        }
        *self.preempt.lock().unwrap_or_else(PoisonError::into_inner) = 0;
        self.host.errors.reset();
    }
}

impl Drop for Fifo {
    fn drop(&mut self) {
        for channel in &self.channels {
            channel.shut_down();
        }
    }
}
