// SPDX-License-Identifier: MIT OR Apache-2.0
//! The subtest protocol of igt-gpu-tools, so that igt_runner can list, run, resume and time out our tests.

use std::panic::catch_unwind;
use std::process::ExitCode;
use std::time::Instant;

use crate::harness::{self, Test, Verdict};

/// Exit status for an option that is not understood, a subtest that does not exist among them.
const EXIT_INVALID: u8 = 79;

/// A test's name there: letters, digits, dashes and underscores are all that a name may have.
pub(crate) fn subtest_name(test: &Test) -> String {
    test.full_name().replace("::", "-")
}

/// Prints the names of the subtests.
pub(crate) fn list_subtests(all: &[Test]) {
    all.iter()
        .for_each(|test| println!("{}", subtest_name(test)));
}

/// Runs the subtest of that name, and says on both streams how it went: igt_runner sorts each stream's text by those lines.
pub(crate) fn run_subtest(all: &[Test], name: &str) -> ExitCode {
    let Some(test) = all.iter().find(|test| subtest_name(test) == name) else {
        eprintln!("Unknown subtest: {name}");
        return ExitCode::from(EXIT_INVALID);
    };
    println!(
        "IGT-Version: {}-{} ({})",
        env!("CARGO_PKG_NAME"),
        env!("CARGO_PKG_VERSION"),
        std::env::consts::ARCH
    );
    both(&format!("Starting subtest: {name}"));
    let start = Instant::now();
    // What a panic says is on standard error already.
    let verdict = catch_unwind(|| harness::run_here(test)).unwrap_or(Verdict::Fail);
    let word = match verdict {
        Verdict::Pass => "SUCCESS",
        Verdict::Skip => "SKIP",
        Verdict::Fail => "FAIL",
    };
    let seconds = start.elapsed().as_secs_f64();
    both(&format!("Subtest {name}: {word} ({seconds:.3}s)"));
    verdict.into()
}

fn both(line: &str) {
    println!("{line}");
    eprintln!("{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subtests_have_names_that_igt_runner_takes_and_tells_apart() {
        let mut names: Vec<String> = crate::all().iter().map(subtest_name).collect();
        let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        for name in &names {
            assert!(name.chars().all(valid), "{name}");
        }
        names.sort();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
