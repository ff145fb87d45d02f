// SPDX-License-Identifier: GPL-2.0

//! `struct dma_fence`, from the side that signals and from the side that waits.
//!
//! What the kernel hands out to waiters is the C object. It outlives this module if somebody keeps it, for example in a
//! syncobj: its operations have neither `release` nor `wait`, so signalling detaches them, and its memory is freed by the
//! core. So all that must be true before the module goes is that every fence was signalled; dropping the last [`Fence`]
//! sees to that.
//!
//! C header: `include/linux/dma-fence.h`.

use super::{
    errno,
    raw, //
};
use core::{
    mem::MaybeUninit,
    ptr::NonNull, //
};
use kernel::{
    bindings,
    container_of,
    error::to_result,
    prelude::*,
    sync::{
        atomic::{
            Acquire,
            Atomic,
            AtomicFlag,
            Relaxed,
            Release, //
        },
        Arc,
        UniqueArc, //
    },
    types::{
        NotThreadSafe,
        Opaque, //
    }, //
};

/// The C object and what its operations need. Freed by `kfree_rcu()` on `base`.
#[repr(C)]
struct Inner {
    base: bindings::dma_fence,
    timeline: &'static CStr,
}

const _: () = assert!(
    core::mem::offset_of!(Inner, base) == 0,
    "dma_fence_free() frees the allocation by the address of `base`"
);

/// Memory for a fence, allocated where allocating is still allowed.
#[must_use]
pub(crate) struct NewFence {
    c: KBox<MaybeUninit<Inner>>,
    issuer: UniqueArc<MaybeUninit<Issuer>>,
}

impl NewFence {
    /// Allocates. May sleep and reclaim memory.
    pub(crate) fn alloc() -> Result<Self> {
        Ok(Self {
            c: KBox::new_uninit(GFP_KERNEL_ACCOUNT)?,
            issuer: UniqueArc::new_uninit(GFP_KERNEL_ACCOUNT)?,
        })
    }
}

/// A sequence of fences that signal in order.
pub(crate) struct FenceTimeline {
    context: u64,
    last: Atomic<u64>,
    name: &'static CStr,
}

impl FenceTimeline {
    /// Makes a timeline that is called `name` in debugfs and traces.
    pub(crate) fn new(name: &'static CStr) -> Self {
        Self {
            // SAFETY: Takes the next number of a global counter.
            context: unsafe { bindings::dma_fence_context_alloc(1) },
            last: Atomic::new(0),
            name,
        }
    }

    /// Number of the last fence that was made; 0 before the first.
    pub(crate) fn last(&self) -> u64 {
        self.last.load(Relaxed)
    }

    /// Whether `fence` is one of the timeline's.
    pub(crate) fn has(&self, fence: &InFence) -> bool {
        // SAFETY: The fence is alive by the type invariant; `context` does not change after initialisation.
        self.context == unsafe { (*fence.0.as_ptr()).context }
    }

    /// Makes the next fence of the timeline. Does not sleep.
    pub(crate) fn emit(&self, new: NewFence) -> Fence {
        let seqno = self.last.fetch_add(1u64, Relaxed).wrapping_add(1);
        let inner = KBox::into_raw(new.c).cast::<Inner>();

        // SAFETY: `inner` is a fresh allocation that nobody else knows.
        unsafe { (&raw mut (*inner).timeline).write(self.name) };
        // SAFETY: As above. The operations are static, and an inline lock is used.
        unsafe {
            bindings::dma_fence_init64(
                &raw mut (*inner).base,
                &OPS,
                core::ptr::null_mut(),
                self.context,
                seqno,
            )
        };

        // SAFETY: `inner` comes from a box.
        let inner = unsafe { NonNull::new_unchecked(inner) };
        // INVARIANT: `dma_fence_init64()` made one reference, which is handed over.
        let issuer = Issuer {
            inner,
            signaled: AtomicFlag::new(false),
        };
        Fence(new.issuer.write(issuer).into())
    }
}

/// A fence of this driver, held by those who will signal it.
///
/// When the last clone is dropped and nobody has signalled, the fence signals with `ECANCELED`.
#[derive(Clone)]
pub(crate) struct Fence(Arc<Issuer>);

impl Fence {
    /// Signals the fence, with an error if `result` is one. Only the first call has an effect. Any context.
    pub(crate) fn signal(&self, result: Result) {
        self.0.signal(result);
    }

    /// Position in its timeline; the first fence has 1.
    pub(crate) fn seqno(&self) -> u64 {
        // SAFETY: The fence is alive by the invariant of `Issuer`; `seqno` does not change after initialisation.
        unsafe { (*self.as_raw()).seqno }
    }

    /// The C object; valid as long as `self`.
    pub(super) fn as_raw(&self) -> *mut bindings::dma_fence {
        self.0.inner.as_ptr().cast()
    }
}

/// What all clones of a [`Fence`] share.
///
/// # Invariants
///
/// `inner` is an initialised fence, of which this value owns one reference.
struct Issuer {
    inner: NonNull<Inner>,
    signaled: AtomicFlag,
}

// SAFETY: A `dma_fence` is reference counted, and what is called on it here takes its lock or is atomic.
unsafe impl Send for Issuer {}
// SAFETY: As above.
unsafe impl Sync for Issuer {}

impl Issuer {
    fn signal(&self, result: Result) {
        if self.signaled.xchg(true, Relaxed) {
            return;
        }
        let fence = self.inner.as_ptr().cast();
        if let Err(error) = result {
            // SAFETY: The fence is alive by the type invariant; nobody but the winner of the exchange signals it, so it has
            // not signalled yet.
            unsafe { raw::mirage_dma_fence_set_error(fence, error.to_errno()) };
        }
        // SAFETY: The fence is alive by the type invariant.
        unsafe { bindings::dma_fence_signal(fence) };
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        self.signal(Err(errno::canceled()));
        // SAFETY: By the type invariant this value owns a reference, which nobody uses any more.
        unsafe { raw::mirage_dma_fence_put(self.inner.as_ptr().cast()) };
    }
}

static OPS: bindings::dma_fence_ops = bindings::dma_fence_ops {
    get_driver_name: Some(driver_name),
    get_timeline_name: Some(timeline_name),
    // Neither `release` nor `wait`: that would keep the fence from detaching when it signals.
    ..pin_init::zeroed()
};

extern "C" fn driver_name(_fence: *mut bindings::dma_fence) -> *const c_char {
    c"mirage".as_char_ptr()
}

/// # Safety
///
/// `fence` is the `base` of a live [`Inner`].
unsafe extern "C" fn timeline_name(fence: *mut bindings::dma_fence) -> *const c_char {
    let inner = fence.cast::<Inner>();
    // SAFETY: By the requirement of this function, and `base` is at offset 0; `timeline` was written before the fence was
    // initialised.
    unsafe { (*inner).timeline }.as_char_ptr()
}

/// A fence, of whatever driver, to wait for.
///
/// # Invariants
///
/// The pointer is to a fence of which this value owns one reference.
pub(crate) struct InFence(NonNull<bindings::dma_fence>);

// SAFETY: A `dma_fence` is reference counted and has a lock of its own.
unsafe impl Send for InFence {}
// SAFETY: As above.
unsafe impl Sync for InFence {}

impl InFence {
    /// # Safety
    ///
    /// `fence` is a fence of which the caller hands over a reference, or null.
    pub(super) unsafe fn from_raw(fence: *mut bindings::dma_fence) -> Option<Self> {
        // INVARIANT: By the requirement of this function.
        NonNull::new(fence).map(Self)
    }
}

impl Drop for InFence {
    fn drop(&mut self) {
        // SAFETY: By the type invariant this value owns a reference.
        unsafe { raw::mirage_dma_fence_put(self.0.as_ptr()) };
    }
}

/// Who is told when a fence signals.
pub(crate) trait FenceClient: Send + Sync + 'static {
    /// A fence has signalled. Called in any context, with the lock of the fence held: may neither sleep nor touch the fence.
    fn fence_signaled(this: &Arc<Self>);
}

/// A wait for a fence that blocks nobody. Dropping it ends the wait: when drop returns the client is not called any more.
///
/// # Invariants
///
/// `cb` has been given to `dma_fence_add_callback()` of `fence`, and to nothing else.
#[pin_data(PinnedDrop)]
pub(crate) struct FenceWaiter<T: FenceClient> {
    #[pin]
    cb: Opaque<bindings::dma_fence_cb>,
    fence: InFence,
    client: Arc<T>,
    signaled: Atomic<bool>,
}

// SAFETY: The list entry in `cb` is protected by the lock of the fence; everything else is `Send`.
unsafe impl<T: FenceClient> Send for FenceWaiter<T> {}
// SAFETY: As above; `signaled` is atomic.
unsafe impl<T: FenceClient> Sync for FenceWaiter<T> {}

impl<T: FenceClient> FenceWaiter<T> {
    /// Has `client` told when `fence` signals; it is not told if that has happened already.
    pub(crate) fn new(fence: InFence, client: &Arc<T>) -> Result<Pin<KBox<Self>>> {
        let client = client.clone();
        let waiter = KBox::pin_init(
            pin_init!(Self {
                cb: Opaque::zeroed(),
                fence,
                client,
                signaled: Atomic::new(false),
            }),
            GFP_KERNEL_ACCOUNT,
        )?;
        // INVARIANT: Here it is given. The result says that the fence has signalled.
        // SAFETY: The fence is alive, and `cb` stays where it is until `drop` has taken it out of the fence's list.
        let added = to_result(unsafe {
            bindings::dma_fence_add_callback(
                waiter.fence.0.as_ptr(),
                waiter.cb.get(),
                Some(Self::callback),
            )
        });
        if added.is_err() {
            waiter.signaled.store(true, Relaxed);
        }
        Ok(waiter)
    }

    /// Whether the fence has signalled, with an error or without.
    pub(crate) fn is_signaled(&self) -> bool {
        self.signaled.load(Acquire)
    }

    /// # Safety
    ///
    /// `cb` is that of a waiter that is alive.
    unsafe extern "C" fn callback(
        _fence: *mut bindings::dma_fence,
        cb: *mut bindings::dma_fence_cb,
    ) {
        let cb = cb.cast::<Opaque<bindings::dma_fence_cb>>();
        // SAFETY: By the requirement of this function; `drop` waits for this to end by the lock of the fence.
        let this = unsafe { &*container_of!(cb, Self, cb) };
        this.signaled.store(true, Release);
        T::fence_signaled(&this.client);
    }
}

#[pinned_drop]
impl<T: FenceClient> PinnedDrop for FenceWaiter<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariant `cb` was added to this fence, which is alive.
        unsafe { bindings::dma_fence_remove_callback(self.fence.0.as_ptr(), self.cb.get()) };
    }
}

/// Tells lockdep that fences depend on what is done while this lives: no memory may be allocated that waits for reclaim, and no lock taken
/// under which that, or a wait for a fence, happens.
pub(crate) struct Signalling {
    cookie: bool,
    _thread: NotThreadSafe,
}

impl Signalling {
    /// Begins a section.
    pub(crate) fn begin() -> Self {
        Self {
            // SAFETY: Only tells lockdep.
            cookie: unsafe { raw::mirage_dma_fence_begin_signalling() },
            _thread: NotThreadSafe,
        }
    }
}

impl Drop for Signalling {
    fn drop(&mut self) {
        // SAFETY: The cookie is that of this thread's `begin`.
        unsafe { raw::mirage_dma_fence_end_signalling(self.cookie) };
    }
}
