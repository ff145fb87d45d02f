// SPDX-License-Identifier: MIT OR Apache-2.0
//! One lane of a warp, as a machine that moves on by one memory access and can be asked again after a fault.
//!
//! Each access that has been made is remembered before the next is tried, so a replay repeats only what faulted: an
//! atomic happens once, however often the access after it faults.

use crate::bus::{AtomicOp, GpuVa, Width};
use crate::counters::Counters;
use crate::mmu::{Access, AddressSpace, Fault, Translation, Window};

use super::launch::{Launch, Operation};

/// Most bytes that a span operation moves in one step: what bounds the time that a window is held.
pub(super) const SPAN: usize = 64 << 10;
/// Longest repeating element.
const ELEMENT: usize = 8;
/// Result of COMPARE for equal spans.
const EQUAL: u64 = u64::MAX;
/// Alignment of CHASE pointers.
const POINTER_ALIGN: u64 = 8;

/// What a lane does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The operation's first access, or the rest of a span.
    Operate,
    /// CHASE: update the node at `pointer`.
    Node,
    /// CHASE: read the next pointer of the node at `pointer`, which has been updated.
    Next,
    /// Write result word `n`.
    Result(u8),
    Finished,
}

/// Why a lane did not move on.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stop {
    /// An access has no translation.
    Fault(Fault),
    /// Neither source nor destination has one.
    TwoFaults(Fault, Fault),
    /// A CHASE pointer is misaligned.
    Misaligned,
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// Buffers that span operations move data through; one for each SM.
pub(super) struct Scratch {
    first: Box<[u8]>,
    second: Box<[u8]>,
}

impl Scratch {
    pub(super) fn new() -> Self {
        let buffer = || vec![0; SPAN + ELEMENT].into_boxed_slice();
        Self {
            first: buffer(),
            second: buffer(),
        }
    }
}

/// Memory as lanes reach it while a window is open.
pub(super) struct Memory<'a, 'w> {
    pub(super) window: Window<'w>,
    pub(super) space: &'a AddressSpace,
    pub(super) counters: &'a Counters,
    pub(super) scratch: &'a mut Scratch,
}

impl Memory<'_, '_> {
    fn translate(&mut self, va: GpuVa, access: Access) -> Result<Translation, Fault> {
        self.window.translate(self.space, va, access)
    }

    /// Loads an aligned element, zero-extended.
    fn load(&mut self, va: GpuVa, size: usize) -> Result<u64, Fault> {
        let at = self.translate(va, Access::Read)?;
        let mut bytes = [0; ELEMENT];
        self.window
            .load(at, bytes.get_mut(..size).unwrap_or_default());
        Ok(u64::from_le_bytes(bytes))
    }

    fn store(&mut self, va: GpuVa, size: usize, value: u64) -> Result<(), Fault> {
        let to = self.translate(va, Access::Write)?;
        let bytes = value.to_le_bytes();
        self.window.store(to, bytes.get(..size).unwrap_or(&bytes));
        Ok(())
    }

    fn atomic(&mut self, va: GpuVa, (width, op): (Width, AtomicOp)) -> Result<u64, Fault> {
        let at = self.translate(va, Access::Atomic)?;
        Ok(self.window.atomic(at, width, op))
    }
}

/// One lane.
pub(super) struct Lane {
    number: u32,
    phase: Phase,
    /// Bytes done by a span operation, nodes visited by CHASE.
    done: u64,
    /// CHASE: the node in work.
    pointer: u64,
    /// The value that results are made of: the old element, the offset of a difference, the sum of CHASE.
    outcome: u64,
}

impl Lane {
    pub(super) fn new(number: u32) -> Self {
        Self {
            number,
            phase: Phase::Operate,
            done: 0,
            pointer: 0,
            outcome: 0,
        }
    }

    /// What PREFETCH announces.
    pub(super) fn announced(&self, launch: &Launch) -> GpuVa {
        launch.a(self.number, 0)
    }

    pub(super) fn is_finished(&self) -> bool {
        self.phase == Phase::Finished
    }

    /// Moves on by one access (a span operation: by at most [`SPAN`] bytes; CHASE: by one node).
    pub(super) fn step(
        &mut self,
        launch: &Launch,
        memory: &mut Memory<'_, '_>,
    ) -> Result<(), Stop> {
        match self.phase {
            Phase::Operate => self.operate(launch, memory),
            Phase::Node => self.node(launch, memory),
            Phase::Next => self.next(launch, memory),
            Phase::Result(word) => self.write_result(launch, memory, word),
            Phase::Finished => Ok(()),
        }
    }

    fn operate(&mut self, launch: &Launch, memory: &mut Memory<'_, '_>) -> Result<(), Stop> {
        let at = launch.a(self.number, 0);
        match launch.operation {
            Operation::Store => {
                memory.store(at, launch.size, launch.value(self.number))?;
                self.phase = Phase::Finished;
            }
            Operation::Load => {
                let value = memory.load(at, launch.size)?;
                self.conclude(launch, value);
            }
            Operation::AtomicAdd | Operation::AtomicExchange | Operation::AtomicCompareExchange => {
                let old = memory.atomic(at, launch.atomic(self.number))?;
                self.conclude(launch, old);
            }
            Operation::Chase => {
                self.pointer = memory.load(at, ELEMENT)?;
                self.phase = self.after_pointer(launch);
            }
            Operation::Fill => self.fill(launch, memory)?,
            Operation::Copy => self.copy(launch, memory)?,
            Operation::Compare => self.compare(launch, memory)?,
            // Announced by the warp: nothing is accessed.
            Operation::Prefetch => self.phase = Phase::Finished,
        }
        Ok(())
    }

    /// Ends the operation with this outcome.
    fn conclude(&mut self, launch: &Launch, outcome: u64) {
        self.outcome = outcome;
        self.phase = if launch.result {
            Phase::Result(0)
        } else {
            Phase::Finished
        };
    }

    fn after_pointer(&self, launch: &Launch) -> Phase {
        match (
            self.pointer != 0 && self.done < launch.steps(),
            launch.result,
        ) {
            (true, _) => Phase::Node,
            (false, true) => Phase::Result(0),
            (false, false) => Phase::Finished,
        }
    }

    fn node(&mut self, launch: &Launch, memory: &mut Memory<'_, '_>) -> Result<(), Stop> {
        if self.pointer % POINTER_ALIGN != 0 {
            return Err(Stop::Misaligned);
        }
        let add = (Width::Bits64, AtomicOp::Add(launch.value(self.number)));
        let old = memory.atomic(launch.node_value(self.pointer), add)?;
        self.outcome = self.outcome.wrapping_add(old);
        self.done += 1;
        self.phase = Phase::Next;
        self.next(launch, memory)
    }

    fn next(&mut self, launch: &Launch, memory: &mut Memory<'_, '_>) -> Result<(), Stop> {
        self.pointer = memory.load(launch.node_next(self.pointer), ELEMENT)?;
        self.phase = self.after_pointer(launch);
        Ok(())
    }

    fn write_result(
        &mut self,
        launch: &Launch,
        memory: &mut Memory<'_, '_>,
        word: u8,
    ) -> Result<(), Stop> {
        let offset = u64::from(word) * ELEMENT as u64;
        let at = launch.r(self.number, offset);
        let (size, value, words) = match (launch.operation, word) {
            (Operation::Chase, 0) => (ELEMENT, self.done, 3),
            (Operation::Chase, 1) => (ELEMENT, self.outcome, 3),
            (Operation::Chase, _) => (ELEMENT, self.pointer, 3),
            (Operation::Compare, _) => (ELEMENT, self.outcome, 1),
            _ => (launch.size, self.outcome, 1),
        };
        memory.store(at, size, value)?;
        self.phase = if word + 1 < words {
            Phase::Result(word + 1)
        } else {
            Phase::Finished
        };
        Ok(())
    }

    /// Bytes of the next piece, given how far translations reach.
    fn piece(&self, launch: &Launch, reach: u64) -> usize {
        let left = launch.length() - self.done;
        usize::try_from(left.min(reach)).unwrap_or(SPAN).min(SPAN)
    }

    fn advance(&mut self, launch: &Launch, bytes: usize) -> bool {
        self.done += bytes as u64;
        self.done >= launch.length()
    }

    fn fill(&mut self, launch: &Launch, memory: &mut Memory<'_, '_>) -> Result<(), Stop> {
        let to = memory.translate(launch.a(self.number, self.done), Access::Write)?;
        let bytes = self.piece(launch, to.bytes);
        // A piece may start and end anywhere in an element.
        let start = (self.done % launch.size as u64) as usize;
        let element = launch.value(self.number).to_le_bytes();
        let Some(pattern) = memory.scratch.first.get_mut(..start + bytes) else {
            return Ok(());
        };
        repeat(element.get(..launch.size).unwrap_or(&element), pattern);
        memory
            .window
            .store(to, pattern.get(start..).unwrap_or_default());
        if self.advance(launch, bytes) {
            self.phase = Phase::Finished;
        }
        Ok(())
    }

    /// Translates both ends of a span; both faults are known at once.
    fn both(
        &self,
        launch: &Launch,
        memory: &mut Memory<'_, '_>,
        access: Access,
    ) -> Result<[Translation; 2], Stop> {
        let a = memory.translate(launch.a(self.number, self.done), access);
        let b = memory.translate(launch.b(self.number, self.done), Access::Read);
        match (a, b) {
            (Ok(a), Ok(b)) => Ok([a, b]),
            (Err(a), Err(b)) => Err(Stop::TwoFaults(a, b)),
            (Err(fault), Ok(_)) | (Ok(_), Err(fault)) => Err(fault.into()),
        }
    }

    fn copy(&mut self, launch: &Launch, memory: &mut Memory<'_, '_>) -> Result<(), Stop> {
        let [to, from] = self.both(launch, memory, Access::Write)?;
        let bytes = self.piece(launch, to.bytes.min(from.bytes));
        let mut buffer = std::mem::take(&mut memory.scratch.first);
        if let Some(data) = buffer.get_mut(..bytes) {
            memory.window.load(from, data);
            memory.window.store(to, data);
        }
        memory.scratch.first = buffer;
        memory.counters.bytes_copied.add(bytes as u64);
        if self.advance(launch, bytes) {
            self.phase = Phase::Finished;
        }
        Ok(())
    }

    fn compare(&mut self, launch: &Launch, memory: &mut Memory<'_, '_>) -> Result<(), Stop> {
        let [a, b] = self.both(launch, memory, Access::Read)?;
        let bytes = self.piece(launch, a.bytes.min(b.bytes));
        let mut first = std::mem::take(&mut memory.scratch.first);
        let mut second = std::mem::take(&mut memory.scratch.second);
        let mut difference = None;
        if let (Some(left), Some(right)) = (first.get_mut(..bytes), second.get_mut(..bytes)) {
            memory.window.load(a, left);
            memory.window.load(b, right);
            difference = first_difference(left, right);
        }
        memory.scratch.first = first;
        memory.scratch.second = second;
        match difference {
            Some(at) => self.conclude(launch, self.done + at as u64),
            None if self.advance(launch, bytes) => self.conclude(launch, EQUAL),
            None => {}
        }
        Ok(())
    }
}

/// Fills a buffer with an element, over and over, doubling what is there.
fn repeat(element: &[u8], out: &mut [u8]) {
    for (byte, value) in out.iter_mut().zip(element) {
        *byte = *value;
    }
    let mut filled = element.len();
    while filled < out.len() {
        let more = filled.min(out.len() - filled);
        out.copy_within(..more, filled);
        filled += more;
    }
}

fn first_difference(left: &[u8], right: &[u8]) -> Option<usize> {
    // Equality of slices runs at memory speed, a search byte by byte does not.
    if left == right {
        return None;
    }
    left.iter().zip(right).position(|(a, b)| a != b)
}
