// SPDX-License-Identifier: MIT OR Apache-2.0
//! The MMU: page-table walks, TLBs, invalidation, faults and their replay.

use std::marker::PhantomData;
use std::sync::Arc;

use crate::bus::{Bus, GpuVa, PhysAddr};
use crate::config::Config;
use crate::counters::Counters;
use crate::intr::InterruptTree;
use crate::pri::RegisterBlock;

/// What an instance block says about its channel's address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressSpace {
    /// The instance block, named in fault packets.
    pub inst: PhysAddr,
    /// The page directory, if the block has a usable one.
    pub binding: Binding,
}

/// The page directory of an instance block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binding {
    /// Accesses walk from this directory.
    Bound {
        /// The root page directory (PDE3), 4 KiB aligned.
        pdb: PhysAddr,
        /// What becomes of faults of GPC clients.
        replay: Replay,
    },
    /// Bad or missing: every access faults with UNBOUND_INST_BLOCK, not replayable.
    Unbound,
}

/// FAULT_REPLAY_TEX of the instance block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replay {
    /// Faults of SMs wait in the replay FIFO.
    Enabled,
    /// Faults of SMs are reported like those of any other unit.
    Disabled,
}

impl AddressSpace {
    /// Reads the page directory base of the instance block at `inst`.
    pub fn from_instance_block(bus: &dyn Bus, inst: PhysAddr) -> Self {
        let _ = bus;
        Self {
            inst,
            binding: Binding::Unbound,
        }
    }
}

/// How memory is accessed. The discriminant is ACCESS_TYPE.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
pub enum Access {
    /// A load.
    Read = 0,
    /// A store.
    Write = 1,
    /// A read-modify-write (ATOMIC_STRONG).
    Atomic = 2,
}

/// FAULT_TYPE of a fault packet: those that this device raises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
pub enum FaultType {
    /// A page directory entry is invalid.
    Pde = 0x0,
    /// The page table entry is invalid.
    Pte = 0x2,
    /// The address has more than 49 bits.
    VaLimit = 0x3,
    /// The instance block has no usable page directory.
    UnboundInstBlock = 0x4,
    /// The page is for privileged accesses.
    Priv = 0x5,
    /// A write to a read-only page.
    Ro = 0x6,
    /// The entry names an aperture that the device has not.
    UnsupportedAperture = 0xa,
    /// The entry names a storage kind that the device has not.
    UnsupportedKind = 0xc,
    /// A page table or page lies outside all memory.
    Region = 0xd,
    /// An atomic to a page with ATOMIC_DISABLE.
    Atomic = 0xf,
}

/// A request that has no translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fault {
    /// The address that was accessed.
    pub va: GpuVa,
    /// How.
    pub access: Access,
    /// Why not.
    pub kind: FaultType,
}

/// Where an address leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// The physical address of the byte asked for.
    pub phys: PhysAddr,
    /// Bytes from there to the end of the leaf; at least 1.
    pub bytes: u64,
}

/// Who accesses memory, as fault packets name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// MMU_CLIENT_TYPE, GPC_ID and CLIENT.
    pub kind: ClientKind,
    /// ENGINE_ID, 9 bits.
    pub engine_id: u16,
}

/// MMU_CLIENT_TYPE, GPC_ID and CLIENT of a fault packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientKind {
    /// In a GPC: its faults can be replayed.
    Gpc {
        /// GPC_ID, 5 bits.
        gpc: u8,
        /// CLIENT, 7 bits.
        client: u8,
    },
    /// On the hub: its faults are never replayed.
    Hub {
        /// CLIENT, 7 bits.
        client: u8,
    },
}

/// How a stall ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Stalled {
    /// All requests have a translation now (or had one when the MMU tried): access again.
    Replay,
    /// The driver cancelled this request, or the fault was not replayable. Its packet is in fault buffer 0.
    Cancelled(Fault),
    /// The channel was killed or the device reset.
    Abandoned,
}

/// The MMU.
pub struct Mmu {}

impl Mmu {
    /// An MMU after power-on, its invalidation thread running.
    pub fn new(
        bus: Arc<dyn Bus>,
        intr: Arc<InterruptTree>,
        counters: Arc<Counters>,
        config: &Config,
    ) -> Arc<Self> {
        let _ = (bus, intr, counters, config);
        Arc::new(Self {})
    }

    /// Adds a unit that accesses memory. Dropping the unit lands its stores and removes it.
    pub fn register_unit(self: &Arc<Self>, client: Client) -> Unit {
        let _ = client;
        Unit {}
    }

    /// Drops the requests of a killed channel from the replay FIFO; their units get [`Stalled::Abandoned`].
    pub fn abandon(&self, inst: PhysAddr) {
        let _ = inst;
    }

    /// Reports a fault that is not replayable in fault buffer 0.
    pub fn report(&self, space: &AddressSpace, client: Client, fault: Fault) {
        let _ = (space, client, fault);
    }
}

impl RegisterBlock for Mmu {
    fn read(&self, _offset: u32) -> Option<u32> {
        None
    }

    fn write(&self, _offset: u32, _value: u32) -> Option<()> {
        None
    }

    fn reset(&self) {}
}

/// One unit that accesses memory: its TLB and its stores in flight. It belongs to one thread.
pub struct Unit {}

impl Unit {
    /// Opens a window: translations got in it stay usable until it is dropped, because an acked invalidate waits for
    /// that. Keep it short: a bounded number of pages, and never wait for anything in it.
    pub fn window(&mut self) -> Window<'_> {
        Window { unit: PhantomData }
    }

    /// Lands all stores of the unit.
    pub fn flush(&self) {}

    /// Waits until the driver has resolved `faults`. Fills the replay FIFO and fault buffer 1, and blocks. Where the
    /// faults are not replayable (a hub unit, replay not enabled, no page directory), reports the first one in
    /// buffer 0 and returns [`Stalled::Cancelled`] at once.
    pub fn stall(&mut self, space: &AddressSpace, faults: &[Fault]) -> Stalled {
        let _ = (space, faults);
        Stalled::Abandoned
    }
}

/// Accesses that an acked invalidate waits for.
pub struct Window<'a> {
    unit: PhantomData<&'a mut Unit>,
}

impl Window<'_> {
    /// Translates one address. Loads and atomics land the unit's earlier stores first.
    pub fn translate(
        &mut self,
        space: &AddressSpace,
        va: GpuVa,
        access: Access,
    ) -> Result<Translation, Fault> {
        let _ = space;
        Err(Fault {
            va,
            access,
            kind: FaultType::Pte,
        })
    }

    /// Stores `data` at a translation of this window; now, or later where the device was told to hold stores back.
    /// Bytes past the leaf's end are dropped.
    pub fn store(&mut self, to: Translation, data: &[u8]) {
        let _ = (to, data);
    }
}
