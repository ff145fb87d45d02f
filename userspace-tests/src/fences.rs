// SPDX-License-Identifier: MIT OR Apache-2.0
//! Fences of EXEC: what work waits for, and what waits for work.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{ensure, Result};
use mirage::{Atomic, Channel, CopyBytes, GpuPtr, Store};
use nix::errno::Errno;

use crate::channels::still_works;
use crate::fixture::{ensure_eq, Mirror, Spinner};
use crate::harness::guest_tests;
use crate::region::{Region, PAGE, WORD};
use crate::submit::{marker, push_of, push_of_spinner, Submission, Syncobj};
use crate::sw_sync::Timeline;
use crate::sys;

guest_tests![
    a_submission_returns_before_its_fences_have_signalled,
    work_waits_for_all_its_fences_binary_and_timeline,
    all_syncobjs_of_a_submission_get_its_fence,
    several_push_buffers_run_in_order,
    a_submission_without_push_buffers_passes_fences_on,
    work_may_wait_for_an_earlier_fence_of_its_own_channel,
    two_channels_take_turns_by_a_timeline,
    work_behind_work_that_waits_does_not_overtake_it,
    a_fence_that_failed_lets_work_run,
    freeing_a_channel_ends_work_that_waits,
    closing_the_file_ends_work_that_waits,
    a_killed_process_leaves_work_that_waits_behind,
    fences_of_another_file_are_waited_for,
    a_fence_of_another_driver_is_waited_for,
];

/// A channel whose work does not end before it is told to, with the fence of that work.
pub(crate) struct Blocker<'a> {
    _values: Region,
    spinner: Spinner,
    _channel: Channel,
    pub(crate) fence: Syncobj<'a>,
}

impl<'a> Blocker<'a> {
    pub(crate) fn new(mirror: &'a Mirror) -> Result<Self> {
        let (values, channel) = (Region::anonymous(PAGE)?, mirror.svm.channel()?);
        let (spinner, fence) = (Spinner::over(&values)?, Syncobj::new(&mirror.gpu)?);
        Submission::of(push_of_spinner(&channel, spinner.operation())?)
            .signals(fence.binary())
            .exec(&mirror.gpu, &channel)?;
        spinner.wait_round(&values)?;
        Ok(Blocker {
            _values: values,
            spinner,
            _channel: channel,
            fence,
        })
    }

    pub(crate) fn release(&self) -> Result<()> {
        self.spinner.stop();
        self.fence.wait()
    }
}

fn a_submission_returns_before_its_fences_have_signalled() -> Result<()> {
    let (mirror, page) = (Mirror::new()?, Region::anonymous(PAGE)?);
    let (blocker, done) = (Blocker::new(&mirror)?, Syncobj::new(&mirror.gpu)?);
    marker(&mirror.channel, &page, 1)?
        .after(blocker.fence.binary())
        .signals(done.binary())
        .exec(&mirror.gpu, &mirror.channel)?;
    std::thread::sleep(Duration::from_millis(300));
    ensure_eq!((page.load(0), done.is_signaled()?), (0, Some(false)));
    blocker.release()?;
    ensure_eq!(done.error()?, None);
    ensure_eq!(page.load(0), 1);
    Ok(())
}

fn work_waits_for_all_its_fences_binary_and_timeline() -> Result<()> {
    let (mirror, page) = (Mirror::new()?, Region::anonymous(PAGE)?);
    let (first, second) = (Blocker::new(&mirror)?, Blocker::new(&mirror)?);
    let (timeline, done) = (Syncobj::new(&mirror.gpu)?, Syncobj::new(&mirror.gpu)?);
    timeline.signal_point(3)?;
    // The second fence, as point 7.
    let carrier = mirror.svm.channel()?;
    Submission::default()
        .after(second.fence.binary())
        .signals(timeline.point(7))
        .exec(&mirror.gpu, &carrier)?;
    marker(&mirror.channel, &page, 1)?
        .after(timeline.point(2))
        .after(first.fence.binary())
        .after(timeline.point(6))
        .signals(done.binary())
        .exec(&mirror.gpu, &mirror.channel)?;
    first.release()?;
    std::thread::sleep(Duration::from_millis(200));
    ensure_eq!((page.load(0), done.is_signaled()?), (0, Some(false)));
    second.release()?;
    ensure_eq!(done.error()?, None);
    ensure_eq!((page.load(0), timeline.value()?), (1, 7));
    Ok(())
}

fn all_syncobjs_of_a_submission_get_its_fence() -> Result<()> {
    let (mirror, page) = (Mirror::new()?, Region::anonymous(PAGE)?);
    let blocker = Blocker::new(&mirror)?;
    let all = (0..4)
        .map(|_| Syncobj::new(&mirror.gpu))
        .collect::<Result<Vec<_>>>()?;
    marker(&mirror.channel, &page, 1)?
        .after(blocker.fence.binary())
        .signals(all[0].binary())
        .signals(all[1].point(3))
        .signals(all[2].point(u64::MAX - 1))
        .signals(all[1].point(9))
        .signals(all[3].binary())
        .signals(all[3].binary())
        .exec(&mirror.gpu, &mirror.channel)?;
    ensure_eq!((all[1].value()?, all[2].value()?), (0, 0));
    for syncobj in &all {
        ensure_eq!(syncobj.is_signaled()?, Some(false));
    }
    blocker.release()?;
    all.iter().try_for_each(Syncobj::wait)?;
    ensure_eq!(page.load(0), 1);
    ensure_eq!((all[1].value()?, all[2].value()?), (9, u64::MAX - 1));
    Ok(())
}

fn several_push_buffers_run_in_order() -> Result<()> {
    let (mirror, page) = (Mirror::new()?, Region::anonymous(PAGE)?);
    let (done, word) = (Syncobj::new(&mirror.gpu)?, |i: usize| {
        page.lanes(i * WORD, 0)
    });
    let mut work = marker(&mirror.channel, &page, 0)?.signals(done.binary());
    // Each copies the word before and adds 1.
    for i in 1..64 {
        let mut push = mirror.channel.push_buffer();
        push.launch(&CopyBytes::new(word(i), word(i - 1), 8), mirage::lanes(1))?
            .launch(&Atomic::add(word(i), 1_u64), mirage::lanes(1))?;
        work.pushes.push(push.words().to_vec());
    }
    work.exec(&mirror.gpu, &mirror.channel)?;
    ensure_eq!(done.error()?, None);
    ensure!(
        page.words(0..64 * WORD).into_iter().eq(0..64),
        "{:?}",
        page.words(0..64 * WORD)
    );
    Ok(())
}

fn a_submission_without_push_buffers_passes_fences_on() -> Result<()> {
    let (mirror, page) = (Mirror::new()?, Region::anonymous(PAGE)?);
    let (blocker, passed) = (Blocker::new(&mirror)?, Syncobj::new(&mirror.gpu)?);
    Submission::default().exec(&mirror.gpu, &mirror.channel)?;
    Submission::default()
        .after(blocker.fence.binary())
        .signals(passed.point(1))
        .exec(&mirror.gpu, &mirror.channel)?;
    marker(&mirror.channel, &page, 1)?
        .signals(passed.point(2))
        .exec(&mirror.gpu, &mirror.channel)?;
    std::thread::sleep(Duration::from_millis(100));
    ensure_eq!((page.load(0), passed.value()?), (0, 0));
    blocker.release()?;
    passed.wait_point(2)?;
    ensure_eq!((page.load(0), passed.value()?), (1, 2));
    // More than the ring has places for.
    for point in 3..600 {
        Submission::default()
            .signals(passed.point(point))
            .exec(&mirror.gpu, &mirror.channel)?;
    }
    passed.wait_point(599)
}

fn work_may_wait_for_an_earlier_fence_of_its_own_channel() -> Result<()> {
    let (mirror, page) = (Mirror::new()?, Region::anonymous(PAGE)?);
    let timeline = Syncobj::new(&mirror.gpu)?;
    let add = push_of(&mirror.channel, Atomic::add(page.lanes(0, 0), 1_u64))?;
    timeline.signal_point(1)?;
    for point in 2..=300 {
        Submission::of(add.clone())
            .after(timeline.point(point - 1))
            .signals(timeline.point(point))
            .exec(&mirror.gpu, &mirror.channel)?;
    }
    timeline.wait_point(300)?;
    let binary = Syncobj::new(&mirror.gpu)?;
    Submission::of(add.clone())
        .signals(binary.binary())
        .exec(&mirror.gpu, &mirror.channel)?;
    for _ in 0..50 {
        Submission::of(add.clone())
            .after(binary.binary())
            .signals(binary.binary())
            .exec(&mirror.gpu, &mirror.channel)?;
    }
    binary.wait()?;
    ensure_eq!(page.load(0), 299 + 51);
    Ok(())
}

/// Each step copies what the other channel wrote before and adds 1.
fn two_channels_take_turns_by_a_timeline() -> Result<()> {
    const STEPS: u64 = 200;
    let (mirror, page) = (Mirror::new()?, Region::anonymous(PAGE)?);
    let (timeline, other) = (Syncobj::new(&mirror.gpu)?, mirror.svm.channel()?);
    timeline.signal_point(1)?;
    let word = |step: u64| page.lanes(step as usize % 2 * WORD, 0);
    for step in 1..=STEPS {
        let channel = [&mirror.channel, &other][step as usize % 2];
        let mut push = channel.push_buffer();
        push.launch(
            &CopyBytes::new(word(step), word(step - 1), 8),
            mirage::lanes(1),
        )?
        .launch(&Atomic::add(word(step), 1_u64), mirage::lanes(1))?;
        Submission::of(push.words().to_vec())
            .after(timeline.point(step))
            .signals(timeline.point(step + 1))
            .exec(&mirror.gpu, channel)?;
    }
    timeline.wait_point(STEPS + 1)?;
    ensure_eq!(page.load(STEPS as usize % 2 * WORD), STEPS);
    Ok(())
}

fn work_behind_work_that_waits_does_not_overtake_it() -> Result<()> {
    let (mirror, page) = (Mirror::new()?, Region::anonymous(PAGE)?);
    let (blocker, done) = (Blocker::new(&mirror)?, Syncobj::new(&mirror.gpu)?);
    marker(&mirror.channel, &page, 1)?
        .after(blocker.fence.binary())
        .exec(&mirror.gpu, &mirror.channel)?;
    marker(&mirror.channel, &page, 2)?
        .signals(done.binary())
        .exec(&mirror.gpu, &mirror.channel)?;
    std::thread::sleep(Duration::from_millis(200));
    ensure_eq!((page.load(0), done.is_signaled()?), (0, Some(false)));
    blocker.release()?;
    done.wait()?;
    ensure_eq!(page.load(0), 2);
    Ok(())
}

fn a_fence_that_failed_lets_work_run() -> Result<()> {
    let (mirror, page) = (Mirror::new()?, Region::anonymous(PAGE)?);
    let (bad, failed) = (mirror.svm.channel()?, Syncobj::new(&mirror.gpu)?);
    let done = Syncobj::new(&mirror.gpu)?;
    Submission::of(push_of(&bad, Store::new(GpuPtr::new(8).into(), 1_u64))?)
        .signals(failed.binary())
        .exec(&mirror.gpu, &bad)?;
    marker(&mirror.channel, &page, 1)?
        .after(failed.binary())
        .signals(done.binary())
        .exec(&mirror.gpu, &mirror.channel)?;
    ensure_eq!((done.error()?, failed.error()?), (None, Some(Errno::EIO)));
    ensure_eq!(page.load(0), 1);
    Ok(())
}

fn freeing_a_channel_ends_work_that_waits() -> Result<()> {
    let (mirror, page) = (Mirror::new()?, Region::anonymous(PAGE)?);
    for _ in 0..10 {
        let (blocker, channel) = (Blocker::new(&mirror)?, mirror.svm.channel()?);
        let ends = (0..20)
            .map(|_| Syncobj::new(&mirror.gpu))
            .collect::<Result<Vec<_>>>()?;
        for end in &ends {
            marker(&channel, &page, 1)?
                .after(blocker.fence.binary())
                .signals(end.binary())
                .exec(&mirror.gpu, &channel)?;
        }
        drop(channel);
        for end in &ends {
            ensure_eq!(end.error()?, Some(Errno::ECANCELED));
        }
        blocker.release()?;
        ensure_eq!(page.load(0), 0);
    }
    still_works(&mirror)
}

fn closing_the_file_ends_work_that_waits() -> Result<()> {
    let (mirror, page) = (Mirror::new()?, Region::anonymous(PAGE)?);
    for _ in 0..5 {
        let blocker = Blocker::new(&mirror)?;
        let file = {
            let other = Mirror::new()?;
            let fence = Syncobj::import(&other.gpu, blocker.fence.sync_file()?.as_fd())?;
            let end = Syncobj::new(&other.gpu)?;
            for _ in 0..20 {
                marker(&other.channel, &page, 1)?
                    .after(fence.binary())
                    .signals(end.binary())
                    .exec(&other.gpu, &other.channel)?;
            }
            end.sync_file()?
        };
        let end = Syncobj::import(&mirror.gpu, file.as_fd())?;
        ensure_eq!(end.error()?, Some(Errno::ECANCELED));
        blocker.release()?;
        ensure_eq!(page.load(0), 0);
    }
    still_works(&mirror)
}

fn a_killed_process_leaves_work_that_waits_behind() -> Result<()> {
    let mirror = Mirror::new()?;
    for _ in 0..5 {
        let child = sys::fork(|| {
            let (mirror, page) = (Mirror::new()?, Region::anonymous(PAGE)?);
            let blocker = Blocker::new(&mirror)?;
            for _ in 0..20 {
                marker(&mirror.channel, &page, 1)?
                    .after(blocker.fence.binary())
                    .exec(&mirror.gpu, &mirror.channel)?;
            }
            nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL)?;
            Ok(())
        })?;
        ensure_eq!(child.killed_by()?, nix::sys::signal::Signal::SIGKILL);
        still_works(&mirror)?;
    }
    Ok(())
}

fn fences_of_another_file_are_waited_for() -> Result<()> {
    let (first, second, page) = (Mirror::new()?, Mirror::new()?, Region::anonymous(PAGE)?);
    let blocker = Blocker::new(&first)?;
    let fence = Syncobj::import(&second.gpu, blocker.fence.sync_file()?.as_fd())?;
    let done = Syncobj::new(&second.gpu)?;
    marker(&second.channel, &page, 1)?
        .after(fence.binary())
        .signals(done.binary())
        .exec(&second.gpu, &second.channel)?;
    ensure_eq!((page.load(0), done.is_signaled()?), (0, Some(false)));
    blocker.release()?;
    done.wait()?;
    ensure_eq!(page.load(0), 1);
    Ok(())
}

fn a_fence_of_another_driver_is_waited_for() -> Result<()> {
    let timeline = Timeline::new()?;
    let (mirror, page) = (Mirror::new()?, Region::anonymous(PAGE)?);
    for value in 1..=20_u32 {
        let (fence, done) = (
            Syncobj::import(&mirror.gpu, timeline.fence(value)?.as_fd())?,
            Syncobj::new(&mirror.gpu)?,
        );
        let work = marker(&mirror.channel, &page, value.into())?
            .after(fence.binary())
            .signals(done.binary());
        work.exec(&mirror.gpu, &mirror.channel)?;
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_millis(20) {
            ensure_eq!(done.is_signaled()?, Some(false));
        }
        timeline.advance()?;
        ensure_eq!((done.error()?, page.load(0)), (None, value.into()));
    }
    Ok(())
}
