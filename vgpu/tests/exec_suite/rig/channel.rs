// SPDX-License-Identifier: MIT OR Apache-2.0
//! Channels: the driver's side of their rings.

use std::sync::Mutex;

use mirage_vgpu::bus::{Bus, PhysAddr};

use super::*;

const BIND: u32 = 1 << 31;
/// GPU virtual addresses of a channel's rings, one MiB for each channel.
const RINGS: u64 = 0x10_0000_0000;
const GP_ENTRIES: u32 = 64;
const PUSH_BYTES: u64 = 512 << 10;

impl Rig {
    /// A channel, bound, enabled and in runlist 0.
    pub(crate) fn channel(&self, id: u32) -> Channel<'_> {
        let rings = RINGS + u64::from(id) * (1 << 20);
        let ring = self.map(rings, PAGE);
        let push = self.map(rings + PAGE, PUSH_BYTES);
        let semaphore = self.map(rings + PAGE + PUSH_BYTES, PAGE);
        let inst = self.alloc(PAGE);
        let userd = self.alloc(PAGE);
        let words = [
            (0x008, userd.addr as u32),
            (0x010, 0xface),
            (0x048, rings as u32),
            (
                0x04c,
                (rings >> 32) as u32 | (GP_ENTRIES.trailing_zeros() << 16),
            ),
            // VER2 page tables, 64 KiB big pages, replay of SM faults.
            (
                0x200,
                self.root.addr as u32 | (1 << 10) | (1 << 11) | (1 << 4),
            ),
        ];
        for (offset, word) in words {
            self.memory.write_u32(inst.offset(offset), word).unwrap();
        }
        let channel = Channel {
            rig: self,
            id,
            inst,
            userd,
            ring,
            push,
            rings,
            semaphore,
            put: 0.into(),
            pushed: 0.into(),
            serial: 0.into(),
        };
        channel.bind();
        channel.enable();
        self.list(id);
        channel
    }

    /// Adds a channel to runlist 0, in a TSG of its own.
    fn list(&self, id: u32) {
        let mut ids = self.listed.lock().unwrap().clone();
        ids.insert(id);
        let groups: Vec<[u32; 1]> = ids.into_iter().map(|id| [id]).collect();
        let groups: Vec<(u32, &[u32])> = groups.iter().map(|id| (id[0], &id[..])).collect();
        self.submit_runlist(0, &groups);
    }
}

/// A driver's view of a channel.
pub(crate) struct Channel<'a> {
    pub(crate) rig: &'a Rig,
    pub(crate) id: u32,
    pub(crate) inst: PhysAddr,
    pub(crate) userd: PhysAddr,
    pub(crate) ring: PhysAddr,
    push: PhysAddr,
    rings: u64,
    pub(crate) semaphore: PhysAddr,
    put: Mutex<u32>,
    pushed: Mutex<u64>,
    serial: Mutex<u32>,
}

impl Channel<'_> {
    fn control_register(&self) -> u32 {
        0x80_0004 + 8 * self.id
    }

    pub(crate) fn bind(&self) {
        self.rig.write(
            0x80_0000 + 8 * self.id,
            BIND | target(self.inst) | (self.inst.addr >> 12) as u32,
        );
        *self.put.lock().unwrap() = 0;
    }

    pub(crate) fn enable(&self) {
        self.rig.write(self.control_register(), ENABLE_SET);
    }

    pub(crate) fn control(&self) -> u32 {
        self.rig.read(self.control_register())
    }

    pub(crate) fn is_busy(&self) -> bool {
        (self.control() >> 28) & 1 == 1
    }

    pub(crate) fn write_control(&self, value: u32) {
        self.rig.write(self.control_register(), value);
    }

    /// Makes it a privileged channel: AUTH_LEVEL of CONFIG.
    pub(crate) fn privilege(&self) {
        self.kill();
        let config = self.inst.offset(0xf4);
        self.rig.memory.write_u32(config, 1 << 8).unwrap();
        self.bind();
        self.enable();
    }

    /// The kill sequence.
    pub(crate) fn kill(&self) {
        self.write_control(ENABLE_CLR);
        self.rig.write(PREEMPT, self.id);
        self.rig
            .until("preempt", || (self.rig.read(PREEMPT) >> 20) & 1 == 0);
    }

    /// The GPU virtual address of the semaphore page.
    pub(crate) fn semaphore_va(&self) -> u64 {
        self.rings + PAGE + PUSH_BYTES
    }

    pub(crate) fn rings_va(&self) -> u64 {
        self.rings
    }

    /// Appends a raw GP entry and rings.
    pub(crate) fn raw_entry(&self, entry: u64) {
        let mut put = self.put.lock().unwrap();
        self.rig
            .put_u64(self.ring.offset(8 * u64::from(*put)), entry);
        *put = (*put + 1) % GP_ENTRIES;
        self.rig
            .memory
            .write_u32(self.userd.offset(0x8c), *put)
            .unwrap();
        self.rig.write(DOORBELL, self.id);
    }

    /// Submits a push buffer.
    pub(crate) fn submit(&self, words: &[u32]) {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let at = {
            let mut pushed = self.pushed.lock().unwrap();
            if *pushed + bytes.len() as u64 > PUSH_BYTES {
                *pushed = 0;
            }
            let at = *pushed;
            *pushed += bytes.len() as u64;
            at
        };
        self.rig.memory.write(self.push.offset(at), &bytes).unwrap();
        let va = self.rings + PAGE + at;
        self.raw_entry(va | ((words.len() as u64) << 42));
    }

    /// Appends a release that waits for the launches before it, and returns its payload.
    pub(crate) fn fence(&self) -> u32 {
        let serial = {
            let mut serial = self.serial.lock().unwrap();
            *serial += 1;
            *serial
        };
        self.submit(&release(self.semaphore_va(), serial, RELEASE_WFI));
        serial
    }

    pub(crate) fn is_past(&self, serial: u32) -> bool {
        self.rig.memory.read_u32(self.semaphore).unwrap() >= serial
    }

    pub(crate) fn wait(&self, serial: u32) {
        self.rig.until("a fence", || self.is_past(serial));
    }

    /// Runs a push buffer to its end.
    pub(crate) fn run(&self, words: &[u32]) {
        self.submit(words);
        let serial = self.fence();
        self.wait(serial);
    }
}
