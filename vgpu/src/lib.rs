// SPDX-License-Identifier: MIT OR Apache-2.0
//! The virtual GPU: a GV100-shaped device as a library without I/O.
//!
//! [`gpu::Gpu`] sees a memory [`bus::Bus`] and an [`bus::InterruptSink`]; the binary serves it over vfio-user.
//! `docs/vgpu.md` is the contract with the driver. A guest is untrusted everywhere: what it writes is an event, never
//! a panic.

pub mod bus;
pub mod clock;
pub mod config;
pub mod counters;
pub mod gpu;
pub mod intr;
pub mod memory;
pub mod mmu;
pub mod pci;
pub mod pri;
pub mod transport;

mod engine;
mod fifo;
mod pmc;
mod pramin;
mod regs;
