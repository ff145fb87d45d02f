// SPDX-License-Identifier: MIT OR Apache-2.0
//! NV_PRAMIN: one MiB of physical memory in the register space.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::Arc;

use crate::bus::{Aperture, Bus, PhysAddr};
use crate::counters::Counters;
use crate::pri::RegisterBlock;
use crate::regs::pbus::{self, Bar0Window};

/// The window and its register.
pub(crate) struct Pramin {
    bus: Arc<dyn Bus>,
    counters: Arc<Counters>,
    window: AtomicU32,
}

impl Pramin {
    pub(crate) fn new(bus: Arc<dyn Bus>, counters: Arc<Counters>) -> Self {
        Self {
            bus,
            counters,
            window: AtomicU32::new(0),
        }
    }

    /// Where in memory an offset is. None: not in the window. The inner None: TARGET names no memory.
    fn address(&self, offset: u32) -> Option<Option<PhysAddr>> {
        let distance = offset.checked_sub(pbus::PRAMIN)?;
        if distance >= pbus::PRAMIN_SIZE {
            return None;
        }
        let window = Bar0Window::from(self.window.load(Ordering::Relaxed));
        let aperture = match window.target() {
            0 => Aperture::Vid,
            2 | 3 => Aperture::Sys,
            _ => return Some(None),
        };
        let addr = (u64::from(window.base()) << pbus::WINDOW_SHIFT) + u64::from(distance);
        Some(Some(PhysAddr { aperture, addr }))
    }

    /// What an access that reached no memory yields.
    fn nothing<T>(&self, instead: T) -> T {
        self.counters.bus_errors.count();
        instead
    }
}

impl RegisterBlock for Pramin {
    fn read(&self, offset: u32) -> Option<u32> {
        if offset == pbus::BAR0_WINDOW {
            return Some(self.window.load(Ordering::Relaxed));
        }
        let value = self.address(offset)?.map(|at| self.bus.read_u32(at));
        Some(match value {
            Some(Ok(value)) => value,
            Some(Err(_)) | None => self.nothing(u32::MAX),
        })
    }

    fn write(&self, offset: u32, value: u32) -> Option<()> {
        if offset == pbus::BAR0_WINDOW {
            let window = Bar0Window::from(value);
            let known = Bar0Window::new()
                .with_base(window.base())
                .with_target(window.target());
            self.window.store(known.into(), Ordering::Relaxed);
            return Some(());
        }
        let written = self
            .address(offset)?
            .map(|at| self.bus.write_u32(at, value));
        if !matches!(written, Some(Ok(()))) {
            self.nothing(());
        }
        Some(())
    }

    fn reset(&self) {
        self.window.store(0, Ordering::Relaxed);
    }
}
