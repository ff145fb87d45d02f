// SPDX-License-Identifier: MIT OR Apache-2.0
//! Part of the memory is unmapped or moved away between two passes of the GPU.

use std::ops::Range;

use anyhow::{ensure, Result};
use mirage::{lanes, Load, Store};

use super::actions::{Between, Part};
use super::shapes::{Workers, SPACING};
use super::worker::Worker;
use crate::fixture::LIMIT;
use crate::region::{OldPlace, PAGE, WORD};
use crate::work::ensure_words;

impl Worker<'_> {
    /// Two passes over everything, with the cut in between. What stays keeps its contents, what was moved takes them along, and the
    /// place where it was is refused.
    pub(super) fn cut(&mut self) -> Result<()> {
        let len = self.case.shape.len;
        self.pass(0, std::slice::from_ref(&(0..len)))?;
        let (part, touch) = match self.case.action.between {
            Between::Unmap { part, touch } | Between::Move { part, touch } => (part, touch),
            _ => anyhow::bail!("nothing is cut"),
        };
        let hole = match part {
            Part::Edge => len / 2..len,
            Part::Middle => len / 4 / PAGE * PAGE..len * 3 / 4 / PAGE * PAGE,
        };
        if touch {
            // The pages have the CPU's accesses behind them when they go.
            self.memory.count();
        }
        let before = self.memory.due[hole.start / WORD..hole.end / WORD].to_vec();
        let moves = matches!(self.case.action.between, Between::Move { .. });
        let region = self.memory.region()?;
        let moved = match moves {
            true => Some(region.relocate(hole.clone(), OldPlace::Unmap, false)?),
            false => region.unmap(hole.clone()).map(|()| None)?,
        };
        let rest = [0..hole.start, hole.end..len];
        self.pass(1, &rest)?;
        if let Some(moved) = &moved {
            let at = moved.lanes(0, WORD);
            let results = crate::region::Region::anonymous(moved.len())?;
            let read = Load::new(at).results(results.results::<u64>(0));
            self.channel(0)
                .launch(read, lanes((moved.len() / WORD) as u32))?
                .wait(LIMIT)?;
            ensure_words(&results.words(0..moved.len()), |i| before[i])?;
            ensure_words(&moved.words(0..moved.len()), |i| before[i])?;
        }
        match self.case.shape.workers {
            // Another thread may have mapped something there since.
            Workers::Threads(_) | Workers::ThreadsOfOneMirror(_) => Ok(()),
            Workers::One | Workers::Processes(_) => self.refuse(&hole),
        }
    }

    /// The action's operation all over some ranges, checked.
    fn pass(&mut self, number: usize, ranges: &[Range<usize>]) -> Result<()> {
        for range in ranges.iter().filter(|range| !range.is_empty()) {
            let (at, count) = (self.memory.at(range.start), range.len() / SPACING);
            self.launch(number, at.stride(SPACING as u32), count)?
                .wait(LIMIT)?;
            self.expect_lanes(number, range.start, SPACING, count);
            self.memory
                .check_words(range.start / WORD..range.end / WORD, "after a pass")?;
        }
        Ok(())
    }

    /// First and last page of a hole: nothing may be written there.
    fn refuse(&self, hole: &Range<usize>) -> Result<()> {
        for offset in [hole.start, hole.end - PAGE] {
            let channel = self.mirror.svm.channel()?;
            let job = channel.launch(Store::new(self.memory.at(offset).into(), 1_u64), lanes(1))?;
            ensure!(
                job.wait(LIMIT).is_err(),
                "a hole of the memory could be written"
            );
        }
        Ok(())
    }
}
