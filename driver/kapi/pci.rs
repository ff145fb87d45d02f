// SPDX-License-Identifier: GPL-2.0

//! What `kernel::pci` lacks, and what it spells differently from version to version.

mod reset;

pub(crate) use reset::{handle_resets, ResetHandler};

use kernel::{
    bindings,
    device::{
        Bound,
        Core, //
    },
    dma::{
        Device as _,
        DmaMask, //
    },
    pci,
    prelude::*, //
};

/// Second argument of [`pci::Driver::probe`]: newer kernels also probe devices that the table does not list.
#[cfg(mirage_pci_optional_id_info)]
pub(crate) type IdInfoRef<'bound, T> = Option<&'bound T>;
/// Second argument of [`pci::Driver::probe`].
#[cfg(not(mirage_pci_optional_id_info))]
pub(crate) type IdInfoRef<'bound, T> = &'bound T;

/// Declares the table of devices, without data of their own, that a driver takes.
#[cfg(mirage_pci_optional_id_info)]
macro_rules! device_table {
    ($table:ident, $alias:ident, [$($id:expr),* $(,)?]) => {
        kernel::pci_device_table!($table, (), [$(($id, ())),*]);
    };
}
/// Declares the table of devices, without data of their own, that a driver takes.
#[cfg(not(mirage_pci_optional_id_info))]
macro_rules! device_table {
    ($table:ident, $alias:ident, [$($id:expr),* $(,)?]) => {
        kernel::pci_device_table!($table, $alias, (), [$(($id, ())),*]);
    };
}
pub(crate) use device_table;

/// Matches a vendor and device ID. [`pci::Vendor`] lists registered vendors only. C: `PCI_DEVICE()`.
pub(crate) const fn device_id(vendor: u16, device: u16) -> pci::DeviceId {
    const ANY: u32 = !0;

    // CAST: Widening; `From` is not const.
    let id = bindings::pci_device_id {
        vendor: vendor as u32,
        device: device as u32,
        subvendor: ANY,
        subdevice: ANY,
        class: 0,
        class_mask: 0,
        driver_data: 0,
        override_only: 0,
    };
    // SAFETY: `pci::DeviceId` is a transparent wrapper of `pci_device_id` without further invariants.
    unsafe { core::mem::transmute::<bindings::pci_device_id, pci::DeviceId>(id) }
}

/// A device whose memory windows answer and that may access system memory; dropping this takes the latter away.
pub(crate) struct BusMaster<'bound>(&'bound pci::Device<Bound>);

impl<'bound> BusMaster<'bound> {
    /// Enables `pdev`, which drives `dma_bits` address bits.
    pub(crate) fn enable(
        pdev: &'bound pci::Device<Core<'_>>,
        dma_bits: u32,
    ) -> Result<BusMaster<'bound>> {
        pdev.enable_device_mem()?;
        let master = Self(pdev);
        // SAFETY: A `Core` reference exists in callbacks of the bus only, and this driver enables the device first thing in
        // `probe`, so nothing allocates or maps memory for the device yet.
        unsafe { pdev.dma_set_mask_and_coherent(DmaMask::try_new(dma_bits)?)? };
        pdev.set_master();
        Ok(master)
    }
}

impl Drop for BusMaster<'_> {
    fn drop(&mut self) {
        // CAST: `pci::Device` is a transparent wrapper of `pci_dev`.
        let pdev = core::ptr::from_ref(self.0)
            .cast_mut()
            .cast::<bindings::pci_dev>();
        // SAFETY: The device is bound and was enabled in `enable`. Besides undoing that, this clears bus mastering.
        unsafe { bindings::pci_disable_device(pdev) };
    }
}
