// SPDX-License-Identifier: MIT OR Apache-2.0
//! The device's nanosecond clock: PTIMER's, shown by NV_USERMODE_TIME and used as the time stamp of fault packets.

use std::sync::OnceLock;
use std::time::Instant;

/// Nanoseconds since the clock was first read in this process.
pub fn now_ns() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    let elapsed = START.get_or_init(Instant::now).elapsed();
    u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX)
}
