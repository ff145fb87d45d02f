// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a channel did ends with its binding: nothing of it is put down to the next one.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{mpsc, Arc, Mutex};

use mirage_vgpu::bus::{AtomicOp, Bus, BusError, PhysAddr, Width};
use mirage_vgpu::config::Config;
use mirage_vgpu::memory::Memory;

use crate::copy::{copy, copy_channel};
use crate::rig::*;

const PBENTRY: u32 = 1 << 18;
const GPENTRY: u32 = 1 << 15;
const ILLEGAL_CLASS: u32 = 1 << 5;
const VALID: u32 = 1 << 13;
const CTX_VALID: u32 = 1 << 31;
const PBDMA: u32 = 1 << 29;
const CE_INTR_STATUS: u32 = 0x104410;
const LAUNCHERR: u32 = 4;
const ENGINE_STATUS: u32 = 0x2640;

/// Where errors are shown: what makes one, its bit, and the register that names its channel.
struct Shown {
    intr: u32,
    bit: u32,
    context: u32,
    name: fn(&Channel<'_>) -> u32,
}

fn registers() -> [(Vec<u32>, Shown); 2] {
    let pbdma = Shown {
        intr: PBDMA_INTR,
        bit: PBENTRY,
        context: PBDMA_CHANNEL,
        name: |channel| VALID | channel.id,
    };
    let graph = Shown {
        intr: GRAPH_INTR,
        bit: ILLEGAL_CLASS,
        context: GRAPH_CTX,
        name: |channel| CTX_VALID | (channel.inst.addr >> 12) as u32,
    };
    [(vec![2 << 29], pbdma), (methods(3, 0, &[0x1234]), graph)]
}

/// Two channels, each with an error, in this order.
fn two_errors<'a>(rig: &'a Rig, words: &[u32]) -> [Channel<'a>; 2] {
    [0, 1].map(|id| {
        let channel = rig.channel(id);
        channel.submit(words);
        let errors = || rig.gpu.counters()["channel_errors"];
        rig.until("the error", || errors() == u64::from(id) + 1);
        channel
    })
}

fn bind_again(channel: &Channel<'_>) {
    channel.kill();
    channel.bind();
    channel.enable();
}

#[test]
fn an_error_that_waits_goes_with_the_binding_of_its_channel() {
    for (words, shown) in registers() {
        let rig = Rig::new();
        let [first, second] = two_errors(&rig, &words);
        bind_again(&second);
        assert_eq!(rig.read(shown.context), (shown.name)(&first));
        rig.write(shown.intr, shown.bit);
        assert_eq!((rig.read(shown.intr), rig.read(shown.context)), (0, 0));
        assert_eq!(rig.read(PFIFO_INTR) & PBDMA, 0);
        second.wait(second.fence());
    }
}

#[test]
fn an_error_that_is_shown_keeps_its_bit_and_loses_its_channel() {
    for (words, shown) in registers() {
        let rig = Rig::new();
        let [first, second] = two_errors(&rig, &words);
        // Whoever is about to clear it must not clear the next.
        bind_again(&first);
        assert_eq!(
            (rig.read(shown.intr), rig.read(shown.context)),
            (shown.bit, 0)
        );
        rig.write(shown.intr, shown.bit);
        assert_eq!(rig.read(shown.intr), shown.bit);
        assert_eq!(rig.read(shown.context), (shown.name)(&second));
        first.wait(first.fence());
    }
}

#[test]
fn an_engine_that_stopped_for_a_channel_names_it_until_it_is_bound_again() {
    let rig = Rig::new();
    let channel = copy_channel(&rig, 5, 0);
    let bad = Dma {
        launch: 3,
        ..copy(8)
    };
    channel.submit(&bad.words());
    rig.until("the error", || rig.read(CE_INTR_STATUS) == LAUNCHERR);
    let named = || rig.read(ENGINE_STATUS + 8) & 0xffff;
    assert_eq!(named(), (1 << 13) | 5);
    channel.kill();
    assert_eq!(named(), (1 << 13) | 5);
    channel.bind();
    assert_eq!(named(), 0);
    assert_eq!(rig.read(CE_INTR_STATUS), LAUNCHERR);
}

#[test]
fn errors_of_all_channels_at_once_are_all_shown() {
    const CHANNELS: u32 = 128;
    let rig = Rig::new();
    // They share one instance block, and with it a ring whose entry makes no sense.
    let channel = rig.channel(0);
    let ids: Vec<u32> = (0..CHANNELS).collect();
    for id in &ids[1..] {
        let inst = (1 << 31) | (channel.inst.addr >> 12) as u32;
        rig.write(0x80_0000 + 8 * id, inst);
        rig.write(0x80_0004 + 8 * id, ENABLE_SET);
    }
    rig.submit_runlist(0, &[(0, &ids)]);
    rig.put_u64(channel.ring, 1 << 32);
    rig.memory.write_u32(channel.userd.offset(0x8c), 1).unwrap();
    ids.iter().for_each(|id| rig.write(DOORBELL, *id));
    let errors = || rig.gpu.counters()["channel_errors"];
    rig.until("all errors", || errors() == u64::from(CHANNELS));
    let mut seen = Vec::new();
    while rig.read(PBDMA_INTR) == GPENTRY {
        seen.push(rig.read(PBDMA_CHANNEL) & !VALID);
        rig.write(PBDMA_INTR, GPENTRY);
    }
    seen.sort_unstable();
    assert_eq!(seen, ids);
}

/// Memory where one read of one place, of which it tells, takes until the test lets it go.
struct Slow {
    memory: Arc<Memory>,
    place: AtomicU64,
    reached: mpsc::SyncSender<()>,
    go: Mutex<mpsc::Receiver<()>>,
}

impl Bus for Slow {
    fn read(&self, at: PhysAddr, out: &mut [u8]) -> Result<(), BusError> {
        let slow = self
            .place
            .compare_exchange(at.addr, 0, Ordering::SeqCst, Ordering::SeqCst);
        if slow.is_ok() {
            self.reached.send(()).unwrap();
            self.go.lock().unwrap().recv().unwrap();
        }
        self.memory.read(at, out)
    }

    fn write(&self, at: PhysAddr, data: &[u8]) -> Result<(), BusError> {
        self.memory.write(at, data)
    }

    fn read_u32(&self, at: PhysAddr) -> Result<u32, BusError> {
        self.memory.read_u32(at)
    }

    fn read_u64(&self, at: PhysAddr) -> Result<u64, BusError> {
        self.memory.read_u64(at)
    }

    fn write_u32(&self, at: PhysAddr, value: u32) -> Result<(), BusError> {
        self.memory.write_u32(at, value)
    }

    fn write_u64(&self, at: PhysAddr, value: u64) -> Result<(), BusError> {
        self.memory.write_u64(at, value)
    }

    fn atomic(&self, at: PhysAddr, width: Width, op: AtomicOp) -> Result<u64, BusError> {
        self.memory.atomic(at, width, op)
    }
}

#[test]
fn a_run_that_was_bound_over_while_it_fetched_does_not_move_the_next_ones_pointers() {
    let (reached, is_there) = mpsc::sync_channel(1);
    let (go, wait) = mpsc::channel();
    let slow = Mutex::new(None);
    let rig = Rig::over(&Config::default(), |memory| {
        let bus = Arc::new(Slow {
            memory,
            place: 0.into(),
            reached,
            go: Mutex::new(wait),
        });
        *slow.lock().unwrap() = Some(Arc::clone(&bus));
        bus
    });
    let slow = slow.into_inner().unwrap().unwrap();
    let channel = rig.channel(0);
    slow.place.store(channel.ring.addr, Ordering::SeqCst);
    channel.submit(&[0]);
    is_there.recv().unwrap();
    // Rude: it does not wait until PREEMPT is done.
    channel.write_control(ENABLE_CLR);
    channel.bind();
    channel.enable();
    rig.memory.write_u32(channel.userd.offset(0x8c), 0).unwrap();
    go.send(()).unwrap();
    rig.until("the worker", || !channel.is_busy());
    assert_eq!(rig.u64_at(channel.userd.offset(0x88)), 0, "GP_GET");
    channel.wait(channel.fence());
}
