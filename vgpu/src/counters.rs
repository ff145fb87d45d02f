// SPDX-License-Identifier: MIT OR Apache-2.0
//! Counters of what the device did, readable from outside while it runs.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

/// One event counter.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Counts one event.
    pub fn count(&self) {
        self.add(1);
    }

    /// Counts `n` events.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The events so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// All counters of one device. They only grow; reset does not clear them.
        #[derive(Debug, Default)]
        pub struct Counters {
            $($(#[$doc])* pub $name: Counter,)*
        }

        impl Counters {
            /// Every counter by name.
            pub fn snapshot(&self) -> Snapshot {
                BTreeMap::from([$((stringify!($name), self.$name.get()),)*])
            }
        }
    };
}

/// Counter values by name, in a form that serializes as one map.
pub type Snapshot = BTreeMap<&'static str, u64>;

counters! {
    /// Translations that were asked for.
    accesses,
    /// Translations served by the unit's own TLB.
    utlb_hits,
    /// Translations served by the shared TLB.
    tlb_hits,
    /// Page-table walks.
    walks,
    /// Of them, those to where a request waits, that nobody asked for.
    eager_walks,
    /// Walks that started below the root, from a cached PDE.
    pde_cache_hits,
    /// Faulting requests, each time they fault.
    faults,
    /// Packets written to the replayable fault buffer.
    replayable_packets,
    /// Packets written to the non-replayable fault buffer.
    non_replayable_packets,
    /// Packets that a full or disabled buffer dropped.
    dropped_packets,
    /// Of them, those that the snapshot registers kept.
    snapshots,
    /// Packets whose VALID was held back.
    delayed_valids,
    /// Nanoseconds by which they were to be late.
    valid_delay_ns,
    /// Packets that were made up: written a second time at once,
    duplicate_packets,
    /// ... or a good while after their fault,
    stale_packets,
    /// ... or without any meaning.
    nonsense_packets,
    /// Messages that were sent with nothing pending.
    spurious_interrupts,
    /// Messages that were not sent.
    lost_interrupts,
    /// Prefetches that faulted and were not reported, by PRF_FILTER.
    filtered_prefetches,
    /// Replays (START and START_ACK_ALL).
    replays,
    /// Requests that were cancelled.
    cancelled_requests,
    /// Invalidations that were executed.
    invalidates,
    /// Of them, those that were acked (GLOBALLY or INTRANODE).
    acked_invalidates,
    /// Nanoseconds by which those were late.
    ack_delay_ns,
    /// Triggers that came while the PRI FIFO was full, dropped.
    dropped_triggers,
    /// Stores that were held back after their translation.
    late_stores,
    /// Late stores that were still held when an acked invalidate drained them.
    drained_stores,
    /// Device accesses that reached no memory.
    bus_errors,
    /// GP entries that were fetched.
    gp_entries,
    /// Methods that were decoded.
    methods,
    /// Errors that stopped a channel, other than faults.
    channel_errors,
    /// Launches of the compute engine.
    launches,
    /// Bytes that COPY and the copy engines moved.
    bytes_copied,
}
