// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runlists, and what a context switch keeps.

use std::time::Duration;

use mirage_vgpu::bus::{Bus, PhysAddr};

use crate::rig::*;

const SCHED_ERROR: u32 = 1 << 8;
const SCHED_ERROR_CODE: u32 = 0x254c;
const BAD_TSG: u32 = 0x20;
const UNREADABLE: u32 = 8;
const RUNLIST_BASE: u32 = 0x2270;
const RUNLIST: u32 = 0x2274;
const ENG_RUNLIST: u32 = 0x2284;
const RUNLIST_PREEMPT: u32 = 0x2638;
const ENGINE_STATUS: u32 = 0x2640;
const PREEMPT_TSG: u32 = 1 << 24;

fn counting(rig: &Rig, va: u64) -> (Launch, PhysAddr) {
    let page = rig.map(va, PAGE);
    rig.put_u64(page, va);
    let launch = Launch {
        op: CHASE,
        a: va,
        lanes: 64,
        value: 1,
        next_offset: 0,
        value_offset: 8,
        ..Default::default()
    };
    (launch, page.offset(8))
}

/// Whether the count at `at` moves within some milliseconds.
fn moves(rig: &Rig, at: PhysAddr) -> bool {
    let before = rig.u64_at(at);
    std::thread::sleep(Duration::from_millis(10));
    rig.u64_at(at) != before
}

fn preempted(rig: &Rig, what: u32) {
    rig.write(PREEMPT, what);
    rig.until("preempt", || (rig.read(PREEMPT) >> 20) & 1 == 0);
}

#[test]
fn a_preempted_launch_goes_on_where_it_was_when_its_channel_is_enabled_again() {
    let rig = Rig::new();
    let channel = rig.channel(0);
    let (mut launch, count) = counting(&rig, DATA);
    launch.steps = 3000;
    channel.submit(&launch.words());
    let serial = channel.fence();
    rig.until("the launch to run", || rig.u64_at(count) > 0);
    let mut switches = 0;
    rig.until("the fence", || {
        channel.kill();
        assert!(!moves(&rig, count), "a channel that is out reaches memory");
        switches += 1;
        channel.enable();
        let before = rig.u64_at(count);
        rig.until("progress", || {
            rig.u64_at(count) != before || channel.is_past(serial)
        });
        channel.is_past(serial)
    });
    assert!(switches > 1);
    assert_eq!(rig.u64_at(count), 64 * 3000, "each access happens once");
}

#[test]
fn a_stalled_launch_that_is_switched_out_asks_again_when_it_is_switched_in() {
    let rig = Rig::new();
    let channel = rig.channel(0);
    let launch = Launch {
        op: STORE,
        size: 3,
        a: DATA,
        value: 7,
        stride_a: 4096,
        lanes: 200,
        ..Default::default()
    };
    channel.submit(&launch.words());
    let serial = channel.fence();
    rig.wait_faults(1);
    channel.kill();
    rig.faults(1);
    let pages = rig.map(DATA, 100 * PAGE);
    rig.invalidate(START);
    assert_eq!(rig.u64_at(pages), 0, "a request of a channel that is out");
    channel.enable();
    let missing = rig.wait_faults(1);
    assert!(missing.iter().all(|packet| packet.va >= DATA + 100 * PAGE));
    rig.map(DATA + 100 * PAGE, 100 * PAGE);
    rig.until("the fence", || {
        rig.faults(1);
        rig.invalidate(START);
        channel.is_past(serial)
    });
    assert!((0..100).all(|page| rig.u64_at(pages.offset(page * PAGE)) == 7));
}

#[test]
fn a_waiting_method_survives_a_switch() {
    let rig = Rig::new();
    let channel = rig.channel(0);
    let at = channel.semaphore.offset(64);
    channel.submit(&semaphore(channel.semaphore_va() + 64, 5, 0));
    let serial = channel.fence();
    rig.until("the acquire", || channel.is_busy());
    channel.kill();
    rig.put_u64(at, 5);
    std::thread::sleep(Duration::from_millis(5));
    assert!(!channel.is_past(serial));
    channel.enable();
    channel.wait(serial);
}

#[test]
fn a_switch_writes_the_ring_pointers_to_ramfc() {
    let rig = Rig::new();
    let channel = rig.channel(0);
    for _ in 0..5 {
        channel.wait(channel.fence());
    }
    rig.until("idle", || !channel.is_busy());
    channel.kill();
    let word = |offset| rig.memory.read_u32(channel.inst.offset(offset)).unwrap();
    assert_eq!([word(0x000), word(0x014)], [5, 5]);
}

#[test]
fn bind_drops_what_was_switched_out() {
    let rig = Rig::new();
    let channel = rig.channel(0);
    let (launch, count) = counting(&rig, DATA);
    channel.submit(&launch.words());
    rig.until("the launch to run", || rig.u64_at(count) > 0);
    channel.kill();
    channel.bind();
    channel.enable();
    channel.wait(channel.fence());
    assert!(!moves(&rig, count));
}

#[test]
fn enabling_again_without_a_switch_drops_nothing() {
    let rig = Rig::new();
    let channel = rig.channel(0);
    let (launch, count) = counting(&rig, DATA);
    channel.submit(&launch.words());
    rig.until("the launch to run", || rig.u64_at(count) > 0);
    channel.write_control(ENABLE_CLR);
    channel.enable();
    rig.until("progress", || moves(&rig, count));
    channel.kill();
}

#[test]
fn a_channel_runs_only_while_a_runlist_has_it() {
    let rig = Rig::new();
    let channel = rig.channel(3);
    rig.gpu.reset();
    channel.bind();
    channel.enable();
    let serial = channel.fence();
    std::thread::sleep(Duration::from_millis(5));
    assert!(!channel.is_past(serial), "no runlist ever had it");
    rig.submit_runlist(0, &[(7, &[3])]);
    channel.wait(serial);
    rig.submit_runlist(0, &[]);
    let serial = channel.fence();
    std::thread::sleep(Duration::from_millis(5));
    assert!(!channel.is_past(serial));
    rig.submit_runlist(0, &[(7, &[3])]);
    channel.wait(serial);
    assert_eq!(rig.read(ENG_RUNLIST), 2, "length, nothing pending");
}

#[test]
fn a_channel_that_left_its_runlist_is_off_the_engine_after_a_preempt_of_its_tsg() {
    let rig = Rig::new();
    let (gone, stays) = (rig.channel(0), rig.channel(1));
    rig.submit_runlist(0, &[(40, &[0]), (41, &[1])]);
    let counts = [(&gone, DATA), (&stays, DATA + PAGE)].map(|(channel, va)| {
        let (launch, count) = counting(&rig, va);
        channel.submit(&launch.words());
        rig.until("the launch to run", || rig.u64_at(count) > 0);
        count
    });
    rig.submit_runlist(0, &[(41, &[1])]);
    preempted(&rig, PREEMPT_TSG | 40);
    assert!(!moves(&rig, counts[0]));
    rig.until("progress", || moves(&rig, counts[1]));
    rig.submit_runlist(0, &[]);
    rig.write(RUNLIST_PREEMPT, 1);
    rig.until("preempt", || rig.read(RUNLIST_PREEMPT) == 0);
    assert!(!moves(&rig, counts[1]));
    rig.submit_runlist(0, &[(9, &[1, 0])]);
    rig.until("progress", || {
        counts.iter().all(|count| moves(&rig, *count))
    });
}

#[test]
fn a_runlist_that_makes_no_sense_is_not_taken() {
    let rig = Rig::new();
    let channel = rig.channel(0);
    rig.submit_runlist(0, &[(1, &[0])]);
    let (base, _) = rig.runlist_memory();
    let bad = |entries: &[[u32; 4]]| {
        for (i, entry) in (0..).zip(entries) {
            for (word, value) in (0..).zip(entry) {
                let at = base.offset(16 * i + 4 * word);
                rig.memory.write_u32(at, *value).unwrap();
            }
        }
        rig.write(RUNLIST, entries.len() as u32);
        let shown = (rig.read(PFIFO_INTR), rig.read(SCHED_ERROR_CODE));
        rig.write(PFIFO_INTR, SCHED_ERROR);
        assert_eq!((rig.read(PFIFO_INTR), rig.read(SCHED_ERROR_CODE)), (0, 0));
        shown
    };
    assert_eq!(bad(&[[0, 0, 0, 0]]), (SCHED_ERROR, BAD_TSG));
    assert_eq!(bad(&[[1, 0, 1, 0]]), (SCHED_ERROR, BAD_TSG));
    assert_eq!(bad(&[[1, 2, 1, 0], [0, 0, 5, 0]]), (SCHED_ERROR, BAD_TSG));
    channel.wait(channel.fence());

    for base in [0xfff_ffff, 1 << 28, 2 << 28] {
        rig.write(RUNLIST_BASE, base);
        rig.write(RUNLIST, 0xffff);
        let shown = (rig.read(PFIFO_INTR), rig.read(SCHED_ERROR_CODE));
        assert_eq!(shown, (SCHED_ERROR, UNREADABLE));
        rig.write(PFIFO_INTR, SCHED_ERROR);
    }
    rig.write(RUNLIST, 15 << 20);
    channel.wait(channel.fence());
}

#[test]
fn channels_of_all_ids_share_a_runlist() {
    let rig = Rig::new();
    let ids: Vec<u32> = (0..128).step_by(9).chain([127]).collect();
    let channels: Vec<_> = ids.iter().map(|id| rig.channel(*id)).collect();
    let groups: Vec<(u32, &[u32])> = ids.chunks(4).map(|ids| (100 + ids[0], ids)).collect();
    rig.submit_runlist(0, &groups);
    let serials: Vec<_> = channels.iter().map(Channel::fence).collect();
    for (channel, serial) in channels.iter().zip(serials) {
        channel.wait(serial);
    }
}

#[test]
fn instance_block_userd_and_runlist_may_be_in_system_memory() {
    let rig = Rig::new();
    let ram = rig.plug_ram(4 * PAGE);
    let sys = |page: u64| ram.offset(page * PAGE);
    let mut channel = rig.channel(0);
    channel.kill();
    for offset in (0..PAGE).step_by(8) {
        let value = rig.u64_at(channel.inst.offset(offset));
        rig.put_u64(sys(0).offset(offset), value);
    }
    (channel.inst, channel.userd) = (sys(0), sys(1));
    let userd = [sys(1).addr as u32 | 2, (sys(1).addr >> 32) as u32];
    for (offset, word) in [8, 12].into_iter().zip(userd) {
        rig.memory.write_u32(sys(0).offset(offset), word).unwrap();
    }
    rig.write_runlist(0, sys(2), &[(0, &[0])]);
    channel.bind();
    channel.enable();
    channel.wait(channel.fence());
}

#[test]
fn engine_status_names_the_channel_on_the_engine() {
    let rig = Rig::new();
    assert_eq!(rig.read(ENGINE_STATUS), 0);
    let channel = rig.channel(77);
    rig.submit_runlist(0, &[(1, &[77])]);
    let (launch, count) = counting(&rig, DATA);
    channel.submit(&launch.words());
    rig.until("the launch to run", || rig.u64_at(count) > 0);
    // Between two turns nothing is at work.
    rig.until("busy", || {
        rig.read(ENGINE_STATUS) == (1 << 31) | (1 << 13) | 77
    });
    channel.kill();
    assert_eq!(rig.read(ENGINE_STATUS), (1 << 13) | 77);
}

#[test]
fn an_engine_that_is_reset_loses_its_work_and_stays_idle_until_it_is_enabled() {
    const PMC_ENABLE: u32 = 0x200;
    const PGRAPH: u32 = 1 << 12;
    const PFIFO: u32 = 1 << 8;
    let rig = Rig::new();
    let all = rig.read(PMC_ENABLE);
    assert_eq!(all, PFIFO | PGRAPH | (3 << 6));
    let (lost, idle) = (rig.channel(0), rig.channel(1));
    let (launch, count) = counting(&rig, DATA);
    lost.submit(&launch.words());
    rig.until("the launch to run", || rig.u64_at(count) > 0);
    rig.write(PMC_ENABLE, all & !PGRAPH);
    assert!(!moves(&rig, count));
    let (launch, count) = counting(&rig, DATA + PAGE);
    idle.submit(&launch.words());
    assert!(!moves(&rig, count));
    rig.write(PMC_ENABLE, all);
    rig.until("progress", || moves(&rig, count));

    rig.write(PMC_ENABLE, all & !PFIFO);
    assert!(!moves(&rig, count));
    idle.enable();
    assert_eq!(idle.control(), 0, "a register of a unit in reset");
    rig.write(PMC_ENABLE, all);
    rig.submit_runlist(0, &[(0, &[0])]);
    lost.bind();
    lost.enable();
    lost.wait(lost.fence());
}
