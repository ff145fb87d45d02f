// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the process logs, bounded: a guest can bring about most messages as often as it likes, and must not fill the
//! host's disk with them.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use log::{Level, Log, Metadata, Record};

/// Messages of one place in the code that are passed on.
const MOST: u32 = 1000;

/// A place in the code.
type Place = (Option<&'static str>, Option<u32>);

/// A logger that passes on the first messages of each place. Those for debugging are not bounded: they come only where
/// somebody asks for them.
pub(crate) struct Bounded<L> {
    inner: L,
    seen: Mutex<BTreeMap<Place, u32>>,
}

impl<L: Log> Bounded<L> {
    pub(crate) fn new(inner: L) -> Self {
        let seen = Mutex::default();
        Self { inner, seen }
    }

    /// Which message of its place this is, from 0.
    fn count(&self, record: &Record<'_>) -> u32 {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let place = (record.file_static(), record.line());
        let count = seen.entry(place).or_default();
        let this = *count;
        *count = this.saturating_add(1);
        this
    }

    /// Says once that there will be no more of these.
    fn announce(&self, record: &Record<'_>) {
        self.inner.log(
            &Record::builder()
                .metadata(record.metadata().clone())
                .module_path(record.module_path())
                .file(record.file())
                .line(record.line())
                .args(format_args!(
                    "{} (more of this kind are not logged)",
                    record.args()
                ))
                .build(),
        );
    }
}

impl<L: Log> Log for Bounded<L> {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.inner.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        if record.level() > Level::Info {
            return self.inner.log(record);
        }
        match self.count(record).cmp(&(MOST - 1)) {
            std::cmp::Ordering::Less => self.inner.log(record),
            std::cmp::Ordering::Equal => self.announce(record),
            std::cmp::Ordering::Greater => {}
        }
    }

    fn flush(&self) {
        self.inner.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Kept(Mutex<Vec<String>>);

    impl Log for Kept {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }

        fn log(&self, record: &Record<'_>) {
            self.0.lock().unwrap().push(record.args().to_string());
        }

        fn flush(&self) {}
    }

    fn log_many(logger: &Bounded<Kept>, level: Level, line: u32) -> Vec<String> {
        for number in 0..MOST * 2 {
            logger.log(
                &Record::builder()
                    .level(level)
                    .file_static(Some("file"))
                    .line(Some(line))
                    .args(format_args!("message {number}"))
                    .build(),
            );
        }
        std::mem::take(&mut logger.inner.0.lock().unwrap())
    }

    #[test]
    fn each_place_has_so_many_messages_and_the_last_says_so() {
        let logger = Bounded::new(Kept::default());
        for line in [1, 2] {
            let kept = log_many(&logger, Level::Warn, line);
            assert_eq!(kept.len(), MOST as usize);
            assert!(kept
                .iter()
                .zip(0..)
                .all(|(message, i)| message.starts_with(&format!("message {i}"))));
            assert!(kept[kept.len() - 1].contains("not logged"), "{kept:?}");
        }
        assert_eq!(log_many(&logger, Level::Warn, 1), [""; 0]);
    }

    #[test]
    fn messages_for_debugging_are_all_passed_on() {
        let logger = Bounded::new(Kept::default());
        assert_eq!(log_many(&logger, Level::Debug, 1).len(), 2 * MOST as usize);
    }
}
