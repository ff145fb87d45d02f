// SPDX-License-Identifier: MIT OR Apache-2.0
//! `mirage demo`: a GPU works on the heap of an ordinary program.
//!
//! The program builds a hash table of boxed nodes and gives the GPU one thing, the address of its array of heads. The GPU
//! walks all chains over and over and adds 1 to every node, while threads of the CPU rearrange the memory that the table lies in.
//! In the end the CPU looks at every node.

use std::time::{Duration, Instant};

use mirage::{
    lanes, Access, Channel, Chase, Chased, Counters, Gpu, GpuPtr, Load, Reason, Strided, Svm,
};

mod churn;
pub(crate) mod memory;
mod show;
mod table;

use churn::{Churn, Done};
use show::Row;
use table::Table;

use crate::output::{grouped, say};
use crate::Outcome;

/// Only a GPU that hangs takes so long.
const LIMIT: Duration = Duration::from_secs(120);
/// Nothing is mapped there in any process.
const BAD_POINTER: GpuPtr = GpuPtr::new(0x0bad_0bad_0000);

/// Options of the demo.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Nodes of the table.
    #[arg(long, default_value_t = 1 << 20, value_parser = clap::value_parser!(u32).range(1..=1 << 26))]
    nodes: u32,
    /// Walks of the GPU over the table.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    walks: u64,
    /// What all random choices start from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Runs the demo; its last line says how it went.
pub(crate) fn run(open: impl Fn() -> mirage::Result<Gpu>, arguments: &Arguments) -> Outcome<()> {
    let outcome = demo(open, arguments);
    match &outcome {
        Ok(()) => say!("demo: PASS"),
        Err(error) => say!("demo: FAIL: {error}"),
    }
    outcome
}

fn demo(open: impl Fn() -> mirage::Result<Gpu>, arguments: &Arguments) -> Outcome<()> {
    let gpu = open()?;
    let svm = memory::mirror(&gpu)?;

    let start = Instant::now();
    let table = Table::build(arguments.nodes as usize, arguments.seed);
    say!(
        "Built a hash table: {} nodes, each in a Box of its own, in {} chains ({:.1} s).",
        grouped(arguments.nodes.into()),
        grouped(table.heads().len() as u64),
        start.elapsed().as_secs_f32()
    );
    say!("The GPU gets a bare pointer to it: {:p}. It walks and updates the table, while CPU threads", table.heads().as_ptr());
    say!("mmap, munmap, mremap, mprotect, madvise and fork around it.\n");

    let before = gpu.counters()?;
    let start = Instant::now();
    let done = walk_under_churn(&svm, &table, arguments)?;
    let walked = start.elapsed();
    let counted = gpu.counters()?.since(&before);
    let start = Instant::now();
    table.check(arguments.walks)?;
    show::rows(&happened(&table, arguments.walks, done, &counted), walked)?;
    say!(
        "The CPU looked at every node: {} values, each of them right ({:.1} s). Pinned: {}. Locked: {}.",
        grouped(arguments.nodes.into()),
        start.elapsed().as_secs_f32(),
        memory::status("VmPin")?,
        memory::status("VmLck")?
    );
    say!("No special allocator, no copy, no pinning.\n");

    bad_pointer(&svm, &table, arguments.walks)?;
    table.check(arguments.walks + 1)
}

/// Walks with the CPU's threads around it. Returns what the threads did.
fn walk_under_churn(svm: &Svm, table: &Table, arguments: &Arguments) -> Outcome<Done> {
    let (channel, churn) = (svm.channel()?, Churn::new(svm, table, arguments.seed)?);
    std::thread::scope(|scope| {
        let threads = churn.start(scope);
        let outcome = (0..arguments.walks).try_for_each(|walks| {
            churn.next_walk();
            walk(svm, &channel, table, walks)
        });
        let done = churn.stop(threads);
        outcome.and(done)
    })
}

/// One walk of the GPU over all chains, one lane for each. `walks` were made before.
fn walk(svm: &Svm, channel: &Channel, table: &Table, walks: u64) -> Outcome<()> {
    let heads = table.heads();
    let mut found = vec![Chased::default(); heads.len()];
    let chase = Chase::new(Strided::packed(heads.as_ptr()), table::LAYOUT)
        .adding(1)
        .results(found.as_mut_ptr());
    let job = channel.launch(chase, lanes(heads.len() as u32))?;
    if let Err(error) = job.wait(LIMIT) {
        return Err(match svm.fault_events().try_next()? {
            Some(report) => format!("{error}: {report}").into(),
            None => error.into(),
        });
    }
    let nodes: u64 = found.iter().map(|chain| chain.nodes).sum();
    let sum = found
        .iter()
        .fold(0_u64, |sum, chain| sum.wrapping_add(chain.sum));
    if (nodes, sum) != (table.len(), table.sum(walks)) {
        return Err(format!("walk {walks}: the GPU found {nodes} nodes of sum {sum}").into());
    }
    Ok(())
}

/// What happened, for the table.
fn happened(table: &Table, walks: u64, done: Done, counted: &Counters) -> Vec<Row> {
    let row = |what, name| Row::new(what, counted.get(name));
    let mut rows = vec![
        Row::title("The GPU"),
        Row::new("walks over the whole table", walks),
        Row::new("nodes visited and updated", walks * table.len()),
        Row::title("The CPU meanwhile"),
    ];
    rows.extend(done.rows());
    rows.extend([
        Row::title("The driver"),
        row("GPU page faults", "faults"),
        row("  served in batches", "batches"),
        row("  that another one had answered", "duplicates"),
        row("retries: memory changed under a fault", "retries"),
        row("invalidations of what the GPU had mapped", "invalidations"),
        row("  4 KiB pages taken from the GPU", "invalidated_pages"),
        row("read-only pages made writable", "upgrades"),
        row("2 MiB mappings made", "leaves_2m"),
        row("64 KiB mappings made", "leaves_64k"),
        row("4 KiB mappings made", "leaves_4k"),
        row("large mappings split", "splits"),
        row("TLB operations", "tlb_operations"),
    ]);
    rows
}

/// Gives the GPU a pointer to nothing, shows the report, and walks the table once more on another channel.
fn bad_pointer(svm: &Svm, table: &Table, walks: u64) -> Outcome<()> {
    say!("Now a bad pointer on purpose, {BAD_POINTER:?}:");
    let (channel, other) = (svm.channel()?, svm.channel()?);
    let job = channel.launch(Load::<u64>::new(BAD_POINTER.into()), lanes(1))?;
    let Err(error) = job.wait(LIMIT) else {
        return Err("the GPU read where nothing is mapped".into());
    };
    let report = svm
        .fault_events()
        .try_next()?
        .ok_or("the channel was stopped without a report")?;
    say!("  wait:   {error}");
    say!("  report: {report}");
    let found = (report.channel, report.addr, report.access, report.reason);
    if found
        != (
            channel.handle(),
            BAD_POINTER.addr(),
            Access::Read,
            Reason::NoVma,
        )
    {
        return Err(format!("the report is wrong: {report:?}").into());
    }
    walk(svm, &other, table, walks)?;
    say!("  The program lives, and another channel walked the table once more.");
    Ok(())
}
