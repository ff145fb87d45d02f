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
pub(crate) const PREFETCH: u32 = 10;

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

/// A store of 8 bytes by one lane.
pub(crate) fn store(va: u64, value: u64) -> Launch {
    Launch {
        op: STORE,
        size: 3,
        a: va,
        value,
        lanes: 1,
        ..Default::default()
    }
}

/// A launch of the copy class.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Dma {
    /// LAUNCH_DMA.
    pub(crate) launch: u32,
    pub(crate) src: u64,
    pub(crate) dst: u64,
    pub(crate) pitch_in: u32,
    pub(crate) pitch_out: u32,
    pub(crate) length: u32,
    pub(crate) count: u32,
    pub(crate) semaphore: u64,
    pub(crate) payload: u32,
    pub(crate) phys_modes: [u32; 2],
    pub(crate) constants: [u32; 2],
    pub(crate) components: u32,
}

/// Pitch on both sides, not pipelined.
pub(crate) const TRANSFER: u32 = 2 | (1 << 7) | (1 << 8);
pub(crate) const FLUSH: u32 = 1 << 2;
pub(crate) const ONE_WORD: u32 = 1 << 3;
pub(crate) const FOUR_WORDS: u32 = 2 << 3;
pub(crate) const BLOCKING: u32 = 1 << 5;
pub(crate) const NON_BLOCKING: u32 = 2 << 5;
pub(crate) const MULTI_LINE: u32 = 1 << 9;
pub(crate) const REMAP: u32 = 1 << 10;
pub(crate) const SRC_PHYSICAL: u32 = 1 << 12;
pub(crate) const DST_PHYSICAL: u32 = 1 << 13;

impl Dma {
    /// The push buffer, the class's binding included.
    pub(crate) fn words(&self) -> Vec<u32> {
        let upper = |value: u64| (value >> 32) as u32;
        let mut words = methods(4, 0, &[0xc3b5]);
        let semaphore = [upper(self.semaphore), self.semaphore as u32, self.payload];
        words.extend(methods(4, 0x240, &semaphore));
        words.extend(methods(4, 0x260, &self.phys_modes));
        let operands = [
            upper(self.src),
            self.src as u32,
            upper(self.dst),
            self.dst as u32,
            self.pitch_in,
            self.pitch_out,
            self.length,
            self.count,
        ];
        words.extend(methods(4, 0x400, &operands));
        let remap = [self.constants[0], self.constants[1], self.components];
        words.extend(methods(4, 0x700, &remap));
        words.extend(methods(4, 0x300, &[self.launch]));
        words
    }
}
