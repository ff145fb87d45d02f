// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pages that must not be touched, mappings that must not change, and stacks, which have some of both.

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{ensure, Result};
use mirage::{lanes, Access, Atomic, GpuPtr, Load, Reason, Store};
use nix::errno::Errno;
use nix::sys::mman::{MmapAdvise, ProtFlags};

use crate::fixture::{ensure_eq, ensure_report, Mirror, Spinner};
use crate::harness::{guest_tests, skip};
use crate::region::{Advice, Region, PAGE, RW, WORD};
use crate::work::{count_while, ensure_counts_from, ensure_words, gpu_reads, gpu_writes};

guest_tests![
    a_guard_page_is_refused_until_it_is_removed,
    a_guard_page_put_under_the_gpu_stops_its_work,
    guard_pages_around_a_buffer_catch_an_overrun,
    a_sealed_mapping_works_and_stays,
    a_chain_of_protections_leaves_the_last_one,
    no_count_is_lost_while_pages_are_locked_and_unlocked,
    the_gpu_may_write_memory_that_may_be_executed,
    a_stack_is_valid_as_far_as_it_has_grown,
    the_gpu_does_not_grow_a_stack,
    threads_may_end_and_leave_their_channels_and_stacks,
];

const PAGES: usize = 16;
const LEN: usize = PAGES * PAGE;

/// Installs guards, or skips where the kernel has none.
fn guard(region: &Region, range: std::ops::Range<usize>) -> Result<()> {
    match region.ask(range, Advice::GuardInstall) {
        Ok(()) => Ok(()),
        Err(errno) => skip(format!("no guard pages: {errno}")),
    }
}

fn a_guard_page_is_refused_until_it_is_removed() -> Result<()> {
    let (mirror, region) = (Mirror::new()?, Region::anonymous(LEN)?);
    gpu_writes(&mirror, &region, 1)?;
    guard(&region, 3 * PAGE..5 * PAGE)?;
    let read = mirror.refused(Load::<u64>::new(region.lanes(3 * PAGE, 0)), lanes(1))?;
    ensure_report(&read, region.at(3 * PAGE), Access::Read, Reason::Permission)?;
    let write = mirror.refused(Store::new(region.lanes(4 * PAGE, 0), 1_u64), lanes(1))?;
    ensure_report(
        &write,
        region.at(4 * PAGE),
        Access::Write,
        Reason::Permission,
    )?;
    // A guard takes the page's contents with it.
    region.ask(3 * PAGE..5 * PAGE, Advice::GuardRemove)?;
    let due = |i: usize| {
        if (3..5).contains(&(i * WORD / PAGE)) {
            0
        } else {
            1 + i as u64
        }
    };
    ensure_words(&gpu_reads(&mirror, &region)?, due)?;
    gpu_writes(&mirror, &region, 2)?;
    ensure_counts_from(&region, 2)
}

fn a_guard_page_put_under_the_gpu_stops_its_work() -> Result<()> {
    let (mirror, region) = (Mirror::new()?, Region::anonymous(LEN)?);
    for page in [0, 7, 15] {
        let (spinner, channel) = (Spinner::over(&region)?, mirror.svm.channel()?);
        let job = spinner.start(&channel)?;
        spinner.wait_round(&region)?;
        guard(&region, page * PAGE..(page + 1) * PAGE)?;
        let report = mirror.stopped(&channel, &job)?;
        ensure_report(
            &report,
            region.at(page * PAGE),
            Access::Atomic,
            Reason::Permission,
        )?;
        region.ask(page * PAGE..(page + 1) * PAGE, Advice::GuardRemove)?;
        ensure_eq!(region.load(page * PAGE), 0);
    }
    Ok(())
}

fn guard_pages_around_a_buffer_catch_an_overrun() -> Result<()> {
    let (mirror, region) = (Mirror::new()?, Region::anonymous(LEN)?);
    guard(&region, 0..PAGE)?;
    guard(&region, LEN - PAGE..LEN)?;
    // One word too many: all others arrive.
    let words = (LEN - 2 * PAGE) / WORD;
    let report = mirror.refused(
        Store::new(region.lanes(PAGE, WORD), 3_u64),
        lanes(words as u32 + 1),
    )?;
    ensure_report(
        &report,
        region.at(LEN - PAGE),
        Access::Write,
        Reason::Permission,
    )?;
    mirror.run(
        Store::new(region.lanes(PAGE, WORD), 4_u64),
        lanes(words as u32),
    )?;
    ensure_words(&region.words(PAGE..LEN - PAGE), |_| 4)
}

fn a_sealed_mapping_works_and_stays() -> Result<()> {
    let (mirror, mut region) = (Mirror::new()?, Region::anonymous(LEN)?);
    gpu_writes(&mirror, &region, 1)?;
    match region.seal() {
        Ok(()) => {}
        Err(Errno::ENOSYS) => return skip("no mseal"),
        Err(errno) => anyhow::bail!("mseal: {errno}"),
    }
    gpu_writes(&mirror, &region, 10)?;
    ensure!(
        region.protect(0..PAGE, ProtFlags::PROT_READ).is_err(),
        "a sealed mapping was protected"
    );
    ensure!(
        region.move_away(0..PAGE).is_err(),
        "a sealed mapping was moved"
    );
    ensure_words(&gpu_reads(&mirror, &region)?, |i| 10 + i as u64)?;
    // Giving pages back is allowed where the program may write.
    region.advise(0..PAGE, MmapAdvise::MADV_DONTNEED)?;
    ensure_words(&gpu_reads(&mirror, &region)?, |i| {
        if i * WORD < PAGE {
            0
        } else {
            10 + i as u64
        }
    })
}

/// Each page goes through a chain of its own; in the end it can be used as the last link says.
fn a_chain_of_protections_leaves_the_last_one() -> Result<()> {
    let links = [
        ProtFlags::PROT_NONE,
        ProtFlags::PROT_READ,
        RW,
        RW | ProtFlags::PROT_EXEC,
    ];
    let (mirror, region) = (Mirror::new()?, Region::anonymous(4 * PAGE)?);
    region.no_huge_pages();
    let mut rng = fastrand::Rng::with_seed(17);
    for round in 0..12 {
        region.protect(0..4 * PAGE, RW)?;
        gpu_writes(&mirror, &region, round)?;
        let mut last = [RW; 4];
        for _ in 0..12 {
            let (page, link) = (rng.usize(0..4), links[rng.usize(0..4)]);
            region.protect(page * PAGE..(page + 1) * PAGE, link)?;
            last[page] = link;
        }
        for (page, prot) in last.into_iter().enumerate() {
            let at = region.lanes(page * PAGE, 0);
            let (load, store) = (
                Load::<u64>::new(at),
                Store::new(at, round + (page * PAGE / WORD) as u64),
            );
            let refused = |access| (region.at(page * PAGE), access, Reason::Permission);
            let outcome = match prot {
                ProtFlags::PROT_NONE => {
                    Some((mirror.refused(load, lanes(1))?, refused(Access::Read)))
                }
                ProtFlags::PROT_READ => {
                    mirror.run(load, lanes(1))?;
                    Some((mirror.refused(store, lanes(1))?, refused(Access::Write)))
                }
                _ => {
                    mirror.run(store, lanes(1))?;
                    None
                }
            };
            if let Some((report, (addr, access, reason))) = outcome {
                ensure_report(&report, addr, access, reason)?;
            }
        }
        region.protect(0..4 * PAGE, RW)?;
        ensure_counts_from(&region, round)?;
    }
    Ok(())
}

fn no_count_is_lost_while_pages_are_locked_and_unlocked() -> Result<()> {
    let region = Region::anonymous(LEN)?;
    count_while(&region, 20, |round| {
        if round % 2 == 0 {
            region.lock()
        } else {
            region.unlock()
        }
    })
}

fn the_gpu_may_write_memory_that_may_be_executed() -> Result<()> {
    let (mirror, region) = (Mirror::new()?, Region::anonymous(LEN)?);
    region.protect(0..LEN, RW | ProtFlags::PROT_EXEC)?;
    gpu_writes(&mirror, &region, 8)?;
    ensure_counts_from(&region, 8)
}

/// A frame of two pages on each level. The GPU adds to what the deepest ones have, the CPU checks on the way back.
#[inline(never)]
fn deeper(mirror: &Mirror, levels: u64) -> Result<()> {
    let frame = [const { AtomicU64::new(0) }; 1024];
    frame[0].store(levels, Ordering::Release);
    if levels > 0 {
        deeper(mirror, levels - 1)?;
    }
    if levels % 16 == 0 {
        let all = GpuPtr::from(frame[0].as_ptr()).stride(WORD as u32);
        mirror.run(Atomic::add(all, 1_u64), lanes(1024))?;
        let due = |i: usize| 1 + if i == 0 { levels } else { 0 };
        let words: Vec<u64> = frame
            .iter()
            .map(|word| word.load(Ordering::Acquire))
            .collect();
        ensure_words(&words, due)?;
    }
    Ok(())
}

fn a_stack_is_valid_as_far_as_it_has_grown() -> Result<()> {
    // The first thread's stack grows as it is used: by two megabytes here.
    deeper(&Mirror::new()?, 256)
}

/// Only the CPU's own accesses grow a stack, since only they come with a stack pointer.
fn the_gpu_does_not_grow_a_stack() -> Result<()> {
    let (mirror, stack) = (Mirror::new()?, Region::growing_down(4 << 20)?);
    let (top, below) = (stack.len() - PAGE, stack.len() - 9 * PAGE);
    mirror.run(Store::new(stack.lanes(top, WORD), 1_u64), lanes(512))?;
    let report = mirror.refused(Store::new(stack.lanes(below, 0), 1_u64), lanes(1))?;
    ensure_report(&report, stack.at(below), Access::Write, Reason::NoVma)?;
    stack.store(below, 5);
    // From there on up it is mapped now.
    mirror.run(Atomic::add(stack.lanes(below, PAGE), 1_u64), lanes(9))?;
    let words: Vec<u64> = (0..9).map(|page| stack.load(below + page * PAGE)).collect();
    ensure_eq!(words, [6, 1, 1, 1, 1, 1, 1, 1, 2]);
    Ok(())
}

fn threads_may_end_and_leave_their_channels_and_stacks() -> Result<()> {
    let mirror = Mirror::new()?;
    let mut channels = Vec::new();
    for round in 0..8_u64 {
        let channel = std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                // The stack of this thread is likely the one of the thread before.
                let local = AtomicU64::new(round);
                let channel = mirror.svm.channel()?;
                let at = GpuPtr::from(local.as_ptr());
                channel
                    .launch(Atomic::add(at.into(), 100_u64), lanes(3))?
                    .wait(crate::fixture::LIMIT)?;
                ensure_eq!(local.into_inner(), round + 300);
                anyhow::Ok(channel)
            });
            thread.join().expect("the thread does not panic")
        })?;
        channels.push(channel);
    }
    let region = Region::anonymous(PAGE)?;
    for channel in &channels {
        channel
            .launch(Atomic::add(region.lanes(0, 0), 1_u64), lanes(10))?
            .wait(crate::fixture::LIMIT)?;
    }
    ensure_eq!(region.load(0), 80);
    Ok(())
}
