// SPDX-License-Identifier: GPL-2.0

//! Table of the driver's ioctls.
//!
//! C header: `include/drm/drm_ioctl.h`.

use super::{
    device::{
        Device,
        Registered, //
    },
    driver::Driver,
    file::File, //
};
use kernel::{
    bindings,
    prelude::*, //
};

/// One entry of the table.
pub(crate) type Descriptor = bindings::drm_ioctl_desc;

/// Allowed on a render node, so for everybody who may open it.
pub(crate) const RENDER_ALLOW: u32 = bindings::drm_ioctl_flags_DRM_RENDER_ALLOW;

/// What a handler cannot go on without.
pub(crate) trait Wait {
    /// Waits. The device may be unplugged meanwhile.
    fn wait(self) -> Result;
}

/// What a handler came to: the ioctl is done, or the handler is to be called again after a wait, having changed nothing.
pub(crate) type Outcome<T> = Result<Option<<T as Driver>::Wait>>;

/// A handler of an ioctl with argument `A`. The device stays registered while it runs, so it must not run for long.
pub(crate) type Handler<T, A> =
    for<'a> fn(&'a Device<T, Registered>, &'a mut A, &'a File<<T as Driver>::File>) -> Outcome<T>;

/// Calls `handler`, or fails with [`ENODEV`] when the device was unplugged.
///
/// # Safety
///
/// Called by DRM as a handler of `T`, for an ioctl whose size is that of `A`, of which all bit patterns are valid.
pub(crate) unsafe fn dispatch<T: Driver, A>(
    device: *mut bindings::drm_device,
    data: *mut c_void,
    file: *mut bindings::drm_file,
    handler: Handler<T, A>,
) -> c_int {
    // SAFETY: DRM calls this for a device that is alive and was registered.
    let device = unsafe { Device::<T, super::device::Ioctl>::from_raw(device) };
    // SAFETY: DRM passes a buffer of the ioctl's size that it shares with nobody.
    let data = unsafe { &mut *data.cast::<A>() };
    // SAFETY: DRM passes an open file of the device.
    let file = unsafe { File::from_raw(file) };
    loop {
        let outcome = match device.registration_guard() {
            Some(device) => handler(&device, data, file),
            None => return ENODEV.to_errno(),
        };
        // With the guard gone: unplugging any DRM device waits for the guards of all.
        match outcome.and_then(|wait| wait.map(Wait::wait).transpose()) {
            Ok(Some(())) => {}
            Ok(None) => return 0,
            Err(error) => return error.to_errno(),
        }
    }
}

/// Declares the ioctls of driver `$driver`, as `(NAME, argument, flags, handler)` for `DRM_IOCTL_NAME` and
/// `struct argument` of the user interface.
///
/// The build fails if they are not in the order of their numbers, or if an argument does not have the size that its number
/// says.
#[macro_export]
macro_rules! declare_drm_ioctls {
    ($driver:ty, $(($cmd:ident, $arg:ident, $flags:expr, $handler:expr)),* $(,)?) => {
        const IOCTLS: &'static [$crate::kapi::drm::ioctl::Descriptor] = {
            use $crate::kapi::{drm::ioctl, raw};
            use raw::*;

            const _: () = {
                let number: u32 = ::kernel::uapi::DRM_COMMAND_BASE;
                $(
                    let cmd: u32 = ::kernel::macros::concat_idents!(DRM_IOCTL_, $cmd);
                    assert!(::kernel::ioctl::_IOC_NR(cmd) == number);
                    assert!(::kernel::ioctl::_IOC_SIZE(cmd) == size_of::<raw::$arg>());
                    let number = number + 1;
                )*
                let _ = number;
            };

            &[$(
                ioctl::Descriptor {
                    cmd: ::kernel::macros::concat_idents!(DRM_IOCTL_, $cmd),
                    func: {
                        /// # Safety
                        ///
                        /// Called by DRM as the handler of this ioctl.
                        #[allow(non_snake_case)]
                        unsafe extern "C" fn $cmd(
                            device: *mut ::kernel::bindings::drm_device,
                            data: *mut ::kernel::ffi::c_void,
                            file: *mut ::kernel::bindings::drm_file,
                        ) -> ::kernel::ffi::c_int {
                            let handler: ioctl::Handler<$driver, raw::$arg> = $handler;
                            // SAFETY: DRM calls this as the handler of this ioctl; the size was checked above, and the
                            // structures of the user interface are made of integers.
                            unsafe { ioctl::dispatch(device, data, file, handler) }
                        }
                        Some($cmd)
                    },
                    flags: $flags,
                    name: ::kernel::str::as_char_ptr_in_const_context(
                        ::kernel::c_str!(::core::stringify!($cmd)),
                    ),
                }
            ),*]
        };
    };
}
