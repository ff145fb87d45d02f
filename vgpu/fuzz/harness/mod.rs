// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the fuzz targets do with their bytes. `tests/fuzz_corpus.rs` does the same with those that are kept.
//!
//! Nothing here may depend on time or chance, but for how the device's threads interleave.

pub(crate) mod fault_buffers;
pub(crate) mod guest;
pub(crate) mod input;
pub(crate) mod page_tables;
pub(crate) mod push_buffers;
pub(crate) mod registers;
