// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who uses the GPU: what the kernel tells in /proc/PID/fdinfo (Documentation/gpu/drm-usage-stats.rst).

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::Path;

use serde::Serialize;

/// One open file of the GPU, as a user of it. Processes that share the file are one client.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Client {
    /// The process that it was found in first.
    pub(crate) pid: u32,
    pub(crate) comm: String,
    /// `drm-client-id`
    pub(crate) client: u64,
    /// Address on the PCI bus.
    pub(crate) pci: Option<String>,
    /// Nanoseconds that each engine was busy for it.
    pub(crate) engines_ns: BTreeMap<String, u64>,
    /// Bytes: `total`, `resident`, ... of each memory region.
    pub(crate) memory_bytes: BTreeMap<String, BTreeMap<String, u64>>,
    /// What only this driver tells.
    pub(crate) driver: BTreeMap<String, String>,
}

/// Kinds of memory figures: `drm-KIND-REGION`.
const KINDS: [&str; 5] = ["total", "shared", "resident", "purgeable", "active"];

impl Client {
    /// Resident bytes of all regions.
    pub(crate) fn resident(&self) -> u64 {
        let regions = self.memory_bytes.get("resident").into_iter();
        regions.flat_map(BTreeMap::values).sum()
    }

    /// `None` if the file is not one of Mirage.
    fn parse(text: &str) -> Option<Self> {
        let pairs = || text.lines().filter_map(|line| line.split_once(':'));
        let value = |wanted| pairs().find_map(|(key, value)| (key == wanted).then(|| value.trim()));
        if value("drm-driver") != Some("mirage") {
            return None;
        }
        let mut client = Client {
            client: value("drm-client-id")?.parse().ok()?,
            pci: value("drm-pdev").map(str::to_owned),
            ..Default::default()
        };
        for (key, value) in pairs() {
            client.take(key, value.trim());
        }
        Some(client)
    }

    fn take(&mut self, key: &str, value: &str) {
        if let Some(engine) = key.strip_prefix("drm-engine-") {
            if let Some(busy) = value.strip_suffix(" ns").and_then(|busy| busy.parse().ok()) {
                self.engines_ns.insert(engine.to_owned(), busy);
            }
        } else if let Some(key) = key.strip_prefix("mirage-") {
            self.driver.insert(key.to_owned(), value.to_owned());
        } else if let Some((kind, region)) =
            key.strip_prefix("drm-").and_then(|key| key.split_once('-'))
        {
            if let Some(bytes) = bytes(value).filter(|_| KINDS.contains(&kind)) {
                let regions = self.memory_bytes.entry(kind.to_owned()).or_default();
                regions.insert(region.to_owned(), bytes);
            }
        }
    }
}

/// A size with its unit, if it has one.
fn bytes(value: &str) -> Option<u64> {
    let (number, unit) = value.split_once(' ').unwrap_or((value, ""));
    let shift = match unit {
        "" => 0,
        "KiB" => 10,
        "MiB" => 20,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// All clients of the device at `pci` that this user may see; all of Mirage if it is unknown.
pub(crate) fn clients(pci: Option<&str>) -> Vec<Client> {
    let mut clients: BTreeMap<(Option<String>, u64), Client> = BTreeMap::new();
    for process in entries(Path::new("/proc")) {
        let Some(pid) = process
            .file_name()
            .and_then(OsStr::to_str)
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        for client in clients_of(&process) {
            if pci.is_none() || client.pci.is_none() || client.pci.as_deref() == pci {
                let comm = std::fs::read_to_string(process.join("comm")).unwrap_or_default();
                let comm = comm.trim_end().to_owned();
                let key = (client.pci.clone(), client.client);
                clients.entry(key).or_insert(Client {
                    pid,
                    comm,
                    ..client
                });
            }
        }
    }
    clients.into_values().collect()
}

/// The clients that a process has files of. A process that ends meanwhile, or is someone else's, has none.
fn clients_of(process: &Path) -> Vec<Client> {
    let is_drm = |fd: &std::path::PathBuf| {
        std::fs::read_link(fd).is_ok_and(|target| target.starts_with("/dev/dri"))
    };
    let files = entries(&process.join("fd")).into_iter().filter(is_drm);
    let info = |fd: std::path::PathBuf| {
        std::fs::read_to_string(process.join("fdinfo").join(fd.file_name()?)).ok()
    };
    files
        .filter_map(info)
        .filter_map(|text| Client::parse(&text))
        .collect()
}

fn entries(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    entries
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "pos:\t0\nflags:\t0104002\ndrm-driver:\tmirage\ndrm-pdev:\t0000:01:00.0\ndrm-client-id:\t7\n\
        drm-engine-compute:\t1500 ns\ndrm-engine-copy:\t0 ns\ndrm-engine-capacity-copy:\t2\n\
        drm-resident-memory:\t12 KiB\ndrm-resident-vram:\t1 MiB\ndrm-shared-memory:\t0\nmirage-svm:\t1\n";

    #[test]
    fn engines_memory_and_own_keys_are_taken_apart() {
        let client = Client::parse(TEXT).expect("it is one of ours");
        assert_eq!(
            (client.client, client.pci.as_deref()),
            (7, Some("0000:01:00.0"))
        );
        assert_eq!(
            client.engines_ns,
            [("compute".to_owned(), 1500), ("copy".to_owned(), 0)].into()
        );
        assert_eq!(client.resident(), (12 << 10) + (1 << 20));
        assert_eq!(client.memory_bytes["shared"]["memory"], 0);
        assert_eq!(client.driver["svm"], "1");
    }

    #[test]
    fn files_of_other_drivers_are_no_clients() {
        assert_eq!(Client::parse(&TEXT.replace("mirage\n", "i915\n")), None);
        assert_eq!(Client::parse("pos:\t0\n"), None);
    }

    #[test]
    fn sizes_of_unknown_units_are_left_out() {
        assert_eq!(
            [bytes("3 KiB"), bytes("3"), bytes("3 pages"), bytes("x")],
            [Some(3072), Some(3), None, None]
        );
    }
}
