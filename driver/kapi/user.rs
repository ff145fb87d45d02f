// SPDX-License-Identifier: GPL-2.0

//! Arrays in user memory.

use super::raw;
use core::slice;
use kernel::{
    prelude::*,
    uaccess::{
        UserPtr,
        UserSlice, //
    }, //
};

/// A structure of the user interface: all bit patterns are valid, and there is no padding.
///
/// # Safety
///
/// As said.
pub(crate) unsafe trait Plain: Default {}

// SAFETY: Made of integers that fill it.
unsafe impl Plain for raw::drm_mirage_push {}
// SAFETY: Made of integers that fill it.
unsafe impl Plain for raw::drm_mirage_sync {}

/// Copies an array of `count` elements at `addr`.
pub(crate) fn copy_array<T: Plain>(addr: u64, count: u32) -> Result<KVec<T>> {
    let mut array = KVec::with_capacity(usize::try_from(count)?, GFP_KERNEL_ACCOUNT)?;
    for _ in 0..count {
        array.push(T::default(), GFP_KERNEL_ACCOUNT)?;
    }
    let len = size_of_val::<[T]>(&array);
    // SAFETY: The memory is that of the array, borrowed for as long, and by the contract of `Plain` any bytes may be put there.
    let bytes = unsafe { slice::from_raw_parts_mut(array.as_mut_ptr().cast::<u8>(), len) };
    copy_bytes(addr, bytes)?;
    Ok(array)
}

/// Copies 32-bit words at `addr`.
pub(crate) fn copy_words(addr: u64, words: &mut [u32]) -> Result {
    copy_bytes(addr, kernel::transmute::AsBytes::as_bytes_mut(words))
}

fn copy_bytes(addr: u64, bytes: &mut [u8]) -> Result {
    if bytes.is_empty() {
        return Ok(());
    }
    let user = UserPtr::from_addr(usize::try_from(addr)?);
    UserSlice::new(user, bytes.len()).reader().read_slice(bytes)
}
