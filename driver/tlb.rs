// SPDX-License-Identifier: GPL-2.0

//! TLB operations: invalidations, replays and cancels, through the registers of `pri_mmu_hub`.
//!
//! One operation at a time uses the registers, so they are behind a lock. It is the last of the lock order, and may be
//! tried before anything is changed: that is how a non-blockable invalidation fails without a trace.

use crate::{
    counters::Counters,
    gpu_pt::{block::Stale, PAGE_SHIFT},
    kapi::mmio::{self, Bar0},
    ptimer::ptimer_ns,
    regs::*,
    vram::VramOffset,
};
use core::ops::Range;
use kernel::{
    new_mutex,
    prelude::*,
    sync::{
        atomic::{Atomic, Relaxed},
        lock::mutex::MutexGuard,
        Arc, Mutex,
    },
    time::{delay, Delta, Instant, Monotonic},
};

/// Longest wait for an operation. The virtual GPU answers in microseconds; a device that needs seconds is lost.
const TIMEOUT: Delta = Delta::from_secs(5);
/// Pause between two looks, where sleeping is allowed.
const POLL_INTERVAL: Delta = Delta::from_micros(20);

/// Whether the caller may sleep while it waits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    /// It may.
    Sleep,
    /// It may not: a non-blockable invalidation.
    Spin,
}

/// When an invalidation is finished.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ack {
    /// At once: for new rights, where a stale entry only costs another fault.
    NotRequired = 0,
    /// When every access with an old translation has reached memory, as the CPU sees it: for pages that go away.
    Globally = 1,
}

/// How far up the page-table levels cached entries are dropped (CACHE_LEVEL).
#[derive(Clone, Copy, Default)]
pub(crate) enum CacheLevel {
    /// Everything.
    #[default]
    All = 0,
    /// Leaves.
    PteOnly = 1,
    /// Leaves and PDE0.
    UpToPde0 = 2,
}

impl From<Stale> for CacheLevel {
    fn from(stale: Stale) -> Self {
        match stale {
            Stale::Nothing | Stale::Pte => CacheLevel::PteOnly,
            Stale::Pde0 => CacheLevel::UpToPde0,
        }
    }
}

/// Which cached translations to drop.
pub(crate) struct Scope {
    /// Root of the address space.
    pub(crate) pdb: VramOffset,
    /// Addresses; `None` means all.
    pub(crate) range: Option<Range<u64>>,
    /// Levels.
    pub(crate) level: CacheLevel,
}

/// Accesses that a cancel is for (access type of CANCEL_VA_GLOBAL).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CancelAccess {
    /// Writes and atomics.
    WriteAndAtomic = 6,
    /// All.
    All = 7,
}

/// REPLAY codes.
#[derive(Clone, Copy)]
enum Replay {
    None = 0,
    Start = 1,
    CancelVaGlobal = 5,
}

/// The TLB registers.
#[pin_data]
pub(crate) struct Tlb {
    bar0: Arc<Bar0>,
    counters: Arc<Counters>,
    /// Whether there was a bad access; from then on it matters when accesses were replayed.
    suspicious: Atomic<bool>,
    /// Time of the device when the last replay began.
    replayed_at: Atomic<u64>,
    /// The device has no access to memory any more, so that operations are over at once.
    given_up: Atomic<bool>,
    #[pin]
    lock: Mutex<()>,
}

impl Tlb {
    /// Operations go to the registers in `bar0`.
    pub(crate) fn new(bar0: Arc<Bar0>, counters: Arc<Counters>) -> impl PinInit<Self> {
        pin_init!(Self {
            bar0,
            counters,
            suspicious: Atomic::new(false),
            replayed_at: Atomic::new(0),
            given_up: Atomic::new(false),
            lock <- new_mutex!((), "mirage::tlb"),
        })
    }

    /// There was a bad access. Returns when the last replay began, as far as that is known.
    pub(crate) fn suspect(&self) -> u64 {
        self.suspicious.store(true, Relaxed);
        self.replayed_at.load(Relaxed)
    }

    fn note_replay(&self) {
        if self.suspicious.load(Relaxed) {
            self.replayed_at.store(ptimer_ns(&self.bar0), Relaxed);
        }
    }

    /// The device cannot reach memory any more: whoever waits for it, or would, goes on.
    pub(crate) fn give_up(&self) {
        self.given_up.store(true, Relaxed);
    }

    /// Whether the device has been cut off from memory.
    pub(crate) fn is_given_up(&self) -> bool {
        self.given_up.load(Relaxed)
    }

    /// Takes the registers; sleeps.
    pub(crate) fn lock(&self) -> TlbGuard<'_> {
        TlbGuard {
            tlb: self,
            wait: Wait::Sleep,
            _guard: self.lock.lock(),
        }
    }

    /// Takes the registers if they are free; operations will not sleep.
    pub(crate) fn try_lock(&self) -> Option<TlbGuard<'_>> {
        let guard = self.lock.try_lock()?;
        Some(TlbGuard {
            tlb: self,
            wait: Wait::Spin,
            _guard: guard,
        })
    }
}

/// The TLB registers, held.
#[must_use]
pub(crate) struct TlbGuard<'a> {
    tlb: &'a Tlb,
    wait: Wait,
    _guard: MutexGuard<'a, ()>,
}

impl TlbGuard<'_> {
    /// Drops translations, and returns when the device can no longer reach memory through them.
    ///
    /// # Errors
    ///
    /// `ETIMEDOUT`: the device does not answer; nothing is known of what it can reach.
    pub(crate) fn invalidate(&self, scope: &Scope) -> Result {
        self.wait_for(|ctrl| ctrl.pri_fifo_space() != 0)?;
        self.write_scope(scope);
        self.trigger(scope, Ack::Globally, Replay::None);
        self.wait_for(|ctrl| ctrl.pri_fifo_empty())
    }

    /// Lets all faulted accesses try again; first drops translations that now have more rights.
    ///
    /// # Errors
    ///
    /// `ETIMEDOUT`: the device does not take operations.
    pub(crate) fn replay(&self, upgraded: Option<&Scope>) -> Result {
        self.wait_for(|ctrl| ctrl.pri_fifo_space() != 0)?;
        self.tlb.counters.replays.inc();
        self.tlb.note_replay();
        match upgraded {
            Some(scope) => {
                self.write_scope(scope);
                self.trigger(scope, Ack::NotRequired, Replay::Start);
            }
            None => {
                // A replay comes with an invalidation; let that hit nothing.
                let nothing = Scope {
                    pdb: NO_PDB,
                    range: Some(0..1 << PAGE_SHIFT),
                    level: CacheLevel::PteOnly,
                };
                self.write_scope(&nothing);
                self.trigger(&nothing, Ack::NotRequired, Replay::Start);
            }
        }
        Ok(())
    }

    /// Ends faulted accesses to the page at `va` for good; the others try again.
    ///
    /// # Errors
    ///
    /// `ETIMEDOUT`: the device does not answer.
    pub(crate) fn cancel(&self, pdb: VramOffset, va: u64, access: CancelAccess) -> Result {
        self.wait_for(|ctrl| ctrl.pri_fifo_space() != 0)?;
        self.tlb.counters.cancels.inc();
        self.tlb.note_replay();
        let page = va & !((1 << PAGE_SHIFT) - 1);
        self.write_scope(&Scope {
            pdb,
            range: Some(page..page + 1),
            level: CacheLevel::All,
        });
        self.write_trigger(
            NV_PFB_PRI_MMU_INVALIDATE::zeroed()
                .with_const_replay::<{ Replay::CancelVaGlobal as u32 }>()
                .with_const_ack::<{ Ack::Globally as u32 }>()
                .try_with_cache_level(access as u32)?,
        );
        self.wait_for(|ctrl| ctrl.pri_fifo_empty())
    }

    fn write_scope(&self, scope: &Scope) {
        let bar0 = &self.tlb.bar0;
        let pdb = scope.pdb.0 >> PAGE_SHIFT;
        bar0.write_reg(address_low(pdb));
        bar0.write_reg(address_high(pdb));
        if let Some(range) = &scope.range {
            let page = range.start >> PAGE_SHIFT;
            bar0.write_reg(NV_PFB_PRI_MMU_INVALIDATE_VADDR::from((page << 4) as u32));
            bar0.write_reg(NV_PFB_PRI_MMU_INVALIDATE_UPPER_VADDR::from(
                (page >> 28) as u32,
            ));
            bar0.write_reg(NV_PFB_PRI_MMU_INVALIDATE_SIZE::from(size_order(range)));
        }
    }

    fn trigger(&self, scope: &Scope, ack: Ack, replay: Replay) {
        let all = scope.range.is_none();
        let value = NV_PFB_PRI_MMU_INVALIDATE::zeroed()
            .with_all_va(all)
            .with_use_size(!all)
            .with_sys_membar(ack == Ack::Globally);
        let fields = value
            .try_with_ack(ack as u32)
            .and_then(|v| v.try_with_replay(replay as u32))
            .and_then(|v| v.try_with_cache_level(scope.level as u32));
        // The codes are enums that fit their fields.
        self.write_trigger(fields.unwrap_or(value));
    }

    fn write_trigger(&self, value: NV_PFB_PRI_MMU_INVALIDATE) {
        self.tlb.counters.tlb_operations.inc();
        // The device must see the page tables as they are now before it walks them again.
        mmio::wmb();
        self.tlb.bar0.write_reg(value.with_trigger(true));
    }

    fn wait_for(&self, done: impl Fn(NV_PFB_PRI_MMU_CTRL) -> bool) -> Result {
        let begin = Instant::<Monotonic>::now();
        loop {
            // Whoever was held up looks once more.
            let late = begin.elapsed() > TIMEOUT;
            // A device that is gone reads as all ones: space, and nothing to wait for.
            if self.tlb.is_given_up() || done(self.tlb.bar0.read(NV_PFB_PRI_MMU_CTRL)) {
                return Ok(());
            }
            if late {
                return Err(ETIMEDOUT);
            }
            match self.wait {
                Wait::Sleep => delay::fsleep(POLL_INTERVAL),
                Wait::Spin => delay::udelay(Delta::from_micros(1)),
            }
        }
    }
}

/// An address that is no page directory.
const NO_PDB: VramOffset = VramOffset((1 << 47) - (1 << PAGE_SHIFT));

fn address_low(pdb: u64) -> NV_PFB_PRI_MMU_INVALIDATE_PDB {
    NV_PFB_PRI_MMU_INVALIDATE_PDB::from((pdb << 4) as u32)
}

fn address_high(pdb: u64) -> NV_PFB_PRI_MMU_INVALIDATE_UPPER_PDB {
    NV_PFB_PRI_MMU_INVALIDATE_UPPER_PDB::from((pdb >> 28) as u32)
}

/// Smallest n such that an aligned range of 4 KiB << n covers `range`.
fn size_order(range: &Range<u64>) -> u32 {
    let differing = range.start ^ range.end.saturating_sub(1).max(range.start);
    (u64::BITS - differing.leading_zeros()).saturating_sub(PAGE_SHIFT)
}
