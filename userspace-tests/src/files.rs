// SPDX-License-Identifier: MIT OR Apache-2.0
//! Files that the GPU works on: what reaches the disk, what a private mapping keeps, what truncation takes away.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};

use anyhow::{ensure, Context, Result};
use mirage::{lanes, Access, Atomic, Reason, Store};
use nix::fcntl::{fallocate, FallocateFlags};
use nix::libc::O_DIRECT;
use nix::sys::mman::{MapFlags, ProtFlags};

use crate::fixture::{ensure_eq, ensure_report, Mirror, Spinner, LIMIT};
use crate::harness::{guest_tests, wait_until};
use crate::kernel::Disk;
use crate::memory::memfd;
use crate::region::{Region, PAGE, RW, WORD};
use crate::work::{count_while, ensure_counts_from, ensure_words, gpu_reads, gpu_writes};

guest_tests![
    what_the_gpu_writes_reaches_the_disk,
    what_the_gpu_writes_after_the_file_was_written_back_reaches_the_disk_too,
    no_count_is_lost_while_a_file_is_written_back,
    a_private_mapping_keeps_what_the_gpu_writes_from_the_disk,
    a_private_mapping_shows_the_gpu_what_the_file_becomes_until_it_writes,
    truncation_of_a_file_on_disk_stops_work_on_it,
    a_file_that_grows_again_reads_as_zeros,
    a_private_copy_beyond_the_end_goes_with_truncation,
    a_hole_punched_under_the_gpu_is_filled_again,
    a_direct_read_lands_where_the_gpu_looks,
    a_direct_write_takes_what_the_gpu_wrote,
    direct_reads_and_gpu_work_side_by_side_lose_nothing,
    a_file_that_was_removed_can_still_be_used,
];

const PAGES: usize = 32;
const LEN: usize = PAGES * PAGE;

fn map(file: &File, flags: MapFlags) -> Result<Region> {
    Region::file(file, LEN, RW, flags)
}

/// The words of a file, by read(2).
fn contents(file: &File) -> Result<Vec<u64>> {
    let mut bytes = vec![0; LEN];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytemuck::pod_collect_to_vec(&bytes))
}

fn fill(file: &File, word: u64) -> Result<()> {
    Ok(file.write_all_at(bytemuck::cast_slice(&vec![word; LEN / WORD]), 0)?)
}

fn what_the_gpu_writes_reaches_the_disk() -> Result<()> {
    let disk = Disk::new()?;
    {
        let (mirror, file) = (Mirror::new()?, disk.file(LEN)?);
        let region = map(&file, MapFlags::MAP_SHARED)?;
        gpu_writes(&mirror, &region, 100)?;
        ensure_words(&contents(&file)?, |i| 100 + i as u64)?;
    }
    disk.mount_again()?;
    ensure_words(&contents(&File::open(disk.path())?)?, |i| 100 + i as u64)
}

/// Writing back makes a page clean and write-protects it; the next write must be heard of again, the GPU's too.
fn what_the_gpu_writes_after_the_file_was_written_back_reaches_the_disk_too() -> Result<()> {
    let disk = Disk::new()?;
    {
        let (mirror, file) = (Mirror::new()?, disk.file(LEN)?);
        let region = map(&file, MapFlags::MAP_SHARED)?;
        for first in [1000, 2000, 3000] {
            gpu_writes(&mirror, &region, first)?;
            file.sync_all()?;
        }
        // The last ones are no more than a few words.
        mirror.run(
            Atomic::add(region.lanes(0, PAGE), 1_u64 << 32),
            lanes(PAGES as u32),
        )?;
    }
    disk.mount_again()?;
    ensure_words(&contents(&File::open(disk.path())?)?, |i| {
        3000 + i as u64 + if i * WORD % PAGE == 0 { 1 << 32 } else { 0 }
    })
}

fn no_count_is_lost_while_a_file_is_written_back() -> Result<()> {
    let disk = Disk::new()?;
    let words = {
        let file = disk.file(LEN)?;
        let region = map(&file, MapFlags::MAP_SHARED)?;
        count_while(&region, 20, |_| Ok(file.sync_data()?))?;
        region.words(0..LEN)
    };
    disk.mount_again()?;
    ensure_words(&contents(&File::open(disk.path())?)?, |i| words[i])
}

fn a_private_mapping_keeps_what_the_gpu_writes_from_the_disk() -> Result<()> {
    let disk = Disk::new()?;
    {
        let (mirror, file) = (Mirror::new()?, disk.file(LEN)?);
        fill(&file, 3)?;
        let region = map(&file, MapFlags::MAP_PRIVATE)?;
        ensure_words(&gpu_reads(&mirror, &region)?, |_| 3)?;
        // Every second page.
        mirror.run(
            Store::new(region.lanes(0, 2 * PAGE), 9_u64),
            lanes(PAGES as u32 / 2),
        )?;
        let due = |i: usize| if i * WORD % (2 * PAGE) == 0 { 9 } else { 3 };
        ensure_words(&region.words(0..LEN), due)?;
        ensure_words(&gpu_reads(&mirror, &region)?, due)?;
        ensure_words(&contents(&file)?, |_| 3)?;
    }
    disk.mount_again()?;
    ensure_words(&contents(&File::open(disk.path())?)?, |_| 3)
}

fn a_private_mapping_shows_the_gpu_what_the_file_becomes_until_it_writes() -> Result<()> {
    let (mirror, file) = (Mirror::new()?, memfd(LEN)?);
    let region = map(&file, MapFlags::MAP_PRIVATE)?;
    ensure_words(&gpu_reads(&mirror, &region)?, |_| 0)?;
    fill(&file, 4)?;
    ensure_words(&gpu_reads(&mirror, &region)?, |_| 4)?;
    // The first page is the mapping's own from here on.
    mirror.run(
        Store::new(region.lanes(0, WORD), 5_u64),
        lanes((PAGE / WORD) as u32),
    )?;
    fill(&file, 6)?;
    let due = |i: usize| if i * WORD < PAGE { 5 } else { 6 };
    ensure_words(&gpu_reads(&mirror, &region)?, due)?;
    ensure_words(&contents(&file)?, |_| 6)
}

fn truncation_of_a_file_on_disk_stops_work_on_it() -> Result<()> {
    let disk = Disk::new()?;
    let (mirror, file) = (Mirror::new()?, disk.file(LEN)?);
    for keep in [20, 7, 0] {
        file.set_len(LEN as u64)?;
        let (region, channel) = (map(&file, MapFlags::MAP_SHARED)?, mirror.svm.channel()?);
        let spinner = Spinner::over(&region)?;
        let job = spinner.start(&channel)?;
        spinner.wait_round(&region)?;
        file.set_len((keep * PAGE) as u64)?;
        let report = mirror.stopped(&channel, &job)?;
        let gone = region.at(keep * PAGE).addr()..region.at(LEN).addr();
        ensure!(
            gone.contains(&report.addr),
            "{report}, outside of {gone:x?}"
        );
        ensure_eq!(
            (report.access, report.reason),
            (Access::Atomic, Reason::Bus)
        );
        if keep > 0 {
            // The pages that are left still work.
            mirror.run(Store::new(region.lanes(0, PAGE), 1_u64), lanes(keep as u32))?;
        }
    }
    Ok(())
}

fn a_file_that_grows_again_reads_as_zeros() -> Result<()> {
    let disk = Disk::new()?;
    for file in [disk.file(LEN)?, memfd(LEN)?] {
        let (mirror, region) = (Mirror::new()?, map(&file, MapFlags::MAP_SHARED)?);
        gpu_writes(&mirror, &region, 1 << 40)?;
        // In the middle of a page: its rest is cleared.
        file.set_len((5 * PAGE + 512) as u64)?;
        let report = mirror.refused(Store::new(region.lanes(6 * PAGE, 0), 1_u64), lanes(1))?;
        ensure_report(&report, region.at(6 * PAGE), Access::Write, Reason::Bus)?;
        file.set_len(LEN as u64)?;
        let kept = (5 * PAGE + 512) / WORD;
        let due = |i: usize| if i < kept { (1 << 40) + i as u64 } else { 0 };
        ensure_words(&gpu_reads(&mirror, &region)?, due)?;
        mirror.run(
            Atomic::add(region.lanes(0, WORD), 1_u64),
            lanes((LEN / WORD) as u32),
        )?;
        ensure_words(&contents(&file)?, |i| due(i) + 1)?;
    }
    Ok(())
}

/// Truncation takes even private copies of the pages away.
fn a_private_copy_beyond_the_end_goes_with_truncation() -> Result<()> {
    let (mirror, file) = (Mirror::new()?, memfd(LEN)?);
    let region = map(&file, MapFlags::MAP_PRIVATE)?;
    gpu_writes(&mirror, &region, 1)?;
    file.set_len(PAGE as u64)?;
    let report = mirror.refused(Store::new(region.lanes(PAGE, 0), 1_u64), lanes(1))?;
    ensure_report(&report, region.at(PAGE), Access::Write, Reason::Bus)?;
    file.set_len(LEN as u64)?;
    ensure_words(&gpu_reads(&mirror, &region)?, |i| {
        if i * WORD < PAGE {
            1 + i as u64
        } else {
            0
        }
    })
}

fn a_hole_punched_under_the_gpu_is_filled_again() -> Result<()> {
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    let disk = Disk::new()?;
    for file in [disk.file(LEN)?, memfd(LEN)?] {
        let (mirror, region) = (Mirror::new()?, map(&file, MapFlags::MAP_SHARED)?);
        let spinner = Spinner::over(&region)?;
        let job = spinner.start(&mirror.channel)?;
        for round in 0..10 {
            spinner.wait_round(&region)?;
            let at = (round * 3 % (PAGES - 4)) * PAGE;
            region.store(at + WORD, 0xdead);
            fallocate(&file, flags, at as i64, 4 * PAGE as i64).context("fallocate")?;
            ensure_eq!(region.load(at + WORD), 0);
            wait_until(LIMIT, || region.load(at) != 0).context("the GPU does not come back")?;
        }
        spinner.finish(&job)?;
    }
    Ok(())
}

/// A file on the disk that is read and written past the page cache.
fn direct(disk: &Disk) -> Result<File> {
    drop(disk.file(LEN)?);
    File::options()
        .read(true)
        .write(true)
        .custom_flags(O_DIRECT)
        .open(disk.path())
        .context("O_DIRECT")
}

fn a_direct_read_lands_where_the_gpu_looks() -> Result<()> {
    let disk = Disk::new()?;
    let (file, mirror) = (direct(&disk)?, Mirror::new()?);
    let (from, to) = (Region::anonymous(LEN)?, Region::anonymous(LEN)?);
    for first in [10, 20_000] {
        (0..LEN / WORD).for_each(|i| from.store(i * WORD, first + i as u64));
        from.write_to(file.as_fd(), 0..LEN, 0)?;
        // The GPU has the pages, for reading or for writing, when the disk writes them.
        gpu_writes(&mirror, &to, 1 << 50)?;
        ensure_words(&gpu_reads(&mirror, &to)?, |i| (1 << 50) + i as u64)?;
        to.read_from(file.as_fd(), 0..LEN, 0)?;
        ensure_words(&gpu_reads(&mirror, &to)?, |i| first + i as u64)?;
    }
    // Pages that nobody touched but the GPU, which read zeros there.
    let new = Region::anonymous(LEN)?;
    ensure_words(&gpu_reads(&mirror, &new)?, |_| 0)?;
    new.read_from(file.as_fd(), 0..LEN, 0)?;
    ensure_words(&gpu_reads(&mirror, &new)?, |i| 20_000 + i as u64)
}

fn a_direct_write_takes_what_the_gpu_wrote() -> Result<()> {
    let disk = Disk::new()?;
    let (mirror, region) = (Mirror::new()?, Region::anonymous(LEN)?);
    gpu_writes(&mirror, &region, 77)?;
    region.write_to(direct(&disk)?.as_fd(), 0..LEN, 0)?;
    disk.mount_again()?;
    ensure_words(&contents(&File::open(disk.path())?)?, |i| 77 + i as u64)
}

fn direct_reads_and_gpu_work_side_by_side_lose_nothing() -> Result<()> {
    let disk = Disk::new()?;
    let (file, mirror, region) = (direct(&disk)?, Mirror::new()?, Region::anonymous(LEN)?);
    let source = Region::anonymous(LEN)?;
    (0..LEN / WORD).for_each(|i| source.store(i * WORD, !(i as u64)));
    source.write_to(file.as_fd(), 0..LEN, 0)?;
    let rounds = 20;
    for _ in 0..rounds {
        // The disk writes the even pages while the GPU counts in the odd ones.
        let job = mirror.channel.launch(
            Atomic::add(region.lanes(PAGE, 2 * PAGE), 1_u64),
            lanes(PAGES as u32 / 2),
        )?;
        for page in (0..PAGES).step_by(2) {
            region.read_from(file.as_fd(), page * PAGE..(page + 1) * PAGE, page * PAGE)?;
        }
        job.wait(LIMIT)?;
    }
    ensure_words(&gpu_reads(&mirror, &region)?, |i| {
        match i * WORD / PAGE % 2 {
            0 => !(i as u64),
            _ if i * WORD % PAGE == 0 => rounds,
            _ => 0,
        }
    })
}

fn a_file_that_was_removed_can_still_be_used() -> Result<()> {
    let disk = Disk::new()?;
    let (mirror, file) = (Mirror::new()?, disk.file(LEN)?);
    let region = map(&file, MapFlags::MAP_SHARED)?;
    drop(file);
    std::fs::remove_file(disk.path())?;
    gpu_writes(&mirror, &region, 12)?;
    ensure_counts_from(&region, 12)?;
    let protected = region.protect(0..LEN, ProtFlags::PROT_READ);
    protected.and_then(|()| ensure_words(&gpu_reads(&mirror, &region)?, |i| 12 + i as u64))
}
