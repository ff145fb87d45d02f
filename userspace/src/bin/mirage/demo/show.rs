// SPDX-License-Identifier: MIT OR Apache-2.0
//! Printing.

use std::time::Duration;

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
pub(crate) fn rows(rows: &[Row], time: Duration) {
    for row in rows {
        match row {
            Row::Title(title) => println!("{title}"),
            Row::Count(what, count) => println!("  {what:<50}{:>14}", grouped(*count)),
        }
    }
    println!("Time{:>60.1} s\n", time.as_secs_f32());
}

/// A number with its thousands apart.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::grouped;

    #[test]
    fn thousands_are_apart() {
        assert_eq!(
            [0, 999, 1000, 1_048_576].map(grouped),
            ["0", "999", "1,000", "1,048,576"]
        );
    }
}
