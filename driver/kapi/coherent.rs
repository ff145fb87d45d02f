// SPDX-License-Identifier: GPL-2.0

//! Memory that CPU and device share without cache maintenance.

use kernel::{
    device::{
        self,
        Bound, //
    },
    devres::Devres,
    dma::Coherent,
    prelude::*, //
};

/// A zeroed, page-aligned buffer in system memory that the device reads and writes at will.
///
/// The buffer is freed when it is dropped, or when the device is unbound; from then on every access is [`ENODEV`]. Whoever
/// gave its address to the device takes it back before either happens.
///
/// The device may write at any time, so each access is one volatile load or store of that size and nothing can be borrowed.
pub(crate) struct CoherentBuf {
    buf: Devres<Coherent<[u8]>>,
    dma_addr: u64,
    len: usize,
}

impl CoherentBuf {
    /// Allocates `size` bytes for `dev`.
    pub(crate) fn new(dev: &device::Device<Bound>, size: usize) -> Result<Self> {
        let buf = Coherent::<u8>::zeroed_slice(dev, size, GFP_KERNEL)?;
        #[cfg(mirage_dma_address)]
        let dma_addr = buf.dma_address();
        #[cfg(not(mirage_dma_address))]
        let dma_addr = buf.dma_handle();
        Ok(Self {
            buf: Devres::new(dev, buf)?,
            dma_addr,
            len: size,
        })
    }

    /// Where the device sees the buffer.
    pub(crate) fn dma_addr(&self) -> u64 {
        self.dma_addr
    }

    /// Size in bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Reads 4 bytes at `offset`, a multiple of 4.
    pub(crate) fn read32(&self, offset: usize) -> Result<u32> {
        self.read(offset)
    }

    /// Reads 8 bytes at `offset`, a multiple of 8.
    pub(crate) fn read64(&self, offset: usize) -> Result<u64> {
        self.read(offset)
    }

    /// Writes 4 bytes at `offset`, a multiple of 4.
    pub(crate) fn write32(&self, offset: usize, value: u32) -> Result {
        self.write(offset, value)
    }

    /// Writes 8 bytes at `offset`, a multiple of 8.
    pub(crate) fn write64(&self, offset: usize, value: u64) -> Result {
        self.write(offset, value)
    }

    /// Copies `data` to `offset`, byte by byte.
    pub(crate) fn write_slice(&self, offset: usize, data: &[u8]) -> Result {
        let end = offset.checked_add(data.len()).ok_or(EINVAL)?;
        if end > self.len {
            return Err(EINVAL);
        }
        (offset..end)
            .zip(data)
            .try_for_each(|(at, &byte)| self.write(at, byte))
    }

    /// Fills the buffer with zeroes.
    pub(crate) fn zero(&self) -> Result {
        (0..self.len).try_for_each(|at| self.write(at, 0u8))
    }

    /// Reads one value.
    fn read<T: FromBytes>(&self, offset: usize) -> Result<T> {
        self.with_ptr(offset, |ptr: *mut T| {
            // SAFETY: `with_ptr` gives a pointer that is valid and aligned for `T`, and any bits are a `T`. The device may
            // write at the same time, which the kernel's memory model allows for volatile accesses of up to 8 bytes.
            unsafe { ptr.read_volatile() }
        })
    }

    /// Writes one value.
    fn write<T: IntoBytes>(&self, offset: usize, value: T) -> Result {
        self.with_ptr(offset, |ptr: *mut T| {
            // SAFETY: `with_ptr` gives a pointer that is valid and aligned for `T`. Other CPUs and the device may access the
            // memory at the same time, which the kernel's memory model allows for volatile accesses of up to 8 bytes.
            unsafe { ptr.write_volatile(value) }
        })
    }

    /// Calls `f` with a pointer to the `T` at `offset`; it is inside of the buffer, aligned, and valid until `f` returns.
    fn with_ptr<T, R>(&self, offset: usize, f: impl FnOnce(*mut T) -> R) -> Result<R> {
        let end = offset.checked_add(size_of::<T>()).ok_or(EINVAL)?;
        if end > self.len || offset % align_of::<T>() != 0 {
            return Err(EINVAL);
        }
        self.buf
            .try_access_with(|buf| f(buf.as_mut_ptr().cast::<u8>().wrapping_add(offset).cast()))
            .ok_or(ENODEV)
    }
}
