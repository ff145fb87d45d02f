// SPDX-License-Identifier: MIT OR Apache-2.0
//! Channels: their life, their independence, host's methods.

use std::time::Duration;

use mirage_vgpu::bus::Bus;

use crate::kill::endless;
use crate::rig::*;

const CHANNEL_INTR: u32 = 1 << 31;
const PFIFO: u32 = 1 << 8;
const TIMESTAMP: u32 = 1 << 25;
const PAYLOAD_64BIT: u32 = 1 << 24;
const ACQUIRE: u32 = 0;
const TIME_0: u32 = 0x81_0080;
const TIME_1: u32 = 0x81_0084;

#[test]
fn a_disabled_channel_ignores_its_doorbell() {
    let rig = Rig::new();
    let channel = rig.channel(0);
    channel.write_control(ENABLE_CLR);
    assert_eq!(channel.control() & ENABLE, 0);
    let serial = channel.fence();
    rig.write(DOORBELL, 63);
    rig.write(DOORBELL, u32::MAX);
    std::thread::sleep(Duration::from_millis(5));
    assert!(!channel.is_past(serial), "it runs though disabled");
    channel.enable();
    std::thread::sleep(Duration::from_millis(5));
    assert!(!channel.is_past(serial), "the doorbell was kept");
    rig.write(DOORBELL, channel.id);
    channel.wait(serial);
}

#[test]
fn gp_get_is_written_back_and_wraps_with_the_ring() {
    let rig = Rig::new();
    let channel = rig.channel(0);
    for serial in 1..=150 {
        channel.wait(channel.fence());
        assert_eq!(
            rig.memory.read_u32(channel.userd.offset(0x88)),
            Ok(serial % 64)
        );
    }
}

#[test]
fn many_entries_behind_one_doorbell_run_in_order() {
    let rig = Rig::new();
    let channel = rig.channel(0);
    let page = rig.map(DATA, PAGE);
    for value in 1..=40 {
        channel.submit(&store(DATA, value).words());
    }
    channel.wait(channel.fence());
    assert_eq!(rig.u64_at(page), 40);
}

#[test]
fn a_release_signals_an_interrupt_that_stays_until_it_is_cleared() {
    let rig = Rig::new();
    rig.write(PFIFO_INTR_EN, CHANNEL_INTR);
    rig.write(INTR_EN_SET, PFIFO);
    let channel = rig.channel(0);
    let mut words = release(channel.semaphore_va(), 1, RELEASE_WFI);
    words.extend(methods(0, 0x20, &[0]));
    channel.submit(&words);
    rig.until("the interrupt", || rig.interrupts() == 1);
    assert!(channel.is_past(1), "the payload comes before the interrupt");
    assert_eq!(
        (rig.read(INTR) & PFIFO, rig.read(PFIFO_INTR)),
        (PFIFO, CHANNEL_INTR)
    );
    rig.write(PFIFO_INTR, CHANNEL_INTR);
    assert_eq!((rig.read(INTR) & PFIFO, rig.read(PFIFO_INTR)), (0, 0));
}

#[test]
fn a_timestamped_release_writes_the_device_s_time_and_clears_the_upper_payload() {
    let rig = Rig::new();
    let channel = rig.channel(0);
    let time = || (u64::from(rig.read(TIME_1)) << 32) | u64::from(rig.read(TIME_0));
    let at = |offset| channel.semaphore.offset(offset);
    rig.put_u64(at(32), u64::MAX);
    let before = time();
    channel.run(&release(channel.semaphore_va() + 32, 7, TIMESTAMP));
    // The register shows no bits below 31:5.
    assert!((before..=time() + 31).contains(&rig.u64_at(at(40))));
    assert_eq!(rig.u64_at(at(32)), 7);
}

#[test]
fn a_64_bit_release_writes_both_halves() {
    let rig = Rig::new();
    let channel = rig.channel(0);
    channel.run(&semaphore(
        channel.semaphore_va() + 16,
        (7 << 40) | 9,
        1 | PAYLOAD_64BIT,
    ));
    assert_eq!(rig.u64_at(channel.semaphore.offset(16)), (7 << 40) | 9);
}

#[test]
fn release_wfi_waits_for_launches_and_for_their_late_writes() {
    let rig = Rig::with(&all_writes_late());
    let channel = rig.channel(0);
    let page = rig.map(DATA, 64 * PAGE);
    for round in 1..=20 {
        channel.run(
            &Launch {
                lanes: 4096,
                stride_a: 64,
                ..store(DATA, round)
            }
            .words(),
        );
        assert!((0..4096).all(|lane| rig.u64_at(page.offset(64 * lane)) == round));
    }
    assert!(rig.gpu.counters()["late_stores"] > 0);
}

#[test]
fn an_acquire_waits_for_another_channels_release_and_blocks_nobody() {
    let rig = Rig::new();
    let (waiter, signaller, other) = (rig.channel(0), rig.channel(1), rig.channel(2));
    let at = waiter.semaphore_va() + 64;
    waiter.submit(&semaphore(at, 5, ACQUIRE));
    let serial = waiter.fence();
    other.run(&[0]);
    assert!(!waiter.is_past(serial));
    signaller.run(&release(at, 5, 0));
    waiter.wait(serial);
}

#[test]
fn wfi_and_wait_for_idle_let_the_next_method_see_the_results() {
    for wait in [methods(0, 0x78, &[0]), methods(1, 0x110, &[0])] {
        let rig = Rig::new();
        let channel = rig.channel(0);
        let pages = rig.map(DATA, 64 * PAGE);
        let mut words = Launch {
            lanes: 50_000,
            stride_a: 4,
            size: 2,
            ..store(DATA, 1)
        }
        .words();
        words.extend(wait);
        words.extend(release(channel.semaphore_va(), 9, 0));
        channel.submit(&words);
        rig.until("the release", || channel.is_past(9));
        let ones = (0..25_000).map(|i| rig.u64_at(pages.offset(8 * i)));
        assert!(ones.eq(std::iter::repeat_n(0x1_0000_0001, 25_000)));
    }
}

#[test]
fn an_endless_launch_of_one_channel_starves_no_other() {
    let rig = Rig::new();
    let (endless_one, other) = (rig.channel(0), rig.channel(1));
    endless_one.submit(&endless(&rig, DATA, 4096).words());
    let page = rig.map(DATA + PAGE, PAGE);
    for value in 1..=20 {
        other.run(&store(DATA + PAGE, value).words());
        assert_eq!(rig.u64_at(page), value);
    }
    endless_one.kill();
}

#[test]
fn a_host_fault_is_not_replayable_and_is_retried_when_its_bit_is_cleared() {
    let rig = Rig::new();
    let (channel, other) = (rig.channel(0), rig.channel(1));
    let va = 0xff_0000_0000;
    channel.submit(&release(va, 0x77, 0));
    let packet = Packet {
        va,
        kind: 0,
        access: 1,
        hub: true,
        engine: 32,
    };
    assert_eq!(rig.wait_faults(0), [packet]);
    assert_ne!(channel.control() & PBDMA_FAULTED, 0);
    other.run(&[0]);
    let page = rig.map(va, PAGE);
    channel.write_control(PBDMA_FAULTED);
    channel.wait(channel.fence());
    assert_eq!(rig.u64_at(page), 0x77);
    assert_eq!(channel.control() & PBDMA_FAULTED, 0);
    assert_eq!(rig.faults(1), []);
}

#[test]
fn preempting_an_enabled_channel_disturbs_nothing() {
    let rig = Rig::new();
    let channel = rig.channel(0);
    for _ in 0..50 {
        let serial = channel.fence();
        rig.write(PREEMPT, channel.id);
        assert_eq!(rig.read(PREEMPT), channel.id);
        channel.wait(serial);
    }
}
