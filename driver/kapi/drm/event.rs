// SPDX-License-Identifier: GPL-2.0

//! DRM events: records that `read(2)` on an open file returns, and `poll(2)` waits for.
//!
//! C: `drm_event_reserve_init()` and `drm_send_event()` in `drivers/gpu/drm/drm_file.c`.

use crate::kapi::raw;
use core::ptr::NonNull;
use kernel::{
    alloc::flags::__GFP_NOWARN,
    bindings,
    error::to_result,
    new_mutex,
    prelude::*,
    sync::{Arc, Mutex},
};

/// A record.
///
/// # Safety
///
/// It is `repr(C)`, begins with a `drm_event`, and has no padding.
pub(crate) unsafe trait Event: Send {
    /// Its type, in the user interface.
    const TYPE: u32;
}

// SAFETY: As the header of the user interface has it; the size below shows that there is no padding.
unsafe impl Event for raw::drm_mirage_event_fault {
    const TYPE: u32 = raw::drm_mirage_event_type_DRM_MIRAGE_EVENT_FAULT;
}

const _: () = assert!(size_of::<raw::drm_mirage_event_fault>() == 48);

/// What DRM keeps and frees.
#[repr(C)]
struct Pending<E: Event> {
    base: bindings::drm_pending_event,
    event: E,
}

/// Sends events to one open file, for as long as it is open.
#[pin_data]
pub(crate) struct EventSender {
    #[pin]
    file: Mutex<Target>,
}

/// # Invariants
///
/// The file, if there is one, is alive while the lock is held: whoever frees it calls [`EventSender::shut`] before.
struct Target(Option<NonNull<bindings::drm_file>>);

// SAFETY: DRM's own lock protects what is reached through the pointer.
unsafe impl Send for Target {}

impl EventSender {
    /// # Safety
    ///
    /// `file` is an open file, and stays alive until [`EventSender::shut`] has returned.
    pub(super) unsafe fn new(file: *mut bindings::drm_file) -> Result<Arc<Self>> {
        // INVARIANT: By the requirement of this function.
        let target = Target(NonNull::new(file));
        Arc::pin_init(
            pin_init!(Self { file <- new_mutex!(target, "mirage::events") }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// The file is being closed: nothing is sent any more.
    pub(super) fn shut(&self) {
        self.file.lock().0 = None;
    }

    /// Queues `event`. Does not wait for memory, so it may be called where fences are about to signal.
    ///
    /// # Errors
    ///
    /// `ENOMEM`: so many events wait to be read that there is no room, or there is no memory. `ENODEV`: the file is closed.
    pub(crate) fn send<E: Event>(&self, event: E) -> Result {
        let base = pin_init::zeroed();
        let pending = KBox::new(Pending { base, event }, GFP_NOWAIT | __GFP_NOWARN)?;
        let file = self.file.lock();
        let raw = file.0.ok_or(ENODEV)?.as_ptr();

        let pending = KBox::into_raw(pending);
        // SAFETY: It came from a box, and nobody else knows it yet.
        let event = unsafe { &raw mut (*pending).event }.cast::<bindings::drm_event>();
        let head = bindings::drm_event {
            type_: E::TYPE,
            // CAST: Records are a few words.
            length: size_of::<E>() as u32,
        };
        // SAFETY: The record begins with a `drm_event` by the contract of `Event`.
        unsafe { event.write(head) };
        // SAFETY: The file is alive: the lock is held (invariant of `Target`).
        let minor = unsafe { (*raw).minor };
        // SAFETY: A file keeps its minor, and that its device.
        let dev = unsafe { (*minor).dev };
        // `base` is the first field, so DRM frees all of it.
        let base = pending.cast::<bindings::drm_pending_event>();
        // SAFETY: All are alive, as above.
        let reserved =
            to_result(unsafe { bindings::drm_event_reserve_init(dev, raw, base, event) });
        if reserved.is_err() {
            // SAFETY: DRM did not take it.
            drop(unsafe { KBox::from_raw(pending) });
            return reserved;
        }
        // SAFETY: It was reserved above; DRM takes it over.
        unsafe { bindings::drm_send_event(dev, base) };
        Ok(())
    }
}

const _: () = assert!(
    core::mem::offset_of!(Pending<raw::drm_mirage_event_fault>, base) == 0,
    "DRM frees an event by the address of its `base`"
);
