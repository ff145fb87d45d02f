// SPDX-License-Identifier: MIT OR Apache-2.0
//! A plain memory bus that remembers its writes and can hold a reader up.

use std::sync::{Condvar, Mutex};

use mirage_vgpu::bus::{Aperture, AtomicOp, Bus, BusError, PhysAddr, Width};

pub(crate) const VRAM_BYTES: usize = 8 << 20;
pub(crate) const RAM_BYTES: usize = 4 << 20;
/// Where guest RAM begins on the bus, so that a VRAM offset taken for a bus address misses.
pub(crate) const RAM_BASE: u64 = 0x1_0000_0000;

pub(crate) const fn vid(addr: u64) -> PhysAddr {
    let aperture = Aperture::Vid;
    PhysAddr { aperture, addr }
}

/// The guest RAM byte at `offset`.
pub(crate) fn sys(offset: u64) -> PhysAddr {
    PhysAddr {
        aperture: Aperture::Sys,
        addr: RAM_BASE + offset,
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Write {
    pub(crate) at: PhysAddr,
    pub(crate) data: Vec<u8>,
}

struct Contents {
    vram: Vec<u8>,
    ram: Vec<u8>,
    writes: Vec<Write>,
}

/// Holds up reads of one address.
#[derive(Default)]
struct Gate {
    closed: Option<PhysAddr>,
    waiting: bool,
}

pub(crate) struct Memory {
    contents: Mutex<Contents>,
    gate: Mutex<Gate>,
    changed: Condvar,
}

impl Contents {
    fn slice(&mut self, at: PhysAddr, len: usize) -> Result<&mut [u8], BusError> {
        let (memory, base) = match at.aperture {
            Aperture::Vid => (&mut self.vram, 0),
            Aperture::Sys => (&mut self.ram, RAM_BASE),
        };
        let start = at.addr.checked_sub(base).ok_or(BusError::OutOfRange)?;
        let start = usize::try_from(start).map_err(|_| BusError::OutOfRange)?;
        let end = start.checked_add(len).ok_or(BusError::OutOfRange)?;
        memory.get_mut(start..end).ok_or(BusError::OutOfRange)
    }
}

impl Memory {
    pub(crate) fn new() -> Self {
        Self {
            contents: Mutex::new(Contents {
                vram: vec![0; VRAM_BYTES],
                ram: vec![0; RAM_BYTES],
                writes: Vec::new(),
            }),
            gate: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    pub(crate) fn set(&self, at: PhysAddr, value: u64) {
        self.fill(at, &value.to_le_bytes());
    }

    pub(crate) fn set_u32(&self, at: PhysAddr, value: u32) {
        self.fill(at, &value.to_le_bytes());
    }

    pub(crate) fn fill(&self, at: PhysAddr, data: &[u8]) {
        let mut contents = self.contents.lock().unwrap();
        contents
            .slice(at, data.len())
            .unwrap()
            .copy_from_slice(data);
    }

    pub(crate) fn get(&self, at: PhysAddr) -> u64 {
        self.read_u64(at).unwrap()
    }

    pub(crate) fn byte(&self, at: PhysAddr) -> u8 {
        let mut byte = [0];
        self.read(at, &mut byte).unwrap();
        byte[0]
    }

    /// The device's writes so far; forgets them.
    pub(crate) fn take_writes(&self) -> Vec<Write> {
        std::mem::take(&mut self.contents.lock().unwrap().writes)
    }

    /// Holds up whoever reads the qword at `at` from now on, with what it has read.
    pub(crate) fn close_gate(&self, at: PhysAddr) {
        self.gate.lock().unwrap().closed = Some(at);
    }

    /// Waits until somebody is held up.
    pub(crate) fn wait_for_reader(&self) {
        let gate = self.gate.lock().unwrap();
        drop(self.changed.wait_while(gate, |gate| !gate.waiting).unwrap());
    }

    pub(crate) fn open_gate(&self) {
        *self.gate.lock().unwrap() = Gate::default();
        self.changed.notify_all();
    }

    fn pass_gate(&self, at: PhysAddr) {
        let mut gate = self.gate.lock().unwrap();
        if gate.closed == Some(at) {
            gate.waiting = true;
            self.changed.notify_all();
            drop(
                self.changed
                    .wait_while(gate, |gate| gate.closed == Some(at))
                    .unwrap(),
            );
        }
    }
}

impl Bus for Memory {
    fn read(&self, at: PhysAddr, out: &mut [u8]) -> Result<(), BusError> {
        let mut contents = self.contents.lock().unwrap();
        out.copy_from_slice(contents.slice(at, out.len())?);
        Ok(())
    }

    fn write(&self, at: PhysAddr, data: &[u8]) -> Result<(), BusError> {
        let mut contents = self.contents.lock().unwrap();
        contents.slice(at, data.len())?.copy_from_slice(data);
        let data = data.to_vec();
        contents.writes.push(Write { at, data });
        Ok(())
    }

    fn read_u32(&self, at: PhysAddr) -> Result<u32, BusError> {
        let mut bytes = [0; 4];
        self.read(at, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn read_u64(&self, at: PhysAddr) -> Result<u64, BusError> {
        let mut bytes = [0; 8];
        self.read(at, &mut bytes)?;
        self.pass_gate(at);
        Ok(u64::from_le_bytes(bytes))
    }

    fn write_u32(&self, at: PhysAddr, value: u32) -> Result<(), BusError> {
        self.write(at, &value.to_le_bytes())
    }

    fn write_u64(&self, at: PhysAddr, value: u64) -> Result<(), BusError> {
        self.write(at, &value.to_le_bytes())
    }

    fn atomic(&self, _: PhysAddr, _: Width, _: AtomicOp) -> Result<u64, BusError> {
        unimplemented!("the MMU does no atomics")
    }
}
