// SPDX-License-Identifier: GPL-2.0

//! What happened so far, for debugfs. Counters only: nothing decides by them.

use crate::{gpu::Gpu, kapi::drm::debugfs::DebugfsFile};
use kernel::{
    fmt,
    prelude::*,
    seq_file::SeqFile,
    seq_print,
    sync::{
        atomic::{Atomic, Relaxed},
        Arc,
    },
};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Event counters of one device, since it was bound.
        pub(crate) struct Counters {
            $($(#[$doc])* pub(crate) $name: Counter,)*
        }

        impl Counters {
            /// All zero.
            pub(crate) const fn new() -> Self {
                Self { $($name: Counter::new(),)* }
            }
        }

        impl fmt::Display for Counters {
            /// One `name: value` line each.
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                $(writeln!(f, concat!(stringify!($name), ": {}"), self.$name.get())?;)*
                Ok(())
            }
        }
    };
}

counters! {
    /// Fault packets read from the replayable buffer.
    faults,
    /// Batches that faults were served in.
    batches,
    /// Faults that repeated another of their batch, or whose page was mapped by the time.
    duplicates,
    /// Fault packets that made no sense, or of channels that are gone.
    stale_faults,
    /// Fault packets that the software queue had no room for; they fault again at the next replay.
    dropped_faults,
    /// Bad accesses that were tried once more before their channel was stopped.
    second_looks,
    /// Resets of the device.
    resets,
    /// Channels resumed after a fault that is not replayable.
    resumes,
    /// Times that the watchdog found work for which no interrupt had come.
    watchdog_kicks,
    /// Faults that came while there was no buffer for them.
    unbuffered_faults,
    /// Overflows of a fault buffer.
    overflows,
    /// Fault loops that an invalidation made start again.
    retries,
    /// Fault loops given up after a second of invalidations; the GPU faults again.
    retry_timeouts,
    /// Invalidate callbacks that found something mapped.
    invalidations,
    /// Invalidate callbacks that found nothing mapped.
    empty_invalidations,
    /// Non-blockable invalidate callbacks that were refused.
    refused_invalidations,
    /// 4 KiB pages whose mapping invalidations took away.
    invalidated_pages,
    /// 4 KiB leaves written.
    leaves_4k,
    /// 64 KiB leaves written.
    leaves_64k,
    /// 2 MiB leaves written.
    leaves_2m,
    /// Leaves that became writable in place.
    upgrades,
    /// Larger leaves split into 4 KiB ones.
    splits,
    /// TLB operations, replays and cancels included.
    tlb_operations,
    /// Replays.
    replays,
    /// Cancels of bad accesses.
    cancels,
    /// Channels stopped because of an error.
    channel_errors,
    /// Events about stopped channels that were lost, because too many waited to be read.
    dropped_events,
    /// Regions, ever made.
    regions,
    /// Regions given up to stay within bounds.
    regions_evicted,
    /// Push buffers run.
    execs,
}

impl DebugfsFile<Arc<Gpu>> for Counters {
    const NAME: &'static CStr = c"mirage";

    fn next(_gpu: &Arc<Gpu>, from: u64) -> Option<u64> {
        (from == 0).then_some(0)
    }

    fn show(gpu: &Arc<Gpu>, _position: u64, seq: &SeqFile) {
        seq_print!(seq, "{}", *gpu.counters);
    }
}

/// One counter.
pub(crate) struct Counter(Atomic<u64>);

impl Counter {
    const fn new() -> Self {
        Self(Atomic::new(0))
    }

    /// Counts one.
    pub(crate) fn inc(&self) {
        self.add(1);
    }

    /// Counts one, and returns its number, from 1 on.
    pub(crate) fn next(&self) -> u64 {
        self.0.fetch_add(1, Relaxed).wrapping_add(1)
    }

    /// Counts `n`.
    pub(crate) fn add(&self, n: usize) {
        // CAST: `usize` has 64 bits.
        self.0.add(n as u64, Relaxed);
    }

    /// The value now.
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}
