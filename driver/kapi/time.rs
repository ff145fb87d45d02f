// SPDX-License-Identifier: GPL-2.0

//! Time as user space gets it, which `kernel::time` does not give away.

use kernel::bindings;

/// Nanoseconds of `CLOCK_MONOTONIC`.
pub(crate) fn monotonic_ns() -> u64 {
    // SAFETY: Reading the clock has no preconditions.
    let now = unsafe { bindings::ktime_get() };
    // CAST: The clock starts at 0.
    now as u64
}
