// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sparse pages, and pages for privileged accesses.

use mirage_vgpu::bus::{AtomicOp, GpuVa, Width};
use mirage_vgpu::mmu::{Access, Backing, FaultType};

use crate::memory::{sys, vid};
use crate::rig::*;
use crate::tables::*;

const PAGE: u64 = 0x60_0000;
const VA: u64 = 0x7f12_3440_0000;

/// Accesses what must be sparse up to `end`: nothing but zeroes comes out, and nothing goes in anywhere.
fn assert_sparse(rig: &Rig, space: &mirage_vgpu::mmu::AddressSpace, va: u64, bytes: u64) {
    let mut sm = rig.sm(0);
    rig.memory.take_writes();
    for access in [Access::Read, Access::Write, Access::Atomic] {
        let mut window = sm.window();
        let found = window.translate(space, GpuVa(va), access).unwrap();
        assert_eq!((found.backing, found.bytes), (Backing::Sparse, bytes));
        let mut data = [0xaa; 16];
        window.load(found, &mut data);
        assert_eq!(data, [0; 16]);
        window.store(found, &[1; 16]);
        assert_eq!(window.atomic(found, Width::Bits64, AtomicOp::Add(1)), 0);
    }
    assert_eq!(rig.memory.take_writes(), []);
    assert_eq!(rig.counter("faults"), 0);
}

#[test]
fn a_sparse_pte_reads_0_and_drops_writes() {
    let rig = Rig::new();
    let tables = Tables::new(&rig.memory, 0x10_0000);
    let space = rig.space(0, tables.root);
    tables.map(VA, VOL);
    tables.map_big(VA + MIB2, VOL);
    tables.map_huge(VA + 2 * MIB2, VOL | VALID);
    assert_sparse(&rig, &space, VA, KIB4);
    assert_sparse(&rig, &space, VA + MIB2, KIB64);
    let valid = translate(&mut rig.sm(0), &space, VA + 2 * MIB2, Access::Read).unwrap();
    assert_eq!(
        valid.backing,
        Backing::Memory,
        "VOL of a valid leaf is about caches"
    );
}

#[test]
fn a_sparse_64k_pte_hides_the_4k_ptes() {
    let rig = Rig::new();
    let tables = Tables::new(&rig.memory, 0x10_0000);
    let space = rig.space(0, tables.root);
    tables.map(VA, pte(vid(PAGE)));
    tables.map_big(VA, VOL);
    assert_sparse(&rig, &space, VA, KIB64);
}

#[test]
fn a_pde0_is_sparse_by_vol_big_and_not_by_vol_small() {
    let rig = Rig::new();
    let tables = Tables::new(&rig.memory, 0x10_0000);
    let space = rig.space(0, tables.root);
    let pde0 = tables.entry(VA, Level::Pde0);
    rig.memory.set(pde0, VOL);
    assert_sparse(&rig, &space, VA + 0x3000, MIB2 - 0x3000);
    rig.memory.set(pde0, 0);
    rig.memory.set(pde0.offset(8), VOL);
    rig.invalidate(ALL);
    assert_eq!(reaches(&mut rig.sm(0), &space, VA), Err(FaultType::Pde));
    tables.map(VA + MIB2, pte(vid(PAGE)));
    rig.memory.set(tables.entry(VA + MIB2, Level::Pde0), VOL);
    assert_eq!(
        reaches(&mut rig.sm(0), &space, VA + MIB2),
        Ok(vid(PAGE)),
        "a table of small pages is there"
    );
}

#[test]
fn a_sparse_directory_entry_is_sparse_all_over() {
    for level in [Level::Pde1, Level::Pde2, Level::Pde3] {
        let rig = Rig::new();
        let tables = Tables::new(&rig.memory, 0x10_0000);
        let space = rig.space(0, tables.root);
        rig.memory.set(tables.entry(VA, level), VOL);
        assert_sparse(&rig, &space, VA, MIB2);
        assert_sparse(&rig, &space, VA + 3 * MIB2 + 8, MIB2 - 8);
    }
}

#[test]
fn a_sparse_page_stays_cached_until_it_is_invalidated() {
    let rig = Rig::new();
    let tables = Tables::new(&rig.memory, 0x10_0000);
    let space = rig.space(0, tables.root);
    let mut sm = rig.sm(0);
    let backing = |sm: &mut _| translate(sm, &space, VA, Access::Read).map(|t| t.backing);
    tables.map(VA, VOL);
    assert_eq!(backing(&mut sm), Ok(Backing::Sparse));
    tables.map(VA, pte(sys(0)));
    assert_eq!(backing(&mut sm), Ok(Backing::Sparse));
    rig.invalidate(ALL);
    assert_eq!(backing(&mut sm), Ok(Backing::Memory));
}

#[test]
fn only_a_privileged_channel_passes_privileged_pages() {
    let rig = Rig::new();
    let tables = Tables::new(&rig.memory, 0x10_0000);
    tables.map(VA, pte(vid(PAGE)) | PRIVILEGE);
    let user = rig.space(0, tables.root);
    rig.memory.set_u32(user.inst.offset(0x10f4), 1 << 8);
    let privileged = rig.space(1, tables.root);
    assert_eq!(privileged.inst, user.inst.offset(0x1000));
    // The TLB entry that one of them made does not help the other.
    let mut sm = rig.sm(0);
    for _ in 0..2 {
        for access in [Access::Read, Access::Write, Access::Atomic] {
            let denied = translate(&mut sm, &user, VA, access).map(|t| t.phys);
            assert_eq!(denied, Err(FaultType::Priv));
            let granted = translate(&mut sm, &privileged, VA, access).map(|t| t.phys);
            assert_eq!(granted, Ok(vid(PAGE)));
        }
    }
}

#[test]
fn privilege_does_not_lift_read_only() {
    let rig = Rig::new();
    let tables = Tables::new(&rig.memory, 0x10_0000);
    tables.map(VA, pte(vid(PAGE)) | PRIVILEGE | READ_ONLY);
    rig.memory.set_u32(vid(0x10f4), 1 << 8);
    let space = rig.space(0, tables.root);
    let found = translate(&mut rig.sm(0), &space, VA, Access::Write);
    assert_eq!(found.map(|t| t.phys), Err(FaultType::Ro));
}
