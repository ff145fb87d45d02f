// SPDX-License-Identifier: GPL-2.0

//! Registers in BAR0, with the names of GV100's published manuals.
//!
//! Sources: open-gpu-doc `manuals/volta/gv100/` (`dev_master`, `dev_fifo`, `dev_pbdma`, `dev_usermode`, `pri_mmu_hub`);
//! what the virtual GPU models of them is in docs/vgpu.md.

use kernel::io::register;

/// The class of the compute engine, private to the virtual GPU (docs/vgpu.md).
pub(crate) const MIRAGE_COMPUTE_A: u32 = 0xfec0;
/// The class of the copy engines.
pub(crate) const VOLTA_DMA_COPY_A: u32 = 0xc3b5;

/// Engines, by the number of their runlist (docs/vgpu.md).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Engine {
    /// Graphics and compute.
    Compute = 0,
    /// First copy engine.
    Copy0 = 1,
    /// Second copy engine.
    Copy1 = 2,
}

/// All engines.
pub(crate) const ENGINES: [Engine; 3] = [Engine::Compute, Engine::Copy0, Engine::Copy1];

/// Copy engines, in the order of their registers.
pub(crate) const COPY_ENGINES: [Engine; 2] = [Engine::Copy0, Engine::Copy1];

/// The method of a copy engine that starts work (clc3b5).
pub(crate) const CE_LAUNCH_DMA: u32 = 0x300;

/// Which interrupt tree (and MSI-X vector) carries what.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum IntrTree {
    /// Faults and errors.
    Stall = 0,
    /// Completion of work.
    NonStall = 1,
}

// dev_master
register! {
    /// Chip identification.
    pub(crate) NV_PMC_BOOT_0(u32) @ 0x000000 {
        31:0 value;
    }

    /// Pending interrupts of a tree.
    pub(crate) NV_PMC_INTR(u32)[2] @ 0x000100 {
        31:0 value;
    }

    /// Enabled interrupts of a tree.
    pub(crate) NV_PMC_INTR_EN(u32)[2] @ 0x000140 {
        31:0 value;
    }

    /// Enables interrupts of a tree.
    pub(crate) NV_PMC_INTR_EN_SET(u32)[2] @ 0x000160 {
        12:12 graph => bool;
        9:9 hub => bool;
        8:8 pfifo => bool;
        6:6 ce1 => bool;
        5:5 ce0 => bool;
    }

    /// Disables interrupts of a tree.
    pub(crate) NV_PMC_INTR_EN_CLEAR(u32)[2] @ 0x000180 {
        31:0 value;
    }
}

// dev_fifo, dev_pbdma, dev_usermode
register! {
    /// Host interrupts; write one to clear.
    pub(crate) NV_PFIFO_INTR_0(u32) @ 0x002100 {
        31:31 channel_intr => bool;
        29:29 pbdma_intr => bool;
        0:0 bind_error => bool;
    }

    /// Enabled host interrupts.
    pub(crate) NV_PFIFO_INTR_EN_0(u32) @ 0x002140 {
        31:31 channel_intr => bool;
        29:29 pbdma_intr => bool;
        0:0 bind_error => bool;
    }

    /// Address of the runlist that is submitted next.
    pub(crate) NV_PFIFO_RUNLIST_BASE(u32) @ 0x002270 {
        29:28 target;
        27:0 ptr;
    }

    /// Submits a runlist.
    pub(crate) NV_PFIFO_RUNLIST(u32) @ 0x002274 {
        23:20 id;
        /// Entries.
        15:0 length;
    }

    /// Whether a runlist is still being read.
    pub(crate) NV_PFIFO_RUNLIST_STATUS(u32)[3, stride = 8] @ 0x002284 {
        20:20 pending => bool;
    }

    /// Which channel an engine works for.
    pub(crate) NV_PFIFO_ENGINE_STATUS(u32)[3, stride = 8] @ 0x002640 {
        31:31 busy => bool;
        30:30 faulted => bool;
        15:13 ctx_status;
        12:12 id_type_tsg => bool;
        11:0 id;
    }

    /// Takes a channel off the hardware.
    pub(crate) NV_PFIFO_PREEMPT(u32) @ 0x002634 {
        20:20 pending => bool;
        11:0 id;
    }

    /// Errors of the PBDMA; write one to clear.
    pub(crate) NV_PPBDMA_INTR_0(u32) @ 0x040108 {
        31:0 value;
    }

    /// Enabled errors of the PBDMA.
    pub(crate) NV_PPBDMA_INTR_EN_0(u32) @ 0x04010c {
        31:0 value;
    }

    /// Offending method.
    pub(crate) NV_PPBDMA_METHOD0(u32) @ 0x0400c0 {
        /// Method address, in words.
        13:2 addr;
    }

    /// Channel of the pending error.
    pub(crate) NV_PPBDMA_CHANNEL(u32) @ 0x040120 {
        13:13 valid => bool;
        11:0 chid;
    }

    /// Instance block of a channel.
    pub(crate) NV_PCCSR_CHANNEL_INST(u32)[128, stride = 8] @ 0x800000 {
        31:31 bind => bool;
        29:28 target;
        27:0 ptr;
    }

    /// State of a channel.
    pub(crate) NV_PCCSR_CHANNEL(u32)[128, stride = 8] @ 0x800004 {
        28:28 busy => bool;
        23:23 eng_faulted => bool;
        22:22 pbdma_faulted => bool;
        11:11 enable_clr => bool;
        10:10 enable_set => bool;
        0:0 enable => bool;
    }

    /// Time, low part.
    pub(crate) NV_USERMODE_TIME_0(u32) @ 0x810080 {
        31:5 nsec;
    }

    /// Time, high part.
    pub(crate) NV_USERMODE_TIME_1(u32) @ 0x810084 {
        28:0 nsec;
    }

    /// Doorbell.
    pub(crate) NV_USERMODE_NOTIFY_CHANNEL_PENDING(u32) @ 0x810090 {
        31:0 id;
    }
}

// Copy engines
register! {
    /// Enabled interrupts of a copy engine.
    pub(crate) NV_CE_INTR_EN(u32)[2, stride = 0x80] @ 0x10440c {
        2:2 launcherr => bool;
        1:1 nonblockpipe => bool;
        0:0 blockpipe => bool;
    }

    /// Interrupts of a copy engine; write one to clear.
    pub(crate) NV_CE_INTR_STATUS(u32)[2, stride = 0x80] @ 0x104410 {
        2:2 launcherr => bool;
        1:1 nonblockpipe => bool;
        0:0 blockpipe => bool;
    }
}

// Compute engine
register! {
    /// Errors of the compute engine; write one to clear.
    pub(crate) NV_PGRAPH_INTR(u32) @ 0x400100 {
        31:0 value;
    }

    /// Enabled errors of the compute engine.
    pub(crate) NV_PGRAPH_INTR_EN(u32) @ 0x40013c {
        31:0 value;
    }

    /// Offending method.
    pub(crate) NV_PGRAPH_TRAPPED_ADDR(u32) @ 0x400704 {
        /// Method address, in words.
        13:2 mthd;
    }

    /// Instance block of the channel of the pending error.
    pub(crate) NV_PGRAPH_PRI_FECS_CURRENT_CTX(u32) @ 0x409b00 {
        31:31 valid => bool;
        29:28 target;
        27:0 ptr;
    }
}

// pri_mmu_hub, pri_mmu_both
register! {
    /// Queue of TLB operations.
    pub(crate) NV_PFB_PRI_MMU_CTRL(u32) @ 0x100c80 {
        23:16 pri_fifo_space;
        15:15 pri_fifo_empty => bool;
    }

    /// Address to invalidate, low part.
    pub(crate) NV_PFB_PRI_MMU_INVALIDATE_VADDR(u32) @ 0x100cb4 {
        31:4 bits;
    }

    /// Address to invalidate, high part.
    pub(crate) NV_PFB_PRI_MMU_INVALIDATE_UPPER_VADDR(u32) @ 0x100ce8 {
        19:0 bits;
    }

    /// Page directory to invalidate, low part.
    pub(crate) NV_PFB_PRI_MMU_INVALIDATE_PDB(u32) @ 0x100cb8 {
        31:4 addr;
        1:1 aperture => bool;
    }

    /// Page directory to invalidate, high part.
    pub(crate) NV_PFB_PRI_MMU_INVALIDATE_UPPER_PDB(u32) @ 0x100cec {
        19:0 addr;
    }

    /// Size of the range to invalidate: 4 KiB << size.
    pub(crate) NV_PFB_PRI_MMU_INVALIDATE_SIZE(u32) @ 0x100e68 {
        5:0 size;
    }

    /// Starts a TLB operation.
    pub(crate) NV_PFB_PRI_MMU_INVALIDATE(u32) @ 0x100cbc {
        31:31 trigger => bool;
        /// How far up cached entries go, or the access type of a cancel.
        26:24 cache_level;
        22:22 use_size => bool;
        8:7 ack;
        6:6 sys_membar => bool;
        5:3 replay;
        1:1 all_pdb => bool;
        0:0 all_va => bool;
    }

    /// Which prefetch faults are reported.
    pub(crate) NV_PFB_PRI_MMU_PAGE_FAULT_CTRL(u32) @ 0x100cf8 {
        /// 0: all, 3: none.
        1:0 prf_filter;
    }

    /// The last fault that had no buffer to go to; write VALID to let go of it.
    pub(crate) NV_PFB_PRI_MMU_FAULT_STATUS(u32) @ 0x100e60 {
        31:31 valid => bool;
        /// Packets that reached no memory, one bit for each buffer.
        11:10 error;
        /// Faults of units that have no buffer, beyond the first.
        7:0 dropped;
    }

    /// Interrupts of the MMU.
    pub(crate) NV_PFB_NISO_INTR(u32) @ 0x100a20 {
        31:31 other => bool;
        30:30 nonreplay_overflow => bool;
        29:29 nonreplay_notify => bool;
        28:28 replay_overflow => bool;
        27:27 replay_notify => bool;
    }

    /// Enables interrupts of the MMU.
    pub(crate) NV_PFB_NISO_INTR_EN_SET(u32) @ 0x100a2c {
        31:31 other => bool;
        30:30 nonreplay_overflow => bool;
        29:29 nonreplay_notify => bool;
        28:28 replay_overflow => bool;
        27:27 replay_notify => bool;
    }

    /// Disables interrupts of the MMU.
    pub(crate) NV_PFB_NISO_INTR_EN_CLR(u32) @ 0x100a34 {
        31:0 value;
    }

    /// Fault buffer address, low part. Index 0 is the non-replayable buffer, 1 the replayable one.
    pub(crate) NV_PFB_PRI_MMU_FAULT_BUFFER_LO(u32)[2, stride = 0x14] @ 0x100e24 {
        31:12 addr;
        3:3 vol => bool;
        2:1 aperture;
        0:0 addr_mode_physical => bool;
    }

    /// Fault buffer address, high part.
    pub(crate) NV_PFB_PRI_MMU_FAULT_BUFFER_HI(u32)[2, stride = 0x14] @ 0x100e28 {
        31:0 addr;
    }

    /// Next packet that software reads.
    pub(crate) NV_PFB_PRI_MMU_FAULT_BUFFER_GET(u32)[2, stride = 0x14] @ 0x100e2c {
        31:31 overflow => bool;
        30:30 getptr_corrupted => bool;
        19:0 ptr;
    }

    /// Next packet that hardware writes.
    pub(crate) NV_PFB_PRI_MMU_FAULT_BUFFER_PUT(u32)[2, stride = 0x14] @ 0x100e30 {
        31:31 overflow => bool;
        30:30 getptr_corrupted => bool;
        19:0 ptr;
    }

    /// Number of packets, and the switch.
    pub(crate) NV_PFB_PRI_MMU_FAULT_BUFFER_SIZE(u32)[2, stride = 0x14] @ 0x100e34 {
        31:31 enable => bool;
        30:30 set_default => bool;
        29:29 overflow_intr => bool;
        19:0 val;
    }
}
