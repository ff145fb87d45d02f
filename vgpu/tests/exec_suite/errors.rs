// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a channel did wrong, as the error registers show it.

use mirage_vgpu::bus::Bus;

use crate::rig::*;

const GPPTR: u32 = 1 << 14;
const GPENTRY: u32 = 1 << 15;
const PBENTRY: u32 = 1 << 18;
const METHOD: u32 = 1 << 21;
const ILLEGAL_METHOD: u32 = 1 << 4;
const ILLEGAL_CLASS: u32 = 1 << 5;
const CLASS_ERROR: u32 = 1 << 20;
const VALID: u32 = 1 << 13;
const BIND_ERROR: u32 = 1;

/// Submits and returns the PGRAPH error that comes of it.
fn graph_error(rig: &Rig, channel: &Channel<'_>, words: &[u32]) -> [u32; 3] {
    channel.submit(words);
    let doomed = channel.fence();
    rig.until("a PGRAPH error", || rig.read(GRAPH_INTR) != 0);
    let shown = [GRAPH_INTR, GRAPH_ADDR, GRAPH_DATA].map(|register| rig.read(register));
    assert_eq!(
        rig.read(GRAPH_CTX),
        (1 << 31) | (channel.inst.addr >> 12) as u32
    );
    rig.write(GRAPH_INTR, shown[0]);
    assert_eq!(rig.read(GRAPH_INTR), 0);
    assert!(!channel.is_past(doomed), "a stopped channel must not go on");
    shown
}

/// Submits and returns the PPBDMA error that comes of it.
fn pbdma_error(rig: &Rig, channel: &Channel<'_>, words: &[u32]) -> [u32; 3] {
    channel.submit(words);
    rig.until("a PPBDMA error", || rig.read(PBDMA_INTR) != 0);
    assert_eq!(rig.read(PBDMA_CHANNEL), VALID | channel.id);
    let shown = [PBDMA_INTR, PBDMA_METHOD0, PBDMA_DATA0].map(|register| rig.read(register));
    rig.write(PBDMA_INTR, shown[0]);
    shown
}

fn good() -> Launch {
    Launch {
        op: STORE,
        size: 3,
        a: DATA,
        lanes: 1,
        length: 1,
        ..Default::default()
    }
}

#[test]
fn an_unknown_class_or_a_subchannel_without_one_is_an_illegal_class() {
    let rig = Rig::new();
    let unknown = graph_error(&rig, &rig.channel(0), &methods(3, 0, &[0x1234]));
    assert_eq!(unknown, [ILLEGAL_CLASS, 3 << 16, 0x1234]);
    let unbound = graph_error(&rig, &rig.channel(1), &methods(2, 0x100, &[7]));
    assert_eq!(unbound, [ILLEGAL_CLASS, (2 << 16) | 0x100, 7]);
}

#[test]
fn an_unknown_method_of_the_class_is_illegal() {
    let rig = Rig::new();
    let mut words = methods(1, 0, &[0xfec0]);
    words.extend(methods(1, 0x3ffc, &[5]));
    assert_eq!(
        graph_error(&rig, &rig.channel(0), &words),
        [ILLEGAL_METHOD, (1 << 16) | 0x3ffc, 5]
    );
}

#[test]
fn each_rule_of_a_launch_is_checked() {
    let bad = [
        Launch { op: 0, ..good() },
        Launch { op: 11, ..good() },
        Launch {
            flags: 1 << 4,
            ..good()
        },
        Launch {
            flags: 1 << 31,
            ..good()
        },
        Launch { lanes: 0, ..good() },
        Launch {
            lanes: (1 << 24) + 1,
            ..good()
        },
        Launch {
            a: DATA + 4,
            ..good()
        },
        Launch {
            stride_a: 4,
            ..good()
        },
        Launch {
            op: LOAD,
            flags: RESULT,
            r: DATA + 4,
            ..good()
        },
        Launch {
            op: LOAD,
            flags: RESULT,
            r: DATA,
            stride_r: 4,
            ..good()
        },
        Launch {
            op: ATOMIC_ADD,
            size: 1,
            ..good()
        },
        Launch {
            op: FILL,
            length: 0,
            ..good()
        },
        Launch {
            op: COPY,
            length: (1 << 31) + 1,
            ..good()
        },
        Launch {
            op: COMPARE,
            ..good()
        },
        Launch {
            op: CHASE,
            a: DATA + 4,
            ..good()
        },
        Launch {
            op: CHASE,
            next_offset: 4,
            ..good()
        },
        Launch {
            op: CHASE,
            value_offset: 4,
            ..good()
        },
    ];
    let rig = Rig::new();
    for (id, launch) in (0..).zip(bad) {
        let [intr, addr, data] = graph_error(&rig, &rig.channel(id), &launch.words());
        let expected = launch.op | (launch.size << 8) | launch.flags;
        assert_eq!(
            (intr, addr, data),
            (CLASS_ERROR, (1 << 16) | 0x300, expected),
            "{launch:?}"
        );
    }
}

#[test]
fn a_misaligned_pointer_in_a_list_is_a_class_error_of_the_launch() {
    let rig = Rig::new();
    let page = rig.map(DATA, PAGE);
    rig.put_u64(page, DATA + 12);
    let launch = Launch {
        op: CHASE,
        value_offset: 8,
        ..good()
    };
    let [intr, addr, _] = graph_error(&rig, &rig.channel(0), &launch.words());
    assert_eq!((intr, addr), (CLASS_ERROR, (1 << 16) | 0x300));
}

#[test]
fn host_methods_that_are_unknown_or_have_bad_data_are_method_errors() {
    let va = 0x10_0000_0000;
    let bad = [
        (methods(1, 0x28, &[3]), (1 << 16) | 0x28, 3),
        (methods(0, 0x04, &[0]), 0x04, 0),
        (semaphore(va, 0, 7), 0x6c, 7),
        (semaphore(va + 2, 0, 1), 0x6c, 1),
        (semaphore(va + 4, 0, 1 | (1 << 24)), 0x6c, 1 | (1 << 24)),
        (semaphore(va + 8, 0, 1 | (1 << 25)), 0x6c, 1 | (1 << 25)),
        (semaphore(1 << 40, 0, 1), 0x6c, 1),
    ];
    let rig = Rig::new();
    for (id, (words, method, data)) in (0..).zip(bad) {
        assert_eq!(
            pbdma_error(&rig, &rig.channel(id), &words),
            [METHOD, method, data],
            "case {id}"
        );
    }
}

#[test]
fn headers_entries_and_pointers_that_make_no_sense_are_told_apart() {
    let rig = Rig::new();
    assert_eq!(pbdma_error(&rig, &rig.channel(0), &[2 << 29])[0], PBENTRY);

    let channel = rig.channel(1);
    channel.raw_entry(1 << 32);
    rig.until("an error", || rig.read(PBDMA_INTR) != 0);
    assert_eq!(
        (rig.read(PBDMA_INTR), rig.read(PBDMA_CHANNEL)),
        (GPENTRY, VALID | 1)
    );
    rig.write(PBDMA_INTR, GPENTRY);

    let channel = rig.channel(2);
    rig.memory
        .write_u32(channel.userd.offset(0x8c), 64)
        .unwrap();
    rig.write(DOORBELL, 2);
    rig.until("an error", || rig.read(PBDMA_INTR) != 0);
    assert_eq!(
        (rig.read(PBDMA_INTR), rig.read(PBDMA_CHANNEL)),
        (GPPTR, VALID | 2)
    );
}

#[test]
fn errors_of_several_channels_are_shown_one_after_the_other() {
    let rig = Rig::new();
    let channels = [0, 1, 2].map(|id| rig.channel(id));
    for channel in &channels {
        channel.submit(&[2 << 29]);
    }
    rig.until("three errors", || rig.gpu.counters()["channel_errors"] == 3);
    let mut seen: Vec<u32> = channels
        .iter()
        .map(|_| {
            let channel = rig.read(PBDMA_CHANNEL);
            rig.write(PBDMA_INTR, PBENTRY);
            channel
        })
        .collect();
    seen.sort_unstable();
    assert_eq!(seen, [VALID, VALID | 1, VALID | 2]);
    assert_eq!((rig.read(PBDMA_INTR), rig.read(PBDMA_CHANNEL)), (0, 0));
}

#[test]
fn a_channel_that_was_stopped_runs_again_after_bind_and_not_before() {
    let rig = Rig::new();
    let channel = rig.channel(0);
    pbdma_error(&rig, &channel, &[2 << 29]);
    channel.kill();
    channel.enable();
    let doomed = channel.fence();
    std::thread::sleep(std::time::Duration::from_millis(5));
    assert!(!channel.is_past(doomed));
    channel.kill();
    channel.bind();
    channel.enable();
    channel.wait(channel.fence());
}

#[test]
fn a_bad_instance_block_is_a_bind_error_and_the_channel_stays_disabled() {
    let rig = Rig::new();
    let channel = rig.channel(0);
    let refused = || {
        channel.enable();
        let shown = (
            rig.read(PFIFO_INTR) & BIND_ERROR,
            channel.control() & ENABLE,
        );
        rig.write(PFIFO_INTR, BIND_ERROR);
        shown == (BIND_ERROR, 0)
    };
    channel.kill();
    channel.bind();
    rig.memory
        .write_u32(channel.inst.offset(0x10), 0xfacf)
        .unwrap();
    assert!(refused(), "SIGNATURE");
    rig.memory
        .write_u32(channel.inst.offset(0x10), 0xface)
        .unwrap();
    rig.memory.write_u32(channel.inst.offset(0x08), 1).unwrap();
    assert!(refused(), "USERD's target");
    rig.write(0x80_0000, 0);
    assert!(refused(), "not bound");
    rig.write(0x80_0000, (1 << 31) | (1 << 28));
    assert!(refused(), "target 1");
    rig.write(0x80_0000, (1 << 31) | 0xfff_ffff);
    assert!(refused(), "outside memory");
}

#[test]
fn binding_an_enabled_channel_is_a_bind_error_and_changes_nothing() {
    let rig = Rig::new();
    let channel = rig.channel(0);
    rig.write(0x80_0000, 0);
    assert_eq!(rig.read(PFIFO_INTR), BIND_ERROR);
    channel.wait(channel.fence());
}

#[test]
fn an_instance_block_without_page_directory_faults_as_unbound() {
    let rig = Rig::new();
    let channel = rig.channel(0);
    channel.kill();
    rig.memory.write_u32(channel.inst.offset(0x200), 0).unwrap();
    channel.bind();
    channel.enable();
    channel.submit(&[0]);
    assert_eq!(rig.wait_faults(0)[0].kind, 4);
    assert_ne!(channel.control() & PBDMA_FAULTED, 0);
}

#[test]
fn a_gpfifo_that_is_not_mapped_faults_at_its_address() {
    let rig = Rig::new();
    let channel = rig.channel(0);
    rig.clear(channel.rings_va());
    channel.submit(&[0]);
    let packet = rig.wait_faults(0)[0];
    assert_eq!(
        (packet.va, packet.access, packet.hub),
        (channel.rings_va(), 0, true)
    );
}
