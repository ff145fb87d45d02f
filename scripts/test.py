#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Runs the test suites and sums what they say. Usage: test.py [SUITE...]; runs inside the builder root.

A suite that ends without its results counts as failed. KTAP is read by the parser of the kernel's source.
"""

import dataclasses
import glob
import io
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
import unittest

SOURCE = pathlib.Path(os.environ["MIRAGE_SRC"])
LOGS = pathlib.Path(os.environ["MIRAGE_STATE"], "log")
SCRIPTS = SOURCE / "scripts"
# A status from here on is the launcher's word on the run, not the command's.
LAUNCHER_STATUS = 240
# No suite may hold up the others: what a command, a build and a guest may take on two cores, and then it has failed.
COMMAND_SECONDS = 1200
BUILD_SECONDS = 2400
GUEST_SECONDS = {"stock": 2400, "debug": 4800}
# What igt_runner wrote comes after this line of a guest's output, once for each run.
IGT_RESULTS = "=== igt results ===\n"
IGT_ROOT = "/usr/libexec/igt-gpu-tools"
# The syncobj tests are about the DRM core alone and give it 20 ms for a step, which a busy host without KVM does not always keep:
# those that fail are run again, twice at most. The first look at a path of tracing warns, whoever looks. igt_runner has a pipe
# because it makes its terminal non-blocking, and what comes later is lost when that is full.
IGT_COMMAND = f"""
insmod /usr/lib/mirage/sw_sync.ko
ls /sys/kernel/debug/tracing >/dev/null
list={IGT_ROOT}/mirage.testlist
for run in 1 2 3; do
	igt_runner -m --test-list $list --per-test-timeout 600 {IGT_ROOT} /tmp/igt$run </dev/null 2>&1 | cat
	printf '\\n{IGT_RESULTS[:-1]}\\n'
	cat /tmp/igt$run/results.json
	list=/tmp/again$run
	awk -F'"' '/^ *"igt@/ {{ name = $2 }} /^ *"result":/ && !/"(pass|skip)"/ {{ print name }}' /tmp/igt$run/results.json | grep '^igt@syncobj_' >$list || break
done
"""


@dataclasses.dataclass
class Counts:
    """How many test cases of a suite went how; problems are named failures."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0
    problems: list = dataclasses.field(default_factory=list)

    def fail(self, problem):
        self.failed += 1
        self.problems.append(problem)

    def add(self, other):
        self.passed += other.passed
        self.failed += other.failed
        self.skipped += other.skipped
        self.problems += other.problems

    def __str__(self):
        return f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"


def run(name, command, seconds=COMMAND_SECONDS):
    """Runs a command with its output in a log; returns status and output. What it started goes with it when its time is over."""
    path = LOGS / f"test-{name}.log"
    with open(path, "wb") as log:
        line = list(map(str, command))
        process = subprocess.Popen(line, cwd=SOURCE, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            log.write(f"\nno end after {seconds} s\n".encode())
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        except BaseException:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()
            raise
    return process.returncode, path.read_text(errors="replace")


def cargo(name, *arguments):
    """A cargo test run: the sum of its `test result` lines."""
    counts = Counts()
    status, output = run(name, ["cargo", "test", "--locked", "--no-fail-fast", *arguments])
    for result in re.findall(r"^test result: \w+\. (\d+) passed; (\d+) failed; (\d+) ignored", output, re.M):
        counts.add(Counts(*map(int, result)))
    counts.problems += sorted(set(re.findall(r"^test (.*) \.\.\. FAILED$", output, re.M)))
    if status and not counts.failed:
        counts.fail(f"cargo test ended with status {status} and without results: {last_lines(output)}")
    elif not status and not counts.passed:
        counts.fail("no tests were run")
    return counts


def sections(text):
    """The KTAP documents in a text: a kernel log has one for each module with tests, and the parser reads one."""
    starts = [match.start() for match in re.finditer(r"^(\[ *\d+\.\d+\] )?KTAP version 1", text, re.M)]
    return [text[a:b] for a, b in zip(starts, [*starts[1:], None])]


def ktap(text):
    """What the KTAP documents in a text say. No document, or one without a plan or without all results, is a failure."""
    total = Counts()
    for document in sections(text) or [text]:
        total.add(ktap_document(document))
    return total


def ktap_document(text):
    """What one document says, by the kernel's own parser."""
    sources = glob.glob(os.path.join(os.environ["MIRAGE_CACHE"], "source/linux-*/tools/testing/kunit"))
    sys.path.insert(0, max(sources))
    import kunit_parser  # pylint: disable=import-outside-toplevel
    import kunit_printer  # pylint: disable=import-outside-toplevel

    counts = Counts()
    test = kunit_parser.parse_run_tests(text.splitlines(), kunit_printer.Printer(print=False, output=io.StringIO()))
    counts.passed, counts.skipped = test.counts.passed, test.counts.skipped
    counts.failed = test.counts.failed + test.counts.crashed

    def failures(node, prefix):
        for sub in node.subtests:
            name = f"{prefix}{sub.name}"
            if sub.subtests:
                failures(sub, f"{name}.")
            elif not sub.ok_status():
                counts.problems.append(name)

    failures(test, "")
    if not re.search(r"^(\[.*\] *)? *1\.\.\d+", text, re.M):
        counts.fail("there is no plan")
    elif test.counts.errors and not counts.failed:
        counts.fail("results and plan do not agree")
    return counts


def igt(output):
    """What the results of igt_runner say, against the list of the subtests that have to be among them."""
    counts = Counts()
    expected = {}
    for line in (SCRIPTS / "igt-subtests.txt").read_text().splitlines():
        name, _, note = line.partition("#")
        if name.strip():
            # as igt_runner writes it
            expected[name.strip().lower()] = "SKIP" in note
    tests = {}
    try:
        for results in output.split(IGT_RESULTS)[1:]:
            # what follows is the next run's, or the launcher's
            tests |= json.JSONDecoder().raw_decode(results)[0]["tests"]
    except (KeyError, ValueError):
        tests = {}
    missing = [name for name in expected if name not in tests]
    for name, test in tests.items():
        result = test.get("result")
        if result == "pass":
            counts.passed += 1
        elif result == "skip" and expected.get(name):
            counts.skipped += 1
        else:
            counts.fail(f"{name}: {result}: {igt_reason(test)}")
    counts.failed += len(missing)
    if missing:
        counts.problems.append(f"{len(missing)} subtests have no result: {', '.join(missing[:8])} ...")
    return counts


def igt_reason(test):
    """The line that says why, out of what a subtest and the kernel wrote."""
    text = test.get("err", "") + test.get("out", "") + test.get("dmesg", "")
    said = re.search(r"^.*(CRITICAL|Test requirement not met|WARNING|BUG|\*ERROR\*).*$", text, re.M)
    return said.group(0).strip() if said else last_lines(text)


def last_lines(output):
    return " / ".join(output.strip().splitlines()[-3:])


def build(name, *command):
    """A build that a suite needs; its failure is the suite's. Returns the last line, which says where it is."""
    status, output = run(f"build-{name}", command, BUILD_SECONDS)
    if status:
        raise RuntimeError(f"{name} does not build: {last_lines(output)}")
    return output.splitlines()[-1]


def guest(kernel, command, name, *options, count=ktap):
    """Runs a command in a guest; `count` reads the results from its output."""
    build(f"driver-{kernel}", SCRIPTS / "build-driver.sh", kernel)
    build("vgpu", SCRIPTS / "build-rust.sh", "vgpu")
    build("userspace", SCRIPTS / "build-rust.sh", "userspace")
    if kernel == "stock":
        options += "--overlay", build("sw-sync", SCRIPTS / "build-sw-sync.sh")
    boot = [SCRIPTS / "qemu-boot.sh", "--kernel", kernel, "--timeout", GUEST_SECONDS[kernel], *options, "--", *command]
    # the launcher has a limit of its own, and says more when it is over
    status, output = run(name, boot, GUEST_SECONDS[kernel] + COMMAND_SECONDS)
    counts = count(output)
    if status >= LAUNCHER_STATUS or (status and not counts.failed):
        counts.fail(f"status {status}: {last_lines(output)}")
    return counts


def suite_check():
    return ktap(run("check", [SCRIPTS / "check.sh"])[1])


def suite_vgpu():
    return cargo("vgpu", "-p", "mirage-vgpu")


def suite_userspace():
    return cargo("userspace", "--workspace", "--exclude", "mirage-vgpu")


def suite_scripts():
    counts = Counts()
    build("driver-stock", SCRIPTS / "build-driver.sh", "stock")
    build("vgpu", SCRIPTS / "build-rust.sh", "vgpu")
    build("userspace", SCRIPTS / "build-rust.sh", "userspace")
    with open(LOGS / "test-scripts.log", "w", encoding="utf-8") as log:
        tests = unittest.defaultTestLoader.discover(str(SCRIPTS / "tests"))
        result = unittest.TextTestRunner(stream=log, verbosity=2).run(tests)
    bad = result.failures + result.errors
    counts.failed, counts.skipped = len(bad), len(result.skipped)
    counts.passed = result.testsRun - counts.failed - counts.skipped
    counts.problems += [f"{test}: {trace.strip().splitlines()[-1]}" for test, trace in bad]
    return counts


def suite_guest_stock():
    return guest("stock", ["mirage-tests"], "guest-stock")


# Three tests whose sizes are the driver's bounds or the device's, and so cannot be repeated less.
LARGE = "^faults::a_storm_of_100_000_faults|^remap::(more_neighbourhoods|files_that_take_all)"


def suite_guest_hard():
    """A device that is late, repeats itself, loses interrupts and tells nonsense.

    Tests that count faults cannot hold there, nor one that names every page that was dirtied: an old packet of a write has its page faulted in for writing.
    Its fault buffers have 16 entries, so faults of more pages at once, which fill a queue, never come.
    """
    others = f"{LARGE}|^leaves::|^allocator::|^writers::gpu_writes_make_their_pages_soft_dirty|^counted::faults_that_find_no_room"
    return guest("stock", ["mirage-tests", "--hard", "--less", "2", "--skip", others], "guest-hard", "--vgpu-args", "--hard --seed 1")


def suite_guest_debug():
    """Of the generated cases those of two shapes; all of them run in guest-stock."""
    others = f"{LARGE}|^allocator::(twice|many.*|large|threads_one_mirror|processes)__"
    return guest("debug", ["mirage-tests", "--less", "4", "--skip", others], "guest-debug", "--memory", "3G", "--leaks")


def suite_kunit():
    """The module's KUnit tests run when the debug kernel loads it; their results are in the kernel's log."""

    def of_the_module(log):
        return ktap("".join(section for section in sections(log) if "# Subtest: mirage_" in section))

    return guest("debug", ["dmesg"], "kunit", "--memory", "3G", count=of_the_module)


def suite_igt():
    """The generic tests of igt-gpu-tools, by igt_runner. Its status says nothing: the results are what counts.

    Some have 20 ms for a step, which a debug kernel without KVM does not always do.
    """
    overlay = build("igt", SCRIPTS / "prepare-igt.sh")
    return guest("stock", ["sh", "-c", IGT_COMMAND], "igt", "--overlay", overlay, count=igt)


SUITES = {
    "check": suite_check,
    "userspace": suite_userspace,
    "vgpu": suite_vgpu,
    "scripts": suite_scripts,
    "guest-stock": suite_guest_stock,
    "guest-hard": suite_guest_hard,
    "kunit": suite_kunit,
    "igt": suite_igt,
    "guest-debug": suite_guest_debug,
}


def main():
    names = sys.argv[1:] or list(SUITES)
    if unknown := [name for name in names if name not in SUITES]:
        sys.exit(f"no suite {', '.join(unknown)}; there are: {', '.join(SUITES)}")
    LOGS.mkdir(parents=True, exist_ok=True)
    # as an exception, so that what runs ends too
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    total = Counts()
    for name in names:
        start = time.monotonic()
        print(f"== {name} ...", flush=True)
        try:
            counts = SUITES[name]()
        except Exception as error:  # pylint: disable=broad-exception-caught
            counts = Counts()
            counts.fail(str(error))
        for problem in counts.problems:
            print(f"   FAILED: {problem}")
        if counts.failed:
            print(f"   log: {LOGS}/test-{name}.log")
        print(f"== {name}: {counts} ({time.monotonic() - start:.0f} s)", flush=True)
        total.add(counts)
    print(total)
    sys.exit(1 if total.failed or not total.passed else 0)


if __name__ == "__main__":
    main()
