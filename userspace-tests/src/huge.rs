// SPDX-License-Identifier: MIT OR Apache-2.0
//! Huge pages under the GPU's hands: made of small ones, split, moved and taken apart.

use anyhow::{ensure, Result};
use mirage::{lanes, Access, Atomic, Load, Reason, Store};
use nix::sys::mman::{MmapAdvise, ProtFlags};

use crate::fixture::{ensure_eq, ensure_report, Mirror, Spinner};
use crate::harness::{guest_tests, rounds, skip};
use crate::kernel::smaps_kilobytes;
use crate::region::{OldPlace, Region, HUGE, PAGE, RW, WORD};
use crate::work::{count_while, ensure_counts_from, ensure_words, gpu_reads, gpu_writes};

guest_tests![
    no_count_is_lost_while_huge_pages_are_made_and_split,
    work_goes_on_while_its_pages_become_a_huge_page,
    a_huge_page_moved_to_a_huge_place_keeps_what_the_gpu_wrote,
    a_huge_page_moved_to_a_small_place_keeps_what_the_gpu_wrote,
    a_huge_page_may_go_back_and_forth,
    a_huge_page_whose_middle_is_unmapped_keeps_the_rest,
    a_huge_page_whose_middle_is_given_back_reads_as_zeros_there,
    a_huge_page_can_have_another_protection_for_each_page,
    a_read_of_untouched_huge_memory_leaves_it_writable,
    a_huge_page_is_split_by_pages_that_move_away,
];

/// Memory that is one huge page, `first`, `first` + 1 ... by the GPU.
pub(crate) fn huge_page(mirror: &Mirror, first: u64) -> Result<Region> {
    let region = Region::huge_aligned(HUGE)?;
    if region.advise(0..HUGE, MmapAdvise::MADV_HUGEPAGE).is_err() {
        return skip("no transparent huge pages");
    }
    gpu_writes(mirror, &region, first)?;
    if smaps_kilobytes(&region, "AnonHugePages")? * 1024 < HUGE && !region.collapse_all() {
        return skip("no huge page to be had");
    }
    Ok(region)
}

fn no_count_is_lost_while_huge_pages_are_made_and_split() -> Result<()> {
    let region = Region::huge_aligned(HUGE)?;
    region.no_huge_pages();
    let mut collapsed = 0;
    count_while(&region, 16, |round| {
        if round % 2 == 0 {
            let _ = region.advise(0..HUGE, MmapAdvise::MADV_HUGEPAGE);
            collapsed += u32::from(region.collapse_all());
            Ok(())
        } else {
            region.split_mapping(round as usize * 7 * PAGE)?;
            region.advise(
                round as usize * 9 * PAGE..(round as usize * 9 + 3) * PAGE,
                MmapAdvise::MADV_PAGEOUT,
            )
        }
    })?;
    println!("{collapsed} collapses");
    if collapsed == 0 {
        return skip("no huge page was made");
    }
    Ok(())
}

fn work_goes_on_while_its_pages_become_a_huge_page() -> Result<()> {
    let (mirror, region) = (Mirror::new()?, Region::huge_aligned(HUGE)?);
    region.no_huge_pages();
    let spinner = Spinner::over(&region)?;
    let job = spinner.start(&mirror.channel)?;
    spinner.wait_round(&region)?;
    let _ = region.advise(0..HUGE, MmapAdvise::MADV_HUGEPAGE);
    let mut collapsed = 0;
    for round in 0..rounds(10) as usize {
        collapsed += u32::from(region.collapse_all());
        spinner.wait_round(&region)?;
        region.split_mapping(round * 50 * PAGE)?;
        spinner.wait_round(&region)?;
    }
    spinner.finish(&job)?;
    println!("{collapsed} collapses");
    if collapsed == 0 {
        return skip("no huge page was made");
    }
    Ok(())
}

fn move_and_check(huge: bool) -> Result<()> {
    let mirror = Mirror::new()?;
    let mut region = huge_page(&mirror, 600)?;
    let old = region.at(0);
    let moved = region.relocate(0..HUGE, OldPlace::Unmap, huge)?;
    ensure_words(&gpu_reads(&mirror, &moved)?, |i| 600 + i as u64)?;
    gpu_writes(&mirror, &moved, 700)?;
    ensure_counts_from(&moved, 700)?;
    let report = mirror.refused(Load::<u64>::new(old.into()), lanes(1))?;
    ensure_report(&report, old, Access::Read, Reason::NoVma)
}

fn a_huge_page_moved_to_a_huge_place_keeps_what_the_gpu_wrote() -> Result<()> {
    move_and_check(true)
}

fn a_huge_page_moved_to_a_small_place_keeps_what_the_gpu_wrote() -> Result<()> {
    move_and_check(false)
}

/// With the old place kept, empty, the GPU finds zeros there and may fill it again.
fn a_huge_page_may_go_back_and_forth() -> Result<()> {
    let mirror = Mirror::new()?;
    let mut region = huge_page(&mirror, 1)?;
    let rounds = rounds(5);
    for round in 1..=rounds {
        let moved = region.relocate(0..HUGE, OldPlace::Keep, round % 2 == 0)?;
        ensure_words(&gpu_reads(&mirror, &region)?, |_| 0)?;
        ensure_words(&gpu_reads(&mirror, &moved)?, |i| round + i as u64)?;
        gpu_writes(&mirror, &region, 1 << 33)?;
        gpu_writes(&mirror, &moved, round + 1)?;
        ensure_counts_from(&region, 1 << 33)?;
        ensure_counts_from(&moved, round + 1)?;
        region.replace(0, moved)?;
    }
    ensure_words(&gpu_reads(&mirror, &region)?, |i| rounds + 1 + i as u64)
}

fn a_huge_page_whose_middle_is_unmapped_keeps_the_rest() -> Result<()> {
    const HOLE: std::ops::Range<usize> = 200 * PAGE..333 * PAGE;
    let mirror = Mirror::new()?;
    let mut region = huge_page(&mirror, 10)?;
    region.unmap(HOLE)?;
    mirror.run(
        Atomic::add(region.lanes(0, WORD), 1_u64),
        lanes((HOLE.start / WORD) as u32),
    )?;
    let behind = lanes(((HUGE - HOLE.end) / WORD) as u32);
    mirror.run(Atomic::add(region.lanes(HOLE.end, WORD), 1_u64), behind)?;
    ensure_words(&region.words(0..HOLE.start), |i| 11 + i as u64)?;
    ensure_words(&region.words(HOLE.end..HUGE), |i| {
        11 + (HOLE.end / WORD + i) as u64
    })?;
    for hole in [HOLE.start, HOLE.end - PAGE] {
        let report = mirror.refused(Store::new(region.lanes(hole, 0), 1_u64), lanes(1))?;
        ensure_report(&report, region.at(hole), Access::Write, Reason::NoVma)?;
    }
    Ok(())
}

fn a_huge_page_whose_middle_is_given_back_reads_as_zeros_there() -> Result<()> {
    const BACK: std::ops::Range<usize> = 17 * PAGE..300 * PAGE;
    let mirror = Mirror::new()?;
    let region = huge_page(&mirror, 10)?;
    region.advise(BACK, MmapAdvise::MADV_DONTNEED)?;
    let due = |i: usize| {
        if BACK.contains(&(i * WORD)) {
            0
        } else {
            10 + i as u64
        }
    };
    ensure_words(&gpu_reads(&mirror, &region)?, due)?;
    mirror.run(
        Atomic::add(region.lanes(0, WORD), 1_u64),
        lanes((HUGE / WORD) as u32),
    )?;
    ensure_words(&region.words(0..HUGE), |i| due(i) + 1)
}

fn a_huge_page_can_have_another_protection_for_each_page() -> Result<()> {
    let mirror = Mirror::new()?;
    let region = huge_page(&mirror, 0)?;
    // Eight writable pages, eight that are not, and so on.
    let runs: Vec<_> = (0..HUGE / PAGE)
        .step_by(16)
        .map(|page| (page + 8) * PAGE..(page + 16) * PAGE)
        .collect();
    runs.iter()
        .try_for_each(|run| region.protect(run.clone(), ProtFlags::PROT_READ))?;
    for run in &runs {
        let writable = run.start - 8 * PAGE;
        mirror.run(
            Atomic::add(region.lanes(writable, WORD), 1_u64 << 40),
            lanes((8 * PAGE / WORD) as u32),
        )?;
    }
    for run in [&runs[0], &runs[17]] {
        let report = mirror.refused(Atomic::add(region.lanes(run.start, 0), 1_u64), lanes(1))?;
        ensure_report(
            &report,
            region.at(run.start),
            Access::Atomic,
            Reason::Permission,
        )?;
    }
    let due = |i: usize| i as u64 + if i * WORD / PAGE % 16 < 8 { 1 << 40 } else { 0 };
    ensure_words(&gpu_reads(&mirror, &region)?, due)?;
    region.protect(0..HUGE, RW)?;
    gpu_writes(&mirror, &region, 2)?;
    ensure_counts_from(&region, 2)
}

/// The huge page of zeros is everybody's.
fn a_read_of_untouched_huge_memory_leaves_it_writable() -> Result<()> {
    let (mirror, regions) = (
        Mirror::new()?,
        [Region::huge_aligned(HUGE)?, Region::huge_aligned(HUGE)?],
    );
    for region in &regions {
        let _ = region.advise(0..HUGE, MmapAdvise::MADV_HUGEPAGE);
        ensure_words(&gpu_reads(&mirror, region)?, |_| 0)?;
    }
    mirror.run(
        Store::new(regions[0].lanes(0, PAGE), 8_u64),
        lanes((HUGE / PAGE) as u32),
    )?;
    ensure_eq!(regions[0].page_words(), vec![8; HUGE / PAGE]);
    ensure_words(&gpu_reads(&mirror, &regions[1])?, |_| 0)?;
    ensure_words(&regions[1].words(0..HUGE), |_| 0)
}

fn a_huge_page_is_split_by_pages_that_move_away() -> Result<()> {
    let mirror = Mirror::new()?;
    let mut region = huge_page(&mirror, 0)?;
    let mut away = Vec::new();
    for page in [0, 63, 64, 255, 511] {
        away.push((page, region.move_away(page * PAGE..(page + 1) * PAGE)?));
        let report = mirror.refused(Store::new(region.lanes(page * PAGE, 0), 1_u64), lanes(1))?;
        ensure_report(
            &report,
            region.at(page * PAGE),
            Access::Write,
            Reason::NoVma,
        )?;
    }
    for (page, moved) in &away {
        ensure_words(&gpu_reads(&mirror, moved)?, |i| {
            (page * PAGE / WORD + i) as u64
        })?;
    }
    mirror.run(Atomic::add(region.lanes(PAGE, PAGE), 1_u64), lanes(62))?;
    ensure!(
        (1..63).all(|page| region.load(page * PAGE) == (page * PAGE / WORD) as u64 + 1),
        "a page that stayed is wrong"
    );
    Ok(())
}
