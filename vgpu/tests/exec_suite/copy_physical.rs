// SPDX-License-Identifier: MIT OR Apache-2.0
//! Copy engines: physical addresses.

use mirage_vgpu::bus::Bus;

use crate::copy::{byte, copy, copy_channel, sides};
use crate::rig::*;

const CE_INTR_STATUS: u32 = 0x104410;
const CE_LAUNCHERR: u32 = 0x104418;
const LAUNCHERR: u32 = 4;
const INVALID_VALUE: u32 = 9;

#[test]
fn physical_addresses_are_for_privileged_channels() {
    let rig = Rig::new();
    let [src, dst] = sides(&rig);
    let channel = copy_channel(&rig, 5, 0);
    channel.privilege();
    let physical = Dma {
        launch: TRANSFER | FLUSH | SRC_PHYSICAL | DST_PHYSICAL,
        src: src.addr + 100,
        dst: dst.addr + 5000,
        ..copy(9000)
    };
    channel.run(&physical.words());
    let moved = rig.bytes(dst.offset(5000), 9000);
    assert!((100..).zip(moved).all(|(i, value)| value == byte(i)));
    // Where no memory is, ones are read and nothing is written.
    let outside = Dma {
        launch: TRANSFER | FLUSH | SRC_PHYSICAL,
        src: 1 << 40,
        ..copy(8)
    };
    channel.run(&outside.words());
    assert_eq!(rig.u64_at(dst), u64::MAX);
    let lost = Dma {
        launch: TRANSFER | FLUSH | DST_PHYSICAL,
        dst: dst.addr,
        phys_modes: [0, 1],
        ..copy(8)
    };
    channel.run(&lost.words());
    assert_eq!(rig.u64_at(dst), u64::MAX);
}

#[test]
fn physical_modes_1_and_2_are_system_memory() {
    for mode in [1, 2] {
        let rig = Rig::new();
        let [_, dst] = sides(&rig);
        let ram = rig.plug_ram(4 * PAGE);
        let channel = copy_channel(&rig, 5, 0);
        channel.privilege();
        let out = Dma {
            launch: TRANSFER | FLUSH | DST_PHYSICAL,
            dst: ram.addr + 77,
            phys_modes: [0, mode],
            ..copy(5000)
        };
        channel.run(&out.words());
        let moved = rig.bytes(ram, 4 * PAGE as usize);
        let expected = |i: u64| match i.checked_sub(77) {
            Some(at) if at < 5000 => byte(at),
            _ => 0,
        };
        assert!(
            (0..).zip(moved).all(|(i, value)| value == expected(i)),
            "mode {mode}"
        );
        rig.memory.write(ram, b"system memory").unwrap();
        let back = Dma {
            launch: TRANSFER | FLUSH | SRC_PHYSICAL,
            src: ram.addr,
            phys_modes: [mode, 0],
            ..copy(13)
        };
        channel.run(&back.words());
        assert_eq!(rig.bytes(dst, 13), b"system memory", "mode {mode}");
    }
}

#[test]
fn a_physical_mode_without_meaning_is_an_invalid_value() {
    for (physical, phys_modes) in [(SRC_PHYSICAL, [3, 0]), (DST_PHYSICAL, [0, 3])] {
        let rig = Rig::new();
        let channel = copy_channel(&rig, 5, 0);
        channel.privilege();
        let bad = Dma {
            launch: TRANSFER | physical,
            phys_modes,
            ..copy(8)
        };
        channel.submit(&bad.words());
        rig.until("the error", || rig.read(CE_INTR_STATUS) == LAUNCHERR);
        assert_eq!(rig.read(CE_LAUNCHERR), INVALID_VALUE);
    }
}
