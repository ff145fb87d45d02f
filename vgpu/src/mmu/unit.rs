// SPDX-License-Identifier: MIT OR Apache-2.0
//! A unit that accesses memory through the MMU, and the window that an acked invalidate waits for.

use std::sync::atomic::{fence, AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::bus::{AtomicOp, GpuVa, PhysAddr, Width};

use super::core::Core;
use super::stores::{Landing, StoreQueue, LONGEST_HELD};
use super::tlb::{Side, UnitTlb};
use super::types::{
    Access, AddressSpace, Backing, Client, ClientKind, Fault, FaultType, Stalled, Translation,
};
use super::walk;

/// Polls of a window before the waiting thread sleeps between them.
const WINDOW_SPINS: u32 = 64;
const WINDOW_NAP: Duration = Duration::from_micros(50);

/// What other threads see of a unit.
#[derive(Default)]
pub(crate) struct UnitState {
    /// Odd while a window is open; each opening and closing adds one.
    window: AtomicU64,
    stores: Mutex<StoreQueue>,
    accesses: AtomicU64,
    tlb_hits: AtomicU64,
}

impl UnitState {
    /// Waits until the window that is open now is closed. Later windows are none of the caller's business: they begin
    /// after the epoch that the caller has published.
    pub(crate) fn wait_for_window(&self) {
        let open = self.window.load(Ordering::SeqCst);
        if open % 2 == 0 {
            return;
        }
        let mut polls = 0;
        while self.window.load(Ordering::SeqCst) == open {
            polls += 1;
            if polls < WINDOW_SPINS {
                thread::yield_now();
            } else {
                thread::sleep(WINDOW_NAP);
            }
        }
    }

    pub(crate) fn stores(&self) -> MutexGuard<'_, StoreQueue> {
        self.stores.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn accesses(&self) -> u64 {
        self.accesses.load(Ordering::Relaxed)
    }

    pub(crate) fn tlb_hits(&self) -> u64 {
        self.tlb_hits.load(Ordering::Relaxed)
    }
}

/// Counts without a locked instruction: only the unit's own thread writes.
fn count(counter: &AtomicU64) {
    counter.store(
        counter.load(Ordering::Relaxed).wrapping_add(1),
        Ordering::Relaxed,
    );
}

/// One unit that accesses memory: its TLB and its stores in flight. It belongs to one thread.
pub struct Unit {
    core: Arc<Core>,
    state: Arc<UnitState>,
    client: Client,
    tlb: UnitTlb,
    random: fastrand::Rng,
}

impl Unit {
    pub(crate) fn new(core: Arc<Core>, state: Arc<UnitState>, client: Client, seed: u64) -> Self {
        let side = match client.kind {
            ClientKind::Gpc { .. } => Side::Gpc,
            ClientKind::Hub { .. } => Side::Hub,
        };
        Self {
            tlb: UnitTlb::new(side, &core.tlb),
            random: fastrand::Rng::with_seed(seed),
            core,
            state,
            client,
        }
    }

    /// Opens a window: translations got in it stay usable until it is dropped, because an acked invalidate waits for
    /// that. Keep it short: a bounded number of pages, and never wait for anything in it.
    pub fn window(&mut self) -> Window<'_> {
        let opened = self.state.window.load(Ordering::Relaxed).wrapping_add(1);
        self.state.window.store(opened, Ordering::SeqCst);
        // Either this unit sees the epoch of an invalidation in its next lookup, or the invalidation sees the window.
        fence(Ordering::SeqCst);
        Window { unit: self }
    }

    /// Lands all stores of the unit.
    pub fn flush(&self) {
        self.land(Landing::All);
    }

    /// Waits until the driver has resolved `faults`. Fills the replay FIFO and fault buffer 1, and blocks. Where the
    /// faults are not replayable (a hub unit, replay not enabled, no page directory), reports the first one in
    /// buffer 0 and returns [`Stalled::Cancelled`] at once.
    ///
    /// A kill of the channel sets `killed` and then calls [`super::Mmu::abandon`]: whichever side takes the FIFO's
    /// lock second sees the other.
    pub fn stall(
        &mut self,
        space: &AddressSpace,
        faults: &[Fault],
        killed: &AtomicBool,
    ) -> Stalled {
        self.core.stall(space, self.client, faults, killed)
    }

    /// Reports a fault of a unit that does not stall on it: a packet in fault buffer 0. A unit with fault-and-switch
    /// marks its channel as faulted before it calls this.
    pub fn report(&self, space: &AddressSpace, fault: Fault) {
        self.core.report(space, self.client, fault);
    }

    /// Translates an address ahead of its use. A fault stalls nobody, and is reported as PRF_FILTER says.
    pub fn prefetch(&mut self, space: &AddressSpace, va: GpuVa) {
        let fault = match self.window().translate(space, va, Access::Prefetch) {
            Ok(_) => return,
            Err(fault) => fault,
        };
        self.core.report_prefetch(space, self.client, fault);
    }

    fn land(&self, which: Landing) {
        if self.core.late_writes.is_some() {
            let mut stores = self.state.stores();
            stores.land(&*self.core.bus, &self.core.counters, which);
        }
    }

    /// Loads and atomics come after the unit's earlier stores.
    fn order(&self, access: Access) {
        if matches!(access, Access::Read | Access::Atomic) {
            self.land(Landing::All);
        }
    }

    fn translate(
        &mut self,
        space: &AddressSpace,
        va: GpuVa,
        access: Access,
    ) -> Result<Translation, FaultType> {
        count(&self.state.accesses);
        self.order(access);
        let pdb = space.pdb().ok_or(FaultType::UnboundInstBlock)?;
        let leaf = match self.tlb.get(&self.core.tlb, pdb, va) {
            Some(leaf) => {
                count(&self.state.tlb_hits);
                leaf
            }
            None => {
                let leaf = self.core.translate(pdb, va)?;
                self.tlb.insert(pdb, va, leaf);
                leaf
            }
        };
        walk::check(&leaf, access, space.privilege)?;
        let offset = va.0 & (leaf.size.bytes() - 1);
        Ok(Translation {
            phys: leaf.base.offset(offset),
            bytes: leaf.size.bytes() - offset,
            backing: leaf.backing,
        })
    }

    fn store(&mut self, to: Translation, data: &[u8]) {
        let fits = usize::try_from(to.bytes).unwrap_or(usize::MAX);
        let data = data.get(..fits).unwrap_or(data);
        if to.backing == Backing::Sparse {
            return;
        }
        let core = &*self.core;
        let Some(late) = core.late_writes else {
            core.write(to.phys, data);
            return;
        };
        let mut stores = self.state.stores();
        if data.len() <= LONGEST_HELD && self.random.u8(..100) < late.percent {
            core.counters.late_stores.count();
            stores.hold(to.phys, data);
            stores.land(&*core.bus, &core.counters, Landing::AllBut(late.depth));
        } else {
            // A store lands behind those before it.
            stores.land(&*core.bus, &core.counters, Landing::All);
            core.write(to.phys, data);
        }
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        self.flush();
        self.core.remove_unit(&self.state);
    }
}

/// Accesses that an acked invalidate waits for.
pub struct Window<'a> {
    unit: &'a mut Unit,
}

impl Window<'_> {
    /// Translates one address. Loads and atomics land the unit's earlier stores first.
    pub fn translate(
        &mut self,
        space: &AddressSpace,
        va: GpuVa,
        access: Access,
    ) -> Result<Translation, Fault> {
        self.unit.translate(space, va, access).map_err(|kind| {
            self.unit.core.counters.faults.count();
            Fault { va, access, kind }
        })
    }

    /// The translation of a physical address, for units that may use them: its accesses count as the window's.
    pub fn physical(&self, phys: PhysAddr, bytes: u64, access: Access) -> Translation {
        self.unit.order(access);
        Translation {
            phys,
            bytes,
            backing: Backing::Memory,
        }
    }

    /// Reads what is at a translation of this window, which reaches as far as `out`. Where no memory is, all ones.
    pub fn load(&self, from: Translation, out: &mut [u8]) {
        match from.backing {
            Backing::Memory => self.unit.core.read(from.phys, out),
            Backing::Sparse => out.fill(0),
        }
    }

    /// A read-modify-write at a translation of this window. Returns the old value; where no memory is, all ones.
    pub fn atomic(&self, at: Translation, width: Width, op: AtomicOp) -> u64 {
        if at.backing == Backing::Sparse {
            return 0;
        }
        let core = &*self.unit.core;
        core.bus.atomic(at.phys, width, op).unwrap_or_else(|_| {
            core.counters.bus_errors.count();
            u64::MAX
        })
    }

    /// Stores `data` at a translation of this window, past stores of the unit that are held back.
    pub fn store_now(&mut self, to: Translation, data: &[u8]) {
        if to.backing == Backing::Memory {
            self.unit.core.write(to.phys, data);
        }
    }

    /// Stores `data` at a translation of this window; now, or later where the device was told to hold stores back.
    /// Bytes past the leaf's end are dropped.
    pub fn store(&mut self, to: Translation, data: &[u8]) {
        self.unit.store(to, data);
    }
}

impl Drop for Window<'_> {
    fn drop(&mut self) {
        let closed = self
            .unit
            .state
            .window
            .load(Ordering::Relaxed)
            .wrapping_add(1);
        // Release: the window's accesses come before it is seen closed.
        self.unit.state.window.store(closed, Ordering::Release);
    }
}
