// SPDX-License-Identifier: MIT OR Apache-2.0
//! What most tests begin with: a mirror of the process, and GPU work that does not end by itself.

use std::time::Duration;

use anyhow::{ensure, Context, Result};
use mirage::{
    lanes, Access, Channel, Chase, Counters, Error, FaultReport, Gpu, GpuPtr, Job, Lanes,
    NodeLayout, Operation, Reason, Svm,
};

use crate::harness::wait_until;
use crate::region::{Region, PAGE, WORD};
use crate::sys;

/// How long anything may take that is not expected to take long. Only a failing test waits so long.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// As [`LIMIT`], for what takes most of that on a debug kernel on a machine that has other things to do.
pub(crate) const LONG_LIMIT: Duration = Duration::from_secs(240);

/// This process, mirrored on the GPU, with one channel.
#[derive(Debug)]
pub(crate) struct Mirror {
    pub(crate) gpu: Gpu,
    pub(crate) svm: Svm,
    pub(crate) channel: Channel,
}

impl Mirror {
    pub(crate) fn new() -> Result<Self> {
        let gpu = Gpu::open()?;
        let svm = sys::mirror(&gpu)?;
        let channel = svm.channel()?;
        Ok(Mirror { gpu, svm, channel })
    }

    /// Runs an operation to its end.
    pub(crate) fn run(&self, operation: impl Operation, lanes: Lanes) -> Result<()> {
        Ok(self.channel.launch(operation, lanes)?.wait(LIMIT)?)
    }

    /// Runs an operation to its end that may take long.
    pub(crate) fn run_long(&self, operation: impl Operation, lanes: Lanes) -> Result<()> {
        Ok(self.channel.launch(operation, lanes)?.wait(LONG_LIMIT)?)
    }

    /// Runs an operation on a channel of its own, which must be stopped, and returns the report.
    pub(crate) fn refused(&self, operation: impl Operation, lanes: Lanes) -> Result<FaultReport> {
        let channel = self.svm.channel()?;
        let job = channel.launch(operation, lanes)?;
        self.stopped(&channel, &job)
    }

    /// Waits until work ends because its channel was stopped, and returns the report, which must be of that channel.
    pub(crate) fn stopped(&self, channel: &Channel, job: &Job) -> Result<FaultReport> {
        match job.wait(LIMIT) {
            Err(Error::Stopped { .. }) => {}
            other => {
                anyhow::bail!("the channel should have been stopped, but the wait gave {other:?}")
            }
        }
        let report = self
            .svm
            .fault_events()
            .try_next()?
            .context("the channel was stopped without a report")?;
        ensure!(
            report.channel == channel.handle(),
            "channel {} was stopped, but {report}",
            channel.handle()
        );
        Ok(report)
    }

    pub(crate) fn counters(&self) -> Result<Counters> {
        Ok(self.gpu.counters()?)
    }
}

/// Ends a test with a message when two values differ.
macro_rules! ensure_eq {
    ($left:expr, $right:expr) => {
        match (&$left, &$right) {
            (left, right) => {
                anyhow::ensure!(
                    left == right,
                    "{} is {left:?}, not {right:?}",
                    stringify!($left)
                )
            }
        }
    };
}
pub(crate) use ensure_eq;

/// Ends a test with a message when a report is not the one that is due.
pub(crate) fn ensure_report(
    report: &FaultReport,
    addr: GpuPtr,
    access: Access,
    reason: Reason,
) -> Result<()> {
    let due = (addr.addr(), access, reason);
    ensure!(
        (report.addr, report.access, report.reason) == due,
        "due was {due:x?}, but the report is {report}"
    );
    Ok(())
}

/// Lanes of a spinner: one warp, so that it keeps one SM busy.
const SPINNER_LANES: usize = 32;

/// GPU work that goes round and round over pages, adding 1 to the first word of each, until it is stopped.
///
/// The chain of nodes lies in memory of its own, so nothing that happens to the pages breaks it.
#[derive(Debug)]
pub(crate) struct Spinner {
    nodes: Region,
    layout: NodeLayout,
    pages: usize,
}

impl Spinner {
    /// A chain over all pages of `values`.
    pub(crate) fn over(values: &Region) -> Result<Self> {
        let pages = values.pages();
        let (nodes, distance) = Self::place_below(values, (pages + 1) * PAGE)?;
        for page in 0..pages {
            nodes.store(page * PAGE, nodes.at((page + 1) % pages * PAGE).addr());
        }
        for lane in 0..SPINNER_LANES {
            nodes.store(
                pages * PAGE + lane * WORD,
                nodes.at(lane % pages * PAGE).addr(),
            );
        }
        Ok(Spinner {
            nodes,
            layout: NodeLayout {
                next: 0,
                value: distance,
            },
            pages,
        })
    }

    /// The value of a node is at an unsigned distance from it, so nodes must lie below their values.
    fn place_below(values: &Region, len: usize) -> Result<(Region, u32)> {
        let mut too_high = Vec::new();
        for _ in 0..64 {
            let nodes = Region::anonymous(len)?;
            let distance = values.at(0).addr().wrapping_sub(nodes.at(0).addr());
            match u32::try_from(distance) {
                Ok(distance) => return Ok((nodes, distance)),
                Err(_) => too_high.push(nodes),
            }
        }
        anyhow::bail!("no memory within 4 GiB below {:?}", values.at(0))
    }

    /// Starts going round.
    pub(crate) fn start(&self, channel: &Channel) -> Result<Job> {
        let (operation, lanes) = self.operation();
        Ok(channel.launch(operation, lanes)?)
    }

    /// What goes round.
    pub(crate) fn operation(&self) -> (Chase, Lanes) {
        let heads = self.nodes.lanes(self.pages * PAGE, WORD);
        (
            Chase::new(heads, self.layout).adding(1),
            lanes(SPINNER_LANES as u32),
        )
    }

    /// Ends it the gentle way: the chain ends everywhere.
    pub(crate) fn finish(&self, job: &Job) -> Result<()> {
        self.stop();
        Ok(job.wait(LIMIT)?)
    }

    /// Has it end soon.
    pub(crate) fn stop(&self) {
        (0..self.pages).for_each(|page| self.nodes.store(page * PAGE, 0));
    }

    /// Waits until every page was written since now.
    pub(crate) fn wait_round(&self, values: &Region) -> Result<()> {
        let before = values.page_words();
        wait_until(LIMIT, || {
            values
                .page_words()
                .iter()
                .zip(&before)
                .all(|(now, before)| now != before)
        })
        .context("the GPU does not go round")
    }
}
