// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pages that the program itself supplies. Kernels from 7.3 on let a device wait for it; on older ones the access is refused. The
//! driver says which, and is held to that.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{ensure, Context, Result};
use mirage::{lanes, Access, Atomic, Gpu, Load, Reason, Store};

use crate::fixture::{ensure_eq, ensure_report, Mirror, Spinner, LIMIT};
use crate::harness::{guest_tests, wait_until};
use crate::introspect::is_listed;
use crate::kernel::at_least;
use crate::region::{Region, PAGE, WORD};
use crate::sys::{fork, Child, Userfault, Watch};
use crate::work::{ensure_words, gpu_reads};

guest_tests![
    the_driver_says_whether_the_kernel_lets_it_wait,
    a_page_that_the_program_supplies_is_waited_for_or_refused,
    a_page_that_the_program_has_supplied_is_shared_with_the_gpu,
    a_page_that_the_program_write_protects_is_waited_for_or_refused,
    a_write_protected_page_does_not_change_under_the_gpu,
    a_process_can_be_killed_while_the_gpu_waits_for_its_page,
    a_process_that_watched_its_pages_first_can_be_killed_while_the_gpu_waits,
    a_killed_process_does_not_wait_for_who_supplies_its_pages,
];

/// What the process that holds a descriptor is told, and says when it has let go.
const RELEASED: u64 = 1;
const GIVEN_UP: u64 = 2;

const PAGES: usize = 16;
const LEN: usize = PAGES * PAGE;

fn small_pages() -> Result<Region> {
    let region = Region::anonymous(LEN)?;
    region.no_huge_pages();
    Ok(region)
}

/// What every page is supplied with.
fn supply() -> Result<Region> {
    let page = Region::anonymous(PAGE)?;
    page.fill(0..PAGE, 0xabc);
    Ok(page)
}

/// Runs `work` while another thread hands every fault to `answer`; returns how many there were.
fn answering<T>(
    faults: &Userfault,
    answer: impl Fn(u64) -> Result<()> + Sync,
    work: impl FnOnce() -> Result<T>,
) -> Result<(T, u64)> {
    let (done, answered) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                match faults.next()? {
                    Some(page) => {
                        answer(page)?;
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                    None => std::thread::sleep(Duration::from_micros(200)),
                }
            }
            anyhow::Ok(())
        });
        let outcome = work();
        done.store(true, Ordering::Relaxed);
        thread
            .join()
            .expect("the answering thread does not panic")?;
        Ok((outcome?, answered.load(Ordering::Relaxed)))
    })
}

fn the_driver_says_whether_the_kernel_lets_it_wait() -> Result<()> {
    ensure_eq!(Gpu::open()?.features()?.userfaultfd(), at_least(7, 3)?);
    Ok(())
}

fn a_page_that_the_program_supplies_is_waited_for_or_refused() -> Result<()> {
    let (mirror, region, page) = (Mirror::new()?, small_pages()?, supply()?);
    let faults = Userfault::on(&region, Watch::Missing)?;
    if !mirror.gpu.features()?.userfaultfd() {
        let report = mirror.refused(Load::<u64>::new(region.lanes(2 * PAGE, 0)), lanes(1))?;
        ensure_report(&report, region.at(2 * PAGE), Access::Read, Reason::Bus)?;
        let report = mirror.refused(Store::new(region.lanes(3 * PAGE, 0), 1_u64), lanes(1))?;
        return ensure_report(&report, region.at(3 * PAGE), Access::Write, Reason::Bus);
    }
    let ((), answered) = answering(
        &faults,
        |at| faults.supply(at, &page),
        || {
            mirror.run(
                Atomic::add(region.lanes(0, PAGE), 1_u64),
                lanes(PAGES as u32),
            )
        },
    )?;
    ensure!(answered >= PAGES as u64, "{answered} pages were asked for");
    ensure_words(&region.words(0..LEN), |i| {
        0xabc + u64::from(i * WORD % PAGE == 0)
    })
}

fn a_page_that_the_program_has_supplied_is_shared_with_the_gpu() -> Result<()> {
    let (mirror, region, page) = (Mirror::new()?, small_pages()?, supply()?);
    let faults = Userfault::on(&region, Watch::Missing)?;
    (0..PAGES).try_for_each(|i| faults.supply(region.at(i * PAGE).addr(), &page))?;
    ensure_words(&gpu_reads(&mirror, &region)?, |_| 0xabc)?;
    mirror.run(
        Atomic::add(region.lanes(0, WORD), 1_u64),
        lanes((LEN / WORD) as u32),
    )?;
    ensure_words(&region.words(0..LEN), |_| 0xabd)?;
    ensure_eq!(faults.next()?, None);
    Ok(())
}

fn a_page_that_the_program_write_protects_is_waited_for_or_refused() -> Result<()> {
    let (mirror, region) = (Mirror::new()?, small_pages()?);
    region.fill(0..LEN, 7);
    mirror.run(
        Atomic::add(region.lanes(0, PAGE), 1_u64),
        lanes(PAGES as u32),
    )?;
    let faults = Userfault::on(&region, Watch::WriteProtected)?;
    faults.protect(&region, 4 * PAGE..8 * PAGE, true)?;
    let due = |i: usize| 7 + u64::from(i * WORD % PAGE == 0);
    // Reading is not watched, and neither are other pages.
    ensure_words(&gpu_reads(&mirror, &region)?, due)?;
    mirror.run(Atomic::add(region.lanes(0, PAGE), 1_u64), lanes(4))?;
    ensure_eq!(faults.next()?, None);
    let unprotect = |at: u64| {
        let offset = (at - region.at(0).addr()) as usize;
        faults.protect(&region, offset..offset + PAGE, false)
    };
    let others = Atomic::add(region.lanes(4 * PAGE, PAGE), 1_u64);
    if mirror.gpu.features()?.userfaultfd() {
        let ((), answered) = answering(&faults, unprotect, || mirror.run(others, lanes(12)))?;
        ensure!(answered >= 4, "{answered} writes were asked about");
    } else {
        let report = mirror.refused(Store::new(region.lanes(5 * PAGE, 0), 1_u64), lanes(1))?;
        ensure_report(&report, region.at(5 * PAGE), Access::Write, Reason::Bus)?;
        faults.protect(&region, 4 * PAGE..8 * PAGE, false)?;
        mirror.run(others, lanes(12))?;
    }
    ensure_words(&region.words(0..LEN), |i| {
        7 + 2 * u64::from(i * WORD % PAGE == 0)
    })
}

fn a_write_protected_page_does_not_change_under_the_gpu() -> Result<()> {
    let (mirror, region) = (Mirror::new()?, small_pages()?);
    let (spinner, channel) = (Spinner::over(&region)?, mirror.svm.channel()?);
    let job = spinner.start(&channel)?;
    spinner.wait_round(&region)?;
    let faults = Userfault::on(&region, Watch::WriteProtected)?;
    faults.protect(&region, 0..LEN, true)?;
    let then = region.words(0..LEN);
    std::thread::sleep(Duration::from_millis(50));
    ensure!(
        region.words(0..LEN) == then,
        "the GPU wrote a page that was write-protected"
    );
    if !mirror.gpu.features()?.userfaultfd() {
        let report = mirror.stopped(&channel, &job)?;
        ensure_eq!(
            (report.access, report.reason),
            (Access::Atomic, Reason::Bus)
        );
        return Ok(());
    }
    faults.protect(&region, 0..LEN, false)?;
    spinner.wait_round(&region)?;
    spinner.finish(&job)
}

/// Has the GPU write to pages that somebody has to supply; says in `started` whether the first was asked for, and waits to be killed.
fn wait_for_pages(region: &Region, faults: &Userfault, started: &Region) -> Result<()> {
    let mirror = Mirror::new()?;
    let write = Store::new(region.lanes(0, PAGE), 1_u64);
    let job = mirror.channel.launch(write, lanes(PAGES as u32))?;
    let asked = wait_until(LIMIT, || {
        job.is_done() || matches!(faults.next(), Ok(Some(_)))
    });
    started.store(0, 1 + u64::from(asked.is_err()));
    loop {
        std::thread::sleep(LIMIT);
    }
}

/// Kills a process that does what [`wait_for_pages`] does.
fn kill_when_it_waits(child: Child, started: &Region) -> Result<()> {
    wait_until(LIMIT, || started.load(0) != 0)?;
    ensure_eq!(started.load(0), 1);
    child.kill()
}

/// Nobody answers. The wait is inside the driver, and ends with the process.
fn a_process_can_be_killed_while_the_gpu_waits_for_its_page() -> Result<()> {
    let started = Region::shared(PAGE)?;
    let child = fork(|| {
        let (mirror, region) = (Mirror::new()?, small_pages()?);
        let faults = Userfault::on(&region, Watch::Missing)?;
        let job = mirror.channel.launch(
            Store::new(region.lanes(0, PAGE), 1_u64),
            lanes(PAGES as u32),
        )?;
        let asked = wait_until(LIMIT, || {
            job.is_done() || matches!(faults.next(), Ok(Some(_)))
        });
        started.store(0, 1 + u64::from(asked.is_err()));
        loop {
            std::thread::sleep(LIMIT);
        }
    })?;
    kill_when_it_waits(child, &started)?;
    crate::channels::still_works(&Mirror::new()?)
}

/// The descriptor is older than the GPU's, and the kernel releases it later, when that of the GPU has been closed.
fn a_process_that_watched_its_pages_first_can_be_killed_while_the_gpu_waits() -> Result<()> {
    let started = Region::shared(PAGE)?;
    let child = fork(|| {
        let region = small_pages()?;
        let faults = Userfault::on(&region, Watch::Missing)?;
        wait_for_pages(&region, &faults, &started)
    })?;
    kill_when_it_waits(child, &started)?;
    crate::channels::still_works(&Mirror::new()?)
}

/// Another process holds the descriptor, and never answers. The driver waits for that one then, and the killed one for nobody.
fn a_killed_process_does_not_wait_for_who_supplies_its_pages() -> Result<()> {
    let (started, given_up) = (Region::shared(PAGE)?, Region::shared(PAGE)?);
    let child = fork(|| {
        let region = small_pages()?;
        let faults = Userfault::on(&region, Watch::Missing)?;
        let holder = fork(|| {
            let released = wait_until(LIMIT, || given_up.load(0) == RELEASED);
            given_up.store(0, GIVEN_UP);
            released
        })?;
        std::mem::forget(holder);
        wait_for_pages(&region, &faults, &started)
    })?;
    let pid = child.pid().context("no child")?;
    kill_when_it_waits(child, &started)?;
    ensure_eq!(given_up.load(0), 0);
    // Its work has stopped, what it waited for goes on, and others do not mind.
    let mirror = Mirror::new()?;
    crate::channels::still_works(&mirror)?;
    if mirror.gpu.features()?.userfaultfd() {
        ensure!(is_listed(&mirror.gpu, pid)?, "the fault has ended already");
    }
    given_up.store(0, RELEASED);
    wait_until(LIMIT, || matches!(is_listed(&mirror.gpu, pid), Ok(false)))
        .context("the address space of the killed process is still there")?;
    crate::channels::still_works(&mirror)
}
