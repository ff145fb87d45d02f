// SPDX-License-Identifier: MIT OR Apache-2.0
//! Writing: to standard output, where a closed pipe is an error like others and not a panic.

use std::io::{self, Write};
use std::time::Duration;

use serde::Serialize;

use crate::Outcome;

/// Writes a line to standard output, or returns the error.
macro_rules! say {
    ($($text:tt)*) => {
        std::io::Write::write_fmt(&mut std::io::stdout().lock(), format_args!("{}\n", format_args!($($text)*)))?
    };
}
pub(crate) use say;

/// Writes a value as one line of JSON.
pub(crate) fn json(value: &impl Serialize) -> Outcome<()> {
    let mut out = io::stdout().lock();
    // Not to_writer: its error would hide a closed pipe.
    let line = serde_json::to_string(value)?;
    out.write_all(line.as_bytes())?;
    out.write_all(b"\n")?;
    Ok(out.flush()?)
}

/// Rows below a heading, each column as wide as it must be; the first `left` columns are aligned to the left, and the last one.
pub(crate) fn table(heading: &[&str], rows: &[Vec<String>], left: usize) -> Outcome<()> {
    let columns = heading.len();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        let widest = cells.map(|cell| cell.chars().count()).max();
        widest.unwrap_or(0).max(heading[column].len())
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |cells: Vec<&str>| {
        let padded = cells
            .iter()
            .zip(&widths)
            .enumerate()
            .map(|(i, (cell, width))| {
                if i < left || i + 1 == columns {
                    format!("{cell:<width$}")
                } else {
                    format!("{cell:>width$}")
                }
            });
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    say!("{}", line(heading.to_vec()));
    for row in rows {
        say!("{}", line(row.iter().map(String::as_str).collect()));
    }
    Ok(())
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

/// A size in the largest unit that loses nothing.
pub(crate) fn size(bytes: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    let fits = |&&(shift, _): &&(u32, &str)| bytes != 0 && bytes.trailing_zeros() >= shift;
    match units.iter().find(fits) {
        Some((shift, unit)) => format!("{} {unit}", bytes >> shift),
        None => format!("{bytes} B"),
    }
}

/// A moment of CLOCK_MONOTONIC, as the kernel's log has it.
pub(crate) fn moment(time: Duration) -> String {
    format!("{}.{:06}", time.as_secs(), time.subsec_micros())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_apart() {
        assert_eq!(
            [0, 999, 1000, 1_048_576].map(grouped),
            ["0", "999", "1,000", "1,048,576"]
        );
    }

    #[test]
    fn sizes_lose_nothing() {
        assert_eq!(
            [0, 1, 4096, 3 << 20, (3 << 20) + 1, 1 << 30].map(size),
            ["0 B", "1 B", "4 KiB", "3 MiB", "3145729 B", "1 GiB"]
        );
    }

    #[test]
    fn moments_look_as_in_the_kernel_log() {
        assert_eq!(moment(Duration::from_nanos(12_000_034_567)), "12.000034");
    }
}
