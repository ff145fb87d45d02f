// SPDX-License-Identifier: MIT OR Apache-2.0
//! Fault reports: why a channel was stopped.

use std::fmt;
use std::time::Duration;

use crate::uapi;

/// What the GPU tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Access {
    /// A read.
    Read,
    /// A write.
    Write,
    /// An atomic.
    Atomic,
    /// No memory access: the channel was stopped by something else.
    None,
    /// A value that this version of the library does not know.
    Unknown(u32),
}

/// Why a channel was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// Nothing is mapped at the address.
    NoVma,
    /// The mapping does not allow the access, or the kernel does not let devices in.
    Permission,
    /// Where the CPU would get SIGBUS: past the end of a file, a memory error.
    Bus,
    /// The address is in the range left to the driver, or above what the GPU can address.
    Unmanaged,
    /// No memory to serve the fault, even after retries.
    OutOfMemory,
    /// The process is exiting.
    Exited,
    /// The push buffer has a method that is unknown, privileged or has bad data.
    Method,
    /// The device reported something that the driver does not understand, or hangs.
    Device,
    /// The work did not end in the time that the channel allows.
    Timeout,
    /// The device was reset.
    Reset,
    /// A value that this version of the library does not know.
    Unknown(u32),
}

/// Why a channel was stopped, and by which access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultReport {
    /// Address of the access, down to its 4 KiB page; the method, if the reason is [`Reason::Method`].
    pub addr: u64,
    /// When the driver reported it, by CLOCK_MONOTONIC.
    pub timestamp: Duration,
    /// [`Channel::handle`](crate::Channel::handle) of the channel.
    pub channel: u32,
    /// What the GPU tried.
    pub access: Access,
    /// Why it was refused.
    pub reason: Reason,
    /// Reports that were lost between the one before and this one, for want of room.
    pub dropped: u32,
}

impl From<u32> for Access {
    fn from(access: u32) -> Self {
        match access {
            0 => Access::Read,
            1 => Access::Write,
            2 => Access::Atomic,
            3 => Access::None,
            other => Access::Unknown(other),
        }
    }
}

impl From<u32> for Reason {
    fn from(reason: u32) -> Self {
        match reason {
            1 => Reason::NoVma,
            2 => Reason::Permission,
            3 => Reason::Bus,
            4 => Reason::Unmanaged,
            5 => Reason::OutOfMemory,
            6 => Reason::Exited,
            7 => Reason::Method,
            8 => Reason::Device,
            9 => Reason::Timeout,
            10 => Reason::Reset,
            other => Reason::Unknown(other),
        }
    }
}

impl From<uapi::FaultReport> for FaultReport {
    fn from(raw: uapi::FaultReport) -> Self {
        FaultReport {
            addr: raw.addr,
            timestamp: Duration::from_nanos(raw.timestamp),
            channel: raw.channel,
            access: raw.access.into(),
            reason: raw.reason.into(),
            dropped: raw.dropped,
        }
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Access::Read => f.write_str("read"),
            Access::Write => f.write_str("write"),
            Access::Atomic => f.write_str("atomic"),
            Access::None => f.write_str("no access"),
            Access::Unknown(value) => write!(f, "access {value}"),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reason::NoVma => "nothing is mapped there",
            Reason::Permission => "the mapping does not allow it",
            Reason::Bus => "past the end of a file, or a memory error",
            Reason::Unmanaged => "the GPU cannot mirror that address",
            Reason::OutOfMemory => "no memory to serve the fault",
            Reason::Exited => "the process is exiting",
            Reason::Method => "bad method in the push buffer",
            Reason::Device => "the device failed",
            Reason::Timeout => "the work did not end in time",
            Reason::Reset => "the device was reset",
            Reason::Unknown(value) => return write!(f, "reason {value}"),
        })
    }
}

impl fmt::Display for FaultReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let FaultReport {
            addr,
            channel,
            access,
            reason,
            ..
        } = self;
        match (access, reason) {
            (Access::None, Reason::Method) => {
                write!(f, "channel {channel}: method {addr:#x}: {reason}")
            }
            (Access::None, _) => write!(f, "channel {channel}: {reason}"),
            _ => write!(f, "channel {channel}: {access} of {addr:#x}: {reason}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_reads_as_a_sentence() {
        let raw = uapi::FaultReport {
            addr: 0xdead_0000,
            channel: 3,
            access: 1,
            reason: 1,
            ..Default::default()
        };
        assert_eq!(
            FaultReport::from(raw).to_string(),
            "channel 3: write of 0xdead0000: nothing is mapped there"
        );
    }

    #[test]
    fn values_of_a_newer_driver_are_kept_as_numbers() {
        assert_eq!(
            (Access::from(9), Reason::from(99)),
            (Access::Unknown(9), Reason::Unknown(99))
        );
    }
}
