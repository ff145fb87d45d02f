// SPDX-License-Identifier: GPL-2.0

//! Telling a driver of a reset of its device (`reset_prepare` and `reset_done` of `struct pci_error_handlers`), which `kernel::pci` does
//! not do.

use core::{mem::ManuallyDrop, ptr};
use kernel::{
    bindings,
    device::Core,
    ffi::c_void,
    pci,
    prelude::*,
    sync::Arc, //
};

/// What wants to know of resets of its device. Both are called with the device locked: it is neither bound nor unbound meanwhile.
pub(crate) trait ResetHandler: Send + Sync + 'static {
    /// The device is about to be reset.
    fn reset_prepare(self: &Arc<Self>);

    /// It was reset; its configuration space is as it was before.
    fn reset_done(self: &Arc<Self>);
}

/// Has `handler` called for resets of `pdev`, until that is unbound.
///
/// All devices of a driver have handlers of the same type.
pub(crate) fn handle_resets<H: ResetHandler>(
    pdev: &pci::Device<Core<'_>>,
    handler: Arc<H>,
) -> Result {
    // CAST: `pci::Device` is a transparent wrapper of `pci_dev`.
    let pdev: *mut bindings::pci_dev = ptr::from_ref(pdev).cast_mut().cast();
    // SAFETY: The arguments say: a pointer's size of memory, from any node.
    let res = unsafe {
        bindings::__devres_alloc_node(
            Some(release::<H>),
            size_of::<*const H>(),
            bindings::GFP_KERNEL,
            bindings::NUMA_NO_NODE,
            c"mirage_reset".as_char_ptr(),
        )
    };
    if res.is_null() {
        return Err(ENOMEM);
    }
    // SAFETY: `res` is new, large enough and aligned for a pointer.
    unsafe { res.cast::<*const H>().write(handler.into_raw()) };
    // SAFETY: The device is valid and being bound; it owns `res` from here on.
    unsafe { bindings::devres_add(&raw mut (*pdev).dev, res) };
    // SAFETY: The device is being probed, so `driver` points to its driver.
    let driver = unsafe { (*pdev).driver };
    // SAFETY: The structure is alive while devices are bound. All writers write the same pointer; it is read with the device
    // locked, after this.
    unsafe { (&raw mut (*driver).err_handler).write_volatile(const { &handlers::<H>() }) };
    Ok(())
}

const fn handlers<H: ResetHandler>() -> bindings::pci_error_handlers {
    bindings::pci_error_handlers {
        reset_prepare: Some(reset_prepare::<H>),
        reset_done: Some(reset_done::<H>),
        ..pin_init::zeroed()
    }
}

/// # Safety
///
/// Called by devres only, with memory that [`handle_resets`] has filled in.
unsafe extern "C" fn release<H>(_dev: *mut bindings::device, res: *mut c_void) {
    // SAFETY: By the requirement of this function.
    let raw = unsafe { res.cast::<*const H>().read() };
    // SAFETY: The memory owned this reference, and is being freed.
    drop(unsafe { Arc::from_raw(raw) });
}

/// # Safety
///
/// `pdev` is a device whose driver has called [`handle_resets`]; it is locked.
unsafe extern "C" fn reset_prepare<H: ResetHandler>(pdev: *mut bindings::pci_dev) {
    // SAFETY: By the requirement of this function.
    if let Some(handler) = unsafe { handler::<H>(pdev) } {
        handler.reset_prepare();
    }
}

/// # Safety
///
/// As for [`reset_prepare`].
unsafe extern "C" fn reset_done<H: ResetHandler>(pdev: *mut bindings::pci_dev) {
    // SAFETY: By the requirement of this function.
    if let Some(handler) = unsafe { handler::<H>(pdev) } {
        handler.reset_done();
    }
}

/// The handler of a device; none if its probe has failed or not come so far.
///
/// # Safety
///
/// `pdev` is valid and locked; the result is not used when it is no more.
unsafe fn handler<H>(pdev: *mut bindings::pci_dev) -> Option<ManuallyDrop<Arc<H>>> {
    // SAFETY: The device is valid; no function is called back.
    let res = unsafe {
        bindings::devres_find(
            &raw mut (*pdev).dev,
            Some(release::<H>),
            None,
            ptr::null_mut(),
        )
    };
    if res.is_null() {
        return None;
    }
    // SAFETY: Memory with this release function was filled in by `handle_resets`.
    let raw = unsafe { res.cast::<*const H>().read() };
    // SAFETY: The memory owns a reference for as long as the device is bound, which cannot end while it is locked; this one is never dropped.
    Some(ManuallyDrop::new(unsafe { Arc::from_raw(raw) }))
}
