// SPDX-License-Identifier: MIT OR Apache-2.0
//! Serves the virtual GPU over vfio-user.
fn main() {}
