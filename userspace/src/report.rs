// SPDX-License-Identifier: MIT OR Apache-2.0
//! Fault reports: why a channel was stopped.

use std::fmt;
use std::time::Duration;

use crate::uapi;

/// Defines an enum of the header: its numbers, its names there in lower case, and how a person would say it.
macro_rules! named {
    ($(#[$doc:meta])* $type:ident { $($(#[$item_doc:meta])* $item:ident = $number:literal, $name:literal, $sentence:literal;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum $type {
            $($(#[$item_doc])* $item,)*
            /// A value that this version of the library does not know.
            Unknown(u32),
        }

        impl $type {
            /// The name in the C header, in lower case and without its prefix.
            pub fn name(self) -> &'static str {
                match self {
                    $($type::$item => $name,)*
                    $type::Unknown(_) => "unknown",
                }
            }

            /// The value with that [`name`](Self::name).
            pub fn from_name(name: &str) -> Option<Self> {
                match name {
                    $($name => Some($type::$item),)*
                    _ => None,
                }
            }
        }

        impl From<u32> for $type {
            fn from(number: u32) -> Self {
                match number {
                    $($number => $type::$item,)*
                    other => $type::Unknown(other),
                }
            }
        }

        impl From<$type> for u32 {
            fn from(value: $type) -> Self {
                match value {
                    $($type::$item => $number,)*
                    $type::Unknown(other) => other,
                }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $($type::$item => f.write_str($sentence),)*
                    $type::Unknown(value) => write!(f, "unknown value {value}"),
                }
            }
        }
    };
}

named! {
    /// What the GPU tried.
    Access {
        /// A read.
        Read = 0, "read", "read";
        /// A write.
        Write = 1, "write", "write";
        /// An atomic.
        Atomic = 2, "atomic", "atomic";
        /// No memory access: the channel was stopped by something else.
        None = 3, "none", "no access";
    }
}

named! {
    /// Why a channel was stopped.
    Reason {
        /// Nothing is mapped at the address.
        NoVma = 1, "no_vma", "nothing is mapped there";
        /// The mapping does not allow the access, or the kernel does not let devices in.
        Permission = 2, "permission", "the mapping does not allow it";
        /// Where the CPU would get SIGBUS: past the end of a file, a memory error.
        Bus = 3, "bus", "past the end of a file, or a memory error";
        /// The address is in the range left to the driver, or above what the GPU can address.
        Unmanaged = 4, "unmanaged", "the GPU cannot mirror that address";
        /// No memory to serve the fault, even after retries.
        OutOfMemory = 5, "out_of_memory", "no memory to serve the fault";
        /// The process is exiting.
        Exited = 6, "exited", "the process is exiting";
        /// The push buffer has a method that is unknown, privileged or has bad data.
        Method = 7, "method", "bad method in the push buffer";
        /// The device reported something that the driver does not understand, or hangs.
        Device = 8, "device", "the device failed";
        /// The work did not end in the time that the channel allows.
        Timeout = 9, "timeout", "its work did not end in time";
        /// The device was reset.
        Reset = 10, "reset", "the device was reset";
    }
}

/// Why a channel was stopped, and by which access.
///
/// Its `Display` is a sentence: `channel 3: write of 0xdead0000: nothing is mapped there`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultReport {
    /// Address of the access, down to its 4 KiB page; the method, if the reason is [`Reason::Method`].
    pub addr: u64,
    /// When the driver stopped the channel, by CLOCK_MONOTONIC.
    pub timestamp: Duration,
    /// [`Channel::handle`](crate::Channel::handle) of the channel.
    pub channel: u32,
    /// What the GPU tried.
    pub access: Access,
    /// Why it was refused.
    pub reason: Reason,
    /// Batch of faults that it was served in, as trace events number them; 0 if it was not a fault.
    pub batch: u64,
    /// Reports that were lost between the one before and this one, for want of room.
    pub dropped: u32,
}

impl From<uapi::EventFault> for FaultReport {
    fn from(raw: uapi::EventFault) -> Self {
        FaultReport {
            addr: raw.addr,
            timestamp: Duration::from_nanos(raw.timestamp),
            channel: raw.channel,
            access: raw.access.into(),
            reason: raw.reason.into(),
            batch: raw.batch,
            dropped: raw.dropped,
        }
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
        let raw = uapi::EventFault {
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
    fn a_report_has_all_that_the_event_has() {
        let raw = uapi::EventFault {
            base: uapi::DrmEvent::default(),
            addr: 0x1000,
            timestamp: 1_000_000_002,
            batch: 3,
            channel: 4,
            access: 0,
            reason: 5,
            dropped: 6,
        };
        let report = FaultReport {
            addr: 0x1000,
            timestamp: Duration::new(1, 2),
            channel: 4,
            access: Access::Read,
            reason: Reason::OutOfMemory,
            batch: 3,
            dropped: 6,
        };
        assert_eq!(FaultReport::from(raw), report);
    }

    #[test]
    fn values_of_a_newer_driver_are_kept_as_numbers() {
        assert_eq!(
            (Access::from(9), Reason::from(99)),
            (Access::Unknown(9), Reason::Unknown(99))
        );
    }

    #[test]
    fn names_lead_back_to_their_values() {
        let reasons = (1..=10).map(Reason::from);
        assert!(reasons
            .into_iter()
            .all(|reason| Reason::from_name(reason.name()) == Some(reason)));
        assert_eq!(Access::from_name("unknown"), None);
    }
}
