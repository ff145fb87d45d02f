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
//! * [`directory`], [`push`], [`fault`], [`tlb`], [`channel`], [`runlist`], [`ptimer`], [`vram`], [`regs`], [`ram`], [`counters`]: the parts of the device.
//! * [`kapi`]: safe wrappers of kernel interfaces; all `unsafe` code, all differences between kernel versions.
//!
//! # Glossary
//!
//! * **Batch**: blocks that a worker serves before one replay lets their accesses go on.
//! * **Block**: 2 MiB of addresses, aligned: what one worker serves at a time, and what a PDE0 stands for.
//! * **Fault, replayable**: an access that found no translation and waits; **replay** lets all that wait try again;
//!   **cancel** fails one for good.
//! * **Fault buffer**: ring in memory into which the GPU's MMU writes fault packets.
//! * **HMM**: heterogeneous memory management, `mm/hmm.c`: looks up, or faults in, the pages of a range of addresses.
//! * **Instance block**: the GPU's description of a channel: page-directory base, ring, USERD.
//! * **Leaf**: an entry that maps memory: 2 MiB, 64 KiB or 4 KiB.
//! * **PDE, PTE**: page-directory entry, page-table entry; **PDB**: page-directory base.
//! * **Region**: piece of an address space with a notifier of its own.
//! * **Shadow**: the copy in system memory of page tables that were written to device memory.
//! * **Unmanaged range**: addresses that the process leaves to the driver, for rings.
//! * **USERD**: memory of a channel with its ring pointers.
//!
//! # Lock order
//!
//! A lock may be taken while locks with smaller numbers are held, never the other way round.
//!
//! 1. `MirageFile::mirror`: one ioctl binds the file. `Svm::closing`: while an address space ends.
//! 2. `Gpu::faults`: while packets are read and faults are queued.
//! 3. The scratch memory of a worker ([`svm`]): while it serves faults. Then `Gpu::gate`, which counts those who may write device memory.
//! 4. `Gpu::channels`: nothing is allocated under it, because fences signal by way of it. Finding a channel does not nest.
//! 5. `Gpu::svms`: memory is allocated under it.
//! 6. `Channel::state`: stopping a channel waits for the hardware under it, and fences signal, whose locks are the last of all.
//! 7. `Gpu::preempt`, then `Gpu::runlists`. `Svm::dropped_events`, then `EventSender::file`, then DRM's `event_lock`. Nothing else under
//!    them. `Gpu::slots`, `FaultState::state`, `Svm::pending`, `BusyTimes::engines`, `FaultLog::entries`: leaves, but that a fault that is
//!    dropped may be the last to hold its channel, whose memory goes then (9).
//! 8. `Svm::space`: regions are made and removed under it, which waits for invalidations that run. So nothing that an
//!    invalidate callback, or the holder of an mmap lock, can wait for may come before it.
//! 9. The allocator of device memory ([`vram`]): allocates memory under its lock, so it comes before everything that reclaim takes.
//! 10. mmap lock, then the locks of the core mm (rmap locks, page locks).
//! 11. The invalidation of the core mm (`mmu_notifier_invalidate_range_start`); reclaim gets here from any allocation.
//! 12. **The update lock** of a region (in [`kapi::notifier`]): page-table writes and the sequence check. Under it no memory
//!     is allocated or freed and nothing sleeps for long; the only wait is for the TLB.
//! 13. `Tlb::lock`: the TLB registers, until the device has acknowledged.
//!
//! A non-blockable invalidation tries 12 and 13, and changes nothing unless it gets both.

#![crate_name = "mirage"]

mod channel;
mod counters;
mod directory;
mod driver;
mod fault;
mod file;
mod gpu;
mod gpu_pt;
mod kapi;
mod mirror;
mod ptimer;
mod push;
mod ram;
mod regs;
mod runlist;
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
