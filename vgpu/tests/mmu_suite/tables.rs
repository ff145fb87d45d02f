// SPDX-License-Identifier: MIT OR Apache-2.0
//! Builds page tables by the published format (dev_mmu, VER2).

use std::cell::Cell;

use mirage_vgpu::bus::{Aperture, PhysAddr};

use crate::memory::{vid, Memory};

pub(crate) const KIB4: u64 = 4 << 10;
pub(crate) const KIB64: u64 = 64 << 10;
pub(crate) const MIB2: u64 = 2 << 20;

pub(crate) const VALID: u64 = 1;
pub(crate) const VOL: u64 = 1 << 3;
pub(crate) const ENCRYPTED: u64 = 1 << 4;
pub(crate) const PRIVILEGE: u64 = 1 << 5;
pub(crate) const READ_ONLY: u64 = 1 << 6;
pub(crate) const ATOMIC_DISABLE: u64 = 1 << 7;

/// A PDE, or the small half of a dual PDE: apertures 1 VID, 2 SYS_COH.
pub(crate) fn pde(table: PhysAddr) -> u64 {
    let aperture = match table.aperture {
        Aperture::Vid => 1,
        Aperture::Sys => 2,
    };
    (table.addr >> 12 << 8) | (aperture << 1)
}

/// The big half of a dual PDE: its table is 256-byte aligned.
pub(crate) fn big_pde(table: PhysAddr) -> u64 {
    let aperture = match table.aperture {
        Aperture::Vid => 1,
        Aperture::Sys => 2,
    };
    (table.addr >> 8 << 4) | (aperture << 1)
}

/// A valid PTE: apertures 0 VID, 2 SYS_COH.
pub(crate) fn pte(page: PhysAddr) -> u64 {
    let aperture = match page.aperture {
        Aperture::Vid => 0,
        Aperture::Sys => 2,
    };
    (page.addr >> 12 << 8) | (aperture << 1) | VALID
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    Pte,
    Pde0,
    Pde1,
    Pde2,
    Pde3,
}

/// One set of page tables, in VRAM from `first` on.
pub(crate) struct Tables<'a> {
    memory: &'a Memory,
    pub(crate) root: PhysAddr,
    next: Cell<u64>,
}

impl<'a> Tables<'a> {
    pub(crate) fn new(memory: &'a Memory, first: u64) -> Self {
        Self {
            memory,
            root: vid(first),
            next: Cell::new(first + KIB4),
        }
    }

    /// Maps the 4 KiB page of `va`; builds the tables above it.
    pub(crate) fn map(&self, va: u64, pte: u64) {
        self.memory.set(self.entry(va, Level::Pte), pte);
    }

    /// Maps 64 KiB.
    pub(crate) fn map_big(&self, va: u64, pte: u64) {
        self.memory.set(self.big_entry(va), pte);
    }

    /// Maps 2 MiB.
    pub(crate) fn map_huge(&self, va: u64, pte: u64) {
        let pde0 = self.entry(va, Level::Pde0);
        self.memory.set(pde0, pte);
        self.memory.set(pde0.offset(8), 0);
    }

    /// The address of an entry. For PDE0 that of the low qword.
    pub(crate) fn entry(&self, va: u64, level: Level) -> PhysAddr {
        let at = self.root.offset(((va >> 47) & 3) * 8);
        if level == Level::Pde3 {
            return at;
        }
        let at = self.below(at, pde).offset(((va >> 38) & 0x1ff) * 8);
        if level == Level::Pde2 {
            return at;
        }
        let at = self.below(at, pde).offset(((va >> 29) & 0x1ff) * 8);
        if level == Level::Pde1 {
            return at;
        }
        let at = self.below(at, pde).offset(((va >> 21) & 0xff) * 16);
        if level == Level::Pde0 {
            return at;
        }
        self.below(at.offset(8), pde)
            .offset(((va >> 12) & 0x1ff) * 8)
    }

    /// The address of the 64 KiB PTE.
    pub(crate) fn big_entry(&self, va: u64) -> PhysAddr {
        let pde0 = self.entry(va, Level::Pde0);
        self.below(pde0, big_pde).offset(((va >> 16) & 0x1f) * 8)
    }

    /// The table that the entry leads to; a new one where it is empty.
    fn below(&self, entry: PhysAddr, encode: fn(PhysAddr) -> u64) -> PhysAddr {
        let start = vid(0);
        let value = self.memory.get(entry);
        if value == 0 {
            let table = vid(self.next.replace(self.next.get() + KIB4));
            self.memory.set(entry, encode(table));
            return table;
        }
        let unit = encode(vid(KIB4)) - encode(start);
        vid((value - encode(start)) / unit * KIB4)
    }
}
