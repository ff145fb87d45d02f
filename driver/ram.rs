// SPDX-License-Identifier: GPL-2.0

//! Structures in memory that the driver shares with the device, with the names of GV100's published manuals: instance block, USERD, GP
//! entries, methods, fault packets. Page tables are in [`crate::gpu_pt`].
//!
//! Sources: open-gpu-doc `manuals/volta/gv100/` (`dev_ram`, `dev_pbdma`, `dev_mmu_fault`, `dev_fault`) and `classes/host/clc36f.h`.

use kernel::bitfield;

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

// dev_ram: runlist entries (RAMRL), a group and a channel of 16 bytes each.
bitfield! {
    /// Word 0 of a group.
    pub(crate) struct RunlistTsg0(u32) {
        31:24 timeslice_timeout;
        19:16 timeslice_scale;
        0:0 tsg => bool;
    }
}

bitfield! {
    /// Word 1 of a group.
    pub(crate) struct RunlistTsg1(u32) {
        7:0 length;
    }
}

bitfield! {
    /// Word 2 of a group.
    pub(crate) struct RunlistTsg2(u32) {
        11:0 tsgid;
    }
}

bitfield! {
    /// Word 0 of a channel. Word 1 is the high half of the address of USERD.
    pub(crate) struct RunlistChan0(u32) {
        31:8 userd_lo;
        7:6 userd_target;
        5:4 inst_target;
        0:0 tsg => bool;
    }
}

impl RunlistChan0 {
    /// Bits of an address that are in the word.
    pub(crate) const USERD_MASK: u32 = !0xff;
}

bitfield! {
    /// Word 2 of a channel. Word 3 is the high half of the address of the instance block.
    pub(crate) struct RunlistChan2(u32) {
        31:12 inst_lo;
        11:0 chid;
    }
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
        /// Word 6.
        pub(crate) struct Engine(u32) {
            8:0 id;
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
    pub(crate) const PREFETCH: u32 = 3;
    pub(crate) const ATOMIC_WEAK: u32 = 4;
}

/// ENGINE_ID of a fault packet (dev_fault).
pub(crate) mod engine_id {
    /// Copy engines.
    pub(crate) const COPY_ENGINES: core::ops::Range<u32> = 15..24;
    /// Host, one for each runlist.
    pub(crate) const HOSTS: core::ops::Range<u32> = 32..64;
    /// Graphics and compute, with the number of the sub-context.
    pub(crate) const GRAPHICS: core::ops::Range<u32> = 64..128;
}

/// FAULT_TYPE of a fault packet (dev_fault): those that the driver tells apart.
pub(crate) mod fault_type {
    pub(crate) const PDE: u32 = 0x0;
    pub(crate) const PTE: u32 = 0x2;
    pub(crate) const VA_LIMIT_VIOLATION: u32 = 0x3;
    pub(crate) const RO_VIOLATION: u32 = 0x6;
    pub(crate) const POISONED: u32 = 0xe;
    pub(crate) const ATOMIC_VIOLATION: u32 = 0xf;
    /// One more than the last.
    pub(crate) const END: u32 = 0x10;
}
