// SPDX-License-Identifier: MIT OR Apache-2.0
//! Channels that were stopped: what they tell, and how they begin anew.

use std::os::fd::AsFd;
use std::time::Instant;

use anyhow::{ensure, Result};
use mirage::uapi::{ChannelQuery, ChannelReset, IoctlId, CHANNEL_STOPPED};
use mirage::{lanes, Access, Atomic, Channel, GpuPtr, Load, PushBuffer, Reason, Store, Subchannel};
use nix::errno::Errno;

use crate::channels::still_works;
use crate::fixture::{ensure_eq, Mirror, Spinner, LIMIT};
use crate::harness::{guest_tests, rounds, wait_until};
use crate::ioctls::call;
use crate::region::{Region, PAGE};
use crate::submit::{push_of, push_of_spinner, Submission, Syncobj};
use crate::sys;

guest_tests![
    a_usable_channel_says_so_and_counts_its_work,
    a_stopped_channel_tells_why_and_when,
    a_stopped_channel_refuses_work_until_it_is_reset,
    a_channel_can_be_reset_again_and_again,
    work_from_before_a_reset_never_runs,
    resetting_a_usable_channel_does_nothing,
    channels_of_others_cannot_be_asked_or_reset,
    unknown_flags_of_query_and_reset_are_invalid,
];

/// CHANNEL_QUERY.
pub(crate) fn query(mirror: &Mirror, channel: u32) -> nix::Result<ChannelQuery> {
    let args = ChannelQuery {
        channel,
        ..Default::default()
    };
    call(mirror.gpu.as_fd(), IoctlId::ChannelQuery, args)
}

/// CHANNEL_RESET.
pub(crate) fn reset(mirror: &Mirror, channel: u32) -> nix::Result<()> {
    let args = ChannelReset { channel, flags: 0 };
    call(mirror.gpu.as_fd(), IoctlId::ChannelReset, args).map(drop)
}

/// Runs something that stops the channel.
fn stop(mirror: &Mirror, channel: &Channel) -> Result<()> {
    let job = channel.launch(Store::new(GpuPtr::new(PAGE as u64).into(), 1_u64), lanes(1))?;
    mirror.stopped(channel, &job).map(drop)
}

fn a_usable_channel_says_so_and_counts_its_work() -> Result<()> {
    let mirror = Mirror::new()?;
    let handle = mirror.channel.handle();
    let fresh = query(&mirror, handle)?;
    ensure_eq!((fresh.state, fresh.reason, fresh.timestamp), (0, 0, 0));
    ensure_eq!((fresh.submitted, fresh.finished, fresh.resets), (0, 0, 0));
    for done in 1..=10 {
        still_works(&mirror)?;
        let now = query(&mirror, handle)?;
        ensure_eq!((now.submitted, now.finished, now.state), (done, done, 0));
    }
    let values = Region::anonymous(PAGE)?;
    let spinner = Spinner::over(&values)?;
    let job = spinner.start(&mirror.channel)?;
    let running = query(&mirror, handle)?;
    ensure_eq!((running.submitted, running.finished), (11, 10));
    spinner.finish(&job)
}

fn a_stopped_channel_tells_why_and_when() -> Result<()> {
    let mirror = Mirror::new()?;
    let before = Instant::now();
    let bad = GpuPtr::new(0x5000);
    let job = mirror
        .channel
        .launch(Load::<u64>::new(bad.into()), lanes(1))?;
    let report = mirror.stopped(&mirror.channel, &job)?;
    let told = query(&mirror, mirror.channel.handle())?;
    ensure_eq!((told.state, told.addr), (CHANNEL_STOPPED, 0x5000));
    ensure_eq!(
        (Access::from(told.access), Reason::from(told.reason)),
        (Access::Read, Reason::NoVma)
    );
    ensure_eq!(u128::from(told.timestamp), report.timestamp.as_nanos());
    ensure!(before.elapsed() < LIMIT, "the test took too long to tell");
    ensure_eq!((told.submitted, told.finished), (1, 1));
    // A bad method, on another one.
    let channel = mirror.svm.channel()?;
    let mut push = PushBuffer::new();
    push.methods(Subchannel(0), 0x00fc, &[0]);
    let job = channel.submit(&push)?;
    mirror.stopped(&channel, &job)?;
    let told = query(&mirror, channel.handle())?;
    ensure_eq!(
        (Access::from(told.access), Reason::from(told.reason)),
        (Access::None, Reason::Method)
    );
    ensure_eq!(told.addr, 0x00fc);
    Ok(())
}

fn a_stopped_channel_refuses_work_until_it_is_reset() -> Result<()> {
    let (mirror, page) = (Mirror::new()?, Region::anonymous(PAGE)?);
    let (handle, done) = (mirror.channel.handle(), Syncobj::new(&mirror.gpu)?);
    stop(&mirror, &mirror.channel)?;
    let work = Submission::of(push_of(
        &mirror.channel,
        Store::new(page.lanes(0, 0), 1_u64),
    )?)
    .signals(done.binary());
    for _ in 0..3 {
        ensure_eq!(work.exec(&mirror.gpu, &mirror.channel), Err(Errno::EIO));
    }
    ensure_eq!(done.is_signaled()?, None);
    reset(&mirror, handle)?;
    work.exec(&mirror.gpu, &mirror.channel)?;
    ensure_eq!((done.error()?, page.load(0)), (None, 1));
    let told = query(&mirror, handle)?;
    ensure_eq!((told.state, told.reason, told.resets), (0, 0, 1));
    Ok(())
}

fn a_channel_can_be_reset_again_and_again() -> Result<()> {
    let mirror = Mirror::new()?;
    for resets in 1..=rounds(20) as u32 {
        stop(&mirror, &mirror.channel)?;
        reset(&mirror, mirror.channel.handle())?;
        // Round the ring.
        for _ in 0..20 {
            still_works(&mirror)?;
        }
        ensure_eq!(query(&mirror, mirror.channel.handle())?.resets, resets);
    }
    Ok(())
}

fn work_from_before_a_reset_never_runs() -> Result<()> {
    let (mirror, values, page) = (
        Mirror::new()?,
        Region::anonymous(PAGE)?,
        Region::anonymous(PAGE)?,
    );
    let (spinner, channel) = (Spinner::over(&values)?, mirror.svm.channel()?);
    let blocker = Syncobj::new(&mirror.gpu)?;
    Submission::of(push_of_spinner(&channel, spinner.operation())?)
        .signals(blocker.binary())
        .exec(&mirror.gpu, &channel)?;
    let bad = push_of(&mirror.channel, Store::new(GpuPtr::new(8).into(), 1_u64))?;
    Submission::of(bad).exec(&mirror.gpu, &mirror.channel)?;
    let ends = (0..40)
        .map(|_| Syncobj::new(&mirror.gpu))
        .collect::<Result<Vec<_>>>()?;
    let add = push_of(&mirror.channel, Atomic::add(page.lanes(0, 0), 1_u64))?;
    let mut accepted = Vec::new();
    for (i, end) in ends.iter().enumerate() {
        let work = Submission::of(add.clone()).signals(end.binary());
        let work = if i % 2 == 0 {
            work
        } else {
            work.after(blocker.binary())
        };
        // The channel may be stopped before all are in.
        if work.exec(&mirror.gpu, &mirror.channel).is_ok() {
            accepted.push(end);
        }
    }
    wait_until(LIMIT, || {
        query(&mirror, mirror.channel.handle()).is_ok_and(|query| query.state == CHANNEL_STOPPED)
    })?;
    reset(&mirror, mirror.channel.handle())?;
    for end in accepted {
        ensure_eq!(end.error()?, Some(Errno::EIO));
    }
    spinner.stop();
    blocker.wait()?;
    still_works(&mirror)?;
    ensure_eq!(page.load(0), 0);
    Ok(())
}

fn resetting_a_usable_channel_does_nothing() -> Result<()> {
    let (mirror, values) = (Mirror::new()?, Region::anonymous(PAGE)?);
    let spinner = Spinner::over(&values)?;
    let job = spinner.start(&mirror.channel)?;
    for _ in 0..5 {
        reset(&mirror, mirror.channel.handle())?;
        spinner.wait_round(&values)?;
    }
    ensure_eq!(query(&mirror, mirror.channel.handle())?.resets, 0);
    spinner.finish(&job)
}

fn channels_of_others_cannot_be_asked_or_reset() -> Result<()> {
    let (mirror, other) = (Mirror::new()?, Mirror::new()?);
    let spare = (0..2)
        .map(|_| mirror.svm.channel())
        .collect::<mirage::Result<Vec<_>>>()?;
    for foreign in spare.iter().map(Channel::handle).chain([1 << 20, u32::MAX]) {
        ensure_eq!(query(&other, foreign).err(), Some(Errno::ENOENT));
        ensure_eq!(reset(&other, foreign), Err(Errno::ENOENT));
    }
    let child = sys::fork(|| {
        let handle = mirror.channel.handle();
        ensure_eq!(query(&mirror, handle).err(), Some(Errno::EPERM));
        ensure_eq!(reset(&mirror, handle), Err(Errno::EPERM));
        Ok(())
    })?;
    child.join()
}

fn unknown_flags_of_query_and_reset_are_invalid() -> Result<()> {
    let mirror = Mirror::new()?;
    let channel = mirror.channel.handle();
    for bit in (0..32).map(|bit| 1 << bit) {
        let args = ChannelReset {
            channel,
            flags: bit,
        };
        let outcome = call(mirror.gpu.as_fd(), IoctlId::ChannelReset, args);
        ensure_eq!(outcome.err(), Some(Errno::EINVAL));
        let args = ChannelQuery {
            channel,
            pad: bit,
            ..Default::default()
        };
        let outcome = call(mirror.gpu.as_fd(), IoctlId::ChannelQuery, args);
        ensure_eq!(outcome.err(), Some(Errno::EINVAL));
    }
    Ok(())
}
