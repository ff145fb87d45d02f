// SPDX-License-Identifier: GPL-2.0

//! Questions about address spaces that `kernel::mm` does not answer.

use kernel::{
    mm::{
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
