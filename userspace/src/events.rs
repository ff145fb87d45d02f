// SPDX-License-Identifier: MIT OR Apache-2.0
//! Fault reports as a stream.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::mem::offset_of;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, PoisonError};

use bytemuck::Zeroable;
use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};

use crate::deadline::Deadline;
use crate::error::{Error, Result};
use crate::node::Node;
use crate::report::FaultReport;
use crate::uapi::{DrmEvent, EventFault, EVENT_FAULT};

/// Room for one event of the kind that this library knows.
const ONE_EVENT: usize = size_of::<EventFault>();
/// Room for every event that a file can hold.
const ALL_EVENTS: usize = 4096;

/// The reports of an [`Svm`](crate::Svm), oldest first; from [`Svm::fault_events`](crate::Svm::fault_events).
///
/// There is one queue of reports for an `Svm`: who takes one takes it from all others. As an iterator, it waits for the next report
/// and never ends.
///
/// The queue has room for 85 reports. While it is full, new ones are lost, and [`FaultReport::dropped`] of the next that gets in says how many;
/// [`Channel::state`](crate::Channel::state) tells of each channel also then.
///
/// ```no_run
/// # fn main() -> mirage::Result<()> {
/// # let svm: mirage::Svm = todo!();
/// let events = svm.fault_events();
/// std::thread::spawn(move || {
///     for report in events.flatten() {
///         eprintln!("GPU: {report}");
///     }
/// });
/// # Ok(())
/// # }
/// ```
///
/// In an event loop, it is what is polled; then take reports until there are none:
///
/// ```no_run
/// # fn main() -> mirage::Result<()> {
/// # let svm: mirage::Svm = todo!();
/// use std::os::fd::AsFd;
///
/// let events = svm.fault_events();
/// let readable_when_there_is_one = events.as_fd();
/// // ... when it is readable:
/// while let Some(report) = events.try_next()? {
///     eprintln!("GPU: {report}");
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct FaultEvents {
    node: Arc<Node>,
}

/// Reports that were read together with the one that was wanted. Only events larger than this library knows get here.
#[derive(Debug, Default)]
pub(crate) struct ReadAhead(Mutex<VecDeque<FaultReport>>);

impl ReadAhead {
    fn pop(&self) -> Option<FaultReport> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop_front()
    }

    fn extend(&self, reports: impl IntoIterator<Item = FaultReport>) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(reports);
    }
}

impl FaultEvents {
    pub(crate) fn new(node: &Arc<Node>) -> Self {
        FaultEvents {
            node: Arc::clone(node),
        }
    }

    /// Takes the oldest report, if there is one.
    pub fn try_next(&self) -> Result<Option<FaultReport>> {
        loop {
            if let Some(report) = self.node.read_ahead.pop() {
                return Ok(Some(report));
            }
            match read_events(&self.node).map_err(Error::Events)? {
                Some(reports) => self.node.read_ahead.extend(reports),
                None => return Ok(None),
            }
        }
    }

    /// Takes the oldest report, waiting for one until `deadline`. `None`: there was none until then.
    pub fn wait(&self, deadline: impl Into<Deadline>) -> Result<Option<FaultReport>> {
        let deadline = deadline.into();
        loop {
            if let Some(report) = self.try_next()? {
                return Ok(Some(report));
            }
            if !readable(self.as_fd(), deadline).map_err(Error::Events)? {
                return Ok(None);
            }
        }
    }
}

impl AsFd for FaultEvents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.node.as_fd()
    }
}

impl Iterator for FaultEvents {
    type Item = Result<FaultReport>;

    fn next(&mut self) -> Option<Self::Item> {
        self.wait(Deadline::NEVER).transpose()
    }
}

/// Waits until a file is readable; whether it is by `deadline`.
fn readable(fd: BorrowedFd<'_>, deadline: Deadline) -> io::Result<bool> {
    loop {
        let mut files = [PollFd::new(fd, PollFlags::POLLIN)];
        let left = deadline.left();
        // Rounded up, so that the last round does not spin; and a wait for ever goes on in rounds.
        let milliseconds = left.as_nanos().div_ceil(1_000_000);
        let timeout = i32::try_from(milliseconds).unwrap_or(i32::MAX);
        match poll(
            &mut files,
            PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX),
        ) {
            Ok(0) if deadline.left().is_zero() => return Ok(false),
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => return Ok(true),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Reads at least one event; `None` if there is none. Events of unknown kinds are left out.
fn read_events(node: &Node) -> io::Result<Option<Vec<FaultReport>>> {
    for room in [ONE_EVENT, ALL_EVENTS] {
        let mut buffer = [0; ALL_EVENTS];
        match node.read(&mut buffer[..room]) {
            // There is one, but it is larger.
            Ok(0) => {}
            Ok(length) => return Ok(Some(parse(&buffer[..length]))),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(Some(Vec::new())),
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// The fault events in what was read. A record may be longer than this library knows, or shorter.
fn parse(mut bytes: &[u8]) -> Vec<FaultReport> {
    let mut reports = Vec::new();
    while let Some(base) = bytes
        .get(..size_of::<DrmEvent>())
        .map(bytemuck::pod_read_unaligned::<DrmEvent>)
    {
        let length = base.length as usize;
        let Some(record) = bytes
            .get(..length)
            .filter(|_| length >= size_of::<DrmEvent>())
        else {
            break;
        };
        if base.kind == EVENT_FAULT {
            let (mut event, known) = (EventFault::zeroed(), length.min(ONE_EVENT));
            bytemuck::bytes_of_mut(&mut event)[..known].copy_from_slice(&record[..known]);
            reports.push(FaultReport::from(event));
        }
        bytes = &bytes[length..];
    }
    reports
}

/// DRM gives out whole records of a multiple of 8 bytes.
const _: () = assert!(ONE_EVENT % 8 == 0 && offset_of!(EventFault, addr) == size_of::<DrmEvent>());

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn event(channel: u32) -> EventFault {
        let base = DrmEvent {
            kind: EVENT_FAULT,
            length: ONE_EVENT as u32,
        };
        EventFault {
            base,
            channel,
            ..EventFault::zeroed()
        }
    }

    fn channels(bytes: &[u8]) -> Vec<u32> {
        parse(bytes).iter().map(|report| report.channel).collect()
    }

    #[test]
    fn events_follow_each_other() {
        let events = [event(1), event(2)];
        assert_eq!(channels(bytemuck::cast_slice(&events)), [1, 2]);
    }

    #[test]
    fn an_event_of_another_kind_is_skipped() {
        let mut other = event(1);
        other.base.kind = 1;
        assert_eq!(channels(bytemuck::cast_slice(&[other, event(2)])), [2]);
    }

    #[test]
    fn what_a_newer_driver_adds_at_the_end_is_skipped() {
        let mut longer = event(1);
        longer.base.length += 8;
        let bytes = [
            bytemuck::bytes_of(&longer),
            &[0xff; 8],
            bytemuck::bytes_of(&event(2)),
        ]
        .concat();
        assert_eq!(channels(&bytes), [1, 2]);
    }

    #[test]
    fn a_length_that_makes_no_sense_ends_it() {
        for length in [0, 7, 1000] {
            let mut bad = event(1);
            bad.base.length = length;
            assert_eq!(
                channels(bytemuck::cast_slice(&[bad, event(2)])),
                Vec::<u32>::new()
            );
        }
    }

    #[test]
    fn nothing_to_read_ends_with_the_deadline() {
        let (reader, _writer) = nix::unistd::pipe().expect("room for a pipe");
        let deadline = Deadline::from(Duration::from_millis(1));
        assert!(!readable(reader.as_fd(), deadline).expect("a pipe can be polled"));
    }
}
