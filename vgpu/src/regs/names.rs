// SPDX-License-Identifier: MIT OR Apache-2.0
//! Names for offsets, for the list of accesses that the device does not model.

/// First offset and name of each unit of the register space, in order.
const UNITS: &[(u32, &str)] = &[
    (0x000000, "NV_PMC"),
    (0x001000, "NV_PBUS"),
    (0x002000, "NV_PFIFO"),
    (0x004000, "unnamed"),
    (0x009000, "NV_PTIMER"),
    (0x00a000, "unnamed"),
    (0x020000, "NV_PTHERM"),
    (0x022000, "NV_PTOP"),
    (0x023000, "unnamed"),
    (0x040000, "NV_PPBDMA"),
    (0x060000, "unnamed"),
    (0x088000, "NV_XVE"),
    (0x08c000, "unnamed"),
    (0x100000, "NV_PFB"),
    (0x102000, "unnamed"),
    (0x104000, "NV_PCE"),
    (0x105000, "unnamed"),
    (0x122000, "NV_PPRIV"),
    (0x130000, "unnamed"),
    (0x400000, "NV_PGRAPH"),
    (0x600000, "unnamed"),
    (0x700000, "NV_PRAMIN"),
    (0x800000, "NV_PCCSR"),
    (0x810000, "NV_USERMODE"),
    (0x820000, "unnamed"),
];

/// Registers that a driver for GV100 may try and that this device does not model.
const REGISTERS: &[(u32, &str)] = &[
    (0x000a00, "NV_PMC_BOOT_42"),
    (0x001704, "NV_PBUS_BAR1_BLOCK"),
    (0x001714, "NV_PBUS_BAR2_BLOCK"),
    (0x00225c, "NV_PFIFO_USERD_WRITEBACK"),
    (0x002630, "NV_PFIFO_SCHED_DISABLE"),
    (0x002a00, "NV_PFIFO_INTR_RUNLIST"),
    (0x002a14, "NV_PFIFO_CLEAR_FAULTED_TIMEOUT"),
    (0x009400, "NV_PTIMER_TIME_0"),
    (0x009410, "NV_PTIMER_TIME_1"),
    (0x100cc4, "NV_PFB_PRI_MMU_DEBUG_CTRL"),
    (0x100e64, "NV_PFB_PRI_MMU_INVALIDATE_PASID"),
];

/// The register's name, or its unit's with the distance from its start.
pub(crate) fn name(offset: u32) -> String {
    if let Some((_, name)) = REGISTERS.iter().find(|(at, _)| *at == offset) {
        return format!("{name} ({offset:#08x})");
    }
    let unit = UNITS.iter().rev().find(|(start, _)| *start <= offset);
    let (start, unit) = unit.copied().unwrap_or((0, "unnamed"));
    format!("{unit}+{:#x} ({offset:#08x})", offset - start)
}
