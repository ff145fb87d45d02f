// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the instance block says to host (RAMFC, dev_ram).

use std::time::Duration;

use crate::bus::{Bus, BusError, GpuVa, PhysAddr};

use super::regs::{self, ramfc, userd, Acquire, GpBaseHi, GpBaseLo, UserdHi, UserdLo};

/// Bytes of a GP entry.
const GP_ENTRY: u64 = 8;
/// Unit of the acquire time-out.
const ACQUIRE_PERIOD_NS: u64 = 1024;
/// The longest acquire time-out.
const MAX_ACQUIRE_PERIODS: u64 = 0x7fff_8000;

/// The parts of RAMFC that this device uses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RamFc {
    inst: PhysAddr,
    /// Where GP_GET and GP_PUT are.
    pub(crate) userd: PhysAddr,
    gp_base: u64,
    acquire: Acquire,
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
    /// USERD has a TARGET that does not exist.
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
            inst,
            userd,
            gp_base: (u64::from(high.offset()) << 32) | (u64::from(low.offset()) << 3),
            acquire: word(ramfc::ACQUIRE)?.into(),
            entries: 1 << high.limit2(),
        })
    }

    /// How long a semaphore may fail to be acquired.
    pub(crate) fn acquire_timeout(&self) -> Option<Duration> {
        let (man, exp) = (self.acquire.timeout_man(), self.acquire.timeout_exp());
        let periods = (u64::from(man) << exp).min(MAX_ACQUIRE_PERIODS);
        let timeout = Duration::from_nanos(ACQUIRE_PERIOD_NS * periods);
        self.acquire.timeout_en().then_some(timeout)
    }

    /// SET_REF.
    pub(crate) fn set_ref(&self, bus: &dyn Bus, value: u32) -> Result<(), BusError> {
        bus.write_u32(self.inst.offset(ramfc::REF), value)?;
        bus.write_u32(self.userd.offset(userd::REF), value)
    }

    /// All methods before this address have been executed.
    pub(crate) fn set_get(&self, bus: &dyn Bus, end: GpuVa) -> Result<(), BusError> {
        let (low, high) = (end.0 as u32, (end.0 >> 32) as u32);
        bus.write_u32(self.userd.offset(userd::PUT), low)?;
        bus.write_u32(self.userd.offset(userd::PUT_HI), high)?;
        bus.write_u32(self.userd.offset(userd::GET), low)?;
        bus.write_u32(self.userd.offset(userd::GET_HI), high)
    }

    /// What a context switch leaves for software to look at.
    pub(crate) fn save(&self, bus: &dyn Bus, gp_get: u32) -> Result<(), BusError> {
        let gp_put = bus.read_u32(self.userd.offset(userd::GP_PUT))?;
        bus.write_u32(self.inst.offset(ramfc::GP_PUT), gp_put)?;
        bus.write_u32(self.inst.offset(ramfc::GP_GET), gp_get)?;
        bus.write_u32(self.userd.offset(userd::GP_GET), gp_get)
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
