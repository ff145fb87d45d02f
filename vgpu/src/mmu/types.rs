// SPDX-License-Identifier: MIT OR Apache-2.0
//! The words of translation: who accesses what, how, and what came of it.

use crate::bus::{Bus, GpuVa, PhysAddr};

use super::format::{
    RamfcConfig, RaminPdbHi, RaminPdbLo, RAMFC_CONFIG, RAMIN_PAGE_DIR_BASE_HI,
    RAMIN_PAGE_DIR_BASE_LO,
};

/// What an instance block says about its channel's address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressSpace {
    /// The instance block, named in fault packets.
    pub inst: PhysAddr,
    /// The page directory, if the block has a usable one.
    pub binding: Binding,
    /// What its channel may do.
    pub privilege: Privilege,
}

/// AUTH_LEVEL of the instance block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Privilege {
    /// Pages with PRIVILEGE fault, privileged methods are errors.
    #[default]
    User,
    /// Pages with PRIVILEGE are like others.
    Privileged,
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
    /// Reads the page directory base (dev_ram, NV_RAMIN_PAGE_DIR_BASE) and CONFIG of the instance block at `inst`. A
    /// block that cannot be read, has another page-table version or big page size, or names no memory, is
    /// [`Binding::Unbound`].
    pub fn from_instance_block(bus: &dyn Bus, inst: PhysAddr) -> Self {
        let config = bus.read_u32(inst.offset(RAMFC_CONFIG)).unwrap_or(0);
        let privilege = if RamfcConfig::from(config).auth_level_privileged() {
            Privilege::Privileged
        } else {
            Privilege::User
        };
        Self {
            inst,
            binding: Self::binding(bus, inst).unwrap_or(Binding::Unbound),
            privilege,
        }
    }

    fn binding(bus: &dyn Bus, inst: PhysAddr) -> Option<Binding> {
        let lo = bus.read_u32(inst.offset(RAMIN_PAGE_DIR_BASE_LO)).ok()?;
        let hi = bus.read_u32(inst.offset(RAMIN_PAGE_DIR_BASE_HI)).ok()?;
        let (lo, hi) = (RaminPdbLo::from(lo), RaminPdbHi::from(hi));
        let pdb = lo.page_directory(hi)?;
        let replay = if lo.fault_replay_tex() {
            Replay::Enabled
        } else {
            Replay::Disabled
        };
        Some(Binding::Bound { pdb, replay })
    }

    pub(crate) fn replay(&self) -> Replay {
        match self.binding {
            Binding::Bound { replay, .. } => replay,
            Binding::Unbound => Replay::Disabled,
        }
    }

    pub(crate) fn pdb(&self) -> Option<PhysAddr> {
        match self.binding {
            Binding::Bound { pdb, .. } => Some(pdb),
            Binding::Unbound => None,
        }
    }
}

/// How memory is accessed. The discriminant is ACCESS_TYPE.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Access {
    /// A load.
    Read = 0,
    /// A store.
    Write = 1,
    /// A read-modify-write (ATOMIC_STRONG).
    Atomic = 2,
    /// A load that nobody waits for: [`super::Unit::prefetch`].
    Prefetch = 3,
}

/// FAULT_TYPE of a fault packet (dev_fault): those that this device raises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
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
    /// A write or an atomic to a read-only page.
    Ro = 0x6,
    /// The entry names an aperture that the device has not.
    UnsupportedAperture = 0xa,
    /// The entry names a storage kind that the device has not.
    UnsupportedKind = 0xc,
    /// A page table lies outside all memory.
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
    /// What is there.
    pub backing: Backing,
}

impl Translation {
    /// Where the byte `bytes` further on leads, which is in the same leaf.
    pub(crate) fn advance(self, bytes: u64) -> Self {
        Self {
            phys: self.phys.offset(bytes),
            bytes: self.bytes.saturating_sub(bytes),
            ..self
        }
    }
}

/// What a translation leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// An address of memory, or of none.
    Memory,
    /// A sparse page: reads give 0, writes are dropped. The address means nothing.
    Sparse,
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
    /// All requests had a translation when the MMU tried again: access again.
    Replay,
    /// The driver cancelled this request, or the fault was not replayable. Its packet is in fault buffer 0.
    Cancelled(Fault),
    /// The channel was killed or the device reset.
    Abandoned,
}
