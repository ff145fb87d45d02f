// SPDX-License-Identifier: MIT OR Apache-2.0
//! The replay FIFO: requests of stalled units that wait for the driver.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::bus::PhysAddr;

use super::format::PAGE_SHIFT;
use super::invalidation::ReplayOp;
use super::types::{AddressSpace, Client, Fault, FaultType, Stalled};

/// One stalled unit and the requests that it waits for.
struct Stall {
    id: u64,
    space: AddressSpace,
    client: Client,
    waiting: Vec<Fault>,
    outcome: Option<Stalled>,
    wake: Arc<Condvar>,
}

/// The requests that wait, in the order in which their units stalled.
#[derive(Default)]
pub(crate) struct ReplayFifo {
    stalls: Mutex<Stalls>,
}

#[derive(Default)]
struct Stalls {
    list: Vec<Stall>,
    next_id: u64,
    /// The device is going away: nobody would ever end a stall.
    closed: bool,
}

/// One request of the FIFO.
pub(crate) struct Request<'a> {
    pub(crate) space: &'a AddressSpace,
    pub(crate) client: Client,
    pub(crate) fault: Fault,
}

/// What the FIFO asks of the MMU. Called with the FIFO's lock held.
pub(crate) trait Retry {
    /// Tries the translation again.
    fn retry(&self, request: &Request<'_>) -> Result<(), FaultType>;
    /// Walks to where a request waits, and keeps what is valid on the way.
    fn walk(&self, request: &Request<'_>);
    /// Reports a request that waits, or goes on waiting.
    fn report_waiting(&self, request: &Request<'_>);
    /// Reports a request that is cancelled.
    fn report_cancelled(&self, request: &Request<'_>);
}

/// What a replay makes of one request.
enum Verdict {
    Translated,
    Waiting(Fault),
    Cancelled(Fault),
}

fn judge(op: ReplayOp, request: &Request<'_>, mmu: &impl Retry) -> Verdict {
    let (space, client) = (request.space, request.client);
    let selected = matches!(op, ReplayOp::CancelVa(cancel) if cancel.selects(space.pdb(), &client, &request.fault));
    if selected {
        mmu.report_cancelled(request);
        return Verdict::Cancelled(request.fault);
    }
    let Err(kind) = mmu.retry(request) else {
        return Verdict::Translated;
    };
    let fault = Fault {
        kind,
        ..request.fault
    };
    let again = Request {
        space,
        client,
        fault,
    };
    match op {
        ReplayOp::Cancel(target) if target.includes(&client) => {
            mmu.report_cancelled(&again);
            Verdict::Cancelled(fault)
        }
        _ => {
            mmu.report_waiting(&again);
            Verdict::Waiting(fault)
        }
    }
}

impl Stall {
    fn finish(&mut self, outcome: Stalled) {
        self.waiting.clear();
        self.outcome = Some(outcome);
        self.wake.notify_all();
    }

    fn replay(&mut self, op: ReplayOp, mmu: &impl Retry) {
        let mut cancelled = None;
        let (space, client) = (self.space, self.client);
        self.waiting.retain_mut(|fault| {
            let request = Request {
                space: &space,
                client,
                fault: *fault,
            };
            match judge(op, &request, mmu) {
                Verdict::Translated => false,
                Verdict::Waiting(again) => {
                    *fault = again;
                    true
                }
                Verdict::Cancelled(fault) => {
                    cancelled = cancelled.or(Some(fault));
                    false
                }
            }
        });
        if let Some(fault) = cancelled {
            self.finish(Stalled::Cancelled(fault));
        } else if self.waiting.is_empty() {
            self.finish(Stalled::Replay);
        }
    }
}

/// One request for each page and kind of access.
fn distinct(faults: &[Fault]) -> Vec<Fault> {
    let mut seen = BTreeSet::new();
    let is_new = |fault: &&Fault| seen.insert((fault.va.0 >> PAGE_SHIFT, fault.access));
    faults.iter().filter(is_new).copied().collect()
}

/// A unit that is about to stall.
pub(crate) struct Stalling<'a> {
    pub(crate) space: AddressSpace,
    pub(crate) client: Client,
    pub(crate) faults: &'a [Fault],
    pub(crate) killed: &'a AtomicBool,
}

/// The ticket of a stall that has been entered.
pub(crate) struct Ticket {
    id: u64,
    wake: Arc<Condvar>,
}

impl ReplayFifo {
    /// Enters the requests and reports them. None: the channel was killed.
    pub(crate) fn enter(&self, stalling: &Stalling<'_>, mmu: &impl Retry) -> Option<Ticket> {
        let mut stalls = self.lock();
        if stalls.closed || stalling.killed.load(Ordering::Acquire) {
            return None;
        }
        let id = stalls.next_id;
        stalls.next_id += 1;
        let waiting = distinct(stalling.faults);
        for fault in &waiting {
            mmu.report_waiting(&Request {
                space: &stalling.space,
                client: stalling.client,
                fault: *fault,
            });
        }
        let wake = Arc::new(Condvar::new());
        stalls.list.push(Stall {
            id,
            space: stalling.space,
            client: stalling.client,
            waiting,
            outcome: None,
            wake: Arc::clone(&wake),
        });
        Some(Ticket { id, wake })
    }

    /// Blocks until the stall has ended.
    pub(crate) fn wait(&self, ticket: &Ticket, killed: &AtomicBool) -> Stalled {
        let mut stalls = self.lock();
        loop {
            let position = stalls.list.iter().position(|stall| stall.id == ticket.id);
            let Some(stall) = position.and_then(|i| stalls.list.get(i)) else {
                return Stalled::Abandoned;
            };
            let abandoned = killed.load(Ordering::Acquire).then_some(Stalled::Abandoned);
            if let (Some(outcome), Some(i)) = (stall.outcome.or(abandoned), position) {
                stalls.list.remove(i);
                return outcome;
            }
            stalls = ticket
                .wake
                .wait(stalls)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Tries all requests again, or cancels what `op` selects.
    pub(crate) fn replay(&self, op: ReplayOp, mmu: &impl Retry) {
        let mut stalls = self.lock();
        for stall in stalls
            .list
            .iter_mut()
            .filter(|stall| stall.outcome.is_none())
        {
            stall.replay(op, mmu);
        }
    }

    /// Whether anything waits.
    pub(crate) fn is_waiting(&self) -> bool {
        let stalls = self.lock();
        stalls.list.iter().any(|stall| !stall.waiting.is_empty())
    }

    /// Walks to where requests wait. With the lock held, so that nothing is cached for a channel once it is abandoned.
    pub(crate) fn walk(&self, mmu: &impl Retry) {
        for stall in &self.lock().list {
            let (space, client) = (&stall.space, stall.client);
            for &fault in &stall.waiting {
                mmu.walk(&Request {
                    space,
                    client,
                    fault,
                });
            }
        }
    }

    /// Ends the stalls of one channel.
    pub(crate) fn abandon(&self, inst: PhysAddr) {
        self.abandon_where(|stall| stall.space.inst == inst);
    }

    /// Ends all stalls.
    pub(crate) fn abandon_all(&self) {
        self.abandon_where(|_| true);
    }

    /// Ends all stalls and those to come.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.abandon_all();
    }

    fn abandon_where(&self, select: impl Fn(&Stall) -> bool) {
        let mut stalls = self.lock();
        let running = stalls
            .list
            .iter_mut()
            .filter(|stall| stall.outcome.is_none());
        for stall in running.filter(|stall| select(stall)) {
            stall.finish(Stalled::Abandoned);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Stalls> {
        self.stalls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
