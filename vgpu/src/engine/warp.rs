// SPDX-License-Identifier: MIT OR Apache-2.0
//! A warp: 32 lanes that move in step on one SM, and wait together when one of them faults.

use std::sync::Arc;

use crate::counters::Counters;
use crate::mmu::{Fault, Unit};

use super::lane::{Lane, Memory, Scratch, Stop};
use super::launch::{Launch, Operation, WARP};
use super::regs::GraphIntr;
use super::Failure;

/// Rounds after which an SM looks for other work: what makes launches of several channels go side by side.
const QUANTUM: u32 = 64;
/// Accesses in one window, at most: an acked invalidate waits for windows.
const WINDOW_ACCESSES: usize = 64;
/// Granule of faults: one packet for each page.
const PAGE: u64 = 4096;

/// How a turn of a warp on an SM ended.
#[derive(Debug)]
pub(super) enum Outcome {
    /// All lanes are finished.
    Done,
    /// There is more to do.
    Yield,
    /// Lanes faulted; these are the distinct faults. There is more to do after a replay.
    Faulted(Vec<Fault>),
    /// The launch fails.
    Failed(Failure),
    /// The run was switched out: the rest when it is switched in again.
    SwitchedOut,
    /// The run has ended.
    Abandoned,
}

/// What an SM works with.
pub(super) struct Sm {
    pub(super) unit: Unit,
    pub(super) scratch: Scratch,
    pub(super) counters: Arc<Counters>,
}

/// Up to 32 lanes of a launch, wherever they are in it.
pub(super) struct Warp {
    pub(super) launch: Arc<Launch>,
    lanes: Vec<Lane>,
}

impl Warp {
    /// Warp number `index` of a launch.
    pub(super) fn new(launch: &Arc<Launch>, index: u32) -> Self {
        let first = index * WARP;
        let end = launch.lanes().min(first + WARP);
        Self {
            launch: Arc::clone(launch),
            lanes: (first..end).map(Lane::new).collect(),
        }
    }

    /// Runs on an SM until it faults, is finished, has had its turn, or ends otherwise. `rounds` counts what it has had of its turn.
    pub(super) fn run(&mut self, sm: &mut Sm, rounds: &mut u32) -> Outcome {
        while *rounds < QUANTUM {
            let faults = match self.round(sm, rounds) {
                Ok(faults) => faults,
                Err(kind) => return Outcome::Failed(Failure::Error(kind)),
            };
            let run = &self.launch.run;
            if run.is_dead() {
                return Outcome::Abandoned;
            }
            if self.lanes.is_empty() {
                return Outcome::Done;
            }
            if run.is_off() {
                return Outcome::SwitchedOut;
            }
            if !faults.is_empty() {
                return Outcome::Faulted(faults);
            }
        }
        Outcome::Yield
    }

    /// Every lane moves on by one step, or by several where there are few of them. Returns the distinct faults.
    fn round(&mut self, sm: &mut Sm, rounds: &mut u32) -> Result<Vec<Fault>, GraphIntr> {
        if self.launch.operation == Operation::Prefetch {
            for lane in self.lanes.drain(..) {
                let va = lane.announced(&self.launch);
                sm.unit.prefetch(&self.launch.run.space, va);
            }
            *rounds += 1;
            return Ok(Vec::new());
        }
        // One window holds either many single accesses or one span.
        let span = self.launch.operation.is_span();
        let group = if span { 1 } else { WINDOW_ACCESSES };
        let repeat = if span {
            1
        } else {
            (WINDOW_ACCESSES / self.lanes.len().max(1)).max(1)
        };
        let mut faults = Vec::new();
        for lanes in self.lanes.chunks_mut(group) {
            let mut memory = Memory {
                window: sm.unit.window(),
                space: &self.launch.run.space,
                counters: &sm.counters,
                scratch: &mut sm.scratch,
            };
            for _ in 0..repeat {
                step_all(lanes, &self.launch, &mut memory, &mut faults)?;
                if !faults.is_empty() {
                    break;
                }
            }
        }
        *rounds += repeat as u32;
        self.lanes.retain(|lane| !lane.is_finished());
        Ok(faults)
    }
}

fn step_all(
    lanes: &mut [Lane],
    launch: &Launch,
    memory: &mut Memory<'_, '_>,
    faults: &mut Vec<Fault>,
) -> Result<(), GraphIntr> {
    for lane in lanes {
        match lane.step(launch, memory) {
            Ok(()) => {}
            Err(Stop::Fault(fault)) => add(faults, fault),
            Err(Stop::TwoFaults(first, second)) => {
                add(faults, first);
                add(faults, second);
            }
            Err(Stop::Misaligned) => return Err(GraphIntr::ClassError),
        }
    }
    Ok(())
}

/// Keeps one fault for each page and kind of access.
pub(super) fn add(faults: &mut Vec<Fault>, fault: Fault) {
    let page = |fault: &Fault| (fault.va.0 / PAGE, fault.access);
    if !faults.iter().any(|known| page(known) == page(&fault)) {
        faults.push(fault);
    }
}
