// SPDX-License-Identifier: MIT OR Apache-2.0
//! How channels end: the kill sequence, cancelled faults, reset.

use std::time::Duration;

use crate::rig::*;

const ACQUIRE: u32 = 0;
const ENGINE_STATUS: u32 = 0x2640;

/// A list of one node that points to itself: a launch that never ends.
pub(crate) fn endless(rig: &Rig, va: u64, lanes: u32) -> Launch {
    let page = rig.map(va, PAGE);
    rig.put_u64(page, va);
    Launch {
        op: CHASE,
        a: va,
        lanes,
        value: 1,
        next_offset: 0,
        value_offset: 8,
        ..Default::default()
    }
}

#[test]
fn after_the_kill_sequence_a_running_launch_touches_memory_no_more() {
    let rig = Rig::new();
    let channel = rig.channel(0);
    channel.submit(&endless(&rig, DATA, 64).words());
    rig.until("the launch to run", || {
        rig.gpu.counters()["accesses"] > 1000
    });
    channel.kill();
    assert_eq!(channel.control(), 0, "neither enabled nor busy");
    let before = rig.gpu.counters()["accesses"];
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(rig.gpu.counters()["accesses"], before);
}

#[test]
fn stores_in_flight_have_landed_when_the_kill_sequence_is_over() {
    let rig = Rig::with(&all_writes_late());
    let channel = rig.channel(0);
    let page = rig.map(DATA, PAGE);
    channel.submit(&store(DATA, 7).words());
    rig.until("the store", || rig.gpu.counters()["late_stores"] > 0);
    assert_eq!(rig.u64_at(page), 0);
    channel.kill();
    assert_eq!(rig.u64_at(page), 7);
}

#[test]
fn the_kill_sequence_ends_a_launch_that_is_stalled() {
    let rig = Rig::new();
    let channel = rig.channel(0);
    channel.submit(
        &Launch {
            lanes: 1000,
            stride_a: 4096,
            ..store(DATA, 1)
        }
        .words(),
    );
    rig.wait_faults(1);
    channel.kill();
    let pages = rig.map(DATA, 1000 * PAGE);
    rig.invalidate(START);
    channel.bind();
    channel.enable();
    channel.wait(channel.fence());
    let untouched = (0..1000).all(|lane| rig.u64_at(pages.offset(4096 * lane)) == 0);
    assert!(untouched, "requests of a killed channel were replayed");
}

const RINGS_OF_CHANNEL_0: u64 = 0x10_0000_0000;

#[test]
fn the_kill_sequence_ends_every_kind_of_wait() {
    let rig = Rig::new();
    let forever = endless(&rig, DATA, 1).words();
    let mut idle = forever.clone();
    idle.extend(methods(1, 0x110, &[0]));
    let mut wfi = forever.clone();
    wfi.extend(methods(0, 0x78, &[0]));
    let full: Vec<u32> = std::iter::repeat_n(forever, 30).flatten().collect();
    let unmapped = semaphore(0xff_0000_0000, 1, ACQUIRE);
    let never = semaphore(RINGS_OF_CHANNEL_0, 0x1234_5678, ACQUIRE);
    for words in [idle, wfi, full, unmapped, never] {
        let rig_channel = rig.channel(0);
        rig_channel.submit(&words);
        rig.until("work", || rig_channel.is_busy());
        rig_channel.kill();
        assert_eq!(rig_channel.control() & !PBDMA_FAULTED, 0);
        rig.faults(0);
    }
}

#[test]
fn a_cancelled_fault_ends_its_channels_launch_and_no_other() {
    let rig = Rig::new();
    let (bad, good) = (rig.channel(0), rig.channel(1));
    bad.submit(
        &Launch {
            lanes: 64,
            stride_a: 128,
            ..store(DATA, 1)
        }
        .words(),
    );
    let doomed = bad.fence();
    rig.wait_faults(1);
    let pages = rig.map(DATA + (1 << 30), 16 * PAGE);
    good.run(
        &Launch {
            lanes: 4096,
            stride_a: 8,
            ..store(DATA + (1 << 30), 2)
        }
        .words(),
    );
    rig.invalidate(CANCEL_GLOBAL);
    let packet = rig.wait_faults(0)[0];
    assert_eq!((packet.va & !0x1fff, packet.hub), (DATA, false));
    rig.until("ENG_FAULTED", || bad.control() & ENG_FAULTED != 0);
    assert_eq!(good.control() & (ENG_FAULTED | ENABLE), ENABLE);
    assert!((0..4096).all(|lane| rig.u64_at(pages.offset(8 * lane)) == 2));
    good.run(&store(DATA + (1 << 30), 3).words());
    assert!(!bad.is_past(doomed), "a stopped channel must not signal");

    bad.kill();
    bad.bind();
    bad.enable();
    assert_eq!(bad.control() & ENG_FAULTED, 0);
    bad.wait(bad.fence());
}

#[test]
fn one_cancelled_page_ends_the_stalled_warps_of_its_channel_on_all_sms() {
    let rig = Rig::new();
    let channel = rig.channel(0);
    let launch = Launch {
        lanes: 8 * 32,
        stride_a: 128,
        ..store(DATA, 1)
    };
    channel.submit(&launch.words());
    let mut stalled = 0;
    rig.until("eight stalled SMs", || {
        stalled += rig.faults(1).len();
        stalled == 8
    });
    rig.cancel_va(DATA + 3 * PAGE);
    rig.until("the launch to end", || !channel.is_busy());
    assert_ne!(channel.control() & ENG_FAULTED, 0);
}

#[test]
fn disabling_without_preempt_begins_no_further_method() {
    let rig = Rig::new();
    let channel = rig.channel(0);
    channel.submit(&semaphore(channel.semaphore_va() + 64, 5, ACQUIRE));
    let serial = channel.fence();
    rig.until("the acquire", || channel.is_busy());
    channel.write_control(ENABLE_CLR);
    rig.put_u64(channel.semaphore.offset(64), 5);
    rig.until("the worker to stop", || !channel.is_busy());
    assert!(!channel.is_past(serial));
}

#[test]
fn reset_ends_whatever_runs_and_leaves_power_on_state() {
    for stalled in [true, false] {
        let rig = Rig::new();
        let channels = [rig.channel(0), rig.channel(1)];
        let launch = endless(&rig, DATA, 512);
        if stalled {
            rig.clear(DATA);
        }
        for channel in &channels {
            channel.submit(&launch.words());
            channel.submit(&semaphore(channel.semaphore_va(), 5, ACQUIRE));
        }
        rig.until("work", || {
            rig.gpu.counters()["launches"] == 2 && rig.read(ENGINE_STATUS) != 0
        });
        rig.gpu.reset();
        for channel in &channels {
            assert_eq!(channel.control(), 0);
        }
        assert_eq!((rig.read(PFIFO_INTR_EN), rig.read(ENGINE_STATUS)), (0, 0));
        let before = rig.gpu.counters()["accesses"];
        rig.set_up_buffers();
        std::thread::sleep(Duration::from_millis(5));
        assert_eq!(rig.gpu.counters()["accesses"], before);
        rig.submit_runlist(0, &[(0, &[0])]);
        channels[0].bind();
        channels[0].enable();
        channels[0].wait(channels[0].fence());
    }
}

#[test]
fn a_device_that_is_dropped_in_the_middle_of_work_ends() {
    let rig = Rig::new();
    rig.channel(0).submit(&endless(&rig, DATA, 4096).words());
    rig.channel(1).submit(&store(DATA + (1 << 30), 1).words());
    rig.wait_faults(1);
    drop(rig);
}
