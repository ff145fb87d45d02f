// SPDX-License-Identifier: MIT OR Apache-2.0
//! Bytes of a fuzzer as numbers and choices; zeroes behind their end.

/// The bytes that are left.
pub(crate) struct Input<'a>(pub(crate) &'a [u8]);

impl Input<'_> {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        let n = N.min(self.0.len());
        let (taken, left) = self.0.split_at(n);
        out[..n].copy_from_slice(taken);
        self.0 = left;
        out
    }

    /// A byte from the end: what is chosen there leaves the meaning of the bytes before as it is.
    pub(crate) fn last_u8(&mut self) -> u8 {
        let Some((last, rest)) = self.0.split_last() else {
            return 0;
        };
        self.0 = rest;
        *last
    }

    pub(crate) fn u8(&mut self) -> u8 {
        self.bytes::<1>()[0]
    }

    pub(crate) fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.bytes())
    }

    pub(crate) fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.bytes())
    }

    pub(crate) fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.bytes())
    }

    /// One of a few; there is at least one.
    pub(crate) fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[usize::from(self.u8()) % choices.len()]
    }
}
