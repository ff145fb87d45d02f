// SPDX-License-Identifier: MIT OR Apache-2.0
//! TLBs and page-directory caches keep what was valid until the right invalidate, and no longer.

use mirage_vgpu::bus::PhysAddr;
use mirage_vgpu::mmu::{Access, AddressSpace, FaultType, Unit};

use crate::memory::{sys, vid};
use crate::rig::*;
use crate::tables::*;

const VA: u64 = 0x7f12_3456_7000;
const OLD: PhysAddr = vid(0x60_0000);
const NEW: PhysAddr = vid(0x61_0000);

#[test]
fn an_unmapped_page_stays_reachable_until_its_invalidate() {
    let rig = Rig::new();
    let tables = Tables::new(&rig.memory, 0x10_0000);
    tables.map(VA, pte(OLD));
    let space = rig.space(0, tables.root);
    let mut sm = rig.sm(0);
    assert_eq!(reaches(&mut sm, &space, VA), Ok(OLD));
    tables.map(VA, 0);
    assert_eq!(reaches(&mut sm, &space, VA), Ok(OLD), "its own TLB");
    assert_eq!(
        reaches(&mut rig.sm(1), &space, VA),
        Ok(OLD),
        "the shared TLB"
    );
    rig.point_at(tables.root, VA);
    rig.invalidate(0);
    assert_eq!(reaches(&mut sm, &space, VA), Err(FaultType::Pte));
    assert_eq!(reaches(&mut rig.sm(1), &space, VA), Err(FaultType::Pte));
}

#[test]
fn invalid_entries_are_never_cached() {
    let rig = Rig::new();
    let tables = Tables::new(&rig.memory, 0x10_0000);
    let space = rig.space(0, tables.root);
    let mut sm = rig.sm(0);
    let steps = [
        (Level::Pde2, FaultType::Pde),
        (Level::Pde1, FaultType::Pde),
        (Level::Pde0, FaultType::Pde),
        (Level::Pte, FaultType::Pte),
    ];
    assert_eq!(reaches(&mut sm, &space, VA), Err(FaultType::Pde));
    for (level, fault) in steps {
        // Makes the tables down to this level, whose own entry stays empty.
        tables.entry(VA, level);
        assert_eq!(reaches(&mut sm, &space, VA), Err(fault), "{level:?}");
    }
    tables.map(VA, pte(OLD));
    assert_eq!(reaches(&mut sm, &space, VA), Ok(OLD));
}

#[test]
fn a_write_upgrade_shows_after_its_invalidate() {
    let rig = Rig::new();
    let tables = Tables::new(&rig.memory, 0x10_0000);
    tables.map(VA, pte(OLD) | READ_ONLY);
    let space = rig.space(0, tables.root);
    let mut sm = rig.sm(0);
    assert_eq!(reaches(&mut sm, &space, VA), Ok(OLD));
    tables.map(VA, pte(OLD));
    let write = |sm: &mut Unit| translate(sm, &space, VA, Access::Write).map(|to| to.phys);
    assert_eq!(write(&mut sm), Err(FaultType::Ro));
    rig.point_at(tables.root, VA);
    rig.invalidate(cache_level(1));
    assert_eq!(write(&mut sm), Ok(OLD));
}

/// Two sets of tables that map VA to OLD and to NEW; the first is walked from.
struct Twin<'a> {
    tables: Tables<'a>,
    other: Tables<'a>,
    space: AddressSpace,
}

impl<'a> Twin<'a> {
    fn new(rig: &'a Rig) -> Self {
        let tables = Tables::new(&rig.memory, 0x10_0000);
        let other = Tables::new(&rig.memory, 0x20_0000);
        tables.map(VA, pte(OLD));
        other.map(VA, pte(NEW));
        let space = rig.space(0, tables.root);
        Self {
            tables,
            other,
            space,
        }
    }

    /// Gives the first tables the other's entry at one level.
    fn graft(&self, rig: &Rig, level: Level) {
        let (to, from) = (self.tables.entry(VA, level), self.other.entry(VA, level));
        rig.memory.set(to, rig.memory.get(from));
        if level == Level::Pde0 {
            rig.memory.set(to.offset(8), rig.memory.get(from.offset(8)));
        }
    }
}

#[test]
fn cache_level_says_how_far_up_an_invalidate_reaches() {
    let levels = [
        Level::Pte,
        Level::Pde0,
        Level::Pde1,
        Level::Pde2,
        Level::Pde3,
    ];
    for (height, level) in (1..).zip(levels) {
        for cache in 0..=5 {
            let rig = Rig::new();
            let twin = Twin::new(&rig);
            let mut sm = rig.sm(0);
            assert_eq!(reaches(&mut sm, &twin.space, VA), Ok(OLD));
            twin.graft(&rig, level);
            rig.point_at(twin.tables.root, VA);
            rig.invalidate(cache_level(cache));
            let reached = cache == 0 || cache >= height;
            let expected = if reached { NEW } else { OLD };
            let found = reaches(&mut sm, &twin.space, VA);
            assert_eq!(
                found,
                Ok(expected),
                "{level:?} changed, CACHE_LEVEL {cache}"
            );
        }
    }
}

#[test]
fn a_pde0_is_cached_with_both_halves() {
    let rig = Rig::new();
    let tables = Tables::new(&rig.memory, 0x10_0000);
    tables.map(VA, pte(OLD));
    let space = rig.space(0, tables.root);
    let mut sm = rig.sm(0);
    assert_eq!(reaches(&mut sm, &space, VA), Ok(OLD));
    tables.map_big(VA, pte(sys(0)));
    rig.point_at(tables.root, VA);
    rig.invalidate(cache_level(1));
    assert_eq!(reaches(&mut sm, &space, VA), Ok(OLD), "PTE_ONLY");
    rig.invalidate(cache_level(2));
    assert_eq!(
        reaches(&mut sm, &space, VA),
        Ok(sys(VA % KIB64)),
        "UP_TO_PDE0"
    );
}

#[test]
fn pte_only_at_any_address_of_a_2m_leaf_drops_it() {
    let rig = Rig::new();
    let tables = Tables::new(&rig.memory, 0x10_0000);
    tables.map_huge(MIB2, pte(vid(MIB2)));
    let space = rig.space(0, tables.root);
    let mut sm = rig.sm(0);
    for within in [0, 0x7_7000, MIB2 - KIB4] {
        tables.map_huge(MIB2, pte(vid(MIB2)));
        assert_eq!(reaches(&mut sm, &space, MIB2), Ok(vid(MIB2)));
        tables.map_huge(MIB2, 0);
        assert_eq!(reaches(&mut sm, &space, MIB2), Ok(vid(MIB2)));
        rig.point_at(tables.root, MIB2 + within);
        rig.invalidate(cache_level(1));
        assert_eq!(
            reaches(&mut sm, &space, MIB2),
            Err(FaultType::Pde),
            "{within:#x}"
        );
    }
}

/// Maps, reads and unmaps `pages`; the caches still have them then.
fn cache_and_unmap(tables: &Tables<'_>, unit: &mut Unit, space: &AddressSpace, pages: &[u64]) {
    for va in pages {
        tables.map(*va, pte(OLD));
        assert_eq!(reaches(unit, space, *va), Ok(OLD));
        tables.map(*va, 0);
    }
}

#[test]
fn an_invalidate_drops_its_aligned_range_and_nothing_else() {
    let base = 0x4000_0000_u64;
    for order in [0, 1, 4, 5, 9] {
        let rig = Rig::new();
        let tables = Tables::new(&rig.memory, 0x10_0000);
        let space = rig.space(0, tables.root);
        let mut sm = rig.sm(0);
        let size = KIB4 << order;
        let first = base + 8 * size;
        let inside = [first, first + size - KIB4];
        let outside = [first - KIB4, first + size];
        cache_and_unmap(&tables, &mut sm, &space, &inside);
        cache_and_unmap(&tables, &mut sm, &space, &outside);
        rig.write(SIZE, order);
        // The address need not be aligned.
        rig.point_at(tables.root, first + size / 2);
        rig.invalidate(USE_SIZE);
        for va in inside {
            assert_eq!(
                reaches(&mut sm, &space, va),
                Err(FaultType::Pte),
                "order {order}, {va:#x}"
            );
        }
        for va in outside {
            assert_eq!(
                reaches(&mut sm, &space, va),
                Ok(OLD),
                "order {order}, {va:#x}"
            );
        }
    }
}

#[test]
fn size_counts_only_with_use_size() {
    let rig = Rig::new();
    let tables = Tables::new(&rig.memory, 0x10_0000);
    let space = rig.space(0, tables.root);
    let mut sm = rig.sm(0);
    cache_and_unmap(&tables, &mut sm, &space, &[VA, VA + KIB4]);
    rig.write(SIZE, 9);
    rig.point_at(tables.root, VA);
    rig.invalidate(0);
    assert_eq!(reaches(&mut sm, &space, VA), Err(FaultType::Pte));
    assert_eq!(reaches(&mut sm, &space, VA + KIB4), Ok(OLD));
}

#[test]
fn the_largest_size_is_every_address() {
    let rig = Rig::new();
    let tables = Tables::new(&rig.memory, 0x10_0000);
    let space = rig.space(0, tables.root);
    let mut sm = rig.sm(0);
    let pages = [0, VA, (1 << 49) - KIB4];
    for order in [37, 52, 63] {
        cache_and_unmap(&tables, &mut sm, &space, &pages);
        rig.write(SIZE, order);
        rig.point_at(tables.root, VA);
        rig.invalidate(USE_SIZE);
        for va in pages {
            assert_eq!(
                reaches(&mut sm, &space, va),
                Err(FaultType::Pte),
                "order {order}, {va:#x}"
            );
        }
    }
}

#[test]
fn all_va_drops_one_directory_and_all_pdb_one_address() {
    let rig = Rig::new();
    let tables = [0x10_0000, 0x20_0000].map(|first| Tables::new(&rig.memory, first));
    let spaces = [rig.space(0, tables[0].root), rig.space(1, tables[1].root)];
    let (here, there) = (VA, VA + MIB2);
    let cases = [
        (0, [[true, false], [false, false]]),
        (ALL_VA, [[true, true], [false, false]]),
        (ALL_PDB, [[true, false], [true, false]]),
        (ALL, [[true, true], [true, true]]),
    ];
    for (command, dropped) in cases {
        let mut sm = rig.sm(0);
        for (tables, space) in tables.iter().zip(&spaces) {
            cache_and_unmap(tables, &mut sm, space, &[here, there]);
        }
        rig.point_at(tables[0].root, here);
        rig.invalidate(command);
        for (space, dropped) in spaces.iter().zip(dropped) {
            let found = [here, there].map(|va| reaches(&mut sm, space, va).is_err());
            assert_eq!(found, dropped, "{command:#x}");
        }
    }
}

#[test]
fn the_directory_is_named_with_its_aperture() {
    let rig = Rig::new();
    let tables = Tables::new(&rig.memory, 0x10_0000);
    let space = rig.space(0, tables.root);
    let mut sm = rig.sm(0);
    cache_and_unmap(&tables, &mut sm, &space, &[VA]);
    let same_address = PhysAddr {
        aperture: mirage_vgpu::bus::Aperture::Sys,
        ..tables.root
    };
    rig.point_at(same_address, VA);
    rig.invalidate(ALL_VA);
    assert_eq!(reaches(&mut sm, &space, VA), Ok(OLD));
}

#[test]
fn hubtlb_only_leaves_the_tlbs_of_gpcs() {
    let rig = Rig::new();
    let tables = Tables::new(&rig.memory, 0x10_0000);
    let space = rig.space(0, tables.root);
    let (mut sm, mut host) = (rig.sm(0), rig.host(0));
    tables.map(VA, pte(OLD));
    assert_eq!(reaches(&mut sm, &space, VA), Ok(OLD));
    assert_eq!(reaches(&mut host, &space, VA), Ok(OLD));
    tables.map(VA, 0);
    rig.point_at(tables.root, VA);
    rig.invalidate(HUBTLB_ONLY);
    assert_eq!(reaches(&mut sm, &space, VA), Ok(OLD));
    assert_eq!(reaches(&mut host, &space, VA), Err(FaultType::Pte));
}

#[test]
fn a_walk_that_an_invalidate_overtook_is_not_cached() {
    let rig = Rig::new();
    let tables = Tables::new(&rig.memory, 0x10_0000);
    tables.map(VA, pte(OLD));
    let space = rig.space(0, tables.root);
    let mut sm = rig.sm(0);
    rig.memory.close_gate(tables.entry(VA, Level::Pte));
    std::thread::scope(|scope| {
        let walking = scope.spawn(|| reaches(&mut sm, &space, VA));
        rig.memory.wait_for_reader();
        tables.map(VA, 0);
        rig.invalidate(ALL);
        rig.memory.open_gate();
        assert_eq!(walking.join().unwrap(), Ok(OLD), "it had read the entry");
    });
    assert_eq!(reaches(&mut sm, &space, VA), Err(FaultType::Pte));
    assert_eq!(reaches(&mut rig.sm(1), &space, VA), Err(FaultType::Pte));
}

#[test]
fn a_unit_that_slept_through_many_invalidates_has_missed_none() {
    let rig = Rig::new();
    let tables = Tables::new(&rig.memory, 0x10_0000);
    let space = rig.space(0, tables.root);
    let mut sm = rig.sm(0);
    cache_and_unmap(&tables, &mut sm, &space, &[VA]);
    rig.point_at(tables.root, VA);
    rig.invalidate(0);
    rig.point_at(tables.root, 0);
    for _ in 0..300 {
        rig.invalidate(0);
    }
    assert_eq!(reaches(&mut sm, &space, VA), Err(FaultType::Pte));
}

#[test]
fn more_pages_than_the_tlbs_hold_all_translate() {
    let rig = Rig::new();
    let tables = Tables::new(&rig.memory, 0x10_0000);
    let space = rig.space(0, tables.root);
    let mut sm = rig.sm(0);
    let page = |i: u64| vid((i % 0x800) * KIB4);
    let pages = 6000;
    for i in 0..pages {
        tables.map(VA + i * KIB4, pte(page(i)));
    }
    for i in (0..pages).chain(0..pages) {
        assert_eq!(reaches(&mut sm, &space, VA + i * KIB4), Ok(page(i)));
    }
    assert!(
        rig.counter("walks") > pages,
        "a TLB of this size cannot hold them all"
    );
}

#[test]
fn counters_tell_where_translations_came_from() {
    let rig = Rig::new();
    let tables = Tables::new(&rig.memory, 0x10_0000);
    tables.map(VA, pte(OLD));
    tables.map(VA + KIB4, pte(NEW));
    let space = rig.space(0, tables.root);
    let mut sms = [rig.sm(0), rig.sm(1)];
    for va in [VA, VA, VA + KIB4] {
        reaches(&mut sms[0], &space, va).unwrap();
    }
    reaches(&mut sms[1], &space, VA).unwrap();
    let expected = [
        ("accesses", 4),
        ("utlb_hits", 1),
        ("tlb_hits", 1),
        ("walks", 2),
        ("pde_cache_hits", 1),
        ("faults", 0),
    ];
    for (name, count) in expected {
        assert_eq!(rig.counter(name), count, "{name}");
    }
}
