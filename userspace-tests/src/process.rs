// SPDX-License-Identifier: MIT OR Apache-2.0
//! Processes: several at once, and their sudden ends.

use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::Duration;

use anyhow::{ensure, Context, Result};
use fastrand::Rng;
use mirage::{lanes, Atomic, Store};
use nix::sys::mman::MmapAdvise;
use nix::sys::signal::Signal;

use crate::channels::still_works;
use crate::fixture::{ensure_eq, Mirror, Spinner, LIMIT, LONG_LIMIT};
use crate::harness::{guest_tests, rounds, wait_until};
use crate::kernel::Cgroup;
use crate::region::{Region, PAGE, WORD};
use crate::sys::fork;

guest_tests![
    two_processes_at_the_same_addresses_do_not_mix,
    a_process_may_exit_with_work_in_flight,
    a_process_may_become_another_program_with_work_in_flight,
    a_process_may_be_killed_again_and_again_during_faults in 600,
    a_file_that_outlives_its_process_does_no_harm,
    memory_of_a_process_killed_for_want_of_memory_can_be_reaped in 900,
];

/// Parent and child work on the same virtual addresses, each on its own memory and through its own file.
fn two_processes_at_the_same_addresses_do_not_mix() -> Result<()> {
    const ROUNDS: u64 = 100;
    let region = Region::anonymous(64 * PAGE)?;
    let work = |step: u64| -> Result<()> {
        let mirror = Mirror::new()?;
        for _ in 0..ROUNDS {
            mirror.run(Atomic::add(region.lanes(0, WORD), step), lanes(64 * 512))?;
        }
        let wrong = region
            .words(0..region.len())
            .into_iter()
            .find(|&word| word != step * ROUNDS);
        ensure_eq!(wrong, None);
        Ok(())
    };
    let child = fork(|| work(1))?;
    work(1_000_000)?;
    child.join()
}

fn a_process_may_exit_with_work_in_flight() -> Result<()> {
    let started = Region::shared(PAGE)?;
    for round in 1..=rounds(20) {
        let child = fork(|| {
            let (mirror, values) = (Mirror::new()?, Region::anonymous(64 * PAGE)?);
            let spinner = Spinner::over(&values)?;
            let job = spinner.start(&mirror.channel)?;
            spinner.wait_round(&values)?;
            started.store(0, round);
            // The process ends without freeing anything.
            std::mem::forget((mirror, job, values, spinner));
            Ok(())
        })?;
        child.join()?;
        ensure_eq!(started.load(0), round);
    }
    still_works(&Mirror::new()?)
}

/// execve takes the address space away first and closes the file later. What the process shared with others stays, and the GPU
/// leaves it alone, while the new program runs.
fn a_process_may_become_another_program_with_work_in_flight() -> Result<()> {
    const QUIET: Duration = Duration::from_millis(50);
    for _ in 0..rounds(10) {
        let values = Region::shared(64 * PAGE)?;
        let child = fork(|| {
            let mirror = Mirror::new()?;
            let spinner = Spinner::over(&values)?;
            let _job = spinner.start(&mirror.channel)?;
            spinner.wait_round(&values)?;
            Err(Command::new("sleep").arg("3600").exec()).context("execve")
        })?;
        let pid = child.pid().context("nobody reaped it")?;
        let name = || std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        wait_until(LIMIT, || name() == "sleep\n").context("no new program")?;
        let mut before = None;
        wait_until(LIMIT, || {
            std::thread::sleep(QUIET);
            let now = Some(values.words(0..values.len()));
            std::mem::replace(&mut before, now.clone()) == now
        })
        .context("the GPU goes on writing")?;
        ensure_eq!(name(), "sleep\n");
        child.kill()?;
    }
    still_works(&Mirror::new()?)
}

/// Faults without end: a launch over pages that are given back all the time.
fn fault_for_ever(started: &Region) -> Result<()> {
    let (mirror, region) = (Mirror::new()?, Region::anonymous(1024 * PAGE)?);
    let other = mirror.svm.channel()?;
    loop {
        let jobs = [&mirror.channel, &other]
            .map(|channel| channel.launch(Store::new(region.lanes(0, PAGE), 1_u64), lanes(1024)));
        started.store(0, started.load(0) + 1);
        region.advise(0..region.len(), MmapAdvise::MADV_DONTNEED)?;
        for job in jobs {
            job?.wait(LIMIT)?;
        }
    }
}

fn a_process_may_be_killed_again_and_again_during_faults() -> Result<()> {
    let (started, mut rng) = (Region::shared(PAGE)?, Rng::with_seed(9));
    for round in 0..rounds(100) {
        started.store(0, 0);
        let child = fork(|| fault_for_ever(&started))?;
        wait_until(LIMIT, || started.load(0) > 0).context("the child does not begin")?;
        std::thread::sleep(Duration::from_micros(rng.u64(0..20_000)));
        child.kill().with_context(|| format!("round {round}"))?;
    }
    // Channels, memory and the device came back from all of them.
    let mirror = Mirror::new()?;
    let channels = (0..8)
        .map(|_| mirror.svm.channel())
        .collect::<mirage::Result<Vec<_>>>()?;
    drop(channels);
    still_works(&mirror)
}

/// The address space dies with its process; a child that has inherited the file keeps the rest alive.
fn a_file_that_outlives_its_process_does_no_harm() -> Result<()> {
    let flags = Region::shared(PAGE)?;
    let (started, release, released) = (0, WORD, 2 * WORD);
    for round in 1..=rounds(10) {
        let owner = fork(|| {
            let (mirror, values) = (Mirror::new()?, Region::anonymous(64 * PAGE)?);
            let spinner = Spinner::over(&values)?;
            let job = spinner.start(&mirror.channel)?;
            spinner.wait_round(&values)?;
            let holder = fork(|| {
                flags.store(started, round);
                wait_until(LIMIT, || flags.load(release) == round)?;
                drop((job, mirror));
                flags.store(released, round);
                Ok(())
            })?;
            std::mem::forget(holder);
            loop {
                std::thread::sleep(LIMIT);
            }
        })?;
        wait_until(LIMIT, || flags.load(started) == round).context("the child does not begin")?;
        owner.kill()?;
        // The work of the dead process hangs on a file that is still open. Nobody else minds.
        still_works(&Mirror::new()?)?;
        flags.store(release, round);
        wait_until(LIMIT, || flags.load(released) == round).context("the file cannot be closed")?;
    }
    still_works(&Mirror::new()?)
}

/// The GPU allocates until the kernel kills the process. The reaper then takes the memory away while the GPU still works on it,
/// and may not sleep meanwhile.
fn memory_of_a_process_killed_for_want_of_memory_can_be_reaped() -> Result<()> {
    const LIMIT_BYTES: usize = 64 << 20;
    let group = Cgroup::new(LIMIT_BYTES, 0)?;
    let times = rounds(5);
    for _ in 0..times {
        let child = fork(|| {
            group.join()?;
            let (mirror, region) = (Mirror::new()?, Region::anonymous(4 * LIMIT_BYTES)?);
            let pages = lanes(region.pages() as u32);
            let job = mirror
                .channel
                .launch(Store::new(region.lanes(0, PAGE), 1_u64), pages)?;
            job.wait(LONG_LIMIT)?;
            anyhow::bail!("four times the limit was allocated")
        })?;
        ensure_eq!(child.killed_by()?, Signal::SIGKILL);
        still_works(&Mirror::new()?)?;
    }
    let killed = group.number("memory.events", "oom_kill ")?;
    ensure!(killed >= times, "the kernel killed {killed} of {times}");
    Ok(())
}
