// SPDX-License-Identifier: MIT OR Apache-2.0
//! The parts of the MMU that its units, its register block and its thread share.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::bus::{Bus, GpuVa, PhysAddr};
use crate::config::{Config, LateAcks, LateWrites};
use crate::counters::Counters;
use crate::intr::InterruptTree;

use super::fault_buffer::FaultBuffers;
use super::format::Leaf;
use super::invalidation::{Ack, Invalidation, Operation, ReplayOp};
use super::packet::{Kind, Report};
use super::pri_fifo::PriFifo;
use super::replay::{ReplayFifo, Request, Retry, Stalling};
use super::stores::Landing;
use super::tlb::{Lookup, SharedTlb, Walked};
use super::types::{AddressSpace, Client, ClientKind, Fault, FaultType, Replay, Stalled};
use super::unit::UnitState;
use super::walk::{self, Path};

/// Shared state of the MMU.
pub(crate) struct Core {
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) late_writes: Option<LateWrites>,
    pub(crate) late_acks: Option<LateAcks>,
    eager_walks: Option<Duration>,
    pub(crate) tlb: SharedTlb,
    pub(crate) faults: FaultBuffers,
    pub(crate) pri: PriFifo,
    pub(crate) replays: ReplayFifo,
    units: Mutex<Vec<Arc<UnitState>>>,
}

/// What an MMU is made of.
pub(crate) struct Parts<'a> {
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) intr: Arc<InterruptTree>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) config: &'a Config,
}

impl Core {
    pub(crate) fn new(parts: Parts<'_>) -> Self {
        let (bus, counters) = (Arc::clone(&parts.bus), Arc::clone(&parts.counters));
        Self {
            faults: FaultBuffers::new(parts.bus, parts.intr, parts.counters, parts.config),
            bus,
            counters,
            late_writes: parts.config.late_writes,
            late_acks: parts.config.late_acks,
            eager_walks: parts.config.eager_walks,
            tlb: SharedTlb::new(),
            pri: PriFifo::default(),
            replays: ReplayFifo::default(),
            units: Mutex::default(),
        }
    }

    /// The leaf for an address in range, from the shared TLB or the page tables.
    pub(crate) fn translate(&self, pdb: PhysAddr, va: GpuVa) -> Result<Leaf, FaultType> {
        let miss = match self.tlb.lookup(pdb, va) {
            Lookup::Hit(leaf) => {
                self.counters.tlb_hits.count();
                return Ok(leaf);
            }
            Lookup::Miss(miss) => miss,
        };
        self.counters.walks.count();
        if matches!(miss.start, walk::Start::Cached(_)) {
            self.counters.pde_cache_hits.count();
        }
        let mut path = Path::default();
        let leaf = if walk::in_va_range(va) {
            walk::walk(&*self.bus, miss.start, va, &mut path)
        } else {
            Err(FaultType::VaLimit)
        };
        let walked = Walked {
            pdb,
            va,
            leaf: leaf.ok(),
            path: &path,
        };
        self.tlb.fill(&miss, &walked);
        leaf
    }

    /// Reads for a unit; where no memory answers, all ones, as PCI has it.
    pub(crate) fn read(&self, at: PhysAddr, out: &mut [u8]) {
        if self.bus.read(at, out).is_err() {
            self.counters.bus_errors.count();
            out.fill(0xff);
        }
    }

    /// Writes for a unit; where no memory answers, the write is lost.
    pub(crate) fn write(&self, at: PhysAddr, data: &[u8]) {
        if self.bus.write(at, data).is_err() {
            self.counters.bus_errors.count();
        }
    }

    pub(crate) fn stall(
        &self,
        space: &AddressSpace,
        client: Client,
        faults: &[Fault],
        killed: &AtomicBool,
    ) -> Stalled {
        let Some(first) = faults.first() else {
            return Stalled::Replay;
        };
        let gpc = matches!(client.kind, ClientKind::Gpc { .. });
        if !gpc || space.replay() == Replay::Disabled {
            self.report(space, client, *first);
            return Stalled::Cancelled(*first);
        }
        let stalling = Stalling {
            space: *space,
            client,
            faults,
            killed,
        };
        let Some(ticket) = self.replays.enter(&stalling, self) else {
            return Stalled::Abandoned;
        };
        self.faults.update_level();
        if self.eager_walks.is_some() {
            self.pri.wake();
        }
        self.replays.wait(&ticket, killed)
    }

    /// Reports a fault that is not replayable.
    pub(crate) fn report(&self, space: &AddressSpace, client: Client, fault: Fault) {
        let kind = Kind::NonReplayable;
        self.push(&Report {
            kind,
            space,
            client,
            fault,
        });
        self.faults.update_level();
    }

    /// Reports a prefetch that faulted, if PRF_FILTER lets it pass and the address space has replayable faults at all.
    pub(crate) fn report_prefetch(&self, space: &AddressSpace, client: Client, fault: Fault) {
        if !self.pri.sends_prefetches() || space.replay() == Replay::Disabled {
            self.counters.filtered_prefetches.count();
            return;
        }
        let kind = Kind::Replayable;
        self.push(&Report {
            kind,
            space,
            client,
            fault,
        });
        self.faults.update_level();
    }

    /// Executes one TRIGGER, on the MMU's thread.
    pub(crate) fn execute(&self, op: Operation, delay: Duration) {
        self.counters.invalidates.count();
        self.tlb.invalidate(op.invalidation);
        if op.ack != Ack::NoneRequired {
            self.counters.acked_invalidates.count();
            let drained = self.drain(match op.ack {
                Ack::Sysmem => Landing::All,
                Ack::Vidmem | Ack::NoneRequired => Landing::Vidmem,
            });
            self.counters.drained_stores.add(drained);
            std::thread::sleep(delay);
            self.counters.ack_delay_ns.add(delay.as_nanos() as u64);
        }
        match op.replay {
            ReplayOp::None => {}
            ReplayOp::Start => {
                // Acked as soon as the invalidate is processed; the replay itself is under way then.
                self.pri.finish();
                self.replay(op.replay);
                return;
            }
            ReplayOp::StartAckAll | ReplayOp::Cancel(_) | ReplayOp::CancelVa(_) => {
                self.replay(op.replay);
            }
        }
        self.pri.finish();
    }

    /// How soon requests that wait are walked to again; None: there are none, or they are let alone.
    pub(crate) fn next_walk(&self) -> Option<Duration> {
        self.eager_walks.filter(|_| self.replays.is_waiting())
    }

    /// Walks to where requests wait, if the device was told to.
    pub(crate) fn walk_eagerly(&self) {
        if self.eager_walks.is_some() {
            self.replays.walk(self);
        }
    }

    /// Lands held stores, once the windows that are open now are closed. Returns how many.
    pub(crate) fn drain(&self, which: Landing) -> u64 {
        let units = self.units().clone();
        let drain = |unit: &Arc<UnitState>| {
            unit.wait_for_window();
            unit.stores().land(&*self.bus, &self.counters, which)
        };
        units.iter().map(drain).sum()
    }

    /// Lands held stores without waiting for windows.
    pub(crate) fn land_stores(&self, which: Landing) {
        let units = self.units().clone();
        for unit in units {
            unit.stores().land(&*self.bus, &self.counters, which);
        }
    }

    /// The state after power-on. Stalled units are abandoned, held stores forgotten.
    pub(crate) fn reset(&self) {
        self.pri.reset();
        self.replays.abandon_all();
        self.tlb.invalidate(Invalidation::EVERYTHING);
        let units = self.units().clone();
        for unit in units {
            unit.wait_for_window();
            unit.stores().discard();
        }
        self.faults.reset();
    }

    pub(crate) fn add_unit(&self) -> Arc<UnitState> {
        let unit = Arc::new(UnitState::default());
        self.units().push(Arc::clone(&unit));
        unit
    }

    pub(crate) fn remove_unit(&self, unit: &Arc<UnitState>) {
        self.units().retain(|other| !Arc::ptr_eq(other, unit));
        self.counters.accesses.add(unit.accesses());
        self.counters.utlb_hits.add(unit.tlb_hits());
    }

    /// Accesses and TLB hits that the units have not handed over to the counters yet.
    pub(crate) fn live_accesses(&self) -> (u64, u64) {
        let units = self.units();
        let sum = |count: fn(&UnitState) -> u64| units.iter().map(|unit| count(unit)).sum();
        (sum(UnitState::accesses), sum(UnitState::tlb_hits))
    }

    fn replay(&self, op: ReplayOp) {
        if matches!(op, ReplayOp::Start | ReplayOp::StartAckAll) {
            self.counters.replays.count();
        }
        self.replays.replay(op, self);
        self.faults.update_level();
    }

    fn push(&self, report: &Report<'_>) {
        if self.faults.push(report) {
            self.pri.wake();
        }
    }

    fn push_request(&self, kind: Kind, request: &Request<'_>) {
        self.push(&Report {
            kind,
            space: request.space,
            client: request.client,
            fault: request.fault,
        });
    }

    fn units(&self) -> MutexGuard<'_, Vec<Arc<UnitState>>> {
        self.units.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Retry for Core {
    fn retry(&self, request: &Request<'_>) -> Result<(), FaultType> {
        let pdb = request.space.pdb().ok_or(FaultType::UnboundInstBlock)?;
        let leaf = self.translate(pdb, request.fault.va);
        let (access, privilege) = (request.fault.access, request.space.privilege);
        let retried = leaf.and_then(|leaf| walk::check(&leaf, access, privilege));
        if retried.is_err() {
            self.counters.faults.count();
        }
        retried
    }

    fn walk(&self, request: &Request<'_>) {
        if let Some(pdb) = request.space.pdb() {
            self.counters.eager_walks.count();
            // What it leads to is looked at when the request is tried again.
            let _ = self.translate(pdb, request.fault.va);
        }
    }

    fn report_waiting(&self, request: &Request<'_>) {
        self.push_request(Kind::Replayable, request);
    }

    fn report_cancelled(&self, request: &Request<'_>) {
        self.counters.cancelled_requests.count();
        self.push_request(Kind::NonReplayable, request);
    }
}
