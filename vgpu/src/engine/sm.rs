// SPDX-License-Identifier: MIT OR Apache-2.0
//! The thread of one SM.

use std::sync::Arc;
use std::thread::JoinHandle;

use crate::mmu::{Client, ClientKind, Fault, Stalled};

use super::compute::Shared;
use super::lane::Scratch;
use super::launch::{Launch, WARP};
use super::warp::{add, Outcome, Sm, Warp};
use super::{Failure, GraphError, Run};

/// Warps that an SM has at once, as on GV100: one that faults does not keep the others from running.
const RESIDENT: usize = 64;
/// Faults after which an SM takes up no more warps: as many as one warp can have with an access for each lane.
const ENOUGH_FAULTS: usize = WARP as usize;
/// NV_PFAULT_MMU_ENG_ID_GRAPHICS (dev_fault).
const ENGINE_GRAPHICS: u16 = 64;
/// NV_PFAULT_CLIENT_GPC_T1_0 (dev_fault).
const CLIENT_T1_0: u8 = 0;
/// GPC_ID of a fault packet has 5 bits.
const GPC_MASK: u32 = 0x1f;

/// Starts SM number `index`.
pub(super) fn spawn(shared: Arc<Shared>, index: u32) -> std::io::Result<JoinHandle<()>> {
    let client = Client {
        kind: ClientKind::Gpc {
            gpc: (index & GPC_MASK) as u8,
            client: CLIENT_T1_0,
        },
        engine_id: ENGINE_GRAPHICS,
    };
    std::thread::Builder::new()
        .name(format!("sm{index}"))
        .spawn(move || {
            let sm = Sm {
                unit: shared.parts.mmu.register_unit(client, index),
                scratch: Scratch::new(),
                counters: Arc::clone(&shared.parts.counters),
            };
            serve(&shared, sm);
        })
}

fn serve(shared: &Shared, mut sm: Sm) {
    while let Some(warp) = shared.scheduler.next() {
        let mut turn = Turn {
            shared,
            run: Arc::clone(&warp.launch.run),
            faulted: Vec::new(),
            faults: Vec::new(),
        };
        turn.run(&mut sm, warp);
    }
}

/// What an SM does before it looks for other work: a warp, and those that it takes up beside it while that waits.
struct Turn<'a> {
    shared: &'a Shared,
    run: Arc<Run>,
    /// Warps that wait for a replay, with what they have had of their turns.
    faulted: Vec<(Warp, u32)>,
    /// What they wait for.
    faults: Vec<Fault>,
}

impl Turn<'_> {
    fn run(&mut self, sm: &mut Sm, first: Warp) {
        self.step(sm, first, 0);
        for _ in 1..RESIDENT {
            if self.faults.is_empty() || self.faults.len() >= ENOUGH_FAULTS {
                break;
            }
            match self.shared.scheduler.next_of(&self.run) {
                Some(warp) => self.step(sm, warp, 0),
                None => break,
            }
        }
        while !self.faulted.is_empty() {
            let faults = std::mem::take(&mut self.faults);
            let stalled = sm.unit.stall(&self.run.space, &faults, self.run.off());
            let warps = std::mem::take(&mut self.faulted);
            if let Stalled::Cancelled(fault) = stalled {
                for (warp, _) in warps {
                    self.end(warp, &Outcome::Failed(Failure::Faulted(fault)));
                }
                return;
            }
            // Switched out, or abandoned for somebody else with the same instance block: the next round tells. It asks
            // for what faulted again.
            for (warp, rounds) in warps {
                self.step(sm, warp, rounds);
            }
        }
    }

    /// Runs a warp until it faults or its turn ends.
    fn step(&mut self, sm: &mut Sm, mut warp: Warp, mut rounds: u32) {
        match warp.run(sm, &mut rounds) {
            Outcome::Faulted(faults) => {
                for fault in faults {
                    add(&mut self.faults, fault);
                }
                self.faulted.push((warp, rounds));
            }
            outcome => self.end(warp, &outcome),
        }
    }

    /// Ends a warp's turn.
    fn end(&self, warp: Warp, outcome: &Outcome) {
        if let Outcome::Failed(failure) = outcome {
            fail(self.shared, &warp.launch, *failure);
        }
        self.shared.scheduler.finish(warp, outcome);
    }
}

/// Ends the run of a launch that failed; the first failure of a run is the one that counts.
fn fail(shared: &Shared, launch: &Launch, failure: Failure) {
    let run = &launch.run;
    if !run.kill() {
        return;
    }
    log::warn!("Channel {}: launch failed: {failure:x?}", run.channel);
    if let Failure::Error(kind) = failure {
        let method = launch.method;
        shared.parts.graph.raise(GraphError { kind, method }, run);
    }
    run.failed(failure);
    // Its other warps may hold SMs that wait for a replay.
    shared.parts.mmu.abandon(run.space.inst);
    shared.scheduler.kick();
}
