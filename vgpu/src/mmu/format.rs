// SPDX-License-Identifier: MIT OR Apache-2.0
//! Formats in memory: page directory and page table entries (dev_mmu, "VER2"), the page directory base of an instance
//! block (dev_ram), the fault packet (dev_mmu_fault).

use bitfield_struct::bitfield;

use crate::bus::{Aperture, PhysAddr};

use super::types::{Backing, FaultType};

/// Virtual address bits that are translated.
pub(crate) const VA_BITS: u32 = 49;
/// Smallest page: granule of addresses in entries, invalidations and fault packets.
pub(crate) const PAGE_SHIFT: u32 = 12;
/// NV_MMU_VER2_DUAL_PDE_ADDRESS_BIG_SHIFT: 64 KiB tables are 256 bytes long and aligned.
const BIG_TABLE_SHIFT: u32 = 8;
/// Bits of a VRAM page number in an entry (128 GiB); the bits above mean something else.
const VID_PAGE_BITS: u32 = 25;
/// NV_MMU_PTE_KIND_PITCH, the only kind that the device has.
const KIND_PITCH: u8 = 0;

/// NV_RAMIN_PAGE_DIR_BASE, bytes from the start of the instance block.
pub(crate) const RAMIN_PAGE_DIR_BASE_LO: u64 = 0x200;
/// NV_RAMIN_PAGE_DIR_BASE_HI, bytes from the start of the instance block.
pub(crate) const RAMIN_PAGE_DIR_BASE_HI: u64 = 0x204;

/// NV_RAMFC_CONFIG, bytes from the start of the instance block.
pub(crate) const RAMFC_CONFIG: u64 = 0x0f4;

/// Size of a leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum PageSize {
    Small,
    Big,
    Huge,
}

impl PageSize {
    pub(crate) const fn shift(self) -> u32 {
        match self {
            Self::Small => 12,
            Self::Big => 16,
            Self::Huge => 21,
        }
    }

    pub(crate) const fn bytes(self) -> u64 {
        1 << self.shift()
    }
}

/// A level of page directories, from the root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    Pde0,
    Pde1,
    Pde2,
    Pde3,
}

impl Level {
    /// From the root down.
    pub(crate) const ALL: [Self; 4] = [Self::Pde3, Self::Pde2, Self::Pde1, Self::Pde0];

    /// An entry of this level covers `1 << shift` bytes.
    pub(crate) const fn shift(self) -> u32 {
        match self {
            Self::Pde0 => 21,
            Self::Pde1 => 29,
            Self::Pde2 => 38,
            Self::Pde3 => 47,
        }
    }

    const fn index_bits(self) -> u32 {
        match self {
            Self::Pde0 => 8,
            Self::Pde1 | Self::Pde2 => 9,
            Self::Pde3 => 2,
        }
    }

    const fn entry_bytes(self) -> u64 {
        match self {
            Self::Pde0 => 16,
            Self::Pde1 | Self::Pde2 | Self::Pde3 => 8,
        }
    }

    /// Distance of the entry for `va` from the start of its table.
    pub(crate) const fn entry_offset(self, va: u64) -> u64 {
        ((va >> self.shift()) & ((1 << self.index_bits()) - 1)) * self.entry_bytes()
    }
}

/// Distance of the PTE for `va` from the start of its page table.
pub(crate) const fn pte_offset(size: PageSize, va: u64) -> u64 {
    let in_table = va & (PageSize::Huge.bytes() - 1);
    (in_table >> size.shift()) * 8
}

/// The address of a page number, which in VRAM has fewer bits.
fn page_address(aperture: Aperture, page: u64, shift: u32) -> PhysAddr {
    let page = match aperture {
        Aperture::Vid => page & ((1 << (VID_PAGE_BITS + PAGE_SHIFT - shift)) - 1),
        Aperture::Sys => page,
    };
    let addr = page << shift;
    PhysAddr { aperture, addr }
}

/// What a directory entry says about the table below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Table {
    At(PhysAddr),
    Invalid,
    /// Invalid with VOL.
    Sparse,
}

impl Table {
    fn decode(aperture: u8, vol: bool, page: u64, shift: u32) -> Self {
        match aperture {
            1 => Self::At(page_address(Aperture::Vid, page, shift)),
            2 | 3 => Self::At(page_address(Aperture::Sys, page, shift)),
            _ if vol => Self::Sparse,
            _ => Self::Invalid,
        }
    }

    pub(crate) fn address(self) -> Option<PhysAddr> {
        match self {
            Self::At(table) => Some(table),
            Self::Invalid | Self::Sparse => None,
        }
    }
}

/// NV_MMU_VER2_PDE, and the half of NV_MMU_VER2_DUAL_PDE that leads to 4 KiB pages.
#[bitfield(u64)]
pub(crate) struct Pde {
    pub(crate) is_pte: bool,
    #[bits(2)]
    aperture: u8,
    vol: bool,
    #[bits(4)]
    __: u8,
    #[bits(46)]
    address: u64,
    #[bits(10)]
    __: u16,
}

impl Pde {
    pub(crate) fn table(self) -> Table {
        Table::decode(self.aperture(), self.vol(), self.address(), PAGE_SHIFT)
    }
}

/// The half of NV_MMU_VER2_DUAL_PDE that leads to 64 KiB pages.
#[bitfield(u64)]
pub(crate) struct BigPde {
    pub(crate) is_pte: bool,
    #[bits(2)]
    aperture: u8,
    vol: bool,
    #[bits(50)]
    address: u64,
    #[bits(10)]
    __: u16,
}

impl BigPde {
    pub(crate) fn table(self) -> Table {
        Table::decode(self.aperture(), self.vol(), self.address(), BIG_TABLE_SHIFT)
    }
}

/// NV_MMU_VER2_PTE.
#[bitfield(u64)]
pub(crate) struct Pte {
    pub(crate) valid: bool,
    #[bits(2)]
    aperture: u8,
    vol: bool,
    encrypted: bool,
    privilege: bool,
    read_only: bool,
    atomic_disable: bool,
    #[bits(46)]
    address: u64,
    #[bits(2)]
    __: u8,
    kind: u8,
}

/// What accesses a leaf allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rights {
    pub(crate) privileged: bool,
    pub(crate) read_only: bool,
    pub(crate) atomic_disable: bool,
}

/// A valid leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Leaf {
    /// Start of the page.
    pub(crate) base: PhysAddr,
    pub(crate) size: PageSize,
    pub(crate) rights: Rights,
    pub(crate) backing: Backing,
}

impl Leaf {
    /// A page that reads 0 and drops writes; PRIVILEGE is all that is looked at besides.
    pub(crate) fn sparse(size: PageSize, privileged: bool) -> Self {
        Self {
            base: PhysAddr {
                aperture: Aperture::Vid,
                addr: 0,
            },
            size,
            rights: Rights {
                privileged,
                read_only: false,
                atomic_disable: false,
            },
            backing: Backing::Sparse,
        }
    }
}

impl Pte {
    /// Of a 64 KiB PTE: the 4 KiB PTEs below it are not looked at.
    pub(crate) fn hides_small(self) -> bool {
        !self.valid() && (self.vol() || self.privilege())
    }

    pub(crate) fn leaf(self, size: PageSize) -> Result<Leaf, FaultType> {
        if !self.valid() {
            return if self.vol() {
                Ok(Leaf::sparse(size, self.privilege()))
            } else {
                Err(FaultType::Pte)
            };
        }
        let aperture = match self.aperture() {
            0 => Aperture::Vid,
            2 | 3 => Aperture::Sys,
            _ => return Err(FaultType::UnsupportedAperture),
        };
        if self.kind() != KIND_PITCH || self.encrypted() {
            return Err(FaultType::UnsupportedKind);
        }
        let mut base = page_address(aperture, self.address(), PAGE_SHIFT);
        base.addr &= !(size.bytes() - 1);
        let rights = Rights {
            privileged: self.privilege(),
            read_only: self.read_only(),
            atomic_disable: self.atomic_disable(),
        };
        Ok(Leaf {
            base,
            size,
            rights,
            backing: Backing::Memory,
        })
    }
}

/// NV_RAMFC_CONFIG.
#[bitfield(u32)]
pub(crate) struct RamfcConfig {
    __: u8,
    pub(crate) auth_level_privileged: bool,
    #[bits(23)]
    __: u32,
}

/// NV_RAMIN_PAGE_DIR_BASE.
#[bitfield(u32)]
pub(crate) struct RaminPdbLo {
    #[bits(2)]
    target: u8,
    vol: bool,
    __: bool,
    pub(crate) fault_replay_tex: bool,
    fault_replay_gcc: bool,
    #[bits(4)]
    __: u8,
    use_ver2_pt_format: bool,
    big_page_size_64k: bool,
    #[bits(20)]
    addr: u32,
}

/// NV_RAMIN_PAGE_DIR_BASE_HI.
#[bitfield(u32)]
pub(crate) struct RaminPdbHi {
    addr: u32,
}

impl RaminPdbLo {
    pub(crate) fn page_directory(self, hi: RaminPdbHi) -> Option<PhysAddr> {
        if !self.use_ver2_pt_format() || !self.big_page_size_64k() {
            return None;
        }
        let aperture = match self.target() {
            0 => Aperture::Vid,
            2 | 3 => Aperture::Sys,
            _ => return None,
        };
        let addr = (u64::from(hi.addr()) << 32) | (u64::from(self.addr()) << PAGE_SHIFT);
        Some(PhysAddr { aperture, addr })
    }
}
