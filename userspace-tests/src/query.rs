// SPDX-License-Identifier: MIT OR Apache-2.0
//! SVM_QUERY: what GPU and CPU map, page by page.

use std::fs;
use std::os::fd::AsFd;

use anyhow::{ensure, Context, Result};
use bytemuck::Zeroable as _;
use mirage::uapi::{IoctlId, Page, Param, SvmQuery};
use mirage::{lanes, Load, Store};
use nix::errno::Errno;
use nix::sys::mman::{MmapAdvise, ProtFlags};

use crate::fixture::{ensure_eq, Mirror};
use crate::harness::{guest_tests, skip};
use crate::ioctls::{call, open};
use crate::kernel::{pagemap, smaps_kilobytes};
use crate::region::{Region, HUGE, PAGE};
use crate::sys::fork;

guest_tests![
    what_nobody_touched_is_absent_on_both_sides,
    what_the_gpu_wrote_is_mapped_on_both_sides,
    what_only_the_cpu_touched_is_mapped_there_alone,
    read_only_pages_are_shown_as_such,
    the_zero_page_is_told_from_others,
    the_huge_zero_page_is_told_from_others,
    a_huge_page_has_the_order_of_its_entries,
    a_leaf_of_64k_has_its_order_in_the_gpus_view,
    what_is_invalidated_is_gone_from_the_gpus_view,
    a_query_faults_nothing_in,
    a_range_reads_the_same_in_one_piece_and_page_by_page,
    the_largest_query_works_and_no_larger,
    queries_that_make_no_sense_are_invalid,
    a_query_needs_a_mirror_and_its_process,
    an_array_that_cannot_be_written_is_a_fault,
];

const VALID: u32 = 1;
/// Writes and atomics.
const GPU_WRITE: u32 = (1 << 1) | (1 << 2);
const CPU_READ: u32 = 1;
const CPU_WRITE: u32 = 1 << 1;
const CPU_ZERO: u32 = 1 << 2;

/// Bits 15:8 of both views.
const fn order(order: u32) -> u32 {
    order << 8
}

fn request(va: u64, pages: &[Page]) -> SvmQuery {
    SvmQuery {
        va,
        size: (pages.len() * PAGE) as u64,
        pages_ptr: pages.as_ptr().expose_provenance() as u64,
        flags: 0,
        page_size: size_of::<Page>() as u32,
    }
}

/// Both views of `count` pages: (GPU, CPU).
pub(crate) fn query(mirror: &Mirror, va: u64, count: usize) -> Result<Vec<(u32, u32)>> {
    // Written by the kernel behind the compiler's back, so not looked at before it is asked for.
    let mut pages = vec![Page::zeroed(); count];
    let args = SvmQuery {
        pages_ptr: pages.as_mut_ptr().expose_provenance() as u64,
        ..request(va, &pages)
    };
    call(mirror.gpu.as_fd(), IoctlId::SvmQuery, args).context("SVM_QUERY")?;
    let pages = std::hint::black_box(pages);
    Ok(pages.iter().map(|page| (page.gpu, page.cpu)).collect())
}

fn query_one(mirror: &Mirror, region: &Region, offset: usize) -> Result<(u32, u32)> {
    Ok(query(mirror, region.at(offset).addr(), 1)?[0])
}

fn small_pages(count: usize) -> Result<Region> {
    let region = Region::anonymous(count * PAGE)?;
    region.advise(0..region.len(), MmapAdvise::MADV_NOHUGEPAGE)?;
    Ok(region)
}

fn what_nobody_touched_is_absent_on_both_sides() -> Result<()> {
    let (mirror, mut region) = (Mirror::new()?, small_pages(4)?);
    ensure_eq!(query(&mirror, region.at(0).addr(), 4)?, vec![(0, 0); 4]);
    let addr = region.at(PAGE).addr();
    region.unmap(PAGE..2 * PAGE)?;
    ensure_eq!(query(&mirror, addr, 1)?, vec![(0, 0)]);
    Ok(())
}

fn what_the_gpu_wrote_is_mapped_on_both_sides() -> Result<()> {
    let (mirror, region) = (Mirror::new()?, small_pages(8)?);
    mirror.run(Store::new(region.at(2 * PAGE).into(), 1_u64), lanes(1))?;
    let pages = query(&mirror, region.at(0).addr(), 8)?;
    ensure_eq!(pages[2], (VALID | GPU_WRITE, CPU_READ | CPU_WRITE));
    let others = [&pages[..2], &pages[3..]].concat();
    ensure_eq!(others, vec![(0, 0); 7]);
    Ok(())
}

fn what_only_the_cpu_touched_is_mapped_there_alone() -> Result<()> {
    let (mirror, region) = (Mirror::new()?, small_pages(2)?);
    region.store(PAGE, 1);
    let pages = query(&mirror, region.at(0).addr(), 2)?;
    ensure_eq!(pages, vec![(0, 0), (0, CPU_READ | CPU_WRITE)]);
    Ok(())
}

fn read_only_pages_are_shown_as_such() -> Result<()> {
    let (mirror, region) = (Mirror::new()?, small_pages(2)?);
    region.fill(0..region.len(), 1);
    region.protect(0..region.len(), ProtFlags::PROT_READ)?;
    mirror.run(Load::<u64>::new(region.at(0).into()), lanes(1))?;
    ensure_eq!(query_one(&mirror, &region, 0)?, (VALID, CPU_READ));
    region.protect(0..region.len(), ProtFlags::PROT_NONE)?;
    ensure_eq!(query_one(&mirror, &region, 0)?, (0, 0));
    Ok(())
}

fn the_zero_page_is_told_from_others() -> Result<()> {
    let (mirror, region) = (Mirror::new()?, small_pages(2)?);
    ensure_eq!(region.load(0), 0);
    ensure_eq!(query_one(&mirror, &region, 0)?, (0, CPU_READ | CPU_ZERO));
    mirror.run(Load::<u64>::new(region.at(0).into()), lanes(1))?;
    ensure_eq!(
        query_one(&mirror, &region, 0)?,
        (VALID, CPU_READ | CPU_ZERO)
    );
    region.store(0, 0);
    ensure_eq!(query_one(&mirror, &region, 0)?.1, CPU_READ | CPU_WRITE);
    Ok(())
}

/// A block that the kernel should use huge pages for.
fn huge_block() -> Result<Region> {
    let region = Region::huge_aligned(HUGE)?;
    region.advise(0..HUGE, MmapAdvise::MADV_HUGEPAGE)?;
    Ok(region)
}

fn the_huge_zero_page_is_told_from_others() -> Result<()> {
    let (mirror, region) = (Mirror::new()?, huge_block()?);
    let switch = "/sys/kernel/mm/transparent_hugepage/use_zero_page";
    if fs::read_to_string(switch).is_ok_and(|text| text.trim() == "0") {
        return skip("the kernel does not use a huge zero page");
    }
    ensure_eq!(region.load(17 * PAGE), 0);
    let pages = query(&mirror, region.at(0).addr(), HUGE / PAGE)?;
    // A small one would be there alone.
    if pagemap(&region)?[0].frame().is_none() {
        return skip("the kernel had no huge zero page");
    }
    ensure_eq!(
        pages,
        vec![(0, CPU_READ | CPU_ZERO | order(9)); HUGE / PAGE]
    );
    Ok(())
}

fn a_huge_page_has_the_order_of_its_entries() -> Result<()> {
    let (mirror, region) = (Mirror::new()?, huge_block()?);
    region.store(0, 1);
    let cpu = CPU_READ | CPU_WRITE | order(9);
    if smaps_kilobytes(&region, "AnonHugePages")? * 1024 < HUGE {
        return skip("the kernel had no huge page");
    }
    ensure_eq!(query_one(&mirror, &region, 0)?.1, cpu);
    mirror.run(Store::new(region.at(5 * PAGE).into(), 1_u64), lanes(1))?;
    let gpu = VALID | GPU_WRITE | order(9);
    let pages = query(&mirror, region.at(0).addr(), HUGE / PAGE)?;
    ensure_eq!(pages, vec![(gpu, cpu); HUGE / PAGE]);
    // One read-only page takes the CPU's entry apart, for which the kernel invalidates all of it.
    region.protect(8 * PAGE..9 * PAGE, ProtFlags::PROT_READ)?;
    let pages = query(&mirror, region.at(0).addr(), 16)?;
    ensure_eq!(pages[8], (0, CPU_READ));
    ensure_eq!(pages[9].1, CPU_READ | CPU_WRITE);
    Ok(())
}

fn a_leaf_of_64k_has_its_order_in_the_gpus_view() -> Result<()> {
    const LEAF: usize = 16;
    let (mirror, region) = (Mirror::new()?, huge_block()?);
    region.store(0, 1);
    if smaps_kilobytes(&region, "AnonHugePages")? * 1024 < HUGE {
        return skip("the kernel had no huge page");
    }
    // The last page keeps another protection, so no leaf can cover all, and none of 64 KiB the last of them.
    region.protect(HUGE - PAGE..HUGE, ProtFlags::PROT_READ)?;
    let writable = HUGE / PAGE - 1;
    // One access maps all of them along. With more, the packet of one that goes below might be read only then.
    mirror.run(Store::new(region.at(0).into(), 1_u64), lanes(1))?;
    let pages = query(&mirror, region.at(0).addr(), writable)?;
    let (large, small) = pages.split_at(HUGE / PAGE - LEAF);
    let cpu = CPU_READ | CPU_WRITE;
    let due = (VALID | GPU_WRITE | order(4), cpu);
    ensure_eq!(large, vec![due; large.len()]);
    ensure_eq!(small, vec![(VALID | GPU_WRITE, cpu); small.len()]);
    // A page that goes takes its leaf apart, and no other.
    region.advise(20 * PAGE..21 * PAGE, MmapAdvise::MADV_DONTNEED)?;
    let pages = query(&mirror, region.at(0).addr(), 48)?;
    let orders: Vec<_> = pages.iter().map(|(gpu, _)| gpu >> 8).collect();
    ensure_eq!(orders, [[4; LEAF], [0; LEAF], [4; LEAF]].concat());
    ensure_eq!((pages[20].0, pages[21].0), (0, VALID | GPU_WRITE));
    Ok(())
}

fn what_is_invalidated_is_gone_from_the_gpus_view() -> Result<()> {
    let (mirror, region) = (Mirror::new()?, Region::huge_aligned(4 * PAGE)?);
    region.no_huge_pages();
    region.fill(0..region.len(), 1);
    // One access maps all of them along. With more, the packet of the one that goes might be read only then.
    mirror.run(Store::new(region.at(0).into(), 1_u64), lanes(1))?;
    let both = (VALID | GPU_WRITE, CPU_READ | CPU_WRITE);
    ensure_eq!(query(&mirror, region.at(0).addr(), 4)?, vec![both; 4]);
    region.advise(PAGE..2 * PAGE, MmapAdvise::MADV_DONTNEED)?;
    let pages = query(&mirror, region.at(0).addr(), 4)?;
    ensure_eq!(pages, vec![both, (0, 0), both, both]);
    Ok(())
}

fn a_query_faults_nothing_in() -> Result<()> {
    let (mirror, region) = (Mirror::new()?, Region::anonymous(16 * HUGE)?);
    let before = mirror.counters()?;
    query(&mirror, region.at(0).addr(), 16 * HUGE / PAGE)?;
    ensure_eq!(region.resident()?, 0);
    let work = mirror.counters()?.since(&before);
    ensure_eq!((work.get("regions"), work.get("leaves_4k")), (0, 0));
    Ok(())
}

fn a_range_reads_the_same_in_one_piece_and_page_by_page() -> Result<()> {
    let (mirror, region) = (Mirror::new()?, small_pages(1200)?);
    for page in (0..region.pages()).filter(|page| page % 3 == 0) {
        region.store(page * PAGE, 1);
    }
    let every_fifth = region.lanes(0, 5 * PAGE);
    mirror.run(Store::new(every_fifth, 1_u64), lanes(240))?;
    let whole = query(&mirror, region.at(0).addr(), region.pages())?;
    for (page, seen) in whole.iter().enumerate() {
        ensure_eq!(query_one(&mirror, &region, page * PAGE)?, *seen);
        let touched = page % 3 == 0 || page % 5 == 0;
        ensure!((seen.1 != 0) == touched, "page {page}: {seen:?}");
        ensure!(page % 5 != 0 || seen.0 != 0, "page {page}: {seen:?}");
    }
    Ok(())
}

fn the_largest_query_works_and_no_larger() -> Result<()> {
    let mirror = Mirror::new()?;
    let max = usize::try_from(mirror.gpu.param(Param::QueryPagesMax)?)?;
    let region = Region::anonymous(max * PAGE)?;
    query(&mirror, region.at(0).addr(), max)?;
    let pages = vec![Page::zeroed(); max + 1];
    let outcome = call(
        mirror.gpu.as_fd(),
        IoctlId::SvmQuery,
        request(region.at(0).addr(), &pages),
    );
    ensure_eq!(outcome.err(), Some(Errno::EINVAL));
    Ok(())
}

fn queries_that_make_no_sense_are_invalid() -> Result<()> {
    let (mirror, pages) = (Mirror::new()?, vec![Page::zeroed(); 2]);
    let good = request(0x10_0000, &pages);
    call(mirror.gpu.as_fd(), IoctlId::SvmQuery, good)?;
    let bad = [
        SvmQuery {
            va: 0x10_0001,
            ..good
        },
        SvmQuery { size: 0, ..good },
        SvmQuery {
            size: 0x1001,
            ..good
        },
        SvmQuery {
            size: !0xfff,
            ..good
        },
        SvmQuery {
            va: (1 << 47) - 0x1000,
            ..good
        },
        SvmQuery { flags: 1, ..good },
        SvmQuery {
            page_size: 4,
            ..good
        },
        SvmQuery {
            page_size: 16,
            ..good
        },
    ];
    for args in bad {
        let outcome = call(mirror.gpu.as_fd(), IoctlId::SvmQuery, args);
        ensure!(outcome.err() == Some(Errno::EINVAL), "{args:x?}");
    }
    Ok(())
}

fn a_query_needs_a_mirror_and_its_process() -> Result<()> {
    let (file, pages) = (open()?, vec![Page::zeroed()]);
    let outcome = call(file.as_fd(), IoctlId::SvmQuery, request(0x1000, &pages));
    ensure_eq!(outcome.err(), Some(Errno::ENXIO));
    let mirror = Mirror::new()?;
    let child = fork(|| {
        let outcome = call(
            mirror.gpu.as_fd(),
            IoctlId::SvmQuery,
            request(0x1000, &pages),
        );
        ensure_eq!(outcome.err(), Some(Errno::EPERM));
        Ok(())
    })?;
    child.join()
}

fn an_array_that_cannot_be_written_is_a_fault() -> Result<()> {
    let (mirror, region) = (Mirror::new()?, Region::anonymous(PAGE)?);
    region.protect(0..PAGE, ProtFlags::PROT_READ)?;
    for pages_ptr in [0, region.at(0).addr(), 0xffff_8000_0000_0000] {
        let args = SvmQuery {
            pages_ptr,
            ..request(0x1000, &[Page::zeroed()])
        };
        let outcome = call(mirror.gpu.as_fd(), IoctlId::SvmQuery, args);
        ensure_eq!(outcome.err(), Some(Errno::EFAULT));
    }
    Ok(())
}
