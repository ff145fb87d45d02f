// SPDX-License-Identifier: MIT OR Apache-2.0
//! What may happen to faults is counted, and is never fatal: the work is right all the same.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{ensure, Context, Result};
use fastrand::Rng;
use mirage::{copy, lanes, Access, Counters, GpuPtr, Load, Reason, Store};
use nix::sys::mman::MmapAdvise;

use crate::channels::still_works;
use crate::fixture::{ensure_eq, ensure_report, Mirror, LIMIT};
use crate::frozen::{file_blocks, Frozen, FROZEN};
use crate::harness::{guest_tests, wait_until};
use crate::kernel::Disk;
use crate::region::{Region, HUGE, PAGE, WORD};
use crate::work::{ensure_counts_from, ensure_words, gpu_reads, gpu_writes};

guest_tests![
    a_copy_engine_that_faults_is_resumed_each_time,
    a_bad_access_is_looked_at_twice_before_it_is_cancelled,
    an_invalidation_between_look_and_commit_is_a_retry in 300,
    faults_that_find_no_room_are_dropped_and_served_later in 300,
];

/// Tests of what only a device that is hard to please does (`mirage-tests --hard`).
pub(crate) mod hard_device {
    use super::*;

    guest_tests![overflows_old_packets_and_lost_interrupts_are_counted_and_never_fatal in 300];
}

/// How far a counter has gone since `before`.
fn counted(mirror: &Mirror, before: &Counters, name: &str) -> Result<u64> {
    Ok(mirror.counters()?.since(before).get(name))
}

fn a_copy_engine_that_faults_is_resumed_each_time() -> Result<()> {
    const LEN: usize = 4 * HUGE;
    let (mirror, channel) = {
        let mirror = Mirror::new()?;
        let channel = mirror.svm.copy_channel()?;
        (mirror, channel)
    };
    let (from, to) = (Region::huge_aligned(LEN)?, Region::huge_aligned(LEN)?);
    (0..LEN)
        .step_by(WORD)
        .for_each(|offset| from.store(offset, offset as u64));
    let before = mirror.counters()?;
    channel
        .run(copy::Linear::new(to.at(0), from.at(0), LEN as u64))?
        .wait(LIMIT)?;
    ensure_words(&to.words(0..LEN), |i| (i * WORD) as u64)?;
    // Nothing was mapped, and a fault brings in one block at most.
    let resumes = counted(&mirror, &before, "resumes")?;
    ensure!(resumes >= 8, "resumed {resumes} times for eight blocks");
    Ok(())
}

fn a_bad_access_is_looked_at_twice_before_it_is_cancelled() -> Result<()> {
    let mirror = Mirror::new()?;
    let before = mirror.counters()?;
    for addr in [0x5000, 0x9000, 0x5000] {
        let bad = GpuPtr::new(addr);
        let report = mirror.refused(Load::<u64>::new(bad.into()), lanes(1))?;
        ensure_report(&report, bad, Access::Read, Reason::NoVma)?;
    }
    let now = mirror.counters()?.since(&before);
    ensure!(now.get("second_looks") >= 3, "{now:?}");
    ensure_eq!((now.get("cancels"), now.get("channel_errors")), (3, 3));
    still_works(&mirror)
}

/// Neighbours of the page that is being mapped go away all the time.
fn an_invalidation_between_look_and_commit_is_a_retry() -> Result<()> {
    const ROUNDS: u64 = 2000;
    let (mirror, region) = (Mirror::new()?, Region::huge_aligned(HUGE)?);
    region.no_huge_pages();
    let (before, mut rng, done) = (
        mirror.counters()?,
        Rng::with_seed(4),
        AtomicBool::new(false),
    );
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                region.store(HUGE - PAGE, 1);
                let _ = region.advise(HUGE - PAGE..HUGE, MmapAdvise::MADV_DONTNEED);
            }
        });
        let outcome = (1..=ROUNDS).try_for_each(|round| {
            if counted(&mirror, &before, "retries")? > 0 {
                return Ok(());
            }
            let first = rng.usize(0..256);
            region.advise(0..HUGE / 2, MmapAdvise::MADV_DONTNEED)?;
            mirror.run(Store::new(region.lanes(first * PAGE, 0), round), lanes(1))?;
            ensure_eq!(region.load(first * PAGE), round);
            Ok(())
        });
        done.store(true, Ordering::Relaxed);
        outcome
    })?;
    let retries = counted(&mirror, &before, "retries")?;
    ensure!(retries > 0, "no retry in {ROUNDS} faults");
    Ok(())
}

/// The workers are held up while the watchdog has the accesses tried again and again: more packets than the queue takes.
fn faults_that_find_no_room_are_dropped_and_served_later() -> Result<()> {
    const BLOCKS: usize = 4;
    const PAGES: usize = BLOCKS * 64;
    let (disk, mirror) = (Disk::new()?, Mirror::new()?);
    let blocked = file_blocks(&disk, BLOCKS)?;
    // What is allocated while the disk is frozen has room.
    drop(std::hint::black_box(vec![1_u8; 64 << 10]));
    let before = mirror.counters()?;
    let frozen = Frozen::new(&disk)?;
    let stride = blocked.len() / PAGES;
    let job = mirror.channel.launch(
        Store::new(blocked.lanes(0, stride), 7_u64),
        lanes(PAGES as u32),
    )?;
    let dropped = || counted(&mirror, &before, "dropped_faults").is_ok_and(|count| count > 0);
    wait_until(FROZEN / 2, dropped).context("every fault found room")?;
    ensure!(!job.is_done(), "the blocks were served too early");
    frozen.thaw()?;
    job.wait(LIMIT)?;
    ensure!((0..PAGES).all(|page| blocked.load(page * stride) == 7));
    still_works(&mirror)
}

/// Faults without number, until everything has happened.
fn overflows_old_packets_and_lost_interrupts_are_counted_and_never_fatal() -> Result<()> {
    const NAMES: [&str; 3] = ["overflows", "stale_faults", "watchdog_kicks"];
    const LEN: usize = 512 * PAGE;
    let (mirror, region) = (Mirror::new()?, Region::huge_aligned(LEN)?);
    region.no_huge_pages();
    let before = mirror.counters()?;
    let happened = || -> Result<bool> {
        let now = mirror.counters()?.since(&before);
        Ok(NAMES.iter().all(|name| now.get(name) > 0))
    };
    let mut round = 0;
    while !happened()? {
        ensure!(
            round < 300,
            "after {round} rounds: {:?}",
            mirror.counters()?.since(&before)
        );
        region.advise(0..LEN, MmapAdvise::MADV_DONTNEED)?;
        gpu_writes(&mirror, &region, round)?;
        ensure_counts_from(&region, round)?;
        ensure_words(&gpu_reads(&mirror, &region)?, |i| round + i as u64)?;
        round += 1;
    }
    println!("everything had happened after {round} rounds");
    ensure_eq!(counted(&mirror, &before, "channel_errors")?, 0);
    still_works(&mirror)
}
