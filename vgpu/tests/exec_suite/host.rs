// SPDX-License-Identifier: MIT OR Apache-2.0
//! Host's own methods: semaphores, memory operations, and what only privileged channels may do.

use mirage_vgpu::bus::Bus;

use crate::copy::copy_channel;
use crate::rig::*;

const METHOD: u32 = 1 << 21;
const CLEAR_FAULTED_ERROR: u32 = 1 << 20;
const ACQUIRE_ERROR: u32 = 1 << 26;
const ENG: u32 = 1 << 31;
const PAYLOAD_64BIT: u32 = 1 << 24;
const TIMESTAMP: u32 = 1 << 25;
const AND: u32 = 4;
const NOR: u32 = 5;
const REDUCTION: u32 = 6;

/// Submits and returns the PPBDMA error that comes of it, its method and data.
fn error(rig: &Rig, channel: &Channel<'_>, words: &[u32]) -> [u32; 3] {
    channel.submit(words);
    rig.until("a PPBDMA error", || rig.read(PBDMA_INTR) != 0);
    let shown = [PBDMA_INTR, PBDMA_METHOD0, PBDMA_DATA0].map(|register| rig.read(register));
    rig.write(PBDMA_INTR, shown[0]);
    shown
}

#[test]
fn acquires_of_bits_wait_for_one_set_or_one_clear_in_both() {
    let rig = Rig::new();
    let channel = rig.channel(0);
    let (va, at) = (channel.semaphore_va() + 64, channel.semaphore.offset(64));
    for (operation, payload, fails, succeeds) in [
        (AND, 0b0110, 0b1001, 0b0010),
        (NOR, 0xffff_fff0, 0xf, 0xe),
        (AND | PAYLOAD_64BIT, 1 << 40, u64::MAX >> 32, 1 << 40),
        (NOR | PAYLOAD_64BIT, u64::MAX >> 1, 1 << 63, 0),
    ] {
        rig.put_u64(at, fails);
        channel.submit(&semaphore(va, payload, operation));
        let serial = channel.fence();
        std::thread::sleep(std::time::Duration::from_millis(3));
        assert!(!channel.is_past(serial), "{operation:#x} of {fails:#x}");
        rig.put_u64(at, succeeds);
        channel.wait(serial);
    }
}

#[test]
fn a_reduction_changes_the_semaphore_and_may_leave_the_time() {
    let rig = Rig::new();
    let channel = rig.channel(0);
    let (va, at) = (channel.semaphore_va() + 64, channel.semaphore.offset(64));
    let reduce = |kind: u32, payload, flags| {
        channel.run(&semaphore(va, payload, REDUCTION | (kind << 27) | flags));
        rig.u64_at(at)
    };
    rig.put_u64(at, (7 << 32) | 40);
    assert_eq!(reduce(5, 2, 0), (7 << 32) | 42);
    assert_eq!(reduce(5, 1 << 32, PAYLOAD_64BIT), (8 << 32) | 42);
    assert_eq!(reduce(2, 3, TIMESTAMP), (8 << 32) | 41);
    assert_ne!(rig.u64_at(at.offset(8)), 0);
    let [intr, method, _] = error(&rig, &channel, &semaphore(va, 0, REDUCTION | (9 << 27)));
    assert_eq!((intr, method), (METHOD, 0x6c));
}

#[test]
fn an_acquire_that_takes_too_long_is_an_error_where_a_time_out_is_set() {
    let rig = Rig::new();
    let channel = rig.channel(0);
    channel.kill();
    // 1024 ns * 16 << 4, enabled.
    let acquire = (1 << 31) | (16 << 15) | (4 << 11);
    rig.memory
        .write_u32(channel.inst.offset(0x30), acquire)
        .unwrap();
    channel.bind();
    channel.enable();
    let [intr, method, _] = error(&rig, &channel, &semaphore(channel.semaphore_va(), 9, 0));
    assert_eq!((intr, method), (ACQUIRE_ERROR, 0x6c));
}

#[test]
fn a_reference_count_and_the_push_buffers_end_show_in_userd() {
    let rig = Rig::new();
    let channel = rig.channel(0);
    channel.run(&methods(0, 0x50, &[77]));
    let word = |offset| rig.memory.read_u32(channel.userd.offset(offset)).unwrap();
    assert_eq!(word(0x48), 77);
    rig.until("idle", || !channel.is_busy());
    let get = (u64::from(word(0x60)) << 32) | u64::from(word(0x44));
    let put = (u64::from(word(0x4c)) << 32) | u64::from(word(0x40));
    // Two words of this push buffer and six of the fence's.
    assert_eq!((get, put), (channel.rings_va() + PAGE + 8 * 4, get));
}

#[test]
fn a_yield_does_nothing_and_an_unknown_one_is_an_error() {
    let rig = Rig::new();
    let channel = rig.channel(0);
    channel.run(&methods(0, 0x80, &[0]));
    channel.run(&methods(0, 0x80, &[2]));
    channel.run(&methods(0, 0x80, &[3]));
    let shown = error(&rig, &channel, &methods(0, 0x80, &[1]));
    assert_eq!(shown, [METHOD, 0x80, 1]);
}

#[test]
fn memory_operations_and_clear_faulted_are_privileged() {
    let rig = Rig::new();
    for (id, method) in (0..).zip([0x28, 0x2c, 0x30, 0x34, 0x84]) {
        let channel = rig.channel(id);
        let shown = error(&rig, &channel, &methods(0, method, &[9 << 27]));
        assert_eq!(shown, [METHOD, method, 9 << 27]);
    }
}

#[test]
fn a_privileged_channel_invalidates_and_replays() {
    let rig = Rig::new();
    let (user, kernel) = (rig.channel(0), rig.channel(1));
    kernel.privilege();
    let store = Launch {
        op: STORE,
        size: 3,
        a: DATA,
        value: 5,
        lanes: 1,
        ..Default::default()
    };
    user.submit(&store.words());
    let serial = user.fence();
    rig.wait_faults(1);
    let page = rig.map(DATA, PAGE);
    // All page directories and addresses, ACK GLOBALLY, REPLAY START_ACK_ALL.
    let invalidate = [0, 0, 1 | (2 << 2) | (1 << 5), 9 << 27];
    kernel.run(&methods(0, 0x28, &invalidate));
    user.wait(serial);
    assert_eq!(rig.u64_at(page), 5);
    let shown = error(&rig, &kernel, &methods(0, 0x34, &[31 << 27]));
    assert_eq!(shown, [METHOD, 0x34, 31 << 27]);
}

#[test]
fn clear_faulted_lets_a_channel_go_on_and_is_an_error_where_none_faulted() {
    let rig = Rig::new();
    let (user, kernel, copying) = (rig.channel(0), rig.channel(1), copy_channel(&rig, 2, 0));
    kernel.privilege();
    let va = 0xff_0000_0000;
    user.submit(&release(va, 0x77, 0));
    copying.submit(
        &Dma {
            launch: TRANSFER | FLUSH,
            src: DATA,
            dst: DATA + 64,
            length: 8,
            ..Dma::default()
        }
        .words(),
    );
    let mut packets = 0;
    rig.until("three faults", || {
        packets += rig.faults(0).len();
        packets == 3
    });
    rig.map(va, PAGE);
    rig.map(DATA, PAGE);
    kernel.run(&methods(0, 0x84, &[0]));
    kernel.run(&methods(0, 0x84, &[2 | ENG]));
    user.wait(user.fence());
    copying.wait(copying.fence());
    assert_eq!(rig.faults(0), []);

    let shown = error(&rig, &kernel, &methods(0, 0x84, &[0]));
    assert_eq!(shown, [CLEAR_FAULTED_ERROR, 0x84, 0]);
    kernel.privilege();
    let shown = error(&rig, &kernel, &methods(0, 0x84, &[128]));
    assert_eq!(shown, [METHOD, 0x84, 128]);
}

#[test]
fn a_push_buffer_that_is_not_mapped_faults_and_is_read_when_it_is() {
    let rig = Rig::new();
    let channel = rig.channel(0);
    let va = 0x80_0000_0000;
    channel.raw_entry(va | (2 << 42));
    let packet = rig.wait_faults(0)[0];
    assert_eq!((packet.va, packet.access, packet.engine), (va, 0, 32));
    let page = rig.map(va, PAGE);
    for (at, word) in (0..).zip(methods(0, 0x50, &[5])) {
        rig.memory.write_u32(page.offset(4 * at), word).unwrap();
    }
    channel.write_control(PBDMA_FAULTED);
    channel.wait(channel.fence());
    assert_eq!(rig.memory.read_u32(channel.userd.offset(0x48)), Ok(5));
}

#[test]
fn host_faults_name_the_runlist_that_host_serves() {
    let rig = Rig::new();
    for engine in [0, 1] {
        let channel = copy_channel(&rig, engine, engine);
        channel.submit(&release(0xff_0000_0000, 1, 0));
        assert_eq!(rig.wait_faults(0)[0].engine, 33 + engine);
    }
}
