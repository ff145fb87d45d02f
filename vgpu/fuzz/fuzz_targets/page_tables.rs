// SPDX-License-Identifier: MIT OR Apache-2.0
#![no_main]

#[path = "../harness/mod.rs"]
#[allow(dead_code)]
mod harness;

libfuzzer_sys::fuzz_target!(|data: &[u8]| harness::page_tables::run(data));
