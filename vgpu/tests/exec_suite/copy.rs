// SPDX-License-Identifier: MIT OR Apache-2.0
//! Copy engines: what a launch does to memory.

use std::time::Duration;

use mirage_vgpu::bus::{Bus, PhysAddr};

use crate::rig::*;

pub(crate) const SRC: u64 = DATA + (1 << 30);
const PAGES: u64 = 40;
const LONG: u32 = u32::MAX;

/// A channel of a copy engine.
pub(crate) fn copy_channel(rig: &Rig, id: u32, engine: u32) -> Channel<'_> {
    let channel = rig.channel(id);
    rig.submit_runlist(1 + engine, &[(id, &[id])]);
    channel
}

/// Source with recognizable bytes and empty destination, mapped.
pub(crate) fn sides(rig: &Rig) -> [PhysAddr; 2] {
    let [src, dst] = [SRC, DATA].map(|va| rig.map(va, PAGES * PAGE));
    let bytes: Vec<u8> = (0..PAGES * PAGE).map(byte).collect();
    rig.memory.write(src, &bytes).unwrap();
    [src, dst]
}

pub(crate) fn byte(i: u64) -> u8 {
    (i * 131 % 251) as u8 + 1
}

/// Copies a line from SRC to DATA.
pub(crate) fn copy(length: u32) -> Dma {
    Dma {
        launch: TRANSFER | FLUSH,
        src: SRC,
        dst: DATA,
        length,
        count: 1,
        ..Default::default()
    }
}

#[test]
fn a_line_moves_from_anywhere_to_anywhere_and_nothing_beside_it() {
    let rig = Rig::new();
    let [_, dst] = sides(&rig);
    let channel = copy_channel(&rig, 5, 0);
    let length = 30 * PAGE as u32 + 77;
    channel.run(
        &Dma {
            src: SRC + 4001,
            dst: DATA + 123,
            ..copy(length)
        }
        .words(),
    );
    let moved = rig.bytes(dst, (PAGES * PAGE) as usize);
    let expected = |i: u64| match i.checked_sub(123) {
        Some(at) if at < length.into() => byte(at + 4001),
        _ => 0,
    };
    assert!((0..).zip(moved).all(|(i, value)| value == expected(i)));
    assert_eq!(rig.gpu.counters()["bytes_copied"], u64::from(length));
}

#[test]
fn lines_follow_each_other_by_their_pitch_which_may_be_negative() {
    let rig = Rig::new();
    let [_, dst] = sides(&rig);
    let channel = copy_channel(&rig, 5, 1);
    let lines = Dma {
        launch: TRANSFER | FLUSH | MULTI_LINE,
        src: SRC + 99 * 300,
        pitch_in: -300i32 as u32,
        pitch_out: 1000,
        length: 200,
        count: 100,
        ..copy(0)
    };
    channel.run(&lines.words());
    let moved = rig.bytes(dst, 100_000);
    for (line, row) in (0..).zip(moved.chunks(1000)) {
        let from = (99 - line) * 300;
        assert!((0..200).all(|i| row[i as usize] == byte(from + i)));
        assert!(row[200..].iter().all(|value| *value == 0));
    }
}

#[test]
fn without_multi_line_there_is_one_line_and_without_data_nothing() {
    let rig = Rig::new();
    let [_, dst] = sides(&rig);
    let channel = copy_channel(&rig, 5, 0);
    let many = Dma {
        pitch_out: 100,
        count: LONG,
        ..copy(10)
    };
    let nothing = [
        Dma {
            launch: TRANSFER | MULTI_LINE,
            length: 0,
            ..many
        },
        Dma {
            launch: TRANSFER | MULTI_LINE,
            count: 0,
            ..many
        },
        Dma { launch: 0, ..many },
    ];
    channel.run(&nothing.map(|dma| dma.words()).concat());
    assert_eq!(rig.u64_at(dst), 0);
    channel.run(&many.words());
    assert_ne!(rig.u64_at(dst), 0);
    assert_eq!(rig.bytes(dst.offset(100), 10), [0; 10]);
}

#[test]
fn a_remap_with_constants_clears_and_needs_no_source() {
    let rig = Rig::new();
    let [_, dst] = sides(&rig);
    let clear = Dma {
        // No layout for the source, two constants of four bytes.
        launch: (TRANSFER & !(1 << 7)) | FLUSH | REMAP,
        src: 0,
        dst: DATA + 4,
        constants: [0x1122_3344, 0x5566_7788],
        components: 4 | (5 << 4) | (3 << 16) | (1 << 24),
        ..copy(10_000)
    };
    copy_channel(&rig, 5, 0).run(&clear.words());
    let word = |at| rig.memory.read_u32(dst.offset(at)).unwrap();
    assert_eq!((word(0), word(4 + 80_000)), (0, 0));
    for i in 0..10_000 {
        assert_eq!([word(4 + 8 * i), word(8 + 8 * i)], clear.constants);
    }
}

#[test]
fn a_remap_selects_components_across_pages_and_leaves_gaps_alone() {
    let rig = Rig::new();
    let [_, dst] = sides(&rig);
    let old = vec![0xee; (PAGES * PAGE) as usize];
    rig.memory.write(dst, &old).unwrap();
    // Three bytes become Z, keep, X, constant: elements straddle pages on both sides.
    let dma = Dma {
        launch: TRANSFER | FLUSH | REMAP | MULTI_LINE,
        src: SRC + 1,
        dst: DATA + 3,
        pitch_in: 30_002,
        pitch_out: 40_003,
        count: 3,
        constants: [0x77, 0],
        components: 2 | (6 << 4) | (4 << 12) | (2 << 20) | (3 << 24),
        ..copy(10_000)
    };
    copy_channel(&rig, 5, 0).run(&dma.words());
    let made = rig.bytes(dst, (PAGES * PAGE) as usize);
    for line in 0..3 {
        for element in 0..10_000 {
            let at = 3 + line * 40_003 + element * 4;
            let from = (1 + line * 30_002 + element * 3) as u64;
            let expected = [byte(from + 2), 0xee, byte(from), 0x77];
            assert_eq!(made[at..at + 4], expected, "line {line}, {element}");
        }
    }
}

#[test]
fn launches_of_one_channel_are_done_in_order() {
    let rig = Rig::new();
    let [_, dst] = sides(&rig);
    let channel = copy_channel(&rig, 5, 0);
    let words: Vec<u32> = (0..100)
        .flat_map(|i| {
            Dma {
                src: SRC + i,
                ..copy(8)
            }
            .words()
        })
        .collect();
    channel.run(&words);
    assert_eq!(rig.bytes(dst, 1), [byte(99)]);
}

#[test]
fn semaphores_are_one_word_or_four_with_the_time() {
    let rig = Rig::new();
    sides(&rig);
    let channel = copy_channel(&rig, 5, 0);
    // Higher than 40 bits: only host's semaphores are limited.
    let page = rig.map(DATA + (2 << 30), PAGE);
    for at in [0, 8, 16, 24] {
        rig.put_u64(page.offset(at), u64::MAX);
    }
    let one = Dma {
        launch: ONE_WORD,
        semaphore: DATA + (2 << 30) + 4,
        payload: 9,
        ..Dma::default()
    };
    let four = Dma {
        launch: FOUR_WORDS,
        semaphore: DATA + (2 << 30) + 16,
        payload: 7,
        ..Dma::default()
    };
    channel.run(&[one.words(), four.words()].concat());
    assert_eq!(rig.u64_at(page), (9 << 32) | 0xffff_ffff);
    assert_eq!(rig.u64_at(page.offset(8)), u64::MAX);
    assert_eq!(rig.u64_at(page.offset(16)), 7);
    assert!(rig.u64_at(page.offset(24)) < u64::MAX);
    // IADD, four bytes.
    let add = Dma {
        launch: ONE_WORD | (5 << 14) | (1 << 19),
        payload: 33,
        ..four
    };
    channel.run(&add.words());
    assert_eq!(rig.u64_at(page.offset(16)), 40);
}

#[test]
fn a_flush_puts_the_data_before_the_semaphore_which_overtakes_it_otherwise() {
    let rig = Rig::with(&all_writes_late());
    let [_, dst] = sides(&rig);
    let channel = copy_channel(&rig, 5, 0);
    let semaphore = channel.semaphore.offset(64);
    let signalled = |flush, payload| {
        let dma = Dma {
            launch: TRANSFER | ONE_WORD | flush,
            dst: DATA + u64::from(payload) * PAGE,
            semaphore: channel.semaphore_va() + 64,
            payload,
            ..copy(64)
        };
        channel.submit(&dma.words());
        rig.until("the semaphore", || {
            rig.u64_at(semaphore) == u64::from(payload)
        });
        rig.u64_at(dst.offset(u64::from(payload) * PAGE)) != 0
    };
    assert!(signalled(FLUSH, 1));
    assert!(!signalled(0, 2));
    rig.invalidate(ACKED);
    assert_ne!(
        rig.u64_at(dst.offset(2 * PAGE)),
        0,
        "held back after an ack"
    );
    assert!(!signalled(0, 3));
    channel.wait(channel.fence());
    assert_ne!(rig.u64_at(dst.offset(3 * PAGE)), 0, "held back after WFI");
}

#[test]
fn a_preempted_copy_goes_on_where_it_was() {
    let rig = Rig::new();
    let [_, dst] = sides(&rig);
    let channel = copy_channel(&rig, 5, 0);
    // All lines to the same place, from other places each.
    let dma = Dma {
        launch: TRANSFER | FLUSH | MULTI_LINE,
        pitch_in: 1,
        count: 30_000,
        ..copy(8)
    };
    channel.submit(&dma.words());
    let serial = channel.fence();
    rig.until("the fence", || {
        channel.kill();
        let before = rig.u64_at(dst);
        std::thread::sleep(Duration::from_millis(2));
        assert_eq!(rig.u64_at(dst), before);
        channel.enable();
        std::thread::sleep(Duration::from_millis(5));
        channel.is_past(serial)
    });
    assert_eq!(rig.bytes(dst, 1), [byte(29_999)]);
    assert_eq!(rig.gpu.counters()["bytes_copied"], 8 * 30_000);
}

#[test]
fn the_longest_copy_starves_nobody_and_ends_with_its_channel() {
    let rig = Rig::new();
    let [_, dst] = sides(&rig);
    let (endless, other) = (rig.channel(5), rig.channel(6));
    rig.submit_runlist(1, &[(5, &[5]), (6, &[6])]);
    endless.privilege();
    let same_page = Dma {
        launch: TRANSFER | MULTI_LINE,
        count: LONG,
        ..copy(PAGE as u32)
    };
    let everything = Dma {
        launch: same_page.launch | SRC_PHYSICAL | DST_PHYSICAL,
        dst: 1 << 40,
        length: LONG,
        ..same_page
    };
    let byte_by_byte = Dma {
        launch: same_page.launch | REMAP,
        // One component of one byte, from X.
        components: 0,
        length: 1,
        ..same_page
    };
    for dma in [same_page, everything, byte_by_byte] {
        let before = rig.gpu.counters()["bytes_copied"];
        endless.submit(&dma.words());
        rig.until("the copy", || {
            endless.is_busy() && rig.gpu.counters()["bytes_copied"] > before
        });
        for i in 0..20 {
            let short = Dma {
                dst: DATA + PAGE,
                src: SRC + i,
                ..copy(8)
            };
            other.run(&short.words());
            assert_eq!(rig.bytes(dst.offset(PAGE), 1), [byte(i)]);
        }
        endless.kill();
        assert_eq!(endless.control() & !ENG_FAULTED, 0);
        endless.bind();
        endless.enable();
        endless.wait(endless.fence());
    }
}
