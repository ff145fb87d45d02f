// SPDX-License-Identifier: MIT OR Apache-2.0
//! Shapes of work times what happens to its memory: each pair is a test, `allocator::SHAPE__ACTION`.
//!
//! A shape says how much is submitted, where, and by whom; an action says what the memory is and what is done to it between two
//! submissions. After each of them every word of the memory is compared with what it must be.

mod actions;
mod memory;
mod partial;
mod prefetch;
mod shapes;
mod table;
mod worker;

use std::sync::OnceLock;

use anyhow::{Context, Result};

use crate::fixture::Mirror;
use crate::harness::{Body, Test};
use crate::sys::fork;

use actions::Action;
use shapes::{Shape, Workers, SHAPES};
use table::ACTIONS;
use worker::Worker;

/// Seconds after which a case counts as hung.
const SECONDS: u64 = 60;

#[derive(Clone, Copy, Debug)]
struct Case {
    shape: &'static Shape,
    action: &'static Action,
}

fn cases() -> &'static [Case] {
    static CASES: OnceLock<Vec<Case>> = OnceLock::new();
    CASES.get_or_init(|| {
        let pairs = SHAPES
            .iter()
            .flat_map(|shape| ACTIONS.iter().map(move |action| Case { shape, action }));
        pairs.filter(|case| case.action.fits(case.shape)).collect()
    })
}

/// All cases, for the list of tests.
pub(crate) fn tests() -> Vec<Test> {
    let test = |(number, case): (usize, &Case)| Test {
        name: Box::leak(format!("{}__{}", case.shape.name, case.action.name).into_boxed_str()),
        module: module_path!(),
        seconds: SECONDS,
        body: Body::Case(run, number),
    };
    cases().iter().enumerate().map(test).collect()
}

fn run(number: usize) -> Result<()> {
    let case = *cases().get(number).context("no such case")?;
    match case.shape.workers {
        Workers::One => Worker::new(case, &Mirror::new()?, 0)?.work(),
        Workers::Threads(count) => threads(count, |seed| {
            Worker::new(case, &Mirror::new()?, seed)?.work()
        }),
        Workers::ThreadsOfOneMirror(count) => {
            let mirror = Mirror::new()?;
            threads(count, |seed| Worker::new(case, &mirror, seed)?.work())
        }
        Workers::Processes(count) => {
            let children = (0..count)
                .map(|seed| fork(|| Worker::new(case, &Mirror::new()?, seed)?.work()))
                .collect::<Result<Vec<_>>>()?;
            children.into_iter().try_for_each(|child| child.join())
        }
    }
}

fn threads(count: u64, work: impl Fn(u64) -> Result<()> + Sync) -> Result<()> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..count)
            .map(|seed| {
                let work = &work;
                scope.spawn(move || work(seed))
            })
            .collect();
        let outcomes = threads
            .into_iter()
            .map(|thread| thread.join().ok().context("a thread panicked")?);
        outcomes.collect::<Result<Vec<()>>>().map(drop)
    })
}
