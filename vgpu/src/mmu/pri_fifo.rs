// SPDX-License-Identifier: MIT OR Apache-2.0
//! The PRI FIFO: invalidations that were triggered through BAR0 and wait for the MMU's thread, and those of MEM_OP
//! among them.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::regs::mmu as regs;

use super::invalidation::{Operands, Operation};

#[derive(Default)]
struct State {
    operands: Operands,
    command: regs::Invalidate,
    page_fault_ctrl: regs::PageFaultCtrl,
    /// In the order in which they came.
    queue: VecDeque<(Origin, Operation)>,
    executing: Option<Origin>,
    /// Operations of MEM_OP so far, and how many of them are finished: they are in order among each other.
    mem_ops: u64,
    mem_ops_finished: u64,
    error: bool,
    /// The thread has other things to look at.
    woken: bool,
    shutdown: bool,
}

/// Who waits for an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// Whoever polls PRI_FIFO_EMPTY.
    Bar0,
    /// The thread of a channel.
    MemOp,
}

/// The invalidation registers and the queue behind them.
#[derive(Default)]
pub(crate) struct PriFifo {
    state: Mutex<State>,
    changed: Condvar,
}

/// What a register write did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    Done,
    /// A TRIGGER found the FIFO full and was dropped.
    Dropped,
}

/// What the MMU's thread is to do next.
pub(crate) enum Work {
    Execute(Operation),
    /// Nothing was triggered for as long as the caller was willing to wait, or it was woken.
    Idle,
    Shutdown,
}

impl State {
    fn space(&self) -> usize {
        let queued = self.queue.iter().map(|(origin, _)| *origin);
        let all = queued.chain(self.executing);
        let used = all.filter(|origin| *origin == Origin::Bar0).count();
        regs::PRI_FIFO_DEPTH.saturating_sub(used)
    }

    fn ctrl(&self) -> regs::Ctrl {
        let space = self.space();
        regs::Ctrl::new()
            .with_pri_fifo_error(self.error)
            .with_pri_fifo_empty(space == regs::PRI_FIFO_DEPTH)
            .with_pri_fifo_space(u8::try_from(space).unwrap_or(u8::MAX))
    }

    fn command(&mut self, command: regs::Invalidate) -> Written {
        self.command = command.with_trigger(false);
        if !command.trigger() {
            return Written::Done;
        }
        if self.space() == 0 {
            self.error = true;
            return Written::Dropped;
        }
        let operation = Operation::decode(command, &self.operands);
        self.queue.push_back((Origin::Bar0, operation));
        Written::Done
    }

    fn finish(&mut self, origin: Origin) {
        self.mem_ops_finished += u64::from(origin == Origin::MemOp);
    }
}

impl PriFifo {
    pub(crate) fn read(&self, offset: u32) -> Option<u32> {
        let state = self.lock();
        Some(match offset {
            regs::CTRL => state.ctrl().into_bits(),
            regs::INVALIDATE_VADDR => state.operands.vaddr.into_bits(),
            regs::INVALIDATE_UPPER_VADDR => state.operands.upper_vaddr.into_bits(),
            regs::INVALIDATE_PDB => state.operands.pdb.into_bits(),
            regs::INVALIDATE_UPPER_PDB => state.operands.upper_pdb.into_bits(),
            regs::INVALIDATE_SIZE => state.operands.size.into_bits(),
            regs::INVALIDATE => state.command.into_bits(),
            regs::PAGE_FAULT_CTRL => state.page_fault_ctrl.into_bits(),
            _ => return None,
        })
    }

    pub(crate) fn write(&self, offset: u32, value: u32) -> Option<Written> {
        let mut state = self.lock();
        match offset {
            regs::CTRL => state.error &= !regs::Ctrl::from(value).pri_fifo_error_clear(),
            regs::INVALIDATE_VADDR => state.operands.vaddr = value.into(),
            regs::INVALIDATE_UPPER_VADDR => state.operands.upper_vaddr = value.into(),
            regs::INVALIDATE_PDB => state.operands.pdb = value.into(),
            regs::INVALIDATE_UPPER_PDB => state.operands.upper_pdb = value.into(),
            regs::INVALIDATE_SIZE => state.operands.size = value.into(),
            regs::PAGE_FAULT_CTRL => state.page_fault_ctrl = value.into(),
            regs::INVALIDATE => {
                let written = state.command(value.into());
                self.changed.notify_all();
                return Some(written);
            }
            _ => return None,
        }
        Some(Written::Done)
    }

    /// Takes the next operation, which counts as executing until [`Self::finish`].
    pub(crate) fn next(&self, patience: Duration) -> Work {
        let idle = |state: &mut State| state.queue.is_empty() && !state.shutdown && !state.woken;
        let waited = self.changed.wait_timeout_while(self.lock(), patience, idle);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.woken = false;
        if state.shutdown {
            return Work::Shutdown;
        }
        match state.queue.pop_front() {
            Some((origin, operation)) => {
                state.executing = Some(origin);
                Work::Execute(operation)
            }
            None => Work::Idle,
        }
    }

    /// Has [`Self::next`] return soon.
    pub(crate) fn wake(&self) {
        self.lock().woken = true;
        self.changed.notify_all();
    }

    /// The operation is finished, as far as PRI_FIFO_EMPTY tells.
    pub(crate) fn finish(&self) {
        let mut state = self.lock();
        if let Some(origin) = state.executing.take() {
            state.finish(origin);
        }
        self.changed.notify_all();
    }

    /// Has an operation executed, and waits until it is finished (or the device is reset).
    pub(crate) fn mem_op(&self, operation: Operation) {
        let mut state = self.lock();
        state.mem_ops += 1;
        let ticket = state.mem_ops;
        state.queue.push_back((Origin::MemOp, operation));
        self.changed.notify_all();
        let waits = |state: &mut State| state.mem_ops_finished < ticket && !state.shutdown;
        drop(self.changed.wait_while(state, waits));
    }

    /// Whether PRF_FILTER lets prefetch faults pass.
    pub(crate) fn sends_prefetches(&self) -> bool {
        self.lock().page_fault_ctrl.prf_filter() == regs::PRF_FILTER_SEND_ALL
    }

    /// Forgets what is queued and waits for what is being executed.
    pub(crate) fn reset(&self) {
        let mut state = self.lock();
        for (origin, _) in std::mem::take(&mut state.queue) {
            state.finish(origin);
        }
        *state = State {
            executing: state.executing,
            mem_ops: state.mem_ops,
            mem_ops_finished: state.mem_ops_finished,
            shutdown: state.shutdown,
            ..State::default()
        };
        self.changed.notify_all();
        let executing = |state: &mut State| state.executing.is_some();
        let finished = self.changed.wait_while(state, executing);
        drop(finished);
    }

    pub(crate) fn shut_down(&self) {
        self.lock().shutdown = true;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
