// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the bus promises: nothing outside the regions, nothing after an unmap, nothing without Bus Master Enable.

use std::fs::File;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;

use mirage_vgpu::bus::{AtomicOp, Bus, BusAddr, BusError, PhysAddr, VramOffset, Width};
use mirage_vgpu::memory::{Memory, RamRegion, Rights};
use rustix::fs::{ftruncate, memfd_create, MemfdFlags};

const PAGE: u64 = 4096;

fn ram_file(size: u64) -> File {
    let fd = memfd_create("test-ram", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&fd, size).unwrap();
    File::from(fd)
}

fn region(start: u64, size: u64, file: &File, offset: u64, rights: Rights) -> RamRegion {
    RamRegion {
        start: BusAddr(start),
        size,
        file: file.try_clone().unwrap(),
        offset,
        rights,
    }
}

fn memory() -> Memory {
    let memory = Memory::new(PAGE).unwrap();
    memory.set_bus_master(true);
    memory
}

fn sys(addr: u64) -> PhysAddr {
    BusAddr(addr).into()
}

fn vid(addr: u64) -> PhysAddr {
    VramOffset(addr).into()
}

#[test]
fn two_windows_on_one_file_keep_their_offsets() {
    let memory = memory();
    let file = ram_file(2 * PAGE);
    memory
        .map(region(0x10_0000, PAGE, &file, 0, Rights::ReadWrite))
        .unwrap();
    memory
        .map(region(1 << 32, PAGE, &file, PAGE, Rights::ReadWrite))
        .unwrap();
    memory.write_u32(sys(0x10_0000), 1).unwrap();
    memory.write_u32(sys(1 << 32), 2).unwrap();
    assert_eq!(memory.read_u32(sys(0x10_0000)), Ok(1));
    assert_eq!(memory.read_u32(sys(1 << 32)), Ok(2));
}

#[test]
fn an_access_may_cross_into_the_next_region_but_not_into_a_gap() {
    let memory = memory();
    let file = ram_file(2 * PAGE);
    memory
        .map(region(0, PAGE, &file, PAGE, Rights::ReadWrite))
        .unwrap();
    memory
        .map(region(PAGE, PAGE, &file, 0, Rights::ReadWrite))
        .unwrap();
    let data: Vec<u8> = (0..200).collect();
    memory.write(sys(PAGE - 100), &data).unwrap();
    let mut back = vec![0; 200];
    memory.read(sys(PAGE - 100), &mut back).unwrap();
    assert_eq!(back, data);

    assert_eq!(
        memory.write(sys(2 * PAGE - 100), &[0xee; 200]),
        Err(BusError::OutOfRange)
    );
    memory.read(sys(2 * PAGE - 100), &mut back[..100]).unwrap();
    assert_eq!(back[..100], [0; 100], "a refused write must write nothing");
}

#[test]
fn nothing_outside_vram_and_regions_is_reached() {
    let memory = memory();
    let file = ram_file(PAGE);
    memory
        .map(region(PAGE, PAGE, &file, 0, Rights::ReadWrite))
        .unwrap();
    for addr in [0, PAGE - 1, 2 * PAGE - 3, 2 * PAGE, u64::MAX - 1, u64::MAX] {
        assert_eq!(
            memory.read(sys(addr), &mut [0; 4]),
            Err(BusError::OutOfRange),
            "{addr:#x}"
        );
    }
    for addr in [PAGE - 3, PAGE, u64::MAX - 1] {
        assert_eq!(
            memory.write(vid(addr), &[0; 4]),
            Err(BusError::OutOfRange),
            "{addr:#x}"
        );
    }
    assert_eq!(
        memory.read_u64(vid(4)),
        Err(BusError::OutOfRange),
        "misaligned"
    );
}

#[test]
fn regions_that_are_empty_wrap_overlap_or_outgrow_their_file_are_refused() {
    let memory = memory();
    let file = ram_file(2 * PAGE);
    memory
        .map(region(4 * PAGE, 2 * PAGE, &file, 0, Rights::ReadWrite))
        .unwrap();
    for (start, size, offset) in [
        (0, 0, 0),
        (u64::MAX - PAGE + 1, 2 * PAGE, 0),
        (3 * PAGE, 2 * PAGE, 0),
        (5 * PAGE, PAGE, 0),
        (8 * PAGE, 2 * PAGE, PAGE),
        (8 * PAGE, PAGE, u64::MAX - 1),
    ] {
        let refused = memory.map(region(start, size, &file, offset, Rights::ReadWrite));
        assert!(refused.is_err(), "{start:#x} + {size:#x} at {offset:#x}");
    }
}

#[test]
fn a_read_only_region_takes_no_store_and_no_atomic() {
    let memory = memory();
    let file = ram_file(PAGE);
    memory.map(region(0, PAGE, &file, 0, Rights::Read)).unwrap();
    assert_eq!(memory.read_u32(sys(0)), Ok(0));
    assert_eq!(memory.write_u32(sys(0), 1), Err(BusError::OutOfRange));
    assert_eq!(memory.write(sys(0), &[1; 3]), Err(BusError::OutOfRange));
    assert_eq!(
        memory.atomic(sys(0), Width::Bits64, AtomicOp::Add(1)),
        Err(BusError::OutOfRange)
    );
}

#[test]
fn more_than_256_regions_work_and_go_away_together() {
    let memory = memory();
    let file = ram_file(PAGE);
    for i in 0..1000 {
        memory
            .map(region(2 * i * PAGE, PAGE, &file, 0, Rights::ReadWrite))
            .unwrap();
    }
    assert_eq!(memory.read_u32(sys(1998 * PAGE)), Ok(0));
    assert!(
        memory.unmap(BusAddr(PAGE / 2), PAGE).is_err(),
        "half a region"
    );
    assert_eq!(memory.unmap(BusAddr(0), 1998 * PAGE).unwrap(), 999);
    memory.unmap_all();
    assert_eq!(memory.read_u32(sys(1998 * PAGE)), Err(BusError::OutOfRange));
}

#[test]
fn without_bus_master_guest_memory_is_out_of_reach_and_vram_is_not() {
    let memory = memory();
    let file = ram_file(PAGE);
    memory
        .map(region(0, PAGE, &file, 0, Rights::ReadWrite))
        .unwrap();
    memory.set_bus_master(false);
    assert_eq!(
        memory.read(sys(0), &mut [0; 64]),
        Err(BusError::MasterDisabled)
    );
    assert_eq!(memory.write_u64(sys(0), 1), Err(BusError::MasterDisabled));
    assert_eq!(memory.write_u64(vid(0), 1), Ok(()));
    memory.set_bus_master(true);
    assert_eq!(memory.read_u64(sys(0)), Ok(0));
}

#[test]
fn atomics_of_many_threads_lose_nothing() {
    let memory = Arc::new(memory());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..10_000 {
                    memory
                        .atomic(vid(8), Width::Bits64, AtomicOp::Add(3))
                        .unwrap();
                    memory
                        .atomic(vid(16), Width::Bits32, AtomicOp::Add(u64::MAX))
                        .unwrap();
                }
            });
        }
    });
    assert_eq!(memory.read_u64(vid(8)), Ok(120_000));
    assert_eq!(memory.read_u32(vid(16)), Ok(0u32.wrapping_sub(40_000)));
}

#[test]
fn compare_exchange_tells_the_old_value_and_swaps_only_on_equality() {
    let memory = memory();
    memory.write_u64(vid(0), 7).unwrap();
    let cas = |compare, swap| {
        memory.atomic(
            vid(0),
            Width::Bits64,
            AtomicOp::CompareExchange { compare, swap },
        )
    };
    assert_eq!(cas(6, 9), Ok(7));
    assert_eq!(cas(7, 9), Ok(7));
    assert_eq!(
        memory.atomic(vid(0), Width::Bits64, AtomicOp::Exchange(1)),
        Ok(9)
    );
}

/// An unmapped region's pages can be given to somebody else as soon as unmap has returned.
#[test]
fn after_unmap_returns_no_thread_touches_the_region() {
    let memory = memory();
    let file = ram_file(PAGE);
    let view = Memory::new(PAGE).unwrap();
    view.set_bus_master(true);
    view.map(region(0, PAGE, &file, 0, Rights::ReadWrite))
        .unwrap();
    let (stop, writes) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    if memory.write(sys(0), &[0xff; 64]).is_ok() {
                        writes.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        for _ in 0..200 {
            let before = writes.load(Ordering::Relaxed);
            memory
                .map(region(0, PAGE, &file, 0, Rights::ReadWrite))
                .unwrap();
            while writes.load(Ordering::Relaxed) == before {
                std::thread::yield_now();
            }
            memory.unmap(BusAddr(0), PAGE).unwrap();
            view.write(sys(0), &[0; 64]).unwrap();
            let mut now = [0; 64];
            view.read(sys(0), &mut now).unwrap();
            assert_eq!(now, [0; 64]);
        }
        stop.store(true, Ordering::Relaxed);
    });
}
