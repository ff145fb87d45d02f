// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory of the C allocator, as words that the GPU may change at any time.

use std::sync::atomic::{AtomicU64, Ordering};

use mirage::GpuPtr;

use super::WORD;

/// An allocation of words, all 0. The allocator does not touch memory that is new.
///
/// # Invariants
/// `words` points to `len` words, which this value owns.
#[derive(Debug)]
pub(crate) struct Heap {
    words: *mut u64,
    len: usize,
}

// SAFETY: an allocation belongs to the process, not to a thread.
unsafe impl Send for Heap {}

impl Heap {
    /// `len` bytes, a multiple of a word.
    pub(crate) fn new(len: usize) -> Self {
        let words = vec![0_u64; len / WORD].into_boxed_slice();
        let len = words.len();
        Heap {
            words: Box::into_raw(words).cast(),
            len,
        }
    }

    pub(crate) fn at(&self, offset: usize) -> GpuPtr {
        GpuPtr::from(self.words).offset(offset as u64)
    }

    fn word(&self, offset: usize) -> &AtomicU64 {
        let index = offset / WORD;
        assert!(
            offset % WORD == 0 && index < self.len,
            "no word at {offset:#x}"
        );
        let word = self.words.wrapping_add(index);
        // SAFETY: aligned and inside the allocation by the check above; all accesses are atomic, the GPU's too.
        unsafe { AtomicU64::from_ptr(word) }
    }

    pub(crate) fn load(&self, offset: usize) -> u64 {
        self.word(offset).load(Ordering::Acquire)
    }

    pub(crate) fn store(&self, offset: usize, value: u64) {
        self.word(offset).store(value, Ordering::Release);
    }
}

impl Drop for Heap {
    fn drop(&mut self) {
        let words = std::ptr::slice_from_raw_parts_mut(self.words, self.len);
        // SAFETY: made by `Box::into_raw` of a slice of this length, and nothing borrows from it.
        drop(unsafe { Box::from_raw(words) });
    }
}
