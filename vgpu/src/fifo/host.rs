// SPDX-License-Identifier: MIT OR Apache-2.0
//! Host's own methods (classes/host clc36f.h, dev_pbdma).

use std::sync::Arc;
use std::time::{Duration, Instant};

use bitfield_struct::bitfield;

use crate::bus::{GpuVa, Width};
use crate::clock;
use crate::engine::reduction::Reduction;
use crate::mmu::Privilege;

use super::push::Method;
use super::regs::PbdmaIntr;
use super::worker::{Pbdma, Stop};

pub(super) const SET_OBJECT: u16 = 0x00;
const NOP: u16 = 0x08;
const NON_STALL_INT: u16 = 0x20;
const MEM_OP_A: u16 = 0x28;
const MEM_OP_B: u16 = 0x2c;
const MEM_OP_C: u16 = 0x30;
const MEM_OP_D: u16 = 0x34;
const SET_REF: u16 = 0x50;
const SEM_ADDR_LO: u16 = 0x5c;
const SEM_ADDR_HI: u16 = 0x60;
const SEM_PAYLOAD_LO: u16 = 0x64;
const SEM_PAYLOAD_HI: u16 = 0x68;
const SEM_EXECUTE: u16 = 0x6c;
const WFI: u16 = 0x78;
const YIELD: u16 = 0x80;
const CLEAR_FAULTED: u16 = 0x84;

/// First and longest pause between two looks at a semaphore.
const ACQUIRE_PAUSES: [Duration; 2] = [Duration::from_micros(20), Duration::from_millis(1)];

/// How long CLEAR_FAULTED waits for the channel to fault (NV_PFIFO_CLEAR_FAULTED_TIMEOUT after reset).
const CLEAR_FAULTED_TIMEOUT: Duration = Duration::from_micros(0x3ff);
const CLEAR_FAULTED_PAUSE: Duration = Duration::from_micros(50);

/// The class that SET_OBJECT's data names, 15:0.
pub(super) fn class(data: u32) -> u32 {
    data & 0xffff
}

/// SEM_EXECUTE.
#[bitfield(u32)]
struct Execute {
    #[bits(3)]
    operation: u8,
    #[bits(9)]
    __: u16,
    acquire_switch_tsg: bool,
    #[bits(7)]
    __: u8,
    release_wfi: bool,
    #[bits(3)]
    __: u8,
    payload_64bit: bool,
    release_timestamp: bool,
    __: bool,
    #[bits(4)]
    reduction: u8,
    reduction_unsigned: bool,
}

/// CLEAR_FAULTED.
#[bitfield(u32)]
struct ClearFaulted {
    #[bits(12)]
    chid: u16,
    #[bits(19)]
    __: u32,
    eng_faulted: bool,
}

/// OP of YIELD.
#[bitfield(u32)]
struct Yield {
    #[bits(2)]
    op: u8,
    #[bits(30)]
    __: u32,
}

impl Yield {
    /// NOP, RUNLIST_TIMESLICE and TSG: nobody waits for a time slice here.
    fn is_known(self) -> bool {
        self.op() != 1
    }
}

/// OPERATION of SEM_EXECUTE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Acquire,
    Release,
    AcquireStrictGeq,
    AcquireCircGeq,
    AcquireAnd,
    AcquireNor,
    Reduction,
}

impl Operation {
    fn decode(operation: u8) -> Option<Self> {
        Some(match operation {
            0 => Self::Acquire,
            1 => Self::Release,
            2 => Self::AcquireStrictGeq,
            3 => Self::AcquireCircGeq,
            4 => Self::AcquireAnd,
            5 => Self::AcquireNor,
            6 => Self::Reduction,
            _ => return None,
        })
    }
}

/// Operands of SEM_EXECUTE.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Semaphore {
    addr_lo: u32,
    addr_hi: u32,
    payload_lo: u32,
    payload_hi: u32,
}

impl Semaphore {
    /// The address, if it has 40 bits and this alignment.
    fn address(&self, alignment: u64) -> Option<GpuVa> {
        let hi = u8::try_from(self.addr_hi).ok()?;
        let va = (u64::from(hi) << 32) | u64::from(self.addr_lo);
        (va % alignment == 0).then_some(GpuVa(va))
    }

    fn payload(&self) -> u64 {
        (u64::from(self.payload_hi) << 32) | u64::from(self.payload_lo)
    }
}

impl Execute {
    fn size(self) -> usize {
        if self.payload_64bit() {
            8
        } else {
            4
        }
    }

    /// Bytes that the operation touches, which is also their alignment.
    fn extent(self) -> u64 {
        if self.release_timestamp() {
            16
        } else {
            self.size() as u64
        }
    }
}

impl Pbdma<'_> {
    pub(super) fn host_method(&mut self, method: Method) -> Result<(), Stop> {
        let data = method.data;
        match method.address {
            NOP => {}
            NON_STALL_INT => self.channel.host.errors.channel_intr(),
            SEM_ADDR_LO => self.semaphore().addr_lo = data,
            SEM_ADDR_HI => self.semaphore().addr_hi = data,
            SEM_PAYLOAD_LO => self.semaphore().payload_lo = data,
            SEM_PAYLOAD_HI => self.semaphore().payload_hi = data,
            SEM_EXECUTE => self.execute(method)?,
            WFI => self.wait_idle()?,
            YIELD if Yield::from(data).is_known() => {}
            SET_REF => {
                self.wait_idle()?;
                self.note(self.ramfc().set_ref(&*self.channel.host.bus, data));
            }
            _ if self.run().space.privilege == Privilege::Privileged => {
                return self.privileged_method(method)
            }
            _ => return Err(bad(method)),
        }
        Ok(())
    }

    fn privileged_method(&mut self, method: Method) -> Result<(), Stop> {
        match method.address {
            MEM_OP_A => self.mem_op().a = method.data,
            MEM_OP_B => self.mem_op().b = method.data,
            MEM_OP_C => self.mem_op().c = method.data,
            MEM_OP_D => {
                self.mem_op().d = method.data;
                let op = *self.mem_op();
                // The channel is not switched out before that is over: its worker has no window open, so it always ends.
                let done = self.channel.host.mmu.mem_op(op);
                return done.map_err(|_| bad(method));
            }
            CLEAR_FAULTED => return self.clear_faulted(method),
            _ => return Err(bad(method)),
        }
        Ok(())
    }

    /// The fault may have been seen before its bit is set: waits for that.
    fn clear_faulted(&mut self, method: Method) -> Result<(), Stop> {
        let clear = ClearFaulted::from(method.data);
        let host = Arc::clone(&self.channel.host);
        let channel = host.channel(clear.chid()).ok_or_else(|| bad(method))?;
        let begin = Instant::now();
        while !channel.clear_faulted(clear.eng_faulted()) {
            if begin.elapsed() > CLEAR_FAULTED_TIMEOUT {
                return Err(Stop::Pbdma(PbdmaIntr::ClearFaulted, Some(method)));
            }
            self.channel.sleep(self.run(), CLEAR_FAULTED_PAUSE)?;
        }
        Ok(())
    }

    fn execute(&mut self, method: Method) -> Result<(), Stop> {
        let execute = Execute::from(method.data);
        let operation = Operation::decode(execute.operation()).ok_or_else(|| bad(method))?;
        let alignment = match operation {
            Operation::Release | Operation::Reduction => execute.extent(),
            _ => execute.size() as u64,
        };
        let semaphore = *self.semaphore();
        let va = semaphore.address(alignment).ok_or_else(|| bad(method))?;
        match operation {
            Operation::Release => self.release(va, execute, semaphore.payload()),
            Operation::Reduction => {
                let signed = !execute.reduction_unsigned();
                let reduction = Reduction::decode(execute.reduction(), signed);
                let reduction = reduction.ok_or_else(|| bad(method))?;
                self.reduction(va, execute, (reduction, semaphore.payload()))
            }
            _ => self.acquire(va, method, |value| {
                satisfied(operation, execute, value, semaphore.payload())
            }),
        }
    }

    fn release(&mut self, va: GpuVa, execute: Execute, payload: u64) -> Result<(), Stop> {
        if execute.release_wfi() {
            self.wait_idle()?;
        }
        let payload = payload.to_le_bytes();
        if !execute.release_timestamp() {
            return self.write(va, payload.get(..execute.size()).unwrap_or(&payload));
        }
        // Whoever sees the payload must find the time there.
        self.write(GpuVa(va.0 + 8), &clock::now_ns().to_le_bytes())?;
        let mut whole = [0; 8];
        for (byte, value) in whole.iter_mut().zip(payload).take(execute.size()) {
            *byte = value;
        }
        self.write(va, &whole)
    }

    fn reduction(
        &mut self,
        va: GpuVa,
        execute: Execute,
        (reduction, operand): (Reduction, u64),
    ) -> Result<(), Stop> {
        if execute.release_wfi() {
            self.wait_idle()?;
        }
        if execute.release_timestamp() {
            self.write(GpuVa(va.0 + 8), &clock::now_ns().to_le_bytes())?;
        }
        let width = if execute.payload_64bit() {
            Width::Bits64
        } else {
            Width::Bits32
        };
        self.reduce(va, reduction, (width, operand))
    }

    fn acquire(
        &mut self,
        va: GpuVa,
        method: Method,
        satisfied: impl Fn(u64) -> bool,
    ) -> Result<(), Stop> {
        let [mut pause, longest] = ACQUIRE_PAUSES;
        let (begin, timeout) = (Instant::now(), self.ramfc().acquire_timeout());
        let size = Execute::from(method.data).size();
        loop {
            let mut value = [0; 8];
            self.read(va, value.get_mut(..size).unwrap_or_default())?;
            if satisfied(u64::from_le_bytes(value)) {
                return Ok(());
            }
            if timeout.is_some_and(|timeout| begin.elapsed() > timeout) {
                return Err(Stop::Pbdma(PbdmaIntr::Acquire, Some(method)));
            }
            self.channel.sleep(self.run(), pause)?;
            pause = (pause * 2).min(longest);
        }
    }
}

fn satisfied(operation: Operation, execute: Execute, value: u64, payload: u64) -> bool {
    // The 32-bit comparison is the 64-bit one of the values moved to the top.
    let shift = if execute.payload_64bit() { 0 } else { 32 };
    let (value, payload) = (value << shift, payload << shift);
    match operation {
        Operation::AcquireStrictGeq => value >= payload,
        Operation::AcquireCircGeq => value.wrapping_sub(payload) >> 63 == 0,
        Operation::AcquireAnd => value & payload != 0,
        Operation::AcquireNor => !(value | payload) >> shift != 0,
        Operation::Acquire | Operation::Release | Operation::Reduction => value == payload,
    }
}

fn bad(method: Method) -> Stop {
    Stop::Pbdma(PbdmaIntr::Method, Some(method))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_circular_comparison_survives_the_wrap() {
        let narrow = Execute::new();
        let wide = Execute::new().with_payload_64bit(true);
        let circ =
            |execute, value, payload| satisfied(Operation::AcquireCircGeq, execute, value, payload);
        assert!(circ(narrow, 2, 0xffff_fffe));
        assert!(!circ(narrow, 0xffff_fffe, 2));
        assert!(circ(wide, 2, u64::MAX - 1));
        assert!(!satisfied(
            Operation::AcquireStrictGeq,
            narrow,
            2,
            0xffff_fffe
        ));
    }

    #[test]
    fn only_an_equal_value_satisfies_a_plain_acquire_of_its_width() {
        let narrow = Execute::new();
        assert!(satisfied(
            Operation::Acquire,
            narrow,
            7,
            0xffff_ffff_0000_0007
        ));
        assert!(!satisfied(Operation::Acquire, narrow, 8, 7));
    }

    #[test]
    fn semaphores_live_below_two_to_the_forty_and_are_aligned() {
        let at = |addr_hi, addr_lo, alignment| {
            Semaphore {
                addr_lo,
                addr_hi,
                ..Default::default()
            }
            .address(alignment)
        };
        assert_eq!(at(0xff, 0xffff_fff0, 16), Some(GpuVa(0xff_ffff_fff0)));
        assert_eq!(at(0x100, 0, 4), None);
        assert_eq!(at(0, 8, 16), None);
    }
}
