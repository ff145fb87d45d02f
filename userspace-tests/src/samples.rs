// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tests of nothing, one for each way to end. They exist where `MIRAGE_TEST_SAMPLES` is set, for those who test the testing.

use std::time::Duration;

use anyhow::{bail, Result};

use crate::harness::{guest_tests, skip};

guest_tests![passes, skips, fails, panics, hangs];

fn passes() -> Result<()> {
    Ok(())
}

fn skips() -> Result<()> {
    skip("as a sample")
}

fn fails() -> Result<()> {
    bail!("failed as a sample")
}

fn panics() -> Result<()> {
    panic!("panicked as a sample")
}

fn hangs() -> Result<()> {
    loop {
        std::thread::sleep(Duration::from_secs(1));
    }
}
