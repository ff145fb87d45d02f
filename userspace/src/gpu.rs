// SPDX-License-Identifier: MIT OR Apache-2.0
//! The device.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use drm::Device as _;

use crate::counters::Counters;
use crate::error::{Error, Result};
use crate::limits::{Features, Limits};
use crate::node::Node;
use crate::svm::Svm;
use crate::sync::{Syncobj, Timeline};
use crate::uapi::Param;

/// What DRM_IOCTL_VERSION says for Mirage.
const DRIVER_NAME: &str = "mirage";

/// A Mirage GPU: its render node, open.
#[derive(Debug)]
pub struct Gpu {
    path: PathBuf,
    node: Arc<Node>,
}

impl Gpu {
    /// Opens the first Mirage GPU.
    ///
    /// Errors: [`Error::NoDevice`] if there is none, [`Error::Open`] if it may not be opened.
    pub fn open() -> Result<Self> {
        let mut refused = None;
        for path in render_nodes() {
            match Gpu::open_path(&path) {
                Ok(gpu) => return Ok(gpu),
                Err(Error::NoDevice) => {}
                Err(error) => refused = Some(error),
            }
        }
        Err(refused.unwrap_or(Error::NoDevice))
    }

    /// Opens the GPU behind a render node.
    ///
    /// Errors: [`Error::NoDevice`] if the node belongs to another driver, [`Error::Open`] if it may not be opened.
    pub fn open_path(path: &Path) -> Result<Self> {
        let node = Node::open(path).map_err(|source| Error::Open {
            path: path.to_owned(),
            source,
        })?;
        match node.get_driver() {
            Ok(driver) if driver.name() == DRIVER_NAME => Ok(Gpu {
                path: path.to_owned(),
                node: Arc::new(node),
            }),
            _ => Err(Error::NoDevice),
        }
    }

    /// The render node.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Asks for a parameter of the device.
    pub fn param(&self, param: Param) -> Result<u64> {
        self.node.param(param)
    }

    /// How much there may be of everything.
    pub fn limits(&self) -> Result<Limits> {
        Limits::of(&self.node)
    }

    /// What the driver can do beyond the first version of the interface.
    pub fn features(&self) -> Result<Features> {
        Features::of(&self.node)
    }

    /// Makes a binary syncobj, for submissions on this GPU.
    pub fn syncobj(&self) -> Result<Syncobj> {
        Syncobj::new(&self.node)
    }

    /// Makes a timeline, for submissions on this GPU.
    pub fn timeline(&self) -> Result<Timeline> {
        Timeline::new(&self.node)
    }

    /// The syncobj behind a file descriptor from [`Syncobj::export`], of another process, another open file or another DRM device.
    pub fn import_syncobj(&self, fd: BorrowedFd<'_>) -> Result<Syncobj> {
        Syncobj::import(&self.node, fd)
    }

    /// The timeline behind a file descriptor from [`Timeline::export`], of another process, another open file or another DRM
    /// device.
    pub fn import_timeline(&self, fd: BorrowedFd<'_>) -> Result<Timeline> {
        Timeline::import(&self.node, fd)
    }

    /// The driver's counters at this moment, of all files of the device.
    ///
    /// Errors: [`Error::Counters`], mostly because they need root.
    pub fn counters(&self) -> Result<Counters> {
        Counters::read(&self.debugfs().join(DRIVER_NAME))
    }

    /// Mirrors this process: from here on its pointers are valid on the GPU.
    ///
    /// Errors: [`Error::NoHole`]; [`Error::Ioctl`] with EBUSY when the file is bound already.
    ///
    /// # Safety
    ///
    /// The GPU reads and writes memory behind the compiler's back, like a thread that Rust knows nothing of. The caller promises,
    /// for every launch on channels of the returned value, from the submission until the work has ended (it was waited for, or
    /// its channel was freed):
    ///
    /// * memory that the launch reads is not written by the CPU but through atomics or raw pointers;
    /// * memory that the launch writes is, in addition, not borrowed as `&T`, unless `T` has interior mutability;
    /// * what it writes are valid values of the types that live there.
    ///
    /// Addresses where nothing is mapped, or that are freed while the GPU works on them, are harmless as long as nothing else comes
    /// to live there: the access is refused, and the channel stopped.
    #[expect(unsafe_code, reason = "the one promise that a GPU program makes")]
    pub unsafe fn svm(&self) -> Result<Svm> {
        Svm::new(self)
    }

    pub(crate) fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// Folder of the device in debugfs.
    pub fn debugfs(&self) -> PathBuf {
        let (_, minor) = self.node.device_number();
        PathBuf::from(format!("/sys/kernel/debug/dri/{minor}"))
    }

    /// Address on the PCI bus, as in `0000:01:00.0`; `None` if sysfs does not tell.
    pub fn pci_address(&self) -> Option<String> {
        let (major, minor) = self.node.device_number();
        let device = std::fs::read_link(format!("/sys/dev/char/{major}:{minor}/device")).ok()?;
        Some(device.file_name()?.to_str()?.to_owned())
    }
}

impl AsFd for Gpu {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.node.as_fd()
    }
}

fn render_nodes() -> Vec<PathBuf> {
    let entries: io::Result<Vec<_>> = std::fs::read_dir("/dev/dri").and_then(Iterator::collect);
    let mut nodes: Vec<PathBuf> = entries
        .unwrap_or_default()
        .iter()
        .map(std::fs::DirEntry::path)
        .collect();
    nodes.retain(|path| {
        path.file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("renderD"))
    });
    nodes.sort();
    nodes
}
