// SPDX-License-Identifier: MIT OR Apache-2.0
//! Points in time that waits end at.

use std::time::{Duration, Instant};

use nix::time::{clock_gettime, ClockId};

/// When a wait gives up. A [`Duration`] counts from the call, an [`Instant`] is the same for many calls.
///
/// ```
/// use std::time::{Duration, Instant};
/// use mirage::Deadline;
///
/// let soon = Deadline::from(Duration::from_millis(10));
/// let later = Deadline::from(Instant::now() + Duration::from_secs(100));
/// assert!(soon < later && later.left() < Deadline::NEVER.left());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline {
    /// CLOCK_MONOTONIC nanoseconds, which is what DRM takes.
    nanoseconds: i64,
}

impl Deadline {
    /// A wait until the end of time.
    pub const NEVER: Self = Deadline {
        nanoseconds: i64::MAX,
    };
    /// A wait that only looks.
    pub const NOW: Self = Deadline { nanoseconds: 0 };

    /// Time until then; zero if it has passed.
    pub fn left(self) -> Duration {
        let at = Duration::from_nanos(self.nanoseconds.max(0) as u64);
        at.saturating_sub(now())
    }

    pub(crate) fn nanoseconds(self) -> i64 {
        self.nanoseconds
    }
}

impl From<Duration> for Deadline {
    fn from(timeout: Duration) -> Self {
        if timeout.is_zero() {
            return Deadline::NOW;
        }
        let at = now().saturating_add(timeout).as_nanos();
        Deadline {
            nanoseconds: i64::try_from(at).unwrap_or(i64::MAX),
        }
    }
}

impl From<Instant> for Deadline {
    fn from(at: Instant) -> Self {
        at.saturating_duration_since(Instant::now()).into()
    }
}

fn now() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map(Duration::from)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_that_no_clock_reaches_is_never() {
        assert_eq!(Deadline::from(Duration::MAX), Deadline::NEVER);
    }

    #[test]
    fn a_moment_that_has_passed_is_now() {
        assert_eq!(Deadline::from(Instant::now()), Deadline::NOW);
        assert_eq!(Deadline::NOW.left(), Duration::ZERO);
    }

    #[test]
    fn what_is_left_is_not_more_than_was_asked_for() {
        let left = Deadline::from(Duration::from_secs(100)).left();
        assert!(left > Duration::from_secs(90) && left <= Duration::from_secs(100));
    }
}
