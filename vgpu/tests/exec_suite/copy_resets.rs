// SPDX-License-Identifier: MIT OR Apache-2.0
//! Copy engines: reset one at a time by NV_PMC_ENABLE.

use std::time::Duration;

use crate::copy::{copy, copy_channel, SRC};
use crate::rig::*;

const PMC_ENABLE: u32 = 0x200;
const CE0_BIT: u32 = 6;
const CE_INTR_EN: u32 = 0x10440c;
const CE_STRIDE: u32 = 0x80;
const LAUNCHERR: u32 = 4;
const ENGINE_STATUS: u32 = 0x2640;
const BUSY: u32 = 1 << 31;

#[test]
fn a_copy_engine_that_is_reset_loses_its_work_and_the_other_does_not() {
    for engine in [0, 1] {
        let rig = Rig::new();
        let all = rig.read(PMC_ENABLE);
        let (lost, next, other) = (
            rig.channel(0),
            rig.channel(1),
            copy_channel(&rig, 2, 1 - engine),
        );
        rig.submit_runlist(1 + engine, &[(0, &[0]), (1, &[1])]);
        rig.map(SRC, PAGE);
        rig.map(DATA, PAGE);
        let enables = || [engine, 1 - engine].map(|i| rig.read(CE_INTR_EN + CE_STRIDE * i));
        for i in [0, 1] {
            rig.write(CE_INTR_EN + CE_STRIDE * i, LAUNCHERR);
        }
        let endless = Dma {
            launch: TRANSFER | MULTI_LINE,
            count: u32::MAX,
            ..copy(8)
        };
        lost.submit(&endless.words());
        let doomed = lost.fence();
        let status = || rig.read(ENGINE_STATUS + 8 * (1 + engine));
        rig.until("work", || status() & BUSY != 0);
        rig.write(PMC_ENABLE, all & !(1 << (CE0_BIT + engine)));
        assert_eq!((status(), enables()), (0, [0, LAUNCHERR]));
        rig.until("the end of the work", || !lost.is_busy());
        next.submit(&copy(8).words());
        let serial = next.fence();
        other.run(&copy(8).words());
        std::thread::sleep(Duration::from_millis(2));
        assert!(!next.is_past(serial), "an engine in reset works");
        rig.write(PMC_ENABLE, all);
        next.wait(serial);
        assert!(!lost.is_past(doomed), "a stopped channel must not signal");
    }
}
