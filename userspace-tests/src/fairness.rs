// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who waits for whom: neither processes nor blocks of 2 MiB hold each other up.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{ensure, Result};
use mirage::{lanes, Gpu, Load, Store};
use nix::sys::mman::MmapAdvise;

use crate::fixture::{Mirror, LIMIT};
use crate::harness::{guest_tests, rounds, wait_until};
use crate::region::{Region, PAGE};
use crate::sys::fork;

guest_tests![
    a_quiet_process_makes_progress_beside_a_fault_storm in 300,
    distinct_blocks_of_one_process_are_served_side_by_side in 300,
];

/// Faults that a storm may have served for each one of a quiet process: two full batches for each of the workers of its address space, and
/// what the fault buffer holds.
const STORM_FAULTS_PER_QUIET_FAULT: u64 = 2 * 4 * 256 + 4096;

/// Pages of the storm: far more than a fault buffer has entries.
const STORM_PAGES: usize = 8192;

/// Faults without end. Half of the pages at a time, so that the compute engine is not the bottleneck.
fn storm(rounds_done: &Region) -> Result<()> {
    let (mirror, region) = (Mirror::new()?, Region::anonymous(STORM_PAGES * PAGE)?);
    loop {
        mirror.run(
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
    let before = mirror.counters()?;
    for value in 1..=quiet {
        page.advise(0..PAGE, MmapAdvise::MADV_DONTNEED)?;
        mirror.run(Store::new(page.lanes(0, PAGE), value), lanes(1))?;
        ensure!(page.load(0) == value, "the page holds {}", page.load(0));
    }
    let storm = mirror.counters()?.since(&before).get("faults");
    let running = storms.load(0);
    child.kill()?;
    println!("# {storm} faults in all during {quiet} of the quiet process, {running} rounds of the storm");
    ensure!(
        storm / quiet <= STORM_FAULTS_PER_QUIET_FAULT,
        "{storm} faults were served while the quiet process had {quiet}"
    );
    Ok(())
}

/// One thread of the CPU keeps taking a page away, so that its fault is served again and again; another block is
/// served meanwhile.
fn distinct_blocks_of_one_process_are_served_side_by_side() -> Result<()> {
    let mirror = Mirror::new()?;
    let (contended, other) = (
        Region::huge_aligned(2 << 20)?,
        Region::huge_aligned(2 << 20)?,
    );
    let (one, two) = (mirror.svm.channel()?, mirror.svm.channel()?);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let _ = contended.advise(0..contended.len(), MmapAdvise::MADV_DONTNEED);
            }
        });
        let result = (|| {
            for value in 1..=rounds(20) {
                let busy = one.launch(Load::<u64>::new(contended.lanes(0, PAGE)), lanes(512))?;
                other.advise(0..other.len(), MmapAdvise::MADV_DONTNEED)?;
                two.launch(Store::new(other.lanes(0, PAGE), value), lanes(512))?
                    .wait(LIMIT)?;
                ensure!(other.page_words().iter().all(|&word| word == value));
                busy.wait(LIMIT)?;
            }
            Ok(())
        })();
        stop.store(true, Ordering::Relaxed);
        result
    })
}
