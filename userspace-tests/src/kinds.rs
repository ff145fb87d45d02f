// SPDX-License-Identifier: MIT OR Apache-2.0
//! Kinds of memory that few programs have: System V segments, sealed and secret files, huge pages of files, the kernel's own mappings.

use std::fs::File;

use anyhow::{ensure, Context, Result};
use mirage::{lanes, Access, Atomic, GpuPtr, Load, Reason, Store};
use nix::fcntl::{fcntl, FcntlArg, SealFlag};
use nix::sys::memfd::{memfd_create, MFdFlags};
use nix::sys::mman::{MapFlags, ProtFlags};

use crate::fixture::{ensure_eq, ensure_report, Mirror, Spinner};
use crate::harness::{guest_tests, rounds, skip};
use crate::kernel::{smaps_kilobytes, Setting};
use crate::memory::{exercise, memfd};
use crate::region::{Region, HUGE, PAGE, RW, WORD};
use crate::sys::{self, fork};
use crate::work::{ensure_words, gpu_reads};

guest_tests![
    a_system_v_segment_is_shared_with_the_gpu,
    a_write_sealed_file_can_be_read_and_not_written,
    a_private_mapping_of_a_sealed_file_can_be_written,
    a_seal_against_future_writes_leaves_old_mappings_writable,
    secret_memory_is_refused,
    a_write_beside_secret_memory_is_served,
    huge_pages_of_shared_memory_are_shared_with_the_gpu,
    huge_pages_of_a_hugetlb_file_are_shared_with_the_gpu,
    a_hugetlb_page_is_copied_before_the_gpu_writes_what_a_child_shares,
    hugetlb_pages_past_the_end_of_their_file_are_refused,
    truncation_of_a_hugetlb_file_stops_work_on_it,
    the_vdso_can_be_read_and_not_written,
    the_page_of_old_system_calls_is_refused,
    physical_memory_is_refused,
];

const PAGES: usize = 16;
const LEN: usize = PAGES * PAGE;

fn a_system_v_segment_is_shared_with_the_gpu() -> Result<()> {
    let region = Region::anonymous(LEN)?;
    if let Err(error) = region.attach_segment() {
        return skip(format!("no System V shared memory: {error:#}"));
    }
    exercise(&Mirror::new()?, &region)
}

/// A file of memory that takes seals, filled with 0x11.
fn sealable() -> Result<File> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let file = File::from(memfd_create(c"mirage", flags).context("memfd_create")?);
    std::io::Write::write_all(&mut &file, &[0x11; LEN])?;
    Ok(file)
}

fn seal(file: &File, seals: SealFlag) -> Result<()> {
    fcntl(file, FcntlArg::F_ADD_SEALS(seals))
        .context("F_ADD_SEALS")
        .map(drop)
}

const ONES: u64 = 0x1111_1111_1111_1111;

fn a_write_sealed_file_can_be_read_and_not_written() -> Result<()> {
    let (mirror, file) = (Mirror::new()?, sealable()?);
    seal(&file, SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SHRINK)?;
    let region = Region::file(&file, LEN, ProtFlags::PROT_READ, MapFlags::MAP_SHARED)?;
    ensure_words(&gpu_reads(&mirror, &region)?, |_| ONES)?;
    let report = mirror.refused(Store::new(region.lanes(PAGE, 0), 1_u64), lanes(1))?;
    ensure_report(&report, region.at(PAGE), Access::Write, Reason::Permission)?;
    ensure_words(&region.words(0..LEN), |_| ONES)
}

fn a_private_mapping_of_a_sealed_file_can_be_written() -> Result<()> {
    let (mirror, file) = (Mirror::new()?, sealable()?);
    seal(&file, SealFlag::F_SEAL_WRITE)?;
    let region = Region::file(&file, LEN, RW, MapFlags::MAP_PRIVATE)?;
    ensure_words(&gpu_reads(&mirror, &region)?, |_| ONES)?;
    mirror.run(
        Atomic::add(region.lanes(0, WORD), 1_u64),
        lanes((LEN / WORD) as u32),
    )?;
    ensure_words(&region.words(0..LEN), |_| ONES + 1)?;
    let window = Region::file(&file, LEN, ProtFlags::PROT_READ, MapFlags::MAP_SHARED)?;
    ensure_words(&window.words(0..LEN), |_| ONES)
}

fn a_seal_against_future_writes_leaves_old_mappings_writable() -> Result<()> {
    let (mirror, file) = (Mirror::new()?, sealable()?);
    let old = Region::file(&file, LEN, RW, MapFlags::MAP_SHARED)?;
    seal(&file, SealFlag::F_SEAL_FUTURE_WRITE)?;
    let new = Region::file(&file, LEN, ProtFlags::PROT_READ, MapFlags::MAP_SHARED)?;
    mirror.run(
        Store::new(old.lanes(0, WORD), 7_u64),
        lanes((LEN / WORD) as u32),
    )?;
    ensure_words(&gpu_reads(&mirror, &new)?, |_| 7)?;
    let report = mirror.refused(Store::new(new.lanes(0, 0), 8_u64), lanes(1))?;
    ensure_report(&report, new.at(0), Access::Write, Reason::Permission)?;
    ensure_words(&old.words(0..LEN), |_| 7)
}

/// The kernel has taken these pages out of its own mapping, so that nothing but the process reads them; devices stay out as well.
fn secret_memory_is_refused() -> Result<()> {
    let Some(file) = sys::memfd_secret() else {
        return skip("no secret memory");
    };
    file.set_len(LEN as u64)?;
    let (mirror, region) = (
        Mirror::new()?,
        Region::file(&file, LEN, RW, MapFlags::MAP_SHARED)?,
    );
    region.fill(0..LEN, 0x5ec3e7);
    let read = mirror.refused(Load::<u64>::new(region.lanes(0, 0)), lanes(1))?;
    ensure_report(&read, region.at(0), Access::Read, Reason::Permission)?;
    let write = mirror.refused(Store::new(region.lanes(PAGE, 0), 1_u64), lanes(1))?;
    ensure_report(&write, region.at(PAGE), Access::Write, Reason::Permission)?;
    ensure_words(&region.words(0..LEN), |_| 0x5ec3e7)
}

/// One launch writes a page that the GPU has read before, and a secret one in the same 2 MiB. The first becomes writable, though the
/// second cannot be had, and whoever writes it next must not be held up by what the GPU remembers of before.
fn a_write_beside_secret_memory_is_served() -> Result<()> {
    let Some(file) = sys::memfd_secret() else {
        return skip("no secret memory");
    };
    file.set_len(LEN as u64)?;
    let (mirror, mut region) = (Mirror::new()?, Region::huge_aligned(HUGE)?);
    region.no_huge_pages();
    let secret = Region::file(&file, LEN, RW, MapFlags::MAP_SHARED)?;
    region.replace(HUGE / 2, secret)?;
    for round in 1..=rounds(10) {
        region.store(0, round);
        // Read-only since the fork, and nobody else's since the child is gone: a write takes the page as it is.
        fork(|| Ok(()))?.join()?;
        mirror.run(Load::<u64>::new(region.lanes(0, 0)), lanes(1))?;
        let both = Store::new(region.lanes(0, HUGE / 2), 1_u64);
        let report = mirror.refused(both, lanes(2))?;
        ensure_report(
            &report,
            region.at(HUGE / 2),
            Access::Write,
            Reason::Permission,
        )?;
        mirror.run(Store::new(region.lanes(0, 0), 1000_u64), lanes(1))?;
        ensure_eq!(region.load(0), 1000);
    }
    Ok(())
}

fn huge_pages_of_shared_memory_are_shared_with_the_gpu() -> Result<()> {
    let _always = Setting::set(
        "/sys/kernel/mm/transparent_hugepage/shmem_enabled",
        "always",
    )?;
    let (file, mut region) = (memfd(2 * HUGE)?, Region::huge_aligned(2 * HUGE)?);
    region.replace(0, Region::file(&file, 2 * HUGE, RW, MapFlags::MAP_SHARED)?)?;
    region.fill(0..2 * HUGE, 1);
    // In debug kernels, and where memory is in pieces, there may be none.
    if smaps_kilobytes(&region, "ShmemPmdMapped")? == 0 && !region.collapse_all() {
        return skip("no huge page of shared memory to be had");
    }
    exercise(&Mirror::new()?, &region)
}

/// A file of four huge pages, and the setting that has them reserved.
fn hugetlb_file() -> Result<(Setting, File)> {
    let setting = Setting::set("/proc/sys/vm/nr_hugepages", "8")?;
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_HUGETLB;
    let Ok(file) = memfd_create(c"huge", flags) else {
        return skip("no hugetlbfs");
    };
    let file = File::from(file);
    file.set_len(4 * HUGE as u64)?;
    Ok((setting, file))
}

fn map_huge(file: &File, flags: MapFlags) -> Result<Region> {
    match Region::file(file, 4 * HUGE, RW, flags) {
        Ok(region) => Ok(region),
        Err(error) => skip(format!("no huge pages to be had: {error:#}")),
    }
}

fn huge_pages_of_a_hugetlb_file_are_shared_with_the_gpu() -> Result<()> {
    let (_pages, file) = hugetlb_file()?;
    let region = map_huge(&file, MapFlags::MAP_SHARED)?;
    exercise(&Mirror::new()?, &region)?;
    // Another mapping of the file has what the GPU wrote.
    let again = map_huge(&file, MapFlags::MAP_SHARED)?;
    ensure!(
        again.page_words() == region.page_words(),
        "the file misses what the GPU wrote"
    );
    Ok(())
}

fn a_hugetlb_page_is_copied_before_the_gpu_writes_what_a_child_shares() -> Result<()> {
    let (_pages, file) = hugetlb_file()?;
    let (mirror, region) = (Mirror::new()?, map_huge(&file, MapFlags::MAP_PRIVATE)?);
    region.fill(0..HUGE, 5);
    mirror.run(Atomic::add(region.lanes(0, PAGE), 1_u64), lanes(64))?;
    let written = Region::shared(PAGE)?;
    let child = fork(|| {
        crate::harness::wait_until(crate::fixture::LIMIT, || written.load(0) != 0)?;
        ensure_eq!(region.load(0), 6);
        Ok(())
    })?;
    mirror.run(Atomic::add(region.lanes(0, PAGE), 1_u64), lanes(64))?;
    written.store(0, 1);
    child.join()?;
    ensure_words(&region.words(0..64 * PAGE), |i| {
        if i % 512 == 0 {
            7
        } else {
            5
        }
    })
}

fn hugetlb_pages_past_the_end_of_their_file_are_refused() -> Result<()> {
    let (_pages, file) = hugetlb_file()?;
    let (mirror, region) = (Mirror::new()?, map_huge(&file, MapFlags::MAP_SHARED)?);
    file.set_len(HUGE as u64)?;
    mirror.run(Store::new(region.lanes(0, PAGE), 1_u64), lanes(512))?;
    let report = mirror.refused(Store::new(region.lanes(HUGE, 0), 1_u64), lanes(1))?;
    ensure_report(&report, region.at(HUGE), Access::Write, Reason::Bus)
}

fn truncation_of_a_hugetlb_file_stops_work_on_it() -> Result<()> {
    let (_pages, file) = hugetlb_file()?;
    let (mirror, region) = (Mirror::new()?, map_huge(&file, MapFlags::MAP_SHARED)?);
    let spinner = Spinner::over(&region)?;
    let job = spinner.start(&mirror.channel)?;
    spinner.wait_round(&region)?;
    file.set_len(2 * HUGE as u64)?;
    let report = mirror.stopped(&mirror.channel, &job)?;
    let gone = region.at(2 * HUGE).addr()..region.at(4 * HUGE).addr();
    ensure!(
        gone.contains(&report.addr),
        "{report}, outside of {gone:x?}"
    );
    ensure_eq!(
        (report.access, report.reason),
        (Access::Atomic, Reason::Bus)
    );
    Ok(())
}

/// First address of the mapping with this name in /proc/self/maps.
fn mapping(name: &str) -> Result<Option<u64>> {
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    let line = maps.lines().find(|line| line.ends_with(name));
    let start = line
        .and_then(|line| line.split_once('-'))
        .map(|(start, _)| start);
    Ok(start.and_then(|start| u64::from_str_radix(start, 16).ok()))
}

fn the_vdso_can_be_read_and_not_written() -> Result<()> {
    const ELF_MAGIC: u64 = 0x464c_457f;
    let Some(addr) = mapping("[vdso]")? else {
        return skip("no vdso");
    };
    let (mirror, at, result) = (Mirror::new()?, GpuPtr::new(addr), Region::anonymous(PAGE)?);
    mirror.run(
        Load::new(at.into()).results(result.results::<u64>(0)),
        lanes(1),
    )?;
    ensure_eq!(result.load(0) & 0xffff_ffff, ELF_MAGIC);
    let report = mirror.refused(Store::new(at.into(), 1_u64), lanes(1))?;
    ensure_report(&report, at, Access::Write, Reason::Permission)
}

/// It lies in the kernel's half of the address space.
fn the_page_of_old_system_calls_is_refused() -> Result<()> {
    let Some(addr) = mapping("[vsyscall]")? else {
        return skip("no vsyscall page");
    };
    // Launches take 49 bits of it.
    let at = GpuPtr::new(addr & ((1 << 49) - 1));
    let report = Mirror::new()?.refused(Load::<u64>::new(at.into()), lanes(1))?;
    ensure!(
        matches!(report.reason, Reason::NoVma | Reason::Unmanaged),
        "{report}"
    );
    Ok(())
}

fn physical_memory_is_refused() -> Result<()> {
    const BIOS: i64 = 0xf_0000;
    let Ok(file) = File::open("/dev/mem") else {
        return skip("no /dev/mem");
    };
    let Ok(region) = Region::file_at(
        &file,
        BIOS..BIOS + PAGE as i64,
        ProtFlags::PROT_READ,
        MapFlags::MAP_SHARED,
    ) else {
        return skip("/dev/mem cannot be mapped");
    };
    // The CPU can read it.
    let _ = region.load(0);
    let report = Mirror::new()?.refused(Load::<u64>::new(region.lanes(0, 0)), lanes(1))?;
    ensure_report(&report, region.at(0), Access::Read, Reason::Permission)
}
