// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command line.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::Parser;
use mirage_vgpu::config::{
    Config, InterruptTrouble, LateAcks, LateWrites, PacketTrouble, MAX_FAULT_BUFFER_ENTRIES,
    MIN_FAULT_BUFFER_ENTRIES,
};

/// Serves a virtual GPU to one vfio-user client, then ends.
#[derive(Clone, Debug, Parser)]
#[command(version)]
pub(crate) struct Args {
    /// UNIX socket to listen on; must not exist
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: PathBuf,
    /// Inherited descriptor (a pipe or file) that gets the line "ready" when the socket accepts connections
    #[arg(long, value_name = "N")]
    pub(crate) ready_fd: Option<u32>,
    /// VRAM in MiB: a power of two, 64 to 16384
    #[arg(long, value_name = "MIB", default_value_t = 256, value_parser = vram)]
    pub(crate) vram: u64,
    /// Streaming multiprocessors, each on a thread of its own
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) sms: u32,
    /// Entries that each fault buffer holds by default: 2 to 65536 [default: 4096]
    #[arg(long, value_name = "N", value_parser = entries())]
    fault_buffer_entries: Option<u32>,
    /// Seed of every random choice
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
    /// Hold back stores after their translation: percentage of stores [: most per unit (64) [: longest time in microseconds (2000)]]
    #[arg(long, value_name = "PERCENT[:DEPTH[:US]]")]
    late_writes: Option<Late>,
    /// Finish acked invalidates up to this many microseconds late
    #[arg(long, value_name = "US", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    delayed_acks: Option<u64>,
    /// While requests wait for a replay, walk to their addresses again about every so many microseconds
    #[arg(long, value_name = "US", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    eager_walks: Option<u64>,
    /// Write VALID of fault packets up to this many microseconds late
    #[arg(long, value_name = "US", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    delayed_valid: Option<u64>,
    /// Write this percentage of fault packets twice
    #[arg(long, value_name = "PERCENT", value_parser = percent())]
    duplicate_faults: Option<u8>,
    /// After this percentage of fault packets, write an old one of the same channel again
    #[arg(long, value_name = "PERCENT", value_parser = percent())]
    stale_faults: Option<u8>,
    /// After this percentage of fault packets, write one with an impossible instance, address, engine or type
    #[arg(long, value_name = "PERCENT", value_parser = percent())]
    nonsense_packets: Option<u8>,
    /// At this percentage of changes of an interrupt level, send a message with nothing pending
    #[arg(long, value_name = "PERCENT", value_parser = percent())]
    spurious_interrupts: Option<u8>,
    /// Do not send this percentage of interrupt messages
    #[arg(long, value_name = "PERCENT", value_parser = percent())]
    lost_interrupts: Option<u8>,
    /// Be hard to please: a mix of all modes above; what is given besides wins
    #[arg(long)]
    hard: bool,
    /// File for the counters, as JSON: written at the end and on SIGUSR1
    #[arg(long, value_name = "FILE")]
    pub(crate) counters: Option<PathBuf>,
}

impl Args {
    pub(crate) fn vram_bytes(&self) -> u64 {
        self.vram << 20
    }

    pub(crate) fn config(&self) -> Config {
        let base = if self.hard {
            Config::hard()
        } else {
            Config::default()
        };
        let (packets, interrupts) = (base.packets, base.interrupts);
        let late_acks = self.delayed_acks.map(|most| LateAcks {
            most: Duration::from_micros(most),
        });
        let delayed_valid = self.delayed_valid.map(Duration::from_micros);
        Config {
            seed: self.seed,
            fault_buffer_entries: self
                .fault_buffer_entries
                .unwrap_or(base.fault_buffer_entries),
            sms: self.sms,
            late_writes: self.late_writes.map(|late| late.0).or(base.late_writes),
            late_acks: late_acks.or(base.late_acks),
            eager_walks: self
                .eager_walks
                .map(Duration::from_micros)
                .or(base.eager_walks),
            packets: PacketTrouble {
                delayed_valid: delayed_valid.or(packets.delayed_valid),
                duplicate_percent: self.duplicate_faults.unwrap_or(packets.duplicate_percent),
                stale_percent: self.stale_faults.unwrap_or(packets.stale_percent),
                nonsense_percent: self.nonsense_packets.unwrap_or(packets.nonsense_percent),
            },
            interrupts: InterruptTrouble {
                spurious_percent: self
                    .spurious_interrupts
                    .unwrap_or(interrupts.spurious_percent),
                lost_percent: self.lost_interrupts.unwrap_or(interrupts.lost_percent),
            },
        }
    }
}

fn vram(text: &str) -> Result<u64, String> {
    let mib: u64 = text.parse().map_err(|e| format!("{e}"))?;
    if mib.is_power_of_two() && (64..=16384).contains(&mib) {
        Ok(mib)
    } else {
        Err("not a power of two from 64 to 16384".into())
    }
}

fn percent() -> clap::builder::RangedI64ValueParser<u8> {
    clap::value_parser!(u8).range(0..=100)
}

fn entries() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32)
        .range(i64::from(MIN_FAULT_BUFFER_ENTRIES)..=i64::from(MAX_FAULT_BUFFER_ENTRIES))
}

#[derive(Clone, Copy, Debug)]
struct Late(LateWrites);

impl FromStr for Late {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut fields = text.split(':');
        let mut field = |default: u64, most: u64| match fields.next() {
            None => Ok(default),
            Some(text) => match text.parse() {
                Ok(value) if (1..=most).contains(&value) => Ok(value),
                _ => Err(format!("{text:?} is not a number from 1 to {most}")),
            },
        };
        let late = LateWrites {
            percent: field(0, 100)? as u8,
            depth: field(64, 4096)? as usize,
            window: Duration::from_micros(field(2000, 1_000_000)?),
        };
        match fields.next() {
            None => Ok(Self(late)),
            Some(rest) => Err(format!("{rest:?} is one field too many")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Args, clap::Error> {
        Args::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn defaults_are_those_of_the_contract() {
        let args = parse("mirage-vgpu --socket s").unwrap();
        let config = args.config();
        assert_eq!(args.vram_bytes(), 256 << 20);
        assert_eq!((config.sms, config.fault_buffer_entries), (8, 4096));
        assert!(config.late_writes.is_none() && config.late_acks.is_none());
        assert!(config.eager_walks.is_none());
    }

    #[test]
    fn hard_switches_every_mode_on_and_single_switches_win() {
        let hard = parse("mirage-vgpu --socket s --hard").unwrap().config();
        assert!(hard.late_writes.is_some() && hard.late_acks.is_some());
        assert!(hard.eager_walks.is_some());
        assert!(hard.packets.delayed_valid.is_some() && hard.fault_buffer_entries < 64);
        let percentages = |config: &Config| {
            let (packets, interrupts) = (config.packets, config.interrupts);
            [
                packets.duplicate_percent,
                packets.stale_percent,
                packets.nonsense_percent,
                interrupts.spurious_percent,
                interrupts.lost_percent,
            ]
        };
        assert!(percentages(&hard).iter().all(|percent| *percent > 0));
        let line = "mirage-vgpu --socket s --hard --fault-buffer-entries 2 --duplicate-faults 1 \
                    --stale-faults 2 --nonsense-packets 3 --spurious-interrupts 4 --lost-interrupts 0 \
                    --delayed-valid 7 --delayed-acks 8 --late-writes 9 --eager-walks 10";
        let chosen = parse(line).unwrap().config();
        assert_eq!(percentages(&chosen), [1, 2, 3, 4, 0]);
        assert_eq!(chosen.fault_buffer_entries, 2);
        assert_eq!(chosen.packets.delayed_valid, Some(Duration::from_micros(7)));
        assert_eq!(chosen.late_acks.unwrap().most, Duration::from_micros(8));
        assert_eq!(chosen.late_writes.unwrap().percent, 9);
        assert_eq!(chosen.eager_walks, Some(Duration::from_micros(10)));
    }

    #[test]
    fn all_modes_are_off_by_default_and_percentages_end_at_100() {
        let config = parse("mirage-vgpu --socket s").unwrap().config();
        assert_eq!(config.packets.duplicate_percent, 0);
        assert!(config.packets.delayed_valid.is_none());
        assert_eq!(config.interrupts.lost_percent, 0);
        for bad in [
            "--lost-interrupts 101",
            "--fault-buffer-entries 1",
            "--delayed-valid 0",
        ] {
            assert!(parse(&format!("mirage-vgpu --socket s {bad}")).is_err());
        }
    }

    #[test]
    fn late_writes_take_one_to_three_fields() {
        let late = parse("mirage-vgpu --socket s --late-writes 50:8")
            .unwrap()
            .config()
            .late_writes
            .unwrap();
        assert_eq!(
            (late.percent, late.depth, late.window),
            (50, 8, Duration::from_millis(2))
        );
        for bad in ["", "0", "101", "50:", "50:8:9:1", "x"] {
            assert!(
                parse(&format!("mirage-vgpu --socket s --late-writes={bad}")).is_err(),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn vram_is_a_power_of_two_from_64_to_16384() {
        for bad in ["0", "32", "100", "32768", "18446744073709551616"] {
            assert!(
                parse(&format!("mirage-vgpu --socket s --vram {bad}")).is_err(),
                "{bad}"
            );
        }
    }
}
