// SPDX-License-Identifier: MIT OR Apache-2.0
//! The device is reset under mirrors whose memory changes all the time.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{bail, ensure, Context, Result};
use fastrand::Rng;
use mirage::{lanes, Channel, Error, Gpu, Intent, Job, Load, PageRange, Reason, Store};
use nix::errno::Errno;
use nix::sys::mman::{MmapAdvise, ProtFlags};

use crate::channels::still_works;
use crate::fixture::{ensure_eq, Mirror, Spinner, LIMIT};
use crate::harness::{rounds, skip};
use crate::region::{OldPlace, Region, HUGE, PAGE, RW, WORD};
use crate::sys::{self, fork};

/// Words of a page, besides the first, which spinners count in: one that the CPU writes, one that the GPU writes when all is over.
const CPU: usize = WORD;
const GPU: usize = 2 * WORD;
/// What memory holds that was allocated meanwhile, and so may have been freed meanwhile: nobody writes there.
const FRESH: u64 = 0x5eed_5eed_5eed_5eed;
/// How much of it is kept.
const FRESH_MAX: usize = 40;

/// How large the leaves are that a region gets.
#[derive(Clone, Copy, Debug)]
enum Leaves {
    Huge,
    Big,
    Small,
}

/// A region, and what the CPU has written last to each of its pages.
struct Memory {
    region: Region,
    written: Vec<u64>,
    fresh: Vec<Region>,
}

impl Memory {
    fn new(leaves: Leaves) -> Result<Self> {
        let region = Region::huge_aligned(HUGE)?;
        let advice = match leaves {
            Leaves::Huge | Leaves::Big => MmapAdvise::MADV_HUGEPAGE,
            Leaves::Small => MmapAdvise::MADV_NOHUGEPAGE,
        };
        // Without huge pages in the kernel all leaves are small.
        let _ = region.advise(0..HUGE, advice);
        let mut memory = Memory {
            written: vec![0; region.pages()],
            region,
            fresh: Vec::new(),
        };
        memory.write(0..HUGE / PAGE, 1);
        if let Leaves::Big = leaves {
            memory.region.split_mapping(HUGE - PAGE)?;
            memory.region.advise(0..PAGE, MmapAdvise::MADV_DONTNEED)?;
            memory.write(0..1, 1);
        }
        Ok(memory)
    }

    /// The CPU writes to some pages.
    fn write(&mut self, pages: std::ops::Range<usize>, value: u64) {
        for page in pages {
            self.region.store(page * PAGE + CPU, value);
            self.written[page] = value;
        }
    }

    /// Something happens to some pages that takes them from the GPU. The spinner still finds memory there.
    fn change(&mut self, rng: &mut Rng, value: u64) -> Result<()> {
        let first = rng.usize(0..self.region.pages());
        let pages = first..(first + rng.usize(1..40)).min(self.region.pages());
        let range = pages.start * PAGE..pages.end * PAGE;
        match rng.u8(0..4) {
            0 => fork(|| Ok(()))?.join()?,
            1 => {
                self.region
                    .protect(range.clone(), RW | ProtFlags::PROT_EXEC)?;
                self.region.protect(range.clone(), RW)?;
            }
            _ => self
                .region
                .advise(range.clone(), MmapAdvise::MADV_DONTNEED)?,
        }
        self.allocate(range.len())?;
        self.write(pages, value);
        Ok(())
    }

    /// As [`Memory::change`], where no work of the GPU is under way.
    fn change_more(&mut self, rng: &mut Rng, value: u64) -> Result<()> {
        let first = rng.usize(0..self.region.pages());
        let pages = first..(first + rng.usize(1..40)).min(self.region.pages());
        let range = pages.start * PAGE..pages.end * PAGE;
        match rng.u8(0..3) {
            0 => return self.change(rng, value),
            1 => self.region.map_over(range.clone())?,
            _ => drop(self.region.relocate(range.clone(), OldPlace::Keep, false)?),
        }
        self.allocate(range.len())?;
        self.write(pages, value);
        Ok(())
    }

    /// Takes memory for something else: likely what has just been freed.
    fn allocate(&mut self, len: usize) -> Result<()> {
        if self.fresh.len() < FRESH_MAX {
            let fresh = Region::anonymous(len)?;
            fresh.no_huge_pages();
            fresh.fill(0..len, FRESH);
            self.fresh.push(fresh);
        }
        Ok(())
    }

    /// Nobody has written to what is not his.
    fn check_cpu(&self) -> Result<()> {
        for (page, &due) in self.written.iter().enumerate() {
            let is = self.region.load(page * PAGE + CPU);
            ensure!(is == due, "page {page} holds {is:#x} instead of {due:#x}");
        }
        let mut fresh = self.fresh.iter().flat_map(Region::page_words);
        ensure!(
            fresh.all(|word| word == FRESH),
            "the GPU has written to memory that was freed"
        );
        Ok(())
    }

    /// The GPU and the CPU see the same.
    fn check_gpu(&self, mirror: &Mirror, value: u64) -> Result<()> {
        let pages = self.region.pages();
        let results = Region::anonymous(pages * WORD)?;
        let load = Load::new(self.region.lanes(CPU, PAGE)).results(results.results::<u64>(0));
        mirror.run(load, lanes(pages as u32))?;
        let seen = results.words(0..pages * WORD);
        let wrong = (0..pages).find(|&page| seen[page] != self.written[page]);
        ensure!(wrong.is_none(), "the GPU reads an old page at {wrong:?}");
        mirror.run(
            Store::new(self.region.lanes(GPU, PAGE), value),
            lanes(pages as u32),
        )?;
        let wrong = (0..pages).find(|page| self.region.load(page * PAGE + GPU) != value);
        ensure!(wrong.is_none(), "the GPU writes an old page at {wrong:?}");
        self.check_cpu()
    }
}

/// Memory that work goes round and round on, with its channel.
struct Live {
    memory: Memory,
    spinner: Spinner,
    channel: Channel,
}

impl Live {
    fn new(mirror: &Mirror, leaves: Leaves) -> Result<Self> {
        let memory = Memory::new(leaves)?;
        Ok(Live {
            spinner: Spinner::over(&memory.region)?,
            memory,
            channel: mirror.svm.channel()?,
        })
    }

    fn start(&self) -> Result<Job> {
        let job = self.spinner.start(&self.channel)?;
        self.spinner.wait_round(&self.memory.region)?;
        Ok(job)
    }

    /// The work has ended because of the reset, and its channel can be used again.
    fn check_stopped(&self, job: &Job) -> Result<()> {
        match job.wait(LIMIT) {
            Err(Error::Stopped { errno: Errno::EIO }) => {}
            other => bail!("the reset should have ended the work, but the wait gave {other:?}"),
        }
        let stop = self.channel.state()?.stopped.context("it goes on")?;
        ensure_eq!(stop.reason, Reason::Reset);
        Ok(self.channel.reset()?)
    }
}

/// Success or EAGAIN, as what is asked of a device that is being reset.
fn or_again<T>(outcome: mirage::Result<T>) -> Result<Option<T>> {
    match outcome {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.errno() == Some(Errno::EAGAIN) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Everything that a program may ask the device for while it is reset.
fn ask(mirror: &Mirror, page: &Region) -> Result<()> {
    let channel = or_again(mirror.svm.channel())?;
    if let Some(channel) = channel {
        match channel.launch(Store::new(page.lanes(0, 0), 1_u64), lanes(1)) {
            Ok(job) => match job.wait(LIMIT) {
                Ok(()) | Err(Error::Stopped { errno: Errno::EIO }) => {}
                Err(error) => return Err(error.into()),
            },
            // It was stopped before.
            Err(error) if error.errno() == Some(Errno::EIO) => {}
            Err(error) => return Err(error.into()),
        }
        or_again(channel.reset())?;
    }
    or_again(
        mirror
            .svm
            .prefetch(PageRange::new(page.at(0), PAGE as u64), Intent::Write),
    )?;
    let gpu = Gpu::open()?;
    or_again(sys::mirror(&gpu)).map(drop)
}

/// Resets the device while all memory changes and somebody asks for more.
fn reset_under(
    file: &Path,
    mirror: &Mirror,
    live: &mut [Live],
    idle: &mut [Memory],
    round: u64,
) -> Result<()> {
    let (done, page) = (AtomicBool::new(false), Region::anonymous(PAGE)?);
    let until_done = |mut step: Box<dyn FnMut(u64) -> Result<()> + Send + '_>| -> Result<()> {
        let mut value = round << 32;
        while !done.load(Ordering::Relaxed) {
            value += 1;
            step(value)?;
        }
        Ok(())
    };
    let until_done = &until_done;
    std::thread::scope(|scope| {
        let mut threads = vec![scope.spawn(|| until_done(Box::new(|_| ask(mirror, &page))))];
        for (seed, live) in live.iter_mut().enumerate() {
            let (mut rng, memory) = (Rng::with_seed((round << 8) | seed as u64), &mut live.memory);
            threads.push(
                scope.spawn(move || until_done(Box::new(|value| memory.change(&mut rng, value)))),
            );
        }
        for (seed, memory) in idle.iter_mut().enumerate() {
            let mut rng = Rng::with_seed((round << 8) | 128 | seed as u64);
            threads.push(
                scope.spawn(move || {
                    until_done(Box::new(|value| memory.change_more(&mut rng, value)))
                }),
            );
        }
        std::thread::sleep(Duration::from_millis(2 * round));
        let outcome = std::fs::write(file, "1").context("reset");
        done.store(true, Ordering::Relaxed);
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().ok().context("a thread panicked")?)?;
        outcome
    })
}

/// The file that resets a device.
fn reset_file(address: &str) -> Result<PathBuf> {
    let file = Path::new("/sys/bus/pci/devices")
        .join(address)
        .join("reset");
    if !file.exists() {
        return skip("the kernel knows no way to reset the device");
    }
    Ok(file)
}

pub(super) fn a_reset_under_live_mirrors_loses_no_memory() -> Result<()> {
    let file = reset_file(&super::pci_address()?)?;
    let leaves = [Leaves::Huge, Leaves::Big, Leaves::Small];
    for round in 1..=rounds(6) {
        let mirror = Mirror::new()?;
        let resets = mirror.counters()?.get("resets");
        let live = leaves.map(|leaves| Live::new(&mirror, leaves));
        let mut live = live.into_iter().collect::<Result<Vec<_>>>()?;
        let idle = leaves.map(Memory::new);
        let mut idle = idle.into_iter().collect::<Result<Vec<_>>>()?;
        idle.iter()
            .try_for_each(|memory| memory.check_gpu(&mirror, 1))?;
        let jobs = live.iter().map(Live::start).collect::<Result<Vec<_>>>()?;
        reset_under(&file, &mirror, &mut live, &mut idle, round)
            .with_context(|| format!("round {round}"))?;
        ensure_eq!(mirror.counters()?.get("resets"), resets + 1);
        for (live, job) in live.iter().zip(&jobs) {
            live.check_stopped(job)?;
        }
        mirror.channel.reset()?;
        let all = live.iter().map(|live| &live.memory).chain(&idle);
        for memory in all {
            memory
                .check_cpu()
                .and_then(|()| memory.check_gpu(&mirror, round))
                .with_context(|| format!("after the reset of round {round}"))?;
        }
        still_works(&mirror)?;
    }
    still_works(&Mirror::new()?)
}
