// SPDX-License-Identifier: MIT OR Apache-2.0
//! A transfer: lines of elements, moved piece by piece. After a fault a piece is tried again, and nothing before it.

use crate::bus::{Aperture, GpuVa, PhysAddr};
use crate::mmu::{Access, AddressSpace, Fault, Translation, Window};

use super::remap::Remap;

/// Most bytes that a piece reads or writes: what bounds the time that a window is held.
pub(super) const PIECE: usize = 64 << 10;

const PAGE: u64 = 4096;

/// What addresses of a side mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Memory {
    Virtual,
    Physical(Aperture),
}

/// Source or destination.
#[derive(Clone, Copy, Debug)]
pub(super) struct Side {
    pub(super) memory: Memory,
    pub(super) base: u64,
    /// Bytes from one line to the next, signed.
    pub(super) pitch: u64,
}

impl Side {
    /// Wraps: an address that wraps is merely one that has no translation.
    fn at(&self, line: u32, offset: u64) -> u64 {
        let line = self.pitch.wrapping_mul(line.into());
        self.base.wrapping_add(line).wrapping_add(offset)
    }
}

/// A checked transfer.
#[derive(Clone, Debug)]
pub(super) struct Transfer {
    pub(super) src: Side,
    pub(super) dst: Side,
    /// Elements of a line: bytes, where there is no remap. At least one.
    pub(super) line_length: u32,
    /// At least one.
    pub(super) line_count: u32,
    pub(super) remap: Option<Remap>,
}

/// How far a transfer is.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cursor {
    line: u32,
    /// Bytes of the destination's line.
    done: u64,
}

/// Memory as a piece reaches it.
pub(super) struct Reach<'a, 'w> {
    pub(super) window: Window<'w>,
    pub(super) space: &'a AddressSpace,
    pub(super) scratch: &'a mut Scratch,
}

/// Buffers that pieces go through.
pub(super) struct Scratch {
    source: Box<[u8]>,
    made: Box<[u8]>,
}

impl Scratch {
    pub(super) fn new() -> Self {
        let buffer = || vec![0; PIECE].into_boxed_slice();
        Self {
            source: buffer(),
            made: buffer(),
        }
    }
}

impl Reach<'_, '_> {
    fn translate(
        &mut self,
        memory: Memory,
        addr: u64,
        access: Access,
    ) -> Result<Translation, Fault> {
        match memory {
            Memory::Virtual => self.window.translate(self.space, GpuVa(addr), access),
            Memory::Physical(aperture) => {
                let at = PhysAddr { aperture, addr };
                // Memory begins and ends at pages.
                let bytes = PAGE - addr % PAGE;
                Ok(self.window.physical(at, bytes, access))
            }
        }
    }

    /// Reads up to `bytes` of the source into the scratch buffer, as far as it has translations. An error where nothing could be read.
    fn read(&mut self, side: &Side, at: u64, bytes: usize) -> Result<usize, Fault> {
        let mut done = 0;
        while done < bytes {
            let from = match self.translate(side.memory, at.wrapping_add(done as u64), Access::Read)
            {
                Ok(from) => from,
                Err(fault) if done == 0 => return Err(fault),
                Err(_) => break,
            };
            let reach = usize::try_from(from.bytes).unwrap_or(usize::MAX);
            let now = reach.min(bytes - done);
            let out = self.scratch.source.get_mut(done..done + now);
            self.window.load(from, out.unwrap_or_default());
            done += now;
        }
        Ok(done)
    }
}

/// What one piece came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// So many bytes were written.
    Moved(usize),
    /// It has to be tried again when these have translations.
    Faulted(Vec<Fault>),
}

impl Transfer {
    fn src_bytes(&self) -> usize {
        self.remap.as_ref().map_or(1, Remap::src_bytes)
    }

    fn dst_bytes(&self) -> usize {
        self.remap.as_ref().map_or(1, Remap::dst_bytes)
    }

    fn reads_source(&self) -> bool {
        self.remap.as_ref().is_none_or(Remap::reads_source)
    }

    /// Bytes of a line of the destination.
    fn line(&self) -> u64 {
        u64::from(self.line_length) * self.dst_bytes() as u64
    }

    pub(super) fn is_finished(&self, cursor: Cursor) -> bool {
        cursor.line >= self.line_count
    }

    /// Moves the next piece: what lies in one leaf of the destination, of one line.
    pub(super) fn step(&self, cursor: &mut Cursor, reach: &mut Reach<'_, '_>) -> Piece {
        let to = self.dst.at(cursor.line, cursor.done);
        let to = reach.translate(self.dst.memory, to, Access::Write);
        let size = self.dst_bytes() as u64;
        let (element, start) = (cursor.done / size, (cursor.done % size) as usize);
        let from = element * self.src_bytes() as u64;
        let from = self.src.at(cursor.line, from);
        let to = match to {
            Ok(to) => to,
            Err(fault) => return Piece::Faulted(self.with_source_fault(fault, from, reach)),
        };
        let left = (self.line() - cursor.done).min(to.bytes);
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(self.most());
        let bytes = match self.fetch(start, most, from, reach) {
            Ok(bytes) => bytes,
            Err(fault) => return Piece::Faulted(vec![fault]),
        };
        self.write(start, bytes, to, reach);
        cursor.done += bytes as u64;
        if cursor.done >= self.line() {
            cursor.line += 1;
            cursor.done = 0;
        }
        Piece::Moved(bytes)
    }

    /// Both sides' faults are known at once.
    fn with_source_fault(&self, fault: Fault, from: u64, reach: &mut Reach<'_, '_>) -> Vec<Fault> {
        let source = self.reads_source().then_some(self.src.memory);
        let other = source.and_then(|memory| reach.translate(memory, from, Access::Read).err());
        std::iter::once(fault).chain(other).collect()
    }

    /// Bytes of the destination that a piece may have, so that its source fits the buffer as well.
    fn most(&self) -> usize {
        if self.remap.is_none() {
            return PIECE;
        }
        let widest = self.src_bytes().max(self.dst_bytes());
        // One element less, because a piece may start in the middle of one.
        (PIECE / widest - 1) * self.dst_bytes()
    }

    /// Reads the source of up to `most` bytes of the destination. Returns for how many of them it sufficed.
    fn fetch(
        &self,
        start: usize,
        most: usize,
        from: u64,
        reach: &mut Reach<'_, '_>,
    ) -> Result<usize, Fault> {
        if !self.reads_source() {
            return Ok(most);
        }
        let elements = (start + most).div_ceil(self.dst_bytes());
        let wanted = elements * self.src_bytes();
        let got = reach.read(&self.src, from, wanted)?;
        if got < self.src_bytes() {
            // The first element goes on where there was no translation.
            let rest = from.wrapping_add(got as u64);
            reach.translate(self.src.memory, rest, Access::Read)?;
            return Ok(0);
        }
        let whole = got / self.src_bytes() * self.dst_bytes();
        Ok(most.min(whole.saturating_sub(start)))
    }

    fn write(&self, start: usize, bytes: usize, to: Translation, reach: &mut Reach<'_, '_>) {
        let Scratch { source, made } = &mut *reach.scratch;
        let Some(remap) = &self.remap else {
            reach
                .window
                .store(to, source.get(..bytes).unwrap_or_default());
            return;
        };
        let made = made.get_mut(..bytes).unwrap_or_default();
        remap.make(start, source, made);
        for run in remap.written(start, bytes) {
            let to = to.advance(run.start as u64);
            reach.window.store(to, made.get(run).unwrap_or_default());
        }
    }
}
