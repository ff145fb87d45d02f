// SPDX-License-Identifier: MIT OR Apache-2.0
//! The fuzz targets. One library for all of them, so that each program links what it needs and nothing in it is unused.

#[path = "../harness/mod.rs"]
mod harness;

/// Register and configuration accesses, and RAM that comes and goes.
pub fn registers(data: &[u8]) {
    harness::registers::run(data);
}

/// Page tables, walked while they are invalidated.
pub fn page_tables(data: &[u8]) {
    harness::page_tables::run(data);
}

/// Push buffers, GP entries and instance blocks.
pub fn push_buffers(data: &[u8]) {
    harness::push_buffers::run(data);
}

/// Fault buffers that come and go while faults come in.
pub fn fault_buffers(data: &[u8]) {
    harness::fault_buffers::run(data);
}
