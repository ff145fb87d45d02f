// SPDX-License-Identifier: MIT OR Apache-2.0
//! MIRAGE_COMPUTE_A: methods become launches.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crate::counters::Counters;
use crate::fifo::Method;
use crate::mmu::Mmu;
use crate::pri::{PmcUnit, RegisterBlock};

use super::graph::Graph;
use super::launch::{Launch, Parameters};
use super::regs::{method, MIRAGE_COMPUTE_A};
use super::scheduler::Scheduler;
use super::{sm, Context, Engine, Failure, Refusal, Run, Status};

/// The runlist of the graphics engine.
const RUNLIST: u8 = 0;

/// What the compute engine is connected to.
pub(crate) struct ComputeParts {
    /// Translations.
    pub(crate) mmu: Arc<Mmu>,
    /// Where its errors are shown.
    pub(crate) graph: Arc<Graph>,
    /// Its counters.
    pub(crate) counters: Arc<Counters>,
}

pub(super) struct Shared {
    pub(super) parts: ComputeParts,
    pub(super) scheduler: Scheduler,
}

/// The compute engine: its SMs, and what they have to do.
pub(crate) struct Compute {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Compute {
    /// Starts `sms` SMs.
    ///
    /// # Errors
    /// The operating system gives no thread.
    pub(crate) fn new(parts: ComputeParts, sms: u32) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            parts,
            scheduler: Scheduler::new(),
        });
        let compute = Self {
            shared: Arc::clone(&shared),
            threads: Mutex::default(),
        };
        for index in 0..sms {
            let thread = sm::spawn(Arc::clone(&shared), index)?;
            compute.threads().push(thread);
        }
        Ok(compute)
    }

    fn threads(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends all work and the SMs.
    fn shut_down(&self) {
        for run in self.shared.scheduler.shut_down() {
            run.kill();
            self.shared.parts.mmu.abandon(run.space.inst);
        }
        for thread in self.threads().drain(..) {
            if thread.join().is_err() {
                log::error!("An SM ended with a panic");
            }
        }
    }
}

impl RegisterBlock for Compute {
    /// Its registers are [`Graph`]'s.
    fn read(&self, _offset: u32) -> Option<u32> {
        None
    }

    fn write(&self, _offset: u32, _value: u32) -> Option<()> {
        None
    }

    /// Host has been reset before, and with it all runs.
    fn reset(&self) {
        self.shared.scheduler.reset();
    }
}

impl PmcUnit for Compute {
    fn set_enabled(&self, enabled: bool) {
        if enabled {
            return self.shared.scheduler.enable();
        }
        let lost = self.shared.scheduler.disable();
        for run in &lost {
            run.failed(Failure::Engine);
            self.shared.parts.mmu.abandon(run.space.inst);
        }
        self.kick();
        for run in &lost {
            self.wait_idle(run);
        }
        self.shared.parts.graph.reset();
    }
}

impl Drop for Compute {
    fn drop(&mut self) {
        self.shut_down();
    }
}

impl Engine for Compute {
    fn class(&self) -> u32 {
        MIRAGE_COMPUTE_A
    }

    fn runlist(&self) -> u8 {
        RUNLIST
    }

    fn context(&self, run: &Arc<Run>) -> Box<dyn Context> {
        Box::new(ComputeContext {
            shared: Arc::clone(&self.shared),
            run: Arc::clone(run),
            parameters: Parameters::default(),
        })
    }

    fn wait_idle(&self, run: &Run) {
        self.shared.wait_idle(run);
    }

    fn is_busy(&self, run: &Run) -> bool {
        self.shared.scheduler.is_busy(run)
    }

    fn is_active(&self, run: &Run) -> bool {
        self.shared.scheduler.is_active(run)
    }

    fn status(&self) -> Status {
        self.shared.scheduler.status()
    }

    fn kick(&self) {
        self.shared.scheduler.kick();
    }
}

impl Shared {
    fn wait_idle(&self, run: &Run) {
        self.scheduler.wait_idle(run);
        self.parts.mmu.land_stores();
    }
}

struct ComputeContext {
    shared: Arc<Shared>,
    run: Arc<Run>,
    parameters: Parameters,
}

impl ComputeContext {
    fn launch(&mut self, method: Method) -> Result<(), Refusal> {
        let launch = Launch::new(&self.run, &self.parameters, method)?;
        self.shared.parts.counters.launches.count();
        if self.shared.scheduler.submit(launch) {
            Ok(())
        } else {
            Err(Refusal::Ended)
        }
    }
}

impl Context for ComputeContext {
    fn method(&mut self, method: Method) -> Result<(), Refusal> {
        let p = &mut self.parameters;
        let data = method.data;
        match method.address {
            method::SET_OBJECT | method::NO_OPERATION => {}
            method::WAIT_FOR_IDLE => self.shared.wait_idle(&self.run),
            method::SET_A_UPPER => set_upper(&mut p.a, data),
            method::SET_A_LOWER => set_lower(&mut p.a, data),
            method::SET_B_UPPER => set_upper(&mut p.b, data),
            method::SET_B_LOWER => set_lower(&mut p.b, data),
            method::SET_R_UPPER => set_upper(&mut p.r, data),
            method::SET_R_LOWER => set_lower(&mut p.r, data),
            method::SET_VALUE_UPPER => set_upper(&mut p.value, data),
            method::SET_VALUE_LOWER => set_lower(&mut p.value, data),
            method::SET_COMPARE_UPPER => set_upper(&mut p.compare, data),
            method::SET_COMPARE_LOWER => set_lower(&mut p.compare, data),
            method::SET_STRIDE_A => p.stride_a = data,
            method::SET_STRIDE_B => p.stride_b = data,
            method::SET_STRIDE_R => p.stride_r = data,
            method::SET_LANES => p.lanes = data,
            method::SET_LENGTH => p.length = data,
            method::SET_STEPS => p.steps = data,
            method::SET_NEXT_OFFSET => p.next_offset = data,
            method::SET_VALUE_OFFSET => p.value_offset = data,
            method::LAUNCH => return self.launch(method),
            _ => return Err(Refusal::IllegalMethod),
        }
        Ok(())
    }
}

fn set_upper(value: &mut u64, upper: u32) {
    *value = (u64::from(upper) << 32) | (*value & u64::from(u32::MAX));
}

fn set_lower(value: &mut u64, lower: u32) {
    *value = *value & !u64::from(u32::MAX) | u64::from(lower);
}
