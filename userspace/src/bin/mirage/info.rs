// SPDX-License-Identifier: MIT OR Apache-2.0
//! `mirage info`

use mirage::uapi::Param;
use mirage::{Gpu, Result};

pub(crate) fn run() -> Result<()> {
    let gpu = Gpu::open()?;
    let vram = gpu.param(Param::VramSize)?;
    println!("{:<22} {}", "render node", gpu.path().display());
    println!(
        "{:<22} {:#010x}",
        "chipset (PMC_BOOT_0)",
        gpu.param(Param::Chipset)?
    );
    println!(
        "{:<22} {:#x}",
        "compute class",
        gpu.param(Param::ComputeClass)?
    );
    println!("{:<22} {} MiB", "VRAM", vram >> 20);
    println!("{:<22} {}", "channels", gpu.param(Param::ChannelsMax)?);
    println!(
        "{:<22} {} bytes",
        "largest push buffer",
        gpu.param(Param::PushMax)?
    );
    println!(
        "{:<22} at least {} KiB, aligned to {} KiB",
        "range for the driver",
        gpu.param(Param::UnmanagedMin)? >> 10,
        gpu.param(Param::UnmanagedAlign)? >> 10
    );
    match gpu.counters() {
        Ok(counters) => {
            println!("\ncounters since the driver was bound:");
            counters
                .iter()
                .for_each(|(name, value)| println!("  {name:<22} {value}"));
        }
        Err(error) => println!("\nno counters: {error}"),
    }
    Ok(())
}
