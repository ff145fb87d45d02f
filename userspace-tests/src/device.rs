// SPDX-License-Identifier: MIT OR Apache-2.0
//! The device goes away and comes back, the module too; and resets of it.

mod reset;

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use mirage::uapi::Param;
use mirage::{lanes, Error, Gpu, Store};
use nix::errno::Errno;
use nix::kmod::{delete_module, finit_module, DeleteModuleFlags, ModuleInitFlags};
use nix::sys::mman::MmapAdvise;

use crate::channels::still_works;
use crate::fixture::{ensure_eq, Mirror, Spinner, LIMIT};
use crate::harness::{guest_tests, skip, wait_until};
use crate::region::{Region, PAGE};
use crate::submit::{marker, Syncobj};
use crate::sw_sync::Timeline;
use crate::sys::{fork, Child};
use reset::a_reset_under_live_mirrors_loses_no_memory;

guest_tests![
    unbinding_ends_work_in_flight_and_rebinding_brings_the_gpu_back,
    unbinding_ends_work_that_waits_for_a_fence,
    unbinding_in_a_storm_of_faults_leaves_memory_usable,
    unbinding_while_programs_close_their_files_leaves_nothing_mapped,
    a_device_that_was_unbound_while_idle_comes_back,
    the_module_stays_while_a_file_is_open_and_goes_after,
    a_reset_under_live_mirrors_loses_no_memory,
    a_gpu_that_falls_off_the_bus_holds_up_nobody_and_another_one_works,
];

const DRIVER: &str = "/sys/bus/pci/drivers/mirage";
const ROUNDS: usize = 5;

/// PCI address of the GPU, as its driver's directory names it.
fn pci_address() -> Result<String> {
    let entries = std::fs::read_dir(DRIVER).context("the driver is not registered")?;
    let names = entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned());
    names
        .filter(|name| name.contains(':'))
        .min()
        .context("no device is bound to the driver")
}

fn unbind(address: &str) -> Result<()> {
    std::fs::write(Path::new(DRIVER).join("unbind"), address).context("unbind")
}

/// Binds the device again and waits for its render node.
fn bind(address: &str) -> Result<()> {
    std::fs::write(Path::new(DRIVER).join("bind"), address).context("bind")?;
    wait_until(LIMIT, || Gpu::open().is_ok()).context("no render node appears")
}

fn ensure_gone(mirror: &Mirror) -> Result<()> {
    ensure_eq!(
        mirror
            .gpu
            .param(Param::Chipset)
            .err()
            .and_then(|error| error.errno()),
        Some(Errno::ENODEV)
    );
    ensure_eq!(
        mirror.svm.channel().err().and_then(|error| error.errno()),
        Some(Errno::ENODEV)
    );
    Ok(())
}

fn unbinding_ends_work_in_flight_and_rebinding_brings_the_gpu_back() -> Result<()> {
    let address = pci_address()?;
    for _ in 0..ROUNDS {
        let (mirror, values) = (Mirror::new()?, Region::anonymous(32 * PAGE)?);
        let spinner = Spinner::over(&values)?;
        let job = spinner.start(&mirror.channel)?;
        spinner.wait_round(&values)?;
        // Another process sleeps in a wait at that moment.
        let waiter = fork(|| match job.wait(LIMIT) {
            Err(Error::Timeout(limit)) => {
                anyhow::bail!("the fence did not signal within {limit:?}")
            }
            _ => Ok(()),
        })?;
        std::thread::sleep(Duration::from_millis(20));
        unbind(&address)?;
        let then = values.page_words();
        waiter.join()?;
        ensure_gone(&mirror)?;
        std::thread::sleep(Duration::from_millis(20));
        ensure!(
            values.page_words() == then,
            "the GPU writes memory after it was unbound"
        );
        bind(&address)?;
        // The old file stays dead, beside the new ones.
        ensure_gone(&mirror)?;
        still_works(&Mirror::new()?)?;
    }
    Ok(())
}

/// The fence that it waits for signals while the device goes, or when it is gone.
fn unbinding_ends_work_that_waits_for_a_fence() -> Result<()> {
    let (address, timeline) = (pci_address()?, Timeline::new()?);
    for round in 0..2 * ROUNDS as u32 {
        let (mirror, page) = (Mirror::new()?, Region::anonymous(PAGE)?);
        let fence = Syncobj::import(&mirror.gpu, timeline.fence(round + 1)?.as_fd())?;
        let queue = |_| {
            let end = Syncobj::new(&mirror.gpu)?;
            marker(&mirror.channel, &page, 1)?
                .after(fence.binary())
                .signals(end.binary())
                .exec(&mirror.gpu, &mirror.channel)?;
            end.sync_file()
        };
        let ends = (0..20).map(queue).collect::<Result<Vec<_>>>()?;
        std::thread::scope(|scope| {
            let signal = scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(u64::from(round) * 3));
                timeline.advance()
            });
            unbind(&address)?;
            signal.join().ok().context("the thread panicked")?
        })?;
        for end in &ends {
            ensure!(
                crate::sys::sync_file_status(end.as_fd())? != 0,
                "work is left over from a device that is gone"
            );
        }
        bind(&address)?;
        still_works(&Mirror::new()?)?;
    }
    Ok(())
}

fn unbinding_in_a_storm_of_faults_leaves_memory_usable() -> Result<()> {
    let address = pci_address()?;
    for round in 0..ROUNDS {
        let started = Region::shared(PAGE)?;
        let child = fork(|| {
            let (mirror, region) = (Mirror::new()?, Region::anonymous(4096 * PAGE)?);
            let storm = || -> mirage::Result<()> {
                let job = mirror
                    .channel
                    .launch(Store::new(region.lanes(0, PAGE), 1_u64), lanes(4096))?;
                started.store(0, 1);
                job.wait(LIMIT)
            };
            while storm().is_ok() {
                region.advise(0..region.len(), MmapAdvise::MADV_DONTNEED)?;
            }
            ensure_gone(&mirror)?;
            // Everything that the notifiers are called for still works.
            region.fill(0..region.len(), 5);
            fork(|| Ok(()))?.join()?;
            region.protect(0..region.len(), crate::region::RW)
        })?;
        wait_until(LIMIT, || started.load(0) == 1).context("the child does not begin")?;
        std::thread::sleep(Duration::from_millis(10 * round as u64));
        unbind(&address)?;
        bind(&address)?;
        child.join()?;
        still_works(&Mirror::new()?)?;
    }
    Ok(())
}

/// What a program does that ends its mirror when it is told to; says when it is ready and how long the end took.
fn close_when_told(words: &Region, index: usize) -> Result<()> {
    let (mirror, region) = (Mirror::new()?, Region::anonymous(512 * PAGE)?);
    mirror.run(Store::new(region.lanes(0, PAGE), 1_u64), lanes(512))?;
    words.store(index * PAGE, 1);
    wait_until(LIMIT, || words.load(0) == 1)?;
    let start = Instant::now();
    drop(mirror);
    words.store(index * PAGE, start.elapsed().as_micros() as u64);
    region.fill(0..region.len(), 5);
    Ok(())
}

/// How often drivers have used the DMA interface wrongly, mappings left over included. Debug kernels know.
fn dma_errors() -> Option<String> {
    std::fs::read_to_string("/sys/kernel/debug/dma-api/error_count").ok()
}

fn unbinding_while_programs_close_their_files_leaves_nothing_mapped() -> Result<()> {
    const PROGRAMS: usize = 4;
    let (address, errors) = (pci_address()?, dma_errors());
    let mut end_takes = Duration::ZERO;
    for round in 0..ROUNDS as u32 {
        let words = Region::shared((PROGRAMS + 1) * PAGE)?;
        let children = (1..=PROGRAMS)
            .map(|index| fork(|| close_when_told(&words, index)))
            .collect::<Result<Vec<_>>>()?;
        let ready = || (1..=PROGRAMS).all(|index| words.load(index * PAGE) == 1);
        wait_until(LIMIT, ready).context("the programs do not begin")?;
        words.store(0, 1);
        // Each round a little later while they end; the first says how long that takes.
        std::thread::sleep(end_takes * round / ROUNDS as u32);
        unbind(&address)?;
        children.into_iter().try_for_each(Child::join)?;
        if round == 0 {
            end_takes = Duration::from_micros(words.load(PAGE));
        }
        ensure_eq!(dma_errors(), errors);
        bind(&address)?;
        still_works(&Mirror::new()?)?;
    }
    Ok(())
}

fn a_device_that_was_unbound_while_idle_comes_back() -> Result<()> {
    let address = pci_address()?;
    for _ in 0..ROUNDS {
        unbind(&address)?;
        ensure!(
            matches!(Gpu::open(), Err(Error::NoDevice)),
            "the render node outlives the device"
        );
        bind(&address)?;
    }
    still_works(&Mirror::new()?)
}

/// The module's file, where the guest keeps it.
fn module_file() -> Option<PathBuf> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").ok()?;
    let installed = format!("/lib/modules/{}/updates/mirage.ko", release.trim());
    let extra = format!("/lib/modules/{}/extra/mirage.ko", release.trim());
    let candidates = [
        installed,
        extra,
        String::from("/mirage.ko"),
        String::from("/lib/modules/mirage.ko"),
    ];
    candidates
        .into_iter()
        .map(PathBuf::from)
        .find(|path| path.exists())
}

fn the_module_stays_while_a_file_is_open_and_goes_after() -> Result<()> {
    let Some(path) = module_file() else {
        return skip("the module's file is not in this guest");
    };
    let unload = || delete_module(c"mirage", DeleteModuleFlags::O_NONBLOCK);
    let file = File::open(path)?;
    for _ in 0..ROUNDS {
        let mirror = Mirror::new()?;
        still_works(&mirror)?;
        ensure!(
            matches!(unload(), Err(Errno::EAGAIN | Errno::EBUSY)),
            "the module went from under an open file"
        );
        still_works(&mirror)?;
        drop(mirror);
        wait_until(LIMIT, || unload().is_ok()).context("the module cannot be unloaded")?;
        ensure!(
            !Path::new(DRIVER).exists(),
            "the driver outlives its module"
        );
        finit_module(file.as_fd(), c"", ModuleInitFlags::empty()).context("finit_module")?;
        wait_until(LIMIT, || Gpu::open().is_ok()).context("no render node appears")?;
    }
    still_works(&Mirror::new()?)
}

/// Where the one who started this guest takes wishes.
const CONTROL: &str = "/dev/mirage-control";

/// Asks for something to happen to the machine.
fn ask(request: &str) -> Result<()> {
    let mut control = File::options().read(true).write(true).open(CONTROL)?;
    control.write_all(format!("{request}\n").as_bytes())?;
    let mut answer = String::new();
    BufReader::new(control).read_line(&mut answer)?;
    ensure!(answer == "ok\n", "{request}: {answer}");
    Ok(())
}

/// What a program with work on the GPU sees when the GPU is gone, from one moment to the next, and then its device too.
fn lose_the_gpu(running: &Region) -> Result<()> {
    let (mirror, mut values) = (Mirror::new()?, Region::anonymous(32 * PAGE)?);
    let spinner = Spinner::over(&values)?;
    let job = spinner.start(&mirror.channel)?;
    spinner.wait_round(&values)?;
    running.store(0, 1);
    wait_until(LIMIT, || running.load(0) == 2)?;
    // The GPU does not acknowledge any more; the memory is the program's all the same.
    values.advise(0..16 * PAGE, MmapAdvise::MADV_DONTNEED)?;
    values.unmap(16 * PAGE..32 * PAGE)?;
    fork(|| Ok(()))?.join()?;
    running.store(0, 3);
    match job.wait(LIMIT) {
        Ok(()) => anyhow::bail!("work without an end has ended"),
        Err(Error::Timeout(limit)) => anyhow::bail!("no error within {limit:?}"),
        Err(_) => ensure_gone(&mirror),
    }
}

fn a_gpu_that_falls_off_the_bus_holds_up_nobody_and_another_one_works() -> Result<()> {
    if !Path::new(CONTROL).exists() {
        return skip("nobody takes the GPU away here");
    }
    let (address, step) = (pci_address()?, Region::shared(PAGE)?);
    let child = fork(|| lose_the_gpu(&step))?;
    wait_until(LIMIT, || step.load(0) == 1).context("the child does not begin")?;
    ask("kill 0")?;
    step.store(0, 2);
    wait_until(LIMIT, || step.load(0) == 3).context("the child hangs on its memory")?;
    let remove = format!("/sys/bus/pci/devices/{address}/remove");
    std::fs::write(remove, "1").context("remove")?;
    child.join()?;
    ask("plug")?;
    // A kernel without the hotplug of the machine's firmware does not look by itself.
    std::fs::write("/sys/bus/pci/rescan", "1").context("rescan")?;
    wait_until(LIMIT, || Gpu::open().is_ok()).context("no render node appears")?;
    still_works(&Mirror::new()?)
}
