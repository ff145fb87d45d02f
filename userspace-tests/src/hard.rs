// SPDX-License-Identifier: MIT OR Apache-2.0
//! What other drivers of this kind got wrong once (docs/testing.md has the list), as far as no other module shows it.

use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use mirage::{lanes, Access, Atomic, CopyBytes, Load, Reason, Store};
use nix::libc::O_NONBLOCK;
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags};

use crate::channels::still_works;
use crate::fixture::{ensure_eq, ensure_report, Mirror, LIMIT, LONG_LIMIT};
use crate::harness::{guest_tests, rounds};
use crate::region::{OldPlace, Region, HUGE, NEIGHBOURHOOD, PAGE, RW, WORD};
use crate::sys::fork;
use crate::work::{ensure_counts_from, ensure_words, gpu_reads, gpu_writes};

guest_tests![
    a_fault_gets_through_invalidations_without_end,
    a_fault_under_way_when_its_mapping_is_moved_does_not_get_the_old_page,
    a_fault_under_way_when_its_mapping_goes_is_refused_or_served_before,
    a_page_of_a_neighbourhood_that_was_given_up_is_let_go,
    an_address_that_was_refused_can_be_used_once_it_is_mapped,
    reads_next_to_writes_are_not_taken_for_writes,
    every_access_to_a_page_is_served_whatever_else_waits_for_it,
    memory_that_children_do_not_get_stays_with_the_gpu,
    memory_that_children_get_empty_stays_with_the_gpu,
    channels_that_fault_on_the_same_pages_are_all_served,
    mirrors_of_one_process_see_the_same_memory,
    refused_accesses_do_not_fill_the_kernel_log,
];

const PAGES: usize = 32;
const LEN: usize = PAGES * PAGE;

/// Each try of the driver to map a page is undone by a change of its neighbours, for as long as it takes.
fn a_fault_gets_through_invalidations_without_end() -> Result<()> {
    let (mirror, region) = (Mirror::new()?, Region::huge_aligned(HUGE)?);
    region.no_huge_pages();
    region.fill(HUGE / 2..HUGE, 1);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let storm = scope.spawn(|| {
            let mut changes = 0_u64;
            while !done.load(Ordering::Relaxed) {
                region.protect(HUGE / 2..HUGE, RW | ProtFlags::PROT_EXEC)?;
                region.protect(HUGE / 2..HUGE, RW)?;
                changes += 2;
            }
            anyhow::Ok(changes)
        });
        let begin = Instant::now();
        let outcome = (0..10).try_for_each(|round| {
            region.advise(0..LEN, MmapAdvise::MADV_DONTNEED)?;
            mirror.run(
                Store::new(region.lanes(0, PAGE), round + 1_u64),
                lanes(PAGES as u32),
            )?;
            ensure_words(
                &(0..PAGES)
                    .map(|page| region.load(page * PAGE))
                    .collect::<Vec<_>>(),
                |_| round + 1,
            )
        });
        done.store(true, Ordering::Relaxed);
        let changes = storm.join().ok().context("the storm panicked")??;
        println!("10 launches in {:?}, {changes} changes", begin.elapsed());
        outcome
    })
}

/// Pages that the GPU is about to touch for the first time change their place. What has moved must not change afterwards.
fn a_fault_under_way_when_its_mapping_is_moved_does_not_get_the_old_page() -> Result<()> {
    let mirror = Mirror::new()?;
    for round in 0..rounds(60) {
        let mut region = Region::anonymous(LEN)?;
        region.no_huge_pages();
        region.fill(0..LEN, 1);
        let job = mirror.channel.launch(
            Store::new(region.lanes(0, WORD), 1000 + round),
            lanes((LEN / WORD) as u32),
        )?;
        std::thread::sleep(Duration::from_micros(round * 30));
        let moved = region.relocate(0..LEN, OldPlace::Keep, false)?;
        let then = moved.words(0..LEN);
        job.wait(LIMIT)?;
        ensure!(
            moved.words(0..LEN) == then,
            "round {round}: the GPU wrote a page that had moved"
        );
        // Each word was written before the move, there, or after it, here.
        let here = region.words(0..LEN);
        ensure_words(&here, |i| if then[i] == 1 { 1000 + round } else { 0 })
            .with_context(|| format!("round {round}"))?;
    }
    Ok(())
}

fn a_fault_under_way_when_its_mapping_goes_is_refused_or_served_before() -> Result<()> {
    let mirror = Mirror::new()?;
    let (mut refused, mut served) = (0, 0);
    for round in 0..rounds(40) {
        let (mut region, channel) = (Region::anonymous(LEN)?, mirror.svm.channel()?);
        let inside = region.at(0).addr()..region.at(LEN).addr();
        let job = channel.launch(
            Store::new(region.lanes(0, PAGE), 1_u64),
            lanes(PAGES as u32),
        )?;
        std::thread::sleep(Duration::from_micros(round * 50));
        region.unmap(0..LEN)?;
        match job.wait(LIMIT) {
            Ok(()) => served += 1,
            Err(mirage::Error::Stopped { .. }) => {
                refused += 1;
                let report = mirror
                    .svm
                    .fault_events()
                    .try_next()?
                    .context("stopped without a report")?;
                ensure!(
                    inside.contains(&report.addr),
                    "{report}, outside of {inside:x?}"
                );
                ensure_eq!(
                    (report.access, report.reason),
                    (Access::Write, Reason::NoVma)
                );
            }
            Err(other) => return Err(other.into()),
        }
    }
    println!("{refused} refused, {served} served before");
    still_works(&mirror)
}

/// The driver keeps a bounded number of neighbourhoods. One that it has given up must not be mapped for the GPU any more, since nobody
/// would tell the driver when it changes.
fn a_page_of_a_neighbourhood_that_was_given_up_is_let_go() -> Result<()> {
    const COUNT: usize = 2200;
    const STRIDE: usize = NEIGHBOURHOOD;
    let (mirror, mut first) = (Mirror::new()?, Region::anonymous(LEN)?);
    gpu_writes(&mirror, &first, 7)?;
    let many = Region::map(
        COUNT * STRIDE,
        MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE,
    )?;
    many.no_huge_pages();
    let touch = Store::new(many.lanes(0, STRIDE), 1_u64);
    // More than a minute on a busy debug kernel: each page has a neighbourhood of its own.
    let job = mirror.channel.launch(touch, lanes(COUNT as u32))?;
    job.wait(LONG_LIMIT)?;
    let moved = first.relocate(0..LEN, OldPlace::Keep, false)?;
    gpu_writes(&mirror, &first, 1 << 32)?;
    ensure_counts_from(&first, 1 << 32)?;
    ensure_counts_from(&moved, 7)?;
    ensure_words(&gpu_reads(&mirror, &moved)?, |i| 7 + i as u64)
}

/// A refusal is for one access at one time: it leaves nothing behind at the address.
fn an_address_that_was_refused_can_be_used_once_it_is_mapped() -> Result<()> {
    let (mirror, mut region) = (Mirror::new()?, Region::anonymous(LEN)?);
    for round in 0..5 {
        region.unmap(0..LEN)?;
        for page in [0, 9, PAGES - 1] {
            let report =
                mirror.refused(Store::new(region.lanes(page * PAGE, 0), 1_u64), lanes(1))?;
            ensure_report(
                &report,
                region.at(page * PAGE),
                Access::Write,
                Reason::NoVma,
            )?;
        }
        region.fill_hole(0..LEN)?;
        gpu_writes(&mirror, &region, round)?;
        ensure_counts_from(&region, round)?;
        region.protect(0..LEN, ProtFlags::PROT_NONE)?;
        let report = mirror.refused(Load::<u64>::new(region.lanes(5 * PAGE, 0)), lanes(1))?;
        ensure_report(
            &report,
            region.at(5 * PAGE),
            Access::Read,
            Reason::Permission,
        )?;
        region.protect(0..LEN, RW)?;
        ensure_words(&gpu_reads(&mirror, &region)?, |i| round + i as u64)?;
    }
    Ok(())
}

/// Copies from memory that may not be written, all new to the GPU: each batch of faults has reads and writes of neighbouring pages.
fn reads_next_to_writes_are_not_taken_for_writes() -> Result<()> {
    let mirror = Mirror::new()?;
    for round in 0..4 {
        // Even pages are read-only, odd ones writable, in one block.
        let region = Region::anonymous(2 * LEN)?;
        region.no_huge_pages();
        (0..PAGES).for_each(|page| {
            region.fill(2 * page * PAGE..(2 * page + 1) * PAGE, page as u64 + round);
        });
        (0..PAGES).try_for_each(|page| {
            region.protect(2 * page * PAGE..(2 * page + 1) * PAGE, ProtFlags::PROT_READ)
        })?;
        let copy = CopyBytes::new(
            region.lanes(PAGE, 2 * PAGE),
            region.lanes(0, 2 * PAGE),
            PAGE as u64,
        );
        mirror.run(copy, lanes(PAGES as u32))?;
        ensure_words(&region.words(0..2 * LEN), |i| {
            (i * WORD / PAGE / 2) as u64 + round
        })?;
        // An atomic on an odd page in the batch does not make its neighbours' reads atomics either.
        mirror.run(
            Atomic::add(region.lanes(PAGE, 2 * PAGE), 1_u64),
            lanes(PAGES as u32),
        )?;
        ensure_words(&gpu_reads(&mirror, &region)?, |i| {
            let counted = i * WORD % (2 * PAGE) == PAGE;
            (i * WORD / PAGE / 2) as u64 + round + u64::from(counted)
        })?;
    }
    Ok(())
}

/// Reads, writes and atomics of different channels wait for the same new pages. The strongest right serves all of them.
fn every_access_to_a_page_is_served_whatever_else_waits_for_it() -> Result<()> {
    let mirror = Mirror::new()?;
    let channels = (0..3)
        .map(|_| mirror.svm.channel())
        .collect::<mirage::Result<Vec<_>>>()?;
    for round in 0..20 {
        let region = if round % 2 == 0 {
            Region::anonymous(LEN)?
        } else {
            Region::shared(LEN)?
        };
        let all = lanes(PAGES as u32);
        let jobs = [
            channels[0].launch(Load::<u64>::new(region.lanes(0, PAGE)), all)?,
            channels[1].launch(Store::new(region.lanes(WORD, PAGE), 3_u64), all)?,
            channels[2].launch(Atomic::add(region.lanes(2 * WORD, PAGE), 4_u64), all)?,
        ];
        jobs.iter().try_for_each(|job| job.wait(LIMIT))?;
        ensure_words(&region.words(0..LEN), |i| match i % (PAGE / WORD) {
            1 => 3,
            2 => 4,
            _ => 0,
        })?;
    }
    Ok(())
}

fn memory_that_children_do_not_get_stays_with_the_gpu() -> Result<()> {
    let (mirror, region) = (Mirror::new()?, Region::anonymous(LEN)?);
    gpu_writes(&mirror, &region, 1)?;
    region.advise(0..LEN, MmapAdvise::MADV_DONTFORK)?;
    for first in 2..6 {
        let job = mirror.channel.launch(
            Store::new(region.lanes(0, WORD), first).plus_lane(),
            lanes((LEN / WORD) as u32),
        )?;
        let child = fork(|| {
            // A byte of it cannot even be asked for.
            ensure!(region.resident().is_err(), "the child has the mapping");
            Ok(())
        })?;
        child.join()?;
        job.wait(LIMIT)?;
        ensure_counts_from(&region, first)?;
    }
    Ok(())
}

fn memory_that_children_get_empty_stays_with_the_gpu() -> Result<()> {
    let (mirror, region) = (Mirror::new()?, Region::anonymous(LEN)?);
    region.advise(0..LEN, MmapAdvise::MADV_WIPEONFORK)?;
    for first in 2..6 {
        let job = mirror.channel.launch(
            Store::new(region.lanes(0, WORD), first).plus_lane(),
            lanes((LEN / WORD) as u32),
        )?;
        fork(|| ensure_words(&region.words(0..LEN), |_| 0))?.join()?;
        job.wait(LIMIT)?;
        ensure_counts_from(&region, first)?;
    }
    Ok(())
}

fn channels_that_fault_on_the_same_pages_are_all_served() -> Result<()> {
    const CHANNELS: u64 = 6;
    let mirror = Mirror::new()?;
    let channels = (0..CHANNELS)
        .map(|_| mirror.svm.channel())
        .collect::<mirage::Result<Vec<_>>>()?;
    for _ in 0..10 {
        let region = Region::anonymous(LEN)?;
        let jobs = channels
            .iter()
            .map(|channel| {
                channel.launch(
                    Atomic::add(region.lanes(0, PAGE), 1_u64),
                    lanes(PAGES as u32),
                )
            })
            .collect::<mirage::Result<Vec<_>>>()?;
        // The CPU is one more.
        (0..PAGES).for_each(|page| region.store(page * PAGE + WORD, 9));
        jobs.iter().try_for_each(|job| job.wait(LIMIT))?;
        ensure_words(&region.words(0..LEN), |i| match i % (PAGE / WORD) {
            0 => CHANNELS,
            1 => 9,
            _ => 0,
        })?;
    }
    Ok(())
}

/// Each open file mirrors the process. An invalidation must reach all of them.
fn mirrors_of_one_process_see_the_same_memory() -> Result<()> {
    let (first, second, mut region) = (Mirror::new()?, Mirror::new()?, Region::anonymous(LEN)?);
    for round in 1..=rounds(9) {
        gpu_writes(&first, &region, round << 32)?;
        ensure_words(&gpu_reads(&second, &region)?, |i| (round << 32) + i as u64)?;
        second.run(
            Atomic::add(region.lanes(0, WORD), 1_u64),
            lanes((LEN / WORD) as u32),
        )?;
        ensure_words(&gpu_reads(&first, &region)?, |i| {
            (round << 32) + i as u64 + 1
        })?;
        region.map_over(0..LEN)?;
        ensure_words(&gpu_reads(&first, &region)?, |_| 0)?;
        ensure_words(&gpu_reads(&second, &region)?, |_| 0)?;
    }
    Ok(())
}

/// Anybody with a render node can make bad accesses. The log is for the administrator.
fn refused_accesses_do_not_fill_the_kernel_log() -> Result<()> {
    const BAD: usize = 100;
    let mirror = Mirror::new()?;
    let mut log = std::fs::File::options()
        .read(true)
        .custom_flags(O_NONBLOCK)
        .open("/dev/kmsg")
        .context("/dev/kmsg")?;
    // One record at a time; what was there before does not count.
    let mut ours = || {
        let (mut record, mut count) = ([0; 8192], 0);
        while let Ok(len) = log.read(&mut record) {
            count += usize::from(String::from_utf8_lossy(&record[..len]).contains("mirage"));
        }
        count
    };
    ours();
    for i in 0..BAD {
        let channel = mirror.svm.channel()?;
        let bad = mirage::GpuPtr::new(0x10 + 8 * i as u64);
        ensure!(
            channel
                .launch(Load::<u64>::new(bad.into()), lanes(1))?
                .wait(LIMIT)
                .is_err(),
            "a bad access passed"
        );
    }
    let lines = ours();
    ensure!(lines < BAD / 4, "{lines} lines for {BAD} bad accesses");
    still_works(&mirror)
}
