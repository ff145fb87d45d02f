// SPDX-License-Identifier: MIT OR Apache-2.0
//! userfaultfd: faults of a region that a thread of the program answers.

use std::fs::File;
use std::io::Read as _;
use std::ops::Range;
use std::os::fd::{AsFd as _, FromRawFd as _};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::libc;

use crate::harness::skip;
use crate::region::{Region, PAGE};

/// `_IOWR(0xaa, number, bytes)`
const fn request(number: u64, bytes: u64) -> u64 {
    (3 << 30) | (bytes << 16) | (0xaa << 8) | number
}

const API: u64 = 0xaa;
/// Bytes of struct uffd_msg; the event is its first byte, a fault's flags and address begin at 8 and 16.
const MESSAGE: usize = 32;
const EVENT_PAGEFAULT: u8 = 0x12;

/// What is told to the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Watch {
    /// Accesses to pages that are not there.
    Missing = 1,
    /// Writes to pages that it has write-protected.
    WriteProtected = 2,
}

/// A region whose faults the program answers.
#[derive(Debug)]
pub(crate) struct Userfault {
    fd: File,
}

impl Userfault {
    pub(crate) fn on(region: &Region, watch: Watch) -> Result<Self> {
        let flags = libc::O_CLOEXEC | libc::O_NONBLOCK;
        // SAFETY: makes a file descriptor and touches no memory.
        let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, flags) };
        let Ok(fd) = Errno::result(fd) else {
            return skip("no userfaultfd");
        };
        // SAFETY: the descriptor is new and belongs to nobody else.
        let fd = unsafe { File::from_raw_fd(fd as i32) };
        let fd = Userfault { fd };
        fd.call(0x3f, [API, 0, 0]).context("UFFDIO_API")?;
        let (start, len) = (region.at(0).addr(), region.len() as u64);
        match fd.call(0x00, [start, len, watch as u64, 0]) {
            Ok(()) => Ok(fd),
            Err(errno) => skip(format!("{watch:?} is not to be had: {errno}")),
        }
    }

    fn call<const WORDS: usize>(&self, number: u64, words: [u64; WORDS]) -> nix::Result<()> {
        let mut words = words;
        let bytes = bytemuck::cast_slice_mut(&mut words);
        super::ioctl(self.fd.as_fd(), request(number, bytes.len() as u64), bytes)
    }

    /// The address of the next fault's page, if somebody waits.
    pub(crate) fn next(&self) -> Result<Option<u64>> {
        let mut message = [0; MESSAGE];
        match (&self.fd).read(&mut message) {
            Ok(MESSAGE) if message[0] == EVENT_PAGEFAULT => {
                let addr: u64 = bytemuck::pod_read_unaligned(&message[16..24]);
                Ok(Some(addr & !(PAGE as u64 - 1)))
            }
            Ok(_) => Ok(None),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error).context("read of a userfault"),
        }
    }

    /// Puts a copy of `from`'s first page at a page that is missing.
    pub(crate) fn supply(&self, page: u64, from: &Region) -> Result<()> {
        match self.call(0x03, [page, from.at(0).addr(), PAGE as u64, 0, 0]) {
            // Somebody else was told of the same page.
            Ok(()) | Err(Errno::EEXIST) => Ok(()),
            Err(errno) => Err(errno).context("UFFDIO_COPY"),
        }
    }

    /// Write-protects part of the region, or takes that back and wakes who waits.
    pub(crate) fn protect(
        &self,
        region: &Region,
        range: Range<usize>,
        protect: bool,
    ) -> Result<()> {
        let (start, len) = (region.at(range.start).addr(), range.len() as u64);
        self.call(0x06, [start, len, u64::from(protect)])
            .context("UFFDIO_WRITEPROTECT")
    }
}
