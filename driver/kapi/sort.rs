// SPDX-License-Identifier: GPL-2.0

//! Sorting. `core`'s `sort_unstable` can panic, in functions that objtool does not know to be without return.

use super::raw;
use core::{cmp::Ordering, mem::size_of};
use kernel::ffi::{c_int, c_void};

/// Sorts `items` by a key, in place, without allocating. C: `sort_r()`.
pub(crate) fn sort_by_key<T, K: Ord>(items: &mut [T], key: fn(&T) -> K) {
    // SAFETY: `items` is valid for its length, and the callback gets `key` as its last argument. The elements are swapped
    // byte by byte, which moves them.
    unsafe {
        raw::sort_r(
            items.as_mut_ptr().cast(),
            items.len(),
            size_of::<T>(),
            Some(compare::<T, K>),
            None,
            (&raw const key).cast(),
        )
    };
}

/// # Safety
///
/// `a` and `b` point to values of `T`, `key` to a `fn(&T) -> K`.
unsafe extern "C" fn compare<T, K: Ord>(
    a: *const c_void,
    b: *const c_void,
    key: *const c_void,
) -> c_int {
    // SAFETY: By the requirements of this function.
    let key = unsafe { *key.cast::<fn(&T) -> K>() };
    // SAFETY: As above; nobody writes while elements are compared.
    let a = unsafe { &*a.cast::<T>() };
    // SAFETY: As above.
    let b = unsafe { &*b.cast::<T>() };
    match key(a).cmp(&key(b)) {
        Ordering::Less => -1,
        Ordering::Equal => 0,
        Ordering::Greater => 1,
    }
}
