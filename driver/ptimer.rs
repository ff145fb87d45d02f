// SPDX-License-Identifier: GPL-2.0

//! The device's clock.

use crate::{
    kapi::mmio::Bar0,
    regs::{
        NV_USERMODE_TIME_0,
        NV_USERMODE_TIME_1, //
    },
};

/// Nanoseconds, as fault packets carry them, to the last 32.
pub(crate) fn ptimer_ns(bar0: &Bar0) -> u64 {
    let mut high = bar0.read(NV_USERMODE_TIME_1);
    let mut low = bar0.read(NV_USERMODE_TIME_0);
    // The high part moves on every four seconds; a device where it always does is no reason to wait.
    for _ in 0..2 {
        let again = bar0.read(NV_USERMODE_TIME_1);
        if again.into_raw() == high.into_raw() {
            break;
        }
        high = again;
        low = bar0.read(NV_USERMODE_TIME_0);
    }
    u64::from(high.nsec().get()) << 32 | u64::from(low.into_raw())
}
