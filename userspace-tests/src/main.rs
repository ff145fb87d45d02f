// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guest tests.
fn main() {}
