// SPDX-License-Identifier: GPL-2.0

//! Mirage: a GPU driver that makes every pointer of a process valid on the GPU.
//!
//! # Overview
//!
//! A process opens the render node and binds the file to its address space (`SVM_INIT`). From then on the GPU's page tables
//! mirror the process's: a GPU access without a translation raises a replayable fault, the driver asks HMM for the page,
//! writes the GPU page table and replays the access; when the CPU's mapping changes, an MMU notifier takes the GPU's away
//! before the change takes effect.
//!
//! ```text
//!  ioctl ──> file ──> svm ──> mirror ──> gpu_pt, tlb        fault: page tables follow the CPU's
//!                      │ ^       ^
//!                      v │       └────── MMU notifier       invalidate
//!            channel   fault <────────── interrupt
//! ```
//!
//! * [`driver`]: PCI probe, DRM registration, who owns what.
//! * [`gpu`]: one device: bring-up, capabilities, interrupts, shutdown.
//! * [`file`](mod@file): one open file: ioctl validation, no policy.
//! * [`svm`]: one process on one GPU: regions, fault service, policy.
//! * [`mirror`]: one region: notifier, update lock, commit, invalidate.
//! * [`gpu_pt`]: format and walk of GPU page tables, pure logic.
//! * [`fault`], [`tlb`], [`channel`], [`vram`], [`regs`], [`counters`]: the parts of the device.
//! * [`kapi`]: safe wrappers of kernel interfaces; all `unsafe` code, all differences between kernel versions.
//!
//! # Glossary
//!
//! * **Fault, replayable**: an access that found no translation and waits; **replay** lets all that wait try again;
//!   **cancel** fails one for good.
//! * **Fault buffer**: ring in memory into which the GPU's MMU writes fault packets.
//! * **HMM**: heterogeneous memory management, `mm/hmm.c`: looks up, or faults in, the pages of a range of addresses.
//! * **Instance block**: the GPU's description of a channel: page-directory base, ring, USERD.
//! * **Leaf**: an entry that maps memory: 2 MiB, 64 KiB or 4 KiB.
//! * **PDE, PTE**: page-directory entry, page-table entry; **PDB**: page-directory base.
//! * **Region**: piece of an address space with a notifier of its own.
//! * **Unmanaged range**: addresses that the process leaves to the driver, for rings.
//! * **USERD**: memory of a channel with its ring pointers.
//!
//! # Lock order
//!
//! To be written with the code that takes them.

#![crate_name = "mirage"]

mod channel;
mod counters;
mod driver;
mod fault;
mod file;
mod gpu;
mod gpu_pt;
mod kapi;
mod mirror;
mod regs;
mod svm;
mod tlb;
mod vram;

kernel::module_pci_driver! {
    type: driver::MirageDriver,
    name: "mirage",
    authors: ["The Mirage developers"],
    description: "GPU with a mirrored address space",
    license: "GPL",
}
