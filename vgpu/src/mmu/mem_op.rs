// SPDX-License-Identifier: MIT OR Apache-2.0
//! MEM_OP_A to _D (dev_pbdma, classes/host clc36f.h): the MMU's operations as methods of a privileged channel.

use bitfield_struct::bitfield;

use crate::regs::mmu as regs;

use super::invalidation::{Operands, Operation, ReplayOp};
use super::stores::Landing;

/// Data of the four methods; D starts the operation.
#[derive(Clone, Copy, Debug, Default)]
pub struct MemOp {
    /// MEM_OP_A.
    pub a: u32,
    /// MEM_OP_B.
    pub b: u32,
    /// MEM_OP_C.
    pub c: u32,
    /// MEM_OP_D.
    pub d: u32,
}

/// MEM_OP_D names no operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownMemOp;

/// MEM_OP_A of a TLB invalidation.
#[bitfield(u32)]
struct InvalidateA {
    /// INVALIDATION_SIZE, or for CANCEL_TARGETED the client.
    #[bits(6)]
    size: u8,
    #[bits(5)]
    cancel_gpc: u8,
    sysmembar: bool,
    /// VA[31:12].
    #[bits(20)]
    va_lo: u32,
}

impl InvalidateA {
    /// CANCEL_MMU_ENGINE_ID of CANCEL_VA_GLOBAL, 6:0.
    fn engine(self) -> u16 {
        (self.into_bits() & 0x7f) as u16
    }
}

/// MEM_OP_C of a TLB invalidation.
#[bitfield(u32)]
struct InvalidateC {
    all_pdb: bool,
    hub_only: bool,
    #[bits(3)]
    replay: u8,
    #[bits(2)]
    ack: u8,
    /// PAGE_TABLE_LEVEL, or for CANCEL_VA_GLOBAL the access type.
    #[bits(3)]
    level: u8,
    #[bits(2)]
    pdb_aperture: u8,
    /// PDB[31:12].
    #[bits(20)]
    pdb_lo: u32,
}

/// MEM_OP_D.
#[bitfield(u32)]
struct OperationD {
    /// PDB[58:32].
    #[bits(27)]
    pdb_hi: u32,
    #[bits(5)]
    operation: u8,
}

const MEMBAR: u8 = 0x05;
const TLB_INVALIDATE: u8 = 0x09;
const TLB_INVALIDATE_TARGETED: u8 = 0x0a;
/// L2_PEERMEM_INVALIDATE, L2_SYSMEM_INVALIDATE, L2_CLEAN_COMPTAGS, L2_FLUSH_DIRTY, L2_WAIT_FOR_SYS_PENDING_READS,
/// ACCESS_COUNTER_CLR: of caches and counters that this device has not.
const WITHOUT_EFFECT: [u8; 6] = [0x0d, 0x0e, 0x0f, 0x10, 0x15, 0x16];

/// CANCEL_TARGETED and CANCEL_VA_GLOBAL of REPLAY: they use the bits of INVALIDATION_SIZE for something else.
const CANCEL_TARGETED: u8 = 3;
const CANCEL_VA_GLOBAL: u8 = 5;

/// What the four methods ask for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Decoded {
    Tlb(Operation),
    /// Earlier stores have to land.
    Membar(Landing),
    Nothing,
}

impl MemOp {
    pub(crate) fn decode(&self) -> Result<Decoded, UnknownMemOp> {
        Ok(match OperationD::from(self.d).operation() {
            // 2:0 of MEM_OP_C: 0 SYS_MEMBAR, 1 MEMBAR.
            MEMBAR if self.c & 0x7 == 0 => Decoded::Membar(Landing::All),
            MEMBAR => Decoded::Membar(Landing::Vidmem),
            TLB_INVALIDATE => Decoded::Tlb(self.invalidation(true)),
            TLB_INVALIDATE_TARGETED => Decoded::Tlb(self.invalidation(false)),
            operation if WITHOUT_EFFECT.contains(&operation) => Decoded::Nothing,
            _ => return Err(UnknownMemOp),
        })
    }

    /// The TRIGGER through BAR0 that would do the same, but for CANCEL_MMU_ENGINE_ID.
    fn invalidation(&self, all_va: bool) -> Operation {
        let (a, c) = (InvalidateA::from(self.a), InvalidateC::from(self.c));
        let sized = !matches!(c.replay(), CANCEL_TARGETED | CANCEL_VA_GLOBAL);
        let command = regs::Invalidate::new()
            .with_all_va(all_va)
            .with_all_pdb(c.all_pdb())
            .with_hubtlb_only(c.hub_only())
            .with_replay(c.replay())
            .with_sys_membar(a.sysmembar())
            .with_ack(c.ack())
            .with_cancel_client_id(a.size())
            .with_cancel_gpc_id(a.cancel_gpc())
            .with_use_size(sized)
            .with_cache_level(c.level());
        let va = (u64::from(self.b) << 20) | u64::from(a.va_lo());
        let pdb = (u64::from(OperationD::from(self.d).pdb_hi()) << 20) | u64::from(c.pdb_lo());
        let operands = Operands {
            vaddr: regs::InvalidateVaddr::new().with_bits(low(va)),
            upper_vaddr: regs::InvalidateUpper::new().with_bits(high(va)),
            pdb: regs::InvalidatePdb::new()
                .with_sys_mem(c.pdb_aperture() & 2 != 0)
                .with_addr(low(pdb)),
            upper_pdb: regs::InvalidateUpper::new().with_bits(high(pdb)),
            size: regs::InvalidateSize::new().with_val(a.size()),
        };
        let mut operation = Operation::decode(command, &operands);
        if let ReplayOp::CancelVa(cancel) = &mut operation.replay {
            *cancel = cancel.of_engine(a.engine());
        }
        operation
    }
}

/// Bits of a page number that the lower register of an address holds.
const LOW_BITS: u32 = 28;

fn low(page: u64) -> u32 {
    (page & ((1 << LOW_BITS) - 1)) as u32
}

fn high(page: u64) -> u32 {
    // 20 bits, as address bits 59:40.
    ((page >> LOW_BITS) & 0xf_ffff) as u32
}
