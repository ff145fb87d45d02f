// SPDX-License-Identifier: MIT OR Apache-2.0
//! Between two launches the CPU may rearrange its memory as it likes; the GPU sees what is there at the time.

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{ensure, Context, Result};
use fastrand::Rng;
use mirage::{lanes, Access, Atomic, GpuPtr, Load, Reason, Store};
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags};

use crate::bind::{of, prefetch};
use crate::fixture::{ensure_eq, ensure_report, Mirror, LIMIT};
use crate::harness::{guest_tests, rounds};
use crate::region::{Region, HUGE, NEIGHBOURHOOD, PAGE, RW, WORD};
use crate::sys::fork;

guest_tests![
    a_new_mapping_at_an_old_address_is_what_the_gpu_sees,
    a_moved_mapping_is_valid_at_its_new_address_only,
    around_a_hole_everything_stays_valid,
    a_mapping_larger_than_any_table_goes_completely,
    more_neighbourhoods_than_the_driver_keeps_can_be_used in 600,
    files_that_take_all_device_memory_leave_some_to_others in 1200,
    a_mapping_that_becomes_writable_again_can_be_written,
    pages_given_back_read_as_zeros,
    a_freed_allocation_can_be_used_again_by_the_next,
    no_count_is_lost_while_pages_are_protected_forked_and_moved,
];

const PAGES: usize = 16;

fn gpu_word(mirror: &Mirror, region: &Region, offset: usize) -> Result<u64> {
    let result = Region::anonymous(PAGE)?;
    mirror.run(
        Load::new(region.lanes(offset, 0)).results(result.results::<u64>(0)),
        lanes(1),
    )?;
    Ok(result.load(0))
}

fn a_new_mapping_at_an_old_address_is_what_the_gpu_sees() -> Result<()> {
    let (mirror, mut region) = (Mirror::new()?, Region::anonymous(PAGES * PAGE)?);
    for round in 0..rounds(50) {
        ensure_eq!(gpu_word(&mirror, &region, 3 * PAGE)?, 0);
        mirror.run(
            Store::new(region.lanes(0, PAGE), round + 1),
            lanes(PAGES as u32),
        )?;
        ensure_eq!(region.page_words(), [round + 1; PAGES]);
        region.map_over(0..PAGES * PAGE)?;
    }
    Ok(())
}

fn a_moved_mapping_is_valid_at_its_new_address_only() -> Result<()> {
    let (mirror, mut region) = (Mirror::new()?, Region::anonymous(PAGES * PAGE)?);
    mirror.run(
        Store::new(region.lanes(0, PAGE), 1_u64).plus_lane(),
        lanes(PAGES as u32),
    )?;
    let old = region.at(4 * PAGE);
    let moved = region.move_away(4 * PAGE..8 * PAGE)?;
    for page in 0..4 {
        ensure_eq!(gpu_word(&mirror, &moved, page * PAGE)?, 5 + page as u64);
    }
    let report = mirror.refused(Load::<u64>::new(old.into()), lanes(1))?;
    ensure_report(&report, old, Access::Read, Reason::NoVma)
}

fn around_a_hole_everything_stays_valid() -> Result<()> {
    let (mirror, mut region) = (Mirror::new()?, Region::anonymous(PAGES * PAGE)?);
    mirror.run(
        Store::new(region.lanes(0, PAGE), 9_u64),
        lanes(PAGES as u32),
    )?;
    let hole = region.at(6 * PAGE);
    region.unmap(6 * PAGE..7 * PAGE)?;
    mirror.run(Atomic::add(region.lanes(0, PAGE), 1_u64), lanes(6))?;
    mirror.run(
        Atomic::add(region.lanes(7 * PAGE, PAGE), 1_u64),
        lanes(PAGES as u32 - 7),
    )?;
    let others = (0..PAGES).filter(|&page| page != 6);
    ensure!(
        others
            .into_iter()
            .all(|page| region.load(page * PAGE) == 10),
        "a page beside the hole is wrong"
    );
    let report = mirror.refused(Store::new(hole.into(), 1_u64), lanes(1))?;
    ensure_report(&report, hole, Access::Write, Reason::NoVma)
}

/// Pages of a mapping with nothing between them, `stride` bytes apart.
fn sparse(count: usize, stride: usize) -> Result<Region> {
    let region = Region::map(
        count * stride,
        MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE,
    )?;
    // A huge page for each would be too much; without huge pages there is nothing to switch off.
    let _ = region.advise(0..region.len(), MmapAdvise::MADV_NOHUGEPAGE);
    Ok(region)
}

/// One munmap over many page tables: not one of them may keep an entry.
fn a_mapping_larger_than_any_table_goes_completely() -> Result<()> {
    const COUNT: usize = 24;
    const STRIDE: usize = 13 << 20;
    let (mirror, mut region) = (Mirror::new()?, sparse(COUNT, STRIDE)?);
    let spots: Vec<_> = (0..COUNT).map(|i| region.at(i * STRIDE)).collect();
    mirror.run(
        Store::new(region.lanes(0, STRIDE), 1_u64),
        lanes(COUNT as u32),
    )?;
    region.unmap(0..COUNT * STRIDE)?;
    for spot in spots {
        let page = GpuPtr::new(spot.addr() & !0xfff);
        let report = mirror.refused(Store::new(spot.into(), 2_u64), lanes(1))?;
        ensure_report(&report, page, Access::Write, Reason::NoVma)?;
    }
    Ok(())
}

/// The driver watches a bounded number of neighbourhoods; it gives old ones up and takes them again.
fn more_neighbourhoods_than_the_driver_keeps_can_be_used() -> Result<()> {
    const COUNT: usize = 2500;
    const STRIDE: usize = NEIGHBOURHOOD;
    let (mirror, region) = (Mirror::new()?, sparse(COUNT, STRIDE)?);
    let (all, before) = (lanes(COUNT as u32), mirror.counters()?);
    mirror.run_long(
        Store::new(region.lanes(0, STRIDE), 1000_u64).plus_lane(),
        all,
    )?;
    mirror.run_long(Atomic::add(region.lanes(0, STRIDE), 1_u64), all)?;
    let wrong = (0..COUNT).find(|&i| region.load(i * STRIDE) != 1001 + i as u64);
    ensure_eq!(wrong, None);
    let work = mirror.counters()?.since(&before);
    ensure!(
        work.get("regions_evicted") > 0,
        "so many are kept at once: {work:?}"
    );
    Ok(())
}

/// Each file has as many page tables as it can, and two together more than there is device memory. A third has few.
fn files_that_take_all_device_memory_leave_some_to_others() -> Result<()> {
    const REGIONS: usize = 2040;
    const REGION: usize = NEIGHBOURHOOD;
    let (greedy, modest) = ([Mirror::new()?, Mirror::new()?], Mirror::new()?);
    let region = sparse(REGIONS, REGION)?;
    let before = modest.counters()?;
    for mirror in &greedy {
        for offset in (0..REGIONS * REGION).step_by(HUGE) {
            let outcome = prefetch(mirror, of(&region, offset, PAGE, 0));
            ensure!(outcome == (1, None), "at {offset:#x}: {outcome:?}");
        }
    }
    let work = modest.counters()?.since(&before);
    ensure!(
        work.get("regions_evicted") > 0,
        "there is room for all: {work:?}"
    );
    for mirror in [modest, Mirror::new()?] {
        let page = Region::anonymous(PAGE)?;
        mirror.run(Store::new(page.lanes(0, 0), 7_u64), lanes(1))?;
        ensure_eq!(page.load(0), 7);
    }
    Ok(())
}

fn a_mapping_that_becomes_writable_again_can_be_written() -> Result<()> {
    let (mirror, region) = (Mirror::new()?, Region::anonymous(PAGES * PAGE)?);
    for value in 1..10 {
        region.protect(0..PAGES * PAGE, ProtFlags::PROT_READ)?;
        ensure_eq!(gpu_word(&mirror, &region, 0)?, value - 1);
        region.protect(0..PAGES * PAGE, RW)?;
        mirror.run(
            Store::new(region.lanes(0, PAGE), value),
            lanes(PAGES as u32),
        )?;
        ensure_eq!(region.page_words(), [value; PAGES]);
    }
    Ok(())
}

fn pages_given_back_read_as_zeros() -> Result<()> {
    let (mirror, region) = (Mirror::new()?, Region::anonymous(PAGES * PAGE)?);
    mirror.run(
        Store::new(region.lanes(0, PAGE), 5_u64),
        lanes(PAGES as u32),
    )?;
    region.advise(2 * PAGE..4 * PAGE, MmapAdvise::MADV_DONTNEED)?;
    for (page, word) in [(1, 5), (2, 0), (3, 0), (4, 5)] {
        ensure_eq!(gpu_word(&mirror, &region, page * PAGE)?, word);
    }
    Ok(())
}

fn a_freed_allocation_can_be_used_again_by_the_next() -> Result<()> {
    let (mirror, mut rng) = (Mirror::new()?, Rng::with_seed(4));
    for _ in 0..rounds(100) {
        let mut words = vec![0_u64; rng.usize(1..100_000)];
        let count = words.len() as u32;
        mirror.run(
            Store::new(mirage::Strided::packed(words.as_mut_ptr()), 1_u64).plus_lane(),
            lanes(count),
        )?;
        ensure!(
            words.into_iter().eq(1..=u64::from(count)),
            "an allocation of {count} words is wrong"
        );
    }
    Ok(())
}

/// Launches that each add 1 to every word, while another thread has pages change places, protection and sharing below them.
/// One update that goes to a page which is no longer the right one, and a word falls behind.
fn no_count_is_lost_while_pages_are_protected_forked_and_moved() -> Result<()> {
    let launches = rounds(40);
    let (mirror, region) = (Mirror::new()?, Region::huge_aligned(HUGE)?);
    region.fill(0..region.len(), 0);
    let words = region.len() / WORD;
    let launched = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let torture = scope.spawn(|| torture(&region, &launched));
        let outcome = (1..=launches).try_for_each(|launch| {
            launched.store(launch, Ordering::Relaxed);
            let job = mirror.channel.launch(
                Atomic::add(region.lanes(0, WORD), 1_u64),
                lanes(words as u32),
            )?;
            job.wait(LIMIT)
        });
        launched.store(u64::MAX, Ordering::Relaxed);
        let rounds = torture
            .join()
            .ok()
            .context("the torturing thread panicked")??;
        outcome?;
        println!("{launches} launches, {rounds} rounds of torture");
        anyhow::Ok(())
    })?;
    let behind = region
        .words(0..region.len())
        .into_iter()
        .position(|word| word != launches);
    ensure_eq!(behind, None);
    Ok(())
}

/// Nothing here takes an access away from the GPU, but every step invalidates what it has mapped. There are at most eight rounds for
/// each launch, so that the GPU gets on however slow the machine is.
fn torture(region: &Region, launched: &AtomicU64) -> Result<u64> {
    let (mut rng, mut rounds) = (Rng::with_seed(7), 0);
    loop {
        match launched.load(Ordering::Relaxed) {
            u64::MAX => break,
            launches if rounds >= launches * 8 => {
                std::thread::sleep(std::time::Duration::from_millis(1));
                continue;
            }
            _ => (),
        }
        let first = rng.usize(0..496) * PAGE;
        let range = first..first + rng.usize(1..=16) * PAGE;
        match rounds % 8 {
            0 => fork(|| Ok(()))?.join()?,
            1 => drop(std::fs::write("/proc/sys/vm/compact_memory", "1")),
            2 => drop(region.collapse_all()),
            3 => drop(region.advise(range, MmapAdvise::MADV_PAGEOUT)),
            _ => {
                region.protect(range.clone(), RW | ProtFlags::PROT_EXEC)?;
                region.protect(range, RW)?;
            }
        }
        rounds += 1;
    }
    Ok(rounds)
}
