// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reductions: read-modify-writes of semaphores, by host and by copy engines.

use crate::bus::{AtomicOp, Width};
use crate::mmu::{Translation, Window};

/// A reduction and the format of its operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reduction {
    kind: Kind,
    signed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Min,
    Max,
    Xor,
    And,
    Or,
    Add,
    /// Adds one, from the operand back to zero.
    Inc,
    /// Takes one away, from zero or above the operand back to the operand.
    Dec,
}

impl Reduction {
    /// The code of SEM_EXECUTE and LAUNCH_DMA; floating point is not there.
    pub(crate) fn decode(code: u8, signed: bool) -> Option<Self> {
        let kind = match code {
            0 => Kind::Min,
            1 => Kind::Max,
            2 => Kind::Xor,
            3 => Kind::And,
            4 => Kind::Or,
            5 => Kind::Add,
            6 => Kind::Inc,
            7 => Kind::Dec,
            _ => return None,
        };
        Some(Self { kind, signed })
    }

    /// The new value. 32-bit operands are compared as the 64-bit ones that they are the upper halves of.
    fn apply(self, width: Width, old: u64, operand: u64) -> u64 {
        let shift = match width {
            Width::Bits32 => 32,
            Width::Bits64 => 0,
        };
        let (old, operand) = (old << shift >> shift, operand << shift >> shift);
        let below = if self.signed {
            ((old << shift) as i64) < ((operand << shift) as i64)
        } else {
            old < operand
        };
        match self.kind {
            Kind::Min if below => old,
            Kind::Max if below => operand,
            Kind::Min => operand,
            Kind::Max => old,
            Kind::Xor => old ^ operand,
            Kind::And => old & operand,
            Kind::Or => old | operand,
            Kind::Add => old.wrapping_add(operand),
            Kind::Inc if old >= operand => 0,
            Kind::Inc => old + 1,
            Kind::Dec if old == 0 || old > operand => operand,
            Kind::Dec => old - 1,
        }
    }

    /// Reduces what is at a translation, atomically.
    pub(crate) fn perform(self, window: &Window<'_>, at: Translation, width: Width, operand: u64) {
        let mut expected = window.atomic(at, width, AtomicOp::Add(0));
        loop {
            let swap = AtomicOp::CompareExchange {
                compare: expected,
                swap: self.apply(width, expected, operand),
            };
            let found = window.atomic(at, width, swap);
            if found == expected {
                return;
            }
            expected = found;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reduce(code: u8, signed: bool, width: Width, old: u64, operand: u64) -> u64 {
        Reduction::decode(code, signed)
            .unwrap()
            .apply(width, old, operand)
    }

    #[test]
    fn minimum_and_maximum_follow_the_format() {
        let minus_one = u64::from(u32::MAX);
        assert_eq!(reduce(0, true, Width::Bits32, 1, minus_one), minus_one);
        assert_eq!(reduce(0, false, Width::Bits32, 1, minus_one), 1);
        assert_eq!(reduce(1, true, Width::Bits64, 1, u64::MAX), 1);
        assert_eq!(reduce(1, false, Width::Bits64, 1, u64::MAX), u64::MAX);
    }

    #[test]
    fn increments_and_decrements_wrap_at_the_operand() {
        let inc = |old| reduce(6, false, Width::Bits32, old, 5);
        let dec = |old| reduce(7, false, Width::Bits32, old, 5);
        assert_eq!([inc(0), inc(4), inc(5), inc(9)], [1, 5, 0, 0]);
        assert_eq!([dec(0), dec(1), dec(5), dec(9)], [5, 0, 4, 5]);
    }

    #[test]
    fn bits_and_sums_are_those_of_the_width() {
        assert_eq!(reduce(2, false, Width::Bits32, 6, 3), 5);
        assert_eq!(reduce(3, false, Width::Bits32, 6, 3), 2);
        assert_eq!(reduce(4, false, Width::Bits32, 6, 3), 7);
        assert_eq!(reduce(5, false, Width::Bits64, u64::MAX, 2), 1);
        assert_eq!(Reduction::decode(10, false), None);
    }
}
