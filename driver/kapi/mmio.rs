// SPDX-License-Identifier: GPL-2.0

//! The two memory windows of the device: registers (BAR0) and VRAM (BAR1).
//!
//! Both are `'static` and may outlive the binding of the device, since open files do. Access is revoked when the device is
//! unbound: from then on reads give all ones and writes are dropped, as if the device had been pulled out.

use super::raw;
use kernel::{
    device::Bound,
    io::{
        register,
        Io, //
    },
    pci,
    prelude::*, //
};

/// Size of the register space in bytes.
const BAR0_SIZE: usize = 0x100_0000;

#[cfg(mirage_io_region)]
type DevresBar<const SIZE: usize> = pci::DevresBar<SIZE>;
#[cfg(not(mirage_io_region))]
type DevresBar<const SIZE: usize> = kernel::devres::Devres<pci::Bar<'static, SIZE>>;

/// Where a 32-bit register of type `T` is: what [`register!`] makes.
#[cfg(mirage_io_region)]
pub(crate) trait Location<T>:
    kernel::io::IoLoc<kernel::io::Region<BAR0_SIZE>, T, IoType = u32>
{
}
#[cfg(mirage_io_region)]
impl<T, L> Location<T> for L where
    L: kernel::io::IoLoc<kernel::io::Region<BAR0_SIZE>, T, IoType = u32>
{
}

/// Where a 32-bit register of type `T` is: what [`register!`] makes.
#[cfg(not(mirage_io_region))]
pub(crate) trait Location<T>: kernel::io::IoLoc<T, IoType = u32> {}
#[cfg(not(mirage_io_region))]
impl<T, L> Location<T> for L where L: kernel::io::IoLoc<T, IoType = u32> {}

/// The register space.
///
/// # Examples
///
/// ```ignore
/// register! {
///     /// Pending interrupts of a tree.
///     pub(crate) NV_PMC_INTR(u32)[2, stride = 4] @ 0x100 {
///         9:9 hub => bool;
///     }
/// }
///
/// let hub = bar0.read(NV_PMC_INTR::try_at(tree).ok_or(EINVAL)?).hub();
/// ```
pub(crate) struct Bar0(DevresBar<BAR0_SIZE>);

impl Bar0 {
    const INDEX: u32 = 0;

    /// Requests and maps the register space of `pdev`.
    pub(crate) fn new(pdev: &pci::Device<Bound>) -> Result<Self> {
        pdev.iomap_region_sized::<BAR0_SIZE>(Self::INDEX, c"mirage")?
            .into_devres()
            .map(Self)
    }

    /// Reads a register; all ones when the device is gone.
    pub(crate) fn read<T, L>(&self, location: L) -> T
    where
        T: From<u32>,
        L: Location<T>,
    {
        // The check at run time costs nothing beside the access, and is what a register array with an index needs anyway.
        self.0
            .try_access_with(|bar| bar.try_read(location))
            .and_then(Result::ok)
            .unwrap_or_else(|| T::from(u32::MAX))
    }

    /// Writes a register; dropped when the device is gone.
    pub(crate) fn write<T, L>(&self, location: L, value: T)
    where
        L: Location<T>,
    {
        // Failure means that the device is gone, which every later read will show.
        let _ = self.0.try_access_with(|bar| bar.try_write(location, value));
    }

    /// Writes a register that has one fixed place, given by its type.
    pub(crate) fn write_reg<T>(&self, value: T)
    where
        T: register::FixedRegister<Storage = u32>,
        register::FixedRegisterLoc<T>: Location<T>,
    {
        self.write(register::FixedRegisterLoc::<T>::new(), value);
    }
}

/// The window on VRAM. An offset into it is an offset into VRAM.
pub(crate) struct Bar1 {
    bar: DevresBar<0>,
    len: usize,
}

impl Bar1 {
    const INDEX: u32 = 1;

    /// How much [`Bar1::zero`] writes in one go. While it does, the window cannot be revoked.
    const ZERO_CHUNK: usize = 4096;

    /// Requests and maps the VRAM of `pdev`.
    pub(crate) fn new(pdev: &pci::Device<Bound>) -> Result<Self> {
        let len = usize::try_from(pdev.resource_len(Self::INDEX)?)?;
        let bar = pdev.iomap_region(Self::INDEX, c"mirage")?.into_devres()?;
        Ok(Self { bar, len })
    }

    /// Size in bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Writes 4 bytes at `offset`, a multiple of 4; dropped when the device is gone, [`EINVAL`] outside of the window.
    pub(crate) fn write32(&self, offset: usize, value: u32) -> Result {
        self.bar
            .try_access_with(|bar| bar.try_write32(value, offset))
            .unwrap_or(Ok(()))
    }

    /// Writes 8 bytes at `offset`, a multiple of 8; dropped when the device is gone, [`EINVAL`] outside of the window.
    pub(crate) fn write64(&self, offset: usize, value: u64) -> Result {
        self.bar
            .try_access_with(|bar| bar.try_write64(value, offset))
            .unwrap_or(Ok(()))
    }

    /// Writes 8-byte words from `offset` on, a multiple of 8; dropped when the device is gone, [`EINVAL`] outside of the window.
    pub(crate) fn write64s(&self, offset: usize, words: &[u64]) -> Result {
        let mut words = (offset..).step_by(size_of::<u64>()).zip(words);
        self.bar
            .try_access_with(|bar| words.try_for_each(|(at, word)| bar.try_write64(*word, at)))
            .unwrap_or(Ok(()))
    }

    /// Fills `len` bytes from `offset` on with zeroes; both are multiples of 8.
    pub(crate) fn zero(&self, offset: usize, len: usize) -> Result {
        const WORD: usize = size_of::<u64>();

        let end = offset.checked_add(len).ok_or(EINVAL)?;
        if end > self.len || offset % WORD != 0 || len % WORD != 0 {
            return Err(EINVAL);
        }
        for chunk in (offset..end).step_by(Self::ZERO_CHUNK) {
            let mut words = (chunk..end.min(chunk + Self::ZERO_CHUNK)).step_by(WORD);
            self.bar
                .try_access_with(|bar| words.try_for_each(|at| bar.try_write64(0, at)))
                .unwrap_or(Ok(()))?;
        }
        Ok(())
    }
}

/// Orders writes to VRAM and to coherent memory before register writes that follow. C: `wmb()`.
pub(crate) fn wmb() {
    // SAFETY: A barrier has no preconditions.
    unsafe { raw::mirage_wmb() }
}

/// Orders reads of coherent memory that the device writes. C: `rmb()`.
pub(crate) fn rmb() {
    // SAFETY: A barrier has no preconditions.
    unsafe { raw::mirage_rmb() }
}
