// SPDX-License-Identifier: MIT OR Apache-2.0
//! `mirage faults`

use std::time::Duration;

use mirage::{Access, FaultReport, Gpu, Reason};
use serde::Serialize;

use crate::output::{self, moment, say, table};
use crate::records::{self, Record, COMM};
use crate::trace::{Event, Filter, Trace};
use crate::Outcome;

/// Lists the last channels that the driver stopped, of all processes: at most 64, from debugfs. With --follow, shows what happens to
/// faults and mappings as it happens, from the driver's trace events.
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Arguments {
    /// Show only the last N.
    #[arg(long, value_name = "N", conflicts_with = "follow")]
    count: Option<usize>,
    /// Show trace events until interrupted: fault, commit, retry, invalidate, replay, cancel.
    #[arg(long)]
    follow: bool,
    /// With --follow: only what happens to the page at this address.
    #[arg(long, value_name = "ADDRESS", requires = "follow", value_parser = address)]
    page: Option<u64>,
    /// Print one line of JSON for each.
    #[arg(long)]
    json: bool,
}

pub(crate) fn address(text: &str) -> Result<u64, String> {
    records::number(text)
        .ok_or_else(|| "an address is a number, or with 0x a hexadecimal one".to_owned())
}

/// A line of the driver's list.
#[derive(Debug, Serialize)]
struct Fault<'a> {
    time_ns: u64,
    pid: u64,
    comm: &'a str,
    client: u64,
    channel: u64,
    addr: u64,
    access: &'a str,
    reason: &'a str,
    batch: u64,
}

impl<'a> Fault<'a> {
    /// `None` if a word is missing.
    fn parse(line: &'a str) -> Option<Self> {
        let record = Record::new(line);
        Some(Fault {
            time_ns: record.number("time_ns")?,
            pid: record.number("pid")?,
            comm: record.text(COMM)?,
            client: record.number("client")?,
            channel: record.number("channel")?,
            addr: record.number("addr")?,
            access: record.text("access")?,
            reason: record.text("reason")?,
            batch: record.number("batch")?,
        })
    }

    /// As the library says it. A word that it does not know is said as it is.
    fn sentence(&self) -> String {
        let (Some(access), Some(reason)) = (
            Access::from_name(self.access),
            Reason::from_name(self.reason),
        ) else {
            return format!(
                "channel {}: {} of {:#x}: {}",
                self.channel, self.access, self.addr, self.reason
            );
        };
        let report = FaultReport {
            addr: self.addr,
            timestamp: Duration::from_nanos(self.time_ns),
            channel: self.channel as u32,
            access,
            reason,
            batch: self.batch,
            dropped: 0,
        };
        report.to_string()
    }
}

pub(crate) fn run(gpu: &Gpu, arguments: &Arguments) -> Outcome<()> {
    if arguments.follow {
        return follow(arguments);
    }
    let text = records::read(&gpu.debugfs().join("mirage_faults"))?;
    let mut faults: Vec<Fault<'_>> = text.lines().filter_map(Fault::parse).collect();
    let surplus = faults
        .len()
        .saturating_sub(arguments.count.unwrap_or(usize::MAX));
    faults.drain(..surplus);
    if arguments.json {
        return faults.iter().try_for_each(output::json);
    }
    if faults.is_empty() {
        say!("no channel has been stopped since the driver was bound");
        return Ok(());
    }
    let row = |fault: &Fault<'_>| {
        let batch = match fault.batch {
            0 => "-".to_owned(),
            batch => batch.to_string(),
        };
        let time = moment(Duration::from_nanos(fault.time_ns));
        vec![
            fault.comm.to_owned(),
            fault.pid.to_string(),
            fault.client.to_string(),
            time,
            batch,
            fault.sentence(),
        ]
    };
    let rows: Vec<_> = faults.iter().map(row).collect();
    table(
        &["process", "pid", "client", "time", "batch", "what"],
        &rows,
        1,
    )
}

fn follow(arguments: &Arguments) -> Outcome<()> {
    let mut filter = Filter::new(arguments.page);
    Trace::start()?.follow(|line| {
        let Some(event) = Event::parse(line) else {
            // Events that the buffer had no room for are worth knowing.
            if line.contains("LOST") {
                eprintln!("mirage: {}", line.trim());
            }
            return Ok(());
        };
        if !filter.wants(event) {
            return Ok(());
        }
        if arguments.json {
            return output::json(&event.json());
        }
        say!("{}", event.text());
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "time_ns=12000345000 client=5 channel=2 addr=0xbad000 access=read reason=no_vma batch=9 pid=77 comm=a program";

    #[test]
    fn a_line_reads_as_the_report_that_the_program_got() {
        let fault = Fault::parse(LINE).expect("all words are there");
        assert_eq!((fault.pid, fault.comm, fault.batch), (77, "a program", 9));
        assert_eq!(
            fault.sentence(),
            "channel 2: read of 0xbad000: nothing is mapped there"
        );
    }

    #[test]
    fn words_of_a_newer_driver_are_shown_as_they_are() {
        let line = LINE.replace("no_vma", "cosmic_ray");
        let fault = Fault::parse(&line).expect("all words are there");
        assert_eq!(fault.sentence(), "channel 2: read of 0xbad000: cosmic_ray");
    }

    #[test]
    fn a_line_without_a_word_is_left_out() {
        assert!(Fault::parse(&LINE.replace("batch=9", "")).is_none());
    }

    #[test]
    fn json_has_numbers_for_numbers() {
        let json = serde_json::to_value(Fault::parse(LINE).expect("all words are there"))
            .expect("plain data");
        assert_eq!(
            (&json["addr"], &json["reason"]),
            (&0xbad000.into(), &"no_vma".into())
        );
    }
}
