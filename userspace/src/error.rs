// SPDX-License-Identifier: MIT OR Apache-2.0
//! Errors, each saying what to do about it.

use std::path::PathBuf;
use std::time::Duration;

use nix::errno::Errno;

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
    #[error("{ioctl} failed: {errno}{}", hint(*errno))]
    Ioctl {
        /// Name of the ioctl, as in `uapi/mirage_drm.h`.
        ioctl: &'static str,
        /// Its errno.
        errno: Errno,
    },
    /// A syncobj operation failed.
    #[error("DRM syncobj: {0}")]
    Syncobj(std::io::Error),
    /// The work is not finished yet; it may be waited for again.
    #[error(
        "the GPU did not finish within {0:?}; wait again, or drop the channel to abandon the work"
    )]
    Timeout(Duration),
    /// The work was abandoned because its channel was stopped.
    #[error(
        "the channel was stopped ({errno}) and its work abandoned; Svm::fault_report says why"
    )]
    Stopped {
        /// Error of the fence: EIO for a bad access or method, ECANCELED for a channel that was freed.
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
            Error::Ioctl { errno, .. } | Error::Stopped { errno } => Some(*errno),
            Error::Syncobj(source)
            | Error::Open { source, .. }
            | Error::Counters { source, .. } => source.raw_os_error().map(Errno::from_raw),
            _ => None,
        }
    }
}

fn hint(errno: Errno) -> &'static str {
    match errno {
        Errno::ENODEV => " (the device is gone: open it again)",
        Errno::EIO => " (the channel was stopped: Svm::fault_report says why; make a new channel)",
        Errno::ENOSPC => " (all channels are taken: free one)",
        Errno::EPERM => " (the file belongs to another process: open one here)",
        Errno::EBUSY => " (this file mirrors an address space already)",
        _ => "",
    }
}
