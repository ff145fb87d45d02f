// SPDX-License-Identifier: MIT OR Apache-2.0
//! `mirage stat`

use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::{Duration, Instant};

use mirage::{Counters, Gpu};
use serde::Serialize;

use crate::fdinfo::{self, Client};
use crate::output::{self, grouped, say, size, table};
use crate::Outcome;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Seconds between two looks; without this and --count there is one look.
    #[arg(long, value_name = "SECONDS", value_parser = interval)]
    interval: Option<Duration>,
    /// How many looks; without it, --interval goes on until it is interrupted.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Print one line of JSON for each look.
    #[arg(long)]
    json: bool,
}

fn interval(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds")?;
    match Duration::try_from_secs_f64(seconds) {
        Ok(interval) if interval >= Duration::from_millis(10) => Ok(interval),
        _ => Err("an interval is at least 0.01 seconds".to_owned()),
    }
}

/// What one look finds.
struct Look {
    at: Instant,
    counters: mirage::Result<Counters>,
    clients: Vec<Client>,
}

/// What a look finds in comparison with the one before.
#[derive(Serialize)]
struct Report {
    device: String,
    pci: Option<String>,
    /// Since the look before; missing in the first one.
    seconds: Option<f64>,
    /// Since the driver was bound; missing without root.
    counters: Option<BTreeMap<String, u64>>,
    /// Since the look before.
    delta: Option<BTreeMap<String, u64>>,
    clients: Vec<Usage>,
}

#[derive(Serialize)]
struct Usage {
    #[serde(flatten)]
    client: Client,
    /// Part of the time since the look before that each engine was busy for it.
    busy: Option<BTreeMap<String, f64>>,
}

impl Look {
    fn take(gpu: &Gpu) -> Self {
        Look {
            at: Instant::now(),
            counters: gpu.counters(),
            clients: fdinfo::clients(gpu.pci_address().as_deref()),
        }
    }

    fn report(&self, gpu: &Gpu, before: Option<&Look>) -> Report {
        let map = |counters: &Counters| -> BTreeMap<String, u64> {
            let counters = counters.iter();
            counters
                .map(|(name, value)| (name.to_owned(), value))
                .collect()
        };
        let seconds = before.map(|before| (self.at - before.at).as_secs_f64());
        let delta = match (&self.counters, before.map(|before| &before.counters)) {
            (Ok(now), Some(Ok(before))) => Some(map(&now.since(before))),
            _ => None,
        };
        let usage = |client: &Client| Usage {
            client: client.clone(),
            busy: before.zip(seconds).map(|(before, seconds)| {
                let known = before
                    .clients
                    .iter()
                    .find(|known| known.client == client.client && known.pci == client.pci);
                busy(client, known, seconds)
            }),
        };
        Report {
            device: gpu.path().display().to_string(),
            pci: gpu.pci_address(),
            seconds,
            counters: self.counters.as_ref().ok().map(map),
            delta,
            clients: self.clients.iter().map(usage).collect(),
        }
    }
}

fn busy(now: &Client, before: Option<&Client>, seconds: f64) -> BTreeMap<String, f64> {
    let earlier = |engine: &str| {
        before
            .and_then(|before| before.engines_ns.get(engine).copied())
            .unwrap_or(0)
    };
    let part = |(engine, &ns): (&String, &u64)| {
        let busy = Duration::from_nanos(ns.saturating_sub(earlier(engine)));
        (engine.clone(), busy.as_secs_f64() / seconds)
    };
    now.engines_ns.iter().map(part).collect()
}

pub(crate) fn run(gpu: &Gpu, arguments: &Arguments) -> Outcome<()> {
    let looks = match (arguments.count, arguments.interval) {
        (Some(count), _) => count,
        (None, Some(_)) => u64::MAX,
        (None, None) => 1,
    };
    let mut before: Option<Look> = None;
    for number in 0..looks {
        if number > 0 {
            sleep(arguments.interval.unwrap_or(Duration::from_secs(1)));
        }
        let look = Look::take(gpu);
        let report = look.report(gpu, before.as_ref());
        if arguments.json {
            output::json(&report)?;
        } else {
            if number > 0 {
                say!("");
            }
            print(&report, look.counters.as_ref().err())?;
        }
        before = Some(look);
    }
    Ok(())
}

fn print(report: &Report, no_counters: Option<&mirage::Error>) -> Outcome<()> {
    let Report { device, pci, .. } = report;
    say!("{device} ({})", pci.as_deref().unwrap_or("no PCI address"));
    if let Some(error) = no_counters {
        say!("no counters: {error}");
    }
    let counters = report.counters.iter().flatten();
    match (&report.delta, report.seconds) {
        (Some(delta), Some(seconds)) => {
            // What does not move is not worth a line.
            let moved = counters.filter_map(|(name, &total)| {
                let more = *delta.get(name).filter(|more| **more > 0)?;
                let rate = format!("{:.1}", more as f64 / seconds);
                Some(vec![name.clone(), grouped(total), grouped(more), rate])
            });
            let rows: Vec<_> = moved.collect();
            if rows.is_empty() && no_counters.is_none() {
                say!("no counter moved in {seconds:.1} s");
            } else {
                table(&["counter", "total", "more", "per second"], &rows, 1)?;
            }
        }
        _ => {
            let rows: Vec<_> = counters
                .map(|(name, &total)| vec![name.clone(), grouped(total)])
                .collect();
            for row in &rows {
                say!("  {:<24}{:>16}", row[0], row[1]);
            }
        }
    }
    print_clients(&report.clients)
}

fn print_clients(clients: &[Usage]) -> Outcome<()> {
    if clients.is_empty() {
        say!("no process that this user may look into uses the GPU");
        return Ok(());
    }
    let engines = |usage: &Usage| {
        let text = usage
            .client
            .engines_ns
            .iter()
            .map(|(engine, &ns)| match &usage.busy {
                Some(busy) => format!("{engine} {:.0}%", 100.0 * busy.get(engine).unwrap_or(&0.0)),
                None => format!("{engine} {:.3} s", Duration::from_nanos(ns).as_secs_f64()),
            });
        text.collect::<Vec<_>>().join(", ")
    };
    let row = |usage: &Usage| {
        let Client {
            pid, comm, client, ..
        } = &usage.client;
        vec![
            comm.clone(),
            pid.to_string(),
            client.to_string(),
            size(usage.client.resident()),
            engines(usage),
        ]
    };
    let rows: Vec<_> = clients.iter().map(row).collect();
    table(&["process", "pid", "client", "mapped", "engines"], &rows, 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_that_worked_half_of_the_time_is_half_busy() {
        let client = |ns| Client {
            engines_ns: [("copy".to_owned(), ns)].into(),
            ..Default::default()
        };
        let part = busy(&client(1_500_000_000), Some(&client(500_000_000)), 2.0);
        assert_eq!(part, [("copy".to_owned(), 0.5)].into());
    }

    #[test]
    fn intervals_are_seconds_with_fractions() {
        assert_eq!(interval("0.5"), Ok(Duration::from_millis(500)));
        assert!(["0", "-1", "1e99", "NaN", "fast"]
            .into_iter()
            .all(|text| interval(text).is_err()));
    }

    #[test]
    fn json_of_a_report_has_totals_differences_and_clients() {
        let report = Report {
            device: "/dev/dri/renderD128".to_owned(),
            pci: None,
            seconds: Some(1.0),
            counters: Some([("faults".to_owned(), 12)].into()),
            delta: Some([("faults".to_owned(), 5)].into()),
            clients: vec![Usage {
                client: Client {
                    pid: 7,
                    ..Default::default()
                },
                busy: None,
            }],
        };
        let json: serde_json::Value = serde_json::to_value(&report).expect("plain data");
        assert_eq!(
            (&json["counters"]["faults"], &json["delta"]["faults"]),
            (&12.into(), &5.into())
        );
        assert_eq!(
            (&json["clients"][0]["pid"], &json["clients"][0]["busy"]),
            (&7.into(), &serde_json::Value::Null)
        );
    }
}
