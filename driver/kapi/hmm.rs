// SPDX-License-Identifier: GPL-2.0

//! Heterogeneous memory management: the fault loop, as types.
//!
//! `IntervalNotifier::fault` is `mmu_interval_read_begin()` and `hmm_range_fault()`. Its result, [`Faulted`], was true at
//! some sequence number and says nothing about now; all that can be done with it is [`Faulted::commit`], which takes
//! the update lock and asks `mmu_interval_read_retry()`. Only a [`Commit`] gives out [`MirroredPage`]s, and they cannot outlive it.
//!
//! C header: [`include/linux/hmm.h`](srctree/include/linux/hmm.h), Documentation/mm/hmm.rst

use super::{
    notifier::{IntervalNotifier, Mirror},
    raw,
};
use core::{marker::PhantomData, ptr};
use kernel::{
    bindings, error::to_result, mm::MmWithUser, page::PAGE_SIZE, prelude::*,
    sync::lock::mutex::MutexGuard, time::Msecs,
};

/// Longest time, in ms, until one call gives up at the next invalidation of the range.
const RETRY_BUDGET_MS: Msecs = 1000;

const REQ_FAULT: usize = raw::hmm_pfn_flags_HMM_PFN_REQ_FAULT;
const REQ_WRITE: usize = raw::hmm_pfn_flags_HMM_PFN_REQ_WRITE;
const VALID: usize = raw::hmm_pfn_flags_HMM_PFN_VALID;
const WRITE: usize = raw::hmm_pfn_flags_HMM_PFN_WRITE;

/// Whether a page that a userfaultfd handler has to supply can be faulted in: only if the mmap lock can be dropped meanwhile.
pub(crate) const USERFAULTFD: bool = cfg!(mirage_hmm_unlocked);

/// What the device needs of one page.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Need {
    /// Nothing: tell what is there.
    #[default]
    Snapshot,
    /// It must become readable.
    Read,
    /// It must become writable.
    Write,
}

impl Need {
    fn request_flags(self) -> usize {
        match self {
            Need::Snapshot => 0,
            Need::Read => REQ_FAULT,
            Need::Write => REQ_FAULT | REQ_WRITE,
        }
    }
}

/// A window to look at, or to fault in.
///
/// What is needed is the same for all its pages: where a whole page table is missing, HMM faults everything in the window as soon as
/// one page needs it.
pub(crate) struct FaultRequest<'a> {
    /// Address space of the notifier, with users.
    pub(crate) mm: &'a MmWithUser,
    /// First address, page aligned.
    pub(crate) start: usize,
    /// What each page needs.
    pub(crate) need: Need,
}

impl<M: Mirror> IntervalNotifier<M> {
    /// Looks at, or faults in, as many pages as `pfns` has entries.
    ///
    /// # Errors
    ///
    /// `EBUSY`: an invalidation came, and a second had gone by, which faults that took long are part of. `EFAULT`, `EPERM`, `EINVAL`: a needed page has no
    /// mapping, or one that does not allow the access, or no memory behind it. `ENOMEM`.
    pub(crate) fn fault<'n>(
        &'n self,
        req: &FaultRequest<'_>,
        pfns: &'n mut [usize],
    ) -> Result<Faulted<'n, M>> {
        let len = pfns.len().checked_mul(PAGE_SIZE).ok_or(EINVAL)?;
        let end = req.start.checked_add(len).ok_or(EINVAL)?;
        if req.mm.as_raw() != self.mm().as_raw() {
            return Err(EINVAL);
        }
        let mut range = raw::hmm_range {
            notifier: self.as_raw(),
            notifier_seq: 0,
            start: req.start,
            end,
            hmm_pfns: pfns.as_mut_ptr(),
            default_flags: req.need.request_flags(),
            // What is in `pfns` is not looked at, so that it need not be set again when HMM starts over.
            pfn_flags_mask: 0,
            dev_private_owner: ptr::null_mut(),
        };
        fault_with_budget(&mut range)?;
        Ok(Faulted {
            notifier: self,
            seq: range.notifier_seq,
            pfns,
        })
    }
}

/// `hmm_range_fault_unlocked_timeout()`: takes the mmap lock itself and lets fault handlers drop it.
#[cfg(mirage_hmm_unlocked)]
fn fault_with_budget(range: &mut raw::hmm_range) -> Result {
    // SAFETY: `range` is initialised, its array is as long as it says; the caller holds a reference to `mm_users`, and no mmap lock.
    to_result(unsafe {
        raw::hmm_range_fault_unlocked_timeout(
            range,
            kernel::time::msecs_to_jiffies(RETRY_BUDGET_MS),
        )
    })
}

/// The same loop for kernels that have only `hmm_range_fault()`. VMAs are looked up again on each try, and the mmap
/// lock is not held while `mmu_interval_read_begin()` waits.
#[cfg(not(mirage_hmm_unlocked))]
fn fault_with_budget(range: &mut raw::hmm_range) -> Result {
    let budget = kernel::time::Delta::from_millis(i64::from(RETRY_BUDGET_MS));
    let begin = kernel::time::Instant::<kernel::time::Monotonic>::now();
    loop {
        // SAFETY: The notifier is inserted (invariant of `IntervalNotifier`), no lock of the callback is held.
        range.notifier_seq = unsafe { bindings::mmu_interval_read_begin(range.notifier) };
        // SAFETY: As for the loop: `range` is initialised, `mm_users` is held, the mmap lock is not.
        match to_result(unsafe { raw::mirage_hmm_range_fault_locked(range) }) {
            Err(e) if e == EBUSY && begin.elapsed() < budget => continue,
            other => return other,
        }
    }
}

/// Pages that were valid at `seq`; says nothing about now.
#[must_use]
pub(crate) struct Faulted<'n, M: Mirror> {
    notifier: &'n IntervalNotifier<M>,
    seq: usize,
    pfns: &'n [usize],
}

impl<'n, M: Mirror> Faulted<'n, M> {
    /// Whether the page at position `index` of the window had what `need` says.
    pub(crate) fn has(&self, index: usize, need: Need) -> bool {
        let required = need.request_flags();
        self.pfns
            .get(index)
            .is_some_and(|pfn| pfn & required == required)
    }

    /// The sequence number that the pages were looked up at.
    pub(crate) fn seq(&self) -> u64 {
        self.seq as u64
    }

    /// Takes the update lock and checks the sequence number.
    ///
    /// # Errors
    ///
    /// `EAGAIN`: an invalidation came in between; fault again.
    pub(crate) fn commit(self) -> Result<Commit<'n, M>> {
        let guard = self.notifier.lock();
        if self.notifier.read_retry(&guard, self.seq) {
            return Err(EAGAIN);
        }
        // INVARIANT: The lock is held and no invalidation has begun since `seq`.
        Ok(Commit {
            guard,
            pfns: self.pfns,
        })
    }
}

/// Proof that the pages are current: the update lock is held and `read_retry` said no.
///
/// # Invariants
///
/// `pfns` describes the CPU page table until this value is dropped.
#[must_use]
pub(crate) struct Commit<'n, M: Mirror> {
    guard: MutexGuard<'n, M>,
    pfns: &'n [usize],
}

impl<M: Mirror> Commit<'_, M> {
    /// The locked state, and the pages that may be written into it.
    pub(crate) fn parts(&mut self) -> (&mut M, MirroredPages<'_>) {
        (&mut *self.guard, MirroredPages { pfns: self.pfns })
    }
}

/// The pages of a [`Commit`].
#[derive(Clone, Copy)]
pub(crate) struct MirroredPages<'c> {
    pfns: &'c [usize],
}

impl<'c> MirroredPages<'c> {
    /// The page at position `index` of the window, if the CPU maps one that a device may use.
    pub(crate) fn get(&self, index: usize) -> Option<MirroredPage<'c>> {
        let pfn = *self.pfns.get(index)?;
        (pfn & VALID != 0).then_some(MirroredPage {
            hmm_pfn: pfn,
            _commit: PhantomData,
        })
    }
}

/// One page that the CPU maps now; cannot outlive the [`Commit`] that it comes from, and holds no reference.
///
/// # Invariants
///
/// `hmm_pfn` has `HMM_PFN_VALID`, and the page is mapped by the CPU until the commit ends.
#[derive(Clone, Copy)]
pub(crate) struct MirroredPage<'c> {
    hmm_pfn: usize,
    _commit: PhantomData<&'c ()>,
}

impl MirroredPage<'_> {
    /// Whether the CPU may write to it through this mapping.
    pub(crate) fn writable(&self) -> bool {
        self.hmm_pfn & WRITE != 0
    }

    /// log2 of how many pages the entry of the CPU's page table maps that this page is in (`hmm_pfn_to_map_order()`).
    pub(crate) fn order(&self) -> u32 {
        // CAST: Five bits.
        (self.hmm_pfn >> raw::hmm_pfn_flags_HMM_PFN_ORDER_SHIFT & 0x1f) as u32
    }

    /// Whether it is the zero page, or part of the huge one.
    pub(crate) fn is_zero(&self) -> bool {
        // SAFETY: The page is mapped by the CPU (type invariant), so it stays what it is meanwhile.
        unsafe { raw::mirage_page_is_zero(self.as_raw()) }
    }

    /// `set_page_dirty()`: to be called before the device may write, so that reclaim never drops what it wrote.
    pub(crate) fn mark_dirty(&self) {
        // SAFETY: The page is mapped by the CPU (type invariant), so it cannot be freed or truncated meanwhile.
        unsafe { raw::mirage_set_page_dirty(self.as_raw()) };
    }

    /// Whether it is memory of `memfd_secret(2)`, which no device may see.
    pub(crate) fn is_secret(&self) -> bool {
        // SAFETY: The page is mapped by the CPU (type invariant), so it cannot be freed or truncated meanwhile.
        unsafe { raw::mirage_page_is_secret(self.as_raw()) }
    }

    /// The page, valid until the commit ends.
    pub(super) fn as_raw(&self) -> *mut bindings::page {
        // SAFETY: The number has a `struct page` (type invariant: `HMM_PFN_VALID`).
        unsafe { raw::mirage_hmm_pfn_to_page(self.hmm_pfn) }
    }
}
