// SPDX-License-Identifier: MIT OR Apache-2.0
//! Client library of the Mirage GPU driver.
//!
//! Mirage makes any pointer of a process valid on the GPU. There are no buffers to allocate, to map or to copy:
//!
//! ```no_run
//! use std::time::Duration;
//! use mirage::{lanes, Atomic, Gpu, Strided};
//!
//! # #[allow(unsafe_code)]
//! # fn main() -> mirage::Result<()> {
//! let mut numbers = vec![41_u64; 1000];
//!
//! let gpu = Gpu::open()?;
//! // SAFETY: nothing touches `numbers` between the launch and the end of the wait.
//! let svm = unsafe { gpu.svm()? };
//! let channel = svm.channel()?;
//! let job = channel.launch(Atomic::add(Strided::packed(numbers.as_mut_ptr()), 1_u64), lanes(1000))?;
//! job.wait(Duration::from_secs(10))?;
//!
//! assert!(numbers.iter().all(|&n| n == 42));
//! # Ok(())
//! # }
//! ```
//!
//! The parts: a [`Gpu`] is an open device, an [`Svm`] the mirror of this process on it, a [`Channel`] a queue of work, a
//! [`Job`] work that was submitted. Operations are values ([`Store`], [`Load`], [`Fill`], [`CopyBytes`], [`Compare`], [`Atomic`],
//! [`Chase`]) that say what one of many lanes does. A bad pointer stops its channel and leaves a [`FaultReport`].

mod channel;
mod counters;
mod error;
mod gpu;
mod launch;
mod ops;
mod ptr;
mod push;
mod report;
mod svm;
mod sys;
pub mod uapi;

pub use channel::{Channel, Job};
pub use counters::Counters;
pub use error::{Error, Result};
pub use gpu::Gpu;
pub use launch::Launch;
pub use ops::{
    lanes, Atomic, AtomicElement, Chase, Chased, Compare, CopyBytes, Element, Fill, Lanes, Load,
    NodeLayout, Operation, Store,
};
pub use ptr::{GpuPtr, Strided};
pub use push::{PushBuffer, Spread, Subchannel, COMPUTE};
pub use report::{Access, FaultReport, Reason};
pub use svm::Svm;
