// SPDX-License-Identifier: MIT OR Apache-2.0
//! `mirage-vgpu`: serves one virtual GPU to one client over vfio-user, then ends.
//!
//! Exit status: 0 when the client has gone, 1 on an error, 2 on a bad command line, 128 + n on signal n.

mod args;
mod logging;

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use log::{error, info};
use mirage_vgpu::bus::{Bus, InterruptSink};
use mirage_vgpu::gpu::Gpu;
use mirage_vgpu::memory::Memory;
use mirage_vgpu::transport::{Interrupts, Parts, Server};
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;

use args::Args;
use logging::Bounded;

fn main() -> ExitCode {
    start_logging();
    let args = Args::parse();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            error!("{message}");
            ExitCode::FAILURE
        }
    }
}

/// As RUST_LOG says, to standard error.
fn start_logging() {
    let env = env_logger::Env::default().default_filter_or("info");
    let logger = env_logger::Builder::from_env(env).build();
    log::set_max_level(logger.filter());
    // There is no other logger that could be in its place.
    let _ = log::set_boxed_logger(Box::new(Bounded::new(logger)));
}

fn run(args: &Args) -> Result<(), String> {
    let memory = Memory::new(args.vram_bytes())
        .map_err(|e| format!("Cannot make {} MiB of VRAM: {e}", args.vram))?;
    let memory = Arc::new(memory);
    let interrupts = Arc::new(Interrupts::default());
    let bus: Arc<dyn Bus> = Arc::<Memory>::clone(&memory);
    let sink: Arc<dyn InterruptSink> = Arc::<Interrupts>::clone(&interrupts);
    let gpu =
        Gpu::new(bus, sink, &args.config()).map_err(|e| format!("Cannot start the device: {e}"))?;
    let gpu = Arc::new(gpu);
    let parts = Parts {
        gpu: Arc::clone(&gpu),
        memory,
        vram: args.vram_bytes(),
        interrupts,
    };
    let socket = args.socket.display();
    let mut server = Server::listen(&args.socket, parts)
        .map_err(|e| format!("Cannot listen on {socket}: {e}"))?;
    handle_signals(args.clone(), Arc::clone(&gpu))
        .map_err(|e| format!("Cannot handle signals: {e}"))?;
    if let Some(fd) = args.ready_fd {
        announce(fd).map_err(|e| format!("Cannot write to descriptor {fd}: {e}"))?;
    }
    info!(
        "Listening on {socket}: {} MiB of VRAM, {} SMs, seed {}",
        args.vram, args.sms, args.seed
    );
    let served = server.serve();
    finish(args, &gpu)?;
    served.map_err(|e| format!("Connection failed: {e}"))
}

/// Tells the one who started us that the socket accepts connections.
fn announce(fd: u32) -> io::Result<()> {
    let mut ready = OpenOptions::new()
        .write(true)
        .open(format!("/proc/self/fd/{fd}"))?;
    ready.write_all(b"ready\n")
}

/// What is wanted at the end, in order: the report for people, the counters for programs.
fn finish(args: &Args, gpu: &Gpu) -> Result<(), String> {
    for line in gpu.report() {
        eprintln!("mirage-vgpu: {line}");
    }
    match &args.counters {
        Some(path) => write_counters(path, gpu)
            .map_err(|e| format!("Cannot write counters to {}: {e}", path.display())),
        None => Ok(()),
    }
}

/// Replaces the file in one step, so that a reader never sees half of it.
fn write_counters(path: &Path, gpu: &Gpu) -> io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    fs::write(&new, serde_json::to_string_pretty(&gpu.counters())? + "\n")?;
    fs::rename(&new, path)
}

/// SIGUSR1 writes the counters; SIGINT and SIGTERM end the process in order.
fn handle_signals(args: Args, gpu: Arc<Gpu>) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGUSR1])?;
    let serve = move || {
        for signal in signals.forever() {
            if signal == SIGUSR1 {
                if let Some(Err(e)) = args
                    .counters
                    .as_deref()
                    .map(|path| write_counters(path, &gpu))
                {
                    error!("Cannot write counters: {e}");
                }
                continue;
            }
            if let Err(message) = finish(&args, &gpu) {
                error!("{message}");
            }
            // The other thread may be waiting for a client that never comes; its destructors do not run.
            let _ = fs::remove_file(&args.socket);
            std::process::exit(128 + signal);
        }
    };
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(serve)?;
    Ok(())
}
