// SPDX-License-Identifier: MIT OR Apache-2.0
//! Addresses as the GPU sees them: the same as the CPU's.

use std::fmt;

/// An address for the GPU. Any pointer of the process is one.
///
/// It borrows nothing and owns nothing. Making one from a pointer exposes the pointer's provenance: from then on the compiler expects
/// that someone may use the address. What the GPU may do with it is the promise made at [`Gpu::svm`](crate::Gpu::svm).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GpuPtr(u64);

impl GpuPtr {
    /// The address `addr`, be it valid or not. Launches take 49 bits.
    pub const fn new(addr: u64) -> Self {
        GpuPtr(addr)
    }

    /// The address as a number.
    pub const fn addr(self) -> u64 {
        self.0
    }

    /// The address `bytes` further on; wraps, as addresses do.
    #[must_use]
    pub const fn offset(self, bytes: u64) -> Self {
        GpuPtr(self.0.wrapping_add(bytes))
    }

    /// Lane `i` of a launch works at this address + `i * stride` bytes. A stride of 0 sends all lanes to one place.
    pub const fn stride(self, stride: u32) -> Strided {
        Strided { base: self, stride }
    }
}

impl fmt::Debug for GpuPtr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl<T> From<*mut T> for GpuPtr {
    fn from(ptr: *mut T) -> Self {
        GpuPtr(ptr.expose_provenance() as u64)
    }
}

impl<T> From<*const T> for GpuPtr {
    fn from(ptr: *const T) -> Self {
        GpuPtr(ptr.expose_provenance() as u64)
    }
}

/// Where each lane of a launch works: a base and the distance between lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strided {
    /// Address of lane 0.
    pub base: GpuPtr,
    /// Bytes from one lane to the next.
    pub stride: u32,
}

impl Strided {
    /// Lanes next to each other, as the elements of an array: `Strided::packed(vec.as_ptr())`.
    pub fn packed<T>(first: *const T) -> Self {
        // A type of 4 GiB has no use here; the device would refuse nothing, so neither does this.
        GpuPtr::from(first).stride(size_of::<T>() as u32)
    }
}
