// SPDX-License-Identifier: MIT OR Apache-2.0
//! Events on the DRM file: why channels were stopped, with read(2) and poll(2).

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use anyhow::{ensure, Context, Result};
use mirage::{lanes, Error, GpuPtr, Load, Store};
use nix::errno::Errno;
use nix::fcntl::{fcntl, FcntlArg, OFlag};
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::time::{clock_gettime, ClockId};
use nix::unistd::read;

use crate::fixture::{ensure_eq, Mirror, LIMIT};
use crate::harness::guest_tests;
use crate::sys::fork;

guest_tests![
    a_stopped_channel_is_an_event_that_says_why,
    the_event_is_there_when_the_fence_signals,
    without_an_event_the_file_is_not_readable,
    a_reader_sleeps_until_an_event_comes,
    an_event_is_read_whole_or_not_at_all,
    events_beyond_the_space_of_the_file_are_counted,
    an_event_goes_to_the_file_of_its_channel_only,
    files_can_be_closed_while_events_are_sent,
];

/// Bytes of `struct drm_mirage_event_fault`.
const EVENT_SIZE: usize = 48;
/// DRM_MIRAGE_EVENT_FAULT
const EVENT_FAULT: u32 = 0x8000_0000;
/// Events that a DRM file has room for.
const EVENTS_MAX: usize = 4096 / EVENT_SIZE;

#[derive(Debug)]
struct Fault {
    addr: u64,
    timestamp: Duration,
    batch: u64,
    channel: u32,
    access: u32,
    reason: u32,
    dropped: u32,
}

impl Fault {
    fn parse(record: &[u8]) -> Result<Self> {
        ensure_eq!(record.len(), EVENT_SIZE);
        let u32_at =
            |at: usize| u32::from_ne_bytes(record[at..at + 4].try_into().unwrap_or_default());
        let u64_at =
            |at: usize| u64::from_ne_bytes(record[at..at + 8].try_into().unwrap_or_default());
        ensure_eq!((u32_at(0), u32_at(4) as usize), (EVENT_FAULT, EVENT_SIZE));
        Ok(Fault {
            addr: u64_at(8),
            timestamp: Duration::from_nanos(u64_at(16)),
            batch: u64_at(24),
            channel: u32_at(32),
            access: u32_at(36),
            reason: u32_at(40),
            dropped: u32_at(44),
        })
    }
}

fn is_readable(fd: BorrowedFd<'_>, wait: PollTimeout) -> Result<bool> {
    let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
    poll(&mut fds, wait).context("poll")?;
    Ok(fds[0].any().unwrap_or(false))
}

/// The event that must be there.
fn take(fd: BorrowedFd<'_>) -> Result<Fault> {
    ensure!(is_readable(fd, PollTimeout::ZERO)?, "no event is there");
    let mut record = [0; EVENT_SIZE];
    let len = read(fd, &mut record).context("read")?;
    Fault::parse(&record[..len])
}

fn now() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_MONOTONIC)?.into())
}

/// Has a channel of its own stopped by a read of page `page`, where nothing is mapped. Returns its handle.
fn stop_one(mirror: &Mirror, page: u64) -> Result<u32> {
    let channel = mirror.svm.channel()?;
    let job = channel.launch(Load::<u64>::new(GpuPtr::new(page << 12).into()), lanes(1))?;
    ensure!(
        matches!(job.wait(LIMIT), Err(Error::Stopped { .. })),
        "a bad pointer was not stopped"
    );
    Ok(channel.handle())
}

fn a_stopped_channel_is_an_event_that_says_why() -> Result<()> {
    let (mirror, before) = (Mirror::new()?, now()?);
    let channel = mirror.svm.channel()?;
    let job = channel.launch(Store::new(GpuPtr::new(0x5128).into(), 1_u64), lanes(1))?;
    ensure!(job.wait(LIMIT).is_err(), "a bad pointer was not stopped");
    let event = take(mirror.gpu.as_fd())?;
    ensure!((before..=now()?).contains(&event.timestamp), "{event:?}");
    // Write; nothing is mapped there.
    let seen = (event.addr, event.channel, event.access, event.reason);
    ensure_eq!(seen, (0x5000, channel.handle(), 1, 1));
    ensure!(event.batch > 0 && event.dropped == 0, "{event:?}");
    ensure!(
        event.batch <= mirror.counters()?.get("batches"),
        "{event:?}"
    );
    ensure!(
        !is_readable(mirror.gpu.as_fd(), PollTimeout::ZERO)?,
        "a second event of the same channel"
    );
    Ok(())
}

fn the_event_is_there_when_the_fence_signals() -> Result<()> {
    let mirror = Mirror::new()?;
    for page in 0..40 {
        let channel = stop_one(&mirror, page)?;
        let event = take(mirror.gpu.as_fd())?;
        ensure_eq!((event.addr, event.channel), (page << 12, channel));
    }
    Ok(())
}

fn without_an_event_the_file_is_not_readable() -> Result<()> {
    let mirror = Mirror::new()?;
    let fd = mirror.gpu.as_fd();
    ensure!(
        !is_readable(fd, PollTimeout::ZERO)?,
        "what is there to read?"
    );
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    ensure_eq!(read(fd, &mut [0; EVENT_SIZE]), Err(Errno::EAGAIN));
    Ok(())
}

fn a_reader_sleeps_until_an_event_comes() -> Result<()> {
    let mirror = Mirror::new()?;
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| is_readable(mirror.gpu.as_fd(), PollTimeout::from(60_000_u16)));
        std::thread::sleep(Duration::from_millis(50));
        ensure!(!reader.is_finished(), "woken by nothing");
        stop_one(&mirror, 1)?;
        let readable = reader.join().map_err(|_| anyhow::anyhow!("panic"))??;
        ensure!(readable, "not woken within a minute");
        take(mirror.gpu.as_fd()).map(drop)
    })
}

fn an_event_is_read_whole_or_not_at_all() -> Result<()> {
    let mirror = Mirror::new()?;
    let fd = mirror.gpu.as_fd();
    (1..=3).try_for_each(|page| stop_one(&mirror, page).map(drop))?;
    ensure_eq!(read(fd, &mut [0; EVENT_SIZE - 1])?, 0);
    let mut two = [0; 3 * EVENT_SIZE - 1];
    ensure_eq!(read(fd, &mut two)?, 2 * EVENT_SIZE);
    ensure_eq!(Fault::parse(&two[..EVENT_SIZE])?.addr, 0x1000);
    ensure_eq!(Fault::parse(&two[EVENT_SIZE..2 * EVENT_SIZE])?.addr, 0x2000);
    ensure_eq!(take(fd)?.addr, 0x3000);
    Ok(())
}

fn events_beyond_the_space_of_the_file_are_counted() -> Result<()> {
    const MORE: u32 = 5;
    let mirror = Mirror::new()?;
    let fd = mirror.gpu.as_fd();
    let before = mirror.counters()?.get("dropped_events");
    for page in 0..EVENTS_MAX as u64 + u64::from(MORE) {
        stop_one(&mirror, page)?;
    }
    for page in 0..EVENTS_MAX as u64 {
        let event = take(fd)?;
        ensure_eq!((event.addr, event.dropped), (page << 12, 0));
    }
    ensure!(!is_readable(fd, PollTimeout::ZERO)?, "more than fits");
    ensure_eq!(
        mirror.counters()?.get("dropped_events") - before,
        u64::from(MORE)
    );
    // The next carries how many were lost before it, the one after that none.
    stop_one(&mirror, 0)?;
    ensure_eq!(take(fd)?.dropped, MORE);
    stop_one(&mirror, 0)?;
    ensure_eq!(take(fd)?.dropped, 0);
    Ok(())
}

fn an_event_goes_to_the_file_of_its_channel_only() -> Result<()> {
    let (one, other) = (Mirror::new()?, Mirror::new()?);
    stop_one(&one, 7)?;
    ensure!(
        !is_readable(other.gpu.as_fd(), PollTimeout::ZERO)?,
        "an event of another file"
    );
    ensure_eq!(take(one.gpu.as_fd())?.addr, 0x7000);
    Ok(())
}

/// The file goes while its channels are being stopped, and its events wait to be read.
fn files_can_be_closed_while_events_are_sent() -> Result<()> {
    for round in 0..20 {
        let child = fork(|| {
            let mirror = Mirror::new()?;
            let channels = (0..8)
                .map(|_| mirror.svm.channel())
                .collect::<mirage::Result<Vec<_>>>()?;
            let nowhere = Load::<u64>::new(GpuPtr::new(0).into());
            let jobs = channels
                .iter()
                .map(|channel| channel.launch(nowhere, lanes(1)))
                .collect::<mirage::Result<Vec<_>>>()?;
            std::thread::sleep(Duration::from_millis(round));
            drop(jobs);
            Ok(())
        })?;
        child.join()?;
    }
    stop_one(&Mirror::new()?, 1).map(drop)
}
