// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the instance block says to host (RAMFC, dev_ram).

use crate::bus::{Bus, BusError, GpuVa, PhysAddr};

use super::regs::{self, ramfc, GpBaseHi, GpBaseLo, UserdHi, UserdLo};

/// Bytes of a GP entry.
const GP_ENTRY: u64 = 8;

/// The parts of RAMFC that this device uses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RamFc {
    /// Where GP_GET and GP_PUT are.
    pub(crate) userd: PhysAddr,
    gp_base: u64,
    /// Entries of the GPFIFO.
    pub(crate) entries: u32,
}

/// Why an instance block is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadInstance {
    /// It cannot be read.
    Unreadable(BusError),
    /// No SIGNATURE.
    Signature(u32),
    /// USERD is in no memory.
    Userd,
}

impl From<BusError> for BadInstance {
    fn from(error: BusError) -> Self {
        Self::Unreadable(error)
    }
}

impl RamFc {
    /// Reads it from the instance block at `inst`.
    pub(crate) fn read(bus: &dyn Bus, inst: PhysAddr) -> Result<Self, BadInstance> {
        let word = |offset| bus.read_u32(inst.offset(offset));
        let signature = word(ramfc::SIGNATURE)?;
        if signature != ramfc::SIGNATURE_VALID {
            return Err(BadInstance::Signature(signature));
        }
        let (low, high) = (
            UserdLo::from(word(ramfc::USERD)?),
            UserdHi::from(word(ramfc::USERD_HI)?),
        );
        let userd = PhysAddr {
            aperture: regs::aperture(low.target()).ok_or(BadInstance::Userd)?,
            addr: (u64::from(high.addr()) << 32) | (u64::from(low.addr()) << 9),
        };
        let (low, high) = (
            GpBaseLo::from(word(ramfc::GP_BASE)?),
            GpBaseHi::from(word(ramfc::GP_BASE_HI)?),
        );
        Ok(Self {
            userd,
            gp_base: (u64::from(high.offset()) << 32) | (u64::from(low.offset()) << 3),
            entries: 1 << high.limit2(),
        })
    }

    /// Where GP entry `index` is.
    pub(crate) fn entry(&self, index: u32) -> GpuVa {
        GpuVa(self.gp_base + u64::from(index) * GP_ENTRY)
    }

    /// The entry after `index`.
    pub(crate) fn after(&self, index: u32) -> u32 {
        // The number of entries is a power of two.
        index.wrapping_add(1) & (self.entries - 1)
    }
}
