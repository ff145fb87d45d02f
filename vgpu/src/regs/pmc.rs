// SPDX-License-Identifier: MIT OR Apache-2.0
//! NV_PMC (dev_master): identification and the top of the interrupt tree.

/// NV_PMC_BOOT_0.
pub(crate) const BOOT_0: u32 = 0x000000;
/// GV100: architecture 0x14 in 28:24, revision A1 in 7:0.
pub(crate) const BOOT_0_GV100_A1: u32 = 0x1400_00a1;

/// NV_PMC_ENABLE: a set bit lets the engine work, a clear one holds it in reset.
pub(crate) const ENABLE: u32 = 0x000200;

/// NV_PMC_INTR(0), R.
pub(crate) const INTR: u32 = 0x000100;
/// NV_PMC_INTR_EN(0), R.
pub(crate) const INTR_EN: u32 = 0x000140;
/// NV_PMC_INTR_EN_SET(0), W.
pub(crate) const INTR_EN_SET: u32 = 0x000160;
/// NV_PMC_INTR_EN_CLEAR(0), W.
pub(crate) const INTR_EN_CLEAR: u32 = 0x000180;
/// Bytes between the registers of neighbouring trees.
pub(crate) const TREE_STRIDE: u32 = 4;

/// Bits of NV_PMC_ENABLE.
pub(crate) const ENABLE_CE0: u32 = 6;
pub(crate) const ENABLE_CE1: u32 = 7;
pub(crate) const ENABLE_PFIFO: u32 = 8;
pub(crate) const ENABLE_PGRAPH: u32 = 12;
