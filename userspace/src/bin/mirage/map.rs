// SPDX-License-Identifier: MIT OR Apache-2.0
//! `mirage map`

use mirage::{Gpu, Order};
use serde::Serialize;

use crate::demo::memory;
use crate::output::{self, grouped, say, size, table};
use crate::records::{self, Record, COMM};
use crate::Outcome;

mod own;

/// Shows what the GPU maps of a process, range by range, from debugfs. With `self`, mirrors this process for a moment, has the driver
/// prefetch a buffer, and shows GPU's and CPU's view of it side by side; that needs no root.
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Arguments {
    /// Process to show, `self`, or nothing for all.
    #[arg(value_name = "PID|self", value_parser = target)]
    process: Option<Target>,
    /// Print one line of JSON for each mirror.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    Myself,
    Pid(u64),
}

fn target(text: &str) -> Result<Target, &'static str> {
    match text {
        "self" => Ok(Target::Myself),
        pid => pid
            .parse()
            .map(Target::Pid)
            .map_err(|_| "neither a process number nor `self`"),
    }
}

/// The mirror of a process, as the driver lists it.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Mirror {
    client: u64,
    pid: u64,
    comm: String,
    unmanaged: (u64, u64),
    /// First address and end.
    regions: Vec<(u64, u64)>,
    leaves: Vec<Leaf>,
}

/// A run of equal leaves.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Leaf {
    start: u64,
    end: u64,
    order: u8,
    writable: bool,
    atomic: bool,
    place: String,
}

/// Takes the driver's list apart: a line for a mirror, then its regions and leaves. Other lines are skipped.
fn parse(text: &str) -> Vec<Mirror> {
    let mut mirrors = Vec::new();
    for line in text.lines() {
        let Some((kind, rest)) = line.trim_start().split_once(' ') else {
            continue;
        };
        let added = match (kind, mirrors.last_mut()) {
            ("svm", _) => Mirror::parse(rest).map(|mirror| mirrors.push(mirror)),
            ("region", Some(mirror)) => first_range(rest).map(|range| mirror.regions.push(range)),
            ("leaf", Some(mirror)) => Leaf::parse(rest).map(|leaf| mirror.add(leaf)),
            _ => None,
        };
        debug_assert!(
            added.is_some() || !matches!(kind, "svm" | "region" | "leaf"),
            "{line}"
        );
    }
    mirrors
}

fn first_range(rest: &str) -> Option<(u64, u64)> {
    records::range(rest.split_ascii_whitespace().next()?)
}

impl Mirror {
    fn parse(rest: &str) -> Option<Self> {
        let record = Record::new(rest);
        Some(Mirror {
            client: record.number("client")?,
            pid: record.number("pid")?,
            comm: record.text(COMM).unwrap_or_default().to_owned(),
            unmanaged: record.text("unmanaged").and_then(records::range)?,
            ..Default::default()
        })
    }

    /// Adds a run, or makes the last one longer: the driver's list begins anew every 2 MiB.
    fn add(&mut self, leaf: Leaf) {
        match self.leaves.last_mut() {
            Some(last) if last.end == leaf.start && last.kind() == leaf.kind() => {
                last.end = leaf.end;
            }
            _ => self.leaves.push(leaf),
        }
    }

    fn mapped(&self) -> u64 {
        self.leaves
            .iter()
            .map(|leaf| leaf.end.saturating_sub(leaf.start))
            .sum()
    }
}

impl Leaf {
    fn parse(rest: &str) -> Option<Self> {
        let ((start, end), record) = (first_range(rest)?, Record::new(rest));
        Some(Leaf {
            start,
            end,
            order: u8::try_from(record.number("order")?).ok()?,
            writable: record.number("write")? != 0,
            atomic: record.number("atomic")? != 0,
            place: record.text("place").unwrap_or("system").to_owned(),
        })
    }

    fn kind(&self) -> (u8, bool, bool, &str) {
        (self.order, self.writable, self.atomic, &self.place)
    }

    fn row(&self) -> Vec<String> {
        let rights = match (self.writable, self.atomic) {
            (false, _) => "read",
            (true, false) => "read, write",
            (true, true) => "read, write, atomic",
        };
        vec![
            format!("{:#x}-{:#x}", self.start, self.end),
            size(self.end.saturating_sub(self.start)),
            size(Order(self.order).bytes()),
            self.place.clone(),
            rights.to_owned(),
        ]
    }
}

pub(crate) fn run(gpu: &Gpu, arguments: &Arguments) -> Outcome<()> {
    let pid = match arguments.process {
        Some(Target::Myself) => return own::run(&memory::mirror(gpu)?, arguments.json),
        Some(Target::Pid(pid)) => Some(pid),
        None => None,
    };
    let mut mirrors = parse(&records::read(&gpu.debugfs().join("mirage_svm"))?);
    mirrors.retain(|mirror| pid.is_none_or(|pid| mirror.pid == pid));
    if let (Some(pid), true) = (pid, mirrors.is_empty()) {
        return Err(format!("process {pid} has no mirror on this GPU").into());
    }
    if arguments.json {
        return mirrors.iter().try_for_each(output::json);
    }
    if mirrors.is_empty() {
        say!("no process has a mirror on this GPU");
    }
    for (number, mirror) in mirrors.iter().enumerate() {
        if number > 0 {
            say!("");
        }
        print(mirror)?;
    }
    Ok(())
}

fn print(mirror: &Mirror) -> Outcome<()> {
    let Mirror {
        pid,
        comm,
        client,
        unmanaged,
        regions,
        ..
    } = mirror;
    say!("process {pid} ({comm}), client {client}");
    say!(
        "  left to the driver: {:#x}-{:#x}",
        unmanaged.0,
        unmanaged.1
    );
    say!(
        "  mapped on the GPU:  {} in {} regions",
        size(mirror.mapped()),
        grouped(regions.len() as u64)
    );
    if mirror.leaves.is_empty() {
        return Ok(());
    }
    let rows: Vec<_> = mirror.leaves.iter().map(Leaf::row).collect();
    table(&["range", "size", "leaves of", "in", "rights"], &rows, 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "svm client=5 unmanaged=0x1000000000-0x1004000000 regions=1 mapped=2166784 tables=4096 pid=77 comm=a b\n\
        region 0x7f0000000000-0x7f0002000000\n\
        leaf 0x7f0000000000-0x7f0000200000 order=9 write=1 atomic=1 place=system\n\
        leaf 0x7f0000200000-0x7f0000201000 order=0 write=0 atomic=0 place=system\n\
        news from a later driver\n\
        svm client=6 unmanaged=0x1000000000-0x1004000000 regions=0 pid=78 comm=c\n";

    #[test]
    fn regions_and_leaves_belong_to_the_mirror_above_them() {
        let mirrors = parse(TEXT);
        assert_eq!(
            mirrors.iter().map(|mirror| mirror.pid).collect::<Vec<_>>(),
            [77, 78]
        );
        let [first, second] = &mirrors[..] else {
            panic!("{mirrors:?}")
        };
        assert_eq!(
            (first.regions.len(), first.leaves.len(), first.mapped()),
            (1, 2, (2 << 20) + 4096)
        );
        assert_eq!((first.comm.as_str(), second.mapped()), ("a b", 0));
    }

    #[test]
    fn equal_leaves_of_neighbouring_blocks_are_one_run() {
        let leaf = |start: u64, order: u64| {
            format!(
                "leaf {start:#x}-{:#x} order={order} write=1 atomic=1 place=system\n",
                start + (2 << 20)
            )
        };
        let head = TEXT.lines().next().expect("it has lines");
        let text = format!(
            "{head}\n{}{}{}",
            leaf(0, 9),
            leaf(2 << 20, 9),
            leaf(4 << 20, 4)
        );
        let runs: Vec<_> = parse(&text)[0]
            .leaves
            .iter()
            .map(|leaf| (leaf.start, leaf.end, leaf.order))
            .collect();
        assert_eq!(runs, [(0, 4 << 20, 9), (4 << 20, 6 << 20, 4)]);
    }

    #[test]
    fn a_leaf_is_shown_with_sizes_and_rights() {
        let leaf = Leaf::parse("0x200000-0x400000 order=4 write=1 atomic=0 place=vram")
            .expect("all words are there");
        assert_eq!(
            leaf.row(),
            [
                "0x200000-0x400000",
                "2 MiB",
                "64 KiB",
                "vram",
                "read, write"
            ]
        );
    }

    #[test]
    fn json_of_a_mirror_has_its_leaves() {
        let json = serde_json::to_value(&parse(TEXT)[0]).expect("plain data");
        assert_eq!(
            (&json["pid"], &json["leaves"][1]["writable"]),
            (&77.into(), &false.into())
        );
        assert_eq!(json["regions"][0][0], 0x7f00_0000_0000_u64);
    }

    #[test]
    fn a_target_is_a_number_or_self() {
        assert_eq!(
            (target("self"), target("12")),
            (Ok(Target::Myself), Ok(Target::Pid(12)))
        );
        assert!(target("me").is_err());
    }
}
