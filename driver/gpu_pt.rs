// SPDX-License-Identifier: GPL-2.0

//! GPU page tables: format and walk of MMU v2. Pure logic: memory is behind [`TableMem`], so it runs in KUnit.
//!
//! Five levels (PDE3, PDE2, PDE1, PDE0, PTE), 49-bit addresses; leaves of 4 KiB, 64 KiB and 2 MiB. PDE0 is dual: its
//! low half points to a table of 64 KiB PTEs, its high half to one of 4 KiB PTEs, or its low half is a 2 MiB PTE.
//! Source: open-gpu-doc `pascal/gp100-mmu-format.pdf` and `manuals/volta/gv100/dev_mmu.ref.txt`.
//!
//! # Writing order
//!
//! The device walks while we write. A table is filled before the entry that points to it; where an entry changes from
//! one form to another, every state in between is either the old one, the new one, or invalid.
//!
//! # Retired entries
//!
//! Clearing has two steps, because a DMA mapping may only be given back once the device has forgotten the
//! translation. [`block::Block::retire`] makes entries invalid but leaves the address in them, where the hardware does not look
//! (dev_mmu: of an entry with VALID = 0 only VOL and PRIVILEGE are read); after the TLB invalidate [`block::Block::reap`] hands the
//! addresses out and zeroes the entries.

use crate::vram::VramOffset;
use kernel::{bitfield, prelude::*};

pub(crate) mod block;
pub(crate) mod shadow;
#[cfg(CONFIG_KUNIT = "y")]
mod tests;

/// log2 of the smallest leaf.
pub(crate) const PAGE_SHIFT: u32 = 12;
/// log2 of what one PDE0 covers.
pub(crate) const BLOCK_SHIFT: u32 = 21;
/// 4 KiB pages in a block.
pub(crate) const BLOCK_PAGES: usize = 1 << (BLOCK_SHIFT - PAGE_SHIFT);
/// 4 KiB pages under a 64 KiB leaf.
pub(crate) const BIG_PAGES: usize = 16;
/// Bytes of a block's table of 64 KiB PTEs.
pub(crate) const BIG_TABLE_SIZE: u64 = 256;

/// The three sizes of leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LeafSize {
    /// 4 KiB
    Small,
    /// 64 KiB
    Big,
    /// 2 MiB
    Huge,
}

impl LeafSize {
    /// log2 of the 4 KiB pages under it.
    pub(crate) const fn order(self) -> u32 {
        self.pages().ilog2()
    }

    /// 4 KiB pages under it.
    pub(crate) const fn pages(self) -> usize {
        match self {
            LeafSize::Small => 1,
            LeafSize::Big => BIG_PAGES,
            LeafSize::Huge => BLOCK_PAGES,
        }
    }
}

/// APERTURE of a PTE. A PDE has other codes: see [`PdeAperture`].
#[derive(Clone, Copy)]
enum PteAperture {
    SysMemCoherent = 2,
}

/// APERTURE of a PDE; 0 is invalid.
#[derive(Clone, Copy)]
enum PdeAperture {
    VidMem = 1,
}

bitfield! {
    /// A leaf of any size.
    pub(crate) struct Pte(u64) {
        53:8 address;
        7:7 atomic_disable => bool;
        6:6 read_only => bool;
        5:5 privilege => bool;
        3:3 vol => bool;
        2:1 aperture;
        0:0 valid => bool;
    }
}

bitfield! {
    /// A directory entry, or the small half of a PDE0.
    pub(crate) struct Pde(u64) {
        /// Device memory: address >> 12.
        32:8 address_vid;
        3:3 vol => bool;
        2:1 aperture;
        0:0 is_pte => bool;
    }
}

bitfield! {
    /// The big half of a PDE0.
    pub(crate) struct PdeBig(u64) {
        /// Device memory: address >> 8.
        32:4 address_vid;
        3:3 vol => bool;
        2:1 aperture;
        0:0 is_pte => bool;
    }
}

/// What the GPU may do with a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Access {
    /// Read.
    ReadOnly,
    /// Read, write, atomics.
    ReadWrite,
}

impl Pte {
    /// A leaf in coherent system memory.
    pub(crate) fn sysmem(dma: u64, access: Access) -> Result<Self> {
        let read_only = access == Access::ReadOnly;
        Ok(Self::zeroed()
            .try_with_address(dma >> PAGE_SHIFT)?
            .with_const_aperture::<{ PteAperture::SysMemCoherent as u64 }>()
            .with_vol(true)
            .with_read_only(read_only)
            .with_atomic_disable(read_only)
            .with_valid(true))
    }

    /// The bus address.
    pub(crate) fn dma(self) -> u64 {
        self.address().get() << PAGE_SHIFT
    }

    pub(crate) fn access(self) -> Access {
        if self.read_only() {
            Access::ReadOnly
        } else {
            Access::ReadWrite
        }
    }

    /// Invalid, but the address stays for [`block::Block::reap`]. No other bit may: in a PDE0 they would mean a table.
    pub(crate) fn retired(self) -> Self {
        Self::zeroed().with_address(self.address())
    }

    /// Whether [`Pte::retired`] made it. An address of zero is no mirrored page's.
    pub(crate) fn is_retired(self) -> bool {
        !self.valid() && self.into_raw() != 0
    }

    /// The leaf `pages` 4 KiB pages further on, same permissions.
    pub(crate) fn advance(self, pages: usize) -> Result<Self> {
        self.try_with_address(self.address().get() + u64::try_from(pages)?)
    }
}

impl Pde {
    /// Points to a table in device memory.
    pub(crate) fn table(at: VramOffset) -> Result<Self> {
        Ok(Self::zeroed()
            .try_with_address_vid(at.0 >> PAGE_SHIFT)?
            .with_const_aperture::<{ PdeAperture::VidMem as u64 }>())
    }
}

impl PdeBig {
    /// Points to a table of 64 KiB PTEs in device memory.
    pub(crate) fn table(at: VramOffset) -> Result<Self> {
        Ok(Self::zeroed()
            .try_with_address_vid(at.0 >> 8)?
            .with_const_aperture::<{ PdeAperture::VidMem as u64 }>())
    }
}

/// Memory that the device reads page tables from. The driver only writes it.
pub(crate) trait TableMem {
    /// Writes an entry; lost when the device is gone.
    fn write(&self, at: VramOffset, value: u64);
    /// Writes entries that follow one another, each at once.
    fn write_run(&self, at: VramOffset, entries: &[u64]);
    /// Orders the writes before against the writes after, as the device sees them.
    fn barrier(&self);
}

/// Index of `va` in the PDE3, PDE2 and PDE1 tables, and in the PDE0 table.
pub(crate) fn directory_indices(va: u64) -> [u64; 4] {
    [
        (va >> 47) & 0x3,
        (va >> 38) & 0x1ff,
        (va >> 29) & 0x1ff,
        (va >> BLOCK_SHIFT) & 0xff,
    ]
}
