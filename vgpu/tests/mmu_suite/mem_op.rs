// SPDX-License-Identifier: MIT OR Apache-2.0
//! MEM_OP_A to _D: what BAR0 triggers do, as methods.

use std::thread;

use mirage_vgpu::bus::PhysAddr;
use mirage_vgpu::config::{Config, LateWrites};
use mirage_vgpu::mmu::{Access, MemOp, Stalled, UnknownMemOp};

use crate::memory::{sys, vid};
use crate::packets::{addresses, enable, pending, wait_for_packets, NON_REPLAY, REPLAY};
use crate::rig::*;
use crate::tables::*;

const PAGE: u64 = 0x60_0000;
const OTHER_PAGE: u64 = 0x61_0000;
const VA: u64 = 0x1_7f12_3456_7000;

const MEMBAR: u32 = 5;
const TLB_INVALIDATE: u32 = 9;
const TLB_INVALIDATE_TARGETED: u32 = 0xa;

/// The operations by the manual's fields.
#[derive(Clone, Copy, Default)]
struct Fields {
    operation: u32,
    low: u32,
    sysmembar: u32,
    va: u64,
    all_pdb: u32,
    replay: u32,
    ack: u32,
    level: u32,
    pdb: u64,
    pdb_in_ram: bool,
}

impl Fields {
    fn at(operation: u32, pdb: PhysAddr, va: u64) -> Self {
        Self {
            operation,
            va,
            pdb: pdb.addr,
            pdb_in_ram: pdb.aperture == mirage_vgpu::bus::Aperture::Sys,
            ..Self::default()
        }
    }

    fn encode(self) -> MemOp {
        let aperture = if self.pdb_in_ram { 2 } else { 0 };
        MemOp {
            a: self.low | (self.sysmembar << 11) | (self.va as u32 & !0xfff),
            b: (self.va >> 32) as u32,
            c: self.all_pdb
                | (self.replay << 2)
                | (self.ack << 5)
                | (self.level << 7)
                | (aperture << 10)
                | (self.pdb as u32 & !0xfff),
            d: (self.pdb >> 32) as u32 | (self.operation << 27),
        }
    }

    fn run(self, rig: &Rig) {
        rig.mmu.mem_op(self.encode()).unwrap();
    }
}

#[test]
fn a_targeted_invalidation_drops_one_range_of_one_directory() {
    let rig = Rig::new();
    let tables = Tables::new(&rig.memory, 0x10_0000);
    let others = Tables::new(&rig.memory, 0x20_0000);
    let (space, other) = (rig.space(0, tables.root), rig.space(1, others.root));
    let mut sm = rig.sm(0);
    let pages = [VA, VA + KIB4, VA + 8 * KIB4];
    let remap = |to| {
        pages.iter().for_each(|va| tables.map(*va, pte(vid(to))));
        others.map(VA, pte(vid(to)));
    };
    let mut seen = || {
        let here = pages.map(|va| reaches(&mut sm, &space, va).unwrap().addr);
        (here, reaches(&mut sm, &other, VA).unwrap().addr)
    };
    remap(PAGE);
    assert_eq!(seen(), ([PAGE; 3], PAGE));
    remap(OTHER_PAGE);
    let mut fields = Fields::at(TLB_INVALIDATE_TARGETED, tables.root, VA);
    fields.run(&rig);
    assert_eq!(seen(), ([OTHER_PAGE, PAGE, PAGE], PAGE));
    fields.low = 1;
    fields.run(&rig);
    let aligned = VA & !(2 * KIB4 - 1);
    assert_eq!(aligned, VA - KIB4, "4 KiB << 1, aligned down");
    assert_eq!(seen(), ([OTHER_PAGE, PAGE, PAGE], PAGE));
    fields.low = 4;
    fields.run(&rig);
    assert_eq!(seen(), ([OTHER_PAGE; 3], PAGE));
}

#[test]
fn an_untargeted_invalidation_takes_all_addresses() {
    let rig = Rig::new();
    let root = sys(0);
    rig.memory.set(root, pde(sys(0x1000)));
    rig.memory.set(sys(0x1000), pde(sys(0x2000)));
    rig.memory.set(sys(0x2000), pde(sys(0x3000)));
    rig.memory.set(sys(0x3008), pde(sys(0x4000)));
    let map = |to| (0..4).for_each(|i| rig.memory.set(sys(0x4000 + 8 * i), pte(vid(to))));
    let space = rig.space(0, root);
    let mut sm = rig.sm(0);
    let mut seen = || [0, 1, 3].map(|i| reaches(&mut sm, &space, i << 12).unwrap().addr);
    map(PAGE);
    assert_eq!(seen(), [PAGE; 3]);
    map(OTHER_PAGE);
    Fields::at(TLB_INVALIDATE, vid(root.addr), 0).run(&rig);
    assert_eq!(
        seen(),
        [PAGE; 3],
        "a directory at that place in VRAM is another one"
    );
    Fields::at(TLB_INVALIDATE, root, 0).run(&rig);
    assert_eq!(seen(), [OTHER_PAGE; 3]);
}

#[test]
fn page_table_level_and_pdb_all_are_those_of_the_register() {
    let rig = Rig::new();
    let tables = Tables::new(&rig.memory, 0x10_0000);
    let others = Tables::new(&rig.memory, 0x20_0000);
    let space = rig.space(0, tables.root);
    let mut sm = rig.sm(0);
    tables.map(VA, pte(vid(PAGE)));
    others.map(VA, pte(vid(OTHER_PAGE)));
    assert_eq!(reaches(&mut sm, &space, VA), Ok(vid(PAGE)));
    let entry = tables.entry(VA, Level::Pde1);
    rig.memory
        .set(entry, rig.memory.get(others.entry(VA, Level::Pde1)));
    let mut fields = Fields::at(TLB_INVALIDATE_TARGETED, vid(0), VA);
    fields.all_pdb = 1;
    for (level, to) in [(1, PAGE), (2, PAGE), (3, OTHER_PAGE)] {
        fields.level = level;
        fields.run(&rig);
        assert_eq!(reaches(&mut sm, &space, VA), Ok(vid(to)), "level {level}");
    }
}

/// A device that holds every store back.
fn late() -> Rig {
    Rig::with(&Config {
        late_writes: Some(LateWrites {
            percent: 100,
            depth: 4096,
            window: std::time::Duration::from_secs(1000),
        }),
        ..Config::default()
    })
}

#[test]
fn acks_and_membars_land_what_they_say() {
    // Operation, ACK, SYSMEMBAR, what MEMBAR has in C; whether stores to VRAM and to guest RAM have landed then.
    let cases = [
        (TLB_INVALIDATE, 0, 1, [false, false]),
        (TLB_INVALIDATE, 1, 0, [true, false]),
        (TLB_INVALIDATE, 2, 0, [true, false]),
        (TLB_INVALIDATE, 1, 1, [true, true]),
    ];
    let check = |op: MemOp, landed: [bool; 2]| {
        let rig = late();
        let tables = Tables::new(&rig.memory, 0x10_0000);
        let space = rig.space(0, tables.root);
        tables.map(VA, pte(vid(PAGE)));
        tables.map(VA + KIB4, pte(sys(0)));
        let mut sm = rig.sm(0);
        store(&mut sm, &space, VA, &[1]);
        store(&mut sm, &space, VA + KIB4, &[1]);
        rig.mmu.mem_op(op).unwrap();
        let found = [vid(PAGE), sys(0)].map(|at| rig.memory.byte(at) == 1);
        assert_eq!(found, landed, "{op:x?}");
    };
    for (operation, ack, sysmembar, landed) in cases {
        let mut fields = Fields::at(operation, vid(0), 0);
        (fields.ack, fields.sysmembar) = (ack, sysmembar);
        check(fields.encode(), landed);
    }
    let mut membar = Fields::at(MEMBAR, vid(0), 0).encode();
    check(membar, [true, true]);
    membar.c = 1;
    check(membar, [true, false]);
}

#[test]
fn a_replay_by_method_wakes_stalled_units() {
    for replay in [1, 2] {
        let rig = Rig::new();
        enable(&rig, REPLAY, 16);
        let tables = Tables::new(&rig.memory, 0x10_0000);
        let space = rig.space(0, tables.root);
        let sm = rig.stall(0, space, &[pte_fault(VA, Access::Read)]);
        wait_for_packets(&rig, REPLAY, 1);
        tables.map(VA, pte(vid(PAGE)));
        let mut fields = Fields::at(TLB_INVALIDATE_TARGETED, vid(0), 0);
        (fields.replay, fields.level) = (replay, 1);
        fields.run(&rig);
        assert_eq!(sm.join().unwrap(), Stalled::Replay);
    }
}

#[test]
fn cancel_targeted_by_method_names_gpc_and_client() {
    let rig = Rig::new();
    enable(&rig, NON_REPLAY, 16);
    enable(&rig, REPLAY, 16);
    let tables = Tables::new(&rig.memory, 0x10_0000);
    let space = rig.space(0, tables.root);
    let sms = [0, 3].map(|n| rig.stall(n, space, &[pte_fault(VA, Access::Read)]));
    wait_for_packets(&rig, REPLAY, 2);
    let mut fields = Fields::at(TLB_INVALIDATE, tables.root, 0);
    fields.replay = 3;
    fields.low = (3 << 6) | 1;
    fields.run(&rig);
    assert_eq!(
        pending(&rig, NON_REPLAY),
        [],
        "client 1 of GPC 3 is another one"
    );
    fields.low = 3 << 6;
    fields.run(&rig);
    let packets = pending(&rig, NON_REPLAY);
    assert_eq!(packets.len(), 1);
    assert_eq!((packets[0].dwords[7] >> 24) & 0x1f, 3);
    rig.mmu.abandon(space.inst);
    let [first, second] = sms.map(|sm| sm.join().unwrap());
    assert_eq!(first, Stalled::Abandoned);
    assert!(matches!(second, Stalled::Cancelled(_)));
}

#[test]
fn cancel_va_global_by_method_names_the_engine_too() {
    const GRAPHICS: u32 = 64;
    for (engine, access_type, hits) in [
        (GRAPHICS, 7, true),
        (GRAPHICS + 1, 7, false),
        (GRAPHICS, 1, false),
    ] {
        let rig = Rig::new();
        enable(&rig, NON_REPLAY, 16);
        enable(&rig, REPLAY, 16);
        let tables = Tables::new(&rig.memory, 0x10_0000);
        let space = rig.space(0, tables.root);
        let sm = rig.stall(0, space, &[pte_fault(VA, Access::Read)]);
        wait_for_packets(&rig, REPLAY, 1);
        let mut fields = Fields::at(TLB_INVALIDATE_TARGETED, tables.root, VA);
        fields.replay = 5;
        fields.level = access_type;
        fields.low = engine;
        fields.run(&rig);
        let expected: &[u64] = if hits { &[VA] } else { &[] };
        assert_eq!(
            addresses(&rig, NON_REPLAY),
            expected,
            "{engine} {access_type}"
        );
        rig.mmu.abandon(space.inst);
        let _ = sm.join().unwrap();
    }
}

#[test]
fn an_operation_that_does_not_exist_is_refused() {
    let rig = Rig::new();
    let known = [5, 9, 0xa, 0xd, 0xe, 0xf, 0x10, 0x15, 0x16];
    for operation in 0..32 {
        let op = Fields::at(operation, vid(0), 0).encode();
        let expected = if known.contains(&operation) {
            Ok(())
        } else {
            Err(UnknownMemOp)
        };
        assert_eq!(rig.mmu.mem_op(op), expected, "{operation:#x}");
    }
}

#[test]
fn a_method_waits_its_turn_among_triggers_and_takes_no_space_of_theirs() {
    let rig = Rig::new();
    let tables = Tables::new(&rig.memory, 0x10_0000);
    let space = rig.space(0, tables.root);
    tables.map(VA, pte(vid(PAGE)));
    let mut sm = rig.sm(0);
    // A window holds up the acked trigger, and so the method behind it.
    let mut window = sm.window();
    window
        .translate(&space, mirage_vgpu::bus::GpuVa(VA), Access::Read)
        .unwrap();
    rig.trigger(ALL | ACK_GLOBALLY);
    let mmu = rig.mmu.clone();
    let method = thread::spawn(move || mmu.mem_op(Fields::at(TLB_INVALIDATE, vid(0), 0).encode()));
    let one_used = (rig.read(MMU_CTRL) >> 16) & 0xff;
    assert_eq!(one_used, 31);
    thread::sleep(std::time::Duration::from_millis(20));
    assert!(!method.is_finished());
    assert_eq!((rig.read(MMU_CTRL) >> 16) & 0xff, 31);
    drop(window);
    assert_eq!(method.join().unwrap(), Ok(()));
    assert!(rig.fifo_empty());
}
