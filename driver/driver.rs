// SPDX-License-Identifier: GPL-2.0

//! PCI probe and DRM registration: who owns what, and in which order it goes.
//!
//! [`Bound`] is what exists while the device is bound. [`Gpu`] is shared by it, the DRM device and open files; it may
//! outlive the binding, but [`Gpu::shutdown`] has then cut it off from hardware and DMA.

use crate::{
    channel::Room,
    counters::Counters,
    file::MirageFile,
    gpu::{
        Gpu,
        GpuResources, //
    },
    kapi::{
        drm, irq,
        mmio::{
            Bar0,
            Bar1, //
        },
        pci::{
            self as kapi_pci,
            BusMaster, //
        },
    },
    regs::IntrTree,
    svm::{
        Dump,
        FaultLog, //
    }, //
};
use core::marker::PhantomData;
use kernel::{
    device::{
        self,
        Core, //
    },
    irq::IrqReturn,
    pci,
    prelude::*,
    sync::Arc, //
};

/// The virtual GPU's vendor and device ID (docs/vgpu.md).
const VENDOR_ID: u16 = 0x1234;
const DEVICE_ID: u16 = 0x6d67;

/// Page-table entries hold 47 bits of a system memory address.
const DMA_BITS: u32 = 47;

/// The PCI driver.
pub(crate) struct MirageDriver;

kapi_pci::device_table!(
    PCI_TABLE,
    MODULE_PCI_TABLE,
    [kapi_pci::device_id(VENDOR_ID, DEVICE_ID)]
);

/// What lives as long as the device is bound.
///
/// Unbinding first calls [`Gpu::stop`], so that whoever sleeps in an ioctl leaves it, then drops the fields in this order:
///
/// 1. DRM: no ioctl runs any more, none will start. Files stay open; closing them touches memory only.
/// 2. Interrupts: no handler runs any more, so nothing queues work on behalf of the device.
/// 3. GPU: work is drained, channels are killed, every page of system memory is taken back.
/// 4. Bus mastering: the device could not access memory if it still wanted to.
///
/// The mappings of the BARs go last, when the kernel releases the device's resources.
pub(crate) struct Bound<'bound> {
    _drm: drm::Registration<MirageDrm>,
    _irqs: irq::VectorPair<'bound, TreeHandler>,
    gpu: BoundGpu<'bound>,
    _bus_master: BusMaster<'bound>,
}

impl<'bound> Bound<'bound> {
    /// Brings the device up; on an error what was done is undone.
    fn new(pdev: &'bound pci::Device<Core<'_>>) -> Result<Self> {
        let bus_master = BusMaster::enable(pdev, DMA_BITS)?;
        let gpu = BoundGpu::new(pdev)?;
        let handlers = [
            TreeHandler::new(&gpu.gpu, IntrTree::Stall),
            TreeHandler::new(&gpu.gpu, IntrTree::NonStall),
        ];
        let irqs = irq::VectorPair::request(pdev, c"mirage", handlers)?;
        gpu.gpu.enable_interrupts();
        kapi_pci::handle_resets(pdev, gpu.gpu.clone())?;

        let drm = drm::UnregisteredDevice::new(pdev.as_ref(), gpu.gpu.clone())?;
        Ok(Self {
            _drm: drm::Registration::new(drm)?,
            _irqs: irqs,
            gpu,
            _bus_master: bus_master,
        })
    }
}

impl pci::Driver for MirageDriver {
    type IdInfo = ();
    type Data<'bound> = Bound<'bound>;
    const ID_TABLE: pci::IdTable<Self::IdInfo> = &PCI_TABLE;

    fn probe<'bound>(
        pdev: &'bound pci::Device<Core<'_>>,
        _info: kapi_pci::IdInfoRef<'bound, Self::IdInfo>,
    ) -> impl PinInit<Bound<'bound>, Error> + 'bound {
        let bound =
            Bound::new(pdev).inspect_err(|error| dev_err!(pdev, "probe failed: {:?}\n", error))?;
        Ok(bound)
    }

    fn unbind<'bound>(_pdev: &'bound pci::Device<Core<'_>>, this: Pin<&Bound<'bound>>) {
        this.gpu.gpu.stop();
    }
}

/// The GPU while the device is bound; shut down when this is dropped.
struct BoundGpu<'bound> {
    gpu: Arc<Gpu>,
    _bound: PhantomData<&'bound ()>,
}

impl<'bound> BoundGpu<'bound> {
    fn new(pdev: &'bound pci::Device<device::Bound>) -> Result<Self> {
        let resources = GpuResources {
            bar0: Bar0::new(pdev)?,
            bar1: Bar1::new(pdev)?,
        };
        Ok(Self {
            gpu: Gpu::new(pdev, resources)?,
            _bound: PhantomData,
        })
    }
}

impl Drop for BoundGpu<'_> {
    fn drop(&mut self) {
        self.gpu.shutdown();
    }
}

/// Handler of the vector that follows one interrupt tree.
struct TreeHandler {
    gpu: Arc<Gpu>,
    tree: IntrTree,
}

impl TreeHandler {
    fn new(gpu: &Arc<Gpu>, tree: IntrTree) -> Self {
        Self {
            gpu: gpu.clone(),
            tree,
        }
    }
}

impl irq::Handler for TreeHandler {
    fn handle(&self) -> IrqReturn {
        if self.gpu.handle_interrupt(self.tree) {
            IrqReturn::Handled
        } else {
            IrqReturn::None
        }
    }
}

/// The DRM driver.
pub(crate) struct MirageDrm;

/// The DRM device.
pub(crate) type MirageDevice<Ctx> = drm::Device<MirageDrm, Ctx>;

impl drm::Driver for MirageDrm {
    type Data = Arc<Gpu>;
    type File = MirageFile;
    type Wait = Room;

    const INFO: drm::DriverInfo = drm::DriverInfo {
        major: 0,
        minor: 1,
        patchlevel: 0,
        name: c"mirage",
        desc: c"GPU with a mirrored address space",
    };

    crate::declare_drm_ioctls! {
        MirageDrm,
        (MIRAGE_GETPARAM, drm_mirage_getparam, ioctl::RENDER_ALLOW, MirageFile::getparam),
        (MIRAGE_SVM_INIT, drm_mirage_svm_init, ioctl::RENDER_ALLOW, MirageFile::svm_init),
        (MIRAGE_SVM_BIND, drm_mirage_svm_bind, ioctl::RENDER_ALLOW, MirageFile::svm_bind),
        (MIRAGE_SVM_QUERY, drm_mirage_svm_query, ioctl::RENDER_ALLOW, MirageFile::svm_query),
        (MIRAGE_CHANNEL_ALLOC, drm_mirage_channel_alloc, ioctl::RENDER_ALLOW, MirageFile::channel_alloc),
        (MIRAGE_CHANNEL_FREE, drm_mirage_channel_free, ioctl::RENDER_ALLOW, MirageFile::channel_free),
        (MIRAGE_CHANNEL_QUERY, drm_mirage_channel_query, ioctl::RENDER_ALLOW, MirageFile::channel_query),
        (MIRAGE_CHANNEL_RESET, drm_mirage_channel_reset, ioctl::RENDER_ALLOW, MirageFile::channel_reset),
        (MIRAGE_EXEC, drm_mirage_exec, ioctl::RENDER_ALLOW, MirageFile::exec),
    }

    fn add_debugfs_files(device: &drm::Device<Self>) {
        drm::debugfs::add_file::<Self, Counters>(device);
        drm::debugfs::add_file::<Self, FaultLog>(device);
        drm::debugfs::add_file::<Self, Dump>(device);
    }
}
