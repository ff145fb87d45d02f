// SPDX-License-Identifier: MIT OR Apache-2.0
//! The register bus: hands BAR0 accesses to the block that owns the offset.

/// A group of registers. A block answers for the offsets it knows and for no others.
pub trait RegisterBlock: Send + Sync {
    /// Reads the register at `offset` (4-byte aligned). None: not one of this block's.
    fn read(&self, offset: u32) -> Option<u32>;
    /// Writes the register at `offset` (4-byte aligned). None: not one of this block's.
    fn write(&self, offset: u32, value: u32) -> Option<()>;
    /// Puts the block into its state after power-on. The guest may be in the middle of anything.
    fn reset(&self);
}
