// SPDX-License-Identifier: GPL-2.0

//! MMU interval notifiers.
//!
//! An [`IntervalNotifier`] ties a range of an address space to the device state that mirrors it. It owns the lock
//! that Documentation/mm/hmm.rst calls `driver->update`, and the state is inside that lock, so no code can reach the
//! state with the wrong lock or with none.
//!
//! C header: [`include/linux/mmu_notifier.h`](srctree/include/linux/mmu_notifier.h)

use super::raw;
use core::{marker::PhantomPinned, ops::Range};
use kernel::{
    bindings,
    error::to_result,
    mm::{Mm, MmWithUser},
    new_mutex,
    prelude::*,
    sync::{aref::ARef, lock::mutex::MutexGuard, Mutex},
    types::{NotThreadSafe, Opaque},
};

/// A non-blockable invalidation could not get a lock; nothing was changed.
pub(crate) struct WouldBlock;

/// Device state that mirrors CPU page tables. It lives in the update lock of its [`IntervalNotifier`].
pub(crate) trait Mirror: Send + Unpin + 'static {
    /// Removes every device mapping in `inv`; when it returns `Ok`, the device can no longer reach the pages.
    ///
    /// Must not allocate memory, nor take a lock under which memory is allocated: the core calls it from reclaim.
    ///
    /// # Errors
    ///
    /// [`WouldBlock`], only if `inv` is not blockable, and then nothing has been changed.
    fn invalidate(&mut self, inv: &Invalidation<'_>) -> Result<(), WouldBlock>;

    /// Removes every device mapping, before the notifier goes away. Same rules, but may block.
    fn detach(&mut self);
}

/// Where an invalidation happens and whether it may block. Exists only inside the callback.
pub(crate) struct Invalidation<'a> {
    range: &'a bindings::mmu_notifier_range,
    seq: usize,
    _nts: NotThreadSafe,
}

impl Invalidation<'_> {
    /// Virtual addresses whose CPU mapping is about to change.
    pub(crate) fn range(&self) -> Range<usize> {
        self.range.start..self.range.end
    }

    /// Why: a number of `enum mmu_notifier_event`.
    pub(crate) fn cause(&self) -> u32 {
        self.range.event
    }

    /// The sequence number from here on.
    pub(crate) fn seq(&self) -> u64 {
        self.seq as u64
    }

    /// Whether the callback may sleep (`mmu_notifier_range_blockable()`).
    pub(crate) fn blockable(&self) -> bool {
        self.range.flags & bindings::MMU_NOTIFIER_RANGE_BLOCKABLE != 0
    }
}

/// A registered interval notifier (`struct mmu_interval_notifier`) and the state that it protects.
///
/// # Invariants
///
/// `raw` is inserted in the interval tree of `mm` from the end of initialisation until drop.
#[pin_data(PinnedDrop)]
pub(crate) struct IntervalNotifier<M: Mirror> {
    #[pin]
    raw: Opaque<bindings::mmu_interval_notifier>,
    mm: ARef<Mm>,
    /// The `driver->update` lock.
    #[pin]
    update: Mutex<M>,
    #[pin]
    _pin: PhantomPinned,
}

// SAFETY: `mmu_interval_notifier_remove()` may run on another thread than the insertion, and `M: Send`.
unsafe impl<M: Mirror> Send for IntervalNotifier<M> {}
// SAFETY: The C side does its own locking; `M: Send` is only reached through the mutex.
unsafe impl<M: Mirror> Sync for IntervalNotifier<M> {}

impl<M: Mirror> IntervalNotifier<M> {
    const OPS: bindings::mmu_interval_notifier_ops = bindings::mmu_interval_notifier_ops {
        invalidate: Some(Self::invalidate_callback),
        ..pin_init::zeroed()
    };

    /// Registers a notifier for `range` of `mm` (`mmu_interval_notifier_insert()`).
    ///
    /// Sleeps and may take the mmap lock; the callback may run before this returns.
    pub(crate) fn new<'a>(
        mm: &'a MmWithUser,
        range: Range<usize>,
        mirror: M,
    ) -> impl PinInit<Self, Error> + 'a
    where
        M: 'a,
    {
        try_pin_init!(&this in Self {
            raw <- Opaque::zeroed(),
            mm: ARef::from(&**mm),
            update <- new_mutex!(mirror, "mirage::update"),
            _pin: PhantomPinned,
            _: {
                // SAFETY: `this` points to the memory that is being initialised; only an address is computed.
                let raw = unsafe { &raw const (*this.as_ptr()).raw };
                // SAFETY: All fields are initialised, so the callback may run from here on; the memory is pinned
                // and stays until `PinnedDrop` removes the notifier; `mm` has users.
                to_result(unsafe {
                    bindings::mmu_interval_notifier_insert(
                        Opaque::cast_into(raw),
                        mm.as_raw(),
                        range.start,
                        range.len(),
                        const { &Self::OPS },
                    )
                })?;
            },
        }? Error)
    }

    /// Removes every device mapping; the notifier stays.
    pub(crate) fn detach(&self) {
        self.update.lock().detach();
    }

    /// The address space that the notifier watches.
    pub(super) fn mm(&self) -> &Mm {
        &self.mm
    }

    /// The C notifier, inserted for as long as `self` is borrowed.
    pub(super) fn as_raw(&self) -> *mut bindings::mmu_interval_notifier {
        self.raw.get()
    }

    /// Takes the update lock. For bookkeeping; mapping pages needs a [`super::hmm::Commit`].
    pub(crate) fn lock(&self) -> MutexGuard<'_, M> {
        self.update.lock()
    }

    /// `mmu_interval_read_retry()`: whether an invalidation has begun since `seq`.
    ///
    /// The guard proves that the lock is held under which the callback sets the sequence.
    pub(super) fn read_retry(&self, _guard: &MutexGuard<'_, M>, seq: usize) -> bool {
        // SAFETY: The notifier is inserted (type invariant), and the update lock is held.
        unsafe { raw::mirage_mmu_interval_read_retry(self.raw.get(), seq) }
    }

    /// # Safety
    ///
    /// Only called by the core, on the `raw` field of an inserted notifier.
    unsafe extern "C" fn invalidate_callback(
        raw: *mut bindings::mmu_interval_notifier,
        range: *const bindings::mmu_notifier_range,
        cur_seq: usize,
    ) -> bool {
        // SAFETY: `raw` is the field of a live, pinned `Self` (type invariant).
        let this = unsafe { &*kernel::container_of!(Opaque::cast_from(raw), Self, raw) };
        let inv = Invalidation {
            // SAFETY: The core passes a range that is valid for the call.
            range: unsafe { &*range },
            seq: cur_seq,
            _nts: NotThreadSafe,
        };

        let mut mirror = if inv.blockable() {
            this.update.lock()
        } else {
            match this.update.try_lock() {
                Some(guard) => guard,
                None => return false,
            }
        };
        if mirror.invalidate(&inv).is_err() {
            return false;
        }
        // The sequence moves under the same lock as the mappings went, so `read_retry` sees both or none.
        // SAFETY: Called from the callback, with the lock held that `read_retry` is called under.
        unsafe { raw::mirage_mmu_interval_set_seq(this.raw.get(), cur_seq) };
        true
    }
}

#[pinned_drop]
impl<M: Mirror> PinnedDrop for IntervalNotifier<M> {
    fn drop(self: Pin<&mut Self>) {
        // While mappings exist the notifier must; so they go first.
        self.update.lock().detach();
        // SAFETY: The notifier is inserted (type invariant). This is not the callback: `M` cannot own `self`.
        unsafe { bindings::mmu_interval_notifier_remove(self.raw.get()) };
    }
}
