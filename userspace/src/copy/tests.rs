// SPDX-License-Identifier: MIT OR Apache-2.0

use super::*;

// LAUNCH_DMA words below: 1:0 transfer, 2 flush, 4:3 semaphore, 7 and 8 pitch layouts, 9 multi-line, 10 remap.

fn words(operation: impl Operation) -> Vec<u32> {
    let mut push = PushBuffer::new();
    push.run(&operation).expect("parameters are in range");
    push.words().to_vec()
}

/// An incrementing header of subchannel 4.
const fn header(first: u16, count: u32) -> u32 {
    (1 << 29) | (count << 16) | (4 << 13) | (first >> 2) as u32
}

const TO: GpuPtr = GpuPtr::new(0x7f12_3456_7000);
const FROM: GpuPtr = GpuPtr::new(0x5500_0000_0010);

#[test]
fn a_copy_sends_source_then_destination_and_launches_one_line() {
    let expected = [
        header(0x400, 8),
        0x5500,
        0x0000_0010,
        0x7f12,
        0x3456_7000,
        0,
        0,
        100,
        1,
        header(0x300, 1),
        0x186,
    ];
    assert_eq!(words(Linear::new(TO, FROM, 100)), expected);
}

#[test]
fn a_rectangle_sends_both_pitches_and_counts_lines() {
    let words = words(Rectangle::new(TO.stride(64), FROM.stride(4096), 16, 9));
    assert_eq!(words[5..9], [4096, 64, 16, 9]);
    assert_eq!(words.last(), Some(&0x386));
}

#[test]
fn a_pipelined_copy_differs_in_the_launch_only() {
    let (plain, pipelined) = (
        words(Linear::new(TO, FROM, 1)),
        words(Linear::new(TO, FROM, 1).pipelined()),
    );
    assert_eq!(plain[..10], pipelined[..10]);
    assert_eq!(pipelined.last(), Some(&0x185));
}

#[test]
fn a_fill_counts_elements_and_puts_them_together_from_constants() {
    let components = |words: Vec<u32>| (words[7], words[9..13].to_vec());
    let remap = header(0x700, 3);
    assert_eq!(
        components(words(Fill::new(TO, 0xab_u8, 5))),
        (5, vec![remap, 0xab, 0, 0x0000_6664])
    );
    assert_eq!(
        components(words(Fill::new(TO, 0xabcd_u16, 5))),
        (5, vec![remap, 0xabcd, 0, 0x0001_6664])
    );
    assert_eq!(
        components(words(Fill::new(TO, 0x1234_5678_u32, 5))),
        (5, vec![remap, 0x1234_5678, 0, 0x0003_6664])
    );
    let long = Fill::new(TO, 0x1122_3344_5566_7788_u64, 5);
    assert_eq!(
        components(words(long)),
        (5, vec![remap, 0x5566_7788, 0x1122_3344, 0x0103_6654])
    );
    assert_eq!(words(long).last(), Some(&0x586));
}

#[test]
fn a_semaphore_transfers_nothing() {
    let expected = [
        header(0x240, 3),
        0x7f12,
        0x3456_7000,
        7,
        header(0x300, 1),
        0x0c,
    ];
    assert_eq!(words(Semaphore::new(TO, 7)), expected);
}

#[test]
fn a_semaphore_with_the_time_is_aligned_to_all_of_it() {
    let mut stamped = Stamped::default();
    assert_eq!(
        words(Semaphore::timestamped(&mut stamped, 1)).last(),
        Some(&0x14)
    );
    let odd = Semaphore {
        at: TO.offset(8),
        ..Semaphore::timestamped(&mut stamped, 1)
    };
    assert!(matches!(
        odd.command(),
        Err(Error::Alignment { align: 16, .. })
    ));
    assert!(matches!(
        Semaphore::new(TO.offset(2), 1).command(),
        Err(Error::Alignment { align: 4, .. })
    ));
}

#[test]
fn parameters_that_the_device_would_refuse_are_errors() {
    let refused =
        |operation: &dyn Operation| matches!(operation.command(), Err(Error::Range { .. }));
    assert!(refused(&Linear::new(TO, FROM, 0)));
    assert!(refused(&Linear::new(TO, FROM, 1 << 32)));
    assert!(refused(&Rectangle::new(TO.stride(1), FROM.stride(1), 1, 0)));
    assert!(refused(&Linear::new(GpuPtr::new(1 << 49), FROM, 1)));
    assert!(!refused(&Linear::new(
        GpuPtr::new((1 << 49) - 1),
        FROM,
        (1 << 32) - 1
    )));
}

#[test]
fn a_push_buffer_of_another_engine_refuses_a_copy() {
    let mut push = PushBuffer::for_class(0xfec0);
    assert!(matches!(
        push.run(&Linear::new(TO, FROM, 1)),
        Err(Error::WrongEngine { .. })
    ));
}
