// SPDX-License-Identifier: GPL-2.0

//! Workqueues of the driver's own, beside the system's that `kernel::workqueue` has.
//!
//! C header: `include/linux/workqueue.h`.

use core::{
    ops::Deref,
    ptr::NonNull, //
};
use kernel::{
    bindings,
    prelude::*,
    sync::Arc,
    workqueue::{
        DelayedWork,
        HasDelayedWork,
        Queue,
        Work,
        WorkItem, //
    }, //
};

/// An unbound workqueue, drained and destroyed when it is dropped.
///
/// Dropping waits for the work items, so it must not happen in one of them, nor under a lock that they take.
///
/// # Invariants
///
/// The pointer is to a workqueue that this value owns.
pub(crate) struct OwnedQueue(NonNull<bindings::workqueue_struct>);

// SAFETY: A workqueue may be used and destroyed by any thread.
unsafe impl Send for OwnedQueue {}
// SAFETY: As above; what a shared reference gives takes the workqueue's own locks.
unsafe impl Sync for OwnedQueue {}

/// What the work of a queue is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// It may wait for memory, and for programs; so many items at once, up to `WQ_MAX_ACTIVE`.
    MayWait(usize),
    /// Reclaim may wait for it, as for whatever signals fences, so it has a thread of its own when there is no memory for one.
    ForReclaim,
}

impl OwnedQueue {
    /// Makes a workqueue called `name`.
    pub(crate) fn new(name: &CStr, progress: Progress) -> Result<Self> {
        let (flags, max_active) = match progress {
            Progress::MayWait(items) => (0, i32::try_from(items)?),
            Progress::ForReclaim => (bindings::wq_flags_WQ_MEM_RECLAIM, 0),
        };
        let flags = bindings::wq_flags_WQ_UNBOUND | flags;
        // SAFETY: The format takes one string, which is copied.
        let queue = unsafe {
            bindings::alloc_workqueue_noprof(
                c"%s".as_char_ptr(),
                flags,
                max_active,
                name.as_char_ptr(),
            )
        };
        // INVARIANT: The new workqueue is ours.
        NonNull::new(queue).map(Self).ok_or(ENOMEM)
    }

    /// Waits until all work that was queued before the call has finished.
    pub(crate) fn flush(&self) {
        // SAFETY: The workqueue is alive by the type invariant.
        unsafe { bindings::__flush_workqueue(self.0.as_ptr()) };
    }
}

impl Deref for OwnedQueue {
    type Target = Queue;

    fn deref(&self) -> &Queue {
        // SAFETY: The workqueue lives as long as `self`, so as long as the reference.
        unsafe { Queue::from_raw(self.0.as_ptr()) }
    }
}

impl Drop for OwnedQueue {
    fn drop(&mut self) {
        // SAFETY: The workqueue is ours by the type invariant, and nobody can queue work on it any more.
        unsafe { bindings::destroy_workqueue(self.0.as_ptr()) };
    }
}

/// Waits until `work` has finished, if it is queued or runs. C: `flush_work()`.
pub(crate) fn flush_work<T: ?Sized, const ID: u64>(work: &Work<T, ID>) {
    // SAFETY: The pointer comes from a reference.
    let raw = unsafe { Work::raw_get(work) };
    // SAFETY: The work item is initialised, and alive as long as the reference.
    unsafe { bindings::flush_work(raw) };
}

/// Waits until the delayed work of `owner` has finished, if it runs, and takes it off its queue. C: `cancel_delayed_work_sync()`.
pub(crate) fn cancel_delayed_work<T, const ID: u64>(
    owner: &Arc<T>,
    work: fn(&T) -> &DelayedWork<T, ID>,
) where
    T: WorkItem<ID, Pointer = Arc<T>> + HasDelayedWork<T, ID>,
{
    // CAST: `DelayedWork` is a transparent wrapper.
    let raw = core::ptr::from_ref(work(owner)).cast_mut().cast();
    // SAFETY: The work item is initialised, and alive as long as the reference.
    if unsafe { bindings::cancel_delayed_work_sync(raw) } {
        // SAFETY: The item was pending, so it owned a reference that nobody will take back any more.
        drop(unsafe { Arc::from_raw(Arc::as_ptr(owner)) });
    }
}
