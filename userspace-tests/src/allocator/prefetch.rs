// SPDX-License-Identifier: MIT OR Apache-2.0
//! Prefetches of the memory that the GPU is about to use, or uses already.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{ensure, Context, Result};
use mirage::{Error, Intent, PageRange, Svm};
use nix::errno::Errno;

use super::actions::Ahead;
use super::worker::Worker;
use crate::fixture::LIMIT;

impl Worker<'_> {
    /// Runs submissions as the action says: with what is prefetched before them or meanwhile.
    pub(super) fn run_ahead(&mut self, numbers: Range<usize>) -> Result<()> {
        let (svm, bytes) = (&self.mirror.svm, self.case.shape.len as u64);
        let range = PageRange::new(self.memory.at(0), bytes);
        match self.case.action.ahead {
            Ahead::Nothing => {}
            Ahead::Read => prefetch(svm, range, Intent::Read)?,
            Ahead::Write => prefetch(svm, range, Intent::Write)?,
            Ahead::Race => return self.run_beside(numbers, range),
        }
        self.run(numbers)
    }

    fn run_beside(&mut self, numbers: Range<usize>, range: PageRange) -> Result<()> {
        let (svm, done) = (&self.mirror.svm, AtomicBool::new(false));
        std::thread::scope(|scope| {
            let racer = scope.spawn(|| {
                for intent in [Intent::Read, Intent::Write].into_iter().cycle() {
                    prefetch(svm, range, intent)?;
                    if done.load(Ordering::Relaxed) {
                        break;
                    }
                }
                anyhow::Ok(())
            });
            let outcome = self.run(numbers);
            done.store(true, Ordering::Relaxed);
            racer.join().ok().context("the racer panicked")??;
            outcome
        })
    }
}

/// All of a range.
fn prefetch(svm: &Svm, range: PageRange, intent: Intent) -> Result<()> {
    let begin = Instant::now();
    loop {
        match svm.prefetch(range, intent) {
            // Other threads' memory next to it comes and goes.
            Err(Error::Prefetch {
                errno: Errno::EAGAIN,
                ..
            }) if begin.elapsed() < LIMIT => {}
            outcome => {
                let (done, due) = (outcome?, range.pages());
                ensure!(done == due, "prefetched {done} pages of {due}");
                return Ok(());
            }
        }
    }
}
