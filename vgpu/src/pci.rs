// SPDX-License-Identifier: MIT OR Apache-2.0
//! PCI configuration space of the device, as `docs/vgpu.md` has it.
//!
//! Registers follow the PCI Local Bus 3.0 and PCI Express Base 4.0 specifications. QEMU's `vfio-user-pci` answers the guest
//! for some of them itself: the base address registers with their sizing (it takes only the type bits from here),
//! the MSI-X table in BAR3 and the MSI-X enable and mask bits. The command register and the PCI Express capability are ours.
//! All of it is implemented here nevertheless, so that the device does not depend on one client.

/// Bytes of configuration space of a PCI Express function.
pub const CONFIG_SIZE: usize = 4096;
/// Bytes of BAR0, the register space.
pub const BAR0_SIZE: u64 = 16 << 20;
/// Bytes of BAR3, the MSI-X structures.
pub const BAR3_SIZE: u64 = 64 << 10;
/// MSI-X vectors: one per interrupt tree.
pub const MSIX_VECTORS: u16 = 2;
/// Offset of the pending bits in BAR3.
pub const MSIX_PBA: u64 = 0x8000;

const VENDOR: u16 = 0x1234;
const DEVICE: u16 = 0x6d67;
const REVISION: u8 = 0xa1;
/// Base class 0x12, processing accelerator; sub-class and interface 0.
const CLASS: u8 = 0x12;

/// Offsets of the header and of the two capabilities.
mod at {
    pub(super) const VENDOR: usize = 0x00;
    pub(super) const DEVICE: usize = 0x02;
    pub(super) const COMMAND: usize = 0x04;
    pub(super) const STATUS: usize = 0x06;
    pub(super) const REVISION: usize = 0x08;
    pub(super) const CLASS: usize = 0x0b;
    pub(super) const CACHE_LINE: usize = 0x0c;
    pub(super) const BAR0: usize = 0x10;
    pub(super) const BAR1: usize = 0x14;
    pub(super) const BAR1_HIGH: usize = 0x18;
    pub(super) const BAR3: usize = 0x1c;
    pub(super) const SUBSYSTEM_VENDOR: usize = 0x2c;
    pub(super) const SUBSYSTEM: usize = 0x2e;
    pub(super) const CAPABILITIES: usize = 0x34;
    pub(super) const INTERRUPT_LINE: usize = 0x3c;
    pub(super) const EXPRESS: usize = 0x40;
    pub(super) const DEVICE_CONTROL: usize = EXPRESS + 0x08;
    pub(super) const MSIX: usize = 0x80;
}

const COMMAND_MEMORY: u16 = 1 << 1;
const COMMAND_MASTER: u16 = 1 << 2;
const COMMAND_INTX_DISABLE: u16 = 1 << 10;
const STATUS_CAPABILITIES: u16 = 1 << 4;
const BAR_64BIT: u32 = 0b100;
const BAR_PREFETCHABLE: u32 = 0b1000;
const CAPABILITY_EXPRESS: u16 = 0x10;
const CAPABILITY_MSIX: u16 = 0x11;
/// Version 2 of the structure; device type 0, endpoint.
const EXPRESS_FLAGS: u16 = 2;
/// Role-based error reporting (required since 1.1), function level reset.
const DEVICE_CAPABILITIES: u32 = (1 << 15) | (1 << 28);
/// Max payload, read request, relaxed ordering and error enables.
const DEVICE_CONTROL_WRITABLE: u16 = 0x7fff;
const DEVICE_CONTROL_RESET: u16 = 1 << 15;
/// Power-on value: 512-byte read requests, relaxed ordering, no snoop.
const DEVICE_CONTROL_DEFAULT: u16 = 0x2810;
/// 8 GT/s, 16 lanes.
const LINK: u32 = 3 | (16 << 4);
const MSIX_ENABLE: u16 = 1 << 15;
const MSIX_MASK_ALL: u16 = 1 << 14;
const MSIX_BAR: u32 = 3;

/// What a configuration write asks of the rest of the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Nothing beyond the register itself.
    None,
    /// Bus Master Enable now has this value.
    BusMaster(bool),
    /// Function level reset.
    Reset,
}

/// Configuration space: the bytes, and which bits of them software can change.
pub struct ConfigSpace {
    bytes: Box<[u8; CONFIG_SIZE]>,
    writable: Box<[u8; CONFIG_SIZE]>,
    vram: u64,
}

impl ConfigSpace {
    /// The space after power-on, for `vram` bytes behind BAR1 (a power of two).
    pub fn new(vram: u64) -> Self {
        let mut space = Self {
            bytes: Box::new([0; CONFIG_SIZE]),
            writable: Box::new([0; CONFIG_SIZE]),
            vram,
        };
        space.header();
        space.express();
        space.msix();
        space
    }

    /// Back to power-on values.
    pub fn reset(&mut self) {
        *self = Self::new(self.vram);
    }

    /// Reads `data.len()` bytes; what lies outside the space reads as all ones, as a missing function does.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        for (byte, i) in data.iter_mut().zip(0u64..) {
            *byte = index(offset, i)
                .and_then(|at| self.bytes.get(at))
                .copied()
                .unwrap_or(0xff);
        }
    }

    /// Writes the writable bits of `data`; the rest is dropped.
    #[must_use]
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Effect {
        let master = self.bus_master();
        let mut reset = false;
        for (value, i) in data.iter().zip(0u64..) {
            let Some(at) = index(offset, i) else { break };
            // The reset bit reads as zero, so it is not among the writable ones.
            reset |= at == at::DEVICE_CONTROL + 1 && value & (DEVICE_CONTROL_RESET >> 8) as u8 != 0;
            if let (Some(byte), Some(mask)) = (self.bytes.get_mut(at), self.writable.get(at)) {
                *byte = (*byte & !mask) | (value & mask);
            }
        }
        match (reset, self.bus_master()) {
            (true, _) => Effect::Reset,
            (_, now) if now != master => Effect::BusMaster(now),
            _ => Effect::None,
        }
    }

    /// Whether the device may reach guest memory.
    pub fn bus_master(&self) -> bool {
        self.bytes[at::COMMAND] & COMMAND_MASTER as u8 != 0
    }

    fn header(&mut self) {
        self.put16(at::VENDOR, VENDOR, 0);
        self.put16(at::DEVICE, DEVICE, 0);
        self.put16(
            at::COMMAND,
            0,
            COMMAND_MEMORY | COMMAND_MASTER | COMMAND_INTX_DISABLE,
        );
        self.put16(at::STATUS, STATUS_CAPABILITIES, 0);
        self.bytes[at::REVISION] = REVISION;
        self.bytes[at::CLASS] = CLASS;
        self.writable[at::CACHE_LINE] = 0xff;
        self.bar(at::BAR0, BAR0_SIZE, 0);
        self.bar(at::BAR1, self.vram, BAR_64BIT | BAR_PREFETCHABLE);
        self.put32(at::BAR1_HIGH, 0, (!(self.vram - 1) >> 32) as u32);
        self.bar(at::BAR3, BAR3_SIZE, 0);
        self.put16(at::SUBSYSTEM_VENDOR, VENDOR, 0);
        self.put16(at::SUBSYSTEM, DEVICE, 0);
        self.bytes[at::CAPABILITIES] = at::EXPRESS as u8;
        self.writable[at::INTERRUPT_LINE] = 0xff;
    }

    /// The low half of a base address register: size in the writable bits, type in the fixed ones.
    fn bar(&mut self, at: usize, size: u64, kind: u32) {
        self.put32(at, kind, !(size - 1) as u32);
    }

    fn express(&mut self) {
        let base = at::EXPRESS;
        self.put16(base, CAPABILITY_EXPRESS | ((at::MSIX as u16) << 8), 0);
        self.put16(base + 0x02, EXPRESS_FLAGS, 0);
        self.put32(base + 0x04, DEVICE_CAPABILITIES, 0);
        self.put16(
            at::DEVICE_CONTROL,
            DEVICE_CONTROL_DEFAULT,
            DEVICE_CONTROL_WRITABLE,
        );
        self.put32(base + 0x0c, LINK, 0);
        self.put16(base + 0x10, 0, 0x0fff);
        self.put16(base + 0x12, LINK as u16, 0);
    }

    fn msix(&mut self) {
        self.put16(at::MSIX, CAPABILITY_MSIX, 0);
        self.put16(at::MSIX + 2, MSIX_VECTORS - 1, MSIX_ENABLE | MSIX_MASK_ALL);
        self.put32(at::MSIX + 4, MSIX_BAR, 0);
        self.put32(at::MSIX + 8, MSIX_PBA as u32 | MSIX_BAR, 0);
    }

    fn put16(&mut self, at: usize, value: u16, writable: u16) {
        self.bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
        self.writable[at..at + 2].copy_from_slice(&writable.to_le_bytes());
    }

    fn put32(&mut self, at: usize, value: u32, writable: u32) {
        self.bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        self.writable[at..at + 4].copy_from_slice(&writable.to_le_bytes());
    }
}

fn index(offset: u64, i: u64) -> Option<usize> {
    usize::try_from(offset.checked_add(i)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read32(space: &ConfigSpace, at: usize) -> u32 {
        let mut data = [0; 4];
        space.read(at as u64, &mut data);
        u32::from_le_bytes(data)
    }

    fn write32(space: &mut ConfigSpace, at: usize, value: u32) -> Effect {
        space.write(at as u64, &value.to_le_bytes())
    }

    #[test]
    fn identity_is_an_accelerator_of_no_gpu_vendor() {
        let space = ConfigSpace::new(256 << 20);
        assert_eq!(read32(&space, at::VENDOR), 0x6d67_1234);
        assert_eq!(read32(&space, at::REVISION), 0x1200_00a1);
    }

    #[test]
    fn sizing_a_64_bit_bar_shows_its_upper_half() {
        let mut space = ConfigSpace::new(16 << 30);
        let _ = write32(&mut space, at::BAR1, u32::MAX);
        let _ = write32(&mut space, at::BAR1_HIGH, u32::MAX);
        assert_eq!(read32(&space, at::BAR1), BAR_64BIT | BAR_PREFETCHABLE);
        assert_eq!(read32(&space, at::BAR1_HIGH), 0xffff_fffc);
    }

    #[test]
    fn sizing_a_32_bit_bar_shows_its_size() {
        let mut space = ConfigSpace::new(256 << 20);
        let _ = write32(&mut space, at::BAR0, u32::MAX);
        assert_eq!(read32(&space, at::BAR0), 0xff00_0000);
    }

    #[test]
    fn capabilities_are_express_endpoint_with_reset_then_msix() {
        let space = ConfigSpace::new(256 << 20);
        assert_eq!(read32(&space, at::CAPABILITIES) & 0xff, at::EXPRESS as u32);
        assert_eq!(read32(&space, at::EXPRESS), 0x0002_8010);
        assert_eq!((read32(&space, at::EXPRESS + 4) >> 28) & 1, 1);
        assert_eq!(read32(&space, at::MSIX), 0x0001_0011);
        assert_eq!(read32(&space, at::MSIX + 8), 0x8003);
    }

    #[test]
    fn bus_master_changes_are_reported_once() {
        let mut space = ConfigSpace::new(256 << 20);
        let both = COMMAND_MEMORY | COMMAND_MASTER;
        assert_eq!(
            space.write(at::COMMAND as u64, &both.to_le_bytes()),
            Effect::BusMaster(true)
        );
        assert_eq!(
            space.write(at::COMMAND as u64, &both.to_le_bytes()),
            Effect::None
        );
        assert_eq!(
            space.write(at::COMMAND as u64, &[0, 0]),
            Effect::BusMaster(false)
        );
    }

    #[test]
    fn function_level_reset_is_asked_for_and_reads_as_zero() {
        let mut space = ConfigSpace::new(256 << 20);
        let value = DEVICE_CONTROL_DEFAULT | DEVICE_CONTROL_RESET;
        assert_eq!(
            space.write(at::DEVICE_CONTROL as u64, &value.to_le_bytes()),
            Effect::Reset
        );
        assert_eq!(
            read32(&space, at::DEVICE_CONTROL) & u32::from(DEVICE_CONTROL_RESET),
            0
        );
    }

    #[test]
    fn accesses_outside_read_as_ones_and_write_nothing() {
        let mut space = ConfigSpace::new(256 << 20);
        assert_eq!(space.write(u64::MAX - 1, &[0xff; 8]), Effect::None);
        let mut data = [0; 4];
        space.read(CONFIG_SIZE as u64 - 2, &mut data);
        assert_eq!(data, [0, 0, 0xff, 0xff]);
        space.read(u64::MAX, &mut data);
        assert_eq!(data, [0xff; 4]);
    }
}
