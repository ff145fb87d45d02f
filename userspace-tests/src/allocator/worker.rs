// SPDX-License-Identifier: MIT OR Apache-2.0
//! One of the workers of a case: its submissions, and what happens between them.

use std::ops::Range;

use anyhow::{ensure, Context, Result};
use mirage::{lanes, Access, Atomic, Channel, CopyBytes, Job, Load, Reason, Store, Strided};
use nix::sys::mman::{MmapAdvise, ProtFlags};

use super::actions::{Between, Kind, Op};
use super::memory::{Memory, Place};
use super::shapes::Workers;
use super::Case;
use crate::fixture::{Mirror, LIMIT};
use crate::region::{Advice, OldPlace, Region, PAGE, RW, WORD};
use crate::sys::fork;

pub(super) struct Worker<'a> {
    pub(super) case: Case,
    pub(super) mirror: &'a Mirror,
    channels: Vec<Channel>,
    pub(super) memory: Memory,
    /// Allocations that stay while others are made.
    kept: Vec<Memory>,
    seed: u64,
}

impl<'a> Worker<'a> {
    pub(super) fn new(case: Case, mirror: &'a Mirror, seed: u64) -> Result<Self> {
        let channels = (0..case.shape.channels).map(|_| mirror.svm.channel());
        Ok(Worker {
            case,
            mirror,
            channels: channels.collect::<mirage::Result<_>>()?,
            memory: Memory::new(case, seed)?,
            kept: Vec::new(),
            seed,
        })
    }

    pub(super) fn work(&mut self) -> Result<()> {
        if let Between::Unmap { .. } | Between::Move { .. } = self.case.action.between {
            return self.cut();
        }
        let (submissions, channels) = (self.case.shape.submissions, self.channels.len());
        for first in (0..submissions).step_by(channels) {
            if first > 0 {
                self.between()
                    .with_context(|| format!("before submission {first}"))?;
            }
            self.run_ahead(first..submissions.min(first + channels))?;
            (first..submissions.min(first + channels)).for_each(|number| self.expect(number));
            self.memory.check(&format!("after submission {first}"))?;
        }
        for (number, old) in self.kept.iter().enumerate() {
            old.check(&format!("allocation {number} in the end"))?;
        }
        self.gpu_check("in the end")
    }

    /// Runs submissions to their end, each on a channel of its own.
    pub(super) fn run(&mut self, numbers: Range<usize>) -> Result<()> {
        let jobs = numbers.map(|number| self.submit(number));
        let jobs = jobs.collect::<Result<Vec<_>>>()?;
        while self.case.action.race && jobs.iter().any(|job| !job.is_done()) {
            self.memory.count();
        }
        jobs.iter().try_for_each(|job| Ok(job.wait(LIMIT)?))
    }

    /// What submission `number` stores, adds or exchanges in lane 0; lane i has i more.
    fn value(&self, number: usize) -> u64 {
        ((self.seed + 1) << 40) | ((number as u64 + 1) << 32)
    }

    pub(super) fn channel(&self, number: usize) -> &Channel {
        &self.channels[number % self.channels.len()]
    }

    fn submit(&self, number: usize) -> Result<Job> {
        let shape = self.case.shape;
        let at = self
            .memory
            .at(number * shape.step)
            .stride(shape.stride as u32);
        self.launch(number, at, shape.lanes)
    }

    /// The action's operation, somewhere.
    pub(super) fn launch(&self, number: usize, at: Strided, count: usize) -> Result<Job> {
        let (channel, value, all) = (
            self.channel(number),
            self.value(number),
            lanes(count as u32),
        );
        Ok(match self.case.action.op {
            Op::Store => channel.launch(Store::new(at, value).plus_lane(), all),
            Op::Add => channel.launch(Atomic::add(at, value).plus_lane(), all),
            Op::Exchange => channel.launch(Atomic::exchange(at, value).plus_lane(), all),
        }?)
    }

    /// Expects what a submission does.
    fn expect(&mut self, number: usize) {
        let shape = self.case.shape;
        self.expect_lanes(number, number * shape.step, shape.stride, shape.lanes);
    }

    fn expect_word(&mut self, index: usize, operand: u64) {
        let word = &mut self.memory.due[index];
        *word = match self.case.action.op {
            Op::Store | Op::Exchange => operand,
            Op::Add => word.wrapping_add(operand),
        };
    }

    /// Expects what [`Worker::launch`] does to words `stride` bytes apart.
    pub(super) fn expect_lanes(
        &mut self,
        number: usize,
        start: usize,
        stride: usize,
        count: usize,
    ) {
        let value = self.value(number);
        (0..count)
            .for_each(|lane| self.expect_word((start + lane * stride) / WORD, value + lane as u64));
    }

    /// The GPU finds what is due, in all words.
    fn gpu_check(&self, when: &str) -> Result<()> {
        let words = self.memory.due.len();
        let results = Region::anonymous((words * WORD).next_multiple_of(PAGE))?;
        let read =
            Load::new(self.memory.at(0).stride(WORD as u32)).results(results.results::<u64>(0));
        self.channels[0]
            .launch(read, lanes(words as u32))?
            .wait(LIMIT)?;
        let wrong = (0..words).find(|&i| results.load(i * WORD) != self.memory.due[i]);
        match wrong {
            Some(i) => anyhow::bail!(
                "{when}: for the GPU, word {i:#x} is {:#x}, not {:#x}",
                results.load(i * WORD),
                self.memory.due[i]
            ),
            None => Ok(()),
        }
    }

    fn between(&mut self) -> Result<()> {
        let len = self.case.shape.len;
        match self.case.action.between {
            Between::Nothing | Between::Unmap { .. } | Between::Move { .. } => Ok(()),
            Between::Free => {
                // The next one has its address, as often as not.
                drop(std::mem::replace(&mut self.memory, Memory::nothing()));
                self.memory = Memory::new(self.case, self.seed)?;
                Ok(())
            }
            Between::New => {
                let next = Memory::new(self.case, self.seed)?;
                self.kept.push(std::mem::replace(&mut self.memory, next));
                Ok(())
            }
            Between::ForkRead => fork(|| self.memory.check("in a child"))?.join(),
            Between::ForkReadAfter => {
                fork(|| self.memory.check("in a child"))?.join()?;
                self.memory.check("after the child")?;
                self.gpu_check("after the child")
            }
            Between::ForkWrite => self.child_writes(),
            Between::Remap => self.remap(OldPlace::Unmap),
            Between::RemapDontUnmap => self.remap(OldPlace::Keep),
            Between::RemapReadOnly => self
                .read_only()
                .and_then(|()| self.remap(OldPlace::Unmap))
                .and_then(|()| self.writable()),
            Between::RemapReadOnlyDontUnmap => self
                .read_only()
                .and_then(|()| self.remap(OldPlace::Keep))
                .and_then(|()| self.writable()),
            Between::DontNeed => {
                self.memory
                    .region()?
                    .advise(0..len, MmapAdvise::MADV_DONTNEED)?;
                self.memory.due.fill(0);
                self.memory.check("after MADV_DONTNEED")
            }
            Between::FreeLazily => {
                self.memory
                    .region()?
                    .advise(0..len, MmapAdvise::MADV_FREE)?;
                self.gpu_fills()
            }
            Between::Cold => Ok(self.memory.region()?.ask(0..len, Advice::Cold)?),
            Between::PageOut => self
                .memory
                .region()?
                .advise(0..len, MmapAdvise::MADV_PAGEOUT),
            Between::Collapse => {
                let region = self.memory.region()?;
                region.split_mapping(0)?;
                region.collapse_all();
                Ok(())
            }
            Between::HugeAndBack => {
                let region = self.memory.region()?;
                region.no_huge_pages();
                region.split_mapping(PAGE)?;
                // Where there are none, this is no advice.
                let _ = region.advise(0..region.len(), MmapAdvise::MADV_HUGEPAGE);
                Ok(())
            }
            Between::ReadOnlyAndBack => self.read_only().and_then(|()| self.writable()),
            Between::NoneAndBack => {
                self.memory
                    .region()?
                    .protect(0..len, ProtFlags::PROT_NONE)?;
                self.writable()
            }
            Between::Lock => {
                let region = self.memory.region()?;
                region.lock()?;
                region.unlock()
            }
            Between::GpuReads => {
                self.seed += 1;
                self.memory.fill(self.seed);
                self.gpu_check("after the CPU wrote")
            }
            Between::GpuCopies => self.gpu_copies(),
        }
    }

    fn remap(&mut self, old: OldPlace) -> Result<()> {
        let region = self.memory.region()?;
        let moved = region.relocate(0..region.len(), old, false)?;
        let place = Place::Mapped(moved);
        drop(std::mem::replace(&mut self.memory.place, place));
        self.memory.check("after mremap")
    }

    fn read_only(&mut self) -> Result<()> {
        let region = self.memory.region()?;
        region.protect(0..region.len(), ProtFlags::PROT_READ)?;
        self.gpu_check("read-only")?;
        let channel = self.mirror.svm.channel()?;
        let job = channel.launch(Store::new(self.memory.at(PAGE).into(), 1_u64), lanes(1))?;
        ensure!(job.wait(LIMIT).is_err(), "read-only memory was written");
        if let Some(report) = self.mirror.svm.fault_events().try_next()? {
            // Threads that share a mirror take each other's reports, of channels that have gone and whose handle is ours now.
            let ours = report.addr == self.memory.at(PAGE).addr();
            let shared = matches!(self.case.shape.workers, Workers::ThreadsOfOneMirror(_));
            let due = (Access::Write, Reason::Permission);
            ensure!((report.access, report.reason) == due, "{report}");
            ensure!(ours || shared, "{report}");
        }
        self.memory.check("after a write was refused")
    }

    fn writable(&mut self) -> Result<()> {
        let region = self.memory.region()?;
        region.protect(0..region.len(), RW)
    }

    /// A child writes all words. Private memory keeps what it had here.
    fn child_writes(&mut self) -> Result<()> {
        let (seed, memory) = (self.seed + 1000, &mut self.memory);
        let shared = self.case.action.kind == Kind::Shared;
        fork(|| {
            memory.fill(seed);
            memory.check("in the child that wrote")
        })?
        .join()?;
        if shared {
            (0..memory.due.len()).for_each(|i| memory.due[i] = ((seed + 1) << 48) | i as u64);
        }
        memory.check("after a child wrote")?;
        self.gpu_check("after a child wrote")
    }

    /// The GPU writes all words.
    fn gpu_fills(&mut self) -> Result<()> {
        let (words, first) = (self.memory.due.len(), (self.seed + 7) << 50);
        let all = Store::new(self.memory.at(0).stride(WORD as u32), first).plus_lane();
        self.channels[0]
            .launch(all, lanes(words as u32))?
            .wait(LIMIT)?;
        (0..words).for_each(|i| self.memory.due[i] = first + i as u64);
        self.memory.check("after the GPU wrote all")
    }

    /// The first half over the second, in pieces of an odd size.
    fn gpu_copies(&mut self) -> Result<()> {
        let half = self.case.shape.len / 2;
        let piece = half / 16;
        let (to, from) = (
            self.memory.at(half).stride(piece as u32),
            self.memory.at(0).stride(piece as u32),
        );
        self.channels[0]
            .launch(CopyBytes::new(to, from, piece as u64), lanes(16))?
            .wait(LIMIT)?;
        let words = half / WORD;
        self.memory.due.copy_within(0..words, words);
        self.memory.check("after the GPU copied")
    }
}
