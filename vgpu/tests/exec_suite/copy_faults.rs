// SPDX-License-Identifier: MIT OR Apache-2.0
//! Copy engines: faults, and how a copy goes on after one.

use mirage_vgpu::bus::Bus;

use crate::copy::{copy, copy_channel, SRC};
use crate::rig::*;

const ENGINE_CE0: u32 = 15;
const PTE: u32 = 2;
const PDE: u32 = 0;

#[test]
fn a_fault_switches_its_channel_out_and_the_copy_goes_on_where_it_was() {
    for engine in [0, 1] {
        let rig = Rig::new();
        let (copying, other) = (rig.channel(0), rig.channel(1));
        rig.submit_runlist(1 + engine, &[(1, &[0]), (2, &[1])]);
        let src = rig.map(SRC, 4 * PAGE);
        rig.memory.write(src, &[7; 4 * PAGE as usize]).unwrap();
        let first = rig.map(DATA, PAGE);
        copying.submit(&copy(4 * PAGE as u32).words());
        let serial = copying.fence();
        let packet = |page, kind| Packet {
            va: DATA + page * PAGE,
            kind,
            access: 1,
            hub: true,
            engine: ENGINE_CE0 + engine,
        };
        assert_eq!(rig.wait_faults(0), [packet(1, PTE)]);
        assert_ne!(copying.control() & ENG_FAULTED, 0);
        assert!(copying.is_busy());
        other.run(
            &Dma {
                dst: SRC,
                ..copy(64)
            }
            .words(),
        );
        // Still no translation: it faults again.
        copying.write_control(ENG_FAULTED);
        assert_eq!(rig.wait_faults(0), [packet(1, PTE)]);
        let middle = rig.map(DATA + PAGE, 2 * PAGE);
        rig.put_u64(first, 1);
        copying.write_control(ENG_FAULTED);
        assert_eq!(rig.wait_faults(0), [packet(3, PTE)]);
        assert_eq!(rig.u64_at(first), 1, "what was done is done again");
        assert_eq!(rig.bytes(middle, 8192), [7; 8192]);
        rig.map(DATA + 3 * PAGE, PAGE);
        copying.write_control(ENG_FAULTED);
        copying.wait(serial);
        assert_eq!(rig.faults(0), []);
        assert_eq!(rig.faults(1), []);
        assert_eq!(copying.control() & ENG_FAULTED, 0);
        let copied = rig.gpu.counters()["bytes_copied"];
        assert_eq!(copied, 4 * PAGE + 64, "each byte once");
    }
}

#[test]
fn both_sides_of_a_copy_between_untouched_buffers_fault_at_once() {
    let rig = Rig::new();
    let channel = copy_channel(&rig, 0, 0);
    channel.submit(&copy(100).words());
    let packets = rig.wait_n_faults(0, 2);
    let shown: Vec<_> = packets.iter().map(|p| (p.va, p.access, p.kind)).collect();
    assert_eq!(shown, [(DATA, 1, PDE), (SRC, 0, PDE)]);
    rig.map(SRC, PAGE);
    rig.map(DATA, PAGE);
    channel.write_control(ENG_FAULTED);
    channel.wait(channel.fence());
}

#[test]
fn a_semaphore_that_faults_is_released_once_and_after_the_data() {
    let rig = Rig::new();
    let channel = copy_channel(&rig, 0, 0);
    rig.map(SRC, PAGE);
    let dst = rig.map(DATA, PAGE);
    let dma = Dma {
        launch: TRANSFER | FLUSH | ONE_WORD | (5 << 14) | (1 << 19),
        semaphore: DATA + PAGE,
        payload: 1,
        ..copy(8)
    };
    rig.put_u64(dst, 5);
    channel.submit(&dma.words());
    let serial = channel.fence();
    let fault = rig.wait_faults(0)[0];
    assert_eq!((fault.va, fault.access), (DATA + PAGE, 2));
    assert_eq!(rig.u64_at(dst), 0);
    rig.put_u64(dst, 5);
    let page = rig.map(DATA + PAGE, PAGE);
    channel.write_control(ENG_FAULTED);
    channel.wait(serial);
    assert_eq!((rig.u64_at(page), rig.u64_at(dst)), (1, 5));
}

#[test]
fn a_faulted_channel_can_be_killed_and_bound_again() {
    let rig = Rig::new();
    let channel = copy_channel(&rig, 0, 0);
    channel.submit(&copy(100).words());
    rig.wait_n_faults(0, 2);
    channel.kill();
    channel.bind();
    channel.enable();
    assert_eq!(channel.control() & ENG_FAULTED, 0);
    channel.wait(channel.fence());
    assert_eq!(rig.faults(0), [], "work of the old binding");
}
