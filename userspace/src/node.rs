// SPDX-License-Identifier: MIT OR Apache-2.0
//! An open render node, and what lives as long as it is open.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::OnceLock;

use nix::fcntl::OFlag;

use crate::error::{Error, Result};
use crate::events::ReadAhead;
use crate::sys::{self, Hole};
use crate::uapi::{Getparam, Param};

/// An open render node. Fields drop in this order: the file is closed before its hole is unmapped.
#[derive(Debug)]
pub(crate) struct Node {
    file: File,
    hole: OnceLock<Hole>,
    pub(crate) read_ahead: ReadAhead,
}

impl Node {
    /// Opens a file. Reads of events do not block; ioctls are not affected.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        let file = options.custom_flags(OFlag::O_NONBLOCK.bits()).open(path)?;
        Ok(Node {
            file,
            hole: OnceLock::new(),
            read_ahead: ReadAhead::default(),
        })
    }

    /// GETPARAM
    pub(crate) fn param(&self, param: Param) -> Result<u64> {
        let mut args = Getparam {
            param: param as u64,
            value: 0,
        };
        sys::getparam(self.as_fd(), &mut args).map_err(Error::ioctl("GETPARAM"))?;
        Ok(args.value)
    }

    /// SVM_INIT
    #[expect(
        unsafe_code,
        reason = "hands a range of the address space to the driver"
    )]
    pub(crate) fn mirror(&self, hole: Hole) -> Result<()> {
        // SAFETY: the hole is kept until the file is closed, by the order of the fields. Should another thread's be kept instead, then the
        // driver has not taken this one: it takes one for each file.
        unsafe { sys::svm_init(self.as_fd(), &hole) }.map_err(Error::ioctl("SVM_INIT"))?;
        let _ = self.hole.set(hole);
        Ok(())
    }

    /// First address and size of the range that was left to the driver.
    pub(crate) fn unmanaged(&self) -> (u64, u64) {
        self.hole
            .get()
            .map_or((0, 0), |hole| (hole.addr(), hole.size()))
    }

    /// Takes whole events.
    pub(crate) fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        (&self.file).read(buffer)
    }

    /// Number of the device file: major, minor.
    pub(crate) fn device_number(&self) -> (u64, u64) {
        let number = self.file.metadata().map_or(0, |node| node.rdev());
        (nix::sys::stat::major(number), nix::sys::stat::minor(number))
    }
}

impl AsFd for Node {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl drm::Device for Node {}
impl drm::control::Device for Node {}
