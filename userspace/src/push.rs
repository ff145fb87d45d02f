// SPDX-License-Identifier: MIT OR Apache-2.0
//! Push buffers: method headers and their data, as the manual `dev_pbdma` has them.

use crate::channel::Engine;
use crate::copy;
use crate::error::{Error, Result};
use crate::ops::{Lanes, Operation};

/// Subchannel of the compute class, by convention.
pub const COMPUTE: Subchannel = Subchannel(1);
/// Subchannel of the copy class, by convention.
pub const COPY: Subchannel = Subchannel(4);

/// One of the eight objects of a channel that methods can go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subchannel(pub u8);

/// How the data words of a header spread over methods: SEC_OP of a method header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Spread {
    /// Each word to the next method.
    Increment = 1,
    /// All words to the same method.
    Repeat = 3,
}

/// Most data words behind one header: the width of its COUNT field.
const COUNT_MAX: usize = (1 << 13) - 1;
/// First method of a class: binds the class to the subchannel.
const SET_OBJECT: u16 = 0;
/// Method of the compute class: what was launched before has landed in memory when the next method runs.
const WAIT_FOR_IDLE: u16 = 0x0110;

/// Words for [`Channel::submit`](crate::Channel::submit) and [`Submission::push`](crate::Submission::push).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PushBuffer {
    words: Vec<u32>,
    /// Whose class it binds; operations of others are refused.
    engine: Option<Engine>,
}

impl PushBuffer {
    /// An empty push buffer.
    pub fn new() -> Self {
        Self::default()
    }

    /// A push buffer for compute channels, which starts by binding the class `class` to [`COMPUTE`].
    pub fn for_class(class: u32) -> Self {
        Self::for_engine(Engine::Compute, class)
    }

    /// A push buffer for copy channels, which starts by binding the class `class` to [`COPY`].
    pub fn for_copy_class(class: u32) -> Self {
        Self::for_engine(Engine::Copy, class)
    }

    pub(crate) fn for_engine(engine: Engine, class: u32) -> Self {
        let mut push = PushBuffer {
            words: Vec::new(),
            engine: Some(engine),
        };
        let subchannel = match engine {
            Engine::Compute => COMPUTE,
            Engine::Copy => COPY,
        };
        push.methods(subchannel, SET_OBJECT, &[class]);
        push
    }

    /// Appends an operation over `lanes` lanes of the compute engine. It sees what those before it in the submission have written.
    ///
    /// Errors: [`Error::Range`] for a parameter that the device would refuse; [`Error::WrongEngine`] in a push buffer for
    /// copy channels.
    pub fn launch(&mut self, operation: &impl Operation, lanes: Lanes) -> Result<&mut Self> {
        self.must_be_for(Engine::Compute)?;
        let launch = operation.launch(lanes)?;
        // Launches run in order, but stores may land late: the next one reads them after a wait only. The first of a push
        // buffer may come behind another push buffer of its submission.
        self.methods(COMPUTE, WAIT_FOR_IDLE, &[0]);
        launch.encode(self);
        Ok(self)
    }

    /// Appends an operation of a copy engine.
    ///
    /// Errors: [`Error::Range`] or [`Error::Alignment`] for a parameter that the device would refuse; [`Error::WrongEngine`] in a push
    /// buffer for compute channels.
    pub fn run(&mut self, operation: &impl copy::Operation) -> Result<&mut Self> {
        self.must_be_for(Engine::Copy)?;
        operation.command()?.encode(self);
        Ok(self)
    }

    fn must_be_for(&self, needed: Engine) -> Result<()> {
        match self.engine {
            Some(engine) if engine != needed => Err(Error::WrongEngine { engine, needed }),
            _ => Ok(()),
        }
    }

    /// Appends data for consecutive methods, beginning with the byte offset `first`.
    pub fn methods(&mut self, subchannel: Subchannel, first: u16, data: &[u32]) -> &mut Self {
        self.spread(subchannel, Spread::Increment, first, data)
    }

    /// Appends data for methods, spread as `spread` says.
    pub fn spread(
        &mut self,
        subchannel: Subchannel,
        spread: Spread,
        first: u16,
        data: &[u32],
    ) -> &mut Self {
        let mut method = first;
        for chunk in data.chunks(COUNT_MAX) {
            self.words
                .push(header(spread, chunk.len() as u32, subchannel, method));
            self.words.extend_from_slice(chunk);
            if spread == Spread::Increment {
                method = method.wrapping_add(4 * chunk.len() as u16);
            }
        }
        self
    }

    /// Appends a word as it is.
    pub fn raw(&mut self, word: u32) -> &mut Self {
        self.words.push(word);
        self
    }

    /// What was appended so far.
    pub fn words(&self) -> &[u32] {
        &self.words
    }
}

/// A method header: 31:29 SEC_OP, 28:16 COUNT, 15:13 SUBCHANNEL, 11:0 METHOD >> 2.
fn header(spread: Spread, count: u32, subchannel: Subchannel, method: u16) -> u32 {
    let (object, word) = (
        u32::from(subchannel.0 & 7),
        u32::from((method >> 2) & 0xfff),
    );
    ((spread as u32) << 29) | (count << 16) | (object << 13) | word
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{GpuPtr, Load};

    #[test]
    fn a_header_holds_operation_count_subchannel_and_method_in_words() {
        let mut push = PushBuffer::new();
        push.methods(Subchannel(1), 0x0200, &[0xaaaa, 0xbbbb]);
        assert_eq!(push.words(), [0x2002_2080, 0xaaaa, 0xbbbb]);
    }

    #[test]
    fn repeated_data_goes_to_one_method() {
        let mut push = PushBuffer::new();
        push.spread(Subchannel(4), Spread::Repeat, 0x0300, &[7]);
        assert_eq!(push.words(), [0x6001_80c0, 7]);
    }

    #[test]
    fn binding_a_class_is_method_zero_of_its_subchannel() {
        assert_eq!(PushBuffer::for_class(0xfec0).words(), [0x2001_2000, 0xfec0]);
        let copy = PushBuffer::for_copy_class(0xc3b5);
        assert_eq!(copy.words(), [0x2001_8000, 0xc3b5]);
    }

    #[test]
    fn a_launch_waits_until_those_before_it_have_landed() {
        let waits = |push: &PushBuffer| {
            let header = header(Spread::Increment, 1, COMPUTE, WAIT_FOR_IDLE);
            push.words()
                .windows(2)
                .filter(|words| words == &[header, 0])
                .count()
        };
        let (mut push, load) = (PushBuffer::new(), Load::<u8>::new(GpuPtr::new(0).stride(0)));
        for launches in 1..=3 {
            push.launch(&load, Lanes(1))
                .expect("parameters are in range");
            assert_eq!(waits(&push), launches);
        }
    }

    #[test]
    fn data_longer_than_the_count_field_goes_behind_a_second_header() {
        let mut push = PushBuffer::new();
        push.spread(COMPUTE, Spread::Repeat, 0x0100, &vec![0; COUNT_MAX + 1]);
        let second = push.words()[COUNT_MAX + 1];
        assert_eq!(
            ((push.words()[0] >> 16) & 0x1fff, (second >> 16) & 0x1fff),
            (COUNT_MAX as u32, 1)
        );
    }
}
