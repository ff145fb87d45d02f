// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the MMU promises a driver, on a plain in-memory bus. Offsets and bits are written out here on their own, so
//! that a mistake in the device's definitions shows.

mod cancel;
mod eager_walks;
mod fault_buffers;
mod hard_modes;
mod interrupts;
mod late_acks;
mod late_writes;
mod mem_op;
mod memory;
mod packets;
mod pramin;
mod prefetch;
mod registers;
mod replay;
mod rig;
mod snapshot;
mod sparse;
mod staleness;
mod storm;
mod tables;
mod walk;
