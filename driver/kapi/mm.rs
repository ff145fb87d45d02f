// SPDX-License-Identifier: GPL-2.0

//! Questions about address spaces that `kernel::mm` does not answer.

use super::raw;
use kernel::{
    bindings,
    mm::{
        virt::VmaRef,
        Mm,
        MmWithUser, //
    },
    prelude::*,
    sync::aref::ARef, //
};

/// Whether the calling task runs in `mm`.
///
/// The reference to `mm` keeps the structure from being freed, so its address cannot be that of another one.
pub(crate) fn is_current(mm: &Mm) -> bool {
    current!()
        .mm()
        .is_some_and(|current| current.as_raw() == mm.as_raw())
}

/// Gives a user reference back. If it was the last, the address space is torn down later, by somebody who holds no lock of ours.
///
/// C: `mmput_async()`.
pub(crate) fn put_async(mm: ARef<MmWithUser>) {
    drop(MmWithUser::into_mmput_async(mm));
}

/// First address past what the process can map.
pub(crate) fn task_size(mm: &Mm) -> u64 {
    // SAFETY: The reference keeps the structure alive; the field does not change once the program runs.
    let size = unsafe { (*mm.as_raw()).__bindgen_anon_1.task_size };
    // CAST: `usize` has 64 bits.
    size as u64
}

/// Whether a mapping is of `memfd_secret(2)`, which no device may see.
pub(crate) fn is_secret(vma: &VmaRef) -> bool {
    // SAFETY: A reference to a VMA comes with the mmap lock, or what does for it.
    unsafe { raw::mirage_vma_is_secret(vma.as_ptr()) }
}

/// Whether an access at `address` would get SIGSEGV in a mapping that allows it: guard pages. C: `handle_mm_fault()`.
pub(crate) fn is_guarded(vma: &VmaRef, address: usize, write: bool) -> bool {
    let mut flags = bindings::fault_flag_FAULT_FLAG_REMOTE;
    if write {
        flags |= bindings::fault_flag_FAULT_FLAG_WRITE;
    }
    // SAFETY: The VMA is locked, as above, and without FAULT_FLAG_ALLOW_RETRY it stays so; there are no registers of a CPU's access.
    let fault =
        unsafe { bindings::handle_mm_fault(vma.as_ptr(), address, flags, core::ptr::null_mut()) };
    fault & bindings::vm_fault_reason_VM_FAULT_SIGSEGV != 0
}
