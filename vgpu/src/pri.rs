// SPDX-License-Identifier: MIT OR Apache-2.0
//! The register bus: hands BAR0 accesses to the block that owns the offset, and keeps book of what a driver's author
//! should see: registers that are not modelled, accesses that are refused, loops that spin on one register.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::regs::names;

/// Size of BAR0 in bytes.
pub const REGISTER_SPACE: u64 = 16 << 20;
/// Reads of one register, with nothing in between, that count as a spin.
pub const SPIN_READS: u32 = 4096;
/// Most distinct offsets that the books keep, so that a guest cannot grow them without bound.
const MAX_ENTRIES: usize = 4096;

/// A group of registers. A block answers for the offsets it knows and for no others.
pub trait RegisterBlock: Send + Sync {
    /// Reads the register at `offset` (4-byte aligned). None: not one of this block's.
    fn read(&self, offset: u32) -> Option<u32>;
    /// Writes the register at `offset` (4-byte aligned). None: not one of this block's.
    fn write(&self, offset: u32, value: u32) -> Option<()>;
    /// Puts the block into its state after power-on. The guest may be in the middle of anything.
    fn reset(&self);
}

/// What a bit of NV_PMC_ENABLE holds in reset.
pub trait PmcUnit: Send + Sync {
    /// False: resets the unit and keeps it so. Its work is gone and its interrupt levels are low on return.
    /// True: it may work again.
    fn set_enabled(&self, enabled: bool);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Direction {
    Read,
    Write,
}

impl Direction {
    fn word(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
        }
    }
}

/// Why an access got no register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Refusal {
    Width,
    Alignment,
    PastEnd,
}

#[derive(Default)]
struct Books {
    unmodelled: BTreeMap<(u32, Direction), u64>,
    unmodelled_beyond_limit: u64,
    refused: BTreeMap<(Refusal, Direction), u64>,
    spins: BTreeSet<u32>,
    last_read: Option<u32>,
    reads_in_a_row: u32,
}

/// The register bus of one device.
pub struct Pri {
    blocks: Vec<Arc<dyn RegisterBlock>>,
    books: Mutex<Books>,
}

impl Pri {
    /// A bus with these blocks; the first that knows an offset answers.
    pub fn new(blocks: Vec<Arc<dyn RegisterBlock>>) -> Self {
        let books = Mutex::default();
        Self { blocks, books }
    }

    /// Reads `data.len()` bytes at `offset`. Unmodelled registers read 0, a refused access all ones.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        let Some(register) = self.check(offset, data.len(), Direction::Read) else {
            data.fill(0xff);
            return;
        };
        let value = self.blocks.iter().find_map(|block| block.read(register));
        let mut books = self.books();
        if value.is_none() {
            books.count_unmodelled(register, Direction::Read);
        }
        books.watch_read(register);
        data.copy_from_slice(&value.unwrap_or(0).to_le_bytes());
    }

    /// Writes `data` at `offset`. Writes to unmodelled registers and refused accesses are dropped.
    pub fn write(&self, offset: u64, data: &[u8]) {
        let register = self.check(offset, data.len(), Direction::Write);
        self.books().last_read = None;
        let (Some(register), Ok(bytes)) = (register, data.try_into()) else {
            return;
        };
        let value = u32::from_le_bytes(bytes);
        if !self
            .blocks
            .iter()
            .any(|block| block.write(register, value).is_some())
        {
            self.books().count_unmodelled(register, Direction::Write);
        }
    }

    /// Resets all blocks, in their order.
    pub fn reset(&self) {
        for block in &self.blocks {
            block.reset();
        }
    }

    /// One line for each unmodelled register, refused kind of access and spin.
    pub fn report(&self) -> Vec<String> {
        self.books().report()
    }

    fn check(&self, offset: u64, len: usize, direction: Direction) -> Option<u32> {
        let refusal = if len != 4 {
            Refusal::Width
        } else if offset % 4 != 0 {
            Refusal::Alignment
        } else if offset >= REGISTER_SPACE {
            Refusal::PastEnd
        } else {
            return u32::try_from(offset).ok();
        };
        let count = &mut *self.books();
        *count.refused.entry((refusal, direction)).or_default() += 1;
        None
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Books {
    fn count_unmodelled(&mut self, register: u32, direction: Direction) {
        let known = self.unmodelled.contains_key(&(register, direction));
        if !known && self.unmodelled.len() >= MAX_ENTRIES {
            self.unmodelled_beyond_limit += 1;
            return;
        }
        if !known {
            log::warn!(
                "unmodelled {} of {}",
                direction.word(),
                names::name(register)
            );
        }
        *self.unmodelled.entry((register, direction)).or_default() += 1;
    }

    fn watch_read(&mut self, register: u32) {
        if self.last_read != Some(register) {
            self.last_read = Some(register);
            self.reads_in_a_row = 0;
        }
        self.reads_in_a_row = self.reads_in_a_row.saturating_add(1);
        let spins = self.reads_in_a_row == SPIN_READS && self.spins.len() < MAX_ENTRIES;
        if spins && self.spins.insert(register) {
            log::warn!("spin on {}", names::name(register));
        }
    }

    fn report(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for ((register, direction), count) in &self.unmodelled {
            let name = names::name(*register);
            lines.push(format!(
                "unmodelled {} of {name}: {count} times",
                direction.word()
            ));
        }
        if self.unmodelled_beyond_limit > 0 {
            let count = self.unmodelled_beyond_limit;
            lines.push(format!(
                "unmodelled accesses of yet other registers: {count} times"
            ));
        }
        for ((refusal, direction), count) in &self.refused {
            let why = match refusal {
                Refusal::Width => "not 4 bytes wide",
                Refusal::Alignment => "not 4-byte aligned",
                Refusal::PastEnd => "past the end of BAR0",
            };
            lines.push(format!(
                "refused {}, {why}: {count} times",
                direction.word()
            ));
        }
        for register in &self.spins {
            let name = names::name(*register);
            lines.push(format!(
                "spin: {SPIN_READS} reads of {name} with nothing in between"
            ));
        }
        lines
    }
}
