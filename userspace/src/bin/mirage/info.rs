// SPDX-License-Identifier: MIT OR Apache-2.0
//! `mirage info`

use std::collections::BTreeMap;
use std::path::PathBuf;

use mirage::uapi::Param;
use mirage::{Gpu, Limits};
use serde::Serialize;

use crate::output::{self, say, size};
use crate::Outcome;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Print one line of JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Info {
    device: PathBuf,
    pci: Option<String>,
    chipset: u64,
    compute_class: u64,
    copy_class: u64,
    features: Vec<&'static str>,
    feature_bits: u64,
    limits: LimitsJson,
    /// Missing without root.
    counters: Option<BTreeMap<String, u64>>,
}

#[derive(Serialize)]
struct LimitsJson {
    vram_bytes: u64,
    channels: u64,
    channels_per_file: u64,
    copy_engines: u64,
    push_bytes: u64,
    pushes: u64,
    syncs: u64,
    query_pages: u64,
    timeout_default_ms: u128,
    timeout_max_ms: u128,
    unmanaged_min_bytes: u64,
    unmanaged_align_bytes: u64,
}

impl LimitsJson {
    fn new(gpu: &Gpu, limits: &Limits) -> mirage::Result<Self> {
        Ok(LimitsJson {
            vram_bytes: limits.vram,
            channels: limits.channels,
            channels_per_file: limits.channels_per_file,
            copy_engines: limits.copy_engines,
            push_bytes: limits.push_max,
            pushes: limits.pushes_max,
            syncs: limits.syncs_max,
            query_pages: limits.query_pages_max,
            timeout_default_ms: limits.timeout_default.as_millis(),
            timeout_max_ms: limits.timeout_max.as_millis(),
            unmanaged_min_bytes: gpu.param(Param::UnmanagedMin)?,
            unmanaged_align_bytes: gpu.param(Param::UnmanagedAlign)?,
        })
    }
}

pub(crate) fn run(gpu: &Gpu, arguments: &Arguments) -> Outcome<()> {
    let features = gpu.features()?;
    let counters = gpu.counters();
    let info = Info {
        device: gpu.path().to_owned(),
        pci: gpu.pci_address(),
        chipset: gpu.param(Param::Chipset)?,
        compute_class: gpu.param(Param::ComputeClass)?,
        copy_class: gpu.param(Param::CopyClass)?,
        features: features.names().collect(),
        feature_bits: features.bits(),
        limits: LimitsJson::new(gpu, &gpu.limits()?)?,
        counters: counters.as_ref().ok().map(|counters| {
            let counters = counters.iter();
            counters
                .map(|(name, value)| (name.to_owned(), value))
                .collect()
        }),
    };
    if arguments.json {
        return output::json(&info);
    }
    print(&info)?;
    match counters {
        Ok(counters) => {
            say!("\ncounters since the driver was bound:");
            for (name, value) in counters.iter() {
                say!("  {name:<22} {value}");
            }
        }
        Err(error) => say!("\nno counters: {error}"),
    }
    Ok(())
}

fn print(info: &Info) -> Outcome<()> {
    let limits = &info.limits;
    let features = match info.features.as_slice() {
        [] => "none".to_owned(),
        names => names.join(", "),
    };
    let rows = [
        ("render node", info.device.display().to_string()),
        (
            "PCI address",
            info.pci.clone().unwrap_or_else(|| "unknown".to_owned()),
        ),
        ("chipset (PMC_BOOT_0)", format!("{:#010x}", info.chipset)),
        ("compute class", format!("{:#x}", info.compute_class)),
        (
            "copy class",
            format!("{:#x}, {} engines", info.copy_class, limits.copy_engines),
        ),
        ("features", features),
        ("VRAM", size(limits.vram_bytes)),
        (
            "channels",
            format!(
                "{}, {} of them for a file",
                limits.channels, limits.channels_per_file
            ),
        ),
        (
            "a submission",
            format!(
                "{} push buffers of {} together, {} syncobjs each way",
                limits.pushes,
                size(limits.push_bytes),
                limits.syncs
            ),
        ),
        (
            "time-out of a channel",
            format!(
                "{} ms, at most {} ms",
                limits.timeout_default_ms, limits.timeout_max_ms
            ),
        ),
        ("a query", format!("{} pages", limits.query_pages)),
        (
            "range for the driver",
            format!(
                "at least {}, aligned to {}",
                size(limits.unmanaged_min_bytes),
                size(limits.unmanaged_align_bytes)
            ),
        ),
    ];
    for (what, value) in rows {
        say!("{what:<22} {value}");
    }
    Ok(())
}
