// SPDX-License-Identifier: MIT OR Apache-2.0
//! What can be seen from outside: fdinfo, debugfs.

use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use mirage::{copy, lanes, Access, Gpu, GpuPtr, Load, Reason, Store};
use nix::sys::mman::MmapAdvise;
use nix::unistd::Pid;

use crate::fixture::{ensure_eq, ensure_report, Mirror, Spinner, LIMIT};
use crate::harness::{guest_tests, wait_until};
use crate::huge::huge_page;
use crate::region::{Region, PAGE};

guest_tests![
    fdinfo_counts_what_the_gpu_maps,
    fdinfo_counts_the_time_that_engines_work,
    fdinfo_counts_the_time_of_copies_for_copy_engines_alone,
    debugfs_shows_regions_and_leaves_of_a_mirror,
    debugfs_shows_a_huge_leaf,
    debugfs_shows_a_large_mirror_in_pieces,
    debugfs_ends_after_accesses_that_no_process_can_make,
    debugfs_keeps_the_last_stopped_channels,
    only_root_may_read_the_drivers_debugfs_files,
];

/// The value of a key in the fdinfo of a file of this process.
fn fdinfo(fd: impl AsFd, key: &str) -> Result<String> {
    let path = format!("/proc/self/fdinfo/{}", fd.as_fd().as_raw_fd());
    let text = fs::read_to_string(path)?;
    let line = |line: &str| {
        let (name, value) = line.split_once(':')?;
        (name == key).then(|| value.trim().to_owned())
    };
    text.lines()
        .find_map(line)
        .with_context(|| format!("no {key} in:\n{text}"))
}

/// The number that traces and debugfs know an open GPU by.
pub(crate) fn client(gpu: &Gpu) -> Result<u64> {
    Ok(fdinfo(gpu, "drm-client-id")?.parse()?)
}

/// `KEY: NUMBER KiB`, in bytes.
fn fdinfo_bytes(gpu: &Gpu, key: &str) -> Result<u64> {
    let text = fdinfo(gpu, key)?;
    let (number, factor) = match text.strip_suffix(" KiB") {
        Some(number) => (number, 1024),
        None => (text.as_str(), 1),
    };
    let number: u64 = number.parse().with_context(|| text.clone())?;
    Ok(number * factor)
}

fn fdinfo_counts_what_the_gpu_maps() -> Result<()> {
    let mirror = Mirror::new()?;
    ensure_eq!(fdinfo(&mirror.gpu, "drm-driver")?, "mirage");
    ensure_eq!(fdinfo(&mirror.gpu, "mirage-svm")?, "1");
    let mapped = |key| fdinfo_bytes(&mirror.gpu, key);
    let before = mapped("drm-resident-system")?;
    let mut region = Region::anonymous(100 * PAGE)?;
    region.advise(0..region.len(), MmapAdvise::MADV_NOHUGEPAGE)?;
    mirror.run(Store::new(region.lanes(0, PAGE), 1_u64), lanes(100))?;
    // What else the CPU has beside them is mapped along.
    let with = mapped("drm-resident-system")?;
    ensure!(with - before >= 100 * PAGE as u64, "{before}, then {with}");
    ensure_eq!(mapped("drm-total-system")?, with);
    ensure!(
        mapped("drm-total-vram")? >= 2 * PAGE as u64,
        "page tables take device memory"
    );
    ensure!(
        fdinfo(&mirror.gpu, "mirage-regions")?.parse::<u64>()? >= 1,
        "no region"
    );
    region.unmap(0..100 * PAGE)?;
    ensure_eq!(with - mapped("drm-resident-system")?, 100 * PAGE as u64);
    Ok(())
}

/// Nanoseconds that engines of a kind worked for an open GPU.
fn busy(gpu: &Gpu, kind: &str) -> Result<u64> {
    let text = fdinfo(gpu, &format!("drm-engine-{kind}"))?;
    let number = text.strip_suffix(" ns").context("not in nanoseconds")?;
    Ok(number.parse()?)
}

fn fdinfo_counts_the_time_that_engines_work() -> Result<()> {
    let (mirror, values) = (Mirror::new()?, Region::anonymous(4 * PAGE)?);
    let page = Region::anonymous(PAGE)?;
    let busy = |kind| busy(&mirror.gpu, kind);
    let (begin, before) = (Instant::now(), busy("compute")?);
    let (spinner, other) = (Spinner::over(&values)?, mirror.svm.channel()?);
    let job = spinner.start(&mirror.channel)?;
    spinner.wait_round(&values)?;
    std::thread::sleep(Duration::from_millis(100));
    let during = busy("compute")?;
    ensure!(during - before >= 100_000_000, "{before}, then {during}");
    // Two channels at once are not twice as busy.
    for _ in 0..10 {
        other
            .launch(Store::new(page.lanes(0, 0), 1_u64), lanes(1))?
            .wait(LIMIT)?;
    }
    spinner.finish(&job)?;
    // Fences signal before the driver has put the ring away.
    let mut after = busy("compute")?;
    wait_until(LIMIT, || {
        std::thread::sleep(Duration::from_millis(20));
        let last = busy("compute").unwrap_or_default();
        std::mem::replace(&mut after, last) == last
    })
    .context("it stays busy")?;
    let passed = begin.elapsed().as_nanos() as u64;
    ensure!(
        during < after && after - before <= passed,
        "{after} ns, in {passed}"
    );
    ensure_eq!(busy("copy")?, 0);
    ensure_eq!(fdinfo(&mirror.gpu, "drm-engine-capacity-copy")?, "2");
    Ok(())
}

fn fdinfo_counts_the_time_of_copies_for_copy_engines_alone() -> Result<()> {
    const LEN: usize = 1 << 20;
    let gpu = Gpu::open()?;
    let svm = crate::sys::mirror(&gpu)?;
    let channel = svm.copy_channel()?;
    let (from, to) = (Region::anonymous(LEN)?, Region::anonymous(LEN)?);
    from.fill(0..LEN, 3);
    ensure_eq!(busy(&gpu, "copy")?, 0);
    for round in 0..3 {
        let (begin, before) = (Instant::now(), busy(&gpu, "copy")?);
        channel
            .run(copy::Linear::new(to.at(0), from.at(0), LEN as u64))?
            .wait(LIMIT)?;
        // Fences signal before the driver has put the ring away.
        let grown = || busy(&gpu, "copy").is_ok_and(|now| now > before);
        wait_until(LIMIT, grown).with_context(|| format!("copy {round} took no time"))?;
        let now = busy(&gpu, "copy")?;
        let passed = begin.elapsed().as_nanos() as u64;
        ensure!(now - before <= passed, "{} ns, in {passed}", now - before);
    }
    ensure_eq!(to.load(LEN - PAGE), 3);
    ensure_eq!(busy(&gpu, "compute")?, 0);
    Ok(())
}

fn debugfs(gpu: &Gpu, name: &str) -> Result<PathBuf> {
    let node = gpu.path().file_name().context("no node")?.to_string_lossy();
    let minor = node.trim_start_matches("renderD").to_owned();
    Ok(Path::new("/sys/kernel/debug/dri").join(minor).join(name))
}

/// Whether the driver has an address space of that process.
pub(crate) fn is_listed(gpu: &Gpu, process: Pid) -> Result<bool> {
    let text = fs::read_to_string(debugfs(gpu, "mirage_svm")?)?;
    let pid = format!(" pid={process} ");
    let mut mirrors = text.lines().filter(|line| line.starts_with("svm "));
    Ok(mirrors.any(|line| line.contains(&pid)))
}

/// Bytes of device memory that the page tables of a mirror take.
pub(crate) fn tables(gpu: &Gpu) -> Result<u64> {
    let text = fs::read_to_string(debugfs(gpu, "mirage_svm")?)?;
    let own = format!("svm client={} ", client(gpu)?);
    let line = text.lines().find(|line| line.starts_with(&own));
    let mut words = line.context("the mirror is not listed")?.split(' ');
    let bytes = words.find_map(|word| word.strip_prefix("tables="));
    Ok(bytes.context("no tables=")?.parse()?)
}

/// The lines of `mirage_svm` that belong to a client, without the first, which is its own.
fn mirror_lines(gpu: &Gpu) -> Result<Vec<String>> {
    let text = fs::read_to_string(debugfs(gpu, "mirage_svm")?)?;
    let own = format!("svm client={} ", client(gpu)?);
    let mut lines = text.lines().skip_while(|line| !line.starts_with(&own));
    let first = lines.next().context("the mirror is not listed")?;
    let pid = format!(" pid={} ", std::process::id());
    ensure!(
        first.contains(&pid) && first.contains(" comm=") && first.contains(" unmanaged=0x"),
        "{first}"
    );
    Ok(lines
        .take_while(|line| !line.starts_with("svm "))
        .map(str::to_owned)
        .collect())
}

/// A line `region START-END` or `leaf START-END ...`, as (start, end).
fn range_of(line: &str) -> Result<(u64, u64)> {
    let range = line.split(' ').nth(1).and_then(|word| word.split_once('-'));
    let (start, end) = range.with_context(|| line.to_owned())?;
    let address = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16);
    Ok((address(start)?, address(end)?))
}

fn debugfs_shows_regions_and_leaves_of_a_mirror() -> Result<()> {
    let (mirror, region) = (Mirror::new()?, Region::anonymous(40 * PAGE)?);
    region.advise(0..region.len(), MmapAdvise::MADV_NOHUGEPAGE)?;
    mirror.run(Store::new(region.lanes(8 * PAGE, PAGE), 1_u64), lanes(3))?;
    ensure_eq!(region.load(11 * PAGE), 0);
    mirror.run(Load::<u64>::new(region.at(11 * PAGE).into()), lanes(1))?;
    let lines = mirror_lines(&mirror.gpu)?;
    let at = |page: usize| region.at(page * PAGE).addr();
    let written = format!(
        "leaf {:#x}-{:#x} order=0 write=1 atomic=1 place=system",
        at(8),
        at(11)
    );
    let read = format!(
        "leaf {:#x}-{:#x} order=0 write=0 atomic=0 place=system",
        at(11),
        at(12)
    );
    // Unless a block ends in between.
    if at(8) >> 21 == at(12) >> 21 {
        ensure!(lines.contains(&written), "no {written} in {lines:#?}");
    }
    ensure!(lines.contains(&read), "no {read} in {lines:#?}");
    let mut inside = (0, 0);
    for line in &lines {
        let (start, end) = range_of(line)?;
        if line.starts_with("region ") {
            inside = (start, end);
        } else {
            ensure!(
                inside.0 <= start && end <= inside.1,
                "{line} is outside of its region: {lines:#?}"
            );
        }
    }
    Ok(())
}

fn debugfs_shows_a_huge_leaf() -> Result<()> {
    let mirror = Mirror::new()?;
    let region = huge_page(&mirror, 1)?;
    mirror.run(Store::new(region.lanes(0, PAGE), 1_u64), lanes(512))?;
    let start = region.at(0).addr();
    let end = start + region.len() as u64;
    let leaf = format!("leaf {start:#x}-{end:#x} order=9 write=1 atomic=1 place=system");
    let lines = mirror_lines(&mirror.gpu)?;
    ensure!(lines.contains(&leaf), "no {leaf} in {lines:#?}");
    Ok(())
}

fn debugfs_shows_a_large_mirror_in_pieces() -> Result<()> {
    use std::io::Read as _;
    const PAGES: usize = 6000;
    let (mirror, region) = (Mirror::new()?, Region::anonymous(2 * PAGES * PAGE)?);
    region.advise(0..region.len(), MmapAdvise::MADV_NOHUGEPAGE)?;
    let every_other = region.lanes(0, 2 * PAGE);
    mirror.run_long(Store::new(every_other, 1_u64), lanes(PAGES as u32))?;
    let leaves = mirror_lines(&mirror.gpu)?
        .iter()
        .filter(|line| line.starts_with("leaf "))
        .filter_map(|line| range_of(line).ok())
        .filter(|(start, _)| {
            (region.at(0).addr()..region.at(0).addr() + region.len() as u64).contains(start)
        })
        .count();
    ensure_eq!(leaves, PAGES);
    // In small pieces it reads the same.
    let path = debugfs(&mirror.gpu, "mirage_svm")?;
    let whole = fs::read_to_string(&path)?;
    let (mut file, mut text, mut piece) = (fs::File::open(&path)?, Vec::new(), [0; 777]);
    loop {
        match file.read(&mut piece)? {
            0 => break,
            len => text.extend_from_slice(&piece[..len]),
        }
    }
    ensure!(text == whole.as_bytes(), "differs when read in pieces");
    Ok(())
}

/// No fault may leave a region where a process can have nothing.
fn debugfs_ends_after_accesses_that_no_process_can_make() -> Result<()> {
    use std::io::Read as _;
    /// More than all mirrors of this process take.
    const LENGTH_MAX: u64 = 16 << 20;
    /// The kernel keeps the last page of its half from processes.
    const TASK_SIZE: u64 = (1 << 47) - PAGE as u64;
    let mirror = Mirror::new()?;
    for addr in [
        TASK_SIZE,
        1 << 47,
        0x1_0000_0000_0000,
        0x1_ffff_fe00_0000,
        0x1_ffff_ffff_f000,
    ] {
        let nowhere = Load::<u64>::new(GpuPtr::new(addr).into());
        let report = mirror.refused(nowhere, lanes(1))?;
        ensure_report(&report, GpuPtr::new(addr), Access::Read, Reason::NoVma)?;
    }
    let mut text = String::new();
    fs::File::open(debugfs(&mirror.gpu, "mirage_svm")?)?
        .take(LENGTH_MAX)
        .read_to_string(&mut text)?;
    ensure!((text.len() as u64) < LENGTH_MAX, "it does not end");
    for line in mirror_lines(&mirror.gpu)? {
        ensure!(range_of(&line)?.1 <= 1 << 47, "{line}");
    }
    Ok(())
}

fn debugfs_keeps_the_last_stopped_channels() -> Result<()> {
    let mirror = Mirror::new()?;
    let nowhere = Load::<u64>::new(GpuPtr::new(0x7000).into());
    let report = mirror.refused(nowhere, lanes(1))?;
    let text = fs::read_to_string(debugfs(&mirror.gpu, "mirage_faults")?)?;
    ensure!(text.lines().count() <= 64, "more than are kept");
    let last = text.lines().last().context("nothing is kept")?;
    let words = [
        format!("time_ns={}", report.timestamp.as_nanos()),
        format!("client={}", client(&mirror.gpu)?),
        format!("pid={}", std::process::id()),
        format!("channel={}", report.channel),
        "addr=0x7000".to_owned(),
        "access=read".to_owned(),
        "reason=no_vma".to_owned(),
    ];
    for word in words {
        ensure!(
            last.split(' ').any(|other| other == word),
            "no {word}: {last}"
        );
    }
    Ok(())
}

fn only_root_may_read_the_drivers_debugfs_files() -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let gpu = Gpu::open()?;
    for name in ["mirage", "mirage_svm", "mirage_faults"] {
        let mode = fs::metadata(debugfs(&gpu, name)?)?.permissions().mode();
        ensure_eq!((name, mode & 0o777), (name, 0o400));
    }
    Ok(())
}
