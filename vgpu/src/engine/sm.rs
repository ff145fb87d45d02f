// SPDX-License-Identifier: MIT OR Apache-2.0
//! The thread of one SM.

use std::sync::Arc;
use std::thread::JoinHandle;

use crate::mmu::{Client, ClientKind};

use super::compute::Shared;
use super::lane::Scratch;
use super::launch::Launch;
use super::warp::{Outcome, Sm};
use super::{Failure, GraphError};

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
                unit: shared.parts.mmu.register_unit(client),
                scratch: Scratch::new(),
                counters: Arc::clone(&shared.parts.counters),
            };
            serve(&shared, sm);
        })
}

fn serve(shared: &Shared, mut sm: Sm) {
    while let Some(mut warp) = shared.scheduler.next() {
        let outcome = warp.run(&mut sm);
        if let Outcome::Failed(failure) = outcome {
            fail(shared, &warp.launch, failure);
        }
        shared.scheduler.finish(warp, &outcome);
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
        shared.parts.graph.raise(GraphError {
            kind,
            inst: run.space.inst,
            method: launch.method,
        });
    }
    run.failed(failure);
    // Its other warps may hold SMs that wait for a replay.
    shared.parts.mmu.abandon(run.space.inst);
    shared.scheduler.kick();
}
