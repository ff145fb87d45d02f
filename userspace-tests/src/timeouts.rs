// SPDX-License-Identifier: MIT OR Apache-2.0
//! Time-outs: work that hangs is killed, nobody else notices, and work that gets on is left alone.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use mirage::uapi::{ChannelAlloc, ChannelFree, ChannelQuery, IoctlId, Param, CHANNEL_STOPPED};
use mirage::{lanes, Access, Atomic, GpuPtr, PushBuffer, Reason, Store, Subchannel};
use nix::errno::Errno;
use nix::sys::mman::MmapAdvise;

use crate::channels::still_works;
use crate::fixture::{ensure_eq, Mirror, Spinner, LIMIT};
use crate::harness::{guest_tests, rounds, wait_until};
use crate::ioctls::{call, describe, exec};
use crate::region::{Region, PAGE};
use crate::stopped::{query, reset};
use crate::submit::{push_of, push_of_spinner, Submission, Syncobj};

guest_tests![
    a_launch_that_hangs_is_killed_and_no_other,
    a_launch_that_hangs_and_says_that_it_is_done_is_killed,
    a_semaphore_that_nobody_releases_is_killed,
    work_that_waits_for_a_hung_launch_goes_on_after_it,
    work_that_faults_gets_on,
    a_long_queue_gets_on,
    a_time_out_or_an_engine_that_there_is_not_is_invalid,
];

/// Longer than a machine with other things to do stands still.
const TIMEOUT_MS: u32 = 4000;

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

    /// Address of its semaphore (driver/channel/ring.rs).
    fn semaphore(&self) -> u64 {
        let (start, _) = self.mirror.svm.unmanaged();
        start + u64::from(self.handle) * 0x4_0000 + 0x1000
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

fn a_launch_that_hangs_is_killed_and_no_other() -> Result<()> {
    let (mirror, other) = (Mirror::new()?, Mirror::new()?);
    let (values, others) = (Region::anonymous(PAGE)?, Region::anonymous(PAGE)?);
    let (spinner, witness) = (Spinner::over(&values)?, Spinner::over(&others)?);
    let job = witness.start(&mirror.channel)?;
    let hung = RawChannel::with_timeout(&mirror, TIMEOUT_MS)?;
    let begin = Instant::now();
    hung.exec(&push_of_spinner(&mirror.channel, spinner.operation())?)?;
    let told = hung.wait_stopped()?;
    ensure!(
        begin.elapsed() >= Duration::from_millis(u64::from(TIMEOUT_MS) - 100),
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

/// Its program writes the semaphore of its channel.
fn a_launch_that_hangs_and_says_that_it_is_done_is_killed() -> Result<()> {
    let (mirror, values) = (Mirror::new()?, Region::anonymous(PAGE)?);
    let (spinner, hung) = (
        Spinner::over(&values)?,
        RawChannel::with_timeout(&mirror, TIMEOUT_MS)?,
    );
    hung.exec(&push_of_spinner(&mirror.channel, spinner.operation())?)?;
    spinner.wait_round(&values)?;
    // Sequence numbers begin at 1.
    let done = Store::new(GpuPtr::new(hung.semaphore()).into(), (u64::MAX << 32) | 1);
    mirror.run(done, lanes(1))?;
    wait_until(LIMIT, || hung.query().is_ok_and(|told| told.finished == 1))
        .context("the lie does not arrive")?;
    let told = hung.wait_stopped()?;
    ensure_eq!(Reason::from(told.reason), Reason::Timeout);
    still_works(&mirror)
}

fn a_semaphore_that_nobody_releases_is_killed() -> Result<()> {
    const SEM_ADDR_LO: u16 = 0x5c;
    let (mirror, page) = (Mirror::new()?, Region::anonymous(PAGE)?);
    let hung = RawChannel::with_timeout(&mirror, 500)?;
    // Host reaches 40 bits, so the address is one that the range of the driver has: its own semaphore, which never gets there.
    let semaphore = hung.semaphore();
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
    let pages = rounds(16 << 10) as usize;
    let (mirror, region) = (Mirror::new()?, Region::anonymous(pages * PAGE)?);
    let _ = region.advise(0..region.len(), MmapAdvise::MADV_NOHUGEPAGE);
    let channel = RawChannel::with_timeout(&mirror, TIMEOUT_MS)?;
    let begin = Instant::now();
    // One launch after the other without a pause, until it has taken long enough.
    let mut done = 0_u64;
    while begin.elapsed() < Duration::from_millis(2 * u64::from(TIMEOUT_MS)) {
        region.advise(0..region.len(), MmapAdvise::MADV_DONTNEED)?;
        let mut push = mirror.channel.push_buffer();
        push.launch(
            &Store::new(region.lanes(0, PAGE), 1_u64),
            lanes(pages as u32),
        )?;
        channel.exec(push.words())?;
        done += 1;
        wait_until(LIMIT, || {
            channel
                .query()
                .is_ok_and(|query| query.finished == done || query.state == CHANNEL_STOPPED)
        })?;
        let told = channel.query()?;
        ensure!(
            told.state != CHANNEL_STOPPED,
            "stopped in round {done}: {:?}",
            Reason::from(told.reason)
        );
    }
    Ok(())
}

/// Each piece of work is short, all together they take longer than the time-out.
fn a_long_queue_gets_on() -> Result<()> {
    let (mirror, region) = (Mirror::new()?, Region::anonymous(64 * PAGE)?);
    let channel = RawChannel::with_timeout(&mirror, TIMEOUT_MS)?;
    let mut push = mirror.channel.push_buffer();
    push.launch(&Atomic::add(region.lanes(0, 8), 1_u64), lanes(64 * 512))?;
    let (begin, mut submitted) = (Instant::now(), 0);
    while begin.elapsed() < Duration::from_millis(2 * u64::from(TIMEOUT_MS)) {
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
