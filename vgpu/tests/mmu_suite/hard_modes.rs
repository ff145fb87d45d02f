// SPDX-License-Identifier: MIT OR Apache-2.0
//! Hard-to-please modes of fault packets and interrupts: each does what it says, where it may, as its seed has it.

use std::thread;
use std::time::Duration;

use mirage_vgpu::bus::PhysAddr;
use mirage_vgpu::config::{Config, InterruptTrouble, PacketTrouble};

use crate::memory::vid;
use crate::packets::{
    base, drain, enable, get, packet, pending, put, report, size, Packet, NON_REPLAY, OVERFLOW,
};
use crate::rig::*;

const PMC_EN_SET: u64 = 0x160;
const PMC_EN_CLEAR: u64 = 0x180;
const PMC_INTR: u64 = 0x100;
const NISO_EN_SET: u64 = 0x100a2c;
const HUB: u32 = 1 << 9;
const NONREPLAY_NOTIFY: u32 = 1 << 29;
const ROUNDS: u64 = 200;

fn packets(packets: PacketTrouble) -> Rig {
    seeded(1, packets)
}

fn seeded(seed: u64, packets: PacketTrouble) -> Rig {
    let rig = Rig::with(&Config {
        seed,
        packets,
        ..Config::default()
    });
    enable(&rig, NON_REPLAY, 4096);
    rig
}

fn interrupts(seed: u64, interrupts: InterruptTrouble) -> Rig {
    let rig = Rig::with(&Config {
        seed,
        interrupts,
        ..Config::default()
    });
    enable(&rig, NON_REPLAY, 4096);
    rig.write(NISO_EN_SET, NONREPLAY_NOTIFY);
    rig
}

fn space(rig: &Rig, n: u64) -> mirage_vgpu::mmu::AddressSpace {
    rig.space(n, vid(0x10_0000))
}

/// What two channels' faults come to, packet by packet.
fn faults_of_two_channels(mode: PacketTrouble) -> (Rig, Vec<Packet>) {
    let rig = packets(mode);
    let found = faults_of_two_channels_of(&rig);
    (rig, found)
}

fn faults_of_two_channels_of(rig: &Rig) -> Vec<Packet> {
    let spaces = [space(rig, 0), space(rig, 1)];
    for i in 0..ROUNDS {
        report(rig, &spaces[(i % 2) as usize], (i + 1) << 12);
    }
    pending(rig, NON_REPLAY)
}

#[test]
fn delayed_valid_comes_and_later_than_put() {
    let rig = packets(PacketTrouble {
        delayed_valid: Some(Duration::from_millis(500)),
        ..PacketTrouble::default()
    });
    let space = space(&rig, 0);
    (1..=20).for_each(|page| report(&rig, &space, page << 12));
    assert_eq!(rig.read(put(NON_REPLAY)), 20);
    let found = pending(&rig, NON_REPLAY);
    assert!(found.iter().any(|packet| !packet.valid()), "{found:x?}");
    assert!(
        found.iter().all(|packet| packet.address() != 0),
        "the rest is there"
    );
    eventually("VALID", || {
        pending(&rig, NON_REPLAY).iter().all(Packet::valid)
    });
    assert_eq!(rig.counter("delayed_valids"), 20);
}

#[test]
fn a_disabled_buffer_is_left_alone_even_by_late_valids() {
    let rig = packets(PacketTrouble {
        delayed_valid: Some(Duration::from_secs(1000)),
        ..PacketTrouble::default()
    });
    let space = space(&rig, 0);
    report(&rig, &space, 0x5000);
    assert!(!packet(&rig, NON_REPLAY, 0).valid());
    rig.write(size(NON_REPLAY), 4096);
    assert!(
        packet(&rig, NON_REPLAY, 0).valid(),
        "written before it ends"
    );
    rig.memory.take_writes();
    thread::sleep(Duration::from_millis(5));
    assert_eq!(rig.memory.take_writes(), []);
}

#[test]
fn a_late_valid_does_not_reach_the_next_packet_of_its_slot() {
    let rig = packets(PacketTrouble {
        delayed_valid: Some(Duration::from_millis(20)),
        ..PacketTrouble::default()
    });
    rig.write(size(NON_REPLAY), 0);
    enable(&rig, NON_REPLAY, 2);
    let space = space(&rig, 0);
    let valids = |writes: Vec<crate::memory::Write>| {
        let is_last = |at: PhysAddr| at == base(NON_REPLAY).offset(31);
        writes.iter().filter(|write| is_last(write.at)).count()
    };
    rig.memory.take_writes();
    // A driver that does not wait for VALID, and goes round before it comes.
    for page in 1..=4 {
        report(&rig, &space, page << 12);
        rig.write(get(NON_REPLAY), rig.read(put(NON_REPLAY)) & 1);
    }
    eventually("VALID", || packet(&rig, NON_REPLAY, 0).valid());
    thread::sleep(Duration::from_millis(60));
    let written = valids(rig.memory.take_writes());
    assert!(written <= 2, "{written} for two packets in slot 0");
    assert!(packet(&rig, NON_REPLAY, 0).valid());
}

#[test]
fn a_reset_forgets_late_valids() {
    let rig = packets(PacketTrouble {
        delayed_valid: Some(Duration::from_millis(20)),
        ..PacketTrouble::default()
    });
    let space = space(&rig, 0);
    (1..=5).for_each(|page| report(&rig, &space, page << 12));
    rig.pri.reset();
    rig.memory.take_writes();
    thread::sleep(Duration::from_millis(60));
    assert_eq!(rig.memory.take_writes(), []);
}

#[test]
fn duplicates_are_the_same_packet_once_more() {
    let (rig, found) = faults_of_two_channels(PacketTrouble {
        duplicate_percent: 30,
        ..PacketTrouble::default()
    });
    let twins = found.windows(2).filter(|pair| pair[0] == pair[1]).count() as u64;
    assert_eq!(found.len() as u64, ROUNDS + twins);
    assert_eq!(rig.counter("duplicate_packets"), twins);
    assert!((30..90).contains(&twins), "{twins} of {ROUNDS}");
}

#[test]
fn stale_packets_are_old_ones_of_the_same_channel() {
    let (rig, found) = faults_of_two_channels(PacketTrouble {
        stale_percent: 30,
        ..PacketTrouble::default()
    });
    let mut stale = 0;
    for (i, packet) in found.iter().enumerate() {
        let Some(first) = found[..i].iter().position(|earlier| earlier == packet) else {
            continue;
        };
        stale += 1;
        assert!(first + 1 < i, "not merely a duplicate");
        assert_eq!(
            packet.dwords[0],
            found[i - 1].dwords[0],
            "after a fault of its channel"
        );
    }
    assert_eq!(rig.counter("stale_packets"), stale);
    assert_eq!(found.len() as u64, ROUNDS + stale);
    assert!((30..90).contains(&stale), "{stale} of {ROUNDS}");
}

#[test]
fn nonsense_packets_are_impossible_in_each_of_four_ways() {
    let (rig, found) = faults_of_two_channels(PacketTrouble {
        nonsense_percent: 50,
        ..PacketTrouble::default()
    });
    let mut kinds = [0_u64; 4];
    for packet in &found {
        let [_, inst_hi, _, addr_hi, _, _, engine, info] = packet.dwords;
        let wrong = [
            inst_hi == u32::MAX,
            addr_hi >> 17 != 0,
            engine == 0x1ff,
            info & 0x1f >= 0x10,
        ];
        let count = wrong.iter().filter(|wrong| **wrong).count();
        assert!(count <= 1 && packet.valid(), "{packet:x?}");
        for (kind, wrong) in kinds.iter_mut().zip(wrong) {
            *kind += u64::from(wrong);
        }
    }
    assert!(kinds.iter().all(|kind| *kind > 5), "{kinds:?}");
    let nonsense: u64 = kinds.iter().sum();
    assert_eq!(rig.counter("nonsense_packets"), nonsense);
    assert_eq!(found.len() as u64, ROUNDS + nonsense);
}

#[test]
fn made_up_packets_need_room_and_make_no_overflow() {
    let rig = packets(PacketTrouble {
        duplicate_percent: 100,
        stale_percent: 100,
        nonsense_percent: 100,
        delayed_valid: None,
    });
    rig.write(size(NON_REPLAY), 0);
    enable(&rig, NON_REPLAY, 4);
    let space = space(&rig, 0);
    for page in 1..20 {
        report(&rig, &space, page << 12);
        assert_eq!(pending(&rig, NON_REPLAY).len(), 3);
        assert_eq!(rig.read(put(NON_REPLAY)) & OVERFLOW, 0);
        drain(&rig, NON_REPLAY);
    }
    assert_eq!(rig.counter("non_replayable_packets"), 19);
}

/// Raises and lowers the level of buffer 0 many times; how often it was high, and the messages sent.
fn pulses(rig: &Rig) -> (u64, u64) {
    let space = space(rig, 0);
    let mut high = 0;
    for page in 1..=ROUNDS {
        report(rig, &space, page << 12);
        high += u64::from(rig.read(PMC_INTR) == HUB);
        drain(rig, NON_REPLAY);
        assert_eq!(rig.read(PMC_INTR), 0);
    }
    (high, rig.sink.count(0) as u64)
}

#[test]
fn lost_interrupts_leave_their_level_readable() {
    let rig = interrupts(
        1,
        InterruptTrouble {
            lost_percent: 30,
            ..InterruptTrouble::default()
        },
    );
    rig.write(PMC_EN_SET, HUB);
    let (high, sent) = pulses(&rig);
    assert_eq!(high, ROUNDS);
    let lost = rig.counter("lost_interrupts");
    assert_eq!(sent + lost, ROUNDS);
    assert!((30..90).contains(&lost), "{lost} of {ROUNDS}");
}

#[test]
fn a_lost_interrupt_can_be_had_by_arming_again() {
    let rig = interrupts(
        1,
        InterruptTrouble {
            lost_percent: 50,
            ..InterruptTrouble::default()
        },
    );
    report(&rig, &space(&rig, 0), 0x5000);
    for _ in 0..64 {
        rig.write(PMC_EN_CLEAR, HUB);
        rig.write(PMC_EN_SET, HUB);
    }
    assert_eq!(
        rig.sink.count(0) as u64 + rig.counter("lost_interrupts"),
        64
    );
    assert!(rig.sink.count(0) > 0);
}

#[test]
fn spurious_interrupts_come_with_nothing_pending_to_those_who_listen() {
    let rig = interrupts(
        1,
        InterruptTrouble {
            spurious_percent: 30,
            ..InterruptTrouble::default()
        },
    );
    let (_, sent) = pulses(&rig);
    assert_eq!(
        (sent, rig.counter("spurious_interrupts")),
        (0, 0),
        "not armed"
    );
    rig.write(PMC_EN_SET, HUB);
    let (_, sent) = pulses(&rig);
    let spurious = rig.counter("spurious_interrupts");
    assert_eq!(sent, ROUNDS + spurious);
    assert!((30..120).contains(&spurious), "{spurious}");
    assert_eq!(rig.sink.count(1), 0, "nobody listens to tree 1");
}

#[test]
fn the_same_seed_makes_the_same_trouble() {
    let mode = PacketTrouble {
        delayed_valid: None,
        duplicate_percent: 20,
        stale_percent: 20,
        nonsense_percent: 20,
    };
    // All but the time stamps.
    let seen = |seed| {
        let found = faults_of_two_channels_of(&seeded(seed, mode));
        let words = |packet: &Packet| [0, 1, 2, 3, 6, 7].map(|i| packet.dwords[i]);
        found.iter().map(words).collect::<Vec<_>>()
    };
    assert_eq!(seen(5), seen(5));
    assert_ne!(seen(5), seen(6));
    let delays = |seed| {
        let rig = seeded(
            seed,
            PacketTrouble {
                delayed_valid: Some(Duration::from_millis(1)),
                ..PacketTrouble::default()
            },
        );
        let space = space(&rig, 0);
        let next = |page: u64| {
            report(&rig, &space, page << 12);
            rig.counter("valid_delay_ns")
        };
        (1..=20_u64).map(next).collect::<Vec<_>>()
    };
    assert_eq!(delays(5), delays(5));
    assert_ne!(delays(5), delays(6));
    let trouble = InterruptTrouble {
        spurious_percent: 20,
        lost_percent: 20,
    };
    let messages = |seed| {
        let rig = interrupts(seed, trouble);
        rig.write(PMC_EN_SET, HUB);
        pulses(&rig);
        (
            rig.counter("lost_interrupts"),
            rig.counter("spurious_interrupts"),
        )
    };
    assert_eq!(messages(5), messages(5));
    assert_ne!(messages(5), messages(6));
}
