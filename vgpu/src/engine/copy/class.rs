// SPDX-License-Identifier: MIT OR Apache-2.0
//! VOLTA_DMA_COPY_A: methods become launches.

use std::sync::Arc;

use crate::bus::{Aperture, GpuVa};
use crate::engine::reduction::Reduction;
use crate::engine::{Context, Refusal, Run};
use crate::fifo::Method;
use crate::mmu::Privilege;

use super::queue::Queue;
use super::regs::{method, LaunchDma, LaunchError, RemapComponents};
use super::remap::Remap;
use super::transfer::{Memory, Side, Transfer};

/// A checked launch.
#[derive(Clone, Debug)]
pub(super) struct Launch {
    pub(super) transfer: Option<Transfer>,
    /// The data lands before the semaphore is written.
    pub(super) flush: bool,
    pub(super) semaphore: Option<Semaphore>,
    pub(super) interrupt: Interrupt,
}

/// What a launch does to memory when its data is done.
#[derive(Clone, Copy, Debug)]
pub(super) struct Semaphore {
    pub(super) va: GpuVa,
    pub(super) payload: u32,
    pub(super) operation: Operation,
    /// Four words: with a time stamp.
    pub(super) timestamp: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Operation {
    Release,
    Reduce(Reduction),
}

/// INTERRUPT_TYPE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Interrupt {
    None,
    Blocking,
    NonBlocking,
}

/// Methods that set an operand.
#[derive(Clone, Copy, Debug, Default)]
struct Parameters {
    semaphore: u64,
    payload: u32,
    src_phys: u32,
    dst_phys: u32,
    src: u64,
    dst: u64,
    pitch_in: u32,
    pitch_out: u32,
    line_length: u32,
    line_count: u32,
    constants: [u32; 2],
    components: u32,
}

impl Parameters {
    fn launch(&self, dma: LaunchDma, privilege: Privilege) -> Result<Launch, LaunchError> {
        if dma.reserved_middle() != 0 || dma.reserved_high() != 0 {
            return Err(LaunchError::InvalidValue);
        }
        Ok(Launch {
            transfer: self.transfer(dma, privilege)?,
            flush: dma.flush(),
            semaphore: self.semaphore(dma)?,
            interrupt: match dma.interrupt() {
                0 => Interrupt::None,
                1 => Interrupt::Blocking,
                2 => Interrupt::NonBlocking,
                _ => return Err(LaunchError::InvalidValue),
            },
        })
    }

    fn transfer(
        &self,
        dma: LaunchDma,
        privilege: Privilege,
    ) -> Result<Option<Transfer>, LaunchError> {
        match dma.transfer() {
            0 => return Ok(None),
            // PIPELINED and NON_PIPELINED: all are done in order.
            1 | 2 => {}
            _ => return Err(LaunchError::InvalidValue),
        }
        let set = RemapComponents::from(self.components);
        let remap = dma.remap().then(|| Remap::new(set, self.constants));
        let remap = remap.transpose()?;
        let reads = remap.as_ref().is_none_or(Remap::reads_source);
        if !dma.dst_pitch() || (reads && !dma.src_pitch()) {
            return Err(LaunchError::InvalidConfig);
        }
        let src_memory = memory(dma.src_physical() && reads, self.src_phys, privilege)?;
        let transfer = Transfer {
            src: side(src_memory, self.src, self.pitch_in),
            dst: side(
                memory(dma.dst_physical(), self.dst_phys, privilege)?,
                self.dst,
                self.pitch_out,
            ),
            line_length: self.line_length,
            line_count: if dma.multi_line() { self.line_count } else { 1 },
            remap,
        };
        let empty = transfer.line_length == 0 || transfer.line_count == 0;
        Ok((!empty).then_some(transfer))
    }

    fn semaphore(&self, dma: LaunchDma) -> Result<Option<Semaphore>, LaunchError> {
        let (timestamp, alignment) = match dma.semaphore() {
            0 => return Ok(None),
            1 => (false, 4),
            2 => (true, 16),
            _ => return Err(LaunchError::InvalidValue),
        };
        if self.semaphore % alignment != 0 {
            return Err(LaunchError::InvalidAlignment);
        }
        let operation = if dma.reduction_enable() {
            let reduction = Reduction::decode(dma.reduction(), !dma.reduction_unsigned());
            Operation::Reduce(reduction.ok_or(LaunchError::InvalidOperation)?)
        } else {
            Operation::Release
        };
        Ok(Some(Semaphore {
            va: GpuVa(self.semaphore),
            payload: self.payload,
            operation,
            timestamp,
        }))
    }
}

fn side(memory: Memory, base: u64, pitch: u32) -> Side {
    // Sign-extended.
    let pitch = i64::from(pitch as i32) as u64;
    Side {
        memory,
        base,
        pitch,
    }
}

/// SRC_TYPE or DST_TYPE, and TARGET of SET_SRC_PHYS_MODE or SET_DST_PHYS_MODE.
fn memory(physical: bool, mode: u32, privilege: Privilege) -> Result<Memory, LaunchError> {
    if !physical {
        return Ok(Memory::Virtual);
    }
    if privilege != Privilege::Privileged {
        return Err(LaunchError::InvalidConfig);
    }
    match mode {
        0 => Ok(Memory::Physical(Aperture::Vid)),
        1 | 2 => Ok(Memory::Physical(Aperture::Sys)),
        _ => Err(LaunchError::InvalidValue),
    }
}

/// The class on a subchannel.
pub(super) struct CopyContext {
    pub(super) queue: Arc<Queue>,
    pub(super) run: Arc<Run>,
    parameters: Parameters,
}

impl CopyContext {
    pub(super) fn new(queue: &Arc<Queue>, run: &Arc<Run>) -> Self {
        Self {
            queue: Arc::clone(queue),
            run: Arc::clone(run),
            parameters: Parameters::default(),
        }
    }

    /// Queues a launch, or the error that is to show when its turn comes.
    fn submit(&self, launch: Result<Launch, LaunchError>) -> Result<(), Refusal> {
        if self.queue.submit(&self.run, launch) {
            Ok(())
        } else {
            Err(Refusal::Ended)
        }
    }
}

impl Context for CopyContext {
    fn method(&mut self, method: Method) -> Result<(), Refusal> {
        let p = &mut self.parameters;
        let data = method.data;
        match method.address {
            method::SET_OBJECT | method::NOP | method::PM_TRIGGER | method::PM_TRIGGER_END => {}
            method::SET_SEMAPHORE_A => set_upper(&mut p.semaphore, data),
            method::SET_SEMAPHORE_B => set_lower(&mut p.semaphore, data),
            method::SET_SEMAPHORE_PAYLOAD => p.payload = data,
            method::SET_SRC_PHYS_MODE => p.src_phys = data,
            method::SET_DST_PHYS_MODE => p.dst_phys = data,
            method::OFFSET_IN_UPPER => set_upper(&mut p.src, data),
            method::OFFSET_IN_LOWER => set_lower(&mut p.src, data),
            method::OFFSET_OUT_UPPER => set_upper(&mut p.dst, data),
            method::OFFSET_OUT_LOWER => set_lower(&mut p.dst, data),
            method::PITCH_IN => p.pitch_in = data,
            method::PITCH_OUT => p.pitch_out = data,
            method::LINE_LENGTH_IN => p.line_length = data,
            method::LINE_COUNT => p.line_count = data,
            method::SET_REMAP_CONST_A => p.constants[0] = data,
            method::SET_REMAP_CONST_B => p.constants[1] = data,
            method::SET_REMAP_COMPONENTS => p.components = data,
            method::LAUNCH_DMA => {
                let launch = p.launch(data.into(), self.run.space.privilege);
                return self.submit(launch);
            }
            address => {
                let [first, last] = method::BLOCK_LINEAR;
                if !(first..=last).contains(&address) {
                    return self.submit(Err(LaunchError::InvalidOperation));
                }
            }
        }
        Ok(())
    }
}

fn set_upper(value: &mut u64, upper: u32) {
    *value = (u64::from(upper) << 32) | (*value & u64::from(u32::MAX));
}

fn set_lower(value: &mut u64, lower: u32) {
    *value = *value & !u64::from(u32::MAX) | u64::from(lower);
}
