// SPDX-License-Identifier: MIT OR Apache-2.0
//! A launch: parameters that were checked, so that lanes need not.

use std::sync::Arc;

use crate::bus::{AtomicOp, GpuVa, Width};
use crate::fifo::Method;

use super::regs::LaunchData;
use super::{Refusal, Run};

/// Lanes of a warp.
pub(super) const WARP: u32 = 32;
/// Most lanes of a launch.
const MAX_LANES: u32 = 1 << 24;
/// Most bytes per lane.
const MAX_LENGTH: u32 = 1 << 31;
/// Bytes of the pointers and values of CHASE, and the alignment of 8-byte results.
const QWORD: u64 = 8;

/// Methods that set an operand, by its name in `docs/vgpu.md`.
#[derive(Clone, Debug, Default)]
pub(super) struct Parameters {
    pub(super) a: u64,
    pub(super) b: u64,
    pub(super) r: u64,
    pub(super) value: u64,
    pub(super) compare: u64,
    pub(super) stride_a: u32,
    pub(super) stride_b: u32,
    pub(super) stride_r: u32,
    pub(super) lanes: u32,
    pub(super) length: u32,
    pub(super) steps: u32,
    pub(super) next_offset: u32,
    pub(super) value_offset: u32,
}

/// OP of LAUNCH.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Store,
    Load,
    Fill,
    Copy,
    Compare,
    AtomicAdd,
    AtomicExchange,
    AtomicCompareExchange,
    Chase,
    Prefetch,
}

impl Operation {
    fn decode(op: u8) -> Option<Self> {
        Some(match op {
            1 => Self::Store,
            2 => Self::Load,
            3 => Self::Fill,
            4 => Self::Copy,
            5 => Self::Compare,
            6 => Self::AtomicAdd,
            7 => Self::AtomicExchange,
            8 => Self::AtomicCompareExchange,
            9 => Self::Chase,
            10 => Self::Prefetch,
            _ => return None,
        })
    }

    fn is_atomic(self) -> bool {
        matches!(
            self,
            Self::AtomicAdd | Self::AtomicExchange | Self::AtomicCompareExchange
        )
    }

    /// Whether it works on LENGTH bytes rather than on elements.
    pub(super) fn is_span(self) -> bool {
        matches!(self, Self::Fill | Self::Copy | Self::Compare)
    }
}

/// One launch of a run.
pub(super) struct Launch {
    pub(super) run: Arc<Run>,
    /// The LAUNCH method, for error registers.
    pub(super) method: Method,
    pub(super) operation: Operation,
    /// Element bytes: 1, 2, 4 or 8.
    pub(super) size: usize,
    /// Whether lanes write results.
    pub(super) result: bool,
    add_lane: bool,
    parameters: Parameters,
}

impl Launch {
    /// Checks the parameters against the rules of the class.
    pub(super) fn new(
        run: &Arc<Run>,
        parameters: &Parameters,
        method: Method,
    ) -> Result<Self, Refusal> {
        let data = LaunchData::from(method.data);
        let reserved =
            data.reserved_low() != 0 || data.reserved_middle() != 0 || data.reserved_high() != 0;
        let operation = Operation::decode(data.op()).filter(|_| !reserved);
        let launch = Self {
            run: Arc::clone(run),
            method,
            operation: operation.ok_or(Refusal::ClassError)?,
            size: 1 << data.size(),
            result: data.result(),
            add_lane: data.add_lane(),
            parameters: parameters.clone(),
        };
        if launch.is_valid() {
            Ok(launch)
        } else {
            Err(Refusal::ClassError)
        }
    }

    fn is_valid(&self) -> bool {
        let p = &self.parameters;
        let lanes = (1..=MAX_LANES).contains(&p.lanes);
        let length = !self.operation.is_span() || (1..=MAX_LENGTH).contains(&p.length);
        let width = !self.operation.is_atomic() || self.size >= 4;
        let result = self.operation != Operation::Compare || self.result;
        lanes && length && width && result && self.operands_aligned() && self.results_aligned()
    }

    fn operands_aligned(&self) -> bool {
        let p = &self.parameters;
        let aligned =
            |alignment: u64, values: &[u64]| values.iter().all(|value| value % alignment == 0);
        match self.operation {
            Operation::Fill | Operation::Copy | Operation::Compare | Operation::Prefetch => true,
            Operation::Chase => aligned(
                QWORD,
                &[
                    p.a,
                    p.stride_a.into(),
                    p.next_offset.into(),
                    p.value_offset.into(),
                ],
            ),
            _ => aligned(self.size as u64, &[p.a, p.stride_a.into()]),
        }
    }

    fn results_aligned(&self) -> bool {
        let p = &self.parameters;
        let alignment = match self.operation {
            _ if !self.result => return true,
            Operation::Compare | Operation::Chase => QWORD,
            _ => self.size as u64,
        };
        p.r % alignment == 0 && u64::from(p.stride_r) % alignment == 0
    }

    pub(super) fn lanes(&self) -> u32 {
        self.parameters.lanes
    }

    pub(super) fn warps(&self) -> u32 {
        self.parameters.lanes.div_ceil(WARP)
    }

    /// Bytes per lane of a span operation.
    pub(super) fn length(&self) -> u64 {
        self.parameters.length.into()
    }

    /// Most nodes that CHASE visits.
    pub(super) fn steps(&self) -> u64 {
        match self.parameters.steps {
            0 => u32::MAX.into(),
            steps => steps.into(),
        }
    }

    pub(super) fn a(&self, lane: u32, offset: u64) -> GpuVa {
        element(self.parameters.a, self.parameters.stride_a, lane, offset)
    }

    pub(super) fn b(&self, lane: u32, offset: u64) -> GpuVa {
        element(self.parameters.b, self.parameters.stride_b, lane, offset)
    }

    pub(super) fn r(&self, lane: u32, offset: u64) -> GpuVa {
        element(self.parameters.r, self.parameters.stride_r, lane, offset)
    }

    /// The value of the node at `pointer`. A sum that wraps is no address at all, so it must fault: saturate.
    pub(super) fn node_value(&self, pointer: u64) -> GpuVa {
        GpuVa(pointer.saturating_add(self.parameters.value_offset.into()))
    }

    /// The next pointer of the node at `pointer`.
    pub(super) fn node_next(&self, pointer: u64) -> GpuVa {
        GpuVa(pointer.saturating_add(self.parameters.next_offset.into()))
    }

    /// The operand VALUE of a lane.
    pub(super) fn value(&self, lane: u32) -> u64 {
        let lane = if self.add_lane { lane } else { 0 };
        self.parameters.value.wrapping_add(lane.into())
    }

    /// Width and read-modify-write of an atomic operation.
    pub(super) fn atomic(&self, lane: u32) -> (Width, AtomicOp) {
        let value = self.value(lane);
        let width = if self.size == 4 {
            Width::Bits32
        } else {
            Width::Bits64
        };
        let op = match self.operation {
            Operation::AtomicExchange => AtomicOp::Exchange(value),
            Operation::AtomicCompareExchange => AtomicOp::CompareExchange {
                compare: self.parameters.compare,
                swap: value,
            },
            _ => AtomicOp::Add(value),
        };
        (width, op)
    }
}

fn element(base: u64, stride: u32, lane: u32, offset: u64) -> GpuVa {
    let distance = u64::from(stride) * u64::from(lane);
    GpuVa(base.saturating_add(distance).saturating_add(offset))
}
