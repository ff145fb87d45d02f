// SPDX-License-Identifier: MIT OR Apache-2.0
//! What can be chosen about a device before it starts. All that is random in it follows from `seed`.

use std::time::Duration;

/// Smallest number of fault-buffer entries that SET_DEFAULT may give.
pub const MIN_FAULT_BUFFER_ENTRIES: u32 = 256;
/// Largest number of fault-buffer entries that SET_DEFAULT may give.
pub const MAX_FAULT_BUFFER_ENTRIES: u32 = 65536;

/// A device's parameters.
#[derive(Clone, Debug)]
pub struct Config {
    /// Seed of every random choice of the device.
    pub seed: u64,
    /// Entries that FAULT_BUFFER_SIZE.SET_DEFAULT gives, 256 to 65536.
    pub fault_buffer_entries: u32,
    /// Streaming multiprocessors, each on a thread of its own.
    pub sms: u32,
    /// Hold back stores whose translation is done. None: they land at once.
    pub late_writes: Option<LateWrites>,
    /// Finish acked invalidates late. None: as soon as they are done.
    pub late_acks: Option<LateAcks>,
}

/// Stores wait in their unit's queue until an acked invalidate, a flush or a load of the same unit drains them.
#[derive(Clone, Copy, Debug)]
pub struct LateWrites {
    /// How many of 100 stores are held back.
    pub percent: u8,
    /// Most stores that one unit holds back; the oldest lands when another comes.
    pub depth: usize,
    /// Longest time that a store is held back when nothing drains it.
    pub window: Duration,
}

/// Acked invalidates finish up to `most` after their work is done.
#[derive(Clone, Copy, Debug)]
pub struct LateAcks {
    /// The longest delay.
    pub most: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            seed: 1,
            fault_buffer_entries: 4096,
            sms: 8,
            late_writes: None,
            late_acks: None,
        }
    }
}
