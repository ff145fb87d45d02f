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
//! The parts: a [`Gpu`] is an open device, an [`Svm`] the mirror of this process on it, a [`Channel`] a queue of work for one kind of
//! [`Engine`], a [`Job`] work that was submitted.
//!
//! * Operations are values. For the compute engine they say what one of many lanes does ([`Store`], [`Load`], [`Fill`], [`CopyBytes`],
//!   [`Compare`], [`Atomic`], [`Chase`], [`Announce`]) and are [launched](Channel::launch); those of the copy engines are in [`copy`] and are
//!   [run](Channel::run).
//! * A [`Submission`] has several push buffers, waits for syncobjs and signals them: a [`Syncobj`], a [`Job`], a point of a [`Timeline`].
//! * A bad pointer stops its channel and leaves a [`FaultReport`] among the [`FaultEvents`]; [`Channel::reset`] makes the channel usable
//!   again.
//! * [`Svm::prefetch`] maps pages ahead of use, [`Svm::query`] tells what GPU and CPU map.

mod channel;
pub mod copy;
mod counters;
mod deadline;
mod error;
mod events;
mod gpu;
mod hole;
mod launch;
mod limits;
mod node;
mod ops;
mod ptr;
mod push;
mod query;
mod range;
mod report;
mod submission;
mod svm;
mod sync;
mod sys;
pub mod uapi;

pub use channel::{Channel, ChannelBuilder, ChannelState, Engine, Stop};
pub use counters::Counters;
pub use deadline::Deadline;
pub use error::{Error, Result};
pub use events::FaultEvents;
pub use gpu::Gpu;
pub use launch::Launch;
pub use limits::{Features, Limits};
pub use ops::{
    lanes, Announce, Atomic, AtomicElement, Chase, Chased, Compare, CopyBytes, Element, Fill,
    Lanes, Load, NodeLayout, Operation, Store,
};
pub use ptr::{GpuPtr, Strided};
pub use push::{PushBuffer, Spread, Subchannel, COMPUTE, COPY};
pub use query::{CpuPage, GpuPage, Order, Page, Place};
pub use range::{PageRange, PAGE_SIZE};
pub use report::{Access, FaultReport, Reason};
pub use submission::{Job, Submission};
pub use svm::{Intent, Svm};
pub use sync::{wait_all, wait_any, SyncPoint, Syncobj, Timeline};
