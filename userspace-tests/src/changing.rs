// SPDX-License-Identifier: MIT OR Apache-2.0
//! Push buffers that change: what EXEC has checked is what runs.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{bail, ensure, Context, Result};
use mirage::uapi::{Exec, IoctlId, Push, SyncPoint};
use mirage::{Channel, Store};
use nix::errno::Errno;

use crate::channels::still_works;
use crate::fences::Blocker;
use crate::fixture::{ensure_eq, Mirror};
use crate::harness::guest_tests;
use crate::ioctls::{call, exec};
use crate::region::{Region, PAGE, WORD};
use crate::submit::{push_of, Syncobj};

guest_tests![
    a_push_buffer_that_changes_all_the_time_runs_as_it_was_checked,
    work_that_waits_does_what_its_push_buffer_said_at_exec,
];

/// One word of data for one method; IMMD of the host's NOP.
const ONE_WORD: u32 = (1 << 29) | (1 << 16);
const NOP: u32 = 0x8000_0002;
const SET_VALUE_LOWER: u32 = ONE_WORD | (1 << 13) | (0x21c >> 2);
/// More data than there is: it would swallow what the driver appends.
const UNFINISHED: u32 = SET_VALUE_LOWER | (0x1fff << 16);

/// Words that do nothing, before those that change.
const PADDING: usize = 4096;

/// Words of a push buffer in memory that others write to meanwhile.
fn put(region: &Region, words: &[u32]) {
    for (i, pair) in words.chunks(2).enumerate() {
        region.store(i * WORD, pair_of(pair[0], *pair.get(1).unwrap_or(&NOP)));
    }
}

fn pair_of(low: u32, high: u32) -> u64 {
    (u64::from(high) << 32) | u64::from(low)
}

/// A store of a value to the page that is set by two words right before the launch, and the number of that pair.
fn store_of_changing_value(channel: &Channel, page: &Region) -> Result<(Vec<u32>, usize)> {
    let mut words = push_of(channel, Store::new(page.lanes(0, 0), 0_u64))?;
    let launch = words.split_off(words.len() - 2);
    // A look at all of that is long, and so the time in which another look would find something else.
    words.resize(words.len().next_multiple_of(2) + PADDING, NOP);
    let pair = words.len() / 2;
    words.extend([SET_VALUE_LOWER, 0]);
    words.extend(launch);
    Ok((words, pair))
}

/// EXEC of the first `len` words of a region, behind `waits`.
fn exec_region(
    mirror: &Mirror,
    region: &Region,
    len: usize,
    waits: &[SyncPoint],
    signals: &[SyncPoint],
) -> nix::Result<()> {
    let pushes = [Push {
        va: region.at(0).addr(),
        size: 4 * len as u32,
        flags: 0,
    }];
    let args = Exec {
        wait_count: waits.len() as u32,
        wait_ptr: waits.as_ptr().expose_provenance() as u64,
        sig_count: signals.len() as u32,
        sig_ptr: signals.as_ptr().expose_provenance() as u64,
        ..exec(&pushes, mirror.channel.handle())
    };
    call(mirror.gpu.as_fd(), IoctlId::Exec, args).map(drop)
}

/// What became of one EXEC, as an index.
fn outcome(mirror: &Mirror, region: &Region, len: usize, page: &Region) -> Result<usize> {
    let done = Syncobj::new(&mirror.gpu)?;
    page.store(0, 0);
    match exec_region(mirror, region, len, &[], &[done.binary()]) {
        Err(Errno::EINVAL) => {
            ensure_eq!((done.is_signaled()?, page.load(0)), (None, 0));
            return Ok(2);
        }
        other => other?,
    }
    match (done.error()?, page.load(0)) {
        (None, value @ (7 | 9)) => Ok(usize::from(value == 9)),
        other => bail!("neither refused nor what a version says: {other:x?}"),
    }
}

/// Two versions that are good and one that EXEC refuses: where that one ran, the device would stop the channel.
fn a_push_buffer_that_changes_all_the_time_runs_as_it_was_checked() -> Result<()> {
    const OF_EACH: u32 = 20;
    const ROUNDS: u32 = 20_000;
    let (mirror, push, page) = (
        Mirror::new()?,
        Region::anonymous(4 * PADDING + PAGE)?,
        Region::anonymous(PAGE)?,
    );
    let (words, pair) = store_of_changing_value(&mirror.channel, &page)?;
    put(&push, &words);
    let versions = [(SET_VALUE_LOWER, 7), (SET_VALUE_LOWER, 9), (UNFINISHED, 7)]
        .map(|(header, data)| pair_of(header, data));
    push.store(pair * WORD, versions[0]);
    let (done, mut seen) = (AtomicBool::new(false), [0_u32; 3]);
    std::thread::scope(|scope| {
        let storm = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                versions.iter().for_each(|v| push.store(pair * WORD, *v));
            }
        });
        let mut count = || -> Result<()> {
            for _ in 0..ROUNDS {
                seen[outcome(&mirror, &push, words.len(), &page)?] += 1;
                if seen.iter().all(|&times| times >= OF_EACH) {
                    return Ok(());
                }
            }
            Ok(())
        };
        let result = count();
        done.store(true, Ordering::Relaxed);
        storm.join().ok().context("the storm panicked")?;
        result
    })?;
    println!("7, 9, EINVAL: {seen:?}");
    ensure!(seen.iter().all(|&times| times >= OF_EACH), "{seen:?}");
    still_works(&mirror)
}

/// Other work, nonsense, and nothing at all where it was.
fn work_that_waits_does_what_its_push_buffer_said_at_exec() -> Result<()> {
    let (mirror, page) = (Mirror::new()?, Region::anonymous(PAGE)?);
    let words = push_of(&mirror.channel, Store::new(page.lanes(0, 0), 7_u64))?;
    let other = push_of(&mirror.channel, Store::new(page.lanes(0, 0), 9_u64))?;
    let nonsense = vec![u32::MAX; words.len()];
    for change in [Some(&other), Some(&nonsense), None] {
        let (mut push, blocker) = (Region::anonymous(PAGE)?, Blocker::new(&mirror)?);
        let done = Syncobj::new(&mirror.gpu)?;
        page.store(0, 0);
        put(&push, &words);
        let (waits, signals) = ([blocker.fence.binary()], [done.binary()]);
        exec_region(&mirror, &push, words.len(), &waits, &signals)?;
        match change {
            Some(words) => put(&push, words),
            None => push.unmap(0..PAGE)?,
        }
        ensure_eq!((page.load(0), done.is_signaled()?), (0, Some(false)));
        blocker.release()?;
        ensure_eq!((done.error()?, page.load(0)), (None, 7));
    }
    Ok(())
}
