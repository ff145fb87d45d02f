// SPDX-License-Identifier: MIT OR Apache-2.0
//! Error registers that show one error at a time: the next is shown when the bit of the first has been cleared.

use std::collections::VecDeque;

/// Most errors that wait; a channel stops at its first, so more than one for each channel are the guest's game.
const MOST: usize = 64;

/// Errors, oldest first, behind an interrupt register and its enables.
#[derive(Debug)]
pub(crate) struct Latch<E> {
    errors: VecDeque<(u32, E)>,
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
            self.errors.push_back((bit, error));
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

    /// The error shown.
    pub(crate) fn current(&self) -> Option<&E> {
        self.errors.front().map(|(_, error)| error)
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
