// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reclaim: pages that the kernel takes back, writes to swap or drops, and what the GPU has written to them before.

use anyhow::{ensure, Result};
use fastrand::Rng;
use mirage::{lanes, Atomic, Load, Store};
use nix::sys::mman::MmapAdvise;

use crate::fixture::{ensure_eq, Mirror, LIMIT};
use crate::harness::{guest_tests, rounds, skip};
use crate::kernel::{pagemap, Cgroup, Swap};
use crate::region::{Advice, Region, HUGE, PAGE, WORD};
use crate::sys::fork;
use crate::work::{count_while, ensure_counts_from, ensure_words, gpu_reads, gpu_writes};

guest_tests![
    pages_in_swap_come_back_when_the_gpu_reads_them,
    pages_in_swap_come_back_when_the_gpu_writes_them,
    what_the_gpu_writes_where_it_has_read_before_survives_reclaim,
    what_the_gpu_writes_after_madv_free_survives_reclaim,
    pages_freed_lazily_are_old_or_empty_for_the_gpu,
    madv_cold_changes_nothing_for_the_gpu,
    no_count_is_lost_while_pages_go_to_swap,
    no_count_is_lost_while_shared_pages_go_to_swap,
    no_count_is_lost_while_huge_pages_go_to_swap,
    no_count_is_lost_while_swap_is_switched_off,
    locked_pages_stay_where_they_are,
    a_group_at_its_limit_makes_room_for_what_the_gpu_touches in 600,
    races_of_madv_dontneed_leave_zeros_or_what_was_written,
];

const PAGES: usize = 64;
const LEN: usize = PAGES * PAGE;

/// Small pages, private or shared.
fn both() -> Result<[Region; 2]> {
    let regions = [Region::anonymous(LEN)?, Region::shared(LEN)?];
    regions.iter().for_each(Region::no_huge_pages);
    Ok(regions)
}

fn page_out(region: &Region) -> Result<()> {
    region.advise(0..region.len(), MmapAdvise::MADV_PAGEOUT)
}

/// Has all pages of a region go, or skips: a busy machine holds some.
fn page_out_all(region: &Region) -> Result<()> {
    for _ in 0..100 {
        // Drains the lists that each processor keeps of new pages.
        std::fs::write("/proc/sys/vm/drop_caches", "1")?;
        page_out(region)?;
        if pagemap(region)?.iter().all(|page| !page.present()) {
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let left = pagemap(region)?
        .iter()
        .filter(|page| page.present())
        .count();
    skip(format!("{left} pages cannot be paged out"))
}

fn pages_in_swap_come_back_when_the_gpu_reads_them() -> Result<()> {
    let (_swap, mirror) = (Swap::on()?, Mirror::new()?);
    for region in both()? {
        gpu_writes(&mirror, &region, 500)?;
        page_out_all(&region)?;
        // In one read, and in pieces.
        ensure_words(&gpu_reads(&mirror, &region)?, |i| 500 + i as u64)?;
        page_out_all(&region)?;
        mirror.run(Load::<u64>::new(region.lanes(7 * PAGE, 0)), lanes(1))?;
        ensure!(
            pagemap(&region)?[7].present(),
            "the page was not brought back"
        );
        ensure_counts_from(&region, 500)?;
    }
    Ok(())
}

fn pages_in_swap_come_back_when_the_gpu_writes_them() -> Result<()> {
    let (_swap, mirror) = (Swap::on()?, Mirror::new()?);
    for region in both()? {
        gpu_writes(&mirror, &region, 500)?;
        page_out_all(&region)?;
        mirror.run(
            Atomic::add(region.lanes(0, PAGE), 1_u64 << 20),
            lanes(PAGES as u32),
        )?;
        page_out_all(&region)?;
        ensure_words(&region.words(0..LEN), |i| {
            500 + i as u64 + if i * WORD % PAGE == 0 { 1 << 20 } else { 0 }
        })?;
    }
    Ok(())
}

/// After a read, the kernel's own entry may be writable and clean. Only the driver knows that the GPU wrote the page.
fn what_the_gpu_writes_where_it_has_read_before_survives_reclaim() -> Result<()> {
    let (_swap, mirror) = (Swap::on()?, Mirror::new()?);
    for region in both()? {
        ensure_words(&gpu_reads(&mirror, &region)?, |_| 0)?;
        gpu_writes(&mirror, &region, 900)?;
        page_out_all(&region)?;
        ensure_counts_from(&region, 900)?;
        // Clean in swap and in memory, and read back by the GPU.
        page_out_all(&region)?;
        ensure_words(&gpu_reads(&mirror, &region)?, |i| 900 + i as u64)?;
        gpu_writes(&mirror, &region, 1900)?;
        page_out_all(&region)?;
        ensure_words(&gpu_reads(&mirror, &region)?, |i| 1900 + i as u64)?;
    }
    Ok(())
}

fn what_the_gpu_writes_after_madv_free_survives_reclaim() -> Result<()> {
    let (_swap, mirror, region) = (Swap::on()?, Mirror::new()?, Region::anonymous(LEN)?);
    region.no_huge_pages();
    for first in [10_000, 20_000, 30_000] {
        region.fill(0..LEN, 1);
        region.advise(0..LEN, MmapAdvise::MADV_FREE)?;
        // A read first, for the second half: it may map the page for writing.
        mirror.run(
            Load::<u64>::new(region.lanes(LEN / 2, PAGE)),
            lanes(PAGES as u32 / 2),
        )?;
        gpu_writes(&mirror, &region, first)?;
        page_out(&region)?;
        ensure_counts_from(&region, first)?;
    }
    Ok(())
}

fn pages_freed_lazily_are_old_or_empty_for_the_gpu() -> Result<()> {
    let (_swap, mirror, region) = (Swap::on()?, Mirror::new()?, Region::anonymous(LEN)?);
    region.no_huge_pages();
    gpu_writes(&mirror, &region, 1)?;
    region.advise(0..LEN, MmapAdvise::MADV_FREE)?;
    let old_or_empty = |words: Vec<u64>| {
        let wrong = words
            .iter()
            .enumerate()
            .find(|&(i, &word)| word != 0 && word != 1 + i as u64);
        ensure_eq!(wrong, None);
        anyhow::Ok(words)
    };
    old_or_empty(gpu_reads(&mirror, &region)?)?;
    page_out(&region)?;
    let seen = old_or_empty(gpu_reads(&mirror, &region)?)?;
    ensure!(
        seen == region.words(0..LEN),
        "GPU and CPU do not see the same"
    );
    Ok(())
}

fn madv_cold_changes_nothing_for_the_gpu() -> Result<()> {
    for region in both()? {
        count_while(&region, 10, |round| {
            let half = if round % 2 == 0 {
                0..LEN / 2
            } else {
                LEN / 2..LEN
            };
            Ok(region.ask(half, Advice::Cold)?)
        })?;
    }
    Ok(())
}

/// Some pages of a region, other ones in each round.
fn some(region: &Region, round: u64) -> std::ops::Range<usize> {
    let mut rng = Rng::with_seed(round);
    let first = rng.usize(0..region.pages());
    first * PAGE..rng.usize(first..region.pages()) * PAGE + PAGE
}

fn no_count_is_lost_while_pages_go_to_swap() -> Result<()> {
    let (_swap, region) = (Swap::on()?, Region::anonymous(4 * LEN)?);
    region.no_huge_pages();
    count_while(&region, 30, |round| {
        region.advise(some(&region, round), MmapAdvise::MADV_PAGEOUT)
    })
}

fn no_count_is_lost_while_shared_pages_go_to_swap() -> Result<()> {
    let (_swap, region) = (Swap::on()?, Region::shared(4 * LEN)?);
    count_while(&region, 30, |round| {
        region.advise(some(&region, round), MmapAdvise::MADV_PAGEOUT)
    })
}

fn no_count_is_lost_while_huge_pages_go_to_swap() -> Result<()> {
    let (_swap, region) = (Swap::on()?, Region::huge_aligned(HUGE)?);
    let _ = region.advise(0..HUGE, MmapAdvise::MADV_HUGEPAGE);
    count_while(&region, 8, |round| {
        let part = if round % 2 == 0 {
            0..HUGE
        } else {
            HUGE / 4..HUGE / 2
        };
        region.advise(part, MmapAdvise::MADV_PAGEOUT)
    })
}

fn no_count_is_lost_while_swap_is_switched_off() -> Result<()> {
    let region = Region::anonymous(4 * LEN)?;
    region.no_huge_pages();
    let mut swap = None;
    count_while(&region, 6, |round| {
        if round % 2 == 0 {
            swap = Some(Swap::on()?);
            page_out(&region)
        } else {
            swap.take().map_or(Ok(()), |swap| swap.off())
        }
    })
}

fn locked_pages_stay_where_they_are() -> Result<()> {
    let (_swap, mirror, region) = (Swap::on()?, Mirror::new()?, Region::anonymous(LEN)?);
    region.no_huge_pages();
    region.lock()?;
    gpu_writes(&mirror, &region, 3)?;
    let before: Vec<_> = pagemap(&region)?.iter().map(|page| page.frame()).collect();
    // Refused for locked memory.
    ensure!(page_out(&region).is_err(), "locked memory was paged out");
    gpu_writes(&mirror, &region, 4)?;
    let after: Vec<_> = pagemap(&region)?.iter().map(|page| page.frame()).collect();
    ensure!(before == after, "locked pages moved");
    ensure_counts_from(&region, 4)?;
    region.unlock()?;
    page_out_all(&region)?;
    ensure_words(&gpu_reads(&mirror, &region)?, |i| 4 + i as u64)
}

fn a_group_at_its_limit_makes_room_for_what_the_gpu_touches() -> Result<()> {
    const LIMIT_BYTES: usize = 6 << 20;
    const SIZE: usize = 10 << 20;
    let _swap = Swap::on()?;
    let group = Cgroup::new(LIMIT_BYTES, SIZE * 4)?;
    let child = fork(|| {
        group.join()?;
        let (mirror, region) = (Mirror::new()?, Region::anonymous(SIZE)?);
        region.no_huge_pages();
        let pages = lanes(region.pages() as u32);
        mirror.run_long(Store::new(region.lanes(0, PAGE), 1_u64).plus_lane(), pages)?;
        // By now part of it is in swap, and the next round brings it back and pushes the rest out.
        mirror.run_long(Atomic::add(region.lanes(0, PAGE), 1_u64), pages)?;
        ensure_words(&region.page_words(), |page| 2 + page as u64)
    })?;
    child.join()?;
    ensure!(
        group.number("memory.events", "max ")? > 0,
        "the limit was never reached"
    );
    Ok(())
}

/// Two threads: one gives pages back, the GPU writes them. A word is 0 or was written after the page was given back last.
fn races_of_madv_dontneed_leave_zeros_or_what_was_written() -> Result<()> {
    let (mirror, region, mut rng) = (Mirror::new()?, Region::anonymous(LEN)?, Rng::with_seed(11));
    for round in 1..=rounds(40) {
        let advice = if round % 2 == 0 {
            MmapAdvise::MADV_DONTNEED
        } else {
            MmapAdvise::MADV_FREE
        };
        let job = mirror.channel.launch(
            Store::new(region.lanes(0, WORD), round),
            lanes((LEN / WORD) as u32),
        )?;
        let first = rng.usize(0..PAGES / 2);
        for page in first..first + PAGES / 2 {
            region.advise(page * PAGE..(page + 1) * PAGE, advice)?;
        }
        job.wait(LIMIT)?;
        let untouched = (first + PAGES / 2) * PAGE / WORD..LEN / WORD;
        let wrong = region
            .words(0..LEN)
            .into_iter()
            .enumerate()
            .find(|&(i, word)| word != round && (untouched.contains(&i) || word != 0));
        ensure_eq!(wrong, None);
    }
    // With nobody racing any more, everything is there.
    gpu_writes(&mirror, &region, 5)?;
    ensure_counts_from(&region, 5)
}
