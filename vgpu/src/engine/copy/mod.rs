// SPDX-License-Identifier: MIT OR Apache-2.0
//! A copy engine: one thread that does the launches of many channels in turn.
//!
//! It is a client of the hub: a fault is reported in buffer 0 and marks its channel, and the engine goes on with others.
//! When software has cleared the mark, the transfer goes on with the piece that faulted.

mod class;
mod queue;
mod regs;
mod remap;
mod transfer;

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crate::bus::Width;
use crate::clock;
use crate::counters::Counters;
use crate::intr::InterruptTree;
use crate::mmu::{Access, Client, ClientKind, Fault, Mmu, Unit};
use crate::pri::{PmcUnit, RegisterBlock};

use super::{Context, Engine, Failure, Run, Status};
use class::{CopyContext, Launch, Operation, Semaphore};
use queue::{Job, Outcome, Queue};
use transfer::{Cursor, Piece, Reach, Scratch, Transfer, PIECE};

/// NV_PFAULT_CLIENT_HUB_CE0 (dev_fault).
const CLIENT_CE0: u8 = 1;
/// NV_PFAULT_MMU_ENG_ID_CE0 (dev_fault).
const ENGINE_CE0: u16 = 15;
/// Runlists of copy engines follow that of the graphics engine.
const FIRST_RUNLIST: u8 = 1;
/// Bytes after which another run has its turn.
const TURN_BYTES: usize = 4 << 20;
/// Pieces after which it has as well.
const TURN_PIECES: usize = 4096;
/// Pieces in one window, at most; and not many more bytes than one piece may have.
const WINDOW_PIECES: usize = 64;

/// What a copy engine is connected to.
pub(crate) struct CopyParts {
    /// Translations and memory.
    pub(crate) mmu: Arc<Mmu>,
    /// Where its interrupts go.
    pub(crate) intr: Arc<InterruptTree>,
    /// Its counters.
    pub(crate) counters: Arc<Counters>,
}

/// One copy engine.
pub(crate) struct Copy {
    index: u8,
    mmu: Arc<Mmu>,
    queue: Arc<Queue>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Copy {
    /// Starts copy engine number `index`.
    ///
    /// # Errors
    /// The operating system gives no thread.
    pub(crate) fn new(parts: CopyParts, index: u8) -> io::Result<Self> {
        let queue = Arc::new(Queue::new(index.into(), parts.intr));
        let client = Client {
            kind: ClientKind::Hub {
                client: CLIENT_CE0 + index,
            },
            engine_id: ENGINE_CE0 + u16::from(index),
        };
        let (jobs, mmu) = (Arc::clone(&queue), Arc::clone(&parts.mmu));
        let thread = std::thread::Builder::new().name(format!("ce{index}"));
        let thread = thread.spawn(move || {
            let mut worker = Worker {
                unit: mmu.register_unit(client, index.into()),
                scratch: Scratch::new(),
                counters: parts.counters,
            };
            while let Some((run, mut job)) = jobs.next() {
                let outcome = worker.turn(&run, &mut job);
                if let Outcome::Failed(error) = outcome {
                    // Before the job is off the queue, which is what a method may wait for.
                    log::warn!("Channel {}: copy failed: {error:?}", run.channel);
                    run.kill();
                    run.failed(Failure::Engine);
                }
                jobs.finish(&run, job, outcome);
            }
        })?;
        Ok(Self {
            index,
            mmu: parts.mmu,
            queue,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Ends all work; it starts no more while it is disabled.
    fn restart(&self, disabled: bool) {
        for run in self.queue.reset(disabled) {
            run.failed(Failure::Engine);
        }
        self.mmu.land_stores();
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        self.queue.reset(true);
        self.queue.shut_down();
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Err(_)) = thread.take().map(JoinHandle::join) {
            log::error!("Copy engine {} ended with a panic", self.index);
        }
    }
}

impl Engine for Copy {
    fn class(&self) -> u32 {
        regs::VOLTA_DMA_COPY_A
    }

    fn runlist(&self) -> u8 {
        FIRST_RUNLIST + self.index
    }

    fn context(&self, run: &Arc<Run>) -> Box<dyn Context> {
        Box::new(CopyContext::new(&self.queue, run))
    }

    fn wait_idle(&self, run: &Run) {
        self.queue.wait_idle(run);
        self.mmu.land_stores();
    }

    fn is_busy(&self, run: &Run) -> bool {
        self.queue.is_busy(run)
    }

    fn is_active(&self, run: &Run) -> bool {
        self.queue.is_active(run)
    }

    fn status(&self) -> Status {
        self.queue.status()
    }

    fn kick(&self) {
        self.queue.kick();
    }
}

impl RegisterBlock for Copy {
    fn read(&self, offset: u32) -> Option<u32> {
        self.queue.read(offset)
    }

    fn write(&self, offset: u32, value: u32) -> Option<()> {
        self.queue.write(offset, value)
    }

    fn reset(&self) {
        self.restart(false);
    }
}

impl PmcUnit for Copy {
    fn set_enabled(&self, enabled: bool) {
        if enabled {
            self.queue.enable();
        } else {
            self.restart(true);
        }
    }
}

/// What the engine's thread works with.
struct Worker {
    unit: Unit,
    scratch: Scratch,
    counters: Arc<Counters>,
}

impl Worker {
    /// Works on a job until it is done, faults, has had its turn, or has to let go.
    fn turn(&mut self, run: &Run, job: &mut Job) -> Outcome {
        let launch = match &job.launch {
            Ok(launch) => launch,
            Err(error) => return Outcome::Failed(*error),
        };
        if let Some(transfer) = &launch.transfer {
            match self.transfer(run, transfer, &mut job.cursor) {
                Ok(true) => {}
                Ok(false) => return Outcome::Yield,
                Err(faults) => return self.faulted(run, &faults),
            }
        }
        match self.finish(run, launch) {
            Ok(()) => Outcome::Done(launch.interrupt),
            Err(fault) => self.faulted(run, &[fault]),
        }
    }

    /// Moves pieces. True: all are done.
    fn transfer(
        &mut self,
        run: &Run,
        transfer: &Transfer,
        cursor: &mut Cursor,
    ) -> Result<bool, Vec<Fault>> {
        let (mut bytes, mut pieces) = (0, 0);
        while !transfer.is_finished(*cursor) {
            if run.is_off() || bytes >= TURN_BYTES || pieces >= TURN_PIECES {
                return Ok(false);
            }
            let mut reach = Reach {
                window: self.unit.window(),
                space: &run.space,
                scratch: &mut self.scratch,
            };
            let (mut moved, mut faulted) = (0, None);
            for _ in 0..WINDOW_PIECES {
                if transfer.is_finished(*cursor) || moved >= PIECE {
                    break;
                }
                match transfer.step(cursor, &mut reach) {
                    Piece::Moved(bytes) => moved += bytes,
                    Piece::Faulted(faults) => {
                        faulted = Some(faults);
                        break;
                    }
                }
                pieces += 1;
            }
            self.counters.bytes_copied.add(moved as u64);
            if let Some(faults) = faulted {
                return Err(faults);
            }
            bytes += moved;
        }
        Ok(true)
    }

    /// What comes after the data.
    fn finish(&mut self, run: &Run, launch: &Launch) -> Result<(), Fault> {
        // With a flush the semaphore, which is never held back, comes after the data; without one it need not.
        if launch.flush {
            self.unit.flush();
        }
        match &launch.semaphore {
            Some(semaphore) => self.semaphore(run, semaphore),
            None => Ok(()),
        }
    }

    fn semaphore(&mut self, run: &Run, semaphore: &Semaphore) -> Result<(), Fault> {
        let mut window = self.unit.window();
        let access = match semaphore.operation {
            Operation::Release => Access::Write,
            Operation::Reduce(_) => Access::Atomic,
        };
        let at = window.translate(&run.space, semaphore.va, access)?;
        if semaphore.timestamp {
            // Whoever sees the payload must find the time there.
            window.store_now(at.advance(8), &clock::now_ns().to_le_bytes());
        }
        let payload = u64::from(semaphore.payload);
        match semaphore.operation {
            Operation::Reduce(reduction) => {
                reduction.perform(&window, at, Width::Bits32, payload);
            }
            Operation::Release if semaphore.timestamp => {
                window.store_now(at, &payload.to_le_bytes());
            }
            Operation::Release => window.store_now(at, &semaphore.payload.to_le_bytes()),
        }
        Ok(())
    }

    /// Fault and switch. The mark comes first: whoever reads a packet must find it.
    fn faulted(&self, run: &Run, faults: &[Fault]) -> Outcome {
        run.has_faulted();
        for fault in faults {
            self.unit.report(&run.space, *fault);
        }
        Outcome::Yield
    }
}
