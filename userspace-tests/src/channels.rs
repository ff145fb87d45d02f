// SPDX-License-Identifier: MIT OR Apache-2.0
//! Channels: order within one, independence between them, and their end.

use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use anyhow::{ensure, Context, Result};
use mirage::uapi::{IoctlId, Param, SvmInit};
use mirage::{lanes, Atomic, Channel, CopyBytes, Error, Gpu, PushBuffer, Store};
use nix::errno::Errno;
use nix::unistd::close;

use crate::exec::exec_once;
use crate::fixture::{ensure_eq, Mirror, Spinner, LIMIT};
use crate::harness::{guest_tests, rounds, wait_until};
use crate::ioctls::call;
use crate::region::{Region, PAGE, WORD};
use crate::submit::{marker, push_of_spinner, Submission, Syncobj};
use crate::sys;

guest_tests![
    work_of_one_channel_runs_in_order,
    launches_of_one_push_buffer_run_in_order,
    thousands_of_submissions_may_be_queued,
    the_largest_push_buffer_runs,
    work_without_a_push_buffer_may_follow_a_full_ring,
    channels_run_side_by_side,
    threads_use_their_own_channels_at_once,
    when_all_channels_are_taken_the_next_gets_enospc,
    a_file_has_fewer_channels_than_the_device,
    when_a_device_has_all_address_spaces_the_next_gets_enospc,
    freeing_a_channel_ends_its_work_with_an_error,
    after_a_channel_was_freed_its_work_does_not_write,
    closing_the_file_abandons_its_work,
    two_files_of_a_process_mirror_the_same_memory,
    a_signal_ends_the_wait_for_room_in_the_ring,
];

/// Each launch copies what the one before it wrote and adds 1, going round in three words.
fn work_of_one_channel_runs_in_order() -> Result<()> {
    const STEPS: usize = 200;
    let (mirror, region) = (Mirror::new()?, Region::anonymous(PAGE)?);
    let word = |step: usize| region.lanes(step % 3 * WORD, 0);
    for step in 1..STEPS {
        mirror
            .channel
            .launch(CopyBytes::new(word(step), word(step - 1), 8), lanes(1))?;
        mirror
            .channel
            .launch(Atomic::add(word(step), 1_u64), lanes(1))?;
    }
    mirror.run(
        CopyBytes::new(region.lanes(PAGE / 2, 0), word(STEPS - 1), 8),
        lanes(1),
    )?;
    ensure_eq!(region.load(PAGE / 2), STEPS as u64 - 1);
    Ok(())
}

fn launches_of_one_push_buffer_run_in_order() -> Result<()> {
    let (mirror, region) = (Mirror::new()?, Region::anonymous(2 * PAGE)?);
    let (words, a, b) = (lanes(512), region.lanes(0, WORD), region.lanes(PAGE, WORD));
    let mut push = mirror.channel.push_buffer();
    push.launch(&Store::new(a, 10_u64).plus_lane(), words)?
        .launch(&CopyBytes::new(b, a, 8), words)?
        .launch(&Store::new(a, 0_u64), words)?
        .launch(&Atomic::add(b, 1_u64), words)?;
    mirror.channel.submit(&push)?.wait(LIMIT)?;
    ensure!(
        region.words(0..PAGE).iter().all(|&word| word == 0),
        "the store did not come after the copy"
    );
    ensure!(
        region.words(PAGE..2 * PAGE).into_iter().eq(11..523),
        "the add did not come after the copy"
    );
    Ok(())
}

fn thousands_of_submissions_may_be_queued() -> Result<()> {
    let count = rounds(5000);
    let (mirror, region) = (Mirror::new()?, Region::anonymous(PAGE)?);
    for _ in 1..count {
        mirror
            .channel
            .launch(Atomic::add(region.lanes(0, 0), 1_u64), lanes(1))?;
    }
    mirror.run(Atomic::add(region.lanes(0, 0), 1_u64), lanes(1))?;
    ensure_eq!(region.load(0), count);
    Ok(())
}

/// A push buffer of as many words as the driver takes: one launch, and NO_OPERATION for the rest.
fn the_largest_push_buffer_runs() -> Result<()> {
    const NO_OPERATION: u16 = 0x0100;
    let (mirror, region) = (Mirror::new()?, Region::anonymous(PAGE)?);
    let max = mirror.gpu.param(Param::PushMax)? as usize / 4;
    let mut push = mirror.channel.push_buffer();
    push.launch(&Atomic::add(region.lanes(0, 0), 1_u64), lanes(1))?;
    while push.words().len() + 2 <= max {
        push.methods(mirage::COMPUTE, NO_OPERATION, &[0]);
    }
    if push.words().len() < max {
        // A header without data.
        push.raw((1 << 29) | u32::from(NO_OPERATION >> 2));
    }
    mirror.channel.submit(&push)?.wait(LIMIT)?;
    ensure_eq!(region.load(0), 1);
    push.methods(mirage::COMPUTE, NO_OPERATION, &[0]);
    ensure_eq!(
        mirror
            .channel
            .submit(&push)
            .err()
            .and_then(|error| error.errno()),
        Some(Errno::EINVAL)
    );
    Ok(())
}

/// Push buffers that end where the ring does, then work that has none, then more.
fn work_without_a_push_buffer_may_follow_a_full_ring() -> Result<()> {
    // A header without data.
    const NO_OPERATION: u32 = (1 << 29) | (0x0100 >> 2);
    /// The largest push buffers that a ring holds (driver/channel/ring.rs).
    const RING: usize = 3;
    let (mirror, values) = (Mirror::new()?, Region::anonymous(PAGE)?);
    let page = Region::anonymous(PAGE)?;
    let max = mirror.gpu.param(Param::PushMax)? as usize / 4;
    let spinner = Spinner::over(&values)?;
    let first = push_of_spinner(&mirror.channel, spinner.operation())?;
    let rest = max - first.len();
    let (done, exec) = (Syncobj::new(&mirror.gpu)?, |work: Submission| {
        work.exec(&mirror.gpu, &mirror.channel)
    });
    exec(Submission::of(first))?;
    spinner.wait_round(&values)?;
    for _ in 1..RING {
        exec(Submission::of(vec![NO_OPERATION; max]))?;
    }
    exec(Submission::of(vec![NO_OPERATION; rest]))?;
    for _ in 0..3 {
        exec(Submission::default())?;
    }
    exec(marker(&mirror.channel, &page, 7)?.signals(done.binary()))?;
    spinner.stop();
    done.wait()?;
    ensure_eq!((done.error()?, page.load(0)), (None, 7));
    Ok(())
}

fn channels_run_side_by_side() -> Result<()> {
    let (mirror, values, target) = (
        Mirror::new()?,
        Region::anonymous(4 * PAGE)?,
        Region::anonymous(64 * PAGE)?,
    );
    let spinner = Spinner::over(&values)?;
    let job = spinner.start(&mirror.channel)?;
    spinner.wait_round(&values)?;
    for value in 1..20 {
        let other = mirror.svm.channel()?;
        other
            .launch(Store::new(target.lanes(0, PAGE), value), lanes(64))?
            .wait(LIMIT)?;
        ensure_eq!(target.page_words(), vec![value; 64]);
    }
    spinner.finish(&job)
}

fn threads_use_their_own_channels_at_once() -> Result<()> {
    const THREADS: usize = 4;
    let (mirror, region) = (Mirror::new()?, Region::anonymous(64 * PAGE)?);
    let work = |channel: Channel| -> Result<()> {
        for _ in 0..50 {
            channel
                .launch(Atomic::add(region.lanes(0, WORD), 1_u64), lanes(64 * 512))?
                .wait(LIMIT)?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let start = |_| {
            anyhow::Ok(
                mirror
                    .svm
                    .channel()
                    .map(|channel| scope.spawn(|| work(channel)))?,
            )
        };
        let threads = (0..THREADS).map(start).collect::<Result<Vec<_>>>()?;
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().ok().context("a thread panicked")?)
    })?;
    let behind = region
        .words(0..region.len())
        .into_iter()
        .find(|&word| word != 50 * THREADS as u64);
    ensure_eq!(behind, None);
    Ok(())
}

fn when_a_device_has_all_address_spaces_the_next_gets_enospc() -> Result<()> {
    const MOST: usize = 512;
    let low = sys::Low::new()?;
    let size = Gpu::open()?.param(Param::UnmanagedMin)?;
    let unmanaged_addr = low.reserve(size)?;
    let open = || -> Result<nix::Result<Gpu>> {
        let gpu = Gpu::open()?;
        let args = SvmInit {
            unmanaged_addr,
            unmanaged_size: size,
            ..Default::default()
        };
        Ok(call(gpu.as_fd(), IoctlId::SvmInit, args).map(|_| gpu))
    };
    let mut files = Vec::new();
    let refused = loop {
        ensure!(files.len() <= MOST, "there is no bound");
        match open()? {
            Ok(file) => files.push(file),
            Err(errno) => break errno,
        }
    };
    ensure_eq!((refused, files.len()), (Errno::ENOSPC, MOST));
    files.pop();
    ensure!(open()?.is_ok(), "what was given back is not to be had");
    drop(files);
    still_works(&Mirror::new()?)
}

fn when_all_channels_are_taken_the_next_gets_enospc() -> Result<()> {
    let mirror = Mirror::new()?;
    let max = mirror.gpu.param(Param::ChannelsMax)?;
    let mut channels = Vec::new();
    let full = loop {
        match mirror.svm.channel() {
            Ok(channel) => channels.push(channel),
            Err(error) => break error,
        }
        ensure!(
            channels.len() as u64 <= max,
            "more channels than the device has"
        );
    };
    ensure_eq!(full.errno(), Some(Errno::ENOSPC));
    ensure!(
        channels.len() >= 8,
        "only {} channels for one process",
        channels.len()
    );
    let region = Region::anonymous(PAGE)?;
    let jobs = channels
        .iter()
        .map(|channel| channel.launch(Atomic::add(region.lanes(0, 0), 1_u64), lanes(1)));
    jobs.collect::<mirage::Result<Vec<_>>>()?
        .iter()
        .try_for_each(|job| job.wait(LIMIT))?;
    ensure_eq!(region.load(0), channels.len() as u64);
    channels.pop();
    mirror
        .svm
        .channel()
        .context("a channel was freed, but none is left")?;
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

fn freeing_a_channel_ends_its_work_with_an_error() -> Result<()> {
    let (mirror, values) = (Mirror::new()?, Region::anonymous(4 * PAGE)?);
    let spinner = Spinner::over(&values)?;
    for _ in 0..rounds(20) {
        let channel = mirror.svm.channel()?;
        let (running, queued) = (spinner.start(&channel)?, spinner.start(&channel)?);
        spinner.wait_round(&values)?;
        drop(channel);
        for job in [running, queued] {
            ensure!(
                matches!(job.wait(LIMIT), Err(Error::Stopped { .. })),
                "the fence does not tell of the end"
            );
        }
    }
    ensure_eq!(mirror.svm.fault_events().try_next()?, None);
    Ok(())
}

fn after_a_channel_was_freed_its_work_does_not_write() -> Result<()> {
    let (mirror, values) = (Mirror::new()?, Region::anonymous(16 * PAGE)?);
    let spinner = Spinner::over(&values)?;
    for round in 0..rounds(20) {
        let channel = mirror.svm.channel()?;
        let _job = spinner.start(&channel)?;
        spinner.wait_round(&values)?;
        drop(channel);
        let then = values.page_words();
        std::thread::sleep(Duration::from_millis(20));
        ensure!(
            values.page_words() == then,
            "round {round}: the work of a freed channel goes on"
        );
    }
    Ok(())
}

fn closing_the_file_abandons_its_work() -> Result<()> {
    let values = Region::anonymous(16 * PAGE)?;
    let spinner = Spinner::over(&values)?;
    for round in 0..rounds(20) {
        let mirror = Mirror::new()?;
        let job = spinner.start(&mirror.channel)?;
        spinner.wait_round(&values)?;
        // Nothing frees the channel but the end of the file.
        let file = mirror.gpu.as_fd().as_raw_fd();
        std::mem::forget((mirror, job));
        close(file).context("close")?;
        wait_until(LIMIT, || {
            let then = values.page_words();
            std::thread::sleep(Duration::from_millis(20));
            values.page_words() == then
        })
        .with_context(|| format!("round {round}: the work of a closed file goes on"))?;
    }
    Ok(())
}

fn two_files_of_a_process_mirror_the_same_memory() -> Result<()> {
    let (first, second, region) = (
        Mirror::new()?,
        Mirror::new()?,
        Region::anonymous(32 * PAGE)?,
    );
    for round in 0..rounds(20) {
        first.run(Atomic::add(region.lanes(0, PAGE), 1_u64), lanes(32))?;
        second.run(Atomic::add(region.lanes(0, PAGE), 1_u64), lanes(32))?;
        ensure_eq!(region.page_words(), vec![2 * round + 2; 32]);
        sys::fork(|| Ok(()))?.join()?;
    }
    Ok(())
}

fn a_signal_ends_the_wait_for_room_in_the_ring() -> Result<()> {
    let (mirror, values) = (Mirror::new()?, Region::anonymous(PAGE)?);
    let spinner = Spinner::over(&values)?;
    let running = spinner.start(&mirror.channel)?;
    let push: PushBuffer = mirror.channel.push_buffer();
    let alarms = sys::Alarms::every(Duration::from_secs(5))?;
    // Behind work that does not end, the ring fills up; the next submission waits until an alarm comes.
    let outcome =
        (0..1_000_000).find_map(|_| exec_once(&mirror.gpu, &mirror.channel, push.words()).err());
    ensure_eq!(outcome, Some(Errno::EINTR));
    drop(alarms);
    spinner.finish(&running)?;
    mirror.run(Store::new(values.lanes(0, 0), 1_u64), lanes(1))
}

/// A launch on the mirror's channel does what it should.
pub(crate) fn still_works(mirror: &Mirror) -> Result<()> {
    let region = Region::anonymous(16 * PAGE)?;
    mirror.run(
        Store::new(region.lanes(0, PAGE), 1_u64).plus_lane(),
        lanes(16),
    )?;
    ensure!(
        region.page_words().into_iter().eq(1..=16),
        "the channel does not work any more"
    );
    Ok(())
}
