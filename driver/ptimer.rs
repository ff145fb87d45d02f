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
    loop {
        let low = bar0.read(NV_USERMODE_TIME_0);
        let again = bar0.read(NV_USERMODE_TIME_1);
        // The high part moves on every four seconds.
        if again.into_raw() == high.into_raw() {
            return u64::from(high.nsec().get()) << 32 | u64::from(low.into_raw());
        }
        high = again;
    }
}
