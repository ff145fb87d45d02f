// SPDX-License-Identifier: MIT OR Apache-2.0
//! The PRI FIFO: invalidations that were triggered through BAR0 and wait for the MMU's thread.

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
    queue: VecDeque<Operation>,
    executing: bool,
    error: bool,
    shutdown: bool,
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
    /// Nothing was triggered for as long as the caller was willing to wait.
    Idle,
    Shutdown,
}

impl State {
    fn space(&self) -> usize {
        let used = self.queue.len() + usize::from(self.executing);
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
        self.queue
            .push_back(Operation::decode(command, &self.operands));
        Written::Done
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
        let idle = |state: &mut State| state.queue.is_empty() && !state.shutdown;
        let waited = self.changed.wait_timeout_while(self.lock(), patience, idle);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if state.shutdown {
            return Work::Shutdown;
        }
        match state.queue.pop_front() {
            Some(operation) => {
                state.executing = true;
                Work::Execute(operation)
            }
            None => Work::Idle,
        }
    }

    /// The operation is finished, as far as PRI_FIFO_EMPTY tells.
    pub(crate) fn finish(&self) {
        self.lock().executing = false;
        self.changed.notify_all();
    }

    /// Forgets what is queued and waits for what is being executed.
    pub(crate) fn reset(&self) {
        let mut state = self.lock();
        *state = State {
            executing: state.executing,
            shutdown: state.shutdown,
            ..State::default()
        };
        let executing = |state: &mut State| state.executing;
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
