// SPDX-License-Identifier: MIT OR Apache-2.0
//! What one TRIGGER asks for, decoded from the invalidation registers.

use crate::bus::{Aperture, GpuVa, PhysAddr};
use crate::regs::mmu as regs;

use super::cache::Tag;
use super::format::{Level, PAGE_SHIFT};
use super::types::{Access, Client, ClientKind, Fault};

/// The registers that a TRIGGER takes its operands from.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Operands {
    pub(crate) vaddr: regs::InvalidateVaddr,
    pub(crate) upper_vaddr: regs::InvalidateUpper,
    pub(crate) pdb: regs::InvalidatePdb,
    pub(crate) upper_pdb: regs::InvalidateUpper,
    pub(crate) size: regs::InvalidateSize,
}

impl Operands {
    fn va(&self) -> u64 {
        (u64::from(self.upper_vaddr.bits()) << 40) | (u64::from(self.vaddr.bits()) << PAGE_SHIFT)
    }

    fn page_directory(&self) -> PhysAddr {
        let addr =
            (u64::from(self.upper_pdb.bits()) << 40) | (u64::from(self.pdb.addr()) << PAGE_SHIFT);
        let aperture = if self.pdb.sys_mem() {
            Aperture::Sys
        } else {
            Aperture::Vid
        };
        PhysAddr { aperture, addr }
    }
}

/// Virtual addresses, from `first` to `last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct VaRange {
    first: u64,
    last: u64,
}

impl VaRange {
    /// `4 KiB << order`, around `va`; from order 52 on that is everything.
    fn aligned(va: u64, order: u8) -> Self {
        let bits = PAGE_SHIFT + u32::from(order);
        let mask = 1_u64.checked_shl(bits).map_or(u64::MAX, |size| size - 1);
        Self {
            first: va & !mask,
            last: va | mask,
        }
    }
}

/// Which cached entries are meant. None stands for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Scope {
    pub(crate) pdb: Option<PhysAddr>,
    pub(crate) range: Option<VaRange>,
}

impl Scope {
    pub(crate) const EVERYTHING: Self = Self {
        pdb: None,
        range: None,
    };

    pub(crate) fn covers(&self, tag: Tag, shift: u32) -> bool {
        let in_directory = self.pdb.is_none_or(|pdb| pdb == tag.pdb);
        let pages = |range: VaRange| range.first >> shift..=range.last >> shift;
        in_directory
            && self
                .range
                .is_none_or(|range| pages(range).contains(&tag.page))
    }

    /// The tags that it covers, where they can be listed and are at most `most`.
    pub(crate) fn tags(&self, shift: u32, most: usize) -> Option<impl Iterator<Item = Tag>> {
        let (pdb, range) = (self.pdb?, self.range?);
        let (first, last) = (range.first >> shift, range.last >> shift);
        let few = usize::try_from(last - first).is_ok_and(|more| more < most);
        few.then(|| (first..=last).map(move |page| Tag { pdb, page }))
    }
}

/// CACHE_LEVEL: how far up the caches are invalidated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Depth {
    PteOnly,
    UpTo(Level),
}

impl Depth {
    /// PDE4 and PDE5, which this format has not, count as the root.
    fn decode(cache_level: u8) -> Self {
        match cache_level {
            1 => Self::PteOnly,
            2 => Self::UpTo(Level::Pde0),
            3 => Self::UpTo(Level::Pde1),
            4 => Self::UpTo(Level::Pde2),
            _ => Self::UpTo(Level::Pde3),
        }
    }

    pub(crate) fn includes(self, level: Level) -> bool {
        match self {
            Self::PteOnly => false,
            Self::UpTo(top) => level <= top,
        }
    }
}

/// HUBTLB_ONLY.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// All units.
    All,
    /// Not the TLBs of GPC units.
    HubOnly,
}

/// The part of an operation that is about cached entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Invalidation {
    pub(crate) scope: Scope,
    pub(crate) depth: Depth,
    pub(crate) reach: Reach,
}

impl Invalidation {
    pub(crate) const EVERYTHING: Self = Self {
        scope: Scope::EVERYTHING,
        depth: Depth::UpTo(Level::Pde3),
        reach: Reach::All,
    };
}

/// ACK and SYS_MEMBAR: which accesses with old translations have to land first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ack {
    /// None.
    NoneRequired,
    /// Those to VRAM.
    Vidmem,
    /// All.
    Sysmem,
}

/// Which requests a cancel is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CancelTarget {
    Global,
    /// CANCEL_GPC_ID, CANCEL_CLIENT_ID.
    Gpc {
        gpc: u8,
        client: u8,
    },
    /// CANCEL_CLIENT_TYPE is HUB; hub requests never wait for a replay.
    Hub,
}

impl CancelTarget {
    pub(crate) fn includes(self, client: &Client) -> bool {
        match (self, client.kind) {
            (Self::Global, _) => true,
            (Self::Gpc { gpc, client }, kind) => kind == ClientKind::Gpc { gpc, client },
            (Self::Hub, _) => false,
        }
    }
}

/// What CANCEL_VA_GLOBAL selects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CancelVa {
    pdb: PhysAddr,
    page: GpuVa,
    access_type: u8,
    /// CANCEL_MMU_ENGINE_ID, which BAR0 has no field for: None stands for all.
    engine: Option<u16>,
}

impl CancelVa {
    pub(crate) fn of_engine(self, engine: u16) -> Self {
        let engine = Some(engine);
        Self { engine, ..self }
    }

    pub(crate) fn selects(&self, pdb: Option<PhysAddr>, client: &Client, fault: &Fault) -> bool {
        let same_page = fault.va.0 >> PAGE_SHIFT == self.page.0 >> PAGE_SHIFT;
        let engine = self.engine.is_none_or(|id| id == client.engine_id);
        // CANCEL_READ, _WRITE, _ATOMIC_STRONG, _ATOMIC_ALL, _WRITE_AND_ATOMIC, _ALL; the device has no weak atomics.
        let access = match fault.access {
            Access::Read => [0, 7].contains(&self.access_type),
            Access::Write => [1, 6, 7].contains(&self.access_type),
            Access::Atomic => [2, 5, 6, 7].contains(&self.access_type),
            Access::Prefetch => false,
        };
        same_page && access && engine && pdb == Some(self.pdb)
    }
}

/// REPLAY.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReplayOp {
    None,
    Start,
    StartAckAll,
    Cancel(CancelTarget),
    CancelVa(CancelVa),
}

/// One TRIGGER.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Operation {
    pub(crate) invalidation: Invalidation,
    pub(crate) ack: Ack,
    pub(crate) replay: ReplayOp,
}

impl Operation {
    pub(crate) fn decode(command: regs::Invalidate, operands: &Operands) -> Self {
        // REPLAY, ACK and SYS_MEMBAR are for the TLBs of GPCs and ignored without them (dev_pbdma, MEM_OP_C).
        let command = if command.hubtlb_only() {
            command.with_replay(0).with_ack(0)
        } else {
            command
        };
        let replay = replay(command, operands);
        let cache_level = match replay {
            ReplayOp::CancelVa(_) => 0,
            _ => command.cache_level(),
        };
        let order = if command.use_size() {
            operands.size.val()
        } else {
            0
        };
        let scope = Scope {
            pdb: (!command.all_pdb()).then(|| operands.page_directory()),
            range: (!command.all_va()).then(|| VaRange::aligned(operands.va(), order)),
        };
        let reach = if command.hubtlb_only() {
            Reach::HubOnly
        } else {
            Reach::All
        };
        let ack = match (command.ack(), command.sys_membar()) {
            (1 | 2, true) => Ack::Sysmem,
            (1 | 2, false) => Ack::Vidmem,
            _ => Ack::NoneRequired,
        };
        let depth = Depth::decode(cache_level);
        Self {
            invalidation: Invalidation {
                scope,
                depth,
                reach,
            },
            ack,
            replay,
        }
    }
}

fn replay(command: regs::Invalidate, operands: &Operands) -> ReplayOp {
    match command.replay() {
        1 => ReplayOp::Start,
        2 => ReplayOp::StartAckAll,
        3 if command.cancel_client_type_hub() => ReplayOp::Cancel(CancelTarget::Hub),
        3 => ReplayOp::Cancel(CancelTarget::Gpc {
            gpc: command.cancel_gpc_id(),
            client: command.cancel_client_id(),
        }),
        4 => ReplayOp::Cancel(CancelTarget::Global),
        5 => ReplayOp::CancelVa(CancelVa {
            pdb: operands.page_directory(),
            page: GpuVa(operands.va()),
            access_type: command.cache_level(),
            engine: None,
        }),
        _ => ReplayOp::None,
    }
}
