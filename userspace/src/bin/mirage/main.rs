// SPDX-License-Identifier: MIT OR Apache-2.0
//! The `mirage` command.

use std::error::Error;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use mirage::Gpu;

mod demo;
mod faults;
mod fdinfo;
mod info;
mod map;
mod output;
mod records;
mod stat;
mod trace;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Look at a Mirage GPU and see it work.
#[derive(Parser)]
#[command(
    version,
    after_help = "Exit status: 0 success, 1 failure, 2 wrong usage, 3 no Mirage GPU.\n\
    Counters, faults and maps come from debugfs and tracefs, which need root."
)]
struct Arguments {
    /// Render node to use instead of the first one that belongs to Mirage.
    #[arg(long, global = true, value_name = "PATH")]
    device: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show the device, its limits and what its driver has counted.
    Info(info::Arguments),
    /// Show the driver's counters and the processes that use the GPU, once or again and again.
    Stat(stat::Arguments),
    /// Show why channels were stopped, the last ones or as it happens.
    Faults(faults::Arguments),
    /// Show what the GPU maps of a process.
    Map(map::Arguments),
    /// Have the GPU walk a linked structure on the heap while the CPU rearranges the memory below it.
    Demo(demo::Arguments),
}

/// Nothing here is a Mirage GPU: scripts may want to skip then.
const NO_DEVICE: u8 = 3;

fn open(device: Option<&Path>) -> mirage::Result<Gpu> {
    device.map_or_else(Gpu::open, Gpu::open_path)
}

fn run(arguments: &Arguments) -> Outcome<()> {
    // Wrong usage is found before anything is opened.
    let gpu = || open(arguments.device.as_deref());
    match &arguments.command {
        Command::Info(options) => info::run(&gpu()?, options),
        Command::Stat(options) => stat::run(&gpu()?, options),
        Command::Faults(options) => faults::run(&gpu()?, options),
        Command::Map(options) => map::run(&gpu()?, options),
        Command::Demo(options) => demo::run(gpu, options),
    }
}

fn main() -> ExitCode {
    let Err(error) = run(&Arguments::parse()) else {
        return ExitCode::SUCCESS;
    };
    if is_closed_pipe(error.as_ref()) {
        // Whoever reads, as `head` does, has enough.
        return ExitCode::SUCCESS;
    }
    eprintln!("mirage: {error}");
    match error.downcast_ref() {
        Some(mirage::Error::NoDevice) => ExitCode::from(NO_DEVICE),
        _ => ExitCode::FAILURE,
    }
}

fn is_closed_pipe(error: &(dyn Error + 'static)) -> bool {
    let io = error.downcast_ref::<io::Error>();
    io.is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_options_make_sense_to_clap() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_closed_pipe_is_told_from_other_errors() {
        assert!(is_closed_pipe(&io::Error::from(ErrorKind::BrokenPipe)));
        assert!(!is_closed_pipe(&io::Error::from(ErrorKind::NotFound)));
    }
}
