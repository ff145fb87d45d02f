// SPDX-License-Identifier: MIT OR Apache-2.0
//! The walk: which address, which leaf, which fault.

use mirage_vgpu::bus::{Aperture, PhysAddr};
use mirage_vgpu::mmu::{Access, AddressSpace, Backing, Binding, FaultType, Privilege};

use crate::memory::{sys, vid, Memory, RAM_BASE};
use crate::rig::{reaches, translate, Rig, ACK_GLOBALLY, ALL};
use crate::tables::*;

const VA: u64 = 0x7f12_3456_7000;
const PAGE: u64 = 0x60_0000;

/// Maps VA with this PTE and reads it.
fn read_through(pte: u64) -> Result<PhysAddr, FaultType> {
    let rig = Rig::new();
    let tables = Tables::new(&rig.memory, 0x10_0000);
    tables.map(VA, pte);
    reaches(&mut rig.sm(0), &rig.space(0, tables.root), VA)
}

#[test]
fn pte_aperture_0_is_vram_and_2_and_3_are_guest_ram() {
    let page = (PAGE >> 12 << 8) | VALID;
    assert_eq!(read_through(page), Ok(vid(PAGE)));
    let bus = ((RAM_BASE + 0x3000) >> 12 << 8) | VALID;
    assert_eq!(read_through(bus | (2 << 1)), Ok(sys(0x3000)));
    assert_eq!(read_through(bus | (3 << 1)), Ok(sys(0x3000)));
}

#[test]
fn pte_aperture_1_is_a_peer_which_the_device_has_not() {
    let page = (PAGE >> 12 << 8) | VALID;
    assert_eq!(
        read_through(page | (1 << 1)),
        Err(FaultType::UnsupportedAperture)
    );
}

#[test]
fn pde_aperture_0_is_invalid_and_1_is_vram() {
    let rig = Rig::new();
    let tables = Tables::new(&rig.memory, 0x10_0000);
    tables.map(VA, pte(vid(PAGE)));
    let space = rig.space(0, tables.root);
    for level in [Level::Pde3, Level::Pde2, Level::Pde1] {
        let entry = tables.entry(VA, level);
        let in_vram = rig.memory.get(entry);
        assert_eq!((in_vram >> 1) & 3, 1);
        rig.memory.set(entry, in_vram & !(3 << 1));
        rig.invalidate(ALL | ACK_GLOBALLY);
        assert_eq!(
            reaches(&mut rig.sm(0), &space, VA),
            Err(FaultType::Pde),
            "{level:?}"
        );
        rig.memory.set(entry, in_vram);
    }
    assert_eq!(reaches(&mut rig.sm(0), &space, VA), Ok(vid(PAGE)));
}

#[test]
fn page_tables_may_lie_in_guest_ram() {
    let rig = Rig::new();
    let root = sys(0);
    rig.memory.set(root, pde(sys(0x1000)));
    rig.memory.set(sys(0x1000), pde(sys(0x2000)));
    rig.memory.set(sys(0x2000), pde(sys(0x3000)));
    rig.memory.set(sys(0x3008), pde(sys(0x4000)));
    rig.memory.set(sys(0x4008), pte(vid(PAGE)));
    let space = rig.space(0, root);
    assert_eq!(
        reaches(&mut rig.sm(0), &space, 0x1234),
        Ok(vid(PAGE + 0x234))
    );
}

#[test]
fn a_leaf_reaches_to_its_end() {
    let rig = Rig::new();
    let tables = Tables::new(&rig.memory, 0x10_0000);
    tables.map(0, pte(vid(PAGE)));
    tables.map_big(MIB2, pte(sys(KIB64)));
    tables.map_huge(2 * MIB2, pte(vid(MIB2)));
    let space = rig.space(0, tables.root);
    let mut sm = rig.sm(0);
    let cases = [
        (0x123, vid(PAGE + 0x123), KIB4 - 0x123),
        (MIB2 + 0xffff, sys(KIB64 + 0xffff), 1),
        (2 * MIB2 + 0x12345, vid(MIB2 + 0x12345), MIB2 - 0x12345),
    ];
    for (va, phys, bytes) in cases {
        let translation = translate(&mut sm, &space, va, Access::Read).unwrap();
        assert_eq!(
            (translation.phys, translation.bytes),
            (phys, bytes),
            "{va:#x}"
        );
    }
}

#[test]
fn a_valid_64k_pte_wins_over_4k_ptes() {
    let rig = Rig::new();
    let tables = Tables::new(&rig.memory, 0x10_0000);
    tables.map(VA, pte(vid(PAGE)));
    tables.map_big(VA, pte(sys(0)));
    let space = rig.space(0, tables.root);
    assert_eq!(reaches(&mut rig.sm(0), &space, VA), Ok(sys(VA % KIB64)));
}

#[test]
fn an_invalid_64k_pte_leads_to_the_4k_pte_unless_priv_is_set() {
    let rig = Rig::new();
    let tables = Tables::new(&rig.memory, 0x10_0000);
    tables.map(VA, pte(vid(PAGE)));
    tables.map_big(VA, 0);
    let space = rig.space(0, tables.root);
    assert_eq!(reaches(&mut rig.sm(0), &space, VA), Ok(vid(PAGE)));
    tables.map_big(VA, PRIVILEGE);
    rig.invalidate(ALL);
    assert_eq!(reaches(&mut rig.sm(0), &space, VA), Err(FaultType::Pte));
}

#[test]
fn rights_decide_by_access() {
    use Access::{Atomic, Read, Write};
    use FaultType as F;
    let cases = [
        (0, [Ok(()), Ok(()), Ok(())]),
        (READ_ONLY, [Ok(()), Err(F::Ro), Err(F::Ro)]),
        (ATOMIC_DISABLE, [Ok(()), Ok(()), Err(F::Atomic)]),
        (READ_ONLY | ATOMIC_DISABLE, [Ok(()), Err(F::Ro), Err(F::Ro)]),
        (PRIVILEGE, [Err(F::Priv), Err(F::Priv), Err(F::Priv)]),
    ];
    for (bits, expected) in cases {
        let rig = Rig::new();
        let tables = Tables::new(&rig.memory, 0x10_0000);
        tables.map(VA, pte(vid(PAGE)) | bits);
        let space = rig.space(0, tables.root);
        let mut sm = rig.sm(0);
        let found =
            [Read, Write, Atomic].map(|access| translate(&mut sm, &space, VA, access).map(|_| ()));
        assert_eq!(found, expected, "{bits:#x}");
    }
}

#[test]
fn what_the_device_has_not_is_a_fault_of_its_own() {
    let good = pte(vid(PAGE));
    assert_eq!(
        read_through(good | (0xfe << 56)),
        Err(FaultType::UnsupportedKind)
    );
    assert_eq!(
        read_through(good | ENCRYPTED),
        Err(FaultType::UnsupportedKind)
    );
    assert_eq!(read_through(good & !VALID), Err(FaultType::Pte));
    assert_eq!(read_through(good | VOL), Ok(vid(PAGE)));
}

#[test]
fn a_table_outside_memory_is_a_region_violation() {
    let rig = Rig::new();
    let tables = Tables::new(&rig.memory, 0x10_0000);
    tables.map(VA, pte(vid(PAGE)));
    let space = rig.space(0, tables.root);
    for outside in [vid(1 << 36), sys(1 << 40)] {
        for level in [Level::Pde3, Level::Pde2, Level::Pde1] {
            let entry = tables.entry(VA, level);
            let inside = rig.memory.get(entry);
            rig.memory.set(entry, pde(outside));
            rig.invalidate(ALL);
            assert_eq!(
                reaches(&mut rig.sm(0), &space, VA),
                Err(FaultType::Region),
                "{level:?}"
            );
            rig.memory.set(entry, inside);
        }
    }
    let nowhere = rig.space(1, vid(1 << 36));
    assert_eq!(
        reaches(&mut rig.sm(0), &nowhere, VA),
        Err(FaultType::Region)
    );
}

#[test]
fn an_address_has_49_bits() {
    let rig = Rig::new();
    let tables = Tables::new(&rig.memory, 0x10_0000);
    let last = (1 << 49) - KIB4;
    tables.map(last, pte(vid(PAGE)));
    let space = rig.space(0, tables.root);
    let mut sm = rig.sm(0);
    assert_eq!(reaches(&mut sm, &space, last), Ok(vid(PAGE)));
    for over in [last | (1 << 49), last | (1 << 63), u64::MAX] {
        assert_eq!(
            reaches(&mut sm, &space, over),
            Err(FaultType::VaLimit),
            "{over:#x}"
        );
    }
}

#[test]
fn a_bad_instance_block_is_unbound() {
    let rig = Rig::new();
    let root = vid(0x10_0000);
    let (ver2, big64k) = (1 << 10, 1 << 11);
    for bits in [ver2, big64k, ver2 | big64k | 1, 0] {
        let space = rig.space_with(0, root, bits);
        assert_eq!(space.binding, Binding::Unbound, "{bits:#x}");
        assert_eq!(
            reaches(&mut rig.sm(0), &space, VA),
            Err(FaultType::UnboundInstBlock)
        );
    }
    let nowhere = AddressSpace::from_instance_block(&*rig.memory, vid(1 << 40));
    assert_eq!(nowhere.binding, Binding::Unbound);
}

/// Where an address leads, None for a sparse page, and how far that reaches.
type Reached = (Option<PhysAddr>, u64);

/// A directory entry.
enum Entry {
    Table(PhysAddr),
    Sparse,
    Invalid,
}

/// The walk as the manual tells it, over raw bits and without any caching.
fn reference(memory: &Memory, root: PhysAddr, va: u64) -> Result<Reached, FaultType> {
    use mirage_vgpu::bus::Bus;
    let read = |at| memory.read_u64(at).map_err(|_| FaultType::Region);
    let table = |value: u64, shift: u32, lowest: u32| {
        let (aperture, vid_top) = ((value >> 1) & 3, 32);
        let field = |top: u32| ((value >> lowest) & ((1 << (top - lowest + 1)) - 1)) << shift;
        match aperture {
            1 => Entry::Table(vid(field(vid_top))),
            0 if (value >> 3) & 1 == 1 => Entry::Sparse,
            0 => Entry::Invalid,
            _ => Entry::Table(PhysAddr {
                aperture: Aperture::Sys,
                addr: field(53),
            }),
        }
    };
    let leaf = |value: u64, size: u64| {
        let kind_and_encrypted = (value >> 56) | (value >> 4) & 1;
        let offset = va % size;
        let base = match (value & 1, (value >> 1) & 3) {
            (0, _) if value & (VOL | PRIVILEGE) == VOL => return Ok((None, size - offset)),
            (0, _) if value & VOL != 0 => return Err(FaultType::Priv),
            (0, _) => return Err(FaultType::Pte),
            (_, 1) => return Err(FaultType::UnsupportedAperture),
            _ if kind_and_encrypted != 0 => return Err(FaultType::UnsupportedKind),
            (_, 0) => vid(((value >> 8) & 0x1ff_ffff) << 12),
            _ => PhysAddr {
                aperture: Aperture::Sys,
                addr: ((value >> 8) & 0x3fff_ffff_ffff) << 12,
            },
        };
        if value & PRIVILEGE != 0 {
            return Err(FaultType::Priv);
        }
        let phys = PhysAddr {
            aperture: base.aperture,
            addr: base.addr / size * size + offset,
        };
        Ok((Some(phys), size - offset))
    };
    let mut at = root;
    for (shift, mask) in [(47, 3), (38, 0x1ff), (29, 0x1ff)] {
        let value = read(at.offset(((va >> shift) & mask) * 8))?;
        if value & 1 == 1 {
            return Err(FaultType::Pde);
        }
        at = match table(value, 12, 8) {
            Entry::Table(next) => next,
            Entry::Sparse => return Ok((None, MIB2 - va % MIB2)),
            Entry::Invalid => return Err(FaultType::Pde),
        };
    }
    let low = read(at.offset(((va >> 21) & 0xff) * 16))?;
    if low & 1 == 1 {
        return leaf(low, MIB2);
    }
    let high = read(at.offset(((va >> 21) & 0xff) * 16 + 8))?;
    let (big, small) = (table(low, 8, 4), table(high, 12, 8));
    if let Entry::Table(big) = big {
        let value = read(big.offset(((va >> 16) & 0x1f) * 8))?;
        if value & (VALID | VOL | PRIVILEGE) != 0 || !matches!(small, Entry::Table(_)) {
            return leaf(value, KIB64);
        }
    }
    match (big, small) {
        (_, Entry::Table(small)) => leaf(read(small.offset(((va >> 12) & 0x1ff) * 8))?, KIB4),
        (Entry::Sparse, _) => Ok((None, MIB2 - va % MIB2)),
        (_, _) => Err(FaultType::Pde),
    }
}

/// Tables whose every entry is random; most lead somewhere.
struct RandomTables {
    random: fastrand::Rng,
}

impl RandomTables {
    const PAGES: u64 = 16;

    /// One of the pages that hold the tables, in either memory; or now and then one that is nowhere.
    fn page(&mut self) -> PhysAddr {
        let page = self.random.u64(..Self::PAGES) * KIB4;
        match self.random.u8(..32) {
            0 => vid((1 << 33) | page),
            1 => sys((1 << 33) | page),
            2..17 => vid(page),
            _ => sys(page),
        }
    }

    fn entry(&mut self) -> u64 {
        let page = self.page();
        let flags = match self.random.u8(..8) {
            0 => self.random.u64(..) & ((0xff << 56) | 0xf8),
            1 => 1 << self.random.u32(3..8),
            _ => 0,
        };
        let is_leaf = u64::from(self.random.u8(..3) == 0);
        match self.random.u8(..16) {
            0 => 0,
            1 => self.random.u64(..),
            2 => flags,
            3..6 => pte(page) | flags,
            6..8 => big_pde(page) | is_leaf | flags,
            _ => pde(page) | is_leaf,
        }
    }

    fn fill(&mut self, memory: &Memory) {
        for base in [vid(0), sys(0)] {
            for at in (0..Self::PAGES * KIB4).step_by(8) {
                memory.set(base.offset(at), self.entry());
            }
        }
    }
}

#[test]
fn random_tables_translate_as_the_reference_says() {
    let rig = Rig::new();
    let mut tables = RandomTables {
        random: fastrand::Rng::with_seed(7),
    };
    let mut leaves = 0;
    for round in 0..60 {
        tables.fill(&rig.memory);
        rig.invalidate(ALL);
        let root = tables.page();
        let space = AddressSpace {
            inst: vid(0x7f_0000),
            binding: Binding::Bound {
                pdb: root,
                replay: mirage_vgpu::mmu::Replay::Enabled,
            },
            privilege: Privilege::User,
        };
        let mut sm = rig.sm(0);
        for _ in 0..1000 {
            // Few tables are touched often, so that cached directories and leaves come into play.
            let va =
                tables.random.u64(..1 << 49) & ((3 << 47) | (3 << 38) | (3 << 29) | 0xfff_ffff);
            let expected = reference(&rig.memory, root, va);
            let found = translate(&mut sm, &space, va, Access::Read);
            let found = found.map(|translation| {
                let phys = (translation.backing == Backing::Memory).then_some(translation.phys);
                (phys, translation.bytes)
            });
            assert_eq!(found, expected, "round {round}, {va:#x} from {root:?}");
            leaves += u32::from(found.is_ok_and(|(phys, _)| phys.is_some()));
        }
    }
    assert!(leaves > 1000, "random tables are too poor: {leaves} leaves");
}
