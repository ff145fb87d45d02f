// SPDX-License-Identifier: MIT OR Apache-2.0
//! Errors, each saying what to do about it.

use std::path::PathBuf;
use std::time::Duration;

use nix::errno::Errno;

use crate::channel::Engine;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No render node belongs to the driver.
    #[error(
        "no Mirage GPU found: none of the render nodes in /dev/dri has the driver \"mirage\". Is the module loaded \
         (lsmod | grep mirage) and the device there (lspci -d 1234:6d67)?"
    )]
    NoDevice,
    /// A render node could not be opened.
    #[error("cannot open {}: {source}. Is this user in the group that owns it?", path.display())]
    Open {
        /// The render node.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// No room for the range that the driver keeps its rings in.
    #[error(
        "no free range of {size} bytes below 1 TiB in the address space of this process; something has reserved all of it"
    )]
    NoHole {
        /// Size that was wanted.
        size: u64,
    },
    /// An ioctl of the driver failed.
    #[error("{ioctl} failed: {errno}{}", hint(ioctl, *errno))]
    Ioctl {
        /// Name of the ioctl, as in `uapi/mirage_drm.h`.
        ioctl: &'static str,
        /// Its errno.
        errno: Errno,
    },
    /// A syncobj operation failed.
    #[error("DRM syncobj: {0}{advice}", advice = syncobj_hint(source_errno(.0)))]
    Syncobj(std::io::Error),
    /// The work is not finished yet; it may be waited for again.
    #[error(
        "the GPU did not finish within {0:?}; wait again, or drop the channel to abandon the work"
    )]
    Timeout(Duration),
    /// The work was abandoned because its channel was stopped, or is gone.
    #[error(
        "the work was abandoned: {errno}{}", stop_hint(*errno)
    )]
    Stopped {
        /// Error of the fence: EIO for a channel that was stopped, ECANCELED for one that was freed, ENODEV for a device that is gone.
        errno: Errno,
    },
    /// A launch with a parameter that the device would refuse.
    #[error("{what} is {value}, but must be from {min} to {max}")]
    Range {
        /// Name of the parameter.
        what: &'static str,
        /// What it was.
        value: u64,
        /// Smallest allowed value.
        min: u64,
        /// Largest allowed value.
        max: u64,
    },
    /// An address that the device would refuse.
    #[error("{what} is at {addr:#x}, but must be aligned to {align} bytes")]
    Alignment {
        /// What lies there.
        what: &'static str,
        /// Its address.
        addr: u64,
        /// What the address must be a multiple of.
        align: u64,
    },
    /// An operation of one engine for a channel of another.
    #[error("this channel is for the {engine} engine, but the operation is for the {needed} engine: make another channel for it, with Svm::{}", constructor(*needed))]
    WrongEngine {
        /// The channel's, or the push buffer's.
        engine: Engine,
        /// The operation's.
        needed: Engine,
    },
    /// A syncobj of another open file.
    #[error("the syncobj belongs to another open file: share it with Syncobj::export and Gpu::import_syncobj")]
    OtherGpu,
    /// A prefetch that could not have all pages.
    #[error("prefetched {done} pages, but not the one at {addr:#x}: {errno}{}", prefetch_hint(*errno))]
    Prefetch {
        /// Pages from the start of the range that the GPU maps as asked.
        done: u64,
        /// Address of the page behind them.
        addr: u64,
        /// Why not.
        errno: Errno,
    },
    /// Fault reports could not be read.
    #[error("cannot read fault reports: {0}. Does the file belong to this process?")]
    Events(std::io::Error),
    /// The counters could not be read.
    #[error("cannot read the driver's counters in {}: {source}. They need root and debugfs (mount -t debugfs none /sys/kernel/debug)", path.display())]
    Counters {
        /// File that was tried.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
}

/// The crate's result.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn ioctl(ioctl: &'static str) -> impl FnOnce(Errno) -> Self {
        move |errno| Error::Ioctl { ioctl, errno }
    }

    /// The errno behind it, if there is one.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Error::Ioctl { errno, .. }
            | Error::Stopped { errno }
            | Error::Prefetch { errno, .. } => Some(*errno),
            Error::Syncobj(source)
            | Error::Events(source)
            | Error::Open { source, .. }
            | Error::Counters { source, .. } => source_errno(source),
            _ => None,
        }
    }
}

fn source_errno(source: &std::io::Error) -> Option<Errno> {
    source.raw_os_error().map(Errno::from_raw)
}

/// What to do about the error of an ioctl.
fn hint(ioctl: &str, errno: Errno) -> &'static str {
    match (ioctl, errno) {
        (_, Errno::ENODEV) => " (the device is gone: open it again)",
        (_, Errno::EPERM) => " (the file belongs to another process: open one here)",
        (_, Errno::ENOMEM) => " (the kernel has no memory left: free some, then try again)",
        ("EXEC", Errno::EIO) => {
            " (the channel was stopped: Channel::state says why, Channel::reset makes it usable again)"
        }
        ("EXEC", Errno::EINVAL) => {
            " (more than Gpu::limits allows, a timeline point that is not above the last one, or a wait for work that is not submitted yet)"
        }
        ("EXEC", Errno::ENOENT) => " (the channel or a syncobj is gone)",
        ("CHANNEL_QUERY" | "CHANNEL_RESET" | "CHANNEL_FREE", Errno::ENOENT) => {
            " (this file has no such channel: it was freed, make another with Svm::channel)"
        }
        ("SVM_INIT", Errno::EINVAL) => {
            " (the driver cannot use the range left to it: GETPARAM tells size and alignment, and it ends below 1 TiB)"
        }
        ("SVM_INIT", Errno::EBUSY) => " (this file mirrors an address space already: open the GPU again)",
        ("SVM_INIT", Errno::ENOSPC) => " (the device has no more address spaces: close a file, also of other processes)",
        ("CHANNEL_ALLOC", Errno::ENOSPC) => {
            " (all channels of the device or of this file are taken, see Gpu::limits: free one)"
        }
        ("CHANNEL_ALLOC" | "CHANNEL_RESET", Errno::EAGAIN) => {
            " (the device is being reset: try again in a moment)"
        }
        ("CHANNEL_ALLOC", Errno::EINVAL) => " (the time-out is longer than Gpu::limits allows)",
        ("SVM_QUERY", Errno::EAGAIN) => " (the memory changed all the time: try again when it is quieter, or with a smaller range)",
        ("SVM_QUERY", Errno::EFAULT) => " (the array for the pages cannot be written)",
        ("SVM_QUERY", Errno::EINVAL) => " (no process has such addresses)",
        _ => "",
    }
}

fn stop_hint(errno: Errno) -> &'static str {
    match errno {
        Errno::EIO => " (the channel was stopped: Svm::fault_events and Channel::state say why)",
        Errno::ECANCELED => " (its channel was freed)",
        Errno::ENODEV => " (the device is gone: open it again)",
        _ => "",
    }
}

fn prefetch_hint(errno: Errno) -> &'static str {
    match errno {
        Errno::EFAULT => " (nothing is mapped there, or not for that access)",
        Errno::EAGAIN => " (the memory changed all the time, or the device is being reset: try again in a moment)",
        Errno::ENOMEM => " (the kernel has no memory left: free some, then go on with the rest of the range)",
        Errno::ENODEV => " (the device is gone: open it again)",
        Errno::EPERM => " (the file belongs to another process: open one here)",
        Errno::EINVAL => " (the range left to the driver, or an address that no process has)",
        _ => "",
    }
}

fn syncobj_hint(errno: Option<Errno>) -> &'static str {
    match errno {
        Some(Errno::EINVAL) => {
            " (it has no fence yet: submit the work that signals it first; or what was imported is no syncobj)"
        }
        Some(Errno::ENOENT) => " (the file has no such syncobj)",
        Some(Errno::EMFILE) => " (this process has too many open files: close some, or raise RLIMIT_NOFILE)",
        Some(Errno::ENOMEM) => " (the kernel has no memory left: free some, then try again)",
        _ => "",
    }
}

fn constructor(engine: Engine) -> &'static str {
    match engine {
        Engine::Compute => "channel",
        Engine::Copy => "copy_channel",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The errors that `uapi/mirage_drm.h` has for the ioctls that the library calls.
    #[test]
    fn every_error_of_the_interface_has_an_advice() {
        use Errno::*;
        let every = [ENODEV, EPERM];
        for (ioctl, errnos) in [
            ("SVM_INIT", &[EINVAL, EBUSY, ENOSPC, ENOMEM][..]),
            ("CHANNEL_ALLOC", &[EINVAL, ENOSPC, EAGAIN, ENOMEM]),
            ("CHANNEL_QUERY", &[ENOENT]),
            ("CHANNEL_FREE", &[ENOENT]),
            ("CHANNEL_RESET", &[ENOENT, EAGAIN, ENOMEM]),
            ("EXEC", &[ENOENT, EINVAL, EIO, ENOMEM]),
            ("SVM_QUERY", &[EINVAL, EFAULT, EAGAIN, ENOMEM]),
        ] {
            for &errno in errnos.iter().chain(&every) {
                let text = Error::Ioctl { ioctl, errno }.to_string();
                assert!(text.ends_with(')'), "{text}");
            }
        }
        for errno in [EINVAL, EFAULT, EAGAIN, ENOMEM, ENODEV, EPERM] {
            assert!(prefetch_hint(errno).ends_with(')'), "{errno}");
        }
        for errno in [EINVAL, ENOENT, EMFILE, ENOMEM] {
            let text = Error::Syncobj(errno.into()).to_string();
            assert!(text.ends_with(')'), "{text}");
        }
    }

    #[test]
    fn a_prefetch_that_should_be_tried_again_may_have_met_a_reset() {
        let text = prefetch_hint(Errno::EAGAIN);
        assert!(text.contains("changed") && text.contains("reset"), "{text}");
        assert!(prefetch_hint(Errno::ENOMEM).contains("no memory"));
    }

    #[test]
    fn a_syncobj_without_a_fence_wants_its_work_submitted() {
        let text = Error::Syncobj(Errno::EINVAL.into()).to_string();
        assert!(text.contains("submit the work"), "{text}");
        assert_eq!(
            Error::Syncobj(Errno::EINVAL.into()).errno(),
            Some(Errno::EINVAL)
        );
    }

    #[test]
    fn an_error_says_what_to_do() {
        let text = Error::Ioctl {
            ioctl: "EXEC",
            errno: Errno::EIO,
        }
        .to_string();
        assert!(text.contains("Channel::reset"), "{text}");
        let text = Error::Ioctl {
            ioctl: "CHANNEL_RESET",
            errno: Errno::EAGAIN,
        }
        .to_string();
        assert!(text.contains("being reset"), "{text}");
        let text = Error::WrongEngine {
            engine: Engine::Compute,
            needed: Engine::Copy,
        }
        .to_string();
        assert!(text.ends_with("Svm::copy_channel"), "{text}");
        let text = Error::Prefetch {
            done: 3,
            addr: 0x3000,
            errno: Errno::EFAULT,
        }
        .to_string();
        assert!(
            text.starts_with("prefetched 3 pages, but not the one at 0x3000: EFAULT"),
            "{text}"
        );
    }
}
