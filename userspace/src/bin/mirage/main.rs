// SPDX-License-Identifier: MIT OR Apache-2.0
//! The `mirage` command.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod demo;
mod info;

/// Look at a Mirage GPU and see it work.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show the device, its parameters and what its driver has counted.
    Info,
    /// Have the GPU walk a linked structure on the heap while the CPU rearranges the memory below it.
    Demo(demo::Arguments),
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Info => match info::run() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("mirage: {error}");
                ExitCode::FAILURE
            }
        },
        Command::Demo(arguments) => match demo::run(&arguments) {
            Ok(()) => {
                println!("demo: PASS");
                ExitCode::SUCCESS
            }
            Err(error) => {
                println!("demo: FAIL: {error}");
                ExitCode::FAILURE
            }
        },
    }
}
