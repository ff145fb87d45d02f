// SPDX-License-Identifier: MIT OR Apache-2.0
//! Error registers that show one error at a time: the next is shown when the bit of the first has been cleared.

use std::collections::VecDeque;

use super::regs::CHANNELS;

/// Most errors that wait: a channel stops at its first, but one of its launches can fail after that. One more may be shown
/// that belongs to no channel any more.
const MOST: usize = 2 * CHANNELS + 1;

/// Errors, oldest first, behind an interrupt register and its enables.
#[derive(Debug)]
pub(crate) struct Latch<E> {
    /// None: its channel has gone.
    errors: VecDeque<(u32, Option<E>)>,
    enabled: u32,
}

impl<E> Latch<E> {
    pub(crate) fn new() -> Self {
        Self {
            errors: VecDeque::new(),
            enabled: 0,
        }
    }

    /// Adds an error that shows as `bit`. False if it was dropped.
    #[must_use]
    pub(crate) fn push(&mut self, bit: u32, error: E) -> bool {
        let room = self.errors.len() < MOST;
        if room {
            self.errors.push_back((bit, Some(error)));
        }
        room
    }

    /// The interrupt register.
    pub(crate) fn pending(&self) -> u32 {
        self.errors.front().map_or(0, |(bit, _)| *bit)
    }

    /// Write one to clear.
    pub(crate) fn clear(&mut self, bits: u32) {
        if self.pending() & bits != 0 {
            self.errors.pop_front();
        }
    }

    /// The error shown. None: there is none, or its channel has gone.
    pub(crate) fn current(&self) -> Option<&E> {
        self.errors.front()?.1.as_ref()
    }

    /// Drops errors. Of one that is shown the bit stays: who has just read it is about to clear it, and would otherwise
    /// clear the next.
    pub(crate) fn forget(&mut self, which: impl Fn(&E) -> bool) {
        let mut is_shown = true;
        self.errors.retain_mut(|(_, error)| {
            error.take_if(|error| which(error));
            std::mem::take(&mut is_shown) || error.is_some()
        });
    }

    pub(crate) fn enabled(&self) -> u32 {
        self.enabled
    }

    pub(crate) fn set_enabled(&mut self, bits: u32) {
        self.enabled = bits;
    }

    /// The interrupt's level.
    pub(crate) fn level(&self) -> bool {
        self.pending() & self.enabled != 0
    }
}
