// SPDX-License-Identifier: MIT OR Apache-2.0
//! Prefetches of the GPU: hints that bring memory in before its access comes, and that harm nobody where there is none.

use anyhow::{ensure, Context, Result};
use mirage::{lanes, Announce, GpuPtr, Load, Store, Strided};
use nix::sys::mman::ProtFlags;

use crate::fixture::{ensure_eq, Mirror, LIMIT};
use crate::harness::{guest_tests, wait_until};
use crate::introspect::client;
use crate::query::query;
use crate::region::{Region, PAGE};
use crate::traces::{Event, Tracing};

guest_tests![
    announced_memory_is_mapped_and_its_access_does_not_fault,
    announcing_what_cannot_be_had_harms_nothing,
    announced_pages_beside_one_that_cannot_be_had_are_mapped,
];

/// Bit of [`query`]: the GPU has a translation.
const VALID: u32 = 1;

fn small_pages(count: usize) -> Result<Region> {
    let region = Region::anonymous(count * PAGE)?;
    region.no_huge_pages();
    Ok(region)
}

/// Whether the GPU maps each of some pages.
fn mapped(mirror: &Mirror, region: &Region) -> Result<Vec<bool>> {
    let pages = query(mirror, region.at(0).addr(), region.pages())?;
    Ok(pages.iter().map(|(gpu, _)| gpu & VALID != 0).collect())
}

/// How many faults of `access` at `addr` have been dealt with: the replay of their batch has come.
fn dealt_with(events: &[Event], addr: u64, access: &str) -> Result<usize> {
    let batch = |event: &Event| event.number("batch");
    let mut count = 0;
    for (i, event) in events.iter().enumerate() {
        if event.name == "fault" && event.is_about(addr) && event.text("access")? == access {
            let number = batch(event)?;
            let ends = |later: &Event| {
                later.name == "replay" && batch(later).is_ok_and(|other| other == number)
            };
            count += usize::from(events[i..].iter().any(ends));
        }
    }
    Ok(count)
}

/// Announces `at`, and waits until the driver has dealt with `addr`, which is a part of that.
fn announce(
    mirror: &Mirror,
    tracing: &Tracing,
    (at, count): (Strided, u32),
    addr: u64,
) -> Result<()> {
    let client = client(&mirror.gpu)?;
    let seen = || dealt_with(&tracing.events(client)?, addr, "prefetch");
    let before = seen()?;
    mirror.run(Announce::new(at), lanes(count))?;
    wait_until(LIMIT, || seen().is_ok_and(|now| now > before))
        .with_context(|| format!("the prefetch of {addr:#x} has not come"))
}

/// One page that the CPU has, and one that nobody has touched yet.
fn announced_memory_is_mapped_and_its_access_does_not_fault() -> Result<()> {
    let (mirror, region) = (Mirror::new()?, small_pages(8)?);
    let (client, tracing) = (client(&mirror.gpu)?, Tracing::start()?);
    region.store(2 * PAGE, 7);
    mirror.run(Announce::new(region.lanes(2 * PAGE, 3 * PAGE)), lanes(2))?;
    let due = [false, false, true, false, false, true, false, false];
    wait_until(LIMIT, || {
        mapped(&mirror, &region).is_ok_and(|pages| pages == due)
    })
    .with_context(|| format!("mapped are {:?}", mapped(&mirror, &region)))?;

    let results = Region::anonymous(PAGE)?;
    // The last page was not announced.
    for (i, page) in [2, 5, 7].into_iter().enumerate() {
        let load = Load::<u64>::new(region.lanes(page * PAGE, 0));
        mirror.run(load.results(results.results(i * 8)), lanes(1))?;
    }
    ensure_eq!(results.words(0..24), vec![7, 0, 0]);
    let events = tracing.events(client)?;
    let reads = [2, 5, 7].map(|page| dealt_with(&events, region.at(page * PAGE).addr(), "read"));
    let [touched, fresh, other] = reads;
    ensure_eq!((touched?, fresh?), (0, 0));
    ensure!(other? > 0, "an access that nobody announced did not fault");
    Ok(())
}

/// A bad access ends its channel when it has come twice, so each hint comes twice.
fn announcing_what_cannot_be_had_harms_nothing() -> Result<()> {
    let (mirror, mut region) = (Mirror::new()?, small_pages(8)?);
    region.fill(0..region.len(), 1);
    region.protect(2 * PAGE..3 * PAGE, ProtFlags::PROT_NONE)?;
    let (closed, hole) = (region.at(2 * PAGE), region.at(5 * PAGE));
    region.unmap(5 * PAGE..6 * PAGE)?;
    let (start, size) = mirror.svm.unmanaged();
    let (before, tracing) = (mirror.counters()?, Tracing::start()?);
    let nowhere = [
        GpuPtr::new(0),
        closed,
        hole,
        // The driver's own range, what no process can have, and more bits than the page tables.
        GpuPtr::new(start + size - PAGE as u64),
        GpuPtr::new(0x8000_0000_0000),
        GpuPtr::new(1 << 49),
    ];
    for bad in nowhere {
        for _ in 0..2 {
            announce(&mirror, &tracing, (bad.into(), 1), bad.addr())?;
        }
        // The same channel goes on.
        mirror.run(Store::new(region.lanes(0, 0), bad.addr()), lanes(1))?;
        ensure_eq!(region.load(0), bad.addr());
        ensure_eq!(mirror.channel.state()?.stopped, None);
    }
    ensure_eq!(mirror.svm.fault_events().try_next()?, None);
    let now = mirror.counters()?.since(&before);
    ensure_eq!((now.get("cancels"), now.get("channel_errors")), (0, 0));
    Ok(())
}

fn announced_pages_beside_one_that_cannot_be_had_are_mapped() -> Result<()> {
    let (mirror, region) = (Mirror::new()?, small_pages(3)?);
    region.protect(PAGE..2 * PAGE, ProtFlags::PROT_NONE)?;
    mirror.run(Announce::new(region.lanes(0, PAGE)), lanes(3))?;
    wait_until(LIMIT, || {
        mapped(&mirror, &region).is_ok_and(|pages| pages == [true, false, true])
    })
    .with_context(|| format!("mapped are {:?}", mapped(&mirror, &region)))?;
    ensure_eq!(mirror.channel.state()?.stopped, None);
    Ok(())
}
