// SPDX-License-Identifier: MIT OR Apache-2.0
//! Trace events: a page can be followed through its life.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{ensure, Context, Result};
use mirage::{lanes, GpuPtr, Load, Reason, Store};
use nix::sys::mman::MmapAdvise;

use crate::counted::provoke_retry;
use crate::fixture::{ensure_eq, ensure_report, Mirror, LIMIT};
use crate::harness::{guest_tests, wait_until};
use crate::introspect::client;
use crate::region::{Region, HUGE, PAGE};

guest_tests![
    every_trace_event_is_there_with_its_fields,
    one_page_can_be_followed_from_fault_to_invalidation,
    a_bad_access_is_traced_with_its_reason,
    work_that_an_invalidation_undoes_is_traced_with_its_range in 1200,
];

const TRACING: &str = "/sys/kernel/tracing";

/// A trace buffer of its own that records the driver's events. Goes when dropped.
pub(crate) struct Tracing(PathBuf);

impl Tracing {
    pub(crate) fn start() -> Result<Self> {
        Self::of("")
    }

    /// Records one of the events, or all if that has no name.
    fn of(event: &str) -> Result<Self> {
        let path = Path::new(TRACING)
            .join("instances")
            .join(format!("mirage-{}", std::process::id()));
        fs::create_dir(&path).context("no trace instance")?;
        let tracing = Tracing(path);
        let switch = tracing.0.join("events/mirage").join(event).join("enable");
        fs::write(switch, "1").context("cannot switch on")?;
        Ok(tracing)
    }

    /// The events of one client so far, in order.
    pub(crate) fn events(&self, client: u64) -> Result<Vec<Event>> {
        let text = fs::read_to_string(self.0.join("trace"))?;
        let mut events: Vec<Event> = text.lines().filter_map(Event::parse).collect();
        events.retain(|event| event.fields.get("client") == Some(&client.to_string()));
        Ok(events)
    }
}

impl Drop for Tracing {
    fn drop(&mut self) {
        let _ = fs::write(self.0.join("events/mirage/enable"), "0");
        let _ = fs::remove_dir(&self.0);
    }
}

/// One line of a trace.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) name: String,
    fields: HashMap<String, String>,
}

impl Event {
    /// `TASK-PID [CPU] FLAGS TIME: NAME: KEY=VALUE ...`
    fn parse(line: &str) -> Option<Self> {
        let (_, rest) = line.split_once(": mirage_")?;
        let (name, fields) = rest.split_once(": ")?;
        let field = |word: &str| {
            let (key, value) = word.split_once('=')?;
            Some((key.to_owned(), value.to_owned()))
        };
        Some(Event {
            name: name.to_owned(),
            fields: fields.split_whitespace().filter_map(field).collect(),
        })
    }

    pub(crate) fn text(&self, key: &str) -> Result<&str> {
        let value = self.fields.get(key);
        value
            .map(String::as_str)
            .with_context(|| format!("no {key} in {self:?}"))
    }

    pub(crate) fn number(&self, key: &str) -> Result<u64> {
        let text = self.text(key)?;
        let number = match text.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16),
            None => text.parse(),
        };
        number.with_context(|| format!("{key} is no number in {self:?}"))
    }

    /// Whether the event is about `addr`: at it, or over a range with it.
    pub(crate) fn is_about(&self, addr: u64) -> bool {
        let number = |key| self.number(key).ok();
        let range = number("start").zip(number("end"));
        number("va") == Some(addr) || range.is_some_and(|(start, end)| (start..end).contains(&addr))
    }
}

/// The first event of that name about `addr` in `events`, and those after it.
fn follow<'e>(events: &'e [Event], name: &str, addr: u64) -> Result<(&'e Event, &'e [Event])> {
    let at = events
        .iter()
        .position(|event| event.name == name && event.is_about(addr));
    let at = at.with_context(|| format!("no {name} of {addr:#x} in {events:#?}"))?;
    Ok((&events[at], &events[at + 1..]))
}

fn every_trace_event_is_there_with_its_fields() -> Result<()> {
    let events = [
        ("fault", "client batch va channel access replayable"),
        ("commit", "client batch start end seq pages order upgrades"),
        ("retry", "client batch start end seq"),
        (
            "invalidate",
            "client start end seq pages cause blockable refused",
        ),
        ("replay", "client batch start end"),
        ("cancel", "client batch va channel access reason"),
    ];
    for (name, fields) in events {
        let path = format!("{TRACING}/events/mirage/mirage_{name}/format");
        let format = fs::read_to_string(&path).with_context(|| path.clone())?;
        for field in fields.split(' ') {
            ensure!(
                format.contains(&format!(" {field};")),
                "no {field} in {path}:\n{format}"
            );
        }
    }
    Ok(())
}

fn one_page_can_be_followed_from_fault_to_invalidation() -> Result<()> {
    let (mirror, region) = (Mirror::new()?, Region::anonymous(64 * PAGE)?);
    let (client, page) = (client(&mirror.gpu)?, region.at(17 * PAGE));
    let tracing = Tracing::start()?;
    mirror.run(Store::new(page.into(), 5_u64), lanes(1))?;
    region.advise(17 * PAGE..18 * PAGE, MmapAdvise::MADV_DONTNEED)?;
    let events = tracing.events(client)?;

    let (fault, rest) = follow(&events, "fault", page.addr())?;
    ensure_eq!(fault.text("access")?, "write");
    ensure_eq!(fault.number("replayable")?, 1);
    ensure_eq!(fault.number("channel")?, u64::from(mirror.channel.handle()));
    let (commit, rest) = follow(rest, "commit", page.addr())?;
    ensure!(commit.number("pages")? >= 1, "{commit:?}");
    ensure_eq!(commit.number("batch")?, fault.number("batch")?);
    let replay = rest.iter().find(|event| event.name == "replay");
    let replay = replay.context("a batch without a replay")?;
    ensure_eq!(replay.number("batch")?, fault.number("batch")?);
    let (invalidate, _) = follow(rest, "invalidate", page.addr())?;
    ensure_eq!(invalidate.text("cause")?, "clear");
    ensure_eq!(invalidate.number("pages")?, 1);
    ensure_eq!(invalidate.number("refused")?, 0);
    ensure!(
        invalidate.number("seq")? > commit.number("seq")?,
        "{commit:?}, then {invalidate:?}"
    );
    Ok(())
}

fn a_bad_access_is_traced_with_its_reason() -> Result<()> {
    let (mirror, nowhere) = (Mirror::new()?, GpuPtr::new(0x3000));
    let client = client(&mirror.gpu)?;
    let tracing = Tracing::start()?;
    let report = mirror.refused(Load::<u64>::new(nowhere.into()), lanes(1))?;
    ensure_report(&report, nowhere, mirage::Access::Read, Reason::NoVma)?;
    let events = tracing.events(client)?;
    let (_, rest) = follow(&events, "fault", nowhere.addr())?;
    let (cancel, _) = follow(rest, "cancel", nowhere.addr())?;
    ensure_eq!(cancel.text("reason")?, "no_vma");
    ensure_eq!(cancel.text("access")?, "read");
    ensure_eq!(cancel.number("channel")?, u64::from(report.channel));
    Ok(())
}

fn work_that_an_invalidation_undoes_is_traced_with_its_range() -> Result<()> {
    let (mirror, region) = (Mirror::new()?, Region::anonymous(64 * PAGE)?);
    region.no_huge_pages();
    let (client, tracing) = (client(&mirror.gpu)?, Tracing::of("mirage_retry")?);
    provoke_retry(&mirror, &region)?;
    let seen = || {
        tracing
            .events(client)
            .is_ok_and(|events| !events.is_empty())
    };
    wait_until(LIMIT, seen).context("a retry was counted, and none is traced")?;
    for event in tracing.events(client)? {
        ensure_eq!(event.name, "retry");
        let (start, end) = (event.number("start")?, event.number("end")?);
        // The part of one block that was looked at, with some page of the region.
        ensure!(start < end && end - start <= HUGE as u64, "{event:?}");
        let block = |addr: u64| addr / HUGE as u64;
        ensure!(block(start) == block(end - 1), "{event:?}");
        let (first, last) = (region.at(0).addr(), region.at(63 * PAGE).addr());
        ensure!(start <= last && first < end, "{event:?}, not {first:#x}");
        ensure!(event.number("batch")? > 0, "{event:?}");
        event.number("seq")?;
    }
    Ok(())
}
