// SPDX-License-Identifier: MIT OR Apache-2.0
//! Acked invalidates finish late where the device was told so, and no others do.

use std::time::{Duration, Instant};

use mirage_vgpu::config::{Config, LateAcks};

use crate::rig::*;

fn late(seed: u64, most: Duration) -> Rig {
    Rig::with(&Config {
        seed,
        late_acks: Some(LateAcks { most }),
        ..Config::default()
    })
}

#[test]
fn an_acked_invalidate_is_not_finished_before_its_delay_is_over() {
    let rig = late(1, Duration::from_millis(10));
    for operation in 1..=8 {
        let before = rig.counter("ack_delay_ns");
        let start = Instant::now();
        rig.invalidate(ALL | ACK_GLOBALLY | SYS_MEMBAR);
        let delay = Duration::from_nanos(rig.counter("ack_delay_ns") - before);
        assert!(!delay.is_zero(), "operation {operation}");
        assert!(start.elapsed() >= delay, "operation {operation}: {delay:?}");
        assert_eq!(rig.counter("acked_invalidates"), operation);
    }
}

#[test]
fn operations_without_an_ack_are_never_late() {
    // A late one would take longer than a test waits for anything, and the end of the device would wait for it: leaked.
    let rig = Box::leak(Box::new(late(1, Duration::from_secs(1 << 20))));
    for command in [0, SYS_MEMBAR, HUBTLB_ONLY | ACK_GLOBALLY, START] {
        rig.invalidate(ALL | command);
    }
    assert_eq!(rig.counter("invalidates"), 4);
    assert_eq!(rig.counter("ack_delay_ns"), 0);
}

#[test]
fn equal_seeds_give_equal_delays() {
    let delays = |seed| {
        let rig = late(seed, Duration::from_micros(100));
        let next = || {
            rig.invalidate(ALL | ACK_INTRANODE);
            rig.counter("ack_delay_ns")
        };
        (0..8).map(|_| next()).collect::<Vec<_>>()
    };
    assert_eq!(delays(3), delays(3));
    assert_ne!(delays(3), delays(4));
}
