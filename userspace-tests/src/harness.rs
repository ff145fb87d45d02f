// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs each test in a process of its own and prints KTAP.

use std::fmt;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::memfd::{memfd_create, MFdFlags};
use nix::sys::signal::{killpg, Signal};
use nix::sys::wait::{waitid, waitpid, Id, WaitPidFlag, WaitStatus};
use nix::unistd::Pid;

/// Exit status of a test process that had to skip, as igt_runner has it.
const EXIT_SKIP: i32 = 77;
/// Exit status of a test process that failed, as igt_runner has it.
const EXIT_FAIL: u8 = 98;
/// A test that takes longer says so.
const SLOW: Duration = Duration::from_secs(10);
/// Tells the processes of tests how many times less to repeat what they repeat.
const LESS: &str = "MIRAGE_TEST_LESS";
/// What the last line of a test that skips begins with.
const SKIP: &str = "SKIP: ";

/// A test: its name is the rule, its body shows it.
#[derive(Clone, Copy)]
pub(crate) struct Test {
    /// Name, unique in its module.
    pub(crate) name: &'static str,
    /// `module_path!()` of the test.
    pub(crate) module: &'static str,
    /// Seconds after which it counts as hung.
    pub(crate) seconds: u64,
    /// What it does.
    pub(crate) body: Body,
}

/// The body of a test.
#[derive(Clone, Copy)]
pub(crate) enum Body {
    /// One that is written out.
    Plain(fn() -> Result<()>),
    /// One of many that a table generates, by its number there.
    Case(fn(usize) -> Result<()>, usize),
}

impl Test {
    /// `module::name`
    pub(crate) fn full_name(&self) -> String {
        let module = self.module.rsplit("::").next().unwrap_or_default();
        format!("{module}::{}", self.name)
    }
}

/// The tests of a module: `guest_tests![a, b in 600]`, where the number is the time limit in seconds.
macro_rules! guest_tests {
    (@seconds) => { 300 };
    (@seconds $seconds:literal) => { $seconds };
    ($($name:ident $(in $seconds:literal)?),* $(,)?) => {
        pub(crate) const TESTS: &[$crate::harness::Test] = &[$($crate::harness::Test {
            name: stringify!($name),
            module: module_path!(),
            seconds: guest_tests!(@seconds $($seconds)?),
            body: $crate::harness::Body::Plain($name),
        }),*];
    };
}
pub(crate) use guest_tests;

/// Why a test could not run here.
#[derive(Debug)]
struct Skip(String);

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Skip {}

/// Ends a test that this machine cannot run.
pub(crate) fn skip<T>(reason: impl fmt::Display) -> Result<T> {
    Err(Skip(reason.to_string()).into())
}

/// Has tests repeat `less` times less what they repeat to meet a race, where the kernel is slow.
pub(crate) fn repeat_less(less: u64) {
    std::env::set_var(LESS, less.to_string());
}

/// Rounds of a test that repeats itself to meet a race: `full`, or fewer where the kernel is slow.
pub(crate) fn rounds(full: u64) -> u64 {
    let less = std::env::var(LESS).ok().and_then(|less| less.parse().ok());
    full.div_ceil(less.unwrap_or(1).max(1))
}

/// Asks `condition` every millisecond until it holds.
pub(crate) fn wait_until(limit: Duration, mut condition: impl FnMut() -> bool) -> Result<()> {
    let start = Instant::now();
    loop {
        // Whoever was held up looks once more.
        let late = start.elapsed() >= limit;
        if condition() {
            return Ok(());
        }
        anyhow::ensure!(!late, "nothing happened within {limit:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// How a test that ran in this process went.
#[derive(Clone, Copy)]
pub(crate) enum Verdict {
    Pass,
    Skip,
    Fail,
}

impl From<Verdict> for ExitCode {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Pass => Self::SUCCESS,
            Verdict::Skip => Self::from(EXIT_SKIP as u8),
            Verdict::Fail => Self::from(EXIT_FAIL),
        }
    }
}

/// Runs one test in this process, prints why it did not pass.
pub(crate) fn run_here(test: &Test) -> Verdict {
    let outcome = match test.body {
        Body::Plain(run) => run(),
        Body::Case(run, number) => run(number),
    };
    match outcome {
        Ok(()) => Verdict::Pass,
        Err(error) => match error.downcast_ref::<Skip>() {
            Some(reason) => {
                println!("{SKIP}{reason}");
                Verdict::Skip
            }
            None => {
                println!("{error:#}");
                Verdict::Fail
            }
        },
    }
}

enum Outcome {
    Pass,
    Skip(String),
    Fail(String),
}

#[derive(Default)]
struct Totals {
    pass: usize,
    fail: usize,
    skip: usize,
}

/// Runs the tests one after the other. The exit status says whether all of them passed or were skipped.
pub(crate) fn run_all(tests: &[Test]) -> Result<ExitCode> {
    println!("KTAP version 1\n1..{}", tests.len());
    let mut totals = Totals::default();
    for (i, test) in tests.iter().enumerate() {
        let (number, name, start) = (i + 1, test.full_name(), Instant::now());
        let outcome = run_apart(test)?;
        if start.elapsed() > SLOW {
            println!("# {name} took {:.1?}", start.elapsed());
        }
        match outcome {
            Outcome::Pass => {
                totals.pass += 1;
                println!("ok {number} {name}");
            }
            Outcome::Skip(reason) => {
                totals.skip += 1;
                println!("ok {number} {name} # SKIP {reason}");
            }
            Outcome::Fail(why) => {
                totals.fail += 1;
                println!("# {why}\nnot ok {number} {name}");
            }
        }
    }
    println!(
        "# Totals: pass:{} fail:{} skip:{}",
        totals.pass, totals.fail, totals.skip
    );
    Ok(ExitCode::from(u8::from(totals.fail > 0)))
}

/// Runs a test as a child in a process group of its own, prints what it says as diagnostics.
fn run_apart(test: &Test) -> Result<Outcome> {
    let mut output =
        File::from(memfd_create(c"output", MFdFlags::MFD_CLOEXEC).context("memfd_create")?);
    let start = Instant::now();
    let child = Command::new("/proc/self/exe")
        .args(["--run-apart", &test.full_name()])
        .process_group(0)
        .stdout(output.try_clone()?)
        .stderr(output.try_clone()?)
        .spawn()
        .context("cannot start the test's process")?;
    let pid = Pid::from_raw(child.id() as i32);
    let limit = Duration::from_secs(test.seconds);
    let exited = || {
        waitid(
            Id::Pid(pid),
            WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT | WaitPidFlag::WNOHANG,
        )
    };
    let in_time = wait_until(limit, || exited() != Ok(WaitStatus::StillAlive)).is_ok();
    let stacks = if in_time {
        String::new()
    } else {
        kernel_stacks(pid)
    };
    // Not reaped yet, so the group is still ours; this takes along whatever the test left behind.
    let _ = killpg(pid, Signal::SIGKILL);
    let gone = wait_until(Duration::from_secs(10), || {
        exited() != Ok(WaitStatus::StillAlive)
    })
    .is_ok();
    let status = if gone {
        waitpid(pid, None).context("waitpid")?
    } else {
        WaitStatus::StillAlive
    };
    let mut text = String::new();
    output.seek(SeekFrom::Start(0))?;
    output
        .read_to_string(&mut text)
        .context("the test's output is not text")?;
    let outcome = match status {
        WaitStatus::StillAlive => {
            Outcome::Fail(format!("cannot be killed; in the kernel at:\n{stacks}"))
        }
        _ if !in_time => Outcome::Fail(format!("hung for {limit:?}; in the kernel at:\n{stacks}")),
        WaitStatus::Exited(_, 0) => Outcome::Pass,
        WaitStatus::Exited(_, EXIT_SKIP) => Outcome::Skip(take_skip_reason(&mut text)),
        status => Outcome::Fail(format!("{status:?} after {:.1?}", start.elapsed())),
    };
    text.lines().for_each(|line| println!("# {line}"));
    Ok(match outcome {
        Outcome::Fail(why) => Outcome::Fail(why.trim_end().replace('\n', "\n# ")),
        other => other,
    })
}

/// Takes the reason off the end of what a skipped test printed.
fn take_skip_reason(text: &mut String) -> String {
    let reason = text
        .lines()
        .last()
        .and_then(|line| line.strip_prefix(SKIP))
        .unwrap_or_default()
        .to_owned();
    if let Some(at) = text.rfind(SKIP) {
        text.truncate(at);
    }
    reason
}

/// Where the threads of a process sleep in the kernel.
fn kernel_stacks(pid: Pid) -> String {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten();
    let stack = |task: std::fs::DirEntry| {
        std::fs::read_to_string(task.path().join("stack")).unwrap_or_default()
    };
    tasks.map(stack).collect::<Vec<_>>().join("--\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_of_a_skip_is_the_last_line_and_not_a_diagnostic() {
        let mut text = String::from("looked around\nSKIP: no huge pages\n");
        assert_eq!(take_skip_reason(&mut text), "no huge pages");
        assert_eq!(text, "looked around\n");
    }

    #[test]
    fn a_test_is_named_by_its_module() {
        let test = Test {
            name: "a_rule",
            module: "mirage_tests::memory",
            seconds: 1,
            body: Body::Plain(|| Ok(())),
        };
        assert_eq!(test.full_name(), "memory::a_rule");
    }
}
