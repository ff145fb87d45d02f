// SPDX-License-Identifier: GPL-2.0

//! DRM driver.
//!
//! C header: `include/drm/drm_drv.h`.

use super::{
    device::{
        Device,
        UnregisteredDevice, //
    },
    file::DriverFile,
    ioctl, //
};
use kernel::{
    bindings,
    prelude::*,
    sync::aref::ARef, //
};

/// What a driver says about itself to user space.
pub(crate) struct DriverInfo {
    pub(crate) major: i32,
    pub(crate) minor: i32,
    pub(crate) patchlevel: i32,
    pub(crate) name: &'static CStr,
    pub(crate) desc: &'static CStr,
}

/// A DRM driver with a render node.
pub(crate) trait Driver: Sized + 'static {
    /// The driver's part of a device; lives until the last file is closed.
    type Data: Send + Sync;

    /// The driver's part of an open file.
    type File: DriverFile<Driver = Self>;

    /// What its ioctls wait for.
    type Wait: ioctl::Wait;

    /// Name and version.
    const INFO: DriverInfo;

    /// The ioctls, from [`declare_drm_ioctls!`](crate::declare_drm_ioctls).
    const IOCTLS: &'static [ioctl::Descriptor];

    /// Adds the driver's files to the debugfs folder of the device, with [`debugfs::add_file`](super::debugfs::add_file).
    fn add_debugfs_files(device: &Device<Self>);
}

/// A registered device. Dropping it unplugs the device: this waits for the ioctls that run, and later ones fail with
/// [`ENODEV`].
///
/// Must be dropped while the parent device is bound.
///
/// # Invariants
///
/// The device is registered.
pub(crate) struct Registration<T: Driver>(ARef<Device<T>>);

impl<T: Driver> Registration<T> {
    /// Registers `drm`; clients may open it before this returns.
    pub(crate) fn new(drm: UnregisteredDevice<T>) -> Result<Self> {
        // INVARIANT: `register` succeeded.
        Ok(Self(drm.register()?))
    }
}

impl<T: Driver> Drop for Registration<T> {
    fn drop(&mut self) {
        // SAFETY: The device is registered by the type invariant.
        unsafe { bindings::drm_dev_unplug(self.0.as_raw()) };
    }
}
