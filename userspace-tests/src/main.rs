// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guest tests: what the driver promises, shown through its user interface. KTAP on standard output.

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use harness::Test;
use regex_lite::Regex;

mod allocator;
mod announce;
mod arguments;
mod bind;
mod changing;
mod channels;
mod commands;
mod compat;
mod copy;
mod counted;
mod cow;
mod device;
mod events;
mod exec;
mod fairness;
mod faults;
mod fences;
mod files;
mod fixture;
mod frozen;
mod guards;
mod hard;
mod harness;
mod huge;
mod igt;
mod introspect;
mod invalidate;
mod ioctls;
mod kernel;
mod kinds;
mod leaves;
mod library;
mod memory;
mod migrate;
mod operations;
mod permission;
mod process;
mod query;
mod refused;
mod region;
mod remap;
mod samples;
mod scarce;
mod stopped;
mod submit;
mod sw_sync;
mod swap;
mod sys;
mod timeouts;
mod traces;
mod userfault;
mod work;
mod writers;

/// All tests that are written out, but for those that take the device away.
const ALL: &[&[Test]] = &[
    ioctls::TESTS,
    arguments::TESTS,
    exec::TESTS,
    changing::TESTS,
    operations::TESTS,
    memory::TESTS,
    kinds::TESTS,
    files::TESTS,
    swap::TESTS,
    huge::TESTS,
    migrate::TESTS,
    guards::TESTS,
    userfault::TESTS,
    writers::TESTS,
    hard::TESTS,
    cow::TESTS,
    remap::TESTS,
    invalidate::TESTS,
    leaves::TESTS,
    channels::TESTS,
    commands::TESTS,
    refused::TESTS,
    fences::TESTS,
    library::TESTS,
    stopped::TESTS,
    timeouts::TESTS,
    permission::TESTS,
    copy::TESTS,
    faults::TESTS,
    announce::TESTS,
    counted::TESTS,
    fairness::TESTS,
    process::TESTS,
    events::TESTS,
    query::TESTS,
    scarce::TESTS,
    bind::TESTS,
    introspect::TESTS,
    compat::TESTS,
    traces::TESTS,
];

/// Runs the guest tests and prints KTAP. Exit status: 0 all passed or skipped, 1 some failed, 2 none matched.
#[derive(Parser)]
struct Arguments {
    /// Print the names of the tests.
    #[arg(long)]
    list: bool,
    /// Run only tests whose name matches this regular expression.
    #[arg(long, value_name = "RE")]
    filter: Option<Regex>,
    /// Leave out tests whose name matches this regular expression.
    #[arg(long, value_name = "RE")]
    skip: Option<Regex>,
    /// Repeat N times less what tests repeat to meet a race.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    less: u64,
    /// The device is one that is hard to please (docs/vgpu.md): run also the tests of that.
    #[arg(long)]
    hard: bool,
    /// Print the names of the tests as igt_runner has them.
    #[arg(long)]
    list_subtests: bool,
    /// Run one test in this process and say so as igt_runner wants it. Exit status: 0 passed, 77 skipped, 98 failed.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["list", "filter", "skip"])]
    run_subtest: Option<String>,
    /// Run one test in this process, for the one that prints KTAP.
    #[arg(long, value_name = "NAME", hide = true)]
    run_apart: Option<String>,
}

/// Tells the processes of tests that the device is hard to please.
const HARD: &str = "MIRAGE_TEST_HARD";

/// All tests; those that take the device away come last.
fn all() -> Vec<Test> {
    let only_with = |variable: &str, tests: &'static [Test]| {
        std::env::var_os(variable).map_or(&[][..], |_| tests)
    };
    let samples = only_with("MIRAGE_TEST_SAMPLES", samples::TESTS);
    let hard = only_with(HARD, counted::hard_device::TESTS);
    [
        &ALL.concat(),
        &allocator::tests(),
        hard,
        device::TESTS,
        samples,
    ]
    .concat()
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    if arguments.hard {
        std::env::set_var(HARD, "1");
    }
    let all = all();
    if arguments.list_subtests {
        igt::list_subtests(&all);
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(name) = arguments.run_subtest {
        return Ok(igt::run_subtest(&all, &name));
    }
    if let Some(name) = arguments.run_apart {
        let test = all
            .iter()
            .find(|test| test.full_name() == name)
            .context("no such test")?;
        return Ok(harness::run_here(test).into());
    }
    let wanted = |test: &Test| {
        let matches = |pattern: &Regex| pattern.is_match(&test.full_name());
        arguments.filter.as_ref().is_none_or(matches)
            && !arguments.skip.as_ref().is_some_and(matches)
    };
    let tests: Vec<Test> = all.into_iter().filter(wanted).collect();
    if tests.is_empty() {
        eprintln!("no test matches");
        return Ok(ExitCode::from(2));
    }
    if arguments.list {
        tests
            .iter()
            .for_each(|test| println!("{}", test.full_name()));
        return Ok(ExitCode::SUCCESS);
    }
    harness::repeat_less(arguments.less);
    harness::run_all(&tests)
}
