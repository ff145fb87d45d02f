// SPDX-License-Identifier: MIT OR Apache-2.0
//! The driver's trace events, read from an instance of tracefs of our own, so that nobody else's tracing is disturbed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::SignalFd;
use serde_json::{json, Value};

use crate::output::moment;
use crate::records::{number, Record};
use crate::Outcome;

const TRACEFS: &str = "/sys/kernel/tracing";
/// Bytes of a page.
const PAGE: u64 = 4096;

/// One line of a trace.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Event<'a> {
    /// By CLOCK_MONOTONIC.
    pub(crate) time: Duration,
    /// Without the name of the driver: `fault`, `commit` ...
    pub(crate) name: &'a str,
    fields: &'a str,
}

impl<'a> Event<'a> {
    /// `None` for a line of something else. What comes before the time has spaces in it, and maybe colons.
    pub(crate) fn parse(line: &'a str) -> Option<Self> {
        let (before, after) = line.split_once(": mirage_")?;
        let (name, fields) = after.split_once(": ")?;
        let (seconds, fraction) = before.rsplit(' ').next()?.split_once('.')?;
        let digits = u32::try_from(fraction.len()).ok()?;
        let micros =
            fraction.parse::<u64>().ok()?.checked_mul(1_000_000)? / 10_u64.checked_pow(digits)?;
        let time = Duration::from_secs(seconds.parse().ok()?) + Duration::from_micros(micros);
        Some(Event { time, name, fields })
    }

    fn record(self) -> Record<'a> {
        Record::new(self.fields)
    }

    pub(crate) fn json(self) -> Value {
        let value = |text: &str| number(text).map_or_else(|| json!(text), |number| json!(number));
        let fields: BTreeMap<&str, Value> = self
            .record()
            .pairs()
            .map(|(key, text)| (key, value(text)))
            .collect();
        json!({ "time_ns": self.time.as_nanos() as u64, "event": self.name, "fields": fields })
    }

    pub(crate) fn text(self) -> String {
        format!(
            "{:>14} {:<10} {}",
            moment(self.time),
            self.name,
            self.fields
        )
    }
}

/// What somebody wants to see.
#[derive(Debug, Default)]
pub(crate) struct Filter {
    page: Option<u64>,
    /// Client and batch of what was shown: replays of these are shown as well.
    batches: BTreeSet<(u64, u64)>,
}

impl Filter {
    /// Everything, or what happens to the page at an address.
    pub(crate) fn new(page: Option<u64>) -> Self {
        let page = page.map(|addr| addr / PAGE * PAGE);
        Filter {
            page,
            batches: BTreeSet::new(),
        }
    }

    pub(crate) fn wants(&mut self, event: Event<'_>) -> bool {
        let Some(page) = self.page else { return true };
        let record = event.record();
        let batch = record.number("client").zip(record.number("batch"));
        if event.name == "replay" {
            return batch.is_some_and(|batch| self.batches.remove(&batch));
        }
        let touches = match (
            record.number("va"),
            record.number("start"),
            record.number("end"),
        ) {
            (Some(va), ..) => va / PAGE * PAGE == page,
            (None, Some(start), Some(end)) => start < page + PAGE && page < end,
            _ => false,
        };
        if touches {
            self.batches.extend(batch);
        }
        touches
    }
}

/// An instance of tracefs with the driver's events on. Dropping it removes it.
pub(crate) struct Trace {
    folder: PathBuf,
    pipe: File,
}

impl Trace {
    pub(crate) fn start() -> Outcome<Self> {
        let folder = Path::new(TRACEFS)
            .join("instances")
            .join(format!("mirage-{}", std::process::id()));
        let needs = |error| {
            format!("cannot trace in {TRACEFS}: {error}. It needs root, tracefs (mount -t tracefs none {TRACEFS}) and a kernel with tracing")
        };
        fs::create_dir(&folder).map_err(needs)?;
        match Self::enable(&folder) {
            Ok(pipe) => Ok(Trace { folder, pipe }),
            Err(error) => {
                let _ = fs::remove_dir(&folder);
                Err(needs(error).into())
            }
        }
    }

    fn enable(folder: &Path) -> std::io::Result<File> {
        // The clock that fault reports go by.
        fs::write(folder.join("trace_clock"), "mono")?;
        fs::write(folder.join("events/mirage/enable"), "1")?;
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(OFlag::O_NONBLOCK.bits());
        options.open(folder.join("trace_pipe"))
    }

    /// Gives every line to `line`, until a signal asks for the end.
    pub(crate) fn follow(mut self, mut line: impl FnMut(&str) -> Outcome<()>) -> Outcome<()> {
        let mut ends = SigSet::empty();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            ends.add(signal);
        }
        ends.thread_block()?;
        let signals = SignalFd::new(&ends)?;
        let (mut unfinished, mut buffer) = (String::new(), vec![0; 64 << 10]);
        loop {
            let mut files =
                [self.pipe.as_fd(), signals.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
            poll(&mut files, PollTimeout::NONE)?;
            let [_, signal] = &files;
            let ended = signal.any().unwrap_or(false);
            let read = match self.pipe.read(&mut buffer) {
                Ok(read) => read,
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
                {
                    0
                }
                Err(error) => return Err(error.into()),
            };
            unfinished.push_str(&String::from_utf8_lossy(&buffer[..read]));
            while let Some((first, rest)) = unfinished.split_once('\n') {
                line(first)?;
                unfinished = rest.to_owned();
            }
            if ended {
                return Ok(());
            }
        }
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        // The folder cannot go while its pipe is open.
        if let Ok(null) = File::open("/dev/null") {
            self.pipe = null;
        }
        if let Err(error) = fs::remove_dir(&self.folder) {
            eprintln!("mirage: {} is left behind: {error}", self.folder.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAULT: &str = "   kworker/u4:1-77      [001] .....    12.000345: mirage_fault: client=5 batch=9 channel=0 va=0x7f0000001000 access=write replayable=1";
    const COMMIT: &str = " kworker/u4:1-77 [001] ..... 12.000360: mirage_commit: client=5 batch=9 start=0x7f0000000000 end=0x7f0000200000 seq=4 pages=512 order=9 upgrades=0";
    const REPLAY: &str =
        " kworker/u4:1-77 [001] ..... 12.000400: mirage_replay: client=5 batch=9 start=0x0 end=0x0";

    #[test]
    fn a_line_has_a_time_a_name_and_fields() {
        let event = Event::parse(FAULT).expect("a line of ours");
        assert_eq!(
            (event.time, event.name),
            (Duration::from_micros(12_000_345), "fault")
        );
        assert!(event
            .text()
            .starts_with("     12.000345 fault      client=5"));
        let json = event.json();
        assert_eq!(json["fields"]["va"], 0x7f00_0000_1000_u64);
        assert_eq!(
            (&json["fields"]["access"], &json["time_ns"]),
            (&json!("write"), &json!(12_000_345_000_u64))
        );
    }

    #[test]
    fn lines_of_others_are_no_events() {
        for line in [
            "",
            "CPU:1 [LOST 17 EVENTS]",
            "a-1 [000] ..... 1.0: sched_switch: x=1",
            ": mirage_x: y",
        ] {
            assert!(Event::parse(line).is_none(), "{line}");
        }
    }

    #[test]
    fn one_page_is_followed_from_its_fault_to_the_replay() {
        let mut filter = Filter::new(Some(0x7f00_0000_1234));
        let mut wants = |line: &str| filter.wants(Event::parse(line).expect("a line of ours"));
        assert!([FAULT, COMMIT, REPLAY].into_iter().all(&mut wants));
        // That replay again, and another page's fault.
        assert!(!wants(REPLAY));
        assert!(!wants(&FAULT.replace("0x7f0000001000", "0x7f0000002000")));
        assert!(!wants(
            &COMMIT.replace("end=0x7f0000200000", "end=0x7f0000001000")
        ));
    }

    #[test]
    fn without_a_page_everything_is_shown() {
        assert!(Filter::new(None).wants(Event::parse(REPLAY).expect("a line of ours")));
    }
}
