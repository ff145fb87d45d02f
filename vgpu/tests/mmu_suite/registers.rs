// SPDX-License-Identifier: MIT OR Apache-2.0
//! The register bus and its books; the PRI FIFO; anything a guest may write.

use std::sync::Arc;

use mirage_vgpu::bus::GpuVa;
use mirage_vgpu::config::Config;
use mirage_vgpu::gpu::Gpu;
use mirage_vgpu::mmu::Access;

use crate::memory::{vid, Memory};
use crate::packets::{enable, lo, NON_REPLAY, REPLAY};
use crate::rig::*;
use crate::tables::*;

#[test]
fn boot_0_says_gv100() {
    let gpu = Gpu::new(
        Arc::new(Memory::new()),
        Arc::new(Sink::default()),
        &Config::default(),
    );
    let mut data = [0; 4];
    gpu.unwrap().read_register(0, &mut data);
    assert_eq!(u32::from_le_bytes(data), 0x1400_00a1);
}

#[test]
fn unmodelled_registers_read_0_and_are_listed_by_name() {
    let rig = Rig::new();
    rig.write(0x1704, 5);
    assert_eq!(rig.read(0x1704), 0);
    assert_eq!(rig.read(0x1704), 0);
    assert_eq!(rig.read(0x100104), 0);
    let expected = [
        "unmodelled read of NV_PBUS_BAR1_BLOCK (0x001704): 2 times",
        "unmodelled write of NV_PBUS_BAR1_BLOCK (0x001704): 1 times",
        "unmodelled read of NV_PFB+0x104 (0x100104): 1 times",
    ];
    assert_eq!(rig.pri.report(), expected);
}

#[test]
fn refused_accesses_are_counted_apart() {
    let rig = Rig::new();
    let mut wide = [0; 8];
    rig.pri.read(0, &mut wide);
    assert_eq!(wide, [0xff; 8]);
    rig.pri.write(0x100cbc, &[0xff; 2]);
    rig.pri.write(0x100cbe, &[0xff; 4]);
    let mut word = [0; 4];
    rig.pri.read(16 << 20, &mut word);
    rig.pri.read(u64::MAX - 3, &mut word);
    assert_eq!(word, [0xff; 4]);
    let expected = [
        "refused read, not 4 bytes wide: 1 times",
        "refused write, not 4 bytes wide: 1 times",
        "refused write, not 4-byte aligned: 1 times",
        "refused read, past the end of BAR0: 2 times",
    ];
    assert_eq!(rig.pri.report(), expected);
    assert_eq!(rig.counter("invalidates"), 0);
}

fn read_many(rig: &Rig, times: u32) {
    for _ in 0..times {
        rig.read(MMU_CTRL);
    }
}

#[test]
fn a_spin_is_4096_reads_with_nothing_in_between_and_reported_once() {
    let rig = Rig::new();
    read_many(&rig, 4095);
    rig.write(SIZE, 0);
    read_many(&rig, 4095);
    rig.read(SIZE);
    assert_eq!(rig.pri.report(), [""; 0]);
    read_many(&rig, 10000);
    rig.read(SIZE);
    read_many(&rig, 10000);
    assert_eq!(rig.pri.report().len(), 1);
    assert!(rig.pri.report()[0].starts_with("spin: 4096 reads"));
}

#[test]
fn invalidation_registers_read_back_without_the_trigger() {
    let rig = Rig::new();
    for (register, mask) in [
        (VADDR, 0xffff_fff0),
        (VADDR_UPPER, 0xf_ffff),
        (PDB, 0xffff_fff2),
        (PDB_UPPER, 0xf_ffff),
        (SIZE, 0x3f),
        (0x100cf8, 3),
    ] {
        rig.write(register, u32::MAX);
        assert_eq!(rig.read(register) & mask, mask, "{register:#x}");
    }
    rig.invalidate(ALL | ACK_GLOBALLY);
    assert_eq!(rig.read(INVALIDATE), ALL | ACK_GLOBALLY);
}

#[test]
fn prefetch_faults_are_filtered_after_reset() {
    assert_eq!(Rig::new().read(0x100cf8), 3, "PRF_FILTER SEND_NONE");
}

#[test]
fn the_pri_fifo_holds_32_and_reports_the_33rd() {
    let rig = Rig::new();
    let space = |ctrl: u32| (ctrl >> 16) & 0xff;
    assert_eq!(rig.read(MMU_CTRL), (32 << 16) | FIFO_EMPTY);
    let mut sm = rig.sm(0);
    let window = sm.window();
    for used in 1..=32 {
        rig.trigger(ALL | ACK_GLOBALLY);
        assert_eq!(space(rig.read(MMU_CTRL)), 32 - used);
    }
    rig.trigger(ALL | ACK_GLOBALLY);
    assert_eq!(rig.read(MMU_CTRL), FIFO_ERROR);
    drop(window);
    rig.wait_for_fifo();
    assert_eq!(rig.counter("invalidates"), 32);
    assert_eq!(rig.counter("dropped_triggers"), 1);
    rig.write(MMU_CTRL, 1 << 13);
    assert_eq!(rig.read(MMU_CTRL), (32 << 16) | FIFO_EMPTY);
}

#[test]
fn operands_are_taken_at_the_trigger() {
    let rig = Rig::new();
    let tables = Tables::new(&rig.memory, 0x10_0000);
    tables.map(0x1000, pte(vid(0x60_0000)));
    let space = rig.space(0, tables.root);
    let (mut sm, mut other) = (rig.sm(0), rig.sm(1));
    reaches(&mut sm, &space, 0x1000).unwrap();
    tables.map(0x1000, 0);
    // Holds the MMU's thread up, so that the second operation is still queued when its operands change.
    let window = other.window();
    rig.point_at(tables.root, 0x2000);
    rig.trigger(ACK_GLOBALLY);
    rig.point_at(tables.root, 0x1000);
    rig.trigger(0);
    rig.point_at(tables.root, 0x3000);
    drop(window);
    rig.wait_for_fifo();
    assert!(reaches(&mut sm, &space, 0x1000).is_err());
}

#[test]
fn a_guest_may_write_anything_anywhere() {
    let registers: Vec<u64> = [0, 0x100, 0x140, 0x160, 0x180, 0x100a20, 0x100c80, 0x100e24]
        .iter()
        .flat_map(|base| (*base..base + 0x80).step_by(4))
        .collect();
    for seed in 0..8 {
        let config = Config {
            seed,
            ..Config::default()
        };
        let rig = Rig::with(&config);
        let mut random = fastrand::Rng::with_seed(seed);
        let tables = Tables::new(&rig.memory, 0x10_0000);
        let space = rig.space(0, tables.root);
        let mut sm = rig.sm(0);
        let stalled = rig.stall(1, space, &[pte_fault(0x1000, Access::Read)]);
        eventually("the stall", || rig.counter("dropped_packets") == 1);
        for _ in 0..4000 {
            let register = *random.choice(&registers).unwrap();
            match random.u8(..4) {
                0 => {
                    rig.read(register);
                }
                1 => rig.write(register, 1 << random.u32(..32)),
                2 => rig.write(register, random.u32(..)),
                _ => {
                    let va = GpuVa(random.u64(..));
                    let _ = sm.window().translate(&space, va, Access::Write);
                }
            }
        }
        rig.pri.reset();
        let _ = stalled.join().unwrap();
        rig.invalidate(ALL | ACK_GLOBALLY | SYS_MEMBAR);
        enable(&rig, REPLAY, 16);
        enable(&rig, NON_REPLAY, 16);
        assert_ne!(rig.read(lo(REPLAY)), 0, "the device still works");
    }
}
