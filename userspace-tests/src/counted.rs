// SPDX-License-Identifier: MIT OR Apache-2.0
//! What may happen to faults is counted, and is never fatal: the work is right all the same.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{ensure, Context, Result};
use mirage::{
    copy, lanes, Access, Announce, Atomic, Counters, GpuPtr, Load, PushBuffer, Reason, Store,
    Subchannel,
};
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags};

use crate::channels::still_works;
use crate::fixture::{ensure_eq, ensure_report, Mirror, LIMIT};
use crate::frozen::{file_blocks, Frozen, FROZEN};
use crate::harness::{guest_tests, wait_until};
use crate::kernel::Disk;
use crate::region::{Region, HUGE, PAGE, RW};
use crate::work::{ensure_counts_from, ensure_words, gpu_reads, gpu_writes};

guest_tests![
    a_copy_engine_that_faults_is_resumed_each_time,
    a_bad_access_is_looked_at_twice_before_it_is_cancelled,
    an_invalidation_between_look_and_commit_is_a_retry in 1200,
    packets_of_one_page_are_counted_as_duplicates,
    faults_that_find_no_room_are_dropped_and_served_later,
];

/// Tests of what only a device that is hard to please does (`mirage-tests --hard`).
pub(crate) mod hard_device {
    use super::*;

    guest_tests![
        overflows_old_packets_and_lost_interrupts_are_counted_and_never_fatal,
        faults_of_copy_engines_and_hosts_that_are_lost_come_again in 600,
    ];
}

/// How far a counter has gone since `before`.
fn counted(mirror: &Mirror, before: &Counters, name: &str) -> Result<u64> {
    Ok(mirror.counters()?.since(before).get(name))
}

/// A page of each block, from memory that the GPU has not seen to memory that nobody has touched.
fn a_copy_engine_that_faults_is_resumed_each_time() -> Result<()> {
    const BLOCKS: usize = 8;
    let mirror = Mirror::new()?;
    let channel = mirror.svm.copy_channel()?;
    let (from, to) = (
        Region::huge_aligned(BLOCKS * HUGE)?,
        Region::huge_aligned(BLOCKS * HUGE)?,
    );
    [&from, &to].map(Region::no_huge_pages);
    let page_of = |block: usize| block * HUGE..block * HUGE + PAGE;
    (0..BLOCKS).for_each(|block| from.fill(page_of(block), 1 + block as u64));
    let before = mirror.counters()?;
    channel
        .run(copy::Rectangle::new(
            to.lanes(0, HUGE),
            from.lanes(0, HUGE),
            PAGE as u64,
            BLOCKS as u64,
        ))?
        .wait(LIMIT)?;
    for block in 0..BLOCKS {
        ensure_words(&to.words(page_of(block)), |_| 1 + block as u64)?;
    }
    // A fault brings in one block at most, so the engine has stopped for each of them.
    let resumes = counted(&mirror, &before, "resumes")?;
    ensure!(resumes >= BLOCKS as u64, "resumed {resumes} times");
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

/// The pages that are being mapped are taken away all the time, until a retry was counted. Returns how often each page was added 1 to.
pub(crate) fn provoke_retry(mirror: &Mirror, region: &Region) -> Result<u64> {
    const ROUNDS: u64 = 2000;
    let (before, done) = (mirror.counters()?, AtomicBool::new(false));
    let mut launches = 0;
    std::thread::scope(|scope| {
        let storm = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                region.protect(0..region.len(), RW | ProtFlags::PROT_EXEC)?;
                region.protect(0..region.len(), RW)?;
            }
            anyhow::Ok(())
        });
        let mut count = || -> Result<()> {
            while launches < ROUNDS && counted(mirror, &before, "retries")? == 0 {
                let add = Atomic::add(region.lanes(0, PAGE), 1_u64);
                mirror.run(add, lanes(region.pages() as u32))?;
                launches += 1;
            }
            Ok(())
        };
        let outcome = count();
        done.store(true, Ordering::Relaxed);
        storm.join().ok().context("the storm panicked")??;
        outcome
    })?;
    println!("a retry within {launches} launches");
    let retries = counted(mirror, &before, "retries")?;
    ensure!(retries > 0, "no retry in {ROUNDS} launches");
    Ok(launches)
}

/// The pages keep what they hold.
fn an_invalidation_between_look_and_commit_is_a_retry() -> Result<()> {
    let (mirror, region) = (Mirror::new()?, Region::anonymous(64 * PAGE)?);
    region.no_huge_pages();
    region.fill(0..region.len(), 0);
    let launches = provoke_retry(&mirror, &region)?;
    ensure_words(&region.page_words(), |_| launches)
}

/// Hints do not wait, so all that come before the page is there are packets.
fn packets_of_one_page_are_counted_as_duplicates() -> Result<()> {
    const ROUNDS: usize = 10;
    const PATIENCE: Duration = Duration::from_secs(5);
    let (mirror, region) = (Mirror::new()?, Region::anonymous(PAGE)?);
    region.no_huge_pages();
    let before = mirror.counters()?;
    let duplicates = || counted(&mirror, &before, "duplicates").is_ok_and(|count| count > 0);
    for _ in 0..ROUNDS {
        region.advise(0..PAGE, MmapAdvise::MADV_DONTNEED)?;
        mirror.run(Announce::new(region.lanes(0, 0)), lanes(8))?;
        if wait_until(PATIENCE, duplicates).is_ok() {
            return still_works(&mirror);
        }
    }
    anyhow::bail!("{:?}", mirror.counters()?.since(&before))
}

/// The workers are held up, and more pages of one block are asked for than it may have in the queue meanwhile.
fn faults_that_find_no_room_are_dropped_and_served_later() -> Result<()> {
    const BLOCKS: usize = 4;
    const PAGES: usize = BLOCKS * 512;
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
    const NAMES: [&str; 4] = ["overflows", "stale_faults", "duplicates", "watchdog_kicks"];
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

/// Waits at a semaphore until `word` is `value`, or releases it with that.
fn semaphore(push: &mut PushBuffer, word: GpuPtr, value: u64, operation: u32) {
    const SEM_ADDR_LO: u16 = 0x5c;
    let addr = word.addr();
    let (low, high) = (addr as u32, (addr >> 32) as u32);
    push.methods(
        Subchannel(0),
        SEM_ADDR_LO,
        &[low, high, value as u32, 0, operation],
    );
}

/// Channels begin at once, and each faults in a block of its own: half of them in a copy, half of them in a method of host.
fn faults_of_copy_engines_and_hosts_that_are_lost_come_again() -> Result<()> {
    const EACH: usize = 20;
    const ROUNDS: u64 = 100;
    const OVERFLOWS: u64 = 4;
    const ACQUIRE: u32 = 0;
    const RELEASE: u32 = 1;
    let mirror = Mirror::new()?;
    // Host reaches 40 bits.
    let low = |len| Region::map(len, MapFlags::MAP_PRIVATE | MapFlags::MAP_32BIT);
    let (gate, words) = (low(PAGE)?, low(EACH * HUGE)?);
    let (from, to) = (
        Region::huge_aligned(EACH * HUGE)?,
        Region::anonymous(EACH * PAGE)?,
    );
    [&words, &from, &to].map(Region::no_huge_pages);
    let copiers = (0..EACH)
        .map(|_| mirror.svm.copy_channel())
        .collect::<mirage::Result<Vec<_>>>()?;
    let hosts = (0..EACH)
        .map(|_| mirror.svm.channel())
        .collect::<mirage::Result<Vec<_>>>()?;
    // What does not fault: one lost packet is to leave a copy without any.
    gate.store(0, 0);
    mirror.run(Load::<u64>::new(gate.lanes(0, 0)), lanes(1))?;
    mirror.run(Store::new(to.lanes(0, PAGE), 0_u64), lanes(EACH as u32))?;
    let before = mirror.counters()?;
    let mut round = 0;
    while counted(&mirror, &before, "overflows")? < OVERFLOWS {
        round += 1;
        ensure!(
            round <= ROUNDS,
            "in {ROUNDS} rounds: {:?}",
            mirror.counters()?.since(&before)
        );
        words.advise(0..words.len(), MmapAdvise::MADV_DONTNEED)?;
        from.advise(0..from.len(), MmapAdvise::MADV_DONTNEED)?;
        (0..EACH).for_each(|i| from.store(i * HUGE, (round << 32) | i as u64));
        let mut jobs = Vec::new();
        for (i, (copier, host)) in copiers.iter().zip(&hosts).enumerate() {
            let mut push = copier.push_buffer();
            semaphore(&mut push, gate.at(0), round, ACQUIRE);
            push.run(&copy::Linear::new(to.at(i * PAGE), from.at(i * HUGE), 8))?;
            jobs.push(copier.submit(&push)?);
            let mut push = host.push_buffer();
            semaphore(&mut push, gate.at(0), round, ACQUIRE);
            semaphore(&mut push, words.at(i * HUGE), round, RELEASE);
            jobs.push(host.submit(&push)?);
        }
        gate.store(0, round);
        jobs.iter()
            .try_for_each(|job| job.wait(LIMIT))
            .with_context(|| {
                let now = mirror.counters().map(|now| now.since(&before));
                format!("round {round}: {now:?}")
            })?;
        ensure_words(&to.page_words(), |i| (round << 32) | i as u64)?;
        ensure!((0..EACH).all(|i| words.load(i * HUGE) == round));
    }
    println!("{:?} in {round} rounds", mirror.counters()?.since(&before));
    ensure_eq!(counted(&mirror, &before, "channel_errors")?, 0);
    still_works(&mirror)
}
