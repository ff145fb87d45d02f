// SPDX-License-Identifier: MIT OR Apache-2.0
//! The programs that come with the library: the `mirage` command and the example in C.

use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use anyhow::{ensure, Context, Result};
use mirage::{lanes, GpuPtr, Load, Store};
use nix::sys::mman::{MmapAdvise, ProtFlags};
use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;
use serde_json::Value;

use crate::fixture::{ensure_eq, Mirror, LIMIT};
use crate::harness::{guest_tests, wait_until};
use crate::region::{Region, PAGE};

guest_tests![
    the_example_in_c_passes,
    information_names_device_and_limits,
    statistics_count_what_happens_between_two_looks,
    statistics_as_text_name_the_counters_and_the_processes,
    a_stopped_channel_is_listed_with_its_process,
    following_a_page_shows_its_life_until_interrupted,
    a_map_has_what_the_gpu_touched,
    a_map_in_json_has_the_leaves_of_what_the_gpu_touched,
    both_views_of_an_own_buffer_are_shown,
    without_root_the_commands_say_what_they_need,
    a_closed_pipe_is_no_error,
    wrong_usage_and_a_missing_device_have_statuses_of_their_own,
];

/// Nobody's user and group.
const NOBODY: u32 = 65534;

fn mirage(arguments: &[&str]) -> Result<Output> {
    let command = Command::new("mirage").args(arguments).output();
    command.context("cannot run mirage")
}

/// Runs the command, which must succeed, and returns what it printed.
fn printed(arguments: &[&str]) -> Result<String> {
    let output = mirage(arguments)?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "mirage {arguments:?}: {errors}");
    Ok(String::from_utf8(output.stdout)?)
}

fn the_example_in_c_passes() -> Result<()> {
    let output = Command::new("mirage-example-add")
        .output()
        .context("cannot run the example")?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success() && text.ends_with("add: PASS\n"),
        "{text}"
    );
    Ok(())
}

fn information_names_device_and_limits() -> Result<()> {
    let json = printed(&["info", "--json"])?;
    for part in [
        r#""device":"/dev/dri/renderD"#,
        r#""compute_class":65216"#,
        r#""push_bytes":"#,
        r#""counters":{"#,
    ] {
        ensure!(json.contains(part), "{part} is not in {json}");
    }
    ensure!(printed(&["info"])?.contains("compute class"), "no text");
    Ok(())
}

/// The number behind a path of names in an object of JSON.
fn number(json: &Value, path: &str) -> Result<u64> {
    let found = json.pointer(path).and_then(Value::as_u64);
    found.with_context(|| format!("no number at {path} of {json}"))
}

fn statistics_count_what_happens_between_two_looks() -> Result<()> {
    const LAUNCHES: u64 = 5;
    // Too few for a leaf of 64 KiB.
    const PAGES: u64 = 15;
    let region = Region::anonymous(PAGES as usize * PAGE)?;
    let (mirror, all) = (Mirror::new()?, lanes(PAGES as u32));
    region.no_huge_pages();
    mirror.run(Load::<u64>::new(region.lanes(0, PAGE)), all)?;
    let mut command = Command::new("mirage")
        .args(["stat", "--interval", "0.05", "--json"])
        .stdout(Stdio::piped())
        .spawn()?;
    let out = BufReader::new(command.stdout.take().context("it was asked for")?);
    let mut looks = out
        .lines()
        .map(|line| -> Result<Value> { Ok(serde_json::from_str(&line.context("a look")?)?) });
    let mut next = || looks.next().context("it has ended")?;
    let first = next()?;
    ensure!(first["delta"].is_null(), "{first}");
    // It looks again while this works, and when it has.
    for round in 0..LAUNCHES {
        region.advise(0..region.len(), MmapAdvise::MADV_DONTNEED)?;
        mirror.run(Store::new(region.lanes(0, PAGE), round), all)?;
    }
    let names = ["execs", "faults", "leaves_4k", "invalidated_pages"];
    let due = [LAUNCHES, LAUNCHES, PAGES * LAUNCHES, PAGES * (LAUNCHES - 1)];
    let (mut before, mut sum) = (first.clone(), [0; 4]);
    let begin = Instant::now();
    while sum.iter().zip(due).any(|(&sum, due)| sum < due) {
        ensure!(begin.elapsed() < LIMIT, "{names:?}: {sum:?}, due {due:?}");
        let look = next()?;
        for (name, sum) in names.iter().zip(&mut sum) {
            let (total, path) = (format!("/counters/{name}"), format!("/delta/{name}"));
            let more = number(&look, &path)?;
            ensure_eq!(number(&look, &total)? - number(&before, &total)?, more);
            *sum += more;
        }
        before = look;
    }
    // Nobody else uses the GPU.
    ensure_eq!(sum[0], LAUNCHES);
    let own = |client: &Value| client["pid"] == std::process::id();
    for look in [&first, &before] {
        let clients = look["clients"].as_array().context("no clients")?;
        ensure!(clients.iter().any(own), "this process is not in {look}");
    }
    kill(Pid::from_raw(command.id().try_into()?), Signal::SIGINT)?;
    command.wait()?;
    Ok(())
}

fn statistics_as_text_name_the_counters_and_the_processes() -> Result<()> {
    let (mirror, region) = (Mirror::new()?, Region::anonymous(16 * PAGE)?);
    mirror.run(Store::new(region.lanes(0, PAGE), 1_u64), lanes(16))?;
    let (execs, text) = (mirror.counters()?.get("execs"), printed(&["stat"])?);
    // Digits come in groups.
    let digits = |line: &str| {
        line.chars()
            .filter(char::is_ascii_digit)
            .collect::<String>()
    };
    let mut lines = text.lines().map(str::trim);
    let line = lines.find(|line| line.starts_with("execs "));
    let told = digits(line.with_context(|| format!("no execs in {text}"))?);
    ensure_eq!(told, execs.to_string());
    let comm = std::fs::read_to_string("/proc/self/comm")?;
    let pid = std::process::id().to_string();
    let own = |line: &str| {
        let mut words = line.split_whitespace();
        words.next() == Some(comm.trim()) && words.next() == Some(&pid)
    };
    ensure!(text.lines().any(own), "this process is not in {text}");
    ensure!(text.starts_with("/dev/dri/renderD"), "{text}");
    // A late packet of a fault may move a counter in between.
    let text = printed(&["stat", "--interval", "0.01", "--count", "2"])?;
    let quiet = text.contains("no counter moved in ");
    ensure!(quiet || text.contains("per second"), "{text}");
    Ok(())
}

fn a_stopped_channel_is_listed_with_its_process() -> Result<()> {
    let bad = GpuPtr::new(0x0bad_0bad_0000);
    Mirror::new()?.refused(Load::<u64>::new(bad.into()), lanes(1))?;
    let json = printed(&["faults", "--count", "1", "--json"])?;
    let due = format!(r#""pid":{}"#, std::process::id());
    for part in [
        due.as_str(),
        r#""addr":12837853134848"#,
        r#""reason":"no_vma""#,
    ] {
        ensure!(json.contains(part), "{part} is not in {json}");
    }
    let text = printed(&["faults"])?;
    ensure!(
        text.contains("read of 0xbad0bad0000: nothing is mapped there"),
        "{text}"
    );
    Ok(())
}

fn following_a_page_shows_its_life_until_interrupted() -> Result<()> {
    let (mirror, region) = (Mirror::new()?, Region::anonymous(PAGE)?);
    let page = format!("{:#x}", region.at(0).addr());
    let mut command = Command::new("mirage")
        .args(["faults", "--follow", "--json", "--page", &page])
        .stdout(Stdio::piped())
        .spawn()?;
    let instance = format!("/sys/kernel/tracing/instances/mirage-{}", command.id());
    let enable = format!("{instance}/events/mirage/enable");
    let follows = || std::fs::read_to_string(&enable).is_ok_and(|on| on.trim() == "1");
    wait_until(LIMIT, follows).context("it does not follow")?;

    mirror.run(Store::new(region.lanes(0, 0), 5_u64), lanes(1))?;
    region.advise(0..PAGE, MmapAdvise::MADV_DONTNEED)?;

    let out = BufReader::new(command.stdout.take().context("it was asked for")?);
    let mut life = Vec::new();
    for line in out.lines() {
        let line = line?;
        let name = line.split_once(r#""event":""#);
        let name = name.and_then(|(_, rest)| rest.split('"').next());
        life.push(name.with_context(|| line.clone())?.to_owned());
        if name == Some("invalidate") {
            kill(Pid::from_raw(command.id().try_into()?), Signal::SIGINT)?;
        }
    }
    ensure!(command.wait()?.success(), "an interrupt is no error");
    // A device may tell of a fault twice, and late; then there is more in between.
    let first = |name| life.iter().position(|other| other == name);
    let order = ["fault", "commit", "replay", "invalidate"].map(first);
    ensure!(
        order.is_sorted() && order.iter().all(Option::is_some),
        "{life:?}"
    );
    ensure!(!Path::new(&instance).exists(), "{instance} is left behind");
    Ok(())
}

fn a_map_has_what_the_gpu_touched() -> Result<()> {
    let (mirror, region) = (Mirror::new()?, Region::anonymous(PAGE)?);
    region.store(0, 1);
    mirror.run(Load::<u64>::new(region.lanes(0, 0)), lanes(1))?;
    let pid = std::process::id().to_string();
    let text = printed(&["map", &pid])?;
    ensure!(
        text.contains(&format!("process {pid} (")),
        "no heading in {text}"
    );
    let at = region.at(0).addr();
    let ranges = text.lines().filter_map(|line| {
        let (start, end) = line.split_whitespace().next()?.split_once('-')?;
        let number = |text: &str| u64::from_str_radix(text.strip_prefix("0x")?, 16).ok();
        Some(number(start)?..number(end)?)
    });
    ensure!(
        ranges.into_iter().any(|range| range.contains(&at)),
        "{at:#x} is not in {text}"
    );
    Ok(())
}

fn a_map_in_json_has_the_leaves_of_what_the_gpu_touched() -> Result<()> {
    let (mirror, region) = (Mirror::new()?, Region::anonymous(3 * PAGE)?);
    region.no_huge_pages();
    mirror.run(Store::new(region.lanes(PAGE, 0), 1_u64), lanes(1))?;
    region.store(0, 1);
    region.protect(0..PAGE, ProtFlags::PROT_READ)?;
    mirror.run(Load::<u64>::new(region.at(0).into()), lanes(1))?;
    let pid = std::process::id();
    let json: Value = serde_json::from_str(&printed(&["map", &pid.to_string(), "--json"])?)?;
    ensure_eq!(number(&json, "/pid")?, u64::from(pid));
    ensure_eq!(
        number(&json, "/client")?,
        crate::introspect::client(&mirror.gpu)?
    );
    let leaves = json["leaves"].as_array().context("no leaves")?;
    let leaf = |page: usize| {
        let at = region.at(page * PAGE).addr();
        let holds = |leaf: &&Value| {
            let bounds = (leaf["start"].as_u64(), leaf["end"].as_u64());
            matches!(bounds, (Some(start), Some(end)) if start <= at && at < end)
        };
        leaves.iter().find(holds)
    };
    for (page, writable) in [(0, false), (1, true)] {
        let leaf = leaf(page).with_context(|| format!("page {page} is not in {json}"))?;
        ensure_eq!(leaf["writable"], writable);
        ensure_eq!(leaf["order"], 0);
    }
    ensure!(leaf(2).is_none(), "nobody touched page 2: {json}");
    Ok(())
}

fn both_views_of_an_own_buffer_are_shown() -> Result<()> {
    let text = printed(&["map", "self"])?;
    ensure!(text.contains("GPU") && text.contains("CPU"), "{text}");
    let json = printed(&["map", "self", "--json"])?;
    ensure!(json.contains(r#""gpu":{"page_bytes":"#), "{json}");
    ensure!(json.contains(r#""gpu":null"#), "{json}");
    Ok(())
}

fn without_root_the_commands_say_what_they_need() -> Result<()> {
    for arguments in [&["faults"][..], &["map"], &["faults", "--follow"]] {
        let output = Command::new("mirage")
            .args(arguments)
            .uid(NOBODY)
            .gid(NOBODY)
            .output()?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure_eq!(output.status.code(), Some(1));
        // The render node is root's in this guest, and a node that cannot be opened is the first thing to say.
        ensure!(
            errors.contains("root") || errors.contains("group"),
            "{arguments:?}: {errors}"
        );
        ensure!(!errors.contains("panicked"), "{errors}");
    }
    Ok(())
}

fn a_closed_pipe_is_no_error() -> Result<()> {
    let mut command = Command::new("mirage")
        .args(["stat", "--interval", "0.01", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut out = command.stdout.take().context("it was asked for")?;
    out.read_exact(&mut [0; 1])?;
    drop(out);
    let output = command.wait_with_output()?;
    ensure!(output.status.success(), "{output:?}");
    ensure!(output.stderr.is_empty(), "{output:?}");
    Ok(())
}

fn wrong_usage_and_a_missing_device_have_statuses_of_their_own() -> Result<()> {
    ensure_eq!(mirage(&["map", "nonsense"])?.status.code(), Some(2));
    ensure_eq!(
        mirage(&["--device", "/dev/null", "info"])?.status.code(),
        Some(3)
    );
    Ok(())
}
