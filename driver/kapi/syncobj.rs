// SPDX-License-Identifier: GPL-2.0

//! `struct drm_syncobj`: the container in which user space sees fences.
//!
//! C headers: `include/drm/drm_syncobj.h`, `include/linux/dma-fence-chain.h`.

use super::{
    drm,
    fence::{
        Fence,
        InFence, //
    },
    raw, //
};
use core::{
    mem::ManuallyDrop,
    ptr::{
        self,
        NonNull, //
    }, //
};
use kernel::{
    error::to_result,
    prelude::*, //
};

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

    /// The last point that was added to the timeline, 0 if it has none.
    pub(crate) fn last_point(&self) -> u64 {
        // SAFETY: The syncobj is alive by the type invariant.
        unsafe { raw::mirage_drm_syncobj_last_point(self.0.as_ptr()) }
    }
}

impl Drop for Syncobj {
    fn drop(&mut self) {
        // SAFETY: By the type invariant this value owns a reference.
        unsafe { raw::mirage_drm_syncobj_put(self.0.as_ptr()) };
    }
}

/// Memory for a point of a timeline.
///
/// # Invariants
///
/// The pointer is to a `dma_fence_chain` that was allocated, not initialised, and is ours.
struct NewChain(NonNull<raw::dma_fence_chain>);

// SAFETY: It is memory that nobody else knows.
unsafe impl Send for NewChain {}

impl NewChain {
    fn alloc() -> Result<Self> {
        // SAFETY: Allocates, nothing else.
        let chain = unsafe { raw::mirage_dma_fence_chain_alloc() };
        // INVARIANT: The memory is ours.
        NonNull::new(chain).map(Self).ok_or(ENOMEM)
    }

    fn into_raw(self) -> *mut raw::dma_fence_chain {
        ManuallyDrop::new(self).0.as_ptr()
    }
}

impl Drop for NewChain {
    fn drop(&mut self) {
        // SAFETY: By the type invariant the memory is ours and holds nothing.
        unsafe { raw::mirage_dma_fence_chain_free(self.0.as_ptr()) };
    }
}

/// A place that gets a fence; from here on nothing can fail.
pub(crate) struct Signal {
    syncobj: Syncobj,
    point: Option<(u64, NewChain)>,
}

impl Signal {
    /// The fence goes in the place of the one that the syncobj has.
    pub(crate) fn binary(syncobj: Syncobj) -> Self {
        Self {
            syncobj,
            point: None,
        }
    }

    /// The fence becomes a point of a timeline.
    pub(crate) fn timeline(syncobj: Syncobj, point: u64) -> Result<Self> {
        Ok(Self {
            syncobj,
            point: Some((point, NewChain::alloc()?)),
        })
    }

    /// The last point of `syncobj` when this has been installed, if this is about it.
    pub(crate) fn point_of(&self, syncobj: &Syncobj) -> Option<u64> {
        let point = self.point.as_ref().map_or(0, |(point, _)| *point);
        (self.syncobj.0 == syncobj.0).then_some(point)
    }

    /// Puts the fence there. Does not sleep and allocates nothing.
    pub(crate) fn install(self, fence: &Fence) {
        let syncobj = self.syncobj.0.as_ptr();
        match self.point {
            // SAFETY: Both are alive; the function takes a reference on the fence.
            None => unsafe { raw::drm_syncobj_replace_fence(syncobj, fence.as_raw()) },
            // SAFETY: As above; the function takes over the chain node.
            Some((point, chain)) => unsafe {
                raw::drm_syncobj_add_point(syncobj, chain.into_raw(), fence.as_raw(), point)
            },
        }
    }
}

/// The fence in syncobj `handle`: of its timeline's `point`, or the only one if that is 0.
///
/// # Errors
///
/// `ENOENT`: there is no such syncobj. `EINVAL`: it has no fence yet, or not that point.
pub(crate) fn find_fence<F: drm::DriverFile>(
    file: &drm::File<F>,
    handle: u32,
    point: u64,
) -> Result<InFence> {
    let mut fence = ptr::null_mut();
    // SAFETY: `file` is a live `drm_file`; on success the function stores a reference in `fence`.
    to_result(unsafe { raw::drm_syncobj_find_fence(file.as_raw(), handle, point, 0, &mut fence) })?;
    // SAFETY: The reference is ours.
    unsafe { InFence::from_raw(fence) }.ok_or(EINVAL)
}
