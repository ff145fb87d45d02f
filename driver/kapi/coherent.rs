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
/// The device may write at any time, so each access is one volatile load or store of 4 bytes and nothing can be borrowed.
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

    /// Reads 4 bytes at `offset`, a multiple of 4.
    pub(crate) fn read32(&self, offset: usize) -> Result<u32> {
        self.with_word(offset, |word| {
            // SAFETY: The pointer is valid and aligned. The device may write at the same time, which the kernel's memory model
            // allows for a volatile access of this size.
            unsafe { word.read_volatile() }
        })
    }

    /// Writes 4 bytes at `offset`, a multiple of 4.
    pub(crate) fn write32(&self, offset: usize, value: u32) -> Result {
        self.with_word(offset, |word| {
            // SAFETY: The pointer is valid and aligned. Other CPUs and the device may access the memory at the same time, which
            // the kernel's memory model allows for a volatile access of this size.
            unsafe { word.write_volatile(value) }
        })
    }

    /// Calls `f` with a pointer to the word at `offset`; it is inside of the buffer, aligned, and valid until `f` returns.
    fn with_word<R>(&self, offset: usize, f: impl FnOnce(*mut u32) -> R) -> Result<R> {
        const WORD: usize = size_of::<u32>();

        let end = offset.checked_add(WORD).ok_or(EINVAL)?;
        if end > self.len || offset % WORD != 0 {
            return Err(EINVAL);
        }
        self.buf
            .try_access_with(|buf| f(buf.as_mut_ptr().cast::<u8>().wrapping_add(offset).cast()))
            .ok_or(ENODEV)
    }
}
