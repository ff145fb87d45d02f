// SPDX-License-Identifier: MIT OR Apache-2.0
//! The bus of the served device: VRAM as a memory file, guest RAM as mappings of what the client hands over.
//!
//! All raw memory access goes through `vm-memory`, whose volatile slices and atomic references are bounds-checked, so there is
//! no unsafe code here. VRAM is mapped for the life of the process and needs no lock. Guest RAM comes and goes: each access holds the
//! lock of the region table for reading, so that an unmap or a cleared Bus Master Enable, which take it for writing,
//! return only when no thread can still reach what is gone. Nothing else is ever called with that lock held.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, AtomicU8, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use rustix::fs::{fcntl_add_seals, ftruncate, memfd_create, MemfdFlags, SealFlags};
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{FileOffset, MmapRegion, VolatileMemory, VolatileSlice};

use crate::bus::{Aperture, AtomicOp, Bus, BusAddr, BusError, PhysAddr, Width};

/// Most regions of guest RAM; the kernel allows a process 65530 mappings.
const MAX_REGIONS: usize = 60_000;

/// What the device may do with a region of guest RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rights {
    /// Only read it.
    Read,
    /// Read and write it.
    ReadWrite,
}

/// A region of guest RAM to make reachable.
#[derive(Debug)]
pub struct RamRegion {
    /// Its first bus address.
    pub start: BusAddr,
    /// Its size in bytes.
    pub size: u64,
    /// The memory file behind it.
    pub file: File,
    /// Where in the file it starts.
    pub offset: u64,
    /// What the device may do with it.
    pub rights: Rights,
}

struct Mapping {
    memory: MmapRegion,
    rights: Rights,
}

struct System {
    master: bool,
    /// By first address; never overlapping.
    regions: BTreeMap<u64, Mapping>,
}

/// VRAM and guest RAM.
pub struct Memory {
    vram: MmapRegion,
    vram_file: File,
    system: RwLock<System>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Read,
    Write,
}

impl Memory {
    /// `vram` bytes of zeroed VRAM, no guest RAM, bus mastering disabled.
    pub fn new(vram: u64) -> io::Result<Self> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let fd = memfd_create("mirage-vram", flags)?;
        ftruncate(&fd, vram)?;
        // A client holds the descriptor too: were the file to shrink, touching the mapping would kill the process.
        fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        let vram_file = File::from(fd);
        let memory = map(vram_file.try_clone()?, 0, vram, Rights::ReadWrite)?;
        Ok(Self {
            vram: memory,
            vram_file,
            system: RwLock::new(System {
                master: false,
                regions: BTreeMap::new(),
            }),
        })
    }

    /// The memory file of VRAM, for the client to map.
    pub fn vram_file(&self) -> &File {
        &self.vram_file
    }

    /// Makes a region of guest RAM reachable. Refuses an empty, wrapping or overlapping one.
    pub fn map(&self, region: RamRegion) -> io::Result<()> {
        let start = region.start.0;
        let invalid = || io::Error::from(io::ErrorKind::InvalidInput);
        let end = start.checked_add(region.size).ok_or_else(invalid)?;
        let memory = map(region.file, region.offset, region.size, region.rights)?;
        let mut system = self.write_lock();
        let before = system.regions.range(..end).next_back();
        let overlaps =
            before.is_some_and(|(at, mapping)| at.saturating_add(length(&mapping.memory)) > start);
        if overlaps || system.regions.len() >= MAX_REGIONS {
            return Err(invalid());
        }
        let rights = region.rights;
        system.regions.insert(start, Mapping { memory, rights });
        Ok(())
    }

    /// Takes all regions in the range away; returns how many. A region that is only partly inside is refused.
    pub fn unmap(&self, start: BusAddr, size: u64) -> io::Result<usize> {
        let end = start.0.saturating_add(size);
        let gone: Vec<Mapping> = {
            let mut system = self.write_lock();
            let below = system.regions.range(..start.0).next_back();
            let tail = below
                .is_some_and(|(at, mapping)| at.saturating_add(length(&mapping.memory)) > start.0);
            let inside: Vec<u64> = system
                .regions
                .range(start.0..end)
                .map(|(at, _)| *at)
                .collect();
            let last = inside
                .last()
                .and_then(|at| Some((at, system.regions.get(at)?)));
            let head =
                last.is_some_and(|(at, mapping)| at.saturating_add(length(&mapping.memory)) > end);
            if tail || head {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            inside
                .iter()
                .filter_map(|at| system.regions.remove(at))
                .collect()
        };
        // Unmapped here, outside the lock.
        Ok(gone.len())
    }

    /// Takes all guest RAM away.
    pub fn unmap_all(&self) {
        let gone = std::mem::take(&mut self.write_lock().regions);
        drop(gone);
    }

    /// Sets Bus Master Enable. When it is cleared, the accesses in flight have ended on return.
    pub fn set_bus_master(&self, enabled: bool) {
        self.write_lock().master = enabled;
    }

    fn read_lock(&self) -> RwLockReadGuard<'_, System> {
        self.system.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_lock(&self) -> RwLockWriteGuard<'_, System> {
        self.system.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `access` on `size` bytes that lie in one piece of memory.
    fn with<T>(
        &self,
        at: PhysAddr,
        size: usize,
        direction: Direction,
        access: impl FnOnce(VolatileSlice<'_>) -> Result<T, BusError>,
    ) -> Result<T, BusError> {
        match at.aperture {
            Aperture::Vid => access(slice(&self.vram, at.addr, size)?),
            Aperture::Sys => {
                let system = self.read_lock();
                let (mapping, offset) = system.find(at.addr, direction)?;
                access(slice(&mapping.memory, offset, size)?)
            }
        }
    }

    fn with_atomic<T: vm_memory::AtomicInteger, R>(
        &self,
        at: PhysAddr,
        direction: Direction,
        access: impl FnOnce(&T) -> R,
    ) -> Result<R, BusError> {
        self.with(at, size_of::<T>(), direction, |memory| {
            let cell = memory
                .get_atomic_ref::<T>(0)
                .map_err(|_| BusError::OutOfRange)?;
            Ok(access(cell))
        })
    }

    /// Runs `access` on each piece of a range of guest RAM, with the range of the caller's buffer that it stands for.
    fn pieces(
        &self,
        at: u64,
        size: usize,
        direction: Direction,
        mut access: impl FnMut(VolatileSlice<'_>, usize),
    ) -> Result<(), BusError> {
        let system = self.read_lock();
        let mut pieces = Vec::new();
        let mut done = 0;
        while done < size {
            let from = at.checked_add(done as u64).ok_or(BusError::OutOfRange)?;
            let (mapping, offset) = system.find(from, direction)?;
            let left = length(&mapping.memory) - offset;
            let piece = usize::try_from(left).unwrap_or(usize::MAX).min(size - done);
            pieces.push((slice(&mapping.memory, offset, piece)?, done));
            done += piece;
        }
        for (piece, done) in pieces {
            access(piece, done);
        }
        Ok(())
    }
}

impl System {
    fn find(&self, addr: u64, direction: Direction) -> Result<(&Mapping, u64), BusError> {
        if !self.master {
            return Err(BusError::MasterDisabled);
        }
        let (start, mapping) = self
            .regions
            .range(..=addr)
            .next_back()
            .ok_or(BusError::OutOfRange)?;
        let offset = addr - start;
        let allowed = direction == Direction::Read || mapping.rights == Rights::ReadWrite;
        if offset < length(&mapping.memory) && allowed {
            Ok((mapping, offset))
        } else {
            Err(BusError::OutOfRange)
        }
    }
}

impl Bus for Memory {
    fn read(&self, at: PhysAddr, out: &mut [u8]) -> Result<(), BusError> {
        // A scalar that is aligned must not tear, whatever way it is asked for.
        match (out.len(), at.addr % 8) {
            (1, _) => self.with_atomic(at, Direction::Read, |cell: &AtomicU8| {
                out.copy_from_slice(&[cell.load(Ordering::Acquire)]);
            }),
            (2, low) if low % 2 == 0 => {
                self.with_atomic(at, Direction::Read, |cell: &AtomicU16| {
                    out.copy_from_slice(&cell.load(Ordering::Acquire).to_ne_bytes());
                })
            }
            (4, low) if low % 4 == 0 => self
                .read_u32(at)
                .map(|value| out.copy_from_slice(&value.to_ne_bytes())),
            (8, 0) => self
                .read_u64(at)
                .map(|value| out.copy_from_slice(&value.to_ne_bytes())),
            (size, _) => {
                let single = self.with(at, size, Direction::Read, |memory| {
                    memory.copy_to(out);
                    Ok(())
                });
                match (single, at.aperture) {
                    (Err(BusError::OutOfRange), Aperture::Sys) => {
                        self.pieces(at.addr, size, Direction::Read, |memory, done| {
                            memory.copy_to(out.get_mut(done..).unwrap_or_default());
                        })
                    }
                    (result, _) => result,
                }
            }
        }
    }

    fn write(&self, at: PhysAddr, data: &[u8]) -> Result<(), BusError> {
        match (data, at.addr % 8) {
            (&[value], _) => self.with_atomic(at, Direction::Write, |cell: &AtomicU8| {
                cell.store(value, Ordering::Release);
            }),
            (&[a, b], low) if low % 2 == 0 => {
                self.with_atomic(at, Direction::Write, |cell: &AtomicU16| {
                    cell.store(u16::from_ne_bytes([a, b]), Ordering::Release);
                })
            }
            (&[a, b, c, d], low) if low % 4 == 0 => {
                self.write_u32(at, u32::from_ne_bytes([a, b, c, d]))
            }
            (&[a, b, c, d, e, f, g, h], 0) => {
                self.write_u64(at, u64::from_ne_bytes([a, b, c, d, e, f, g, h]))
            }
            (data, _) => {
                let single = self.with(at, data.len(), Direction::Write, |memory| {
                    memory.copy_from(data);
                    Ok(())
                });
                match (single, at.aperture) {
                    (Err(BusError::OutOfRange), Aperture::Sys) => {
                        self.pieces(at.addr, data.len(), Direction::Write, |memory, done| {
                            memory.copy_from(data.get(done..).unwrap_or_default());
                        })
                    }
                    (result, _) => result,
                }
            }
        }
    }

    fn read_u32(&self, at: PhysAddr) -> Result<u32, BusError> {
        self.with_atomic(at, Direction::Read, |cell: &AtomicU32| {
            cell.load(Ordering::Acquire)
        })
    }

    fn read_u64(&self, at: PhysAddr) -> Result<u64, BusError> {
        self.with_atomic(at, Direction::Read, |cell: &AtomicU64| {
            cell.load(Ordering::Acquire)
        })
    }

    fn write_u32(&self, at: PhysAddr, value: u32) -> Result<(), BusError> {
        self.with_atomic(at, Direction::Write, |cell: &AtomicU32| {
            cell.store(value, Ordering::Release);
        })
    }

    fn write_u64(&self, at: PhysAddr, value: u64) -> Result<(), BusError> {
        self.with_atomic(at, Direction::Write, |cell: &AtomicU64| {
            cell.store(value, Ordering::Release);
        })
    }

    fn atomic(&self, at: PhysAddr, width: Width, op: AtomicOp) -> Result<u64, BusError> {
        match width {
            Width::Bits32 => self.with_atomic(at, Direction::Write, |cell| atomic32(cell, op)),
            Width::Bits64 => self.with_atomic(at, Direction::Write, |cell| atomic64(cell, op)),
        }
    }
}

fn atomic32(cell: &AtomicU32, op: AtomicOp) -> u64 {
    const ORDER: Ordering = Ordering::SeqCst;
    u64::from(match op {
        AtomicOp::Add(value) => cell.fetch_add(value as u32, ORDER),
        AtomicOp::Exchange(value) => cell.swap(value as u32, ORDER),
        AtomicOp::CompareExchange { compare, swap } => cell
            .compare_exchange(compare as u32, swap as u32, ORDER, ORDER)
            .unwrap_or_else(|old| old),
    })
}

fn atomic64(cell: &AtomicU64, op: AtomicOp) -> u64 {
    const ORDER: Ordering = Ordering::SeqCst;
    match op {
        AtomicOp::Add(value) => cell.fetch_add(value, ORDER),
        AtomicOp::Exchange(value) => cell.swap(value, ORDER),
        AtomicOp::CompareExchange { compare, swap } => cell
            .compare_exchange(compare, swap, ORDER, ORDER)
            .unwrap_or_else(|old| old),
    }
}

fn map(file: File, offset: u64, size: u64, rights: Rights) -> io::Result<MmapRegion> {
    let size = usize::try_from(size).map_err(|_| io::ErrorKind::InvalidInput)?;
    // A mapping past the end of its file would be a SIGBUS later.
    if offset
        .checked_add(size as u64)
        .is_none_or(|end| end > length_of(&file))
    {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let protection = match rights {
        Rights::Read => libc::PROT_READ,
        Rights::ReadWrite => libc::PROT_READ | libc::PROT_WRITE,
    };
    MmapRegionBuilder::new(size)
        .with_file_offset(FileOffset::new(file, offset))
        .with_mmap_prot(protection)
        .with_mmap_flags(libc::MAP_SHARED | libc::MAP_NORESERVE)
        .build()
        .map_err(io::Error::other)
}

/// The file's length; 0, so that nothing fits, if it has none.
fn length_of(file: &File) -> u64 {
    file.metadata().map_or(0, |metadata| metadata.len())
}

fn length(memory: &MmapRegion) -> u64 {
    memory.size() as u64
}

fn slice(memory: &MmapRegion, offset: u64, size: usize) -> Result<VolatileSlice<'_>, BusError> {
    let offset = usize::try_from(offset).map_err(|_| BusError::OutOfRange)?;
    memory
        .get_slice(offset, size)
        .map_err(|_| BusError::OutOfRange)
}
