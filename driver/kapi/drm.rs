// SPDX-License-Identifier: GPL-2.0

//! DRM devices, files and ioctls.
//!
//! Shaped like `kernel::drm`, with its names and type states, for kernels that build DRM as a module and so leave that out.
//! Beyond it, this offers syncobjs and timelines, events, fdinfo, debugfs files, and ioctls of a user interface that is not the
//! kernel's own.

pub(crate) mod debugfs;
mod device;
mod driver;
mod event;
mod file;
pub(crate) mod ioctl;

pub(crate) use device::{
    Device,
    Registered,
    UnregisteredDevice, //
};
pub(crate) use driver::{
    Driver,
    DriverInfo,
    Registration, //
};
pub(crate) use event::EventSender;
pub(crate) use file::{
    DriverFile,
    File,
    Printer, //
};
