// SPDX-License-Identifier: GPL-2.0

//! Telling why channels were stopped: to the program, as events on its file, and to people, in debugfs.

use super::{FaultReport, Reason, ReportAccess, Svm};
use crate::{
    gpu::Gpu,
    kapi::{
        drm::{debugfs::DebugfsFile, EventSender},
        raw,
        task::Process,
    },
};
use kernel::{
    fmt, new_mutex,
    prelude::*,
    seq_file::SeqFile,
    seq_print,
    sync::{Arc, Mutex},
};

/// The open file that an address space was bound to.
pub(crate) struct Client {
    /// Its number: `drm-client-id` in fdinfo, `client` in traces.
    pub(crate) id: u64,
    /// Who bound it.
    pub(crate) process: Process,
    pub(crate) events: Arc<EventSender>,
}

impl Svm {
    /// Tells why a channel was stopped. To be called before its fences signal, so that who waits for them finds the event.
    pub(crate) fn report(&self, report: FaultReport) {
        self.gpu.fault_log.add(LogEntry {
            client: self.client.id,
            process: self.client.process,
            report,
        });
        let mut dropped = self.dropped_events.lock();
        let event = raw::drm_mirage_event_fault {
            addr: report.addr,
            timestamp: report.timestamp,
            batch: report.batch,
            channel: report.channel,
            access: report.access as u32,
            reason: report.reason as u32,
            dropped: *dropped,
            ..Default::default()
        };
        if self.client.events.send(event).is_ok() {
            *dropped = 0;
        } else {
            *dropped = dropped.saturating_add(1);
            self.gpu.counters.dropped_events.inc();
        }
    }
}

/// Entries that a log keeps.
const LOG_ENTRIES: usize = 64;

#[derive(Clone, Copy)]
struct LogEntry {
    client: u64,
    process: Process,
    report: FaultReport,
}

struct Entries {
    ring: [Option<LogEntry>; LOG_ENTRIES],
    /// How many there have been. The next goes into this slot, modulo their number.
    count: u64,
}

/// The last stopped channels of a device, for `mirage_faults` in debugfs. Its lock is a leaf.
#[pin_data]
pub(crate) struct FaultLog {
    #[pin]
    entries: Mutex<Entries>,
}

impl FaultLog {
    /// An empty log.
    pub(crate) fn new() -> impl PinInit<Self> {
        let entries = Entries {
            ring: [const { None }; LOG_ENTRIES],
            count: 0,
        };
        pin_init!(Self { entries <- new_mutex!(entries, "mirage::fault_log") })
    }

    fn add(&self, entry: LogEntry) {
        let mut entries = self.entries.lock();
        let slot = slot(entries.count);
        entries.count += 1;
        if let Some(slot) = entries.ring.get_mut(slot) {
            *slot = Some(entry);
        }
    }

    /// Entry number `number`, if there has been one and it is still there.
    fn get(&self, number: u64) -> Option<LogEntry> {
        let entries = self.entries.lock();
        let kept = entries.count.saturating_sub(LOG_ENTRIES as u64)..entries.count;
        if !kept.contains(&number) {
            return None;
        }
        entries.ring.get(slot(number)).copied().flatten()
    }
}

fn slot(number: u64) -> usize {
    // CAST: Less than LOG_ENTRIES.
    (number % LOG_ENTRIES as u64) as usize
}

impl DebugfsFile<Arc<Gpu>> for FaultLog {
    const NAME: &'static CStr = c"mirage_faults";

    fn next(gpu: &Arc<Gpu>, from: u64) -> Option<u64> {
        let count = gpu.fault_log.entries.lock().count;
        let next = from.max(count.saturating_sub(LOG_ENTRIES as u64));
        (next < count).then_some(next)
    }

    fn show(gpu: &Arc<Gpu>, position: u64, seq: &SeqFile) {
        let Some(entry) = gpu.fault_log.get(position) else {
            return;
        };
        let LogEntry {
            client,
            process,
            report,
        } = entry;
        seq_print!(
            seq,
            "time_ns={} client={} channel={} addr={:#x} access={} reason={} batch={} {}\n",
            report.timestamp,
            client,
            report.channel,
            report.addr,
            report.access,
            report.reason,
            report.batch,
            process
        );
    }
}

impl fmt::Display for ReportAccess {
    /// As the user interface calls it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Atomic => "atomic",
            Self::None => "none",
        })
    }
}

impl fmt::Display for Reason {
    /// As the user interface calls it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoVma => "no_vma",
            Self::Permission => "permission",
            Self::Bus => "bus",
            Self::Unmanaged => "unmanaged",
            Self::OutOfMemory => "out_of_memory",
            Self::Exited => "exited",
            Self::Method => "method",
            Self::Device => "device",
            Self::Timeout => "timeout",
            Self::Reset => "reset",
        })
    }
}
