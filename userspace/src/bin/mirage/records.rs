// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lines of `key=value` words, as the driver writes them to debugfs and to the trace.

use std::path::Path;

use crate::Outcome;

/// The words of a line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record<'a>(&'a str);

impl<'a> Record<'a> {
    pub(crate) fn new(line: &'a str) -> Self {
        Record(line)
    }

    /// The value of `key`. The name of a process is the last word, because it may have spaces in it.
    pub(crate) fn text(self, key: &str) -> Option<&'a str> {
        if key == COMM {
            return self.0.split_once(COMM_WORD).map(|(_, name)| name);
        }
        let words = self.0.split(COMM_WORD).next()?.split_ascii_whitespace();
        let mut pairs = words.filter_map(|word| word.split_once('='));
        pairs.find_map(|(known, value)| (known == key).then_some(value))
    }

    /// The value of `key`, a number; with 0x, a hexadecimal one.
    pub(crate) fn number(self, key: &str) -> Option<u64> {
        number(self.text(key)?)
    }

    /// All words that are not the name of a process.
    pub(crate) fn pairs(self) -> impl Iterator<Item = (&'a str, &'a str)> {
        let words = self.0.split(COMM_WORD).next().unwrap_or_default();
        words
            .split_ascii_whitespace()
            .filter_map(|word| word.split_once('='))
    }
}

/// Key of the name of a process.
pub(crate) const COMM: &str = "comm";
const COMM_WORD: &str = "comm=";

/// A number, or with 0x a hexadecimal one.
pub(crate) fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

/// `start-end`
pub(crate) fn range(text: &str) -> Option<(u64, u64)> {
    let (start, end) = text.split_once('-')?;
    Some((number(start)?, number(end)?))
}

/// Reads a file of debugfs or tracefs; an error says what it takes.
pub(crate) fn read(path: &Path) -> Outcome<String> {
    std::fs::read_to_string(path).map_err(|error| {
        let path = path.display();
        format!("cannot read {path}: {error}. It needs root, and debugfs (mount -t debugfs none /sys/kernel/debug)").into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_found_in_any_order() {
        let record =
            Record::new("svm client=5 unmanaged=0x1000-0x2000 pid=77 new=thing comm=a b=1");
        assert_eq!(
            (record.number("pid"), record.number("client")),
            (Some(77), Some(5))
        );
        assert_eq!(
            record.text("unmanaged").and_then(range),
            Some((0x1000, 0x2000))
        );
        assert_eq!(record.text(COMM), Some("a b=1"));
        assert_eq!((record.text("b"), record.text("svm")), (None, None));
    }

    #[test]
    fn what_is_no_number_is_none() {
        assert_eq!(
            ["0x1g", "", "-1", "99999999999999999999"].map(number),
            [None; 4]
        );
        assert_eq!(range("0x1000"), None);
    }
}
