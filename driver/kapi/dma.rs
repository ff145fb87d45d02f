// SPDX-License-Identifier: GPL-2.0

//! Streaming DMA mappings of mirrored pages.
//!
//! Mirrored pages break the ownership rules of the streaming API: CPU and device use them at the same time. So
//! a device that would need bounce buffers or cache maintenance is refused, and mappings skip the CPU synchronisation.
//!
//! C header: [`include/linux/dma-mapping.h`](srctree/include/linux/dma-mapping.h)

use super::{coherent::CoherentBuf, errno, hmm::MirroredPage, raw};
use kernel::{
    bindings,
    device::{self, Bound},
    pci,
    prelude::*,
    sync::aref::ARef,
};

/// A bus address as the device sees system memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DmaAddr(pub(crate) u64);

/// A device that mirrors pages.
///
/// # Invariants
///
/// The device is bound to the driver for as long as the methods are called: whoever owns this value gives all mappings
/// back, and stops asking for new ones, before unbind returns.
pub(crate) struct MirrorDma {
    pdev: ARef<pci::Device>,
}

impl MirrorDma {
    /// Checks that `pdev` can address all memory, coherently and without bounce buffers.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP` if it cannot.
    pub(crate) fn new(pdev: &pci::Device<Bound>) -> Result<Self> {
        // INVARIANT: Bound now; the owner keeps the rest.
        let this = Self { pdev: pdev.into() };
        // SAFETY: The device is bound.
        if unsafe { raw::mirage_dma_needs_bounce(this.raw()) } {
            dev_err!(pdev, "DMA would need bounce buffers or cache maintenance\n");
            return Err(errno::not_supported());
        }
        Ok(this)
    }

    /// The device, for messages.
    pub(crate) fn dev(&self) -> &device::Device {
        (*self.pdev).as_ref()
    }

    fn raw(&self) -> *mut bindings::device {
        // CAST: `device::Device` is a transparent wrapper of `struct device`.
        core::ptr::from_ref(self.dev()).cast_mut().cast()
    }

    /// Allocates memory that CPU and device share.
    pub(crate) fn coherent(&self, size: usize) -> Result<CoherentBuf> {
        // SAFETY: The device is bound (type invariant), and `device::Device` has the same layout in all contexts.
        let dev = unsafe { &*core::ptr::from_ref(self.dev()).cast::<device::Device<Bound>>() };
        CoherentBuf::new(dev, size)
    }

    /// Takes the device off the bus for good (`pci_clear_master()`): it can no longer reach system memory. Does not sleep.
    pub(crate) fn stop(&self) {
        let pdev: &pci::Device = &self.pdev;
        // CAST: `pci::Device` is a transparent wrapper of `struct pci_dev`.
        let raw = core::ptr::from_ref(pdev).cast_mut().cast();
        // SAFETY: The reference keeps the device alive.
        unsafe { bindings::pci_clear_master(raw) };
    }

    /// Maps one page for reading and writing. Does not sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`: no I/O virtual address.
    pub(crate) fn map(&self, page: MirroredPage<'_>) -> Result<DmaAddr> {
        // SAFETY: The device is bound (type invariant); the page is mapped by the CPU until the commit ends, and
        // the notifier makes us unmap it before it goes.
        let addr = unsafe { raw::mirage_dma_map_page(self.raw(), page.as_raw()) };
        // SAFETY: `addr` comes from the call above.
        if unsafe { raw::mirage_dma_mapping_error(self.raw(), addr) } {
            return Err(ENOMEM);
        }
        Ok(DmaAddr(addr))
    }

    /// Gives a page's mapping back. Does not sleep.
    pub(crate) fn unmap(&self, addr: DmaAddr) {
        // SAFETY: The device is bound (type invariant). An address that was not mapped would be found by
        // CONFIG_DMA_API_DEBUG, and cannot reach memory that the driver does not own.
        unsafe { raw::mirage_dma_unmap_page(self.raw(), addr.0) };
    }
}
