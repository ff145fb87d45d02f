// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who waits for whom: neither processes nor blocks of 2 MiB hold each other up.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{ensure, Context, Result};
use mirage::{lanes, Gpu, Job, Load, Store};
use nix::sys::mman::MmapAdvise;

use crate::channels::still_works;
use crate::fixture::{ensure_eq, Mirror, LIMIT, LONG_LIMIT};
use crate::frozen::{file_blocks, Frozen, FROZEN};
use crate::harness::{guest_tests, rounds, wait_until};
use crate::kernel::Disk;
use crate::region::{Region, HUGE, NEIGHBOURHOOD, PAGE};
use crate::sys::fork;

guest_tests![
    a_quiet_process_makes_progress_beside_a_fault_storm,
    distinct_blocks_of_one_process_are_served_side_by_side,
    a_process_whose_pages_cannot_be_had_holds_up_no_other,
    a_block_that_is_taken_away_all_the_time_holds_up_no_other in 900,
];

/// Faults that a storm may have served for one of a quiet process (docs/testing.md): what its address space has in hand,
/// which is a full queue and a batch for each worker (driver/svm/pending.rs), and a batch of packets being read (driver/fault.rs).
const STORM_FAULTS_PER_QUIET_FAULT: u64 = 1024 + WORKERS * 256 + 256;

/// Workers of an address space (driver/svm/pending.rs).
const WORKERS: u64 = 4;

/// Pages of the storm: far more than a fault buffer has entries.
const STORM_PAGES: usize = 8192;

/// Faults without end. Half of the pages at a time, so that the compute engine is not the bottleneck.
fn storm(rounds_done: &Region) -> Result<()> {
    let (mirror, region) = (Mirror::new()?, Region::anonymous(STORM_PAGES * PAGE)?);
    loop {
        mirror.run_long(
            Store::new(region.lanes(0, PAGE), 1_u64),
            lanes(STORM_PAGES as u32),
        )?;
        region.advise(0..region.len(), MmapAdvise::MADV_DONTNEED)?;
        rounds_done.store(0, rounds_done.load(0) + 1);
    }
}

fn a_quiet_process_makes_progress_beside_a_fault_storm() -> Result<()> {
    let quiet = rounds(50);
    let storms = Region::shared(PAGE)?;
    let child = fork(|| storm(&storms))?;
    let gpu = Gpu::open()?;
    let faults = gpu.counters()?.get("faults");
    wait_until(LIMIT, || {
        gpu.counters()
            .is_ok_and(|now| now.get("faults") > faults + STORM_PAGES as u64 / 2)
    })?;

    let (mirror, page) = (Mirror::new()?, Region::anonymous(PAGE)?);
    let faults = || gpu.counters().map(|now| now.get("faults"));
    let mut served = Vec::new();
    for value in 1..=quiet {
        page.advise(0..PAGE, MmapAdvise::MADV_DONTNEED)?;
        // The storm goes on.
        let last = faults()?;
        wait_until(LIMIT, || faults().is_ok_and(|now| now > last)).context("the storm is over")?;
        let begin = faults()?;
        mirror.run(Store::new(page.lanes(0, PAGE), value), lanes(1))?;
        served.push(faults()? - begin);
        ensure!(page.load(0) == value, "the page holds {}", page.load(0));
    }
    served.sort_unstable();
    let median = served[served.len() / 2];
    println!(
        "{median} faults for one of the quiet process, at most {:?}; {} rounds of the storm",
        served.last(),
        storms.load(0)
    );
    child.kill()?;
    ensure!(
        median <= STORM_FAULTS_PER_QUIET_FAULT,
        "{median} faults were served for one of the quiet process"
    );
    Ok(())
}

/// All workers of one process are held up, and faults wait for them; another process is served meanwhile.
fn a_process_whose_pages_cannot_be_had_holds_up_no_other() -> Result<()> {
    const BLOCKS: usize = 12;
    let (disk, step) = (Disk::new()?, Region::shared(PAGE)?);
    let (blocked, others) = (file_blocks(&disk, BLOCKS)?, Region::huge_aligned(8 * HUGE)?);
    let frozen = Frozen::new(&disk)?;
    let child = fork(|| {
        let mirror = Mirror::new()?;
        let job = write_blocks(&mirror, &blocked, WORKERS)?;
        step.store(0, 1);
        wait_until(LIMIT, || step.load(0) == 2)?;
        ensure!(!job.is_done(), "the blocks were served too early");
        step.store(0, 3);
        job.wait(LIMIT)?;
        ensure!((0..BLOCKS).all(|block| blocked.load(block * HUGE) == 7));
        still_works(&mirror)
    })?;
    wait_until(LIMIT, || step.load(0) == 1).context("the child does not begin")?;
    let mirror = Mirror::new()?;
    for at in (0..others.len()).step_by(HUGE) {
        let job = mirror
            .channel
            .launch(Store::new(others.lanes(at, PAGE), 5_u64), lanes(64))?;
        job.wait(FROZEN / 2)
            .context("the other process holds this one up")?;
    }
    step.store(0, 2);
    wait_until(LIMIT, || step.load(0) == 3)?;
    frozen.thaw()?;
    child.join()
}

/// Has the GPU write to each block, and waits until the driver has begun to serve `count` of them.
fn write_blocks(mirror: &Mirror, blocks: &Region, count: u64) -> Result<Job> {
    let before = mirror.counters()?.get("batches");
    let job = mirror.channel.launch(
        Store::new(blocks.lanes(0, HUGE), 7_u64),
        lanes((blocks.len() / HUGE) as u32),
    )?;
    let begun = || {
        let now = mirror.counters();
        now.is_ok_and(|now| now.get("batches") >= before + count)
    };
    wait_until(LIMIT, begun).context("nobody serves the blocks")?;
    Ok(job)
}

/// Each block of `others` is written for the first time, and must be served while `busy` is not.
fn ensure_others_are_served(mirror: &Mirror, others: &Region, busy: &Job) -> Result<()> {
    let channel = mirror.svm.channel()?;
    for at in (0..others.len()).step_by(HUGE) {
        let job = channel.launch(Store::new(others.lanes(at, PAGE), 5_u64), lanes(64))?;
        job.wait(FROZEN / 2).context("another block is held up")?;
        ensure_eq!((others.load(at), others.load(at + 63 * PAGE)), (5, 5));
    }
    ensure!(!busy.is_done(), "the block was served too early");
    Ok(())
}

/// One block is being served, and stays so; all others are served meanwhile.
fn distinct_blocks_of_one_process_are_served_side_by_side() -> Result<()> {
    let disk = Disk::new()?;
    let (blocked, others) = (file_blocks(&disk, 1)?, Region::huge_aligned(8 * HUGE)?);
    let mirror = Mirror::new()?;
    // What is allocated while the disk is frozen has room.
    drop(std::hint::black_box(vec![1_u8; 64 << 10]));
    let frozen = Frozen::new(&disk)?;
    let busy = write_blocks(&mirror, &blocked, 1)?;
    ensure_others_are_served(&mirror, &others, &busy)?;
    frozen.thaw()?;
    busy.wait(LIMIT)?;
    ensure_eq!(blocked.load(0), 7);
    still_works(&mirror)
}

/// One thread of the CPU keeps taking a block away, so that its faults are served again and again, until another block has been served.
fn a_block_that_is_taken_away_all_the_time_holds_up_no_other() -> Result<()> {
    let mirror = Mirror::new()?;
    // In neighbourhoods of their own: what is taken away undoes work on all of one.
    let (contended, other) = (0..HUGE, 2 * NEIGHBOURHOOD..2 * NEIGHBOURHOOD + HUGE);
    let region = Region::huge_aligned(other.end)?;
    let (one, two) = (mirror.svm.channel()?, mirror.svm.channel()?);
    let (stop, pause) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                if pause.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(1));
                    continue;
                }
                let _ = region.advise(contended.clone(), MmapAdvise::MADV_DONTNEED);
            }
        });
        let result = (|| {
            for value in 1..=rounds(20) {
                let busy = one.launch(
                    Load::<u64>::new(region.lanes(contended.start, PAGE)),
                    lanes(512),
                )?;
                region.advise(other.clone(), MmapAdvise::MADV_DONTNEED)?;
                two.launch(
                    Store::new(region.lanes(other.start, PAGE), value),
                    lanes(512),
                )?
                .wait(LONG_LIMIT)
                .context("the other block is held up")?;
                ensure!(other
                    .clone()
                    .step_by(PAGE)
                    .all(|at| region.load(at) == value));
                // Nothing bounds how often it is served in vain before that.
                pause.store(true, Ordering::Relaxed);
                busy.wait(LONG_LIMIT)
                    .context("the block that was taken away is not served")?;
                pause.store(false, Ordering::Relaxed);
            }
            Ok(())
        })();
        stop.store(true, Ordering::Relaxed);
        result
    })
}
