// SPDX-License-Identifier: MIT OR Apache-2.0
//! The MMU: page-table walks, TLBs, invalidation, faults and their replay.
//!
//! Units ([`Unit`]) translate on their own threads. Invalidations and replays run one after the other on a thread of
//! the MMU, so that a register write never waits for them.

mod buffer;
mod cache;
mod core;
mod fault_buffer;
mod fault_regs;
mod format;
mod invalidation;
mod mem_op;
mod packet;
mod pri_fifo;
mod replay;
mod stores;
mod tlb;
mod trouble;
mod types;
mod unit;
mod walk;

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::bus::{Bus, PhysAddr};
use crate::config::Config;
use crate::counters::{Counters, Snapshot};
use crate::intr::InterruptTree;
use crate::pri::RegisterBlock;

use self::core::{Core, Parts};
use self::mem_op::Decoded;
use self::pri_fifo::{Work, Written};
use self::stores::Landing;

pub use self::mem_op::{MemOp, UnknownMemOp};
pub use self::types::{
    Access, AddressSpace, Backing, Binding, Client, ClientKind, Fault, FaultType, Privilege,
    Replay, Stalled, Translation,
};
pub use self::unit::{Unit, Window};

/// How long the MMU's thread sleeps when no held stores ask it to wake up earlier.
const IDLE: Duration = Duration::from_secs(3600);

/// The MMU.
pub struct Mmu {
    core: Arc<Core>,
    seed: u64,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Mmu {
    /// An MMU after power-on, its invalidation thread running.
    ///
    /// # Errors
    /// The operating system gives no thread.
    pub fn new(
        bus: Arc<dyn Bus>,
        intr: Arc<InterruptTree>,
        counters: Arc<Counters>,
        config: &Config,
    ) -> std::io::Result<Arc<Self>> {
        let core = Arc::new(Core::new(Parts {
            bus,
            intr,
            counters,
            config,
        }));
        let worker = Arc::clone(&core);
        let random = fastrand::Rng::with_seed(config.seed);
        let thread = thread::Builder::new().name("mmu".into());
        let thread = thread.spawn(move || run(&worker, random))?;
        Ok(Arc::new(Self {
            core,
            seed: config.seed,
            thread: Mutex::new(Some(thread)),
        }))
    }

    /// Adds a unit that accesses memory. Dropping the unit lands its stores and removes it. `number` tells units apart that
    /// fault packets name alike: what is random in a unit follows from the device's seed, `client` and `number`, not from
    /// when its thread came to register it.
    pub fn register_unit(&self, client: Client, number: u32) -> Unit {
        let seed = unit_seed(self.seed, client, number);
        Unit::new(Arc::clone(&self.core), self.core.add_unit(), client, seed)
    }

    /// Drops the requests of a killed channel from the replay FIFO; their units get [`Stalled::Abandoned`].
    pub fn abandon(&self, inst: PhysAddr) {
        self.core.replays.abandon(inst);
    }

    /// Reports a fault that nobody stalls on, in fault buffer 0: [`Unit::report`] on behalf of another client.
    pub fn report(&self, space: &AddressSpace, client: Client, fault: Fault) {
        self.core.report(space, client, fault);
    }

    /// Executes MEM_OP_A to _D of a privileged channel; returns when it is finished, as its ACK says. The caller's units
    /// have no window open.
    ///
    /// # Errors
    /// There is no such operation.
    pub fn mem_op(&self, op: MemOp) -> Result<(), UnknownMemOp> {
        match op.decode()? {
            Decoded::Tlb(operation) => self.core.pri.mem_op(operation),
            Decoded::Membar(landing) => {
                self.core.drain(landing);
            }
            Decoded::Nothing => {}
        }
        Ok(())
    }

    /// Lands the held stores of all units, as a host WFI does for units that cannot do it themselves.
    pub fn land_stores(&self) {
        self.core.land_stores(Landing::All);
    }

    /// All counters by name, including what the units have counted so far.
    pub fn counters(&self) -> Snapshot {
        let (accesses, hits) = self.core.live_accesses();
        let mut snapshot = self.core.counters.snapshot();
        *snapshot.entry("accesses").or_default() += accesses;
        *snapshot.entry("utlb_hits").or_default() += hits;
        snapshot
    }
}

impl Drop for Mmu {
    fn drop(&mut self) {
        self.core.replays.close();
        self.core.pri.shut_down();
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Err(_)) = thread.take().map(JoinHandle::join) {
            log::error!("the MMU's thread panicked");
        }
    }
}

/// The seed of one unit. Each part has bits of its own, so that no two units of a device have the same.
fn unit_seed(seed: u64, client: Client, number: u32) -> u64 {
    let (side, gpc, id) = match client.kind {
        ClientKind::Gpc { gpc, client } => (0, gpc & 0x1f, client & 0x7f),
        ClientKind::Hub { client } => (1, 0, client & 0x7f),
    };
    let name = (u64::from(number) << 32)
        | (u64::from(client.engine_id & 0x1ff) << 16)
        | (u64::from(id) << 8)
        | (u64::from(gpc) << 1)
        | side;
    // Through a generator, or the next seed would only shift the units.
    fastrand::Rng::with_seed(seed).u64(..) ^ name
}

/// The MMU's thread.
fn run(core: &Core, mut random: fastrand::Rng) {
    let window = core.late_writes.map(|late| late.window);
    let patience = window.map_or(IDLE, |window| (window / 2).max(Duration::from_millis(1)));
    loop {
        let due = core.faults.deliver().unwrap_or(IDLE);
        let walk = core.next_walk().unwrap_or(IDLE);
        match core.pri.next(patience.min(due).min(walk)) {
            Work::Execute(operation) => core.execute(operation, ack_delay(core, &mut random)),
            Work::Idle => core.walk_eagerly(),
            Work::Shutdown => return,
        }
        if let Some(window) = window {
            core.land_stores(Landing::OlderThan(window));
        }
    }
}

fn ack_delay(core: &Core, random: &mut fastrand::Rng) -> Duration {
    let most = core.late_acks.map_or(0, |late| late.most.as_nanos());
    Duration::from_nanos(random.u64(..=u64::try_from(most).unwrap_or(u64::MAX)))
}

impl RegisterBlock for Mmu {
    fn read(&self, offset: u32) -> Option<u32> {
        let faults = || self.core.faults.read(offset);
        self.core.pri.read(offset).or_else(faults)
    }

    fn write(&self, offset: u32, value: u32) -> Option<()> {
        match self.core.pri.write(offset, value) {
            Some(Written::Done) => Some(()),
            Some(Written::Dropped) => {
                log::warn!("invalidation triggered while PRI_FIFO_SPACE is 0: dropped");
                self.core.counters.dropped_triggers.count();
                Some(())
            }
            None => self.core.faults.write(offset, value),
        }
    }

    fn reset(&self) {
        self.core.reset();
    }
}
