// SPDX-License-Identifier: MIT OR Apache-2.0
//! One fault buffer: its registers and the ring behind them.

use crate::bus::{Aperture, PhysAddr};
use crate::regs::fault as regs;

use super::format::PAGE_SHIFT;
use super::packet::PACKET_BYTES;

/// One buffer's registers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Buffer {
    pub(crate) lo: regs::BufferLo,
    pub(crate) hi: u32,
    pub(crate) size: regs::BufferSize,
    pub(crate) get: u32,
    pub(crate) put: u32,
    pub(crate) overflow: bool,
    pub(crate) getptr_corrupted: bool,
    /// A packet reached no memory.
    pub(crate) error: bool,
}

/// Where the next packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slot {
    At(PhysAddr),
    /// Full, or stopped by an error that software has to clear.
    Shut,
    Disabled,
}

impl Buffer {
    fn entries(&self) -> u32 {
        self.size.val()
    }

    fn aperture(&self) -> Option<Aperture> {
        match self.lo.aperture() {
            0 => Some(Aperture::Vid),
            2 | 3 => Some(Aperture::Sys),
            _ => None,
        }
    }

    fn next_put(&self) -> u32 {
        let next = self.put + 1;
        if next < self.entries() {
            next
        } else {
            0
        }
    }

    fn is_full(&self) -> bool {
        self.next_put() == self.get
    }

    /// Whether it would take a packet without an overflow.
    pub(crate) fn has_room(&self) -> bool {
        self.size.enable() && !self.overflow && !self.getptr_corrupted && !self.is_full()
    }

    pub(crate) fn notifies(&self) -> bool {
        self.get != self.put
    }

    pub(crate) fn overflow_notifies(&self) -> bool {
        self.overflow && self.size.overflow_intr()
    }

    pub(crate) fn pointer(&self, ptr: u32) -> regs::BufferPtr {
        regs::BufferPtr::new()
            .with_ptr(ptr)
            .with_getptr_corrupted(self.getptr_corrupted)
            .with_overflow(self.overflow)
    }

    /// Takes the slot at PUT and advances PUT.
    pub(crate) fn take_slot(&mut self) -> Slot {
        let Some(aperture) = self.aperture().filter(|_| self.size.enable()) else {
            return Slot::Disabled;
        };
        if self.overflow || self.getptr_corrupted {
            return Slot::Shut;
        }
        if self.is_full() {
            self.overflow = true;
            return Slot::Shut;
        }
        let base = (u64::from(self.hi) << 32) | (u64::from(self.lo.addr()) << PAGE_SHIFT);
        let addr = base.wrapping_add(u64::from(self.put) * PACKET_BYTES as u64);
        self.put = self.next_put();
        Slot::At(PhysAddr { aperture, addr })
    }

    pub(crate) fn write_size(&mut self, value: regs::BufferSize, default_entries: u32) {
        if !self.size.enable() {
            let entries = if value.set_default() {
                default_entries
            } else {
                value.val()
            };
            self.size.set_val(entries);
        }
        let usable = self.lo.physical() && self.aperture().is_some() && self.entries() > 0;
        let enable = value.enable() && usable;
        if enable && !self.size.enable() && self.get.max(self.put) >= self.entries() {
            (self.get, self.put) = (0, 0);
        }
        self.size.set_enable(enable);
        self.size.set_overflow_intr(value.overflow_intr());
    }

    /// Flags are judged by the pointer that was there before: a write that both moves GET and clears OVERFLOW does
    /// not clear it while the buffer was full, as one that races with the next fault would not.
    pub(crate) fn write_get(&mut self, value: regs::BufferPtr) {
        let was_full = self.is_full();
        if value.ptr() >= self.entries().max(1) {
            self.getptr_corrupted = true;
            return;
        }
        self.get = value.ptr();
        self.overflow &= !value.overflow() || was_full;
        self.getptr_corrupted &= !value.getptr_corrupted();
    }

    /// The address is latched while the buffer is enabled.
    pub(crate) fn write_address(&mut self, write: impl FnOnce(&mut Self)) {
        if !self.size.enable() {
            write(self);
        }
    }
}
