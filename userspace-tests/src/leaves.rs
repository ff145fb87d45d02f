// SPDX-License-Identifier: MIT OR Apache-2.0
//! How large the GPU's mappings are, and that an invalidation takes away no more than it has to. By the driver's counters, so
//! nothing else may use the GPU meanwhile.

use anyhow::{bail, ensure, Result};
use mirage::{lanes, Counters, Load, Store};
use nix::sys::mman::{MmapAdvise, ProtFlags};

use crate::fixture::{ensure_eq, Mirror};
use crate::harness::{guest_tests, skip};
use crate::region::{Region, HUGE, PAGE};
use crate::sys::fork;

guest_tests![
    a_huge_page_gets_one_2m_leaf_and_one_fault,
    small_pages_get_no_2m_leaf,
    contiguous_pages_of_a_split_huge_page_get_64k_leaves,
    a_page_that_goes_leaves_the_rest_of_its_leaf_mapped,
    a_launch_over_mapped_pages_does_not_fault,
    an_invalidation_of_what_the_gpu_never_saw_costs_no_tlb_operation,
    the_first_touch_of_a_page_brings_in_that_page_only,
    a_read_only_leaf_becomes_writable_by_one_fault,
    a_huge_mapping_starting_in_the_middle_gets_small_leaves,
];

/// Huge page's pages.
const HUGE_PAGES: u32 = (HUGE / PAGE) as u32;

/// What the driver did while `work` ran.
fn during(mirror: &Mirror, work: impl FnOnce() -> Result<()>) -> Result<Counters> {
    let before = mirror.counters()?;
    work()?;
    Ok(mirror.counters()?.since(&before))
}

/// A region whose first access made one huge page.
fn huge_page() -> Result<Region> {
    let region = Region::huge_aligned(HUGE)?;
    if region.advise(0..HUGE, MmapAdvise::MADV_HUGEPAGE).is_err() {
        return skip("no transparent huge pages");
    }
    region.store(0, 1);
    let smaps = std::fs::read_to_string("/proc/self/smaps_rollup")?;
    let huge = smaps
        .lines()
        .find_map(|line| line.strip_prefix("AnonHugePages:"))
        .unwrap_or("0 kB");
    match huge
        .split_whitespace()
        .next()
        .and_then(|kilobytes| kilobytes.parse::<usize>().ok())
    {
        Some(kilobytes) if kilobytes * 1024 >= HUGE => {
            // It stays huge. But what becomes of it afterwards is not for khugepaged to say.
            region.no_huge_pages();
            Ok(region)
        }
        _ => skip("no huge page to be had"),
    }
}

fn small_pages(len: usize) -> Result<Region> {
    let region = Region::huge_aligned(len)?;
    // Without huge pages in the kernel there is nothing to switch off.
    let _ = region.advise(0..len, MmapAdvise::MADV_NOHUGEPAGE);
    region.fill(0..len, 0);
    Ok(region)
}

fn write_all(mirror: &Mirror, region: &Region) -> Result<()> {
    mirror.run(
        Store::new(region.lanes(0, PAGE), 3_u64),
        lanes(region.pages() as u32),
    )
}

/// Maps all that the CPU has, by one access. Those of more lanes are more packets, and the last of them may be read after the work has ended.
fn touch(mirror: &Mirror, region: &Region) -> Result<()> {
    mirror.run(Store::new(region.lanes(0, 0), 3_u64), lanes(1))
}

fn a_huge_page_gets_one_2m_leaf_and_one_fault() -> Result<()> {
    let (mirror, region) = (Mirror::new()?, huge_page()?);
    let first = during(&mirror, || {
        mirror.run(Store::new(region.lanes(5 * PAGE, 0), 1_u64), lanes(1))
    })?;
    ensure_eq!(
        (
            first.get("leaves_2m"),
            first.get("leaves_64k"),
            first.get("leaves_4k")
        ),
        (1, 0, 0)
    );
    let rest = during(&mirror, || write_all(&mirror, &region))?;
    ensure_eq!((first.get("faults"), rest.get("faults")), (1, 0));
    Ok(())
}

fn small_pages_get_no_2m_leaf() -> Result<()> {
    let (mirror, region) = (Mirror::new()?, small_pages(HUGE)?);
    let work = during(&mirror, || write_all(&mirror, &region))?;
    let (small, middle, huge) = (
        work.get("leaves_4k"),
        work.get("leaves_64k"),
        work.get("leaves_2m"),
    );
    // Small pages may happen to be neighbours in memory, sixteen at a time.
    ensure_eq!((small + 16 * middle, huge), (u64::from(HUGE_PAGES), 0));
    Ok(())
}

fn contiguous_pages_of_a_split_huge_page_get_64k_leaves() -> Result<()> {
    let (mirror, region) = (Mirror::new()?, huge_page()?);
    // The last page keeps another protection, so no leaf can cover all.
    region.protect(HUGE - PAGE..HUGE, ProtFlags::PROT_READ)?;
    let writable = HUGE_PAGES - 1;
    let work = during(&mirror, || {
        mirror.run(Store::new(region.lanes(0, PAGE), 3_u64), lanes(writable))
    })?;
    ensure_eq!((work.get("leaves_2m"), work.get("leaves_64k")), (0, 31));
    Ok(())
}

fn a_page_that_goes_leaves_the_rest_of_its_leaf_mapped() -> Result<()> {
    let (mirror, region) = (Mirror::new()?, huge_page()?);
    // With the CPU's own mapping split before, madvise tells of one page only.
    region.split_mapping(HUGE - PAGE)?;
    let first = during(&mirror, || touch(&mirror, &region))?;
    ensure!(
        first.get("leaves_2m") + first.get("leaves_64k") > 0,
        "no larger leaf to split: {first:?}"
    );
    let gone = during(&mirror, || {
        region.advise(100 * PAGE..101 * PAGE, MmapAdvise::MADV_DONTNEED)
    })?;
    ensure_eq!((gone.get("invalidated_pages"), gone.get("splits")), (1, 1));
    let rest = during(&mirror, || {
        mirror.run(Store::new(region.lanes(0, PAGE), 4_u64), lanes(100))?;
        mirror.run(
            Store::new(region.lanes(101 * PAGE, PAGE), 4_u64),
            lanes(HUGE_PAGES - 101),
        )
    })?;
    ensure_eq!(rest.get("faults"), 0);
    let back = during(&mirror, || {
        mirror.run(Store::new(region.lanes(100 * PAGE, 0), 4_u64), lanes(1))
    })?;
    ensure_eq!((back.get("faults"), region.load(100 * PAGE)), (1, 4));
    Ok(())
}

fn a_launch_over_mapped_pages_does_not_fault() -> Result<()> {
    let (mirror, region) = (Mirror::new()?, small_pages(64 * PAGE)?);
    let first = during(&mirror, || touch(&mirror, &region))?;
    ensure!(
        first.get("faults") >= 1,
        "the first launch did not fault: {first:?}"
    );
    let second = during(&mirror, || write_all(&mirror, &region))?;
    ensure_eq!((second.get("faults"), second.get("replays")), (0, 0));
    Ok(())
}

fn an_invalidation_of_what_the_gpu_never_saw_costs_no_tlb_operation() -> Result<()> {
    let (mirror, region) = (Mirror::new()?, Region::huge_aligned(64 * PAGE)?);
    // The GPU has the first page, so the driver listens to this neighbourhood. The CPU has the others since.
    mirror.run(Store::new(region.lanes(0, 0), 1_u64), lanes(1))?;
    region.fill(32 * PAGE..64 * PAGE, 1);
    let work = during(&mirror, || {
        region.advise(32 * PAGE..64 * PAGE, MmapAdvise::MADV_DONTNEED)
    })?;
    ensure_eq!(
        (work.get("invalidations"), work.get("tlb_operations")),
        (0, 0)
    );
    ensure!(
        work.get("empty_invalidations") > 0,
        "the driver did not hear of it: {work:?}"
    );
    Ok(())
}

fn the_first_touch_of_a_page_brings_in_that_page_only() -> Result<()> {
    let (mirror, region) = (Mirror::new()?, Region::huge_aligned(HUGE)?);
    let _ = region.advise(0..HUGE, MmapAdvise::MADV_NOHUGEPAGE);
    mirror.run(Store::new(region.lanes(7 * PAGE, 0), 1_u64), lanes(1))?;
    ensure_eq!(region.resident()?, 1);
    mirror.run(Store::new(region.lanes(300 * PAGE, PAGE), 1_u64), lanes(5))?;
    ensure_eq!(region.resident()?, 6);
    Ok(())
}

fn a_read_only_leaf_becomes_writable_by_one_fault() -> Result<()> {
    for _ in 0..20 {
        let (mirror, region) = (Mirror::new()?, small_pages(PAGE)?);
        // Read-only since the fork, and nobody else's since the child is gone: a write takes the page as it is.
        fork(|| Ok(()))?.join()?;
        mirror.run(Load::<u64>::new(region.lanes(0, 0)), lanes(1))?;
        let write = during(&mirror, || {
            mirror.run(Store::new(region.lanes(0, 0), 2_u64), lanes(1))
        })?;
        ensure_eq!((write.get("faults"), region.load(0)), (1, 2));
        // A page that another CPU has in a list of its own has one user more, and the kernel copies it.
        if write.get("invalidations") == 0 {
            ensure_eq!(write.get("upgrades"), 1);
            return Ok(());
        }
    }
    bail!("the kernel copied the page each time");
}

fn a_huge_mapping_starting_in_the_middle_gets_small_leaves() -> Result<()> {
    let (mirror, mut region) = (Mirror::new()?, huge_page()?);
    region.fill(0..HUGE, 5);
    let moved = region.move_away(PAGE..HUGE)?;
    let work = during(&mirror, || write_all(&mirror, &moved))?;
    ensure_eq!(work.get("leaves_2m"), 0);
    ensure_eq!(moved.page_words(), vec![3; moved.pages()]);
    Ok(())
}
