// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which warp runs next: launches of one run in order, runs in turn.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::launch::Launch;
use super::warp::{Outcome, Warp};
use super::{Run, Status};

/// Launches of one run that wait, at most; then its channel waits.
const DEPTH: usize = 16;

/// The work of all runs.
pub(super) struct Scheduler {
    state: Mutex<State>,
    /// There is work for SMs.
    work: Condvar,
    /// A launch has ended, or somebody's run has.
    progress: Condvar,
}

#[derive(Default)]
struct State {
    /// In the order of their turns.
    queues: VecDeque<Queue>,
    /// The channel that was served last.
    last: Option<u16>,
    /// Held in reset.
    disabled: bool,
    shutdown: bool,
}

/// The launches of one run; the first is in work.
struct Queue {
    run: Arc<Run>,
    launches: VecDeque<Arc<Launch>>,
    /// Warps of the first launch that have been started.
    started: u32,
    /// Of them, those that had a turn and wait for the next. They come first.
    parked: VecDeque<Warp>,
    /// Of them, those that are on SMs.
    running: u32,
}

impl Queue {
    fn new(run: &Arc<Run>) -> Self {
        Self {
            run: Arc::clone(run),
            launches: VecDeque::new(),
            started: 0,
            parked: VecDeque::new(),
            running: 0,
        }
    }

    /// The next warp, if there is one.
    fn pick(&mut self) -> Option<Warp> {
        let launch = self.launches.front()?;
        let warp = match self.parked.pop_front() {
            Some(warp) => warp,
            None if self.started < launch.warps() => {
                self.started += 1;
                Warp::new(launch, self.started - 1)
            }
            None => return None,
        };
        self.running += 1;
        Some(warp)
    }

    /// Takes the first launch off if it is complete.
    fn retire(&mut self) -> bool {
        let complete = self.launches.front().is_some_and(|launch| {
            self.started == launch.warps() && self.parked.is_empty() && self.running == 0
        });
        if complete {
            self.launches.pop_front();
            self.started = 0;
        }
        complete
    }

    /// Drops all that is not on an SM.
    fn abandon(&mut self) {
        self.launches.clear();
        self.parked.clear();
    }

    fn is_empty(&self) -> bool {
        self.launches.is_empty() && self.running == 0
    }
}

impl Scheduler {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::default(),
            work: Condvar::new(),
            progress: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a launch; waits while its run has too many. False if the run ended instead.
    pub(super) fn submit(&self, launch: Launch) -> bool {
        let run = Arc::clone(&launch.run);
        let mut state = self.lock();
        loop {
            if run.is_dead() || state.shutdown {
                return false;
            }
            if state.waiting(&run) < DEPTH {
                state.with_queue(&run, |queue| queue.launches.push_back(Arc::new(launch)));
                self.work.notify_all();
                return true;
            }
            state = self
                .progress
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits until the run has nothing queued or running.
    pub(super) fn wait_idle(&self, run: &Run) {
        let mut state = self.lock();
        while !state.shutdown && state.is_busy(run) {
            state = self
                .progress
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    pub(super) fn is_busy(&self, run: &Run) -> bool {
        self.lock().is_busy(run)
    }

    /// Whether warps of the run are on SMs.
    pub(super) fn is_active(&self, run: &Run) -> bool {
        let state = self.lock();
        let mut queues = state.queues.iter();
        queues.any(|queue| std::ptr::eq(&*queue.run, run) && queue.running > 0)
    }

    /// Of the channels that are served side by side, the one whose turn comes last.
    pub(super) fn status(&self) -> Status {
        let state = self.lock();
        let active = state.queues.iter().rfind(|queue| queue.running > 0);
        Status {
            channel: active.map(|queue| queue.run.channel).or(state.last),
            faulted: false,
            busy: active.is_some(),
        }
    }

    /// Runs have been killed, switched out or switched in: drop what the dead had queued and wake who waits.
    pub(super) fn kick(&self) {
        let mut state = self.lock();
        for queue in state.queues.iter_mut().filter(|queue| queue.run.is_dead()) {
            queue.abandon();
        }
        state.queues.retain(|queue| !queue.is_empty());
        self.progress.notify_all();
        self.work.notify_all();
    }

    /// No channel was served yet. There is no work.
    pub(super) fn reset(&self) {
        self.lock().last = None;
    }

    /// Ends what [`Self::disable`] began.
    pub(super) fn enable(&self) {
        self.lock().disabled = false;
        self.work.notify_all();
    }

    /// Kills the runs that have launches, and keeps SMs idle. Returns those runs.
    pub(super) fn disable(&self) -> Vec<Arc<Run>> {
        let mut state = self.lock();
        state.disabled = true;
        state.last = None;
        let runs = state.queues.iter().map(|queue| Arc::clone(&queue.run));
        let runs: Vec<_> = runs.collect();
        for run in &runs {
            run.kill();
        }
        runs
    }

    /// Ends it: SMs get no more work. Returns the runs that had some.
    pub(super) fn shut_down(&self) -> Vec<Arc<Run>> {
        let mut state = self.lock();
        state.shutdown = true;
        self.work.notify_all();
        self.progress.notify_all();
        state
            .queues
            .iter()
            .map(|queue| Arc::clone(&queue.run))
            .collect()
    }

    /// For an SM: waits for a warp to run. None: the end.
    pub(super) fn next(&self) -> Option<Warp> {
        let mut state = self.lock();
        loop {
            if state.shutdown {
                return None;
            }
            if let Some(warp) = state.pick() {
                return Some(warp);
            }
            state = self
                .work
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// For an SM whose warps of `run` wait: one more of that run, if there is one.
    pub(super) fn next_of(&self, run: &Run) -> Option<Warp> {
        let mut state = self.lock();
        if state.shutdown || state.disabled || !run.may_work() {
            return None;
        }
        let mut queues = state.queues.iter_mut();
        queues.find(|queue| std::ptr::eq(&*queue.run, run))?.pick()
    }

    /// For an SM: gives a warp back after its turn.
    pub(super) fn finish(&self, warp: Warp, outcome: &Outcome) {
        let run = Arc::clone(&warp.launch.run);
        let mut state = self.lock();
        let mut retired = false;
        state.with_queue(&run, |queue| {
            queue.running = queue.running.saturating_sub(1);
            if run.is_dead() {
                queue.abandon();
            } else if matches!(outcome, Outcome::Yield | Outcome::SwitchedOut) {
                queue.parked.push_back(warp);
            }
            retired = queue.retire();
        });
        state.queues.retain(|queue| !queue.is_empty());
        if retired || run.is_dead() {
            self.progress.notify_all();
        }
        self.work.notify_all();
    }
}

impl State {
    /// Launches of a run.
    fn waiting(&self, run: &Run) -> usize {
        let queue = self
            .queues
            .iter()
            .find(|queue| std::ptr::eq(&*queue.run, run));
        queue.map_or(0, |queue| queue.launches.len())
    }

    /// Changes the queue of a run, made if there is none.
    fn with_queue(&mut self, run: &Arc<Run>, change: impl FnOnce(&mut Queue)) {
        if let Some(queue) = self
            .queues
            .iter_mut()
            .find(|queue| Arc::ptr_eq(&queue.run, run))
        {
            return change(queue);
        }
        let mut queue = Queue::new(run);
        change(&mut queue);
        self.queues.push_back(queue);
    }

    fn is_busy(&self, run: &Run) -> bool {
        self.queues
            .iter()
            .any(|queue| std::ptr::eq(&*queue.run, run))
    }

    fn pick(&mut self) -> Option<Warp> {
        if self.disabled {
            return None;
        }
        for _ in 0..self.queues.len() {
            let mut queue = self.queues.pop_front()?;
            let warp = if queue.run.may_work() {
                queue.pick()
            } else {
                None
            };
            let channel = queue.run.channel;
            self.queues.push_back(queue);
            if warp.is_some() {
                self.last = Some(channel);
                return warp;
            }
        }
        None
    }
}
