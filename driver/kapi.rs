// SPDX-License-Identifier: GPL-2.0

//! Safe wrappers of what the `kernel` crate lacks, and the only place with `unsafe` code.
//!
//! The differences between kernel versions end here. What a tree has is asked by Kbuild and arrives as `cfg(mirage_*)`.

pub(crate) mod coherent;
pub(crate) mod dma;
pub(crate) mod drm;
pub(crate) mod errno;
pub(crate) mod fence;
pub(crate) mod hmm;
pub(crate) mod irq;
pub(crate) mod mm;
pub(crate) mod mmio;
pub(crate) mod notifier;
pub(crate) mod pci;
pub(crate) mod raw;
pub(crate) mod sort;
pub(crate) mod syncobj;
pub(crate) mod task;
pub(crate) mod time;
pub(crate) mod trace;
pub(crate) mod user;
pub(crate) mod workqueue;
