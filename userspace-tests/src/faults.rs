// SPDX-License-Identifier: MIT OR Apache-2.0
//! Faults: many of them, and those that no page can answer.

use std::time::Duration;

use anyhow::{ensure, Context, Result};
use mirage::{
    lanes, Access, Atomic, Error, GpuPtr, Load, PushBuffer, Reason, Store, Subchannel, COMPUTE,
};
use nix::errno::Errno;
use nix::sys::mman::MmapAdvise;

use crate::channels::still_works;
use crate::fixture::{ensure_eq, ensure_report, Mirror, Spinner, LIMIT};
use crate::harness::guest_tests;
use crate::region::{Region, PAGE};

guest_tests![
    a_storm_of_100_000_faults_is_served in 600,
    lanes_that_fault_on_one_page_are_all_served,
    a_bad_pointer_is_reported_with_address_access_and_reason,
    addresses_that_no_process_has_are_refused,
    where_the_driver_has_nothing_its_range_is_refused,
    a_bad_pointer_stops_its_channel_and_no_other,
    work_behind_a_bad_pointer_is_abandoned,
    a_bad_method_stops_its_channel_and_is_reported,
    a_host_access_to_unmapped_memory_stops_its_channel,
];

/// An address in the first page, where nothing is ever mapped.
const NOWHERE: GpuPtr = GpuPtr::new(0x8);

fn a_storm_of_100_000_faults_is_served() -> Result<()> {
    const PAGES: usize = 12_500;
    const PASSES: u64 = 8;
    let (mirror, region) = (Mirror::new()?, Region::anonymous(PAGES * PAGE)?);
    let _ = region.advise(0..region.len(), MmapAdvise::MADV_NOHUGEPAGE);
    let before = mirror.counters()?;
    for pass in 1..=PASSES {
        let job = mirror.channel.launch(
            Store::new(region.lanes(0, PAGE), pass << 32).plus_lane(),
            lanes(PAGES as u32),
        )?;
        job.wait(Duration::from_secs(300))?;
        let wrong = (0..PAGES).find(|&page| region.load(page * PAGE) != (pass << 32) | page as u64);
        ensure_eq!(wrong, None);
        region.advise(0..region.len(), MmapAdvise::MADV_DONTNEED)?;
    }
    let work = mirror.counters()?.since(&before);
    println!(
        "{} faults in {} batches, {} replays",
        work.get("faults"),
        work.get("batches"),
        work.get("replays")
    );
    // No page was there before its lane came, so each of them takes a fault.
    ensure!(work.get("faults") >= PASSES * PAGES as u64, "{work:?}");
    Ok(())
}

fn lanes_that_fault_on_one_page_are_all_served() -> Result<()> {
    let (mirror, region) = (Mirror::new()?, Region::anonymous(PAGE)?);
    mirror.run(Atomic::add(region.lanes(0, 0), 1_u64), lanes(4096))?;
    ensure_eq!(region.load(0), 4096);
    Ok(())
}

fn a_bad_pointer_is_reported_with_address_access_and_reason() -> Result<()> {
    let mirror = Mirror::new()?;
    let mut gone = Region::anonymous(4 * PAGE)?;
    let bad = gone.at(PAGE);
    gone.unmap(PAGE..2 * PAGE)?;
    let report = mirror.refused(Load::<u64>::new(bad.into()), lanes(1))?;
    ensure_report(&report, bad, Access::Read, Reason::NoVma)?;
    let report = mirror.refused(Store::new(bad.offset(0x128).into(), 1_u64), lanes(1))?;
    ensure_report(&report, bad, Access::Write, Reason::NoVma)?;
    let report = mirror.refused(Atomic::add(bad.into(), 1_u64), lanes(1))?;
    ensure_report(&report, bad, Access::Atomic, Reason::NoVma)?;
    let report = mirror.refused(Load::<u64>::new(NOWHERE.into()), lanes(1))?;
    ensure_report(&report, GpuPtr::new(0), Access::Read, Reason::NoVma)?;
    ensure_eq!(mirror.svm.fault_events().try_next()?, None);
    Ok(())
}

/// Above what a process can map: the kernel's half, the hole in the middle, and what takes more than 49 bits.
fn addresses_that_no_process_has_are_refused() -> Result<()> {
    let mirror = Mirror::new()?;
    for addr in [
        0x0000_8000_0000_0000,
        0x0001_0000_0000_0000,
        0x0001_ffff_ffff_f000,
    ] {
        let report = mirror.refused(Load::<u64>::new(GpuPtr::new(addr).into()), lanes(1))?;
        ensure_eq!((report.addr, report.access), (addr, Access::Read));
        ensure!(
            matches!(report.reason, Reason::NoVma | Reason::Unmanaged),
            "{report}"
        );
    }
    // SET_A_UPPER has 17 bits, but a stride leads beyond.
    let last = GpuPtr::new(0x0001_ffff_ffff_f000).stride(PAGE as u32);
    let report = mirror.refused(Load::<u64>::new(last), lanes(2))?;
    ensure!(
        matches!(report.reason, Reason::NoVma | Reason::Unmanaged),
        "{report}"
    );
    Ok(())
}

fn where_the_driver_has_nothing_its_range_is_refused() -> Result<()> {
    let mirror = Mirror::new()?;
    let (start, size) = mirror.svm.unmanaged();
    let last = GpuPtr::new(start + size - PAGE as u64);
    let report = mirror.refused(Store::new(last.into(), 1_u64), lanes(1))?;
    ensure_report(&report, last, Access::Write, Reason::Unmanaged)
}

fn a_bad_pointer_stops_its_channel_and_no_other() -> Result<()> {
    let (mirror, values) = (Mirror::new()?, Region::anonymous(16 * PAGE)?);
    let spinner = Spinner::over(&values)?;
    let good = spinner.start(&mirror.channel)?;
    spinner.wait_round(&values)?;
    let (bad, target) = (mirror.svm.channel()?, Region::anonymous(64 * PAGE)?);
    let job = bad.launch(Store::new(NOWHERE.into(), 1_u64), lanes(1))?;
    let report = mirror.stopped(&bad, &job)?;
    ensure_report(&report, GpuPtr::new(0), Access::Write, Reason::NoVma)?;
    let refused = bad.launch(Store::new(target.lanes(0, PAGE), 1_u64), lanes(64));
    ensure_eq!(
        refused.err().and_then(|error| error.errno()),
        Some(Errno::EIO)
    );
    spinner.wait_round(&values)?;
    // Served beside the spinner, with the bad channel still there.
    let other = mirror.svm.channel()?;
    other
        .launch(Store::new(target.lanes(0, PAGE), 2_u64), lanes(64))?
        .wait(LIMIT)?;
    ensure_eq!(target.page_words(), vec![2; 64]);
    spinner.finish(&good)
}

fn work_behind_a_bad_pointer_is_abandoned() -> Result<()> {
    let (mirror, values) = (Mirror::new()?, Region::anonymous(PAGE)?);
    let (spinner, target) = (Spinner::over(&values)?, Region::anonymous(PAGE)?);
    let channel = mirror.svm.channel()?;
    let first = spinner.start(&channel)?;
    let bad = channel.launch(Load::<u64>::new(NOWHERE.into()), lanes(1))?;
    let behind = channel.launch(Store::new(target.lanes(0, 0), 1_u64), lanes(1))?;
    spinner.finish(&first)?;
    mirror.stopped(&channel, &bad)?;
    ensure!(
        matches!(behind.wait(LIMIT), Err(Error::Stopped { .. })),
        "work behind a bad pointer did not end"
    );
    ensure_eq!(target.load(0), 0);
    Ok(())
}

const SET_LANES: u16 = 0x023c;
const LAUNCH: u16 = 0x0300;
/// Operation of LAUNCH.
const LOAD: u32 = 2;

/// A push buffer of one method with one word.
fn method(subchannel: Subchannel, method: u16, data: u32) -> PushBuffer {
    let mut push = PushBuffer::for_class(0xfec0);
    push.methods(subchannel, method, &[data]);
    push
}

fn a_bad_method_stops_its_channel_and_is_reported() -> Result<()> {
    let mirror = Mirror::new()?;
    let mut no_lanes = method(COMPUTE, SET_LANES, 0);
    no_lanes.methods(COMPUTE, LAUNCH, &[LOAD]);
    let bad = [
        ("a class that does not exist", PushBuffer::for_class(0x1234)),
        ("a method that does not exist", method(COMPUTE, 0x0ffc, 1)),
        ("no lanes", no_lanes),
        (
            "an operation that does not exist",
            method(COMPUTE, LAUNCH, 15),
        ),
        (
            "a TLB invalidation, which is privileged",
            method(Subchannel(0), 0x0034, 9 << 27),
        ),
        (
            "a host method that does not exist",
            method(Subchannel(0), 0x00fc, 0),
        ),
    ];
    for (what, push) in bad {
        let channel = mirror.svm.channel()?;
        let job = channel.submit(&push)?;
        let report = mirror.stopped(&channel, &job).context(what)?;
        ensure!(
            (report.access, report.reason) == (Access::None, Reason::Method),
            "{what}: {report}"
        );
    }
    let misaligned = mirror.refused(Store::new(GpuPtr::new(0x1001).into(), 1_u64), lanes(1))?;
    ensure_eq!(misaligned.reason, Reason::Method);
    still_works(&mirror)
}

/// Rings and host semaphores cannot fault and wait; a program that points them astray loses its channel only.
fn a_host_access_to_unmapped_memory_stops_its_channel() -> Result<()> {
    const SEM_ADDR_LO: u16 = 0x5c;
    const RELEASE: u32 = 1;
    let mirror = Mirror::new()?;
    let mut push = PushBuffer::new();
    push.methods(Subchannel(0), SEM_ADDR_LO, &[0x10_0000, 0, 1, 0, RELEASE]);
    let channel = mirror.svm.channel()?;
    let job = channel.submit(&push)?;
    mirror.stopped(&channel, &job)?;
    still_works(&mirror)
}
