// SPDX-License-Identifier: MIT OR Apache-2.0
//! Printing.

use std::time::Duration;

use crate::output::{grouped, say};
use crate::Outcome;

/// A line of the table.
pub(crate) enum Row {
    /// A heading.
    Title(&'static str),
    /// Something and how often it happened.
    Count(&'static str, u64),
}

impl Row {
    pub(crate) fn title(title: &'static str) -> Self {
        Row::Title(title)
    }

    pub(crate) fn new(what: &'static str, count: u64) -> Self {
        Row::Count(what, count)
    }
}

/// Prints rows and the time that they took.
pub(crate) fn rows(rows: &[Row], time: Duration) -> Outcome<()> {
    for row in rows {
        match row {
            Row::Title(title) => say!("{title}"),
            Row::Count(what, count) => say!("  {what:<50}{:>14}", grouped(*count)),
        }
    }
    say!("Time{:>60.1} s\n", time.as_secs_f32());
    Ok(())
}
