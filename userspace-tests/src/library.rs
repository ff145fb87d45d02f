// SPDX-License-Identifier: MIT OR Apache-2.0
//! Synchronisation as the client library offers it: syncobjs, timelines, jobs, sync files, semaphores of the copy engines.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use mirage::{copy, lanes, wait_all, wait_any, Channel, Error, GpuPtr, Job, PushBuffer, Store};
use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};

use crate::fixture::{ensure_eq, Mirror, Spinner, LIMIT};
use crate::harness::{guest_tests, wait_until};
use crate::region::{Region, PAGE, WORD};
use crate::sys;
use crate::work::ensure_words;

guest_tests![
    a_copy_waits_for_the_work_that_signals_its_syncobj,
    points_of_a_timeline_order_work_of_two_engines,
    a_point_that_is_not_above_the_last_one_is_invalid,
    a_wait_begins_before_the_work_is_submitted,
    a_syncobj_that_was_reset_can_be_used_again,
    a_wait_for_all_ends_with_the_last_and_one_for_any_with_the_first,
    a_syncobj_goes_from_one_file_to_the_other,
    a_timeline_goes_from_one_file_to_the_other,
    the_sync_file_of_a_job_is_readable_when_the_job_has_ended,
    the_end_of_work_that_was_stopped_is_told_by_job_and_syncobj,
    a_semaphore_is_written_after_the_copies_before_it,
    semaphores_with_the_time_are_in_the_order_of_their_writing,
];

/// How long nothing is expected to happen.
const WHILE: Duration = Duration::from_millis(200);

/// Work that goes on until it is released.
struct Blocker {
    _values: Region,
    spinner: Spinner,
    _channel: Channel,
    job: Job,
}

impl Blocker {
    fn new(mirror: &Mirror) -> Result<Self> {
        let (values, channel) = (Region::anonymous(PAGE)?, mirror.svm.channel()?);
        let spinner = Spinner::over(&values)?;
        let job = spinner.start(&channel)?;
        spinner.wait_round(&values)?;
        Ok(Blocker {
            _values: values,
            spinner,
            _channel: channel,
            job,
        })
    }

    fn release(&self) -> Result<()> {
        self.spinner.finish(&self.job)
    }
}

/// The compute engine fills a page with numbers from `first` on, and a copy engine copies it.
struct Chain {
    compute: Channel,
    copy: Channel,
    fill: PushBuffer,
    pass_on: PushBuffer,
    /// What both use; alive for as long as they may run.
    pages: [Region; 2],
}

impl Chain {
    /// `from` fills, `to` copies.
    fn new(from: &Mirror, to: &Mirror, first: u64) -> Result<Self> {
        let (compute, copy) = (from.svm.channel()?, to.svm.copy_channel()?);
        let pages = [Region::anonymous(PAGE)?, Region::anonymous(PAGE)?];
        let (mut fill, mut pass_on) = (compute.push_buffer(), copy.push_buffer());
        let store = Store::new(pages[0].lanes(0, WORD), first).plus_lane();
        fill.launch(&store, lanes((PAGE / WORD) as u32))?;
        let [from, to] = [&pages[0], &pages[1]].map(|page| page.at(0));
        pass_on.run(&copy::Linear::new(to, from, PAGE as u64))?;
        Ok(Chain {
            compute,
            copy,
            fill,
            pass_on,
            pages,
        })
    }

    fn ensure_nothing_was_copied(&self) -> Result<()> {
        ensure_words(&self.pages[1].words(0..PAGE), |_| 0)
    }

    fn ensure_copied(&self, first: u64) -> Result<()> {
        ensure_words(&self.pages[1].words(0..PAGE), |i| first + i as u64)
    }
}

fn is_timeout<T>(outcome: &mirage::Result<T>) -> bool {
    matches!(outcome, Err(Error::Timeout(_)))
}

fn a_copy_waits_for_the_work_that_signals_its_syncobj() -> Result<()> {
    let mirror = Mirror::new()?;
    let (chain, ready) = (Chain::new(&mirror, &mirror, 70)?, mirror.gpu.syncobj()?);
    let blocker = Blocker::new(&mirror)?;
    let filled = chain.compute.submission().push(&chain.fill);
    let filled = filled.wait(&blocker.job).signal(&ready).submit()?;
    let copied = chain.copy.submission().push(&chain.pass_on);
    let copied = copied.wait(&ready).submit()?;
    std::thread::sleep(WHILE);
    chain.ensure_nothing_was_copied()?;
    ensure!(!filled.is_done() && !copied.is_done(), "nothing waited");
    ensure!(is_timeout(&ready.wait(WHILE)), "the syncobj is signalled");
    blocker.release()?;
    copied.wait(LIMIT)?;
    chain.ensure_copied(70)?;
    ensure!(filled.is_done(), "the copy has ended before the work");
    Ok(ready.wait(LIMIT)?)
}

fn points_of_a_timeline_order_work_of_two_engines() -> Result<()> {
    let mirror = Mirror::new()?;
    let (chain, frame) = (Chain::new(&mirror, &mirror, 90)?, mirror.gpu.timeline()?);
    let blocker = Blocker::new(&mirror)?;
    ensure_eq!(frame.reached()?, 0);
    let fill = chain.compute.submission().push(&chain.fill);
    let fill = fill.wait(&blocker.job).signal(frame.point(1));
    drop(fill.submit()?);
    let pass_on = chain.copy.submission().push(&chain.pass_on);
    let pass_on = pass_on.wait(frame.point(1)).signal(frame.point(4));
    drop(pass_on.submit()?);
    std::thread::sleep(WHILE);
    chain.ensure_nothing_was_copied()?;
    ensure_eq!((frame.reached()?, frame.point(1).is_signaled()), (0, false));
    blocker.release()?;
    frame.point(4).wait(LIMIT)?;
    chain.ensure_copied(90)?;
    // Points between those that are signalled are reached with them.
    ensure_eq!((frame.reached()?, frame.point(3).is_signaled()), (4, true));
    ensure!(is_timeout(&frame.point(5).wait(WHILE)), "nobody signals it");
    frame.signal(5)?;
    ensure_eq!((frame.reached()?, frame.point(5).is_signaled()), (5, true));
    Ok(())
}

fn a_point_that_is_not_above_the_last_one_is_invalid() -> Result<()> {
    let mirror = Mirror::new()?;
    let frame = mirror.gpu.timeline()?;
    frame.signal(2)?;
    let submit = || mirror.channel.submission();
    for submission in [
        submit().signal(frame.point(2)),
        submit().wait(frame.point(3)),
    ] {
        let error = submission.submit().err().context("it was accepted")?;
        ensure_eq!(error.errno(), Some(Errno::EINVAL));
    }
    // Without push buffers fences are passed on.
    let passed = submit().wait(frame.point(2)).signal(frame.point(3));
    passed.submit()?.wait(LIMIT)?;
    ensure_eq!(frame.reached()?, 3);
    Ok(())
}

fn a_wait_begins_before_the_work_is_submitted() -> Result<()> {
    let (mirror, page) = (Mirror::new()?, Region::anonymous(PAGE)?);
    let (done, frame) = (mirror.gpu.syncobj()?, mirror.gpu.timeline()?);
    let mut push = mirror.channel.push_buffer();
    push.launch(&Store::new(page.lanes(0, 0), 6_u64), lanes(1))?;
    std::thread::scope(|scope| {
        let waiters = [
            scope.spawn(|| done.wait(LIMIT).map(|()| page.load(0))),
            scope.spawn(|| frame.point(1).wait(LIMIT).map(|()| page.load(0))),
        ];
        std::thread::sleep(WHILE);
        let work = mirror.channel.submission().push(&push);
        drop(work.signal(&done).signal(frame.point(1)).submit()?);
        for waiter in waiters {
            let seen = waiter.join().ok().context("a waiter panicked")??;
            ensure_eq!(seen, 6);
        }
        Ok(())
    })
}

fn a_syncobj_that_was_reset_can_be_used_again() -> Result<()> {
    let mirror = Mirror::new()?;
    let ready = mirror.gpu.syncobj()?;
    for _ in 0..3 {
        ensure!(ready.sync_file().is_err(), "there is no fence");
        ensure!(
            is_timeout(&ready.wait(Duration::from_millis(10))),
            "no fence"
        );
        ready.signal()?;
        ready.wait(LIMIT)?;
        mirror
            .channel
            .submission()
            .wait(&ready)
            .submit()?
            .wait(LIMIT)?;
        ready.reset()?;
    }
    Ok(())
}

fn a_wait_for_all_ends_with_the_last_and_one_for_any_with_the_first() -> Result<()> {
    let (mirror, other) = (Mirror::new()?, Mirror::new()?);
    let (ready, frame) = (mirror.gpu.syncobj()?, mirror.gpu.timeline()?);
    let blocker = Blocker::new(&mirror)?;
    let points = [(&blocker.job).into(), frame.point(1), (&ready).into()];
    ensure!(is_timeout(&wait_any(&points, WHILE)), "none is signalled");
    let by_work = mirror.channel.submission().signal(frame.point(1));
    by_work.submit()?.wait(LIMIT)?;
    ensure_eq!(wait_any(&points, LIMIT)?, 1);
    ready.signal()?;
    ensure!(
        is_timeout(&wait_all(&points, WHILE)),
        "one is not signalled"
    );
    wait_all(&points[1..], LIMIT)?;
    blocker.release()?;
    wait_all(&points, LIMIT)?;
    wait_any(&points, LIMIT)?;

    wait_all(&[], WHILE)?;
    ensure!(is_timeout(&wait_any(&[], WHILE)), "there is none");
    let foreign = other.gpu.syncobj()?;
    let mixed = [(&ready).into(), (&foreign).into()];
    let outcome = wait_all(&mixed, WHILE);
    ensure!(matches!(outcome, Err(Error::OtherGpu)), "{outcome:?}");
    Ok(())
}

fn a_syncobj_goes_from_one_file_to_the_other() -> Result<()> {
    let (one, other) = (Mirror::new()?, Mirror::new()?);
    let (chain, ready) = (Chain::new(&one, &other, 110)?, one.gpu.syncobj()?);
    let here = chain.copy.submission().wait(&ready).submit();
    ensure!(matches!(here, Err(Error::OtherGpu)), "{here:?}");
    let there = other.gpu.import_syncobj(ready.export()?.as_fd())?;
    let blocker = Blocker::new(&one)?;
    let fill = chain.compute.submission().push(&chain.fill);
    drop(fill.wait(&blocker.job).signal(&ready).submit()?);
    let copied = chain.copy.submission().push(&chain.pass_on);
    let copied = copied.wait(&there).submit()?;
    std::thread::sleep(WHILE);
    chain.ensure_nothing_was_copied()?;
    // What it was exported from may go.
    drop(ready);
    blocker.release()?;
    copied.wait(LIMIT)?;
    chain.ensure_copied(110)?;
    Ok(there.wait(LIMIT)?)
}

fn a_timeline_goes_from_one_file_to_the_other() -> Result<()> {
    let (one, other) = (Mirror::new()?, Mirror::new()?);
    let (chain, frame) = (Chain::new(&one, &other, 130)?, one.gpu.timeline()?);
    let there = other.gpu.import_timeline(frame.export()?.as_fd())?;
    let blocker = Blocker::new(&one)?;
    let fill = chain.compute.submission().push(&chain.fill);
    drop(fill.wait(&blocker.job).signal(frame.point(1)).submit()?);
    let pass_on = chain.copy.submission().push(&chain.pass_on);
    let pass_on = pass_on.wait(there.point(1)).signal(there.point(2));
    drop(pass_on.submit()?);
    std::thread::sleep(WHILE);
    chain.ensure_nothing_was_copied()?;
    blocker.release()?;
    frame.point(2).wait(LIMIT)?;
    chain.ensure_copied(130)?;
    there.signal(3)?;
    ensure_eq!((frame.reached()?, there.reached()?), (3, 3));
    Ok(())
}

/// Whether a file becomes readable within `limit`.
fn readable(file: impl AsFd, limit: Duration) -> Result<bool> {
    let mut files = [PollFd::new(file.as_fd(), PollFlags::POLLIN)];
    let limit = PollTimeout::try_from(limit).context("limit")?;
    Ok(poll(&mut files, limit)? == 1)
}

fn the_sync_file_of_a_job_is_readable_when_the_job_has_ended() -> Result<()> {
    let mirror = Mirror::new()?;
    let blocker = Blocker::new(&mirror)?;
    let file = blocker.job.sync_file()?;
    ensure_eq!(readable(&file, WHILE)?, false);
    ensure_eq!(sys::sync_file_status(file.as_fd())?, 0);
    blocker.spinner.stop();
    ensure_eq!(readable(&file, LIMIT)?, true);
    ensure_eq!(sys::sync_file_status(file.as_fd())?, 1);
    ensure!(blocker.job.is_done(), "it is not done");
    Ok(())
}

fn the_end_of_work_that_was_stopped_is_told_by_job_and_syncobj() -> Result<()> {
    let mirror = Mirror::new()?;
    let (ready, frame) = (mirror.gpu.syncobj()?, mirror.gpu.timeline()?);
    let mut push = mirror.channel.push_buffer();
    push.launch(&Store::new(GpuPtr::new(0x9000).into(), 1_u64), lanes(1))?;
    let work = mirror.channel.submission().push(&push);
    let job = work.signal(&ready).signal(frame.point(1)).submit()?;
    for outcome in [job.wait(LIMIT), ready.wait(LIMIT)] {
        let stopped = matches!(outcome, Err(Error::Stopped { errno: Errno::EIO }));
        ensure!(stopped, "{outcome:?}");
    }
    let file = job.sync_file()?;
    ensure_eq!(sys::sync_file_status(file.as_fd())?, -(Errno::EIO as i32));
    // A timeline reaches the point in any case, and so do waits for all.
    frame.point(1).wait(LIMIT)?;
    wait_all(&[(&job).into(), (&ready).into()], LIMIT)?;
    Ok(())
}

fn a_semaphore_is_written_after_the_copies_before_it() -> Result<()> {
    const LEN: usize = 64 * PAGE;
    let (mirror, semaphore) = (Mirror::new()?, Region::anonymous(PAGE)?);
    let (from, to) = (Region::anonymous(LEN)?, Region::anonymous(LEN)?);
    let channel = mirror.svm.copy_channel()?;
    for round in 1..=20_u32 {
        from.fill(0..LEN, round.into());
        let mut push = channel.push_buffer();
        push.run(&copy::Linear::new(to.at(0), from.at(0), LEN as u64 / 2).pipelined())?;
        let half = LEN / 2;
        push.run(&copy::Linear::new(to.at(half), from.at(half), half as u64))?;
        push.run(&copy::Semaphore::new(semaphore.at(64), round))?;
        let job = channel.submit(&push)?;
        // Nobody waits for the job before the words are looked at.
        wait_until(LIMIT, || semaphore.load(64) == u64::from(round))
            .with_context(|| format!("semaphore of round {round}"))?;
        ensure_words(&to.words(0..LEN), |_| round.into())?;
        job.wait(LIMIT)?;
    }
    // A word of four bytes, and nothing beside it.
    let mut words = semaphore.words(0..PAGE);
    words[64 / WORD] = 0;
    ensure_words(&words, |_| 0)
}

fn semaphores_with_the_time_are_in_the_order_of_their_writing() -> Result<()> {
    const COUNT: usize = 8;
    const SIZE: usize = size_of::<copy::Stamped>();
    let (mirror, region) = (Mirror::new()?, Region::anonymous(PAGE)?);
    let channel = mirror.svm.copy_channel()?;
    let begin = Instant::now();
    for i in 0..COUNT {
        let at = region.results::<copy::Stamped>(i * SIZE);
        let semaphore = copy::Semaphore::timestamped(at, 100 + i as u32);
        channel.run(semaphore)?.wait(LIMIT)?;
    }
    let passed = begin.elapsed().as_nanos() as u64;
    let words = region.words(0..COUNT * SIZE);
    let (values, times): (Vec<_>, Vec<_>) = words.chunks(2).map(|pair| (pair[0], pair[1])).unzip();
    ensure_words(&values, |i| 100 + i as u64)?;
    let rising = times.windows(2).all(|pair| pair[0] < pair[1]);
    ensure!(times[0] > 0 && rising, "{times:?}");
    // The device's clock counts nanoseconds, as fast as the CPU's or not much faster.
    let between = times[COUNT - 1] - times[0];
    ensure!(between <= 2 * passed, "{between} ns, in {passed}");
    Ok(())
}
