// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the device sees of memory: its own VRAM and the guest's RAM, behind one trait.

use std::fmt;

/// Which memory a physical address belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Aperture {
    /// The device's own memory (VRAM, BAR1).
    Vid,
    /// Guest RAM, as the IOMMU or the guest's physical map shows it to the device.
    Sys,
}

/// A byte offset into VRAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VramOffset(pub u64);

/// A bus (DMA) address of guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BusAddr(pub u64);

/// A GPU virtual address. 49 bits are mapped, wider values are legal to ask for and fault.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GpuVa(pub u64);

impl fmt::Debug for GpuVa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GpuVa({:#x})", self.0)
    }
}

/// A physical address in one of the apertures.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PhysAddr {
    /// The memory that `addr` counts in.
    pub aperture: Aperture,
    /// Byte address in that memory.
    pub addr: u64,
}

impl PhysAddr {
    /// The address `offset` bytes further on; wraps, because a wrapped address is merely one that no memory answers.
    pub const fn offset(self, offset: u64) -> Self {
        Self {
            aperture: self.aperture,
            addr: self.addr.wrapping_add(offset),
        }
    }
}

impl From<VramOffset> for PhysAddr {
    fn from(offset: VramOffset) -> Self {
        Self {
            aperture: Aperture::Vid,
            addr: offset.0,
        }
    }
}

impl From<BusAddr> for PhysAddr {
    fn from(addr: BusAddr) -> Self {
        Self {
            aperture: Aperture::Sys,
            addr: addr.0,
        }
    }
}

impl fmt::Debug for PhysAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}:{:#x}", self.aperture, self.addr)
    }
}

/// Operand size of an atomic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// 4 bytes.
    Bits32,
    /// 8 bytes.
    Bits64,
}

/// A read-modify-write; operands of a 32-bit one are truncated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtomicOp {
    /// Adds, wrapping at the operand's width.
    Add(u64),
    /// Swaps in a value.
    Exchange(u64),
    /// Swaps in `swap` where memory holds `compare`.
    CompareExchange {
        /// The expected value.
        compare: u64,
        /// The new value.
        swap: u64,
    },
}

/// Why an access reached no memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BusError {
    /// No memory at this address, or the access is misaligned where alignment is asked for.
    OutOfRange,
    /// The guest has cleared Bus Master Enable.
    MasterDisabled,
}

impl fmt::Display for BusError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OutOfRange => "no memory at this address",
            Self::MasterDisabled => "bus mastering is disabled",
        })
    }
}

impl std::error::Error for BusError {}

/// Memory as the device reaches it. Every address comes from the guest: an implementation checks it and never panics.
pub trait Bus: Send + Sync {
    /// Copies memory out. Any size and alignment; nothing is read on error.
    fn read(&self, at: PhysAddr, out: &mut [u8]) -> Result<(), BusError>;
    /// Copies into memory. Any size and alignment; nothing is written on error. Stores are not reordered with later ones.
    fn write(&self, at: PhysAddr, data: &[u8]) -> Result<(), BusError>;
    /// Reads an aligned dword, single-copy atomic.
    fn read_u32(&self, at: PhysAddr) -> Result<u32, BusError>;
    /// Reads an aligned qword, single-copy atomic.
    fn read_u64(&self, at: PhysAddr) -> Result<u64, BusError>;
    /// Writes an aligned dword, single-copy atomic.
    fn write_u32(&self, at: PhysAddr, value: u32) -> Result<(), BusError>;
    /// Writes an aligned qword, single-copy atomic.
    fn write_u64(&self, at: PhysAddr, value: u64) -> Result<(), BusError>;
    /// A read-modify-write, atomic with the guest's CPUs. Returns the old value.
    fn atomic(&self, at: PhysAddr, width: Width, op: AtomicOp) -> Result<u64, BusError>;
}

/// Where MSI-X messages go.
pub trait InterruptSink: Send + Sync {
    /// Sends vector `vector`. May be called from any thread, never with a lock of the device held.
    fn raise(&self, vector: usize);
}
