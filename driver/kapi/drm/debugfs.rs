// SPDX-License-Identifier: GPL-2.0

//! The driver's file in the debugfs folder of a device (`dri/N/`).
//!
//! C header: `include/drm/drm_debugfs.h`.

use super::{
    device::Device,
    driver::Driver, //
};
use crate::kapi::raw;
use kernel::{
    bindings,
    prelude::*,
    seq_file::SeqFile, //
};

/// Adds the file. DRM removes it when the device is unregistered.
pub(super) fn add_file<T: Driver>(device: &Device<T>) {
    // SAFETY: The device is initialised, the name is static; DRM keeps both until it removes the file.
    unsafe {
        raw::mirage_drm_debugfs_add_file(
            device.as_raw(),
            T::INFO.name.as_char_ptr(),
            Some(show_callback::<T>),
        )
    };
}

/// # Safety
///
/// Called by DRM for a file that [`add_file`] made.
unsafe extern "C" fn show_callback<T: Driver>(
    seq: *mut bindings::seq_file,
    _data: *mut c_void,
) -> c_int {
    // SAFETY: `seq` is valid for the call.
    let entry = unsafe { (*seq).private }.cast::<raw::drm_debugfs_entry>();
    // SAFETY: For such a file DRM keeps its entry in `private`.
    let device = unsafe { (*entry).dev };
    // SAFETY: The file is removed before the device is released.
    let device: &Device<T> = unsafe { Device::from_raw(device) };
    // SAFETY: `seq` is valid for the call and used by this thread alone.
    let seq = unsafe { SeqFile::from_raw(seq) };
    T::show(device, seq);
    0
}
