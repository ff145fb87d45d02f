// SPDX-License-Identifier: GPL-2.0

//! The driver's files in the debugfs folder of a device (`dri/N/`). Only root may read them.
//!
//! A file consists of records. What is kept between two reads is the position of a record and nothing else, so a file of any length
//! needs no more memory than its longest record, and what is shown may change meanwhile.
//!
//! C headers: `include/linux/debugfs.h`, `include/linux/seq_file.h`.

use super::{device::Device, driver::Driver, file::this_module};
use crate::kapi::raw;
use kernel::{bindings, prelude::*, seq_file::SeqFile};

/// A file about a device with data `D`.
pub(crate) trait DebugfsFile<D>: 'static {
    /// Its name.
    const NAME: &'static CStr;

    /// The position of the first record that is at `from` or behind it.
    fn next(data: &D, from: u64) -> Option<u64>;

    /// Writes the record at `position`. There may be none any more.
    fn show(data: &D, position: u64, seq: &SeqFile);
}

/// Adds a file. DRM removes it when the device is unregistered, and waits for those who read it.
pub(crate) fn add_file<T: Driver, F: DebugfsFile<T::Data>>(device: &Device<T>) {
    // SAFETY: The device is registered, so its folder exists; name and operations are static, and the file goes before the device.
    unsafe {
        raw::mirage_drm_debugfs_create_file(
            device.as_raw(),
            F::NAME.as_char_ptr(),
            const { &Callbacks::<T, F>::FOPS },
        )
    };
}

struct Callbacks<T: Driver, F: DebugfsFile<T::Data>>(core::marker::PhantomData<(T, F)>);

impl<T: Driver, F: DebugfsFile<T::Data>> Callbacks<T, F> {
    const FOPS: bindings::file_operations = bindings::file_operations {
        owner: this_module(),
        open: Some(Self::open),
        read: Some(bindings::seq_read),
        llseek: Some(bindings::seq_lseek),
        release: Some(bindings::seq_release),
        ..pin_init::zeroed()
    };

    const OPS: bindings::seq_operations = bindings::seq_operations {
        start: Some(Self::start),
        stop: Some(Self::stop),
        next: Some(Self::next),
        show: Some(Self::show),
    };

    /// # Safety
    ///
    /// Called by debugfs for a file that [`add_file`] made.
    unsafe extern "C" fn open(inode: *mut bindings::inode, file: *mut bindings::file) -> c_int {
        // SAFETY: The file is new; the operations are static.
        let result = unsafe { bindings::seq_open(file, const { &Self::OPS }) };
        if result == 0 {
            // SAFETY: `seq_open()` put it there.
            let seq = unsafe { (*file).private_data }.cast::<bindings::seq_file>();
            // SAFETY: debugfs passes its inode.
            let device = unsafe { (*inode).i_private };
            // SAFETY: Nobody else knows the `seq_file` yet.
            unsafe { (*seq).private = device };
        }
        result
    }

    /// # Safety
    ///
    /// Called by `seq_read()`, as all below.
    unsafe extern "C" fn start(
        seq: *mut bindings::seq_file,
        position: *mut bindings::loff_t,
    ) -> *mut c_void {
        // SAFETY: `seq_read()` passes its position, which nobody else uses.
        let position = unsafe { &mut *position };
        // SAFETY: By the requirement of this function.
        let data = unsafe { Self::data(seq) };
        let from = u64::try_from(*position).unwrap_or(u64::MAX);
        let found = F::next(data, from).and_then(|at| bindings::loff_t::try_from(at).ok());
        match found {
            Some(at) => {
                *position = at;
                // Anything but null: the position says it all.
                seq.cast()
            }
            None => {
                *position = position.saturating_add(1);
                core::ptr::null_mut()
            }
        }
    }

    unsafe extern "C" fn next(
        seq: *mut bindings::seq_file,
        _record: *mut c_void,
        position: *mut bindings::loff_t,
    ) -> *mut c_void {
        // SAFETY: `seq_read()` passes its position, which nobody else uses.
        let at = unsafe { &mut *position };
        *at = at.saturating_add(1);
        // SAFETY: As for this function.
        unsafe { Self::start(seq, position) }
    }

    unsafe extern "C" fn stop(_seq: *mut bindings::seq_file, _record: *mut c_void) {}

    unsafe extern "C" fn show(seq: *mut bindings::seq_file, _record: *mut c_void) -> c_int {
        // SAFETY: By the requirement of this function.
        let data = unsafe { Self::data(seq) };
        // SAFETY: `seq_read()` keeps the position of the record there.
        let position = unsafe { (*seq).index };
        // SAFETY: `seq` is valid for the call and used by this thread alone.
        let seq = unsafe { SeqFile::from_raw(seq) };
        F::show(data, u64::try_from(position).unwrap_or(0), seq);
        0
    }

    /// # Safety
    ///
    /// `seq` was opened by [`Self::open`], and debugfs keeps the file from being removed meanwhile.
    unsafe fn data<'a>(seq: *mut bindings::seq_file) -> &'a T::Data {
        // SAFETY: By the requirement of this function.
        let device = unsafe { (*seq).private }.cast::<bindings::drm_device>();
        // SAFETY: `add_file` gave the file the device, which outlives it.
        let device: &Device<T> = unsafe { Device::from_raw(device) };
        device
    }
}
