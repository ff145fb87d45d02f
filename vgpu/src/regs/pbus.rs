// SPDX-License-Identifier: MIT OR Apache-2.0
//! NV_PBUS_BAR0_WINDOW (dev_bus) and the window that it moves, NV_PRAMIN.

use bitfield_struct::bitfield;

/// NV_PBUS_BAR0_WINDOW.
pub(crate) const BAR0_WINDOW: u32 = 0x001700;
/// First register of NV_PRAMIN.
pub(crate) const PRAMIN: u32 = 0x700000;
/// Bytes of NV_PRAMIN.
pub(crate) const PRAMIN_SIZE: u32 = 1 << 20;
/// The window moves in steps of 64 KiB.
pub(crate) const WINDOW_SHIFT: u32 = 16;

/// NV_PBUS_BAR0_WINDOW.
#[bitfield(u32)]
pub(crate) struct Bar0Window {
    /// Address bits 39:16.
    #[bits(24)]
    pub(crate) base: u32,
    /// 0 VID_MEM, 2 SYS_MEM_COHERENT, 3 SYS_MEM_NONCOHERENT.
    #[bits(2)]
    pub(crate) target: u8,
    #[bits(6)]
    __: u8,
}
