// SPDX-License-Identifier: MIT OR Apache-2.0
//! The mirror of this process on a GPU.

use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::sync::Arc;

use nix::errno::Errno;

use crate::channel::Channel;
use crate::error::{Error, Result};
use crate::gpu::{Gpu, Node};
use crate::report::FaultReport;
use crate::sys::{self, Hole};
use crate::uapi::{self, Param, SvmInit};

/// Rings and push buffers take 40-bit addresses, so the range left to the driver must lie below this.
const HOLE_END: u64 = 1 << 40;
/// Where the search for a free range begins: above what executables without PIE and their heaps use.
const HOLE_START: u64 = 1 << 36;
/// The search looks at this many places, spread evenly.
const HOLE_TRIES: u64 = 64;
/// Room for the rings and push buffers of all channels.
const HOLE_SIZE: u64 = 64 << 20;

/// The mirror of this process: every pointer is valid on the GPU while it lives.
///
/// Cheap to share between threads; the file is closed when the last channel and job are gone too.
#[derive(Clone, Debug)]
pub struct Svm {
    pub(crate) shared: Arc<Shared>,
}

/// What channels and jobs keep alive. Fields drop in this order: the file is closed before its hole is unmapped.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) node: Arc<Node>,
    pub(crate) class: u32,
    hole: Hole,
}

impl Svm {
    #[expect(
        unsafe_code,
        reason = "hands a range of the address space to the driver"
    )]
    pub(crate) fn new(gpu: &Gpu) -> Result<Self> {
        let align = gpu.param(Param::UnmanagedAlign)?.max(1);
        let size = gpu
            .param(Param::UnmanagedMin)?
            .max(HOLE_SIZE)
            .next_multiple_of(align);
        let class = gpu.param(Param::ComputeClass)? as u32;
        let hole = reserve(size, align)?;
        let args = SvmInit {
            unmanaged_addr: hole.addr(),
            unmanaged_size: hole.size(),
            flags: 0,
            pad: 0,
        };
        // SAFETY: the range was reserved just now, and `Shared` keeps it until the file is closed.
        unsafe { sys::svm_init(gpu.as_fd(), &args) }.map_err(Error::ioctl("SVM_INIT"))?;
        Ok(Svm {
            shared: Arc::new(Shared {
                node: Arc::clone(gpu.node()),
                class,
                hole,
            }),
        })
    }

    /// Makes a channel: a queue of work that runs in order, side by side with other channels.
    ///
    /// Errors: [`Error::Ioctl`] with ENOSPC when the device has no channel left.
    pub fn channel(&self) -> Result<Channel> {
        Channel::new(self)
    }

    /// Takes the oldest fault report, if there is one.
    pub fn fault_report(&self) -> Result<Option<FaultReport>> {
        let mut args = uapi::FaultReport::default();
        match sys::fault_report(self.shared.node.as_fd(), &mut args) {
            Ok(()) => Ok(Some(FaultReport::from(args))),
            Err(Errno::ENODATA) => Ok(None),
            Err(errno) => Err(Error::Ioctl {
                ioctl: "FAULT_REPORT",
                errno,
            }),
        }
    }

    /// The range that was left to the driver: first address and size. Launches cannot use it.
    pub fn unmanaged(&self) -> (u64, u64) {
        (self.shared.hole.addr(), self.shared.hole.size())
    }
}

/// Reserves `size` bytes at a multiple of `align`, below what rings can address.
fn reserve(size: u64, align: u64) -> Result<Hole> {
    let candidates = candidates(size, align);
    let as_usize = |value: u64| usize::try_from(value).ok().and_then(NonZeroUsize::new);
    for addr in candidates {
        let (Some(addr), Some(size)) = (as_usize(addr), as_usize(size)) else {
            continue;
        };
        if let Ok(hole) = Hole::reserve(addr, size) {
            return Ok(hole);
        }
    }
    Err(Error::NoHole { size })
}

/// Addresses to try, all aligned and ending below [`HOLE_END`].
fn candidates(size: u64, align: u64) -> impl Iterator<Item = u64> {
    let step = (HOLE_END - HOLE_START) / HOLE_TRIES;
    (0..HOLE_TRIES)
        .filter_map(move |i| (HOLE_START + i * step).checked_next_multiple_of(align))
        .filter(move |addr| addr.checked_add(size).is_some_and(|end| end <= HOLE_END))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_for_the_hole_are_aligned_and_end_below_one_tebibyte() {
        let (size, align) = (64 << 20, 2 << 20);
        let all: Vec<u64> = candidates(size, align).collect();
        assert_eq!(all.len() as u64, HOLE_TRIES);
        assert!(all
            .iter()
            .all(|addr| addr % align == 0 && addr + size <= 1 << 40));
    }

    #[test]
    fn a_hole_too_large_for_the_space_below_one_tebibyte_has_no_place() {
        assert_eq!(candidates(1 << 40, 4096).count(), 0);
    }

    #[test]
    fn two_holes_do_not_overlap() {
        let first = reserve(2 << 20, 2 << 20).expect("address space is mostly empty");
        let second = reserve(2 << 20, 2 << 20).expect("address space is mostly empty");
        assert!(
            first.addr() + first.size() <= second.addr()
                || second.addr() + second.size() <= first.addr()
        );
    }
}
