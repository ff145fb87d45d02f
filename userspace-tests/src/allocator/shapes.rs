// SPDX-License-Identifier: MIT OR Apache-2.0
//! The shapes: how much work there is, where, and who does it.

use crate::region::{HUGE, PAGE};

/// Who does the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Workers {
    One,
    /// Each with a mirror of its own.
    Threads(u64),
    ThreadsOfOneMirror(u64),
    Processes(u64),
}

/// How the work looks. Submission k writes `lanes` words, `stride` bytes apart, from `k * step` on.
#[derive(Debug)]
pub(super) struct Shape {
    pub(super) name: &'static str,
    pub(super) workers: Workers,
    /// Bytes of an allocation.
    pub(super) len: usize,
    pub(super) submissions: usize,
    /// How many are under way at a time, each on another channel.
    pub(super) channels: usize,
    pub(super) step: usize,
    pub(super) lanes: usize,
    pub(super) stride: usize,
    /// Whether it goes with all actions, or with those of the first rank only.
    pub(super) all_actions: bool,
}

/// Bytes from one word of the GPU to the next.
pub(super) const SPACING: usize = 64;

const BASE: Shape = Shape {
    name: "once",
    workers: Workers::One,
    len: 16 * PAGE,
    submissions: 1,
    channels: 1,
    step: SPACING,
    // Several pages in one launch.
    lanes: 15,
    stride: PAGE + SPACING,
    all_actions: false,
};

const BIG: usize = 64 << 10;

/// The shapes.
pub(super) const SHAPES: &[Shape] = &[
    BASE,
    Shape {
        name: "twice",
        submissions: 2,
        all_actions: true,
        ..BASE
    },
    Shape {
        name: "many",
        submissions: 12,
        lanes: 1,
        ..BASE
    },
    Shape {
        name: "many_stride",
        submissions: 16,
        step: PAGE,
        lanes: 1,
        all_actions: true,
        ..BASE
    },
    Shape {
        name: "many_64k",
        len: 6 * BIG,
        submissions: 6,
        step: BIG,
        lanes: 16,
        stride: PAGE,
        ..BASE
    },
    Shape {
        name: "large",
        len: 2 * HUGE,
        submissions: 2,
        lanes: 1000,
        ..BASE
    },
    Shape {
        name: "many_channels",
        submissions: 8,
        channels: 4,
        ..BASE
    },
    Shape {
        name: "threads",
        workers: Workers::Threads(3),
        submissions: 3,
        ..BASE
    },
    Shape {
        name: "threads_one_mirror",
        workers: Workers::ThreadsOfOneMirror(4),
        submissions: 4,
        all_actions: true,
        ..BASE
    },
    Shape {
        name: "processes",
        workers: Workers::Processes(3),
        submissions: 3,
        ..BASE
    },
];
