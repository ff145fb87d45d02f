// SPDX-License-Identifier: MIT OR Apache-2.0
//! Channels that fail: what they tell, how they begin anew, and that nobody else notices.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use mirage::uapi::{
    ChannelAlloc, ChannelFree, ChannelQuery, ChannelReset, IoctlId, Param, CHANNEL_STOPPED,
};
use mirage::{lanes, Access, Atomic, Channel, GpuPtr, Load, PushBuffer, Reason, Store, Subchannel};
use nix::errno::Errno;
use nix::sys::mman::MmapAdvise;

use crate::channels::still_works;
use crate::fixture::{ensure_eq, Mirror, Spinner, LIMIT};
use crate::harness::{guest_tests, wait_until};
use crate::ioctls::{call, describe, exec};
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
    a_launch_that_hangs_is_killed_and_no_other,
    a_semaphore_that_nobody_releases_is_killed,
    work_that_waits_for_a_hung_launch_goes_on_after_it,
    work_that_faults_gets_on,
    a_long_queue_gets_on,
    a_time_out_or_an_engine_that_there_is_not_is_invalid,
    a_file_has_fewer_channels_than_the_device,
    channels_of_others_cannot_be_asked_or_reset,
    unknown_flags_of_query_and_reset_are_invalid,
];

/// A channel made with its own arguments, freed with this value.
struct RawChannel<'a> {
    mirror: &'a Mirror,
    handle: u32,
}

impl<'a> RawChannel<'a> {
    fn with_timeout(mirror: &'a Mirror, timeout_ms: u32) -> Result<Self> {
        let args = ChannelAlloc {
            timeout_ms,
            ..Default::default()
        };
        let args = call(mirror.gpu.as_fd(), IoctlId::ChannelAlloc, args)?;
        Ok(RawChannel {
            mirror,
            handle: args.channel,
        })
    }

    fn exec(&self, push: &[u32]) -> nix::Result<()> {
        let pushes = [describe(push)];
        let args = exec(&pushes, self.handle);
        call(self.mirror.gpu.as_fd(), IoctlId::Exec, args).map(drop)
    }

    fn query(&self) -> nix::Result<ChannelQuery> {
        query(self.mirror, self.handle)
    }

    /// Waits until it is stopped, and returns what it tells then.
    fn wait_stopped(&self) -> Result<ChannelQuery> {
        wait_until(LIMIT, || {
            self.query().is_ok_and(|query| {
                query.state == CHANNEL_STOPPED && query.finished == query.submitted
            })
        })
        .context("the channel is not stopped")?;
        Ok(self.query()?)
    }
}

impl Drop for RawChannel<'_> {
    fn drop(&mut self) {
        let free = ChannelFree {
            channel: self.handle,
            pad: 0,
        };
        let _ = call(self.mirror.gpu.as_fd(), IoctlId::ChannelFree, free);
    }
}

fn query(mirror: &Mirror, channel: u32) -> nix::Result<ChannelQuery> {
    let args = ChannelQuery {
        channel,
        ..Default::default()
    };
    call(mirror.gpu.as_fd(), IoctlId::ChannelQuery, args)
}

fn reset(mirror: &Mirror, channel: u32) -> nix::Result<()> {
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
    for resets in 1..=20 {
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

fn a_launch_that_hangs_is_killed_and_no_other() -> Result<()> {
    let (mirror, other) = (Mirror::new()?, Mirror::new()?);
    let (values, others) = (Region::anonymous(PAGE)?, Region::anonymous(PAGE)?);
    let (spinner, witness) = (Spinner::over(&values)?, Spinner::over(&others)?);
    let job = witness.start(&mirror.channel)?;
    let hung = RawChannel::with_timeout(&mirror, 1000)?;
    let begin = Instant::now();
    hung.exec(&push_of_spinner(&mirror.channel, spinner.operation())?)?;
    let told = hung.wait_stopped()?;
    ensure!(
        begin.elapsed() >= Duration::from_millis(900),
        "killed after {:?}",
        begin.elapsed()
    );
    ensure_eq!(
        (Access::from(told.access), Reason::from(told.reason)),
        (Access::None, Reason::Timeout)
    );
    let then = values.load(0);
    // Neither its neighbour in the same process nor another process has noticed.
    witness.wait_round(&others)?;
    still_works(&other)?;
    ensure_eq!(values.load(0), then);
    reset(&mirror, hung.handle)?;
    let add = push_of(&mirror.channel, Atomic::add(values.lanes(8, 0), 1_u64))?;
    let before = values.load(8);
    hung.exec(&add)?;
    wait_until(LIMIT, || values.load(8) == before + 1)?;
    witness.finish(&job)
}

fn a_semaphore_that_nobody_releases_is_killed() -> Result<()> {
    const SEM_ADDR_LO: u16 = 0x5c;
    let (mirror, page) = (Mirror::new()?, Region::anonymous(PAGE)?);
    let hung = RawChannel::with_timeout(&mirror, 500)?;
    // Host reaches 40 bits, so the address is one that the range of the driver has: its own semaphore, which never gets there.
    let (start, _) = mirror.svm.unmanaged();
    let semaphore = start + u64::from(hung.handle) * 0x4_0000 + 0x1000;
    let mut push = PushBuffer::new();
    push.methods(
        Subchannel(0),
        SEM_ADDR_LO,
        &[
            semaphore as u32,
            (semaphore >> 32) as u32,
            0x7fff_0000,
            0,
            0,
        ],
    );
    hung.exec(push.words())?;
    let told = hung.wait_stopped()?;
    ensure_eq!(Reason::from(told.reason), Reason::Timeout);
    ensure_eq!(page.load(0), 0);
    still_works(&mirror)
}

fn work_that_waits_for_a_hung_launch_goes_on_after_it() -> Result<()> {
    let (mirror, values, page) = (
        Mirror::new()?,
        Region::anonymous(PAGE)?,
        Region::anonymous(PAGE)?,
    );
    let (spinner, hung) = (
        Spinner::over(&values)?,
        RawChannel::with_timeout(&mirror, 500)?,
    );
    let (fence, done) = (Syncobj::new(&mirror.gpu)?, Syncobj::new(&mirror.gpu)?);
    let push = push_of_spinner(&mirror.channel, spinner.operation())?;
    let pushes = [describe(&push)];
    let signals = [fence.binary()];
    let args = mirage::uapi::Exec {
        sig_count: 1,
        sig_ptr: signals.as_ptr().expose_provenance() as u64,
        ..exec(&pushes, hung.handle)
    };
    call(mirror.gpu.as_fd(), IoctlId::Exec, args)?;
    Submission::of(push_of(
        &mirror.channel,
        Store::new(page.lanes(0, 0), 1_u64),
    )?)
    .after(fence.binary())
    .signals(done.binary())
    .exec(&mirror.gpu, &mirror.channel)?;
    ensure_eq!((done.error()?, page.load(0)), (None, 1));
    ensure_eq!(fence.error()?, Some(Errno::EIO));
    Ok(())
}

/// Each page takes a fault, all together far longer than the time-out.
fn work_that_faults_gets_on() -> Result<()> {
    const PAGES: usize = 16 << 10;
    const TIMEOUT_MS: u32 = 1000;
    let (mirror, region) = (Mirror::new()?, Region::anonymous(PAGES * PAGE)?);
    let _ = region.advise(0..region.len(), MmapAdvise::MADV_NOHUGEPAGE);
    let channel = RawChannel::with_timeout(&mirror, TIMEOUT_MS)?;
    let begin = Instant::now();
    // One launch after the other without a pause, until it has taken long enough.
    let mut rounds = 0_u64;
    while begin.elapsed() < Duration::from_millis(3 * u64::from(TIMEOUT_MS)) {
        region.advise(0..region.len(), MmapAdvise::MADV_DONTNEED)?;
        let mut push = mirror.channel.push_buffer();
        push.launch(
            &Store::new(region.lanes(0, PAGE), 1_u64),
            lanes(PAGES as u32),
        )?;
        channel.exec(push.words())?;
        rounds += 1;
        wait_until(LIMIT, || {
            channel
                .query()
                .is_ok_and(|query| query.finished == rounds || query.state == CHANNEL_STOPPED)
        })?;
        let told = channel.query()?;
        ensure!(
            told.state != CHANNEL_STOPPED,
            "stopped in round {rounds}: {:?}",
            Reason::from(told.reason)
        );
    }
    Ok(())
}

/// Each piece of work is short, all together they take longer than the time-out.
fn a_long_queue_gets_on() -> Result<()> {
    const TIMEOUT_MS: u32 = 1000;
    let (mirror, region) = (Mirror::new()?, Region::anonymous(64 * PAGE)?);
    let channel = RawChannel::with_timeout(&mirror, TIMEOUT_MS)?;
    let mut push = mirror.channel.push_buffer();
    push.launch(&Atomic::add(region.lanes(0, 8), 1_u64), lanes(64 * 512))?;
    let (begin, mut submitted) = (Instant::now(), 0);
    while begin.elapsed() < Duration::from_millis(3 * u64::from(TIMEOUT_MS)) {
        channel.exec(push.words())?;
        submitted += 1;
    }
    wait_until(LIMIT, || {
        channel
            .query()
            .is_ok_and(|query| query.finished == submitted)
    })?;
    ensure_eq!(channel.query()?.state, 0);
    ensure_eq!(region.load(0), submitted);
    Ok(())
}

fn a_time_out_or_an_engine_that_there_is_not_is_invalid() -> Result<()> {
    let mirror = Mirror::new()?;
    let max = mirror.gpu.param(Param::TimeoutMax)? as u32;
    let default = mirror.gpu.param(Param::TimeoutDefault)?;
    ensure!(
        default > 0 && default <= u64::from(max),
        "default {default}, at most {max}"
    );
    drop(RawChannel::with_timeout(&mirror, max)?);
    for (engine, timeout_ms) in [(0, max + 1), (0, u32::MAX), (2, 0), (u32::MAX, 0)] {
        let args = ChannelAlloc {
            engine,
            timeout_ms,
            ..Default::default()
        };
        let outcome = call(mirror.gpu.as_fd(), IoctlId::ChannelAlloc, args);
        ensure!(
            outcome.err() == Some(Errno::EINVAL),
            "engine {engine}, {timeout_ms} ms: {outcome:?}"
        );
    }
    Ok(())
}

fn a_file_has_fewer_channels_than_the_device() -> Result<()> {
    let (mirror, other) = (Mirror::new()?, Mirror::new()?);
    let max = mirror.gpu.param(Param::ChannelsPerFile)?;
    ensure!(
        max < mirror.gpu.param(Param::ChannelsMax)?,
        "one file may take all channels"
    );
    let mut channels = (1..max)
        .map(|_| mirror.svm.channel())
        .collect::<mirage::Result<Vec<_>>>()?;
    for _ in 0..3 {
        ensure_eq!(
            mirror.svm.channel().err().and_then(|error| error.errno()),
            Some(Errno::ENOSPC)
        );
        let _others = other.svm.channel()?;
        channels.pop();
        channels.push(mirror.svm.channel()?);
    }
    still_works(&mirror)
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
