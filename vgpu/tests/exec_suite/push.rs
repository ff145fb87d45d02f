// SPDX-License-Identifier: MIT OR Apache-2.0
//! Push buffers: host's methods and launches of the compute class.

pub(crate) const RELEASE_WFI: u32 = 1 << 20;

/// Methods from `first` on, INC.
pub(crate) fn methods(subchannel: u32, first: u32, data: &[u32]) -> Vec<u32> {
    let header = (1 << 29) | ((data.len() as u32) << 16) | (subchannel << 13) | (first >> 2);
    std::iter::once(header)
        .chain(data.iter().copied())
        .collect()
}

/// A semaphore operation; `flags` go into SEM_EXECUTE.
pub(crate) fn semaphore(va: u64, payload: u64, execute: u32) -> Vec<u32> {
    let halves = |value: u64| [value as u32, (value >> 32) as u32];
    let ([lo, hi], [payload_lo, payload_hi]) = (halves(va), halves(payload));
    methods(0, 0x5c, &[lo, hi, payload_lo, payload_hi, execute])
}

pub(crate) fn release(va: u64, payload: u32, flags: u32) -> Vec<u32> {
    semaphore(va, payload.into(), 1 | flags)
}

/// A launch of the compute class.
#[derive(Clone, Debug, Default)]
pub(crate) struct Launch {
    pub(crate) op: u32,
    pub(crate) size: u32,
    pub(crate) flags: u32,
    pub(crate) a: u64,
    pub(crate) b: u64,
    pub(crate) r: u64,
    pub(crate) value: u64,
    pub(crate) compare: u64,
    pub(crate) stride_a: u32,
    pub(crate) stride_b: u32,
    pub(crate) stride_r: u32,
    pub(crate) lanes: u32,
    pub(crate) length: u32,
    pub(crate) steps: u32,
    pub(crate) next_offset: u32,
    pub(crate) value_offset: u32,
}

pub(crate) const RESULT: u32 = 1 << 12;
pub(crate) const ADD_LANE: u32 = 1 << 13;
pub(crate) const STORE: u32 = 1;
pub(crate) const LOAD: u32 = 2;
pub(crate) const FILL: u32 = 3;
pub(crate) const COPY: u32 = 4;
pub(crate) const COMPARE: u32 = 5;
pub(crate) const ATOMIC_ADD: u32 = 6;
pub(crate) const ATOMIC_EXCH: u32 = 7;
pub(crate) const ATOMIC_CAS: u32 = 8;
pub(crate) const CHASE: u32 = 9;

impl Launch {
    /// The push buffer, the class's binding included.
    pub(crate) fn words(&self) -> Vec<u32> {
        let upper = |value: u64| (value >> 32) as u32;
        let operands = [self.a, self.b, self.r, self.value, self.compare];
        let operands: Vec<u32> = operands
            .iter()
            .flat_map(|value| [upper(*value), *value as u32])
            .collect();
        let rest = [
            self.stride_a,
            self.stride_b,
            self.stride_r,
            self.lanes,
            self.length,
            self.steps,
            self.next_offset,
            self.value_offset,
        ];
        let mut words = methods(1, 0, &[0xfec0]);
        words.extend(methods(1, 0x200, &operands));
        words.extend(methods(1, 0x230, &rest));
        words.extend(methods(
            1,
            0x300,
            &[self.op | (self.size << 8) | self.flags],
        ));
        words
    }
}
