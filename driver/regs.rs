// SPDX-License-Identifier: GPL-2.0

//! Registers in BAR0 and structures that the device reads from memory, with the names of GV100's published manuals.
//!
//! Sources: open-gpu-doc `manuals/volta/gv100/` (`dev_master`, `dev_fifo`, `dev_pbdma`, `dev_usermode`, `pri_mmu_hub`,
//! `dev_mmu_fault`, `dev_ram`); what the virtual GPU models of them is in docs/vgpu.md.

use kernel::{bitfield, io::register};

/// The class of the compute engine, private to the virtual GPU (docs/vgpu.md).
pub(crate) const MIRAGE_COMPUTE_A: u32 = 0xfec0;

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
        12:12 graph => bool;
        9:9 hub => bool;
        8:8 pfifo => bool;
    }

    /// Enables interrupts of a tree.
    pub(crate) NV_PMC_INTR_EN_SET(u32)[2] @ 0x000160 {
        12:12 graph => bool;
        9:9 hub => bool;
        8:8 pfifo => bool;
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
    pub(crate) NV_PCCSR_CHANNEL_INST(u32)[64, stride = 8] @ 0x800000 {
        31:31 bind => bool;
        29:28 target;
        27:0 ptr;
    }

    /// State of a channel.
    pub(crate) NV_PCCSR_CHANNEL(u32)[64, stride = 8] @ 0x800004 {
        28:28 busy => bool;
        23:23 eng_faulted => bool;
        22:22 pbdma_faulted => bool;
        11:11 enable_clr => bool;
        10:10 enable_set => bool;
        0:0 enable => bool;
    }

    /// Doorbell.
    pub(crate) NV_USERMODE_NOTIFY_CHANNEL_PENDING(u32) @ 0x810090 {
        31:0 id;
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

// dev_ram: instance block (RAMIN) and Host state (RAMFC), byte offsets in brackets at the users.
bitfield! {
    /// RAMFC word 0x008.
    pub(crate) struct RamfcUserdLo(u32) {
        31:9 addr;
        1:0 target;
    }
}

bitfield! {
    /// RAMFC word 0x04c.
    pub(crate) struct RamfcGpBaseHi(u32) {
        20:16 limit2;
        7:0 base;
    }
}

bitfield! {
    /// RAMIN word 0x200.
    pub(crate) struct RaminPdbLo(u32) {
        31:12 addr;
        11:11 big_page_size_64k => bool;
        10:10 use_ver2_pt_format => bool;
        5:5 fault_replay_gcc => bool;
        4:4 fault_replay_tex => bool;
        2:2 vol => bool;
        1:0 target;
    }
}

/// Byte offsets in the instance block, dev_ram.
pub(crate) mod ramin {
    /// RAMFC: USERD address, low and target.
    pub(crate) const USERD_LO: usize = 0x008;
    /// RAMFC: USERD address, high.
    pub(crate) const USERD_HI: usize = 0x00c;
    /// RAMFC: must hold [`SIGNATURE_VALUE`].
    pub(crate) const SIGNATURE: usize = 0x010;
    /// The only valid signature.
    pub(crate) const SIGNATURE_VALUE: u32 = 0xface;
    /// RAMFC: GPFIFO address, low.
    pub(crate) const GP_BASE: usize = 0x048;
    /// RAMFC: GPFIFO address, high, and its size.
    pub(crate) const GP_BASE_HI: usize = 0x04c;
    /// Page directory base, low.
    pub(crate) const PDB_LO: usize = 0x200;
    /// Page directory base, high.
    pub(crate) const PDB_HI: usize = 0x204;
}

/// Byte offset of GP_PUT in USERD, dev_ram.
pub(crate) const USERD_GP_PUT: usize = 0x8c;
/// Bytes of USERD.
pub(crate) const USERD_SIZE: usize = 512;

/// Aperture codes of TARGET fields (instance blocks, PDB, USERD, fault buffers).
#[derive(Clone, Copy)]
pub(crate) enum Target {
    /// Device memory.
    VidMem = 0,
    /// System memory, coherent.
    SysMemCoherent = 2,
}

bitfield! {
    /// GP entry, word 1 (dev_pbdma).
    pub(crate) struct GpEntry1(u32) {
        30:10 length;
        7:0 get_hi;
    }
}

/// Operation field of a method header (dev_pbdma).
pub(crate) mod sec_op {
    /// Data goes to successive methods.
    pub(crate) const INC_METHOD: u32 = 1;
    /// Data goes to one method.
    pub(crate) const NON_INC_METHOD: u32 = 3;
    /// The count field is the data.
    pub(crate) const IMMD_DATA_METHOD: u32 = 4;
    /// The first word goes to the method, the others to the next one.
    pub(crate) const ONE_INC: u32 = 5;
}

bitfield! {
    /// Method header in a push buffer (dev_pbdma).
    pub(crate) struct MethodHeader(u32) {
        31:29 sec_op;
        28:16 count;
        15:13 subchannel;
        11:0 address;
    }
}

/// Host methods, byte addresses (clc36f).
pub(crate) mod host_method {
    /// Raises the non-stall interrupt.
    pub(crate) const NON_STALL_INT: u32 = 0x20;
    /// First of SEM_ADDR_LO, SEM_ADDR_HI, SEM_PAYLOAD_LO, SEM_PAYLOAD_HI, SEM_EXECUTE. 0x6c is the last.
    pub(crate) const SEM_ADDR_LO: u32 = 0x5c;
}

bitfield! {
    /// SEM_EXECUTE (clc36f).
    pub(crate) struct SemExecute(u32) {
        20:20 release_wfi => bool;
        2:0 operation;
    }
}

/// OPERATION of SEM_EXECUTE: write the payload.
pub(crate) const SEM_OPERATION_RELEASE: u8 = 1;

/// Words of a fault packet and their fields (dev_mmu_fault).
pub(crate) mod packet {
    use kernel::bitfield;

    /// Bytes of a packet.
    pub(crate) const SIZE: usize = 32;

    bitfield! {
        /// Word 0: instance block.
        pub(crate) struct Inst(u32) {
            31:12 lo;
            9:8 aperture;
        }
    }

    bitfield! {
        /// Word 2: address.
        pub(crate) struct Addr(u32) {
            31:12 lo;
        }
    }

    bitfield! {
        /// Word 7.
        pub(crate) struct Info(u32) {
            31:31 valid => bool;
            20:20 mmu_client_type_hub => bool;
            19:16 access_type;
            14:8 client;
            7:7 replayable_fault => bool;
            4:0 fault_type;
        }
    }
}

/// ACCESS_TYPE of a fault packet (dev_mmu_fault).
pub(crate) mod access_type {
    pub(crate) const READ: u32 = 0;
    pub(crate) const WRITE: u32 = 1;
    pub(crate) const ATOMIC_STRONG: u32 = 2;
    pub(crate) const ATOMIC_WEAK: u32 = 4;
}

/// FAULT_TYPE of a fault packet (dev_fault): those that the driver tells apart.
pub(crate) mod fault_type {
    pub(crate) const PDE: u32 = 0x0;
    pub(crate) const PTE: u32 = 0x2;
    pub(crate) const VA_LIMIT_VIOLATION: u32 = 0x3;
    pub(crate) const RO_VIOLATION: u32 = 0x6;
    pub(crate) const POISONED: u32 = 0xe;
    pub(crate) const ATOMIC_VIOLATION: u32 = 0xf;
}
