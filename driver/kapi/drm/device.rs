// SPDX-License-Identifier: GPL-2.0

//! DRM device.
//!
//! C header: `include/drm/drm_device.h`.

use super::{
    driver::Driver,
    file::File, //
};
use core::{
    alloc::Layout,
    marker::PhantomData,
    mem::offset_of,
    ops::Deref,
    ptr::NonNull, //
};
use kernel::{
    alloc::allocator::Kmalloc,
    bindings,
    container_of,
    device::{
        self,
        Bound, //
    },
    error::{
        from_err_ptr,
        to_result, //
    },
    prelude::*,
    sync::aref::{
        ARef,
        AlwaysRefCounted, //
    },
    types::{
        NotThreadSafe,
        Opaque, //
    }, //
};

/// What is known about a [`Device`].
pub(crate) trait DeviceContext: Send + Sync + 'static {}

/// Nothing but that it is initialised: the context of reference counted devices.
pub(crate) struct Normal;
impl DeviceContext for Normal {}

/// It was registered once, and may have been unplugged since.
pub(crate) struct Ioctl;
impl DeviceContext for Ioctl {}

/// It is registered, and its parent device is bound.
pub(crate) struct Registered;
impl DeviceContext for Registered {}

/// A DRM device and the driver's data for it, reference counted by DRM.
///
/// # Invariants
///
/// `dev` is initialised, and what `C` says is true for as long as the reference lives.
#[repr(C)]
pub(crate) struct Device<T: Driver, C: DeviceContext = Normal> {
    dev: Opaque<bindings::drm_device>,
    data: T::Data,
    _context: PhantomData<C>,
}

impl<T: Driver> Device<T> {
    const FEATURES: u32 = bindings::drm_driver_feature_DRIVER_GEM
        | bindings::drm_driver_feature_DRIVER_RENDER
        | bindings::drm_driver_feature_DRIVER_SYNCOBJ
        | bindings::drm_driver_feature_DRIVER_SYNCOBJ_TIMELINE;

    const VTABLE: bindings::drm_driver = bindings::drm_driver {
        open: Some(File::<T::File>::open_callback),
        postclose: Some(File::<T::File>::postclose_callback),
        show_fdinfo: Some(File::<T::File>::show_fdinfo_callback),
        release: Some(Self::release),
        major: T::INFO.major,
        minor: T::INFO.minor,
        patchlevel: T::INFO.patchlevel,
        name: kernel::str::as_char_ptr_in_const_context(T::INFO.name).cast_mut(),
        desc: kernel::str::as_char_ptr_in_const_context(T::INFO.desc).cast_mut(),
        driver_features: Self::FEATURES,
        ioctls: T::IOCTLS.as_ptr(),
        // CAST: An ioctl number has 8 bits.
        num_ioctls: T::IOCTLS.len() as c_int,
        fops: const { &File::<T::File>::FOPS },
        ..pin_init::zeroed()
    };

    extern "C" fn release(raw: *mut bindings::drm_device) {
        // SAFETY: DRM calls this once, for a device that `UnregisteredDevice::new` completed, when the last reference is gone.
        let this = unsafe { Self::from_drm_device(raw) };
        // SAFETY: As above. DRM frees the memory.
        unsafe { core::ptr::drop_in_place(&raw mut (*this).data) };
    }
}

impl<T: Driver, C: DeviceContext> Device<T, C> {
    pub(super) fn as_raw(&self) -> *mut bindings::drm_device {
        self.dev.get()
    }

    /// # Safety
    ///
    /// `raw` points to the `dev` of a `Self`.
    unsafe fn from_drm_device(raw: *const bindings::drm_device) -> *mut Self {
        // SAFETY: By the requirement of this function.
        unsafe { container_of!(Opaque::cast_from(raw), Self, dev) }.cast_mut()
    }

    /// # Safety
    ///
    /// `raw` points to the `dev` of a live `Self`, for `'a`, and what `C` says is true.
    pub(super) unsafe fn from_raw<'a>(raw: *const bindings::drm_device) -> &'a Self {
        // SAFETY: By the requirement of this function.
        let this = unsafe { Self::from_drm_device(raw) };
        // SAFETY: As above.
        unsafe { &*this }
    }

    /// # Safety
    ///
    /// What `New` says is true for as long as the reference lives.
    unsafe fn assume<New: DeviceContext>(&self) -> &Device<T, New> {
        // SAFETY: The types differ in a marker only.
        unsafe { &*core::ptr::from_ref(self).cast() }
    }
}

impl<T: Driver> Device<T, Ioctl> {
    /// Keeps the device registered while the guard lives; [`None`] if it was unplugged. C: `drm_dev_enter()`.
    pub(super) fn registration_guard(&self) -> Option<RegistrationGuard<'_, T>> {
        let mut index = 0;
        // SAFETY: The device is initialised.
        if !unsafe { bindings::drm_dev_enter(self.as_raw(), &mut index) } {
            return None;
        }
        Some(RegistrationGuard {
            // SAFETY: It was registered, and `drm_dev_unplug()`, which runs before the parent is unbound, waits for us.
            dev: unsafe { self.assume() },
            index,
            _not_send: NotThreadSafe,
        })
    }
}

/// A section in which the device stays registered.
///
/// # Invariants
///
/// `index` comes from a `drm_dev_enter()` that succeeded.
#[must_use]
pub(super) struct RegistrationGuard<'a, T: Driver> {
    dev: &'a Device<T, Registered>,
    index: c_int,
    _not_send: NotThreadSafe,
}

impl<T: Driver> Deref for RegistrationGuard<'_, T> {
    type Target = Device<T, Registered>;

    fn deref(&self) -> &Self::Target {
        self.dev
    }
}

impl<T: Driver> Drop for RegistrationGuard<'_, T> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant.
        unsafe { bindings::drm_dev_exit(self.index) };
    }
}

impl<T: Driver> Deref for Device<T> {
    type Target = T::Data;

    fn deref(&self) -> &T::Data {
        &self.data
    }
}

impl<T: Driver> Deref for Device<T, Registered> {
    type Target = Device<T>;

    fn deref(&self) -> &Device<T> {
        // SAFETY: `Normal` says nothing more than `Registered`.
        unsafe { self.assume() }
    }
}

// SAFETY: DRM devices are reference counted; the memory is freed with the last reference.
unsafe impl<T: Driver> AlwaysRefCounted for Device<T> {
    fn inc_ref(&self) {
        // SAFETY: The reference proves that the count is not zero.
        unsafe { bindings::drm_dev_get(self.as_raw()) };
    }

    unsafe fn dec_ref(obj: NonNull<Self>) {
        // SAFETY: By the requirement of this function; `dev` is at offset 0 of a `repr(C)` type.
        unsafe { bindings::drm_dev_put(obj.as_ptr().cast()) };
    }
}

// SAFETY: A DRM device may be released from any thread, and `T::Data` is `Send`.
unsafe impl<T: Driver, C: DeviceContext> Send for Device<T, C> {}

// SAFETY: What a shared reference gives is synchronised by DRM, and `T::Data` is `Sync`.
unsafe impl<T: Driver, C: DeviceContext> Sync for Device<T, C> {}

/// A device that is initialised but not registered yet.
///
/// # Invariants
///
/// The device was never registered.
pub(crate) struct UnregisteredDevice<T: Driver>(ARef<Device<T>>, NotThreadSafe);

impl<T: Driver> UnregisteredDevice<T> {
    /// Makes a DRM device below `parent`, with the driver's `data`.
    pub(crate) fn new(parent: &device::Device<Bound>, data: T::Data) -> Result<Self> {
        // DRM allocates with `kmalloc()`, which aligns to the size if that is a power of two.
        let layout = Kmalloc::aligned_layout(Layout::new::<Device<T>>());
        // CAST: `device::Device` is a transparent wrapper of `struct device`.
        let parent = core::ptr::from_ref(parent).cast_mut().cast();

        // SAFETY: The parent is valid, the vtable is static, and `Device<T>` has a `drm_device` at the offset that is given.
        let raw = unsafe {
            bindings::__drm_dev_alloc(
                parent,
                const { &Device::<T>::VTABLE },
                layout.size(),
                offset_of!(Device<T>, dev),
            )
        };
        let raw = NonNull::new(from_err_ptr(raw.cast::<Device<T>>())?).ok_or(ENOMEM)?;

        // Nothing between the allocation and this can drop the reference, so `release` always finds the data.
        //
        // SAFETY: The memory is ours and big enough.
        unsafe { (&raw mut (*raw.as_ptr()).data).write(data) };

        // INVARIANT: Not registered yet.
        //
        // SAFETY: `__drm_dev_alloc()` made one reference, which is handed over.
        Ok(Self(unsafe { ARef::from_raw(raw) }, NotThreadSafe))
    }

    /// Registers the device with DRM.
    pub(super) fn register(self) -> Result<ARef<Device<T>>> {
        // SAFETY: The device is initialised and not registered.
        to_result(unsafe { bindings::drm_dev_register(self.0.as_raw(), 0) })?;
        T::add_debugfs_files(&self.0);
        Ok(self.0)
    }
}
