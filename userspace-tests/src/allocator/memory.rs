// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory of any kind, with a copy of what each word of it must be.

use anyhow::{bail, Result};
use mirage::GpuPtr;
use nix::sys::mman::{MapFlags, MmapAdvise};

use super::actions::{First, Kind};
use super::shapes::SPACING;
use super::Case;
use crate::memory::memfd;
use crate::region::{Heap, Region, HUGE, RW, WORD};

/// Where the words are.
#[derive(Debug)]
pub(super) enum Place {
    Heap(Heap),
    Mapped(Region),
}

/// An allocation and what is due in it.
#[derive(Debug)]
pub(super) struct Memory {
    pub(super) place: Place,
    /// What each word must be.
    pub(super) due: Vec<u64>,
}

/// The CPU's own words lie in the middle between the GPU's.
const CPU_WORD: usize = SPACING / WORD / 2;

impl Memory {
    /// What the case's action asks for. All words are 0, or a pattern if the CPU comes first.
    pub(super) fn new(case: Case, seed: u64) -> Result<Self> {
        let (len, action) = (case.shape.len, case.action);
        let place = match action.kind {
            Kind::Malloc => Place::Heap(Heap::new(len)),
            Kind::Private => Place::Mapped(Region::anonymous(len)?),
            Kind::Shared => Place::Mapped(Region::shared(len)?),
            Kind::File => Place::Mapped(Region::file(&memfd(len)?, len, RW, MapFlags::MAP_SHARED)?),
            Kind::FilePrivate => {
                Place::Mapped(Region::file(&memfd(len)?, len, RW, MapFlags::MAP_PRIVATE)?)
            }
            Kind::Huge => {
                let region = Region::huge_aligned(len.next_multiple_of(HUGE))?;
                // Without huge pages it is memory like any other.
                let _ = region.advise(0..region.len(), MmapAdvise::MADV_HUGEPAGE);
                Place::Mapped(region)
            }
        };
        let mut memory = Memory {
            place,
            due: vec![0; len / WORD],
        };
        if action.locked {
            memory.region()?.lock()?;
        }
        if action.first == First::Cpu {
            memory.fill(seed);
        }
        Ok(memory)
    }

    /// No memory at all.
    pub(super) fn nothing() -> Self {
        Memory {
            place: Place::Heap(Heap::new(0)),
            due: Vec::new(),
        }
    }

    /// The CPU writes a pattern to all words.
    pub(super) fn fill(&mut self, seed: u64) {
        for i in 0..self.due.len() {
            self.set(i, ((seed + 1) << 48) | i as u64);
        }
    }

    pub(super) fn at(&self, offset: usize) -> GpuPtr {
        match &self.place {
            Place::Heap(heap) => heap.at(offset),
            Place::Mapped(region) => region.at(offset),
        }
    }

    /// The mapping, of an action that needs one.
    pub(super) fn region(&mut self) -> Result<&mut Region> {
        match &mut self.place {
            Place::Mapped(region) => Ok(region),
            Place::Heap(_) => bail!("the allocator's memory is no mapping"),
        }
    }

    fn load(&self, offset: usize) -> u64 {
        match &self.place {
            Place::Heap(heap) => heap.load(offset),
            Place::Mapped(region) => region.load(offset),
        }
    }

    /// The CPU writes a word.
    pub(super) fn set(&mut self, index: usize, value: u64) {
        match &self.place {
            Place::Heap(heap) => heap.store(index * WORD, value),
            Place::Mapped(region) => region.store(index * WORD, value),
        }
        self.due[index] = value;
    }

    /// The CPU adds 1 to its own words, which lie between the GPU's.
    pub(super) fn count(&mut self) {
        for index in (CPU_WORD..self.due.len()).step_by(4 * SPACING / WORD) {
            let value = self.load(index * WORD);
            self.set(index, value.wrapping_add(1));
        }
    }

    /// Every word is what it must be.
    pub(super) fn check(&self, when: &str) -> Result<()> {
        self.check_words(0..self.due.len(), when)
    }

    /// Likewise for some of the words.
    pub(super) fn check_words(&self, mut words: std::ops::Range<usize>, when: &str) -> Result<()> {
        match words.find(|&i| self.load(i * WORD) != self.due[i]) {
            Some(i) => bail!(
                "{when}: word {i:#x} is {:#x}, not {:#x}",
                self.load(i * WORD),
                self.due[i]
            ),
            None => Ok(()),
        }
    }
}
