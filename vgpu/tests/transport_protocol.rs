// SPDX-License-Identifier: MIT OR Apache-2.0
//! The served device, seen by a client without a virtual machine.

use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;

use mirage_vgpu::bus::{Bus, BusAddr, BusError, InterruptSink, VramOffset};
use mirage_vgpu::config::Config;
use mirage_vgpu::gpu::Gpu;
use mirage_vgpu::memory::Memory;
use mirage_vgpu::transport::{Interrupts, Parts, Server};
use rustix::event::{eventfd, EventfdFlags};
use rustix::fs::{ftruncate, memfd_create, MemfdFlags};
use vfio_bindings::bindings::vfio::{
    VFIO_IRQ_SET_ACTION_TRIGGER, VFIO_IRQ_SET_DATA_EVENTFD, VFIO_IRQ_SET_DATA_NONE,
    VFIO_PCI_BAR0_REGION_INDEX, VFIO_PCI_BAR1_REGION_INDEX, VFIO_PCI_BAR3_REGION_INDEX,
    VFIO_PCI_CONFIG_REGION_INDEX, VFIO_PCI_MSIX_IRQ_INDEX, VFIO_REGION_INFO_FLAG_MMAP,
};
use vfio_user::Client;

const VRAM: u64 = 64 << 20;
const PAGE: u64 = 4096;
const COMMAND: u64 = 0x04;
const BUS_MASTER: u16 = 1 << 2;
const DEVICE_CONTROL: u64 = 0x48;
const FUNCTION_RESET: u16 = 1 << 15;
const BOOT_0: u32 = 0x1400_00a1;

struct Served {
    client: Client,
    memory: Arc<Memory>,
    interrupts: Arc<Interrupts>,
    server: JoinHandle<Result<(), vfio_user::Error>>,
    socket: PathBuf,
}

impl Served {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "mirage-{}-{}.sock",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let socket = std::env::temp_dir().join(name);
        let memory = Arc::new(Memory::new(VRAM).unwrap());
        let interrupts = Arc::new(Interrupts::default());
        let bus: Arc<dyn Bus> = Arc::<Memory>::clone(&memory);
        let sink: Arc<dyn InterruptSink> = Arc::<Interrupts>::clone(&interrupts);
        let parts = Parts {
            gpu: Arc::new(Gpu::new(bus, sink, &Config::default()).unwrap()),
            memory: Arc::clone(&memory),
            vram: VRAM,
            interrupts: Arc::clone(&interrupts),
        };
        let mut server = Server::listen(&socket, parts).unwrap();
        let server = std::thread::spawn(move || server.serve());
        Self {
            client: Client::new(&socket).unwrap(),
            memory,
            interrupts,
            server,
            socket,
        }
    }

    fn read_u32(&mut self, region: u32, offset: u64) -> u32 {
        let mut data = [0; 4];
        self.client.region_read(region, offset, &mut data).unwrap();
        u32::from_le_bytes(data)
    }

    fn write_config(&mut self, offset: u64, value: u16) {
        self.client
            .region_write(VFIO_PCI_CONFIG_REGION_INDEX, offset, &value.to_le_bytes())
            .unwrap();
    }

    fn set_vectors(&mut self, start: u32, count: u32, fds: &[RawFd]) {
        let flags = VFIO_IRQ_SET_ACTION_TRIGGER | VFIO_IRQ_SET_DATA_EVENTFD;
        self.client
            .set_irqs(VFIO_PCI_MSIX_IRQ_INDEX, flags, start, count, fds)
            .unwrap();
    }

    fn hang_up(self) -> Result<(), vfio_user::Error> {
        drop(self.client);
        let result = self.server.join().expect("the server panicked");
        assert!(!self.socket.exists(), "the socket was left behind");
        result
    }
}

fn ram(size: u64) -> File {
    let fd = memfd_create("test-ram", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&fd, size).unwrap();
    File::from(fd)
}

fn event() -> File {
    File::from(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap())
}

fn count(event: &File) -> Option<u64> {
    let mut value = [0; 8];
    rustix::io::read(event, &mut value).ok()?;
    Some(u64::from_ne_bytes(value))
}

#[test]
fn the_device_ends_in_order_when_its_client_hangs_up() {
    assert!(Served::new().hang_up().is_ok());
}

#[test]
fn registers_are_read_and_written_by_message() {
    let mut served = Served::new();
    assert_eq!(served.read_u32(VFIO_PCI_BAR0_REGION_INDEX, 0), BOOT_0);
    served
        .client
        .region_write(VFIO_PCI_BAR0_REGION_INDEX, 0x160, &[1, 0, 0, 0])
        .unwrap();
    assert_eq!(served.read_u32(VFIO_PCI_BAR0_REGION_INDEX, 0x140), 1);
    served.hang_up().unwrap();
}

#[test]
fn odd_accesses_are_answered_and_the_connection_goes_on() {
    let mut served = Served::new();
    for region in 0..9 {
        for (offset, size) in [
            (1, 2),
            (0xff_fffe, 8),
            (u64::MAX - 1, 4),
            (u64::MAX, 1),
            (0, 0),
            (3, 4096),
        ] {
            let mut data = vec![0; size];
            served
                .client
                .region_read(region, offset, &mut data)
                .unwrap();
            served.client.region_write(region, offset, &data).unwrap();
        }
    }
    assert_eq!(served.read_u32(VFIO_PCI_BAR0_REGION_INDEX, 0), BOOT_0);
    served.hang_up().unwrap();
}

#[test]
fn vram_is_shared_by_descriptor_over_its_whole_size() {
    let served = Served::new();
    let region = served.client.region(VFIO_PCI_BAR1_REGION_INDEX).unwrap();
    assert_eq!(region.size, VRAM);
    assert_ne!(region.flags & VFIO_REGION_INFO_FLAG_MMAP, 0);
    assert_eq!(
        region
            .sparse_areas
            .iter()
            .map(|area| area.size)
            .sum::<u64>(),
        VRAM
    );
    let file = region.file_offset.as_ref().unwrap().file();
    file.write_all_at(&[1, 2, 3, 4], VRAM - 4).unwrap();
    assert_eq!(
        served.memory.read_u32(VramOffset(VRAM - 4).into()),
        Ok(0x0403_0201)
    );
    assert!(
        file.set_len(PAGE).is_err(),
        "a client must not be able to pull memory away"
    );
    served.hang_up().unwrap();
}

#[test]
fn guest_memory_is_reached_between_map_and_unmap_while_bus_master_is_set() {
    let mut served = Served::new();
    let file = ram(2 * PAGE);
    let at = BusAddr(1 << 32).into();
    served
        .client
        .dma_map(PAGE, 1 << 32, PAGE, file.as_raw_fd())
        .unwrap();
    assert_eq!(
        served.memory.write_u32(at, 7),
        Err(BusError::MasterDisabled)
    );
    served.write_config(COMMAND, BUS_MASTER);
    assert_eq!(served.memory.write_u32(at, 7), Ok(()));
    let mut back = [0; 4];
    file.read_exact_at(&mut back, PAGE).unwrap();
    assert_eq!(back, 7u32.to_le_bytes());
    served.client.dma_unmap(1 << 32, PAGE).unwrap();
    assert_eq!(served.memory.read_u32(at), Err(BusError::OutOfRange));
    served.hang_up().unwrap();
}

#[test]
fn a_hang_up_without_unmap_takes_guest_memory_away() {
    let mut served = Served::new();
    let file = ram(PAGE);
    served.client.dma_map(0, 0, PAGE, file.as_raw_fd()).unwrap();
    served.write_config(COMMAND, BUS_MASTER);
    let memory = Arc::clone(&served.memory);
    assert_eq!(memory.read_u32(BusAddr(0).into()), Ok(0));
    served.hang_up().unwrap();
    memory.set_bus_master(true);
    assert_eq!(
        memory.read_u32(BusAddr(0).into()),
        Err(BusError::OutOfRange)
    );
}

#[test]
fn each_vector_signals_its_own_descriptor() {
    let mut served = Served::new();
    let events = [event(), event()];
    let info = served.client.get_irq_info(VFIO_PCI_MSIX_IRQ_INDEX).unwrap();
    assert_eq!(info.count, 2);
    served.set_vectors(0, 2, &[events[0].as_raw_fd(), events[1].as_raw_fd()]);
    served.interrupts.raise(1);
    served.interrupts.raise(7);
    assert_eq!((count(&events[0]), count(&events[1])), (None, Some(1)));
    served.hang_up().unwrap();
}

#[test]
fn a_vector_raised_without_a_descriptor_is_pending_until_it_gets_one() {
    let mut served = Served::new();
    served.interrupts.raise(1);
    assert_eq!(served.read_u32(VFIO_PCI_BAR3_REGION_INDEX, 0x8000), 0b10);
    let events = [event(), event()];
    served.set_vectors(0, 2, &[events[0].as_raw_fd(), events[1].as_raw_fd()]);
    assert_eq!((count(&events[0]), count(&events[1])), (None, Some(1)));
    assert_eq!(served.read_u32(VFIO_PCI_BAR3_REGION_INDEX, 0x8000), 0);
    served.hang_up().unwrap();
}

#[test]
fn switching_interrupts_off_drops_all_descriptors() {
    let mut served = Served::new();
    let event = event();
    served.set_vectors(0, 1, &[event.as_raw_fd()]);
    let none = VFIO_IRQ_SET_ACTION_TRIGGER | VFIO_IRQ_SET_DATA_NONE;
    served
        .client
        .set_irqs(VFIO_PCI_MSIX_IRQ_INDEX, none, 0, 0, &[])
        .unwrap();
    served.interrupts.raise(0);
    assert_eq!(count(&event), None);
    served.hang_up().unwrap();
}

#[test]
fn both_kinds_of_reset_clear_registers_bus_master_and_pending_bits() {
    for by_function in [true, false] {
        let mut served = Served::new();
        served.write_config(COMMAND, BUS_MASTER);
        served
            .client
            .region_write(VFIO_PCI_BAR0_REGION_INDEX, 0x160, &[1, 0, 0, 0])
            .unwrap();
        served.interrupts.raise(1);
        if by_function {
            served.write_config(DEVICE_CONTROL, FUNCTION_RESET);
        } else {
            served.client.reset().unwrap();
        }
        assert_eq!(
            served.read_u32(VFIO_PCI_CONFIG_REGION_INDEX, COMMAND) & 0xffff,
            0
        );
        assert_eq!(served.read_u32(VFIO_PCI_BAR0_REGION_INDEX, 0x140), 0);
        assert_eq!(served.read_u32(VFIO_PCI_BAR3_REGION_INDEX, 0x8000), 0);
        let event = event();
        served.set_vectors(1, 1, &[event.as_raw_fd()]);
        assert_eq!(count(&event), None);
        served.interrupts.raise(1);
        assert_eq!(count(&event), Some(1));
        served.hang_up().unwrap();
    }
}
