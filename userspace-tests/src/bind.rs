// SPDX-License-Identifier: MIT OR Apache-2.0
//! SVM_BIND: pages that are mapped before the GPU needs them.

use std::os::fd::AsFd;
use std::sync::Barrier;
use std::time::Duration;

use anyhow::{ensure, Context, Result};
use bytemuck::bytes_of_mut;
use mirage::uapi::{IoctlId, SvmBind};
use mirage::{lanes, Counters, Load, Store};
use nix::errno::Errno;
use nix::sys::mman::{MmapAdvise, ProtFlags};

use crate::channels::still_works;
use crate::fixture::{ensure_eq, Mirror};
use crate::frozen::{file_blocks, Frozen};
use crate::harness::guest_tests;
use crate::introspect::tables;
use crate::ioctls::{call, open, request};
use crate::kernel::Disk;
use crate::query::query;
use crate::region::{Region, HUGE, PAGE};
use crate::sys::{self, fork, Alarms};

guest_tests![
    what_was_prefetched_for_writing_takes_no_fault,
    what_was_prefetched_for_reading_keeps_copy_on_write,
    a_prefetch_for_writing_breaks_copy_on_write,
    a_prefetch_upgrades_what_is_mapped_for_reading,
    a_huge_block_becomes_one_leaf,
    a_prefetch_stops_at_the_first_page_that_cannot_be_had,
    a_prefetch_for_writing_stops_at_a_read_only_page,
    a_prefetch_waits_for_a_page_that_takes_its_time,
    a_signal_ends_a_prefetch_between_blocks,
    prefetches_of_nothing_leave_few_tables_behind,
    prefetches_beside_invalidations_and_faults_leave_memory_right,
    prefetches_that_make_no_sense_are_invalid,
    a_prefetch_needs_a_mirror_and_its_process,
];

const WRITE: u32 = 1;
/// In the GPU's view: valid, and writable.
const VALID: u32 = 1;
const VALID_WRITE: u32 = 7;

/// Pages done, and the error if there was one.
pub(crate) fn prefetch(mirror: &Mirror, args: SvmBind) -> (u64, Option<Errno>) {
    let mut args = SvmBind {
        pages_done: 0xdead,
        ..args
    };
    let request = request(IoctlId::SvmBind.nr(), size_of::<SvmBind>());
    let outcome = sys::ioctl(mirror.gpu.as_fd(), request, bytes_of_mut(&mut args));
    (args.pages_done, outcome.err())
}

pub(crate) fn of(region: &Region, offset: usize, len: usize, flags: u32) -> SvmBind {
    SvmBind {
        va: region.at(offset).addr(),
        size: len as u64,
        op: 0,
        flags,
        pages_done: 0,
    }
}

fn small_pages(count: usize) -> Result<Region> {
    let region = Region::anonymous(count * PAGE)?;
    region.advise(0..region.len(), MmapAdvise::MADV_NOHUGEPAGE)?;
    Ok(region)
}

fn gpu_views(mirror: &Mirror, region: &Region) -> Result<Vec<u32>> {
    let pages = query(mirror, region.at(0).addr(), region.pages())?;
    Ok(pages.iter().map(|page| page.0 & 0xff).collect())
}

/// Packets of work that has ended, and for which no interrupt came, are counted when the watchdog looks: five times a second.
fn counters_at_rest(mirror: &Mirror) -> Result<Counters> {
    std::thread::sleep(Duration::from_secs(1));
    mirror.counters()
}

fn what_was_prefetched_for_writing_takes_no_fault() -> Result<()> {
    const PAGES: usize = 1500;
    let (mirror, region) = (Mirror::new()?, small_pages(PAGES)?);
    ensure_eq!(
        prefetch(&mirror, of(&region, 0, region.len(), WRITE)),
        (PAGES as u64, None)
    );
    ensure_eq!(gpu_views(&mirror, &region)?, vec![VALID_WRITE; PAGES]);
    let before = counters_at_rest(&mirror)?;
    let each = region.lanes(0, PAGE);
    mirror.run(Store::new(each, 3_u64), lanes(PAGES as u32))?;
    ensure_eq!(mirror.counters()?.since(&before).get("faults"), 0);
    ensure_eq!(region.page_words(), vec![3; PAGES]);
    // There already.
    ensure_eq!(
        prefetch(&mirror, of(&region, PAGE, 7 * PAGE, WRITE)),
        (7, None)
    );
    Ok(())
}

fn what_was_prefetched_for_reading_keeps_copy_on_write() -> Result<()> {
    let (mirror, region) = (Mirror::new()?, small_pages(4)?);
    ensure_eq!(
        prefetch(&mirror, of(&region, 0, region.len(), 0)),
        (4, None)
    );
    // The zero page, which nobody may write to.
    ensure_eq!(gpu_views(&mirror, &region)?, vec![VALID; 4]);
    mirror.run(Store::new(region.at(PAGE).into(), 9_u64), lanes(1))?;
    ensure_eq!(region.page_words(), vec![0, 9, 0, 0]);
    Ok(())
}

fn a_prefetch_for_writing_breaks_copy_on_write() -> Result<()> {
    let (mirror, region) = (Mirror::new()?, small_pages(4)?);
    region.fill(0..region.len(), 1);
    let child = fork(|| {
        // Its own copy, whatever the parent's GPU does.
        std::thread::sleep(Duration::from_millis(300));
        ensure_eq!(region.page_words(), vec![1; 4]);
        Ok(())
    })?;
    ensure_eq!(
        prefetch(&mirror, of(&region, 0, region.len(), WRITE)),
        (4, None)
    );
    ensure_eq!(gpu_views(&mirror, &region)?, vec![VALID_WRITE; 4]);
    mirror.run(Store::new(region.lanes(0, PAGE), 2_u64), lanes(4))?;
    ensure_eq!(region.page_words(), vec![2; 4]);
    child.join()
}

fn a_prefetch_upgrades_what_is_mapped_for_reading() -> Result<()> {
    let (mirror, region) = (Mirror::new()?, small_pages(8)?);
    mirror.run(Load::<u64>::new(region.lanes(0, PAGE)), lanes(8))?;
    ensure_eq!(gpu_views(&mirror, &region)?, vec![VALID; 8]);
    ensure_eq!(
        prefetch(&mirror, of(&region, 0, region.len(), WRITE)),
        (8, None)
    );
    let before = counters_at_rest(&mirror)?;
    mirror.run(Store::new(region.lanes(0, PAGE), 2_u64), lanes(8))?;
    ensure_eq!(mirror.counters()?.since(&before).get("faults"), 0);
    ensure_eq!(region.page_words(), vec![2; 8]);
    Ok(())
}

fn a_huge_block_becomes_one_leaf() -> Result<()> {
    let (mirror, region) = (Mirror::new()?, Region::huge_aligned(2 * HUGE)?);
    region.advise(0..region.len(), MmapAdvise::MADV_HUGEPAGE)?;
    let pages = region.len() / PAGE;
    ensure_eq!(
        prefetch(&mirror, of(&region, 0, region.len(), WRITE)),
        (pages as u64, None)
    );
    // As large as what the CPU got.
    for (gpu, cpu) in query(&mirror, region.at(0).addr(), pages)? {
        ensure!(gpu & 0xff == VALID_WRITE, "{gpu:#x}");
        ensure!(cpu >> 8 != 9 || gpu >> 8 == 9, "{gpu:#x}, {cpu:#x}");
    }
    Ok(())
}

fn a_prefetch_stops_at_the_first_page_that_cannot_be_had() -> Result<()> {
    let mirror = Mirror::new()?;
    for gone in [0, 1, 15, 16, 37, 511, 512, 700, 1023] {
        let mut region = small_pages(1024)?;
        region.unmap(gone * PAGE..(gone + 1) * PAGE)?;
        ensure_eq!(
            prefetch(&mirror, of(&region, 0, region.len(), WRITE)),
            (gone as u64, Some(Errno::EFAULT))
        );
        let views = gpu_views(&mirror, &region)?;
        ensure_eq!(views[..gone], vec![VALID_WRITE; gone]);
        ensure_eq!(views[gone], 0);
        // The rest of the range can be continued behind it.
        let behind = (gone + 1) * PAGE;
        if behind < region.len() {
            ensure_eq!(
                prefetch(&mirror, of(&region, behind, region.len() - behind, WRITE)),
                (1023 - gone as u64, None)
            );
        }
    }
    Ok(())
}

fn a_prefetch_for_writing_stops_at_a_read_only_page() -> Result<()> {
    let (mirror, region) = (Mirror::new()?, small_pages(40)?);
    region.protect(21 * PAGE..22 * PAGE, ProtFlags::PROT_READ)?;
    ensure_eq!(
        prefetch(&mirror, of(&region, 0, region.len(), WRITE)),
        (21, Some(Errno::EFAULT))
    );
    ensure_eq!(
        prefetch(&mirror, of(&region, 0, region.len(), 0)),
        (40, None)
    );
    region.protect(30 * PAGE..31 * PAGE, ProtFlags::PROT_NONE)?;
    ensure_eq!(
        prefetch(&mirror, of(&region, 0, region.len(), 0)),
        (30, Some(Errno::EFAULT))
    );
    Ok(())
}

/// Twice as long as invalidations may hold up a block, without one and with one.
fn a_prefetch_waits_for_a_page_that_takes_its_time() -> Result<()> {
    let (mirror, disk) = (Mirror::new()?, Disk::new()?);
    for disturbed in [false, true] {
        let region = file_blocks(&disk, 1)?;
        let (frozen, both) = (Frozen::new(&disk)?, Barrier::new(2));
        let outcome = std::thread::scope(|scope| {
            let thaw = scope.spawn(|| {
                // A thread that begins maps memory, which must wait for a prefetch.
                both.wait();
                std::thread::sleep(Duration::from_secs(2));
                if disturbed {
                    region.advise(PAGE..2 * PAGE, MmapAdvise::MADV_DONTNEED)?;
                }
                frozen.thaw()
            });
            both.wait();
            let outcome = prefetch(&mirror, of(&region, 0, PAGE, WRITE));
            thaw.join().ok().context("the thread panicked")??;
            anyhow::Ok(outcome)
        })?;
        ensure_eq!(outcome, (1, None));
        ensure_eq!(gpu_views(&mirror, &region)?[0], VALID_WRITE);
    }
    Ok(())
}

fn a_signal_ends_a_prefetch_between_blocks() -> Result<()> {
    let mirror = Mirror::new()?;
    let interrupted = || {
        let region = small_pages(256 << 8)?;
        let alarms = Alarms::every(Duration::from_millis(50))?;
        let outcome = prefetch(&mirror, of(&region, 0, region.len(), WRITE));
        drop(alarms);
        anyhow::Ok((region, outcome))
    };
    // The alarm may come before the first block, or after the last.
    const TRIES: usize = 20;
    let mut tries = std::iter::repeat_with(interrupted).take(TRIES);
    let found = tries.find(|tried| !matches!(tried, Ok((_, (0, Some(Errno::EINTR)) | (_, None)))));
    let (region, (done, error)) = found.context("the signal never comes in between")??;
    ensure_eq!(error, Some(Errno::EINTR));
    ensure!((1..region.pages() as u64).contains(&done), "{done} pages");
    // What was counted is there, and the rest can be asked for again.
    let views = gpu_views(&mirror, &region)?;
    let done = done as usize;
    ensure!(
        views[..done].iter().all(|view| *view == VALID_WRITE),
        "fewer than {done} pages are mapped"
    );
    let rest = of(&region, done * PAGE, 16 * PAGE, WRITE);
    ensure_eq!(prefetch(&mirror, rest), (16, None));
    Ok(())
}

/// Each address has tables of its own at all levels but the root.
fn prefetches_of_nothing_leave_few_tables_behind() -> Result<()> {
    const ADDRESSES: u64 = 400;
    /// Empty regions that the driver keeps, and pages of each: the region's, a block's, and two of the directory.
    const KEPT: u64 = 64 * 4;
    let mirror = Mirror::new()?;
    let before = tables(&mirror.gpu)?;
    for number in 1..=ADDRESSES {
        let nothing = SvmBind {
            va: number << 38,
            size: PAGE as u64,
            ..Default::default()
        };
        ensure_eq!(prefetch(&mirror, nothing), (0, Some(Errno::EFAULT)));
    }
    let pages = (tables(&mirror.gpu)? - before) / PAGE as u64;
    ensure!(pages <= KEPT, "{pages} pages of tables are left");
    still_works(&mirror)
}

fn prefetches_beside_invalidations_and_faults_leave_memory_right() -> Result<()> {
    const PAGES: usize = 1024;
    const ROUNDS: u64 = 20;
    let (mirror, region) = (Mirror::new()?, small_pages(PAGES)?);
    for round in 1..=ROUNDS {
        std::thread::scope(|scope| {
            let prefetcher = scope.spawn(|| {
                for _ in 0..4 {
                    let (_, error) = prefetch(&mirror, of(&region, 0, region.len(), WRITE));
                    ensure!(
                        matches!(error, None | Some(Errno::EAGAIN)),
                        "{error:?} in the middle of mapped memory"
                    );
                }
                Ok(())
            });
            let dropper = scope.spawn(|| {
                (0..PAGES / 2).step_by(8).try_for_each(|page| {
                    region.advise(page * PAGE..(page + 4) * PAGE, MmapAdvise::MADV_DONTNEED)
                })
            });
            // The half that is not dropped.
            let half = region.lanes(PAGES / 2 * PAGE, PAGE);
            mirror.run(Store::new(half, round), lanes(PAGES as u32 / 2))?;
            let panicked = |_| anyhow::anyhow!("a thread panicked");
            dropper.join().map_err(panicked)??;
            prefetcher.join().map_err(panicked)?
        })?;
        ensure_eq!(region.page_words()[PAGES / 2..], vec![round; PAGES / 2]);
    }
    Ok(())
}

fn prefetches_that_make_no_sense_are_invalid() -> Result<()> {
    let (mirror, region) = (Mirror::new()?, small_pages(2)?);
    let good = of(&region, 0, PAGE, 0);
    ensure_eq!(prefetch(&mirror, good), (1, None));
    let (hole, hole_size) = mirror.svm.unmanaged();
    let bad = [
        SvmBind {
            va: good.va + 1,
            ..good
        },
        SvmBind { size: 0, ..good },
        SvmBind { size: 4097, ..good },
        SvmBind {
            size: !0xfff,
            ..good
        },
        SvmBind {
            va: 1 << 47,
            ..good
        },
        SvmBind {
            va: (1 << 47) - 0x1000,
            size: 0x2000,
            ..good
        },
        SvmBind { va: hole, ..good },
        SvmBind {
            va: hole + hole_size - 0x1000,
            ..good
        },
        SvmBind { op: 1, ..good },
        SvmBind { flags: 2, ..good },
        SvmBind {
            flags: 1 << 31,
            ..good
        },
    ];
    for args in bad {
        let outcome = prefetch(&mirror, args);
        ensure!(
            outcome == (0, Some(Errno::EINVAL)),
            "{args:x?}: {outcome:?}"
        );
    }
    Ok(())
}

fn a_prefetch_needs_a_mirror_and_its_process() -> Result<()> {
    let (file, region) = (open()?, small_pages(1)?);
    let args = of(&region, 0, PAGE, 0);
    let outcome = call(file.as_fd(), IoctlId::SvmBind, args);
    ensure_eq!(outcome.err(), Some(Errno::ENXIO));
    let mirror = Mirror::new()?;
    let child = fork(|| {
        ensure_eq!(prefetch(&mirror, args), (0, Some(Errno::EPERM)));
        Ok(())
    })?;
    child.join()
}
