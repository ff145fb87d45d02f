// SPDX-License-Identifier: GPL-2.0

//! How long engines have worked for an address space: `drm-engine-*` of fdinfo.
//!
//! The device has no clock for that. An engine counts as busy while a channel of the address space has work in its ring, be it one
//! channel or several; so it is never busy for longer than time has passed.

use crate::{
    kapi::time,
    regs::{Engine, ENGINES},
};
use kernel::{new_mutex, prelude::*, sync::Mutex};

/// One engine. Times are CLOCK_MONOTONIC, nanoseconds.
#[derive(Clone, Copy, Default)]
struct Busy {
    /// Channels with work in their rings.
    channels: u32,
    /// Since when there are some.
    since: u64,
    /// Time before that.
    total: u64,
}

/// All engines. The lock is a leaf.
#[pin_data]
pub(crate) struct BusyTimes {
    #[pin]
    engines: Mutex<[Busy; ENGINES.len()]>,
}

impl Busy {
    fn begin(&mut self, now: u64) {
        if self.channels == 0 {
            self.since = now;
        }
        self.channels = self.channels.saturating_add(1);
    }

    fn end(&mut self, now: u64) {
        self.total = self.at(now);
        self.since = now;
        self.channels = self.channels.saturating_sub(1);
    }

    fn at(&self, now: u64) -> u64 {
        let running = if self.channels == 0 {
            0
        } else {
            now.saturating_sub(self.since)
        };
        self.total.saturating_add(running)
    }
}

impl BusyTimes {
    pub(super) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            engines <- new_mutex!([Busy::default(); ENGINES.len()], "mirage::busy"),
        })
    }

    /// A channel's ring is not empty any more.
    pub(crate) fn begin(&self, engine: Engine) {
        if let Some(busy) = self.engines.lock().get_mut(engine as usize) {
            busy.begin(time::monotonic_ns());
        }
    }

    /// A channel's ring is empty again.
    pub(crate) fn end(&self, engine: Engine) {
        if let Some(busy) = self.engines.lock().get_mut(engine as usize) {
            busy.end(time::monotonic_ns());
        }
    }

    /// Nanoseconds that the engines have been busy for, summed over them.
    pub(crate) fn total_ns(&self, engines: &[Engine]) -> u64 {
        let all = self.engines.lock();
        let now = time::monotonic_ns();
        let wanted = engines
            .iter()
            .filter_map(|engine| all.get(*engine as usize));
        wanted.fold(0, |sum, busy| sum.saturating_add(busy.at(now)))
    }
}

#[cfg(CONFIG_KUNIT = "y")]
#[kernel::macros::kunit_tests(mirage_busy)]
mod tests {
    use super::*;

    #[test]
    fn time_counts_while_there_is_work() {
        let mut busy = Busy::default();
        assert_eq!(busy.at(5), 0);
        busy.begin(10);
        assert_eq!(busy.at(15), 5);
        busy.end(20);
        assert_eq!(busy.at(50), 10);
    }

    #[test]
    fn time_of_two_channels_counts_once() {
        let mut busy = Busy::default();
        busy.begin(10);
        busy.begin(12);
        busy.end(20);
        assert_eq!(busy.at(25), 15);
        busy.end(30);
        busy.begin(40);
        assert_eq!(busy.at(41), 21);
    }
}
