// SPDX-License-Identifier: GPL-2.0

//! `struct drm_syncobj`: the container in which user space sees fences.
//!
//! C header: `include/drm/drm_syncobj.h`.

use super::{
    drm,
    fence::Fence,
    raw, //
};
use core::ptr::NonNull;
use kernel::prelude::*;

/// A syncobj of a client.
///
/// # Invariants
///
/// The pointer is to a syncobj of which this value owns one reference.
pub(crate) struct Syncobj(NonNull<raw::drm_syncobj>);

// SAFETY: A `drm_syncobj` is reference counted and has a lock of its own.
unsafe impl Send for Syncobj {}
// SAFETY: As above.
unsafe impl Sync for Syncobj {}

impl Syncobj {
    /// Looks up `handle` in `file`. [`ENOENT`] if there is none.
    pub(crate) fn find<F: drm::DriverFile>(file: &drm::File<F>, handle: u32) -> Result<Self> {
        // SAFETY: `file` is a live `drm_file`; the function takes the lock of its table.
        let syncobj = unsafe { raw::drm_syncobj_find(file.as_raw(), handle) };
        // INVARIANT: The function returns a reference, or null.
        NonNull::new(syncobj).map(Self).ok_or(ENOENT)
    }

    /// Puts `fence` in the place of the fence that the syncobj has.
    pub(crate) fn replace_fence(&self, fence: &Fence) {
        // SAFETY: Both are alive; the function takes a reference on the fence.
        unsafe { raw::drm_syncobj_replace_fence(self.0.as_ptr(), fence.as_raw()) };
    }
}

impl Drop for Syncobj {
    fn drop(&mut self) {
        // SAFETY: By the type invariant this value owns a reference.
        unsafe { raw::mirage_drm_syncobj_put(self.0.as_ptr()) };
    }
}
