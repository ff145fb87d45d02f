// SPDX-License-Identifier: MIT OR Apache-2.0
//! What munmap, mremap, mprotect and madvise promise holds for the GPU too, even in the middle of its work.
//!
//! Each proof looks at the page itself, not at whatever is mapped at its address by then: through a second mapping of the
//! same file, at the place it was moved to, or in a pipe that keeps it.

use std::fs::File;
use std::io::Read as _;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};

use anyhow::{ensure, Context, Result};
use fastrand::Rng;
use mirage::{Access, FaultReport, Reason};
use nix::fcntl::{fallocate, tee, FallocateFlags, SpliceFFlags};
use nix::sys::memfd::{memfd_create, MFdFlags};
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags};

use crate::fixture::{ensure_eq, Mirror, Spinner, LIMIT};
use crate::harness::{guest_tests, rounds, wait_until};
use crate::region::{Region, PAGE, RW};

guest_tests![
    after_munmap_the_gpu_does_not_write_the_page,
    after_mremap_the_gpu_does_not_write_the_moved_page,
    after_mprotect_the_gpu_does_not_write_the_page,
    after_madv_dontneed_the_gpu_does_not_write_the_old_page,
    after_a_hole_was_punched_the_gpu_does_not_write_the_old_page,
    after_a_mapping_was_replaced_the_gpu_does_not_write_the_old_page,
    after_truncation_the_gpu_does_not_write_the_old_page,
];

const PAGES: usize = 64;
/// Marks a page that the CPU has taken back.
const TAKEN: u64 = 0x7a6b_5c4d_3e2f_1001;

/// One to eight pages somewhere in the region, chosen by the round.
fn some_pages(round: u64) -> Range<usize> {
    let mut rng = Rng::with_seed(round);
    let (first, count) = (rng.usize(0..PAGES - 8), rng.usize(1..=8));
    first * PAGE..(first + count) * PAGE
}

/// The report of a spinner whose pages `range` were taken away for `reason`.
fn ensure_due(
    report: &FaultReport,
    values: &Region,
    range: &Range<usize>,
    reason: Reason,
) -> Result<()> {
    let addresses = values.at(range.start).addr()..values.at(range.end).addr();
    ensure!(
        addresses.contains(&report.addr),
        "{report}, outside of {addresses:x?}"
    );
    ensure_eq!((report.access, report.reason), (Access::Atomic, reason));
    Ok(())
}

fn memfd() -> Result<File> {
    let file = File::from(memfd_create(c"mirage", MFdFlags::MFD_CLOEXEC).context("memfd_create")?);
    file.set_len((PAGES * PAGE) as u64)?;
    Ok(file)
}

/// A pipe: the end to read from and the end to write to.
fn pipe() -> Result<(File, OwnedFd)> {
    let (reader, writer) = nix::unistd::pipe().context("pipe")?;
    Ok((File::from(reader), writer))
}

fn map_shared(file: &File) -> Result<Region> {
    Region::file(file, PAGES * PAGE, RW, MapFlags::MAP_SHARED)
}

fn after_munmap_the_gpu_does_not_write_the_page() -> Result<()> {
    let mirror = Mirror::new()?;
    for round in 0..rounds(10) {
        let (file, range, channel) = (memfd()?, some_pages(round), mirror.svm.channel()?);
        let (mut values, window) = (map_shared(&file)?, map_shared(&file)?);
        let spinner = Spinner::over(&values)?;
        let job = spinner.start(&channel)?;
        spinner.wait_round(&values)?;
        values.unmap(range.clone())?;
        window.fill(range.clone(), TAKEN);
        let report = mirror.stopped(&channel, &job)?;
        ensure_due(&report, &values, &range, Reason::NoVma)?;
        let untouched = window.words(range).iter().all(|&word| word == TAKEN);
        ensure!(
            untouched,
            "round {round}: the GPU wrote a page after munmap had returned"
        );
    }
    Ok(())
}

fn after_mremap_the_gpu_does_not_write_the_moved_page() -> Result<()> {
    let mirror = Mirror::new()?;
    for round in 0..rounds(10) {
        let (range, channel) = (some_pages(round), mirror.svm.channel()?);
        let mut values = Region::anonymous(PAGES * PAGE)?;
        let spinner = Spinner::over(&values)?;
        let job = spinner.start(&channel)?;
        spinner.wait_round(&values)?;
        let moved = values.move_away(range.clone())?;
        let then = moved.words(0..moved.len());
        let report = mirror.stopped(&channel, &job)?;
        ensure_due(&report, &values, &range, Reason::NoVma)?;
        ensure!(
            moved.words(0..moved.len()) == then,
            "round {round}: the GPU wrote a page after mremap had returned"
        );
    }
    Ok(())
}

fn after_mprotect_the_gpu_does_not_write_the_page() -> Result<()> {
    let mirror = Mirror::new()?;
    for round in 0..rounds(10) {
        let (range, channel, values) = (
            some_pages(round),
            mirror.svm.channel()?,
            Region::anonymous(PAGES * PAGE)?,
        );
        let spinner = Spinner::over(&values)?;
        let job = spinner.start(&channel)?;
        spinner.wait_round(&values)?;
        values.protect(range.clone(), ProtFlags::PROT_READ)?;
        let then = values.words(range.clone());
        let report = mirror.stopped(&channel, &job)?;
        ensure_due(&report, &values, &range, Reason::Permission)?;
        ensure!(
            values.words(range) == then,
            "round {round}: the GPU wrote a page after mprotect had returned"
        );
    }
    Ok(())
}

/// `free` takes the pages of a range away without a gap, so the work goes on, on new pages. The old ones, kept in a
/// pipe, must not change once it has returned.
fn old_pages_stay_as_they_were(
    map: impl Fn() -> Result<Region>,
    free: impl Fn(&mut Region, Range<usize>) -> Result<()>,
) -> Result<()> {
    let mirror = Mirror::new()?;
    for round in 0..rounds(10) {
        let (range, mut values) = (some_pages(round), map()?);
        let spinner = Spinner::over(&values)?;
        let job = spinner.start(&mirror.channel)?;
        spinner.wait_round(&values)?;
        let ((mut old, keeper), (mut copy, copier)) = (pipe()?, pipe()?);
        values.put_into_pipe(range.clone(), keeper.as_fd())?;
        free(&mut values, range.clone())?;
        // The first reader gets the pages as they are now, the second as they are after some more work.
        tee(&old, &copier, range.len(), SpliceFFlags::empty()).context("tee")?;
        let (mut then, mut later) = (vec![0; range.len()], vec![0; range.len()]);
        copy.read_exact(&mut then)?;
        wait_until(LIMIT, || {
            range
                .clone()
                .step_by(PAGE)
                .all(|page| values.load(page) != 0)
        })
        .context("the GPU does not come back to the pages")?;
        spinner.wait_round(&values)?;
        spinner.finish(&job)?;
        old.read_exact(&mut later)?;
        ensure!(
            then == later,
            "round {round}: the GPU wrote a page that was free"
        );
    }
    Ok(())
}

fn after_madv_dontneed_the_gpu_does_not_write_the_old_page() -> Result<()> {
    let free = |values: &mut Region, range| values.advise(range, MmapAdvise::MADV_DONTNEED);
    old_pages_stay_as_they_were(|| Region::anonymous(PAGES * PAGE), free)
}

fn after_a_mapping_was_replaced_the_gpu_does_not_write_the_old_page() -> Result<()> {
    old_pages_stay_as_they_were(|| Region::anonymous(PAGES * PAGE), Region::map_over)
}

fn after_a_hole_was_punched_the_gpu_does_not_write_the_old_page() -> Result<()> {
    let file = memfd()?;
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    let free = |_: &mut Region, range: Range<usize>| {
        fallocate(&file, flags, range.start as i64, range.len() as i64).context("fallocate")
    };
    old_pages_stay_as_they_were(|| map_shared(&file), free)
}

fn after_truncation_the_gpu_does_not_write_the_old_page() -> Result<()> {
    let mirror = Mirror::new()?;
    for round in 0..rounds(10) {
        let (file, channel, keep) = (memfd()?, mirror.svm.channel()?, some_pages(round).start);
        let (values, end) = (map_shared(&file)?, PAGES * PAGE);
        let spinner = Spinner::over(&values)?;
        let job = spinner.start(&channel)?;
        spinner.wait_round(&values)?;
        let ((mut old, keeper), last) = (pipe()?, end - 8 * PAGE..end);
        values.put_into_pipe(last.clone(), keeper.as_fd())?;
        file.set_len(keep as u64)?;
        let ((mut copy, copier), len) = (pipe()?, last.len());
        tee(&old, &copier, len, SpliceFFlags::empty()).context("tee")?;
        let report = mirror.stopped(&channel, &job)?;
        ensure_due(&report, &values, &(keep..end), Reason::Bus)?;
        let (mut then, mut later) = (vec![0; len], vec![0; len]);
        copy.read_exact(&mut then)?;
        old.read_exact(&mut later)?;
        ensure!(
            then == later,
            "round {round}: the GPU wrote a page that was truncated away"
        );
    }
    Ok(())
}
