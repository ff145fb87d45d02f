// SPDX-License-Identifier: MIT OR Apache-2.0
//! Copy on write: a page that is shared is read through, and copied before the GPU writes it.

use std::time::Duration;

use anyhow::{ensure, Result};
use mirage::{lanes, Atomic, Load, Store};
use nix::sys::mman::MmapAdvise;

use crate::fixture::{ensure_eq, Mirror, Spinner, LIMIT};
use crate::harness::{guest_tests, rounds, skip, wait_until};
use crate::region::{Region, HUGE, PAGE};
use crate::sys::fork;

guest_tests![
    a_page_that_was_read_first_can_be_written_later,
    writing_a_page_of_zeros_does_not_write_the_zero_page,
    an_atomic_on_a_page_that_was_read_first_is_a_write,
    a_child_keeps_what_it_had_when_the_gpu_writes_after_the_fork,
    the_gpu_keeps_what_it_had_when_a_child_writes,
    a_child_keeps_its_huge_page_when_the_gpu_writes_after_the_fork,
    shared_memory_stays_shared_with_children,
    children_forked_under_gpu_work_see_a_memory_that_stands_still,
    merged_pages_part_when_the_gpu_writes_one,
];

const PAGES: usize = 48;

/// The first word of each page, as the GPU reads it.
fn gpu_words(mirror: &Mirror, region: &Region) -> Result<Vec<u64>> {
    let count = region.pages();
    let results = Region::anonymous((count * 8).next_multiple_of(PAGE))?;
    mirror.run(
        Load::new(region.lanes(0, PAGE)).results(results.results::<u64>(0)),
        lanes(count as u32),
    )?;
    Ok(results.words(0..count * 8))
}

fn gpu_write(mirror: &Mirror, region: &Region, value: u64) -> Result<()> {
    mirror.run(
        Store::new(region.lanes(0, PAGE), value),
        lanes(region.pages() as u32),
    )
}

fn a_page_that_was_read_first_can_be_written_later() -> Result<()> {
    let (mirror, region) = (Mirror::new()?, Region::anonymous(PAGES * PAGE)?);
    ensure_eq!(gpu_words(&mirror, &region)?, [0; PAGES]);
    gpu_write(&mirror, &region, 6)?;
    ensure_eq!(region.page_words(), [6; PAGES]);
    ensure_eq!(gpu_words(&mirror, &region)?, [6; PAGES]);
    Ok(())
}

fn writing_a_page_of_zeros_does_not_write_the_zero_page() -> Result<()> {
    let (mirror, written) = (Mirror::new()?, Region::anonymous(PAGES * PAGE)?);
    let others = [
        Region::anonymous(PAGES * PAGE)?,
        Region::anonymous(PAGES * PAGE)?,
    ];
    // All of them are mappings of the one zero page now, one by the GPU and one by the CPU.
    ensure_eq!(gpu_words(&mirror, &written)?, [0; PAGES]);
    ensure_eq!(gpu_words(&mirror, &others[0])?, [0; PAGES]);
    ensure_eq!(others[1].page_words(), [0; PAGES]);
    gpu_write(&mirror, &written, 1)?;
    ensure_eq!(others[0].page_words(), [0; PAGES]);
    ensure_eq!(others[1].page_words(), [0; PAGES]);
    ensure_eq!(gpu_words(&mirror, &others[0])?, [0; PAGES]);
    Ok(())
}

fn an_atomic_on_a_page_that_was_read_first_is_a_write() -> Result<()> {
    let (mirror, region) = (Mirror::new()?, Region::anonymous(PAGES * PAGE)?);
    ensure_eq!(gpu_words(&mirror, &region)?, [0; PAGES]);
    mirror.run(
        Atomic::add(region.lanes(0, PAGE), 2_u64),
        lanes(PAGES as u32),
    )?;
    ensure_eq!(region.page_words(), [2; PAGES]);
    Ok(())
}

/// Forks a child that waits until the GPU has written and then must find `before` in its own copy.
fn child_keeps(mirror: &Mirror, region: &Region, before: u64) -> Result<()> {
    let written = Region::shared(PAGE)?;
    let child = fork(|| {
        wait_until(LIMIT, || written.load(0) != 0)?;
        ensure!(
            region.page_words().iter().all(|&word| word == before),
            "the GPU wrote a page of the child"
        );
        Ok(())
    })?;
    gpu_write(mirror, region, before + 1)?;
    written.store(0, 1);
    child.join()?;
    ensure!(
        region.page_words().iter().all(|&word| word == before + 1),
        "the parent misses what its GPU wrote"
    );
    Ok(())
}

fn a_child_keeps_what_it_had_when_the_gpu_writes_after_the_fork() -> Result<()> {
    let (mirror, region) = (Mirror::new()?, Region::anonymous(PAGES * PAGE)?);
    // Mapped for writing on the GPU already when the fork comes.
    gpu_write(&mirror, &region, 10)?;
    (10..14).try_for_each(|before| child_keeps(&mirror, &region, before))
}

fn a_child_keeps_its_huge_page_when_the_gpu_writes_after_the_fork() -> Result<()> {
    let (mirror, region) = (Mirror::new()?, Region::huge_aligned(HUGE)?);
    if region.advise(0..HUGE, MmapAdvise::MADV_HUGEPAGE).is_err() {
        return skip("no transparent huge pages");
    }
    gpu_write(&mirror, &region, 10)?;
    child_keeps(&mirror, &region, 10)
}

fn the_gpu_keeps_what_it_had_when_a_child_writes() -> Result<()> {
    let (mirror, region) = (Mirror::new()?, Region::anonymous(PAGES * PAGE)?);
    gpu_write(&mirror, &region, 10)?;
    let child = fork(|| {
        region.fill(0..region.len(), 99);
        Ok(())
    })?;
    child.join()?;
    ensure_eq!(gpu_words(&mirror, &region)?, [10; PAGES]);
    Ok(())
}

fn shared_memory_stays_shared_with_children() -> Result<()> {
    let (mirror, region) = (Mirror::new()?, Region::shared(PAGES * PAGE)?);
    gpu_write(&mirror, &region, 10)?;
    let child = fork(|| wait_until(LIMIT, || region.page_words() == [11; PAGES]))?;
    gpu_write(&mirror, &region, 11)?;
    child.join()?;
    let child = fork(|| {
        region.fill(0..region.len(), 12);
        Ok(())
    })?;
    child.join()?;
    ensure_eq!(gpu_words(&mirror, &region)?, [12; PAGES]);
    Ok(())
}

fn children_forked_under_gpu_work_see_a_memory_that_stands_still() -> Result<()> {
    let (mirror, region) = (Mirror::new()?, Region::anonymous(PAGES * PAGE)?);
    let spinner = Spinner::over(&region)?;
    let job = spinner.start(&mirror.channel)?;
    for _ in 0..rounds(20) {
        spinner.wait_round(&region)?;
        let child = fork(|| {
            let first = region.page_words();
            std::thread::sleep(Duration::from_millis(10));
            ensure!(
                region.page_words() == first,
                "the GPU of the parent writes the child's memory"
            );
            Ok(())
        })?;
        // The parent's pages are read-only now, and the GPU still writes them.
        spinner.wait_round(&region)?;
        child.join()?;
    }
    spinner.finish(&job)
}

fn merged_pages_part_when_the_gpu_writes_one() -> Result<()> {
    if std::fs::write("/sys/kernel/mm/ksm/run", "1").is_err() {
        return skip("no KSM");
    }
    std::fs::write("/sys/kernel/mm/ksm/sleep_millisecs", "1")?;
    let (mirror, region) = (Mirror::new()?, Region::anonymous(PAGES * PAGE)?);
    region
        .advise(0..region.len(), MmapAdvise::MADV_NOHUGEPAGE)
        .or_else(|_| Ok::<_, anyhow::Error>(()))?;
    region.advise(0..region.len(), MmapAdvise::MADV_MERGEABLE)?;
    region.fill(0..region.len(), 0x1234_5678);
    gpu_write(&mirror, &region, 0x1234_5678)?;
    let merged = || std::fs::read_to_string("/proc/self/ksm_merging_pages").unwrap_or_default();
    let outcome = wait_until(Duration::from_secs(30), || {
        merged().trim().parse().unwrap_or(0) >= PAGES - 1
    });
    std::fs::write("/sys/kernel/mm/ksm/run", "0")?;
    if outcome.is_err() {
        return skip(format!("only {} pages were merged", merged().trim()));
    }
    mirror.run(Store::new(region.lanes(0, 0), 1_u64), lanes(1))?;
    ensure_eq!(region.load(0), 1);
    ensure!(
        region.page_words()[1..]
            .iter()
            .all(|&word| word == 0x1234_5678),
        "the GPU wrote a merged page"
    );
    Ok(())
}
