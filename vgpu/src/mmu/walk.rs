// SPDX-License-Identifier: MIT OR Apache-2.0
//! The page-table walk: pure logic over a bus.

use crate::bus::{Bus, BusError, GpuVa, PhysAddr};

use super::format::{pte_offset, BigPde, Leaf, Level, PageSize, Pde, Pte, Table, VA_BITS};
use super::types::{Access, FaultType, Privilege};

/// What a valid directory entry leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Directory {
    /// The next directory.
    Next(PhysAddr),
    /// PDE0's two page tables; at least one of them is there.
    Tables {
        big: Option<PhysAddr>,
        small: Option<PhysAddr>,
    },
}

/// A valid directory entry that a walk came by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) level: Level,
    pub(crate) to: Directory,
}

/// Where a walk begins.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Start {
    Root(PhysAddr),
    /// Below this entry.
    Cached(Step),
}

/// The valid directory entries of one walk, from the root down.
#[derive(Debug, Default)]
pub(crate) struct Path {
    steps: [Option<Step>; Level::ALL.len()],
}

impl Path {
    fn push(&mut self, step: Step) {
        if let Some(free) = self.steps.iter_mut().find(|slot| slot.is_none()) {
            *free = Some(step);
        }
    }

    pub(crate) fn steps(&self) -> impl Iterator<Item = Step> + '_ {
        self.steps.iter().flatten().copied()
    }
}

/// Walks the page tables for `va`, which fits in the virtual address bits. `path` gets the valid directory entries
/// that were read, also where the walk ends in a fault.
pub(crate) fn walk(
    bus: &dyn Bus,
    start: Start,
    va: GpuVa,
    path: &mut Path,
) -> Result<Leaf, FaultType> {
    let (mut at, levels): (Directory, &[Level]) = match start {
        Start::Root(pdb) => (Directory::Next(pdb), &Level::ALL),
        Start::Cached(step) => {
            let below = Level::ALL.iter().position(|level| *level < step.level);
            let levels = below.and_then(|first| Level::ALL.get(first..));
            (step.to, levels.unwrap_or_default())
        }
    };
    for &level in levels {
        let Directory::Next(directory) = at else {
            break;
        };
        let entry = directory.offset(level.entry_offset(va.0));
        at = match level {
            Level::Pde0 => match read_pde0(bus, entry)? {
                Found::Leaf(leaf) => return Ok(leaf),
                Found::Directory(tables) => tables,
            },
            Level::Pde1 | Level::Pde2 | Level::Pde3 => match read_pde(bus, entry)? {
                Found::Leaf(leaf) => return Ok(leaf),
                Found::Directory(next) => next,
            },
        };
        path.push(Step { level, to: at });
    }
    match at {
        Directory::Tables { big, small } => read_tables(bus, big, small, va),
        Directory::Next(_) => Err(FaultType::Pde),
    }
}

/// Whether a leaf allows an access. Atomics need the right to write as well.
pub(crate) fn check(leaf: &Leaf, access: Access, privilege: Privilege) -> Result<(), FaultType> {
    let rights = leaf.rights;
    if rights.privileged && privilege == Privilege::User {
        return Err(FaultType::Priv);
    }
    match access {
        Access::Write | Access::Atomic if rights.read_only => Err(FaultType::Ro),
        Access::Atomic if rights.atomic_disable => Err(FaultType::Atomic),
        Access::Read | Access::Write | Access::Atomic | Access::Prefetch => Ok(()),
    }
}

/// Whether translation is defined for this address at all.
pub(crate) fn in_va_range(va: GpuVa) -> bool {
    va.0 >> VA_BITS == 0
}

/// What a directory entry is.
enum Found {
    Leaf(Leaf),
    Directory(Directory),
}

fn read_entry(bus: &dyn Bus, at: PhysAddr) -> Result<u64, FaultType> {
    bus.read_u64(at).map_err(|error| match error {
        BusError::OutOfRange | BusError::MasterDisabled => FaultType::Region,
    })
}

fn read_pde(bus: &dyn Bus, at: PhysAddr) -> Result<Found, FaultType> {
    let pde = Pde::from(read_entry(bus, at)?);
    match pde.table() {
        // Leaves this high up do not exist.
        _ if pde.is_pte() => Err(FaultType::Pde),
        Table::At(next) => Ok(Found::Directory(Directory::Next(next))),
        // All below it is sparse; the TLB takes the 2 MiB around the address.
        Table::Sparse => Ok(Found::Leaf(Leaf::sparse(PageSize::Huge, false))),
        Table::Invalid => Err(FaultType::Pde),
    }
}

fn read_pde0(bus: &dyn Bus, at: PhysAddr) -> Result<Found, FaultType> {
    let low = read_entry(bus, at)?;
    let big = BigPde::from(low);
    if big.is_pte() {
        return Pte::from(low).leaf(PageSize::Huge).map(Found::Leaf);
    }
    let small = Pde::from(read_entry(bus, at.offset(8))?).table();
    // VOL_SMALL does not make an entry sparse, VOL_BIG does.
    match (big.table(), small.address()) {
        (Table::Invalid, None) => Err(FaultType::Pde),
        (Table::Sparse, None) => Ok(Found::Leaf(Leaf::sparse(PageSize::Huge, false))),
        (big, small) => {
            let big = big.address();
            Ok(Found::Directory(Directory::Tables { big, small }))
        }
    }
}

fn read_tables(
    bus: &dyn Bus,
    big: Option<PhysAddr>,
    small: Option<PhysAddr>,
    va: GpuVa,
) -> Result<Leaf, FaultType> {
    let read = |table: PhysAddr, size| {
        read_entry(bus, table.offset(pte_offset(size, va.0))).map(Pte::from)
    };
    if let Some(table) = big {
        let pte = read(table, PageSize::Big)?;
        if pte.valid() || pte.hides_small() || small.is_none() {
            return pte.leaf(PageSize::Big);
        }
    }
    match small {
        Some(table) => read(table, PageSize::Small)?.leaf(PageSize::Small),
        None => Err(FaultType::Pde),
    }
}
