// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the CPU does to the memory while the GPU works on it. Nothing of it takes an access away that the GPU needs, and
//! everything makes the driver take mappings from the GPU.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::Duration;

use fastrand::Rng;
use mirage::{copy, lanes, Atomic, Channel, Compare, Strided, Svm};

use super::show::Row;
use super::table::Table;
use super::{memory, LIMIT};
use crate::Outcome;

/// Words of the scratch memory that is given back again and again.
const SCRATCH: usize = 32 << 10;

/// How often each thing was done.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Done {
    forks: u64,
    moved: u64,
    reprotected: u64,
    collapsed: u64,
    buffers: u64,
    discarded: u64,
}

impl Done {
    pub(crate) fn rows(self) -> [Row; 6] {
        [
            Row::new(
                "fork: children that saw their memory stand still",
                self.forks,
            ),
            Row::new(
                "mremap: pages of the heads exchanged for others",
                self.moved,
            ),
            Row::new("mprotect: of pages with nodes, and back", self.reprotected),
            Row::new("madvise: huge pages made of small ones", self.collapsed),
            Row::new("mmap, copy engine fills and copies, munmap", self.buffers),
            Row::new("madvise: scratch memory given back", self.discarded),
        ]
    }
}

/// The threads' common state.
pub(crate) struct Churn<'a> {
    table: &'a Table,
    channels: [Channel; 2],
    copy_channel: Channel,
    seed: u64,
    walks: AtomicU64,
    over: AtomicBool,
    counts: Counts,
}

#[derive(Default)]
struct Counts {
    forks: AtomicU64,
    moved: AtomicU64,
    reprotected: AtomicU64,
    collapsed: AtomicU64,
    buffers: AtomicU64,
    discarded: AtomicU64,
}

/// A kind of trouble.
#[derive(Clone, Copy)]
struct Trouble<'a> {
    /// Makes it once.
    round: fn(&Churn<'a>, &mut Rng) -> Outcome<()>,
    /// Rounds for each walk of the GPU.
    per_walk: u64,
    /// Milliseconds before each round.
    pause: u64,
}

type Threads<'scope> = Vec<ScopedJoinHandle<'scope, Result<(), String>>>;

impl<'a> Churn<'a> {
    pub(crate) fn new(svm: &Svm, table: &'a Table, seed: u64) -> Outcome<Self> {
        let channels = [svm.channel()?, svm.channel()?];
        Ok(Churn {
            table,
            channels,
            copy_channel: svm.copy_channel()?,
            seed,
            walks: AtomicU64::new(0),
            over: AtomicBool::new(false),
            counts: Counts::default(),
        })
    }

    /// Starts one thread for each kind of trouble.
    pub(crate) fn start<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>) -> Threads<'scope> {
        let all = [
            Trouble {
                round: Self::fork,
                per_walk: 1,
                pause: 100,
            },
            Trouble {
                round: Self::exchange_heads,
                per_walk: 32,
                pause: 5,
            },
            Trouble {
                round: Self::reprotect_nodes,
                per_walk: 32,
                pause: 5,
            },
            Trouble {
                round: Self::buffer,
                per_walk: 4,
                pause: 10,
            },
            Trouble {
                round: Self::scratch,
                per_walk: 4,
                pause: 10,
            },
        ];
        let start = |(i, trouble): (usize, Trouble<'a>)| {
            let rng = Rng::with_seed(self.seed.wrapping_add(i as u64 + 1));
            scope.spawn(move || {
                self.trouble(&trouble, rng)
                    .map_err(|error| error.to_string())
            })
        };
        all.into_iter().enumerate().map(start).collect()
    }

    /// Lets every thread do its share for one more walk.
    pub(crate) fn next_walk(&self) {
        self.walks.fetch_add(1, Ordering::Relaxed);
    }

    /// Ends the threads and tells what they did.
    pub(crate) fn stop(&self, threads: Threads<'_>) -> Outcome<Done> {
        self.over.store(true, Ordering::Relaxed);
        for thread in threads {
            thread
                .join()
                .map_err(|_| "a thread of the demo panicked")??;
        }
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Ok(Done {
            forks: read(&self.counts.forks),
            moved: read(&self.counts.moved),
            reprotected: read(&self.counts.reprotected),
            collapsed: read(&self.counts.collapsed),
            buffers: read(&self.counts.buffers),
            discarded: read(&self.counts.discarded),
        })
    }

    /// One thread: a bounded number of rounds for each walk, so that a slow machine has less to do at a time, not more.
    fn trouble(&self, trouble: &Trouble<'a>, mut rng: Rng) -> Outcome<()> {
        let mut rounds = 0;
        while !self.over.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(trouble.pause));
            if rounds < trouble.per_walk * self.walks.load(Ordering::Relaxed) {
                (trouble.round)(self, &mut rng)?;
                rounds += 1;
            }
        }
        Ok(())
    }

    /// A child has the table as it was at the fork: the GPU's further writes must not reach it.
    fn fork(&self, rng: &mut Rng) -> Outcome<()> {
        let first = rng.usize(..self.table.heads().len() - 64);
        let sum = || {
            (first..first + 64)
                .flat_map(|chain| self.table.chain(chain))
                .map(|node| node.value())
                .sum::<u64>()
        };
        let content = memory::in_child(|| {
            let then = sum();
            std::thread::sleep(Duration::from_millis(20));
            then == sum()
        })?;
        if !content {
            return Err("a forked child saw the GPU write into its memory".into());
        }
        count(&self.counts.forks)
    }

    /// Exchanges pages of the array that the GPU finds its chains by.
    fn exchange_heads(&self, rng: &mut Rng) -> Outcome<()> {
        let pages = memory::whole_pages(self.table.heads());
        let page = rng.usize(..pages.len() / memory::PAGE);
        memory::move_page(self.table.heads(), pages.start + page * memory::PAGE)?;
        count(&self.counts.moved)
    }

    /// Has the kernel change protections of pages full of nodes, and now and then make a huge page of them.
    fn reprotect_nodes(&self, rng: &mut Rng) -> Outcome<()> {
        let Some(node) = self.table.some_node(rng) else {
            return Ok(());
        };
        memory::reprotect(node)?;
        count(&self.counts.reprotected)?;
        if rng.u8(..) < 16 && memory::collapse(node) {
            count(&self.counts.collapsed)?;
        }
        Ok(())
    }

    /// Buffers come and go, and nobody has touched them: a copy engine fills and copies, the compute engine compares.
    fn buffer(&self, rng: &mut Rng) -> Outcome<()> {
        let words = rng.usize(100_000..200_000);
        let (mut one, mut two, mut difference) =
            (vec![0_u64; words], vec![0_u64; words], vec![0_u64]);
        let (bytes, value) = (words as u64 * 8, rng.u64(..));
        let mut push = self.copy_channel.push_buffer();
        push.run(&copy::Fill::new(one.as_mut_ptr(), value, words as u64))?;
        push.run(&copy::Linear::new(two.as_mut_ptr(), one.as_ptr(), bytes))?;
        self.copy_channel.submit(&push)?.wait(LIMIT)?;
        let (left, right) = (Strided::packed(one.as_ptr()), Strided::packed(two.as_ptr()));
        let compare = Compare::new(left, right, bytes, difference.as_mut_ptr());
        self.channels[0].launch(compare, lanes(1))?.wait(LIMIT)?;
        if difference != [Compare::EQUAL] || two.iter().any(|&word| word != value) {
            return Err("a buffer that the GPU filled and copied is wrong".into());
        }
        count(&self.counts.buffers)
    }

    /// Scratch memory is given back between two uses, and is zero again for the GPU.
    fn scratch(&self, rng: &mut Rng) -> Outcome<()> {
        let (mut scratch, step) = (vec![0_u64; SCRATCH], rng.u64(1..1000));
        for _ in 0..2 {
            memory::discard(&mut scratch)?;
            let inside = &mut scratch[memory::PAGE / 8..SCRATCH - memory::PAGE / 8];
            let add = Atomic::add(Strided::packed(inside.as_mut_ptr()), step);
            self.channels[1]
                .launch(add, lanes(inside.len() as u32))?
                .wait(LIMIT)?;
            if inside.iter().any(|&word| word != step) {
                return Err("scratch memory was not zero for the GPU".into());
            }
        }
        count(&self.counts.discarded)
    }
}

fn count(counter: &AtomicU64) -> Outcome<()> {
    counter.fetch_add(1, Ordering::Relaxed);
    Ok(())
}
