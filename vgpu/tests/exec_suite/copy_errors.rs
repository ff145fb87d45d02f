// SPDX-License-Identifier: MIT OR Apache-2.0
//! Copy engines: errors and interrupts.

use mirage_vgpu::config::Config;

use crate::copy::{copy, copy_channel, SRC};
use crate::rig::*;

const CE_INTR_EN: u32 = 0x10440c;
const CE_INTR_STATUS: u32 = 0x104410;
const CE_LAUNCHERR: u32 = 0x104418;
const CE_STRIDE: u32 = 0x80;
const BLOCKPIPE: u32 = 1;
const NONBLOCKPIPE: u32 = 2;
const LAUNCHERR: u32 = 4;
const CE0: u32 = 1 << 5;
const CE1: u32 = 1 << 6;
const INTR_TREE_1: u32 = 0x104;
const ENGINE_STATUS: u32 = 0x2640;
const ILLEGAL_CLASS: u32 = 1 << 5;

const INVALID_ALIGNMENT: u32 = 2;
const BAD_COMPONENT: u32 = 8;
const INVALID_VALUE: u32 = 9;
const INVALID_OPERATION: u32 = 0xb;
const INVALID_CONFIG: u32 = 0xd;

#[test]
fn each_rule_of_a_launch_is_checked_and_an_error_stops_the_engine_until_it_is_cleared() {
    let launch = |bits| Dma {
        launch: bits,
        ..copy(8)
    };
    let bad = [
        (launch(3 | (3 << 7)), INVALID_VALUE),
        (launch(TRANSFER | (3 << 3)), INVALID_VALUE),
        (launch(TRANSFER | (3 << 5)), INVALID_VALUE),
        (launch(TRANSFER | (1 << 22)), INVALID_VALUE),
        (launch(TRANSFER | (1 << 31)), INVALID_VALUE),
        (launch(2 | (1 << 7)), INVALID_CONFIG),
        (launch(2 | (1 << 8)), INVALID_CONFIG),
        (launch(TRANSFER | SRC_PHYSICAL), INVALID_CONFIG),
        (launch(TRANSFER | DST_PHYSICAL), INVALID_CONFIG),
        (
            Dma {
                semaphore: DATA + 2,
                ..launch(ONE_WORD)
            },
            INVALID_ALIGNMENT,
        ),
        (
            Dma {
                semaphore: DATA + 8,
                ..launch(FOUR_WORDS)
            },
            INVALID_ALIGNMENT,
        ),
        (launch(ONE_WORD | (10 << 14) | (1 << 19)), INVALID_OPERATION),
        (
            Dma {
                components: 1,
                ..launch(TRANSFER | REMAP)
            },
            BAD_COMPONENT,
        ),
        (
            Dma {
                components: 7,
                ..launch(TRANSFER | REMAP)
            },
            INVALID_VALUE,
        ),
    ];
    let rig = Rig::new();
    rig.map(SRC, PAGE);
    rig.map(DATA, PAGE);
    rig.write(CE_INTR_EN, LAUNCHERR);
    rig.write(INTR_EN_SET, CE0);
    let ids: Vec<u32> = (0..=bad.len() as u32).collect();
    let channels: Vec<_> = ids.iter().map(|id| rig.channel(*id)).collect();
    rig.submit_runlist(1, &[(1, &ids)]);
    let good = &channels[bad.len()];
    for (channel, (dma, code)) in channels.iter().zip(bad) {
        channel.submit(&dma.words());
        let doomed = channel.fence();
        rig.until("the error", || rig.read(INTR) & CE0 != 0);
        assert_eq!(rig.read(CE_INTR_STATUS), LAUNCHERR);
        assert_eq!(rig.read(CE_LAUNCHERR), code, "{dma:?}");
        assert_eq!(rig.read(ENGINE_STATUS + 8) & 0xfff, channel.id);
        good.submit(&copy(8).words());
        let serial = good.fence();
        std::thread::sleep(std::time::Duration::from_millis(1));
        assert!(!good.is_past(serial), "the engine is stopped");
        rig.write(CE_INTR_STATUS, LAUNCHERR);
        assert_eq!((rig.read(INTR) & CE0, rig.read(CE_LAUNCHERR)), (0, 0));
        good.wait(serial);
        assert!(
            !channel.is_past(doomed),
            "a stopped channel must not signal"
        );
    }
}

#[test]
fn an_unknown_method_is_an_invalid_operation_and_block_linear_parameters_are_not() {
    let rig = Rig::new();
    let channel = copy_channel(&rig, 0, 1);
    let mut words = methods(4, 0, &[0xc3b5]);
    words.extend(methods(4, 0x70c, &[1, 2, 3, 4, 5, 6]));
    words.extend(methods(4, 0x100, &[0]));
    channel.run(&words);
    channel.submit(&methods(4, 0x3ffc, &[5]));
    rig.until("the error", || {
        rig.read(CE_INTR_STATUS + CE_STRIDE) == LAUNCHERR
    });
    assert_eq!(rig.read(CE_LAUNCHERR + CE_STRIDE), INVALID_OPERATION);
}

#[test]
fn engines_do_not_stop_for_each_other() {
    let rig = Rig::new();
    let channels = [copy_channel(&rig, 0, 0), copy_channel(&rig, 1, 1)];
    rig.map(SRC, PAGE);
    rig.map(DATA, PAGE);
    channels[0].submit(
        &Dma {
            launch: 3,
            ..copy(8)
        }
        .words(),
    );
    rig.until("the error", || rig.read(CE_INTR_STATUS) == LAUNCHERR);
    channels[1].run(&copy(8).words());
    assert_eq!(rig.read(CE_INTR_STATUS + CE_STRIDE), 0);
}

#[test]
fn a_nonblocking_interrupt_shows_in_both_trees_and_a_blocking_one_stops_the_engine() {
    let rig = Rig::new();
    let channel = copy_channel(&rig, 0, 1);
    rig.write(CE_INTR_EN + CE_STRIDE, BLOCKPIPE | NONBLOCKPIPE);
    let interrupt = |launch| Dma { launch, ..copy(0) }.words();
    channel.run(&interrupt(NON_BLOCKING));
    channel.run(&interrupt(0));
    assert_eq!(rig.read(CE_INTR_STATUS + CE_STRIDE), NONBLOCKPIPE);
    assert_eq!([INTR, INTR_TREE_1].map(|tree| rig.read(tree)), [CE1; 2]);
    rig.write(CE_INTR_STATUS + CE_STRIDE, NONBLOCKPIPE);

    channel.submit(&interrupt(BLOCKING));
    channel.submit(&interrupt(0));
    let serial = channel.fence();
    rig.until("the interrupt", || {
        rig.read(CE_INTR_STATUS + CE_STRIDE) == BLOCKPIPE
    });
    assert_eq!([INTR, INTR_TREE_1].map(|tree| rig.read(tree)), [CE1, 0]);
    std::thread::sleep(std::time::Duration::from_millis(2));
    assert!(!channel.is_past(serial));
    rig.write(CE_INTR_STATUS + CE_STRIDE, BLOCKPIPE);
    channel.wait(serial);
    assert_eq!(rig.read(INTR), 0);
}

#[test]
fn a_class_of_another_runlist_is_an_illegal_class() {
    let rig = Rig::new();
    let (compute, copying) = (rig.channel(0), copy_channel(&rig, 1, 0));
    for (channel, class) in [(compute, 0xc3b5), (copying, 0xfec0)] {
        channel.submit(&methods(4, 0, &[class]));
        rig.until("the error", || rig.read(GRAPH_INTR) == ILLEGAL_CLASS);
        rig.write(GRAPH_INTR, ILLEGAL_CLASS);
    }
    // A class that was bound on one runlist is not there on another.
    let moved = rig.channel(2);
    moved.run(&methods(1, 0, &[0xfec0]));
    rig.submit_runlist(1, &[(2, &[2])]);
    moved.submit(&methods(1, 0x100, &[0]));
    rig.until("the error", || rig.read(GRAPH_INTR) == ILLEGAL_CLASS);
}

#[test]
fn reset_ends_copies_faults_and_errors() {
    let rig = Rig::new();
    let channels = [rig.channel(0), rig.channel(1), rig.channel(2)];
    rig.submit_runlist(1, &[(1, &[0, 1])]);
    rig.submit_runlist(2, &[(1, &[2])]);
    rig.map(SRC, PAGE);
    rig.map(DATA, PAGE);
    channels[0].submit(&copy(PAGE as u32 + 1).words());
    rig.wait_faults(0);
    let endless = Dma {
        launch: TRANSFER | MULTI_LINE,
        count: u32::MAX,
        ..copy(8)
    };
    channels[1].submit(&endless.words());
    channels[2].submit(
        &Dma {
            launch: 3,
            ..copy(8)
        }
        .words(),
    );
    rig.until("work", || {
        rig.read(CE_INTR_STATUS + CE_STRIDE) == LAUNCHERR && channels[1].is_busy()
    });
    rig.gpu.reset();
    for register in [CE_INTR_STATUS, CE_INTR_EN, CE_LAUNCHERR] {
        assert_eq!(
            [0, CE_STRIDE].map(|stride| rig.read(register + stride)),
            [0; 2]
        );
    }
    assert_eq!([8, 16].map(|at| rig.read(ENGINE_STATUS + at)), [0; 2]);
    rig.set_up_buffers();
    let channel = copy_channel(&rig, 2, 1);
    channel.run(&copy(8).words());
}

#[test]
fn copies_that_make_no_sense_never_hurt() {
    let mut random = fastrand::Rng::with_seed(5);
    let rig = Rig::with(&Config::default());
    let ids: Vec<u32> = (0..6).collect();
    let channels: Vec<_> = ids.iter().map(|id| rig.channel(*id)).collect();
    channels[0].privilege();
    rig.submit_runlist(1, &[(1, &ids[..3])]);
    rig.submit_runlist(2, &[(1, &ids[3..])]);
    for page in 0..4 {
        rig.map(DATA + 2 * page * PAGE, PAGE);
    }
    let number = |random: &mut fastrand::Rng| match random.u32(..4) {
        0 => random.u32(..),
        1 => 0,
        2 => u32::MAX,
        _ => random.u32(..10_000),
    };
    for round in 0..400 {
        let channel = &channels[random.usize(..channels.len())];
        let address = |random: &mut fastrand::Rng| match random.u32(..4) {
            0 => random.u64(..),
            1 => u64::MAX - random.u64(..PAGE),
            _ => DATA + random.u64(..8 * PAGE),
        };
        let dma = Dma {
            launch: random.u32(..) & !(0x1f << 22) & !(7 << 29) | TRANSFER,
            src: address(&mut random),
            dst: address(&mut random),
            pitch_in: number(&mut random),
            pitch_out: number(&mut random),
            length: number(&mut random),
            count: number(&mut random),
            semaphore: address(&mut random) & !15,
            payload: random.u32(..),
            phys_modes: [random.u32(..4), random.u32(..4)],
            // Physical accesses of the privileged channel must spare the test's own memory.
            constants: [0; 2],
            components: random.u32(..),
        };
        let dma = Dma {
            launch: dma.launch & !DST_PHYSICAL,
            ..dma
        };
        if !channel.is_busy() {
            channel.submit(&dma.words());
        }
        rig.faults(0);
        for stride in [0, CE_STRIDE] {
            rig.write(CE_INTR_STATUS + stride, 7);
        }
        channel.write_control(ENG_FAULTED);
        if round % 5 == 0 {
            channel.kill();
            channel.bind();
            channel.enable();
        }
    }
    for channel in &channels {
        channel.kill();
        channel.bind();
        channel.enable();
        for stride in [0, CE_STRIDE] {
            rig.write(CE_INTR_STATUS + stride, 7);
        }
    }
    rig.map(SRC, PAGE);
    for channel in &channels {
        channel.run(&copy(8).words());
    }
}
