// SPDX-License-Identifier: MIT OR Apache-2.0
//! Any memory of the process is memory of the GPU, whatever kind it is.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{ensure, Context, Result};
use mirage::{lanes, Access, Atomic, Compare, Fill, GpuPtr, Load, Reason, Store, Strided};
use nix::sys::memfd::{memfd_create, MFdFlags};
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags};

use crate::fixture::{ensure_eq, ensure_report, Mirror};
use crate::harness::{guest_tests, skip};
use crate::region::{Region, HUGE, PAGE, RW, WORD};

guest_tests![
    private_anonymous_memory_is_shared_with_the_gpu,
    shared_anonymous_memory_is_shared_with_the_gpu,
    memory_of_a_memfd_is_shared_with_the_gpu,
    a_shared_mapping_of_a_file_passes_gpu_writes_to_the_file,
    a_private_mapping_of_a_file_keeps_gpu_writes_from_the_file,
    a_file_of_the_root_file_system_can_be_read_by_the_gpu,
    transparent_huge_pages_are_shared_with_the_gpu,
    hugetlb_pages_are_shared_with_the_gpu,
    locked_memory_is_shared_with_the_gpu,
    heap_stack_and_static_data_are_valid_pointers_for_the_gpu,
    the_gpu_may_be_the_first_to_write_a_page,
    the_gpu_reads_zeros_from_pages_that_nobody_touched,
    a_launch_may_cross_from_one_kind_of_memory_to_the_next,
    read_only_memory_can_be_read_and_not_written,
    memory_without_access_cannot_be_read,
    pages_past_the_end_of_a_file_are_refused,
    device_mappings_are_refused,
];

/// Bytes between lanes: eight lanes to the page.
const STRIDE: usize = 512;

/// Reads, writes and atomics of the GPU agree with the CPU's, in both directions, all over a region.
pub(crate) fn exercise(mirror: &Mirror, region: &Region) -> Result<()> {
    let count = region.len() / STRIDE;
    let (all, everywhere) = (lanes(count as u32), region.lanes(0, STRIDE));
    let results = Region::anonymous((count * WORD).next_multiple_of(PAGE))?;
    let found = || results.words(0..count * WORD);
    let stored = || -> Vec<u64> { (0..count).map(|i| region.load(i * STRIDE)).collect() };
    let from = |first: u64| -> Vec<u64> { (first..first + count as u64).collect() };

    (0..count).for_each(|i| region.store(i * STRIDE, 1000 + i as u64));
    mirror.run(
        Load::new(everywhere).results(results.results::<u64>(0)),
        all,
    )?;
    ensure!(
        found() == from(1000),
        "the GPU read something else than the CPU wrote"
    );

    mirror.run(Store::new(everywhere, 5_000_000_u64).plus_lane(), all)?;
    ensure!(
        stored() == from(5_000_000),
        "the CPU read something else than the GPU wrote"
    );

    mirror.run(
        Atomic::add(everywhere, 7_u64).results(results.results(0)),
        all,
    )?;
    ensure!(
        found() == from(5_000_000),
        "atomics found something else than the GPU wrote"
    );
    ensure!(stored() == from(5_000_007), "atomics did not add");
    Ok(())
}

fn private_anonymous_memory_is_shared_with_the_gpu() -> Result<()> {
    exercise(&Mirror::new()?, &Region::anonymous(67 * PAGE)?)
}

fn shared_anonymous_memory_is_shared_with_the_gpu() -> Result<()> {
    exercise(&Mirror::new()?, &Region::shared(67 * PAGE)?)
}

pub(crate) fn memfd(len: usize) -> Result<File> {
    let file = File::from(memfd_create(c"mirage", MFdFlags::MFD_CLOEXEC).context("memfd_create")?);
    file.set_len(len as u64)?;
    Ok(file)
}

fn memory_of_a_memfd_is_shared_with_the_gpu() -> Result<()> {
    let file = memfd(19 * PAGE)?;
    exercise(
        &Mirror::new()?,
        &Region::file(&file, 19 * PAGE, RW, MapFlags::MAP_SHARED)?,
    )
}

fn words_of(mut file: &File, words: usize) -> Result<Vec<u64>> {
    let mut bytes = vec![0; words * WORD];
    file.read_exact(&mut bytes)?;
    Ok(bytemuck::pod_collect_to_vec(&bytes))
}

fn a_shared_mapping_of_a_file_passes_gpu_writes_to_the_file() -> Result<()> {
    let file = memfd(4 * PAGE)?;
    let region = Region::file(&file, 4 * PAGE, RW, MapFlags::MAP_SHARED)?;
    let words = region.len() / WORD;
    Mirror::new()?.run(
        Store::new(region.lanes(0, WORD), 1_u64).plus_lane(),
        lanes(words as u32),
    )?;
    ensure!(
        words_of(&file, words)?.into_iter().eq(1..=words as u64),
        "read(2) does not see what the GPU wrote"
    );
    Ok(())
}

fn a_private_mapping_of_a_file_keeps_gpu_writes_from_the_file() -> Result<()> {
    let mut file = memfd(0)?;
    let words = 4 * PAGE / WORD;
    file.write_all(bytemuck::cast_slice(&vec![3_u64; words]))?;
    let region = Region::file(&file, 4 * PAGE, RW, MapFlags::MAP_PRIVATE)?;
    let mirror = Mirror::new()?;
    // Read first, so that the page of the file itself is mapped when the write comes.
    mirror.run(Load::<u64>::new(region.lanes(0, PAGE)), lanes(4))?;
    mirror.run(
        Store::new(region.lanes(0, WORD), 9_u64),
        lanes(words as u32),
    )?;
    ensure!(
        region.words(0..region.len()).iter().all(|&word| word == 9),
        "the mapping misses what the GPU wrote"
    );
    let again = Region::file(&file, 4 * PAGE, ProtFlags::PROT_READ, MapFlags::MAP_SHARED)?;
    ensure!(
        again.words(0..again.len()).iter().all(|&word| word == 3),
        "the GPU wrote through to the file"
    );
    Ok(())
}

fn a_file_of_the_root_file_system_can_be_read_by_the_gpu() -> Result<()> {
    let contents = std::fs::read("/proc/self/exe")?;
    let len = contents.len() / PAGE * PAGE;
    let file = File::open("/proc/self/exe")?;
    let region = Region::file(&file, len, ProtFlags::PROT_READ, MapFlags::MAP_PRIVATE)?;
    let mut difference = [0_u64];
    let (left, right) = (region.lanes(0, 0), Strided::packed(contents.as_ptr()));
    Mirror::new()?.run(
        Compare::new(left, right, len as u64, difference.as_mut_ptr()),
        lanes(1),
    )?;
    ensure_eq!(difference, [Compare::EQUAL]);
    Ok(())
}

fn transparent_huge_pages_are_shared_with_the_gpu() -> Result<()> {
    let region = Region::huge_aligned(2 * HUGE)?;
    if region
        .advise(0..2 * HUGE, MmapAdvise::MADV_HUGEPAGE)
        .is_err()
    {
        return skip("no transparent huge pages");
    }
    exercise(&Mirror::new()?, &region)
}

fn hugetlb_pages_are_shared_with_the_gpu() -> Result<()> {
    let Ok(()) = std::fs::write("/proc/sys/vm/nr_hugepages", "4") else {
        return skip("no hugetlbfs");
    };
    let try_both = |flags| match Region::map(2 * HUGE, flags | MapFlags::MAP_HUGETLB) {
        Ok(region) => exercise(&Mirror::new()?, &region),
        Err(error) => skip(format!("no huge pages to be had: {error:#}")),
    };
    let outcome = try_both(MapFlags::MAP_PRIVATE).and_then(|()| try_both(MapFlags::MAP_SHARED));
    std::fs::write("/proc/sys/vm/nr_hugepages", "0")?;
    outcome
}

fn locked_memory_is_shared_with_the_gpu() -> Result<()> {
    let region = Region::anonymous(16 * PAGE)?;
    region.lock()?;
    exercise(&Mirror::new()?, &region)
}

fn heap_stack_and_static_data_are_valid_pointers_for_the_gpu() -> Result<()> {
    static STATIC: AtomicU64 = AtomicU64::new(100);
    let (stack, heap) = (AtomicU64::new(200), Box::new(AtomicU64::new(300)));
    let mirror = Mirror::new()?;
    for place in [&STATIC, &stack, &heap] {
        mirror.run(
            Atomic::add(GpuPtr::from(place.as_ptr()).into(), 11_u64),
            lanes(1),
        )?;
    }
    ensure_eq!(
        [&STATIC, &stack, &heap].map(|place| place.load(Ordering::Acquire)),
        [111, 211, 311]
    );
    Ok(())
}

fn the_gpu_may_be_the_first_to_write_a_page() -> Result<()> {
    let mirror = Mirror::new()?;
    for region in [Region::anonymous(40 * PAGE)?, Region::shared(40 * PAGE)?] {
        mirror.run(
            Store::new(region.lanes(0, PAGE), 1_u64).plus_lane(),
            lanes(40),
        )?;
        ensure!(
            region.page_words().into_iter().eq(1..=40),
            "first words: {:?}",
            region.page_words()
        );
        ensure!(
            region.words(WORD..PAGE).iter().all(|&word| word == 0),
            "the rest of a new page is not zero"
        );
    }
    Ok(())
}

fn the_gpu_reads_zeros_from_pages_that_nobody_touched() -> Result<()> {
    let mirror = Mirror::new()?;
    for region in [Region::anonymous(40 * PAGE)?, Region::shared(40 * PAGE)?] {
        let results = Region::anonymous(PAGE)?;
        results.fill(0..PAGE, u64::MAX);
        mirror.run(
            Load::new(region.lanes(0, PAGE)).results(results.results::<u64>(0)),
            lanes(40),
        )?;
        ensure!(
            results.words(0..40 * WORD).iter().all(|&word| word == 0),
            "new memory is not zero for the GPU"
        );
    }
    Ok(())
}

fn a_launch_may_cross_from_one_kind_of_memory_to_the_next() -> Result<()> {
    let mut region = Region::anonymous(12 * PAGE)?;
    let file = memfd(4 * PAGE)?;
    region.replace(3 * PAGE, Region::shared(2 * PAGE)?)?;
    region.replace(
        6 * PAGE,
        Region::file(&file, 4 * PAGE, RW, MapFlags::MAP_SHARED)?,
    )?;
    // An odd start and an odd length: no lane begins or ends at a page.
    let (start, length) = (5, 12 * PAGE - 11);
    Mirror::new()?.run(
        Fill::new(region.lanes(start, 0), 0x5a_u8, length as u64),
        lanes(1),
    )?;
    let bytes: Vec<u8> = bytemuck::pod_collect_to_vec(&region.words(0..region.len()));
    let filled = |i: usize| {
        if (start..start + length).contains(&i) {
            0x5a
        } else {
            0
        }
    };
    ensure_eq!(
        bytes
            .iter()
            .enumerate()
            .find(|&(i, &byte)| byte != filled(i)),
        None
    );
    Ok(())
}

fn read_only_memory_can_be_read_and_not_written() -> Result<()> {
    let region = Region::anonymous(4 * PAGE)?;
    region.fill(0..4 * PAGE, 77);
    region.protect(0..4 * PAGE, ProtFlags::PROT_READ)?;
    let (mirror, results) = (Mirror::new()?, Region::anonymous(PAGE)?);
    mirror.run(
        Load::new(region.lanes(0, PAGE)).results(results.results::<u64>(0)),
        lanes(4),
    )?;
    ensure_eq!(results.words(0..4 * WORD), [77; 4]);
    let write = mirror.refused(Store::new(region.lanes(PAGE, 0), 1_u64), lanes(1))?;
    ensure_report(&write, region.at(PAGE), Access::Write, Reason::Permission)?;
    let atomic = mirror.refused(Atomic::add(region.lanes(2 * PAGE, 0), 1_u64), lanes(1))?;
    ensure_report(
        &atomic,
        region.at(2 * PAGE),
        Access::Atomic,
        Reason::Permission,
    )?;
    ensure!(
        region.words(0..4 * PAGE).iter().all(|&word| word == 77),
        "read-only memory was written"
    );
    Ok(())
}

fn memory_without_access_cannot_be_read() -> Result<()> {
    let region = Region::anonymous(PAGE)?;
    region.store(0, 1);
    region.protect(0..PAGE, ProtFlags::PROT_NONE)?;
    let report = Mirror::new()?.refused(Load::<u64>::new(region.lanes(0, 0)), lanes(1))?;
    ensure_report(&report, region.at(0), Access::Read, Reason::Permission)?;
    Ok(())
}

fn pages_past_the_end_of_a_file_are_refused() -> Result<()> {
    let file = memfd(2 * PAGE)?;
    let region = Region::file(&file, 4 * PAGE, RW, MapFlags::MAP_SHARED)?;
    let mirror = Mirror::new()?;
    mirror.run(Store::new(region.lanes(0, PAGE), 1_u64), lanes(2))?;
    let report = mirror.refused(Store::new(region.lanes(2 * PAGE, 0), 1_u64), lanes(1))?;
    ensure_report(&report, region.at(2 * PAGE), Access::Write, Reason::Bus)
}

/// A mapping without struct pages, such as some kernels' `[vvar]`, has nothing to mirror.
fn device_mappings_are_refused() -> Result<()> {
    let smaps = std::fs::read_to_string("/proc/self/smaps")?;
    let Some(addr) = pfn_mapping(&smaps) else {
        return skip("no mapping without struct pages in this process");
    };
    let at = GpuPtr::new(addr);
    let report = Mirror::new()?.refused(Load::<u64>::new(at.into()), lanes(1))?;
    ensure_report(&report, at, Access::Read, Reason::Permission)
}

/// Where the first mapping with the flag `pf` (pure PFN range) or `io` begins.
fn pfn_mapping(smaps: &str) -> Option<u64> {
    let mut start = None;
    for line in smaps.lines() {
        if let Some(flags) = line.strip_prefix("VmFlags:") {
            if flags
                .split_whitespace()
                .any(|flag| flag == "pf" || flag == "io")
            {
                return start;
            }
        } else if let Some((first, _)) = line.split_once('-') {
            start = u64::from_str_radix(first, 16).ok().or(start);
        }
    }
    None
}
