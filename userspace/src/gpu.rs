// SPDX-License-Identifier: MIT OR Apache-2.0
//! The device.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use drm::Device as _;

use crate::counters::Counters;
use crate::error::{Error, Result};
use crate::svm::Svm;
use crate::sys;
use crate::uapi::{Getparam, Param};

/// What DRM_IOCTL_VERSION says for Mirage.
const DRIVER_NAME: &str = "mirage";

/// An open render node.
#[derive(Debug)]
pub(crate) struct Node {
    file: File,
}

impl AsFd for Node {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl drm::Device for Node {}
impl drm::control::Device for Node {}

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
        let open = OpenOptions::new().read(true).write(true).open(path);
        let file = open.map_err(|source| Error::Open {
            path: path.to_owned(),
            source,
        })?;
        let node = Node { file };
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
        let mut args = Getparam {
            param: param as u64,
            value: 0,
        };
        sys::getparam(self.node.as_fd(), &mut args).map_err(Error::ioctl("GETPARAM"))?;
        Ok(args.value)
    }

    /// The driver's counters at this moment, of all files of the device.
    ///
    /// Errors: [`Error::Counters`], mostly because they need root.
    pub fn counters(&self) -> Result<Counters> {
        Counters::read(&self.debugfs())
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

    fn debugfs(&self) -> PathBuf {
        let minor = self
            .node
            .file
            .metadata()
            .map(|node| nix::sys::stat::minor(node.rdev()))
            .unwrap_or_default();
        PathBuf::from(format!("/sys/kernel/debug/dri/{minor}/mirage"))
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
