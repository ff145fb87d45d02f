// SPDX-License-Identifier: MIT OR Apache-2.0
//! NV_PMC_ENABLE (dev_master): resets of single engines.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::pri::{PmcUnit, RegisterBlock};
use crate::regs::pmc;

/// The units that can be held in reset, with their bits.
pub(crate) struct Pmc {
    units: Vec<(u32, Arc<dyn PmcUnit>)>,
    enabled: Mutex<u32>,
}

impl Pmc {
    /// All units are enabled. Where several change at once, they do so in this order.
    pub(crate) fn new(units: Vec<(u32, Arc<dyn PmcUnit>)>) -> Self {
        let enabled = Mutex::new(Self::all(&units));
        Self { units, enabled }
    }

    fn all(units: &[(u32, Arc<dyn PmcUnit>)]) -> u32 {
        units.iter().fold(0, |bits, (bit, _)| bits | (1 << bit))
    }

    fn lock(&self) -> MutexGuard<'_, u32> {
        self.enabled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Register writes come one after the other, so the lock is uncontended while units are reset with it held.
    fn set(&self, value: u32) {
        let mut enabled = self.lock();
        let value = value & Self::all(&self.units);
        let changed = *enabled ^ value;
        *enabled = value;
        for (bit, unit) in &self.units {
            if changed & (1 << bit) != 0 {
                unit.set_enabled(value & (1 << bit) != 0);
            }
        }
    }
}

impl RegisterBlock for Pmc {
    fn read(&self, offset: u32) -> Option<u32> {
        (offset == pmc::ENABLE).then(|| *self.lock())
    }

    fn write(&self, offset: u32, value: u32) -> Option<()> {
        (offset == pmc::ENABLE).then(|| self.set(value))
    }

    fn reset(&self) {
        self.set(u32::MAX);
    }
}
