// SPDX-License-Identifier: MIT OR Apache-2.0
//! Serves a [`Gpu`] as a vfio-user device: the only module that knows the protocol, on the `vfio_user` crate.
//!
//! One client, one connection: VRAM is shared by descriptor, and such a mapping outlives its connection. All callbacks run on the thread
//! that called [`Server::serve`], one message at a time; interrupts are raised from any thread. The client (the virtual machine
//! monitor) is trusted as far as it has to be, its memory being mapped here; what the guest behind it sends is not,
//! and nothing of it makes a callback fail: the crate would answer with an error, to which a posted write expects none.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use log::{debug, info, warn};
use vfio_bindings::bindings::vfio::{
    vfio_region_info, vfio_region_sparse_mmap_area, VFIO_IRQ_INFO_EVENTFD, VFIO_IRQ_INFO_NORESIZE,
    VFIO_IRQ_SET_ACTION_TRIGGER, VFIO_IRQ_SET_DATA_EVENTFD, VFIO_PCI_BAR0_REGION_INDEX,
    VFIO_PCI_BAR1_REGION_INDEX, VFIO_PCI_BAR3_REGION_INDEX, VFIO_PCI_CONFIG_REGION_INDEX,
    VFIO_PCI_MSIX_IRQ_INDEX, VFIO_PCI_NUM_IRQS, VFIO_PCI_NUM_REGIONS, VFIO_REGION_INFO_FLAG_MMAP,
    VFIO_REGION_INFO_FLAG_READ, VFIO_REGION_INFO_FLAG_WRITE,
};
use vfio_user::{
    DmaMapFlags, DmaUnmapFlags, Error, IrqInfo, ServerBackend, ServerRegion, SparseArea,
};

use crate::bus::{Bus, BusAddr, InterruptSink, VramOffset};
use crate::gpu::Gpu;
use crate::memory::{Memory, RamRegion, Rights};
use crate::pci::{self, ConfigSpace, Effect};

const VECTORS: usize = pci::MSIX_VECTORS as usize;

/// MSI-X vectors as event descriptors of the client.
#[derive(Default)]
pub struct Interrupts {
    vectors: Mutex<[Vector; VECTORS]>,
}

#[derive(Default)]
struct Vector {
    event: Option<File>,
    /// Raised while it had no descriptor: sent when it gets one.
    pending: bool,
}

impl Vector {
    fn fire(&mut self) {
        let Some(event) = &mut self.event else {
            self.pending = true;
            return;
        };
        self.pending = false;
        if let Err(error) = event.write_all(&1u64.to_ne_bytes()) {
            warn!("Interrupt was not delivered: {error}");
        }
    }
}

impl Interrupts {
    fn lock(&self) -> MutexGuard<'_, [Vector; VECTORS]> {
        self.vectors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn attach(&self, index: usize, event: Option<File>) {
        if let Some(vector) = self.lock().get_mut(index) {
            vector.event = event;
            if vector.pending {
                vector.fire();
            }
        }
    }

    fn detach_all(&self) {
        for vector in self.lock().iter_mut() {
            *vector = Vector::default();
        }
    }

    /// Forgets what was raised for vectors without a descriptor; the client's descriptors stay.
    fn forget_pending(&self) {
        for vector in self.lock().iter_mut() {
            vector.pending = false;
        }
    }

    fn pending(&self) -> u64 {
        let vectors = self.lock();
        vectors.iter().enumerate().fold(0, |bits, (i, vector)| {
            bits | (u64::from(vector.pending) << i)
        })
    }
}

impl InterruptSink for Interrupts {
    fn raise(&self, vector: usize) {
        if let Some(vector) = self.lock().get_mut(vector) {
            vector.fire();
        }
    }
}

/// A listening device.
pub struct Server {
    server: vfio_user::Server,
    device: Device,
}

/// What a device is made of.
pub struct Parts {
    /// The device behind BAR0.
    pub gpu: Arc<Gpu>,
    /// Its memory, behind BAR1.
    pub memory: Arc<Memory>,
    /// Bytes of VRAM.
    pub vram: u64,
    /// Where its interrupts go.
    pub interrupts: Arc<Interrupts>,
}

impl Server {
    /// Listens on a UNIX socket at `path`, which must not exist. It is removed when the server is dropped.
    pub fn listen(path: &Path, parts: Parts) -> Result<Self, Error> {
        let server = vfio_user::Server::new(path, true, irqs(), regions(&parts))?;
        let config = ConfigSpace::new(parts.vram);
        Ok(Self {
            server,
            device: Device { parts, config },
        })
    }

    /// Serves one client until it goes away, however it does that.
    ///
    /// # Errors
    /// The connection failed; [`Error::InvalidInput`]: a message made no sense.
    pub fn serve(&mut self) -> Result<(), Error> {
        // The crate panics on some malformed messages; the device, whose locks can be poisoned, is only taken down after that.
        let run = AssertUnwindSafe(|| self.server.run(&mut self.device));
        let result = catch_unwind(run).unwrap_or(Err(Error::InvalidInput));
        self.device.disconnect();
        match result {
            Err(error) if is_hangup(&error) => {
                info!("Client is gone: {error}");
                Ok(())
            }
            result => result,
        }
    }
}

/// Whether an error only says that the other end of the socket was closed.
fn is_hangup(error: &Error) -> bool {
    let kind = match error {
        Error::ReceiveWithFd(errno) => io::Error::from_raw_os_error(errno.errno()).kind(),
        Error::StreamRead(error) | Error::StreamWrite(error) => error.kind(),
        _ => return false,
    };
    matches!(
        kind,
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof
    )
}

fn irqs() -> Vec<IrqInfo> {
    let irq = |index| match index {
        VFIO_PCI_MSIX_IRQ_INDEX => IrqInfo {
            index,
            flags: VFIO_IRQ_INFO_EVENTFD | VFIO_IRQ_INFO_NORESIZE,
            count: u32::from(pci::MSIX_VECTORS),
        },
        _ => IrqInfo {
            index,
            flags: 0,
            count: 0,
        },
    };
    (0..VFIO_PCI_NUM_IRQS).map(irq).collect()
}

fn regions(parts: &Parts) -> Vec<ServerRegion> {
    let size = |index| match index {
        VFIO_PCI_BAR0_REGION_INDEX => pci::BAR0_SIZE,
        VFIO_PCI_BAR1_REGION_INDEX => parts.vram,
        VFIO_PCI_BAR3_REGION_INDEX => pci::BAR3_SIZE,
        VFIO_PCI_CONFIG_REGION_INDEX => pci::CONFIG_SIZE as u64,
        _ => 0,
    };
    let region = |index| {
        let size = size(index);
        let mut region = ServerRegion {
            region_info: vfio_region_info {
                argsz: size_of::<vfio_region_info>() as u32,
                index,
                size,
                ..Default::default()
            },
            sparse_areas: Vec::new(),
            mmap_fd: None,
        };
        if size != 0 {
            region.region_info.flags = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE;
        }
        if index == VFIO_PCI_BAR1_REGION_INDEX {
            region.region_info.flags |= VFIO_REGION_INFO_FLAG_MMAP;
            region.mmap_fd = Some(parts.memory.vram_file().as_raw_fd());
            // The crate sends the descriptor only along with a capability, so name the whole region as one area.
            let area = vfio_region_sparse_mmap_area { offset: 0, size };
            region.sparse_areas.push(SparseArea { area });
        }
        region
    };
    (0..VFIO_PCI_NUM_REGIONS).map(region).collect()
}

struct Device {
    parts: Parts,
    config: ConfigSpace,
}

impl Device {
    fn reset_device(&mut self) {
        info!("Reset");
        self.parts.memory.set_bus_master(false);
        self.parts.gpu.reset();
        self.parts.interrupts.forget_pending();
        self.config.reset();
    }

    /// The client is gone, perhaps in the middle of work, and with it the memory and the descriptors that it lent.
    fn disconnect(&mut self) {
        self.parts.memory.set_bus_master(false);
        self.parts.gpu.reset();
        self.config.reset();
        self.parts.memory.unmap_all();
        self.parts.interrupts.detach_all();
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        match self.config.write(offset, data) {
            Effect::None => {}
            Effect::BusMaster(enabled) => {
                debug!("Bus Master Enable = {enabled}");
                self.parts.memory.set_bus_master(enabled);
            }
            Effect::Reset => self.reset_device(),
        }
    }

    /// BAR3 holds nothing but the pending bits here: the table is the client's.
    fn read_msix(&self, offset: u64, data: &mut [u8]) {
        let pending = self.parts.interrupts.pending().to_le_bytes();
        for (byte, i) in data.iter_mut().zip(0u64..) {
            let from_pba = offset
                .checked_add(i)
                .and_then(|at| at.checked_sub(pci::MSIX_PBA));
            let index = from_pba.and_then(|i| usize::try_from(i).ok());
            *byte = index.and_then(|i| pending.get(i)).copied().unwrap_or(0);
        }
    }
}

impl ServerBackend for Device {
    fn region_read(&mut self, region: u32, offset: u64, data: &mut [u8]) -> io::Result<()> {
        match region {
            VFIO_PCI_BAR0_REGION_INDEX => self.parts.gpu.read_register(offset, data),
            VFIO_PCI_BAR1_REGION_INDEX => {
                if self
                    .parts
                    .memory
                    .read(VramOffset(offset).into(), data)
                    .is_err()
                {
                    data.fill(0xff);
                }
            }
            VFIO_PCI_BAR3_REGION_INDEX => self.read_msix(offset, data),
            VFIO_PCI_CONFIG_REGION_INDEX => self.config.read(offset, data),
            _ => data.fill(0xff),
        }
        Ok(())
    }

    fn region_write(&mut self, region: u32, offset: u64, data: &[u8]) -> io::Result<()> {
        match region {
            VFIO_PCI_BAR0_REGION_INDEX => self.parts.gpu.write_register(offset, data),
            VFIO_PCI_BAR1_REGION_INDEX => {
                if let Err(error) = self.parts.memory.write(VramOffset(offset).into(), data) {
                    debug!("Write of BAR1 at {offset:#x} dropped: {error}");
                }
            }
            VFIO_PCI_CONFIG_REGION_INDEX => self.write_config(offset, data),
            _ => {}
        }
        Ok(())
    }

    fn dma_map(
        &mut self,
        flags: DmaMapFlags,
        offset: u64,
        address: u64,
        size: u64,
        fd: Option<File>,
    ) -> io::Result<()> {
        debug!(
            "Map {address:#x} + {size:#x} at {offset:#x}, {flags:?}, descriptor {}",
            fd.is_some()
        );
        // ROMs and other devices' regions come without one; the device has no business there.
        let Some(file) = fd else { return Ok(()) };
        let rights = if flags.contains(DmaMapFlags::WRITE) {
            Rights::ReadWrite
        } else {
            Rights::Read
        };
        let region = RamRegion {
            start: BusAddr(address),
            size,
            file,
            offset,
            rights,
        };
        self.parts.memory.map(region).inspect_err(|error| {
            warn!("Memory {address:#x} + {size:#x} cannot be mapped: {error}");
        })
    }

    fn dma_unmap(&mut self, flags: DmaUnmapFlags, address: u64, size: u64) -> io::Result<()> {
        debug!("Unmap {address:#x} + {size:#x}, {flags:?}");
        if flags.contains(DmaUnmapFlags::UNMAP_ALL) || size == 0 {
            self.parts.memory.unmap_all();
            return Ok(());
        }
        let unmapped = self.parts.memory.unmap(BusAddr(address), size);
        unmapped.map(|_| ()).inspect_err(|error| {
            warn!("Memory {address:#x} + {size:#x} cannot be unmapped: {error}");
        })
    }

    fn reset(&mut self) -> io::Result<()> {
        self.reset_device();
        Ok(())
    }

    fn set_irqs(
        &mut self,
        index: u32,
        flags: u32,
        start: u32,
        count: u32,
        fds: Vec<File>,
    ) -> io::Result<()> {
        debug!(
            "Interrupts {index}: {start} + {count}, flags {flags:#x}, {} descriptors",
            fds.len()
        );
        if index != VFIO_PCI_MSIX_IRQ_INDEX || flags & VFIO_IRQ_SET_ACTION_TRIGGER == 0 {
            return Ok(());
        }
        if flags & VFIO_IRQ_SET_DATA_EVENTFD == 0 {
            // No data and no vectors: interrupts are switched off.
            if count == 0 {
                self.parts.interrupts.detach_all();
            }
            return Ok(());
        }
        // A run of vectors without descriptors takes theirs away.
        let mut fds = fds.into_iter();
        for vector in (start as usize..VECTORS).take(count as usize) {
            self.parts.interrupts.attach(vector, fds.next());
        }
        Ok(())
    }
}
