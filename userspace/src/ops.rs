// SPDX-License-Identifier: MIT OR Apache-2.0
//! The operations of the compute class (docs/vgpu.md), one type each.
//!
//! An operation says what one lane does; [`Channel::launch`](crate::Channel::launch) runs it over many.

use std::mem::offset_of;

use crate::error::{Error, Result};
use crate::launch::{Address, Launch, OpCode, Source};
use crate::ptr::{GpuPtr, Strided};

/// Number of lanes of a launch: 1 to 2^24.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lanes(pub u32);

/// `n` lanes.
pub const fn lanes(n: u32) -> Lanes {
    Lanes(n)
}

/// Something that can be launched.
pub trait Operation {
    /// The operation over `lanes` lanes, in the device's terms.
    ///
    /// Errors: [`Error::Range`] for a parameter that the device would refuse.
    fn launch(&self, lanes: Lanes) -> Result<Launch>;
}

/// Types that lanes can load and store.
pub trait Element: Copy + sealed::Element {}
/// Types that the GPU has atomics for.
pub trait AtomicElement: Element {}

mod sealed {
    pub trait Element {
        const LOG2_BYTES: u32;
        fn bits(self) -> u64;
    }
}

macro_rules! elements {
    ($($type:ty),*) => {$(
        impl sealed::Element for $type {
            const LOG2_BYTES: u32 = size_of::<$type>().trailing_zeros();
            fn bits(self) -> u64 {
                u64::from(self)
            }
        }
        impl Element for $type {}
    )*};
}
elements!(u8, u16, u32, u64);
impl AtomicElement for u32 {}
impl AtomicElement for u64 {}

/// Lane i: `*(at + i * stride) = value`
#[derive(Clone, Copy, Debug)]
pub struct Store<T> {
    at: Strided,
    value: T,
    source: Source,
}

impl<T: Element> Store<T> {
    /// Stores `value` in every lane.
    pub fn new(at: Strided, value: T) -> Self {
        Store {
            at,
            value,
            source: Source::Value,
        }
    }

    /// Stores `value` plus the number of the lane instead.
    #[must_use]
    pub fn plus_lane(mut self) -> Self {
        self.source = Source::ValuePlusLane;
        self
    }
}

impl<T: Element> Operation for Store<T> {
    fn launch(&self, lanes: Lanes) -> Result<Launch> {
        let launch = Launch::new::<T>(OpCode::Store, lanes)?;
        Ok(launch
            .address(Address::A, self.at)
            .value(self.value.bits(), self.source))
    }
}

/// Lane i reads `*(at + i * stride)`
#[derive(Clone, Copy, Debug)]
pub struct Load<T> {
    at: Strided,
    results: Option<*mut T>,
}

impl<T: Element> Load<T> {
    /// Reads, and drops what was read.
    pub fn new(at: Strided) -> Self {
        Load { at, results: None }
    }

    /// Writes what lane i read to `results[i]`.
    #[must_use]
    pub fn results(mut self, results: *mut T) -> Self {
        self.results = Some(results);
        self
    }
}

impl<T: Element> Operation for Load<T> {
    fn launch(&self, lanes: Lanes) -> Result<Launch> {
        Ok(Launch::new::<T>(OpCode::Load, lanes)?
            .address(Address::A, self.at)
            .results(self.results))
    }
}

/// Lane i fills `length` bytes at `at + i * stride` with copies of `value`
#[derive(Clone, Copy, Debug)]
pub struct Fill<T> {
    at: Strided,
    value: T,
    length: u64,
}

impl<T: Element> Fill<T> {
    /// `length` is in bytes per lane: 1 to 2^31.
    pub fn new(at: Strided, value: T, length: u64) -> Self {
        Fill { at, value, length }
    }
}

impl<T: Element> Operation for Fill<T> {
    fn launch(&self, lanes: Lanes) -> Result<Launch> {
        let launch = Launch::new::<T>(OpCode::Fill, lanes)?.length(self.length)?;
        Ok(launch
            .address(Address::A, self.at)
            .value(self.value.bits(), Source::Value))
    }
}

/// Lane i copies `length` bytes from `from + i * stride` to `to + i * stride`
#[derive(Clone, Copy, Debug)]
pub struct CopyBytes {
    to: Strided,
    from: Strided,
    length: u64,
}

impl CopyBytes {
    /// `length` is in bytes per lane: 1 to 2^31.
    pub fn new(to: Strided, from: Strided, length: u64) -> Self {
        CopyBytes { to, from, length }
    }
}

impl Operation for CopyBytes {
    fn launch(&self, lanes: Lanes) -> Result<Launch> {
        let launch = Launch::new::<u8>(OpCode::Copy, lanes)?.length(self.length)?;
        Ok(launch
            .address(Address::A, self.to)
            .address(Address::B, self.from))
    }
}

/// Lane i compares `length` bytes at two places and writes the offset of the first difference to its result
#[derive(Clone, Copy, Debug)]
pub struct Compare {
    left: Strided,
    right: Strided,
    length: u64,
    results: *mut u64,
}

impl Compare {
    /// The result when there is no difference.
    pub const EQUAL: u64 = u64::MAX;

    /// `length` is in bytes per lane: 1 to 2^31.
    pub fn new(left: Strided, right: Strided, length: u64, results: *mut u64) -> Self {
        Compare {
            left,
            right,
            length,
            results,
        }
    }
}

impl Operation for Compare {
    fn launch(&self, lanes: Lanes) -> Result<Launch> {
        let launch = Launch::new::<u8>(OpCode::Compare, lanes)?.length(self.length)?;
        Ok(launch
            .address(Address::A, self.left)
            .address(Address::B, self.right)
            .results(Some(self.results)))
    }
}

/// Lane i does a read-modify-write of `*(at + i * stride)` that is atomic for the CPU too
#[derive(Clone, Copy, Debug)]
pub struct Atomic<T> {
    at: Strided,
    kind: AtomicKind<T>,
    source: Source,
    results: Option<*mut T>,
}

#[derive(Clone, Copy, Debug)]
enum AtomicKind<T> {
    Add(T),
    Exchange(T),
    CompareAndSwap { compare: T, swap: T },
}

impl<T: AtomicElement> Atomic<T> {
    /// Adds `value`, wrapping.
    pub fn add(at: Strided, value: T) -> Self {
        Self::new(at, AtomicKind::Add(value))
    }

    /// Writes `value`.
    pub fn exchange(at: Strided, value: T) -> Self {
        Self::new(at, AtomicKind::Exchange(value))
    }

    /// Writes `swap` where it finds `compare`.
    pub fn compare_and_swap(at: Strided, compare: T, swap: T) -> Self {
        Self::new(at, AtomicKind::CompareAndSwap { compare, swap })
    }

    fn new(at: Strided, kind: AtomicKind<T>) -> Self {
        Atomic {
            at,
            kind,
            source: Source::Value,
            results: None,
        }
    }

    /// Uses the operand plus the number of the lane instead of the operand.
    #[must_use]
    pub fn plus_lane(mut self) -> Self {
        self.source = Source::ValuePlusLane;
        self
    }

    /// Writes what lane i found to `results[i]`.
    #[must_use]
    pub fn results(mut self, results: *mut T) -> Self {
        self.results = Some(results);
        self
    }
}

impl<T: AtomicElement> Operation for Atomic<T> {
    fn launch(&self, lanes: Lanes) -> Result<Launch> {
        let (op, value, compare) = match self.kind {
            AtomicKind::Add(value) => (OpCode::AtomicAdd, value.bits(), 0),
            AtomicKind::Exchange(value) => (OpCode::AtomicExchange, value.bits(), 0),
            AtomicKind::CompareAndSwap { compare, swap } => {
                (OpCode::AtomicCas, swap.bits(), compare.bits())
            }
        };
        let launch = Launch::new::<T>(op, lanes)?
            .address(Address::A, self.at)
            .value(value, self.source);
        Ok(launch.compare(compare).results(self.results))
    }
}

/// Where a chase finds its way in a node, in bytes from the node's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeLayout {
    /// Of the pointer to the next node; null ends the chain.
    pub next: u32,
    /// Of the 64-bit value that is added to.
    pub value: u32,
}

/// What a lane of a chase found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct Chased {
    /// Nodes that were visited.
    pub nodes: u64,
    /// Sum of their values before the chase, wrapping.
    pub sum: u64,
    /// Pointer that was not followed any more: 0 at the end of the chain.
    pub last: u64,
}

/// Lane i follows the chain that starts in the pointer at `heads + i * stride`, and adds to the value of each node
#[derive(Clone, Copy, Debug)]
pub struct Chase {
    heads: Strided,
    node: NodeLayout,
    add: u64,
    steps: u32,
    results: Option<*mut Chased>,
}

impl Chase {
    /// Follows every chain to its end and adds 0.
    pub fn new(heads: Strided, node: NodeLayout) -> Self {
        Chase {
            heads,
            node,
            add: 0,
            steps: 0,
            results: None,
        }
    }

    /// Adds `value` to each node, atomically and wrapping.
    #[must_use]
    pub fn adding(mut self, value: u64) -> Self {
        self.add = value;
        self
    }

    /// Visits at most `steps` nodes per lane; 0 stands for 2^32 - 1.
    #[must_use]
    pub fn steps(mut self, steps: u32) -> Self {
        self.steps = steps;
        self
    }

    /// Writes what lane i found to `results[i]`.
    #[must_use]
    pub fn results(mut self, results: *mut Chased) -> Self {
        self.results = Some(results);
        self
    }
}

impl Operation for Chase {
    fn launch(&self, lanes: Lanes) -> Result<Launch> {
        let launch = Launch::new::<u64>(OpCode::Chase, lanes)?.address(Address::A, self.heads);
        Ok(launch
            .value(self.add, Source::Value)
            .chase(self.node, self.steps)
            .results(self.results))
    }
}

/// Lane i announces that `at + i * stride` is going to be used, without waiting for it
///
/// A hint: the device may ignore it, and drops what it cannot have.
#[derive(Clone, Copy, Debug)]
pub struct Announce {
    at: Strided,
}

impl Announce {
    /// Announces one address per lane.
    pub fn new(at: Strided) -> Self {
        Announce { at }
    }
}

impl Operation for Announce {
    fn launch(&self, lanes: Lanes) -> Result<Launch> {
        Ok(Launch::new::<u8>(OpCode::Prefetch, lanes)?.address(Address::A, self.at))
    }
}

/// The bytes of results of a chase lie where the device writes them.
const _: () = assert!(
    offset_of!(Chased, sum) == 8 && offset_of!(Chased, last) == 16 && size_of::<Chased>() == 24
);

pub(crate) fn in_range(what: &'static str, value: u64, min: u64, max: u64) -> Result<u32> {
    match u32::try_from(value) {
        Ok(word) if (min..=max).contains(&value) => Ok(word),
        _ => Err(Error::Range {
            what,
            value,
            min,
            max,
        }),
    }
}

/// A single address for all lanes.
impl From<GpuPtr> for Strided {
    fn from(base: GpuPtr) -> Self {
        base.stride(0)
    }
}
