// SPDX-License-Identifier: MIT OR Apache-2.0
//! Others that read and write the program's memory through the kernel: they and the GPU see the same. And the kernel sees what the GPU does.

use std::os::unix::fs::FileExt as _;

use anyhow::{ensure, Context, Result};
use mirage::{lanes, Atomic, Load, Store};
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags};
use nix::sys::ptrace;
use nix::sys::uio::{process_vm_readv, process_vm_writev, RemoteIoVec};
use nix::sys::wait::{waitpid, WaitStatus};
use nix::unistd::{getpid, Pid};

use crate::fixture::{ensure_eq, Mirror};
use crate::harness::{guest_tests, skip};
use crate::kernel::pagemap;
use crate::memory::memfd;
use crate::region::{Region, PAGE, WORD};
use crate::sys::fork;
use crate::work::{count_while, ensure_words, gpu_reads, gpu_writes};

guest_tests![
    what_another_process_writes_is_seen_by_the_gpu,
    what_the_gpu_writes_is_read_by_another_process,
    what_a_debugger_pokes_is_seen_by_the_gpu,
    what_is_forced_into_read_only_memory_is_seen_by_the_gpu,
    what_is_forced_into_a_private_mapping_of_a_file_is_seen_by_the_gpu,
    gpu_writes_make_their_pages_soft_dirty_and_no_others,
    soft_dirty_marks_cost_no_count,
    the_kernel_counts_pages_that_the_gpu_touched_first,
];

const PAGES: usize = 16;
const LEN: usize = PAGES * PAGE;

fn remote(region: &Region) -> [RemoteIoVec; 1] {
    [RemoteIoVec {
        base: region.at(0).addr() as usize,
        len: region.len(),
    }]
}

fn what_another_process_writes_is_seen_by_the_gpu() -> Result<()> {
    let (mirror, region, us) = (Mirror::new()?, Region::anonymous(LEN)?, getpid());
    // Mapped for reading first, the page of zeros, then for writing.
    ensure_words(&gpu_reads(&mirror, &region)?, |_| 0)?;
    for value in [3_u64, 4] {
        let child = fork(|| {
            let words = vec![value; LEN / WORD];
            let bytes: &[u8] = bytemuck::cast_slice(&words);
            let written = process_vm_writev(us, &[std::io::IoSlice::new(bytes)], &remote(&region))
                .context("process_vm_writev")?;
            ensure_eq!(written, LEN);
            Ok(())
        })?;
        child.join()?;
        ensure_words(&gpu_reads(&mirror, &region)?, |_| value)?;
        gpu_writes(&mirror, &region, 1 << 30)?;
    }
    Ok(())
}

fn what_the_gpu_writes_is_read_by_another_process() -> Result<()> {
    let (mirror, region, us) = (Mirror::new()?, Region::anonymous(LEN)?, getpid());
    for first in [1, 1 << 35] {
        gpu_writes(&mirror, &region, first)?;
        let child = fork(|| {
            let mut bytes = vec![0_u8; LEN];
            let mut into = [std::io::IoSliceMut::new(&mut bytes)];
            ensure_eq!(
                process_vm_readv(us, &mut into, &remote(&region)).context("process_vm_readv")?,
                LEN
            );
            let words: Vec<u64> = bytemuck::pod_collect_to_vec(&bytes);
            ensure_words(&words, |i| first + i as u64)
        })?;
        child.join()?;
    }
    Ok(())
}

/// Stops a process, pokes a word and lets it go on.
fn poke(target: Pid, addr: u64, word: u64) -> Result<()> {
    ptrace::attach(target).context("attach")?;
    ensure!(
        matches!(waitpid(target, None)?, WaitStatus::Stopped(..)),
        "the process did not stop"
    );
    let poked = ptrace::write(target, addr as usize as *mut _, word as i64).context("poke");
    ptrace::detach(target, None).context("detach")?;
    poked
}

fn what_a_debugger_pokes_is_seen_by_the_gpu() -> Result<()> {
    let (mirror, region, us) = (Mirror::new()?, Region::anonymous(LEN)?, getpid());
    gpu_writes(&mirror, &region, 1)?;
    for page in [0, 3, 15] {
        let child = fork(|| poke(us, region.at(page * PAGE).addr(), 0xd00d + page as u64))?;
        child.join()?;
        let seen = gpu_reads(&mirror, &region)?;
        ensure_eq!(seen[page * PAGE / WORD], 0xd00d + page as u64);
        ensure_eq!(
            seen[page * PAGE / WORD + 1],
            2 + (page * PAGE / WORD) as u64
        );
    }
    Ok(())
}

/// A write that a debugger makes whatever the protection says: the process gets a copy of the page.
fn force(region: &Region, offset: usize, word: u64) -> Result<()> {
    let (us, addr) = (getpid(), region.at(offset).addr());
    fork(|| poke(us, addr, word))?.join()
}

fn what_is_forced_into_read_only_memory_is_seen_by_the_gpu() -> Result<()> {
    let (mirror, region) = (Mirror::new()?, Region::anonymous(LEN)?);
    region.protect(0..LEN, ProtFlags::PROT_READ)?;
    ensure_words(&gpu_reads(&mirror, &region)?, |_| 0)?;
    force(&region, 2 * PAGE, 77)?;
    ensure_words(&gpu_reads(&mirror, &region)?, |i| {
        if i * WORD == 2 * PAGE {
            77
        } else {
            0
        }
    })
}

fn what_is_forced_into_a_private_mapping_of_a_file_is_seen_by_the_gpu() -> Result<()> {
    let (mirror, file) = (Mirror::new()?, memfd(LEN)?);
    let region = Region::file(&file, LEN, ProtFlags::PROT_READ, MapFlags::MAP_PRIVATE)?;
    ensure_words(&gpu_reads(&mirror, &region)?, |_| 0)?;
    force(&region, 6 * PAGE + WORD, 78)?;
    let due = |i: usize| if i * WORD == 6 * PAGE + WORD { 78 } else { 0 };
    ensure_words(&gpu_reads(&mirror, &region)?, due)?;
    // The copy is the mapping's own: the file keeps what it had, and later writes to it do not show on that page.
    file.write_all_at(&[0xff; LEN], 0)?;
    let copied = |i: usize| i * WORD / PAGE == 6;
    ensure_words(&gpu_reads(&mirror, &region)?, |i| {
        if copied(i) {
            due(i)
        } else {
            u64::MAX
        }
    })
}

fn clear_soft_dirty() -> Result<()> {
    std::fs::write("/proc/self/clear_refs", "4").context("clear_refs")
}

fn soft_dirty_pages(region: &Region) -> Result<Vec<usize>> {
    let pages = pagemap(region)?.into_iter().enumerate();
    Ok(pages
        .filter(|(_, page)| page.soft_dirty())
        .map(|(number, _)| number)
        .collect())
}

/// Skips where the kernel has no soft-dirty marks.
fn need_soft_dirty(region: &Region) -> Result<()> {
    clear_soft_dirty()?;
    region.store(0, 1);
    match soft_dirty_pages(region)?.contains(&0) {
        true => Ok(()),
        false => skip("no soft-dirty marks"),
    }
}

fn gpu_writes_make_their_pages_soft_dirty_and_no_others() -> Result<()> {
    let (mirror, region) = (Mirror::new()?, Region::huge_aligned(LEN + PAGE)?);
    region.no_huge_pages();
    need_soft_dirty(&region)?;
    // Of work that has ended, packets may still be waiting, which are served as writes. The driver reads them in their order, and has one worker
    // for a block: after a fault on the page at the end, none of them is left.
    let settle = || -> Result<()> {
        region.advise(LEN..LEN + PAGE, MmapAdvise::MADV_DONTNEED)?;
        mirror.run(Store::new(region.lanes(LEN, 0), 1_u64), lanes(1))
    };
    let marked = || -> Result<Vec<usize>> {
        let pages = soft_dirty_pages(&region)?.into_iter();
        Ok(pages.filter(|&page| page < LEN / PAGE).collect())
    };
    gpu_writes(&mirror, &region, 1)?;
    settle()?;
    for pages in [3..7, 0..1, 12..16] {
        clear_soft_dirty()?;
        ensure_eq!(marked()?, Vec::<usize>::new());
        // Reading leaves no mark.
        ensure!(
            gpu_reads(&mirror, &region)?.len() == region.len() / WORD,
            "not all was read"
        );
        mirror.run(
            Atomic::add(region.lanes(pages.start * PAGE, PAGE), 1_u64),
            lanes(pages.len() as u32),
        )?;
        ensure_eq!(marked()?, pages.clone().collect::<Vec<_>>());
        settle()?;
    }
    Ok(())
}

fn soft_dirty_marks_cost_no_count() -> Result<()> {
    let region = Region::anonymous(8 * LEN)?;
    region.no_huge_pages();
    need_soft_dirty(&region)?;
    count_while(&region, 20, |_| clear_soft_dirty())
}

fn the_kernel_counts_pages_that_the_gpu_touched_first() -> Result<()> {
    let resident = || -> Result<usize> {
        let statm = std::fs::read_to_string("/proc/self/statm")?;
        Ok(statm.split_whitespace().nth(1).context("statm")?.parse()?)
    };
    let (mirror, region) = (Mirror::new()?, Region::anonymous(256 * PAGE)?);
    region.no_huge_pages();
    let before = resident()?;
    mirror.run(Store::new(region.lanes(0, PAGE), 1_u64), lanes(256))?;
    let pages = pagemap(&region)?;
    ensure!(
        pages.iter().all(|page| page.present() && !page.swapped()),
        "pages are missing"
    );
    // Other things may come and go meanwhile, but not so many.
    let more = resident()?.saturating_sub(before);
    ensure!(more >= 192, "{more} of 256 pages are counted");
    mirror.run(Load::<u64>::new(region.lanes(0, PAGE)), lanes(256))
}
