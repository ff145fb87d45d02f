// SPDX-License-Identifier: GPL-2.0

//! Open DRM files.
//!
//! C header: `include/drm/drm_file.h`.

use super::{
    device::Device,
    driver::Driver,
    event::EventSender, //
};
use crate::kapi::raw;
use core::{
    marker::PhantomData,
    ptr::NonNull, //
};
use kernel::{
    bindings,
    fmt,
    prelude::*,
    sync::Arc,
    types::Opaque, //
};

/// The driver's part of an open file. Dropped when the last descriptor of the file is closed (`postclose`).
pub(crate) trait DriverFile: Send + Sync + 'static {
    /// The driver that this belongs to.
    type Driver: Driver;

    /// A client opens the device.
    fn open(device: &Device<Self::Driver>) -> Result<Pin<KBox<Self>>>;

    /// Adds the driver's keys to `/proc/PID/fdinfo/FD`. The device is registered meanwhile.
    fn show_fdinfo(self: Pin<&Self>, printer: &mut Printer);
}

/// What `driver_priv` of a file points to.
struct Private<F> {
    events: Arc<EventSender>,
    inner: Pin<KBox<F>>,
}

/// An open file.
///
/// # Invariants
///
/// `self.0` is a `drm_file` that was opened through `F::open`.
#[repr(transparent)]
pub(crate) struct File<F: DriverFile>(Opaque<bindings::drm_file>, PhantomData<F>);

impl<F: DriverFile> File<F> {
    /// What the kernel does with the files of the driver; `owner` keeps the module while one is open.
    pub(super) const FOPS: bindings::file_operations = bindings::file_operations {
        owner: this_module(),
        open: Some(bindings::drm_open),
        release: Some(Self::release_callback),
        unlocked_ioctl: Some(bindings::drm_ioctl),
        // Every structure of the user interface has the same layout for 32-bit programs.
        #[cfg(CONFIG_COMPAT)]
        compat_ioctl: Some(bindings::drm_compat_ioctl),
        poll: Some(bindings::drm_poll),
        read: Some(bindings::drm_read),
        llseek: Some(bindings::noop_llseek),
        mmap: Some(bindings::drm_gem_mmap),
        show_fdinfo: Some(bindings::drm_show_fdinfo),
        fop_flags: bindings::FOP_UNSIGNED_OFFSET,
        ..pin_init::zeroed()
    };

    /// # Safety
    ///
    /// `raw` is a file that was opened through `F::open`, and is valid for `'a`.
    pub(super) unsafe fn from_raw<'a>(raw: *mut bindings::drm_file) -> &'a Self {
        // SAFETY: By the requirement of this function.
        unsafe { &*raw.cast() }
    }

    pub(in crate::kapi) fn as_raw(&self) -> *mut bindings::drm_file {
        self.0.get()
    }

    /// The number that fdinfo and debugfs know the file by (`drm-client-id`).
    pub(crate) fn client_id(&self) -> u64 {
        // SAFETY: The file is valid by the type invariant, and its number does not change.
        unsafe { (*self.as_raw()).client_id }
    }

    /// The driver's part.
    pub(crate) fn inner(&self) -> Pin<&F> {
        self.private().inner.as_ref()
    }

    /// Sends events to whoever reads the file.
    pub(crate) fn events(&self) -> &Arc<EventSender> {
        &self.private().events
    }

    fn private(&self) -> &Private<F> {
        // SAFETY: The file is valid by the type invariant, and `driver_priv` does not change while it is open.
        let private = unsafe { (*self.as_raw()).driver_priv };
        // SAFETY: `open_callback` put a box there, which `postclose_callback` drops when nobody uses the file.
        unsafe { &*private.cast() }
    }

    pub(super) extern "C" fn open_callback(
        device: *mut bindings::drm_device,
        raw: *mut bindings::drm_file,
    ) -> c_int {
        // SAFETY: DRM passes a device of this driver.
        let device = unsafe { Device::from_raw(device) };
        // SAFETY: DRM passes a file; `release_callback` and `postclose_callback` see to it that it outlives what can be sent to it.
        let events = unsafe { EventSender::new(raw) };
        let private = events.and_then(|events| {
            let inner = F::open(device)?;
            Ok(KBox::new(Private { events, inner }, GFP_KERNEL_ACCOUNT)?)
        });
        let private = match private {
            Ok(private) => KBox::into_raw(private),
            Err(error) => return error.to_errno(),
        };
        // SAFETY: DRM passes a file that nobody else knows yet.
        unsafe { (*raw).driver_priv = private.cast() };
        0
    }

    pub(super) extern "C" fn postclose_callback(
        _device: *mut bindings::drm_device,
        raw: *mut bindings::drm_file,
    ) {
        // SAFETY: DRM passes a valid file.
        let private = unsafe { (*raw).driver_priv };
        // SAFETY: `open_callback` put a box there, and DRM calls this once, when nobody uses the file any more.
        let private = unsafe { KBox::from_raw(private.cast::<Private<F>>()) };
        // Has been done already, but for a file that was never opened to the end.
        private.events.shut();
    }

    /// DRM forgets the events of a file before it calls `postclose`; nothing may be sent in between.
    extern "C" fn release_callback(
        inode: *mut bindings::inode,
        filp: *mut bindings::file,
    ) -> c_int {
        // SAFETY: The kernel passes an open DRM file.
        let raw = unsafe { (*filp).private_data }.cast();
        // SAFETY: It is one of this driver, opened through `F::open`.
        unsafe { Self::from_raw(raw) }.events().shut();
        // SAFETY: As above; called once, when the last descriptor is closed.
        unsafe { bindings::drm_release(inode, filp) }
    }

    pub(super) extern "C" fn show_fdinfo_callback(
        printer: *mut bindings::drm_printer,
        raw: *mut bindings::drm_file,
    ) {
        // SAFETY: DRM passes an open file of this driver.
        let file = unsafe { Self::from_raw(raw) };
        if let Some(printer) = NonNull::new(printer) {
            // INVARIANT: DRM's printer is valid for the call, and nobody else uses it.
            file.inner().show_fdinfo(&mut Printer(printer));
        }
    }
}

/// Where DRM wants text written to.
///
/// # Invariants
///
/// The pointer is to a valid printer that nobody else uses.
pub(crate) struct Printer(NonNull<bindings::drm_printer>);

impl Printer {
    /// Writes `args`.
    pub(crate) fn print(&mut self, args: fmt::Arguments<'_>) {
        // SAFETY: The printer is ours by the type invariant; `%pA` takes a pointer to `Arguments`.
        unsafe {
            raw::drm_printf(
                self.0.as_ptr(),
                c"%pA".as_char_ptr(),
                core::ptr::from_ref(&args).cast::<c_void>(),
            )
        };
    }
}

/// C: `THIS_MODULE`. `module!` has it too, at a place that differs between versions.
pub(super) const fn this_module() -> *mut bindings::module {
    // Without lockdep a type in it is empty, which a foreign item should not be.
    #[allow(improper_ctypes)]
    extern "C" {
        static __this_module: Opaque<bindings::module>;
    }
    // SAFETY: The module loader provides the symbol; only its address is taken.
    unsafe { __this_module.get() }
}
