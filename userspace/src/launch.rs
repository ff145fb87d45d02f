// SPDX-License-Identifier: MIT OR Apache-2.0
//! A launch in the terms of the compute class: the values of its methods.

use crate::error::Result;
use crate::ops::{in_range, Element, Lanes, NodeLayout};
use crate::ptr::Strided;
use crate::push::{PushBuffer, COMPUTE};

/// Most lanes of a launch.
const LANES_MAX: u64 = 1 << 24;
/// Most bytes per lane of FILL, COPY and COMPARE.
const LENGTH_MAX: u64 = 1 << 31;

/// First method of SET_A_UPPER .. SET_COMPARE_LOWER.
const OPERANDS: u16 = 0x0200;
/// First method of SET_STRIDE_A .. SET_VALUE_OFFSET.
const SHAPE: u16 = 0x0230;
/// The method that starts it.
const LAUNCH: u16 = 0x0300;

/// LAUNCH 12: write results to R.
const LAUNCH_RESULT: u32 = 1 << 12;
/// LAUNCH 13: the operand is VALUE + lane number.
const LAUNCH_ADD_LANE: u32 = 1 << 13;

/// LAUNCH 3:0
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum OpCode {
    Store = 1,
    Load,
    Fill,
    Copy,
    Compare,
    AtomicAdd,
    AtomicExchange,
    AtomicCas,
    Chase,
    Prefetch,
}

/// The addresses of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    A,
    B,
    R,
}

/// Where the operand of a lane comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Value,
    ValuePlusLane,
}

/// An operation with all its parameters, ready for a push buffer. Made by [`Operation`](crate::Operation).
#[derive(Clone, Copy, Debug)]
pub struct Launch {
    op: u32,
    addresses: [Strided; 3],
    value: u64,
    compare: u64,
    lanes: u32,
    length: u32,
    steps: u32,
    node: NodeLayout,
}

impl Launch {
    pub(crate) fn new<T: Element>(op: OpCode, lanes: Lanes) -> Result<Self> {
        Ok(Launch {
            op: op as u32 | (T::LOG2_BYTES << 8),
            addresses: [crate::GpuPtr::new(0).stride(0); 3],
            value: 0,
            compare: 0,
            lanes: in_range("the number of lanes", lanes.0.into(), 1, LANES_MAX)?,
            length: 1,
            steps: 0,
            node: NodeLayout { next: 0, value: 0 },
        })
    }

    #[must_use]
    pub(crate) fn address(mut self, which: Address, at: Strided) -> Self {
        let [a, b, r] = &mut self.addresses;
        match which {
            Address::A => *a = at,
            Address::B => *b = at,
            Address::R => *r = at,
        }
        self
    }

    #[must_use]
    pub(crate) fn results<T>(self, results: Option<*mut T>) -> Self {
        let Some(first) = results else { return self };
        let mut launch = self.address(Address::R, Strided::packed(first));
        launch.op |= LAUNCH_RESULT;
        launch
    }

    #[must_use]
    pub(crate) fn value(mut self, value: u64, source: Source) -> Self {
        self.value = value;
        if source == Source::ValuePlusLane {
            self.op |= LAUNCH_ADD_LANE;
        }
        self
    }

    #[must_use]
    pub(crate) fn compare(mut self, compare: u64) -> Self {
        self.compare = compare;
        self
    }

    pub(crate) fn length(mut self, bytes: u64) -> Result<Self> {
        self.length = in_range("the length per lane", bytes, 1, LENGTH_MAX)?;
        Ok(self)
    }

    #[must_use]
    pub(crate) fn chase(mut self, node: NodeLayout, steps: u32) -> Self {
        self.node = node;
        self.steps = steps;
        self
    }

    /// Appends the methods. All parameters are sent each time, so a launch does not depend on the ones before it.
    pub(crate) fn encode(&self, push: &mut PushBuffer) {
        let [a, b, r] = self.addresses;
        let operands = [
            a.base.addr(),
            b.base.addr(),
            r.base.addr(),
            self.value,
            self.compare,
        ];
        let words = operands.map(|operand| [(operand >> 32) as u32, operand as u32]);
        push.methods(COMPUTE, OPERANDS, words.as_flattened());
        push.methods(
            COMPUTE,
            SHAPE,
            &[
                a.stride,
                b.stride,
                r.stride,
                self.lanes,
                self.length,
                self.steps,
                self.node.next,
                self.node.value,
            ],
        );
        push.methods(COMPUTE, LAUNCH, &[self.op]);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{
        Announce, Atomic, Chase, Chased, Compare, CopyBytes, Error, Fill, GpuPtr, Load, Operation,
        Store,
    };

    // LAUNCH words below: 3:0 operation, 9:8 log2 of the element's bytes, 12 results, 13 plus lane.

    /// What the device sees: the last value of each method. Walks the headers as the device does.
    fn methods(operation: &impl Operation, lanes: u32) -> BTreeMap<u16, u32> {
        let mut push = PushBuffer::new();
        push.launch(operation, Lanes(lanes))
            .expect("parameters are in range");
        let mut words = push.words().iter();
        let mut seen = BTreeMap::new();
        while let Some(header) = words.next() {
            assert_eq!(
                (header >> 29, (header >> 13) & 7),
                (1, 1),
                "incrementing methods of subchannel 1"
            );
            let (count, first) = ((header >> 16) & 0x1fff, (header & 0xfff) as u16 * 4);
            for i in 0..count as u16 {
                seen.insert(
                    first + 4 * i,
                    *words.next().expect("as many words as the header says"),
                );
            }
        }
        seen
    }

    const A: Strided = GpuPtr::new(0x7f12_3456_7000).stride(64);
    const B: Strided = GpuPtr::new(0x5500_0000_0010).stride(4096);

    #[test]
    fn a_store_sends_address_stride_value_and_element_size() {
        let m = methods(&Store::new(A, 0x1122_3344_5566_7788_u64).plus_lane(), 1000);
        assert_eq!((m[&0x200], m[&0x204], m[&0x230]), (0x7f12, 0x3456_7000, 64));
        assert_eq!(
            (m[&0x218], m[&0x21c], m[&0x23c]),
            (0x1122_3344, 0x5566_7788, 1000)
        );
        assert_eq!(m[&0x300], 0x2301);
    }

    #[test]
    fn a_load_without_results_does_not_set_the_result_bit() {
        assert_eq!(methods(&Load::<u16>::new(A), 1)[&0x300], 0x0102);
    }

    #[test]
    fn results_are_packed_elements_at_r() {
        let m = methods(&Load::new(A).results(0x7000_0000_1000 as *mut u32), 1);
        assert_eq!((m[&0x210], m[&0x214], m[&0x238]), (0x7000, 0x1000, 4));
        assert_eq!(m[&0x300], 0x1202);
    }

    #[test]
    fn a_fill_sends_its_length_in_bytes_per_lane() {
        let m = methods(&Fill::new(A, 0xab_u8, 1 << 31), 2);
        assert_eq!((m[&0x240], m[&0x21c], m[&0x300]), (1 << 31, 0xab, 3));
    }

    #[test]
    fn a_copy_goes_from_b_to_a() {
        let m = methods(&CopyBytes::new(A, B, 100), 1);
        assert_eq!(
            (m[&0x204], m[&0x20c], m[&0x234], m[&0x300]),
            (0x3456_7000, 0x10, 4096, 4)
        );
    }

    #[test]
    fn a_compare_always_has_results_of_eight_bytes() {
        let m = methods(&Compare::new(A, B, 8, 0x1000 as *mut u64), 1);
        assert_eq!((m[&0x238], m[&0x300]), (8, 0x1005));
    }

    #[test]
    fn atomics_differ_in_operation_and_operands_only() {
        assert_eq!(methods(&Atomic::add(A, 1_u32), 1)[&0x300], 0x0206);
        assert_eq!(methods(&Atomic::exchange(A, 1_u64), 1)[&0x300], 0x0307);
        let m = methods(&Atomic::compare_and_swap(A, 5_u64, 9), 1);
        assert_eq!((m[&0x21c], m[&0x224], m[&0x300]), (9, 5, 0x0308));
    }

    #[test]
    fn a_chase_sends_where_the_pointer_and_the_value_of_a_node_are() {
        let chase = Chase::new(A, NodeLayout { next: 8, value: 24 })
            .adding(3)
            .steps(77)
            .results(0x1000 as *mut Chased);
        let m = methods(&chase, 5);
        assert_eq!(
            (m[&0x244], m[&0x248], m[&0x24c], m[&0x21c], m[&0x238]),
            (77, 8, 24, 3, 24)
        );
        assert_eq!(m[&0x300], 0x1309);
    }

    #[test]
    fn an_announcement_sends_address_and_stride_only() {
        let m = methods(&Announce::new(B), 7);
        assert_eq!(
            (m[&0x204], m[&0x230], m[&0x23c], m[&0x300]),
            (0x10, 4096, 7, 10)
        );
    }

    #[test]
    fn parameters_that_the_device_would_refuse_are_errors() {
        let lanes = |n| Load::<u8>::new(A).launch(Lanes(n)).map(drop);
        assert!(matches!(lanes(0), Err(Error::Range { min: 1, .. })));
        assert!(lanes(1 << 24).is_ok());
        assert!(matches!(lanes((1 << 24) + 1), Err(Error::Range { .. })));
        let length = |n| Fill::new(A, 0_u8, n).launch(Lanes(1)).map(drop);
        assert!(matches!(length(0), Err(Error::Range { .. })));
        assert!(matches!(length((1 << 31) + 1), Err(Error::Range { .. })));
    }
}
