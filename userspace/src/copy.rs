// SPDX-License-Identifier: MIT OR Apache-2.0
//! The operations of the copy engines (class 0xc3b5), one type each; [`Channel::run`](crate::Channel::run) runs them.
//!
//! Copy engines need no lanes and leave the compute engine alone. Operations of one channel take effect in order, unless they are
//! [`pipelined`](Linear::pipelined).
//!
//! ```no_run
//! # fn main() -> mirage::Result<()> {
//! # let svm: mirage::Svm = todo!();
//! use std::time::Duration;
//! use mirage::copy;
//!
//! let from = vec![7_u8; 1 << 20];
//! let mut to = vec![0_u8; 1 << 20];
//! let channel = svm.copy_channel()?;
//! channel.run(copy::Linear::new(to.as_mut_ptr(), from.as_ptr(), 1 << 20))?.wait(Duration::from_secs(10))?;
//! assert_eq!(from, to);
//! # Ok(())
//! # }
//! ```

use crate::error::{Error, Result};
use crate::ops::in_range;
use crate::ptr::{GpuPtr, Strided};
use crate::push::{PushBuffer, COPY};

/// Virtual addresses have 49 bits: the UPPER methods take 17.
const ADDRESS_MAX: u64 = (1 << 49) - 1;

/// First method of SET_SEMAPHORE_A, _B, _PAYLOAD.
const SET_SEMAPHORE: u16 = 0x0240;
/// The method that starts it.
const LAUNCH_DMA: u16 = 0x0300;
/// First method of OFFSET_IN_UPPER .. LINE_COUNT.
const OFFSETS: u16 = 0x0400;
/// First method of SET_REMAP_CONST_A, _CONST_B, _COMPONENTS.
const SET_REMAP: u16 = 0x0700;

/// LAUNCH_DMA 1:0: the transfer may overlap with what follows.
const PIPELINED: u32 = 1;
/// LAUNCH_DMA 1:0: the transfer begins when the one before has ended.
const NON_PIPELINED: u32 = 2;
/// LAUNCH_DMA 2: what was written is visible before the launch counts as done.
const FLUSH: u32 = 1 << 2;
/// LAUNCH_DMA 4:3: a semaphore of one word.
const SEMAPHORE_ONE_WORD: u32 = 1 << 3;
/// LAUNCH_DMA 4:3: a semaphore of four words, with the time.
const SEMAPHORE_FOUR_WORDS: u32 = 2 << 3;
/// LAUNCH_DMA 7 and 8: both sides are lines of bytes.
const PITCH_LAYOUT: u32 = 3 << 7;
/// LAUNCH_DMA 9: LINE_COUNT counts.
const MULTI_LINE: u32 = 1 << 9;
/// LAUNCH_DMA 10: elements are put together as SET_REMAP says.
const REMAP: u32 = 1 << 10;

/// SET_REMAP_COMPONENTS: what becomes of a component of an element.
const CONST_A: u32 = 4;
const CONST_B: u32 = 5;
const NO_WRITE: u32 = 6;

/// Something that a copy engine does.
pub trait Operation {
    /// The operation in the engine's terms.
    ///
    /// Errors: [`Error::Range`] or [`Error::Alignment`] for a parameter that the device would refuse.
    fn command(&self) -> Result<Command>;
}

/// An operation with all its parameters, ready for a push buffer. Made by [`Operation`].
#[derive(Clone, Copy, Debug)]
pub struct Command {
    launch: u32,
    transfer: Option<Transfer>,
    remap: Option<[u32; 3]>,
    semaphore: Option<(GpuPtr, u32)>,
}

#[derive(Clone, Copy, Debug)]
struct Transfer {
    to: Strided,
    from: Strided,
    length: u32,
    lines: u32,
}

impl Command {
    pub(crate) fn encode(&self, push: &mut PushBuffer) {
        if let Some(Transfer {
            to,
            from,
            length,
            lines,
        }) = self.transfer
        {
            let [from_high, from_low] = halves(from.base);
            let [to_high, to_low] = halves(to.base);
            #[rustfmt::skip]
            push.methods(COPY, OFFSETS, &[from_high, from_low, to_high, to_low, from.stride, to.stride, length, lines]);
        }
        if let Some(remap) = self.remap {
            push.methods(COPY, SET_REMAP, &remap);
        }
        if let Some((at, payload)) = self.semaphore {
            let [high, low] = halves(at);
            push.methods(COPY, SET_SEMAPHORE, &[high, low, payload]);
        }
        push.methods(COPY, LAUNCH_DMA, &[self.launch]);
    }
}

fn halves(at: GpuPtr) -> [u32; 2] {
    [(at.addr() >> 32) as u32, at.addr() as u32]
}

fn address(at: Strided) -> Result<Strided> {
    match at.base.addr() {
        0..=ADDRESS_MAX => Ok(at),
        value => Err(Error::Range {
            what: "the address",
            value,
            min: 0,
            max: ADDRESS_MAX,
        }),
    }
}

/// Lines of bytes or elements, and how they relate to what comes after them.
#[derive(Clone, Copy, Debug)]
struct Shape {
    length: u64,
    lines: u64,
    mode: u32,
}

impl Shape {
    fn new(length: u64, lines: u64) -> Self {
        Shape {
            length,
            lines,
            mode: NON_PIPELINED,
        }
    }

    fn transfer(self, to: Strided, from: Strided) -> Result<Command> {
        let max = u32::MAX.into();
        Ok(Command {
            launch: self.mode | FLUSH | PITCH_LAYOUT | if self.lines == 1 { 0 } else { MULTI_LINE },
            transfer: Some(Transfer {
                to: address(to)?,
                from: address(from)?,
                length: in_range("the length of a line", self.length, 1, max)?,
                lines: in_range("the number of lines", self.lines, 1, max)?,
            }),
            remap: None,
            semaphore: None,
        })
    }
}

/// Copies bytes from one place to another
#[derive(Clone, Copy, Debug)]
pub struct Linear {
    to: Strided,
    from: Strided,
    shape: Shape,
}

impl Linear {
    /// `bytes`: 1 to 2^32 - 1.
    pub fn new(to: impl Into<GpuPtr>, from: impl Into<GpuPtr>, bytes: u64) -> Self {
        Linear {
            to: to.into().into(),
            from: from.into().into(),
            shape: Shape::new(bytes, 1),
        }
    }

    /// May overlap with the next operation, which must not depend on it.
    #[must_use]
    pub fn pipelined(mut self) -> Self {
        self.shape.mode = PIPELINED;
        self
    }
}

impl Operation for Linear {
    fn command(&self) -> Result<Command> {
        self.shape.transfer(self.to, self.from)
    }
}

/// Copies lines of bytes whose beginnings are a pitch apart: a part of an image, a column of a table
///
/// ```
/// use mirage::{copy, GpuPtr};
///
/// let (image, mut tile) = (vec![0_u8; 640 * 480], vec![0_u8; 16 * 16]);
/// let from = GpuPtr::from(image.as_ptr()).stride(640);
/// let to = GpuPtr::from(tile.as_mut_ptr()).stride(16);
/// let operation = copy::Rectangle::new(to, from, 16, 16);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Rectangle {
    to: Strided,
    from: Strided,
    shape: Shape,
}

impl Rectangle {
    /// `width` bytes, 1 to 2^32 - 1, of each of `lines` lines, 1 to 2^32 - 1. The strides are the pitches.
    pub fn new(to: Strided, from: Strided, width: u64, lines: u64) -> Self {
        Rectangle {
            to,
            from,
            shape: Shape::new(width, lines),
        }
    }

    /// May overlap with the next operation, which must not depend on it.
    #[must_use]
    pub fn pipelined(mut self) -> Self {
        self.shape.mode = PIPELINED;
        self
    }
}

impl Operation for Rectangle {
    fn command(&self) -> Result<Command> {
        self.shape.transfer(self.to, self.from)
    }
}

/// Types that a copy engine can fill memory with.
pub trait Pattern: Copy + sealed::Pattern {}

mod sealed {
    pub trait Pattern {
        /// SET_REMAP_CONST_A, SET_REMAP_CONST_B.
        fn constants(self) -> [u32; 2];
    }
}

macro_rules! patterns {
    ($($type:ty),*) => {$(
        impl sealed::Pattern for $type {
            fn constants(self) -> [u32; 2] {
                let bits = u64::from(self);
                [bits as u32, (bits >> 32) as u32]
            }
        }
        impl Pattern for $type {}
    )*};
}
patterns!(u8, u16, u32, u64);

/// Fills memory with copies of a value
///
/// ```
/// use mirage::copy;
///
/// let mut words = vec![0_u64; 4096];
/// let operation = copy::Fill::new(words.as_mut_ptr(), 0x0123_4567_89ab_cdef_u64, 4096);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Fill<T> {
    to: Strided,
    value: T,
    shape: Shape,
}

impl<T: Pattern> Fill<T> {
    /// `count` elements, 1 to 2^32 - 1, one behind the other.
    pub fn new(to: impl Into<GpuPtr>, value: T, count: u64) -> Self {
        Self::rectangle(to.into().into(), value, count, 1)
    }

    /// `width` elements, 1 to 2^32 - 1, of each of `lines` lines, 1 to 2^32 - 1. The stride is the pitch, in bytes.
    pub fn rectangle(to: Strided, value: T, width: u64, lines: u64) -> Self {
        Fill {
            to,
            value,
            shape: Shape::new(width, lines),
        }
    }

    /// May overlap with the next operation, which must not depend on it.
    #[must_use]
    pub fn pipelined(mut self) -> Self {
        self.shape.mode = PIPELINED;
        self
    }

    /// SET_REMAP_COMPONENTS: an element is one or two components of at most four bytes.
    fn components() -> u32 {
        let (bytes, count, y) = match size_of::<T>() as u32 {
            8 => (4, 2, CONST_B),
            bytes => (bytes, 1, NO_WRITE),
        };
        CONST_A
            | (y << 4)
            | (NO_WRITE << 8)
            | (NO_WRITE << 12)
            | ((bytes - 1) << 16)
            | ((count - 1) << 24)
    }
}

impl<T: Pattern> Operation for Fill<T> {
    fn command(&self) -> Result<Command> {
        // Nothing is read, but both addresses are sent.
        let mut command = self.shape.transfer(self.to, self.to)?;
        let [a, b] = self.value.constants();
        command.launch |= REMAP;
        command.remap = Some([a, b, Self::components()]);
        Ok(command)
    }
}

/// Writes a word when everything before it on the channel has finished
#[derive(Clone, Copy, Debug)]
pub struct Semaphore {
    at: GpuPtr,
    value: u32,
    kind: u32,
}

/// What [`Semaphore::timestamped`] writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(16))]
pub struct Stamped {
    /// The value of the semaphore.
    pub value: u32,
    /// Always 0.
    pub zero: u32,
    /// Nanoseconds of the device's clock; written before the value.
    pub nanoseconds: u64,
}

impl Semaphore {
    /// Writes `value` to the word at `at`, which is aligned to 4 bytes.
    pub fn new(at: impl Into<GpuPtr>, value: u32) -> Self {
        Semaphore {
            at: at.into(),
            value,
            kind: SEMAPHORE_ONE_WORD,
        }
    }

    /// Writes `value` and the time.
    pub fn timestamped(at: *mut Stamped, value: u32) -> Self {
        Semaphore {
            at: at.into(),
            value,
            kind: SEMAPHORE_FOUR_WORDS,
        }
    }
}

impl Operation for Semaphore {
    fn command(&self) -> Result<Command> {
        let Strided { base, .. } = address(self.at.into())?;
        let align = match self.kind {
            SEMAPHORE_FOUR_WORDS => 16,
            _ => 4,
        };
        if base.addr() % align != 0 {
            return Err(Error::Alignment {
                what: "the semaphore",
                addr: base.addr(),
                align,
            });
        }
        Ok(Command {
            launch: FLUSH | self.kind,
            transfer: None,
            remap: None,
            semaphore: Some((base, self.value)),
        })
    }
}

#[cfg(test)]
mod tests;
