// SPDX-License-Identifier: GPL-2.0

//! Keeps everybody from writing device memory while the device is being reset: what is written then is lost.
//!
//! It is for what sleeps and allocates. Invalidations and commits do not come by here: they run under update locks, which the one who
//! closes the gate takes afterwards, and find nothing mapped and [`super::Gpu::is_resetting`].

use kernel::{
    new_condvar, new_mutex,
    prelude::*,
    sync::{CondVar, Mutex},
};

struct State {
    inside: usize,
    closed: bool,
}

/// The gate of a device.
#[pin_data]
pub(crate) struct Gate {
    #[pin]
    state: Mutex<State>,
    /// Signalled when the last one leaves, and when the gate opens.
    #[pin]
    changed: CondVar,
}

/// Inside: the gate does not close before this is dropped.
#[must_use]
pub(crate) struct Inside<'a>(&'a Gate);

impl Gate {
    /// An open gate.
    pub(super) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            state <- new_mutex!(State { inside: 0, closed: false }, "mirage::gate"),
            changed <- new_condvar!("mirage::gate_changed"),
        })
    }

    /// Waits while the gate is closed. Not to be called by who is inside, nor with a lock held that one who is inside takes.
    pub(crate) fn enter(&self) -> Inside<'_> {
        let mut state = self.state.lock();
        while state.closed {
            self.changed.wait(&mut state);
        }
        state.inside += 1;
        Inside(self)
    }

    /// Lets nobody in any more and waits until nobody is inside.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        while state.inside != 0 {
            self.changed.wait(&mut state);
        }
    }

    /// Lets everybody in.
    pub(super) fn open(&self) {
        self.state.lock().closed = false;
        self.changed.notify_all();
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        let left = {
            let mut state = self.0.state.lock();
            state.inside = state.inside.saturating_sub(1);
            state.inside
        };
        if left == 0 {
            self.0.changed.notify_all();
        }
    }
}
