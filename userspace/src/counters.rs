// SPDX-License-Identifier: MIT OR Apache-2.0
//! The driver's counters, from debugfs.

use std::path::Path;

use crate::error::{Error, Result};

/// Counters of the driver by name, in the driver's order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    values: Vec<(String, u64)>,
}

impl Counters {
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::Counters {
            path: path.to_owned(),
            source,
        })?;
        Ok(Counters::parse(&text))
    }

    /// Takes the lines `name: value`; others are comments.
    fn parse(text: &str) -> Self {
        let line = |line: &str| {
            let (name, value) = line.split_once(':')?;
            Some((name.trim().to_owned(), value.trim().parse().ok()?))
        };
        Counters {
            values: text.lines().filter_map(line).collect(),
        }
    }

    /// The counter `name`; 0 if the driver does not have it.
    pub fn get(&self, name: &str) -> u64 {
        self.values
            .iter()
            .find(|(known, _)| known == name)
            .map_or(0, |(_, value)| *value)
    }

    /// How far each counter went since `before`.
    #[must_use]
    pub fn since(&self, before: &Counters) -> Counters {
        let moved =
            |(name, value): &(String, u64)| (name.clone(), value.saturating_sub(before.get(name)));
        Counters {
            values: self.values.iter().map(moved).collect(),
        }
    }

    /// All counters.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.values
            .iter()
            .map(|(name, value)| (name.as_str(), *value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_with_a_name_and_a_number_are_counters() {
        let counters = Counters::parse("faults: 12\n# a comment: no number\n leaves_2m:3\n\n");
        assert_eq!(
            counters.iter().collect::<Vec<_>>(),
            [("faults", 12), ("leaves_2m", 3)]
        );
        assert_eq!((counters.get("leaves_2m"), counters.get("unknown")), (3, 0));
    }

    #[test]
    fn a_difference_counts_from_the_earlier_reading() {
        let (before, after) = (
            Counters::parse("faults: 5"),
            Counters::parse("faults: 12\nbatches: 2"),
        );
        assert_eq!(
            after.since(&before),
            Counters::parse("faults: 7\nbatches: 2")
        );
    }
}
