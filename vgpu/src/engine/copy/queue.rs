// SPDX-License-Identifier: MIT OR Apache-2.0
//! The work of one copy engine, and the interrupts that stop it: launches of a run in order, runs in turn.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::engine::{Run, Status};
use crate::intr::{InterruptTree, Source};

use super::class::{Interrupt, Launch};
use super::regs::{self, Intr, LaunchError};
use super::transfer::Cursor;

/// Launches of one run that wait, at most; then its channel waits.
const DEPTH: usize = 16;

/// A launch, or the error that it turned out to be, and how far it is.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) launch: Result<Launch, LaunchError>,
    pub(super) cursor: Cursor,
}

/// How a turn of a job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is done, but for its interrupt.
    Done(Interrupt),
    /// There is more to do, now or when the run may go on.
    Yield,
    /// It cannot be done.
    Failed(LaunchError),
}

/// The jobs of one run; the first is in work.
struct Jobs {
    run: Arc<Run>,
    waiting: VecDeque<Job>,
}

struct State {
    /// In the order of their turns.
    runs: VecDeque<Jobs>,
    /// The run that the engine works on, or worked on last.
    loaded: Option<Arc<Run>>,
    active: bool,
    intr: Intr,
    enabled: Intr,
    error: u32,
    /// Held in reset.
    disabled: bool,
    shutdown: bool,
}

/// What the threads of channels and of the engine share.
pub(super) struct Queue {
    index: u32,
    intr: Arc<InterruptTree>,
    state: Mutex<State>,
    /// There is work for the engine.
    work: Condvar,
    /// A job has ended, or somebody's run has.
    progress: Condvar,
}

impl State {
    fn new() -> Self {
        Self {
            runs: VecDeque::new(),
            loaded: None,
            active: false,
            intr: Intr::new(),
            enabled: Intr::new(),
            error: 0,
            disabled: false,
            shutdown: false,
        }
    }

    fn is_loaded(&self, run: &Run) -> bool {
        let loaded = self.loaded.as_deref();
        loaded.is_some_and(|loaded| std::ptr::eq(loaded, run))
    }

    fn is_busy(&self, run: &Run) -> bool {
        let has_jobs = |jobs: &Jobs| std::ptr::eq(&*jobs.run, run);
        (self.active && self.is_loaded(run)) || self.runs.iter().any(has_jobs)
    }

    /// An interrupt that blocks the pipe, or an error, waits for software.
    fn is_stopped(&self) -> bool {
        self.disabled || self.intr.blockpipe() || self.intr.launcherr()
    }

    fn jobs(&mut self, run: &Arc<Run>) -> Option<&mut Jobs> {
        self.runs
            .iter_mut()
            .find(|jobs| Arc::ptr_eq(&jobs.run, run))
    }

    /// Takes the next job, and moves its run behind the others.
    fn pick(&mut self) -> Option<(Arc<Run>, Job)> {
        if self.is_stopped() {
            return None;
        }
        let at = self.runs.iter().position(|jobs| jobs.run.may_work())?;
        let mut jobs = self.runs.remove(at)?;
        let job = jobs.waiting.pop_front()?;
        let run = Arc::clone(&jobs.run);
        self.runs.push_back(jobs);
        self.loaded = Some(Arc::clone(&run));
        self.active = true;
        Some((run, job))
    }

    fn drop_dead(&mut self) {
        self.runs.retain(|jobs| !jobs.run.is_dead());
    }
}

impl Queue {
    pub(super) fn new(index: u32, intr: Arc<InterruptTree>) -> Self {
        Self {
            index,
            intr,
            state: Mutex::new(State::new()),
            work: Condvar::new(),
            progress: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn await_progress<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.progress
            .wait(state)
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a launch; waits while its run has too many. False if the run ended instead.
    pub(super) fn submit(&self, run: &Arc<Run>, launch: Result<Launch, LaunchError>) -> bool {
        let mut state = self.lock();
        loop {
            if run.is_dead() || state.shutdown {
                return false;
            }
            let waiting = state.jobs(run).map_or(0, |jobs| jobs.waiting.len());
            if waiting < DEPTH {
                break;
            }
            state = self.await_progress(state);
        }
        let cursor = Cursor::default();
        let job = Job { launch, cursor };
        match state.jobs(run) {
            Some(jobs) => jobs.waiting.push_back(job),
            None => state.runs.push_back(Jobs {
                run: Arc::clone(run),
                waiting: VecDeque::from([job]),
            }),
        }
        self.work.notify_all();
        true
    }

    /// For the engine: waits for a job. None: the end.
    pub(super) fn next(&self) -> Option<(Arc<Run>, Job)> {
        let mut state = self.lock();
        loop {
            if state.shutdown {
                return None;
            }
            if let Some(picked) = state.pick() {
                return Some(picked);
            }
            state = self
                .work
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// For the engine: the turn of a job is over.
    pub(super) fn finish(&self, run: &Arc<Run>, job: Job, outcome: Outcome) {
        self.change(|state| {
            state.active = false;
            match outcome {
                Outcome::Yield => {
                    if let Some(jobs) = state.jobs(run) {
                        jobs.waiting.push_front(job);
                    }
                }
                Outcome::Done(Interrupt::None) => {}
                Outcome::Done(Interrupt::Blocking) => state.intr.set_blockpipe(true),
                Outcome::Done(Interrupt::NonBlocking) => state.intr.set_nonblockpipe(true),
                Outcome::Failed(error) if !state.disabled => {
                    state.error = error as u32;
                    state.intr.set_launcherr(true);
                }
                Outcome::Failed(_) => {}
            }
            state.drop_dead();
            state.runs.retain(|jobs| !jobs.waiting.is_empty());
        });
    }

    /// Waits until the run has no jobs left, or is dead and off the engine.
    pub(super) fn wait_idle(&self, run: &Run) {
        let mut state = self.lock();
        while !state.shutdown && state.is_busy(run) {
            state = self.await_progress(state);
        }
    }

    pub(super) fn is_busy(&self, run: &Run) -> bool {
        self.lock().is_busy(run)
    }

    pub(super) fn is_active(&self, run: &Run) -> bool {
        let state = self.lock();
        state.active && state.is_loaded(run)
    }

    pub(super) fn status(&self) -> Status {
        let state = self.lock();
        // An error would be taken for that of the channel's next owner.
        let is_shown = |run: &&Arc<Run>| !state.intr.launcherr() || !run.is_disowned();
        let shown = state.loaded.as_ref().filter(is_shown);
        Status {
            channel: shown.map(|run| run.channel),
            faulted: shown.is_some_and(|run| run.is_faulted() && !run.is_disowned()),
            busy: state.active || (state.is_stopped() && !state.disabled),
        }
    }

    /// Runs have been killed, switched or resumed.
    pub(super) fn kick(&self) {
        self.change(State::drop_dead);
    }

    /// Ends what [`Self::reset`] began.
    pub(super) fn enable(&self) {
        self.change(|state| state.disabled = false);
    }

    pub(super) fn shut_down(&self) {
        self.change(|state| state.shutdown = true);
    }

    /// Power-on state, or held in reset. What the engine has in work is over on return.
    pub(super) fn reset(&self, disabled: bool) -> Vec<Arc<Run>> {
        let lost = {
            let mut state = self.lock();
            state.disabled = true;
            let lost: Vec<_> = state
                .runs
                .iter()
                .map(|jobs| Arc::clone(&jobs.run))
                .collect();
            for run in &lost {
                run.kill();
            }
            while state.active {
                state = self.await_progress(state);
            }
            // What came in meanwhile is of channels that the reset does not stop.
            state.drop_dead();
            let (runs, shutdown) = (std::mem::take(&mut state.runs), state.shutdown);
            *state = State::new();
            (state.runs, state.disabled, state.shutdown) = (runs, disabled, shutdown);
            lost
        };
        self.change(|_| {});
        lost
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.work.notify_all();
        self.progress.notify_all();
        let source = if self.index == 0 {
            Source::Ce0
        } else {
            Source::Ce1
        };
        self.intr.update_trees(source, || {
            let state = self.lock();
            let pending = Intr::from(u32::from(state.intr) & u32::from(state.enabled));
            [pending != Intr::new(), pending.nonblockpipe()]
        });
    }

    /// The offset of a register of this engine, as that of the first one.
    fn register(&self, offset: u32) -> Option<u32> {
        offset.checked_sub(self.index * regs::STRIDE)
    }

    pub(super) fn read(&self, offset: u32) -> Option<u32> {
        let state = self.lock();
        Some(match self.register(offset)? {
            regs::INTR_EN => state.enabled.into(),
            regs::INTR_STATUS => state.intr.into(),
            regs::LAUNCHERR => state.error,
            _ => return None,
        })
    }

    pub(super) fn write(&self, offset: u32, value: u32) -> Option<()> {
        match self.register(offset)? {
            regs::INTR_EN => self.change(|state| state.enabled = value.into()),
            regs::INTR_STATUS => self.change(|state| state.clear(value)),
            regs::LAUNCHERR => {}
            _ => return None,
        }
        Some(())
    }
}

impl State {
    /// Write one to clear.
    fn clear(&mut self, bits: u32) {
        self.intr = (u32::from(self.intr) & !bits).into();
        if !self.intr.launcherr() {
            self.error = 0;
        }
    }
}
