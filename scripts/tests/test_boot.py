# SPDX-License-Identifier: MIT OR Apache-2.0
"""The launcher: what it tells apart, what it passes through, what it leaves behind (nothing)."""

import contextlib
import io
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import unittest

SCRIPTS = pathlib.Path(__file__).resolve().parent.parent
BOOT = SCRIPTS / "qemu-boot.sh"


sys.path.insert(0, str(SCRIPTS))
from launcher import console  # pylint: disable=wrong-import-position
from launcher.status import Status  # pylint: disable=wrong-import-position


def descendants(pid):
    """Ids of the processes that `pid` started, and theirs."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[1]) == pid:
                child = int(path.parent.name)
                found += [child, *descendants(child)]
    return found


def alive(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition, seconds):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.1)
    return condition()


def start(*command, options=(), gpus=0, module=False, env=None):
    line = [BOOT, *([] if module else ["--no-module"]), "--gpus", str(gpus), "--timeout", "120", *options]
    return subprocess.Popen(
        [*line, *(["--", *command] if command else [])],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **(env or {})},
    )  # fmt: skip


def run(*command, **kwargs):
    process = start(*command, **kwargs)
    output, errors = process.communicate(timeout=300)
    return process.returncode, output, errors.decode(errors="replace")


class Reports(unittest.TestCase):
    """Which kernel messages fail a run."""

    def reported(self, line):
        return console.REPORT.search(line) is not None

    def test_every_kind_of_report_is_seen(self):
        for line in (
            "[   12.345678] ------------[ cut here ]------------",
            "[   12.345678] WARNING: CPU: 0 PID: 77 at mm/mmu_notifier.c:1 foo+0x1/0x2",
            "[   12.345678][   T77] BUG: KASAN: slab-use-after-free in foo",
            "[    1.000000] BUG: sleeping function called from invalid context at kernel/locking/mutex.c:1",
            "[    1.000000] WARNING: possible circular locking dependency detected",
            "[    1.000000] INFO: task mirage:99 blocked for more than 122 seconds.",
            "[    1.000000] UBSAN: array-index-out-of-bounds in drivers/foo.c:1:2",
            "[    1.000000] kmemleak: 3 new suspected memory leaks (see /sys/kernel/debug/kmemleak)",
            "[    1.000000] watchdog: BUG: soft lockup - CPU#1 stuck for 26s!",
            "[    1.000000] rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",
            "[    1.000000] refcount_t: underflow; use-after-free.",
            "[    1.000000] Kernel panic - not syncing: Fatal exception",
            "[    1.000000] rust_kernel: panicked at driver/x.rs:1:2:",
            "[    1.000000] DMA-API: mirage 0000:01:00.0: device driver has pending DMA allocations",
            "Oops: general protection fault, probably for non-canonical address",
        ):
            self.assertTrue(self.reported(line), line)

    def test_ordinary_messages_are_not_reports(self):
        for line in (
            "[    0.000000] Linux version 7.2.12",
            "[    1.000000] mirage: loading out-of-tree module taints kernel.",
            "[    1.000000] mirage: module verification failed: signature and/or required key missing - tainting kernel",
            "[    1.000000] DMA-API: preallocated 65536 debug entries",
            "[    1.000000] DMA-API: debugging enabled by kernel config",
            "[    1.000000] kmemleak: Kernel memory leak detector initialized (mem pool available: 39000)",
            "[    1.000000] mirage 0000:01:00.0: WARNING: is only a word here",
            "[    1.000000] rcu: Hierarchical RCU implementation.",
        ):
            self.assertFalse(self.reported(line), line)

    def test_a_report_is_found_however_the_bytes_are_cut(self):
        with tempfile.TemporaryDirectory() as directory:
            found = console.Console(pathlib.Path(directory, "log"))
            for byte in b"[ 1.000000] fine\r\n[    2.000000] WARNING: not fine\r\n[    3.000000] more\r\n":
                found.feed(bytes([byte]))
            found.file.close()
            self.assertEqual(found.first_report, 1)


class Commands(unittest.TestCase):
    """A command in a guest."""

    def test_status_and_output_are_passed_through(self):
        status, output, errors = run("sh", "-c", 'printf "a\\nb\\r\\n\\001\\377"; exit 7')
        self.assertEqual((status, output), (7, b"a\nb\r\n\x01\xff"), errors)

    def test_arguments_keep_their_words(self):
        status, output, errors = run("printf", "<%s>", "a b", "$HOME", "'", "")
        self.assertEqual((status, output), (0, b"<a b><$HOME><'><>"), errors)

    def test_overlay_lies_over_the_root(self):
        with tempfile.TemporaryDirectory(prefix="with space ") as directory:
            pathlib.Path(directory, "etc").mkdir()
            pathlib.Path(directory, "etc/overlaid").write_text("from the overlay")
            status, output, errors = run("cat", "/etc/overlaid", options=["--overlay", directory])
        self.assertEqual((status, output), (0, b"from the overlay"), errors)

    def test_kernel_args_reach_the_kernel(self):
        status, output, errors = run("cat", "/proc/cmdline", env={"KERNEL_ARGS": "mirage.word=42"})
        self.assertEqual(status, 0, errors)
        self.assertIn(b"mirage.word=42", output)

    def test_without_a_command_there_is_a_shell(self):
        process = start()
        output, errors = process.communicate(b"echo $((6 * 7)) is the answer; exit 3\n", timeout=120)
        self.assertEqual(process.returncode, 3, errors)
        self.assertIn(b"42 is the answer", output)


class Failures(unittest.TestCase):
    """Each way to fail has its own status and says what it was."""

    def test_panic(self):
        status, _, errors = run("sh", "-c", "echo c >/proc/sysrq-trigger; sleep 60")
        self.assertEqual(status, Status.PANIC, errors)
        self.assertIn("Kernel panic - not syncing", errors)

    def test_kernel_report_fails_a_command_that_succeeds(self):
        status, _, errors = run("sh", "-c", "echo 'WARNING: made for the test' >/dev/kmsg")
        self.assertEqual(status, Status.REPORT, errors)
        self.assertIn("made for the test", errors)

    def test_timeout_shows_where_the_guest_is(self):
        status, _, errors = run("sleep", "1000", options=["--timeout", "40"])
        self.assertEqual(status, Status.TIMEOUT, errors)
        self.assertIn("no end after 40 s", errors)
        self.assertIn("NMI", errors)

    def test_qemu_that_does_not_start(self):
        status, _, errors = run("true", env={"QEMU_ARGS": "-device no-such-device"})
        self.assertEqual(status, Status.QEMU_DIED, errors)
        self.assertIn("no-such-device", errors)

    def test_module_that_is_not_built(self):
        process = subprocess.run(
            [BOOT, "--gpus", "0", "--", "true"],
            env={**os.environ, "MIRAGE_STATE": tempfile.gettempdir()}, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        self.assertEqual(process.returncode, Status.NOT_STARTED, process.stderr)
        self.assertIn("make driver", process.stderr)

    def test_virtual_gpu_that_ends_before_it_is_ready(self):
        status, _, errors = run("true", gpus=1, env={"MIRAGE_VGPU": "/bin/false"})
        self.assertEqual(status, Status.VGPU_DIED, errors)
        self.assertIn("before it was ready", errors)

    def test_virtual_gpu_that_dies_later(self):
        process = start("sh", "-c", "echo up; sleep 100", gpus=1)
        self.assertEqual(process.stdout.readline(), b"up\n")
        os.kill(process_named(process.pid, "mirage-vgpu"), signal.SIGKILL)
        _, errors = process.communicate(timeout=60)
        self.assertEqual(process.returncode, Status.VGPU_DIED, errors)
        self.assertIn(b"killed by SIGKILL", errors)


def process_named(pid, word):
    """The process below `pid` whose name has the word in it."""
    found = [p for p in descendants(pid) if word in pathlib.Path(f"/proc/{p}/comm").read_text()]
    assert len(found) == 1, found
    return found[0]


class WorkInFlight(unittest.TestCase):
    """What becomes of the virtual GPU when the one that it works for dies under it."""

    # A storm of faults from several processes, for as long as the guest lives.
    STORM = "while :; do mirage-tests --filter storm; done >/dev/null 2>&1 & while :; do mirage-tests --filter exec; done >/dev/null 2>&1 & "

    def start(self, then):
        options = ["--timeout", "200"]
        process = start("sh", "-c", self.STORM + "sleep 8; echo busy; " + then, options=options, gpus=1, module=True)
        self.assertEqual(process.stdout.readline(), b"busy\n")
        return process, process_named(process.pid, "mirage-vgpu")

    def ended(self, process, gpu, status):
        _, errors = process.communicate(timeout=120)
        errors = errors.decode(errors="replace")
        self.assertEqual(process.returncode, status, errors)
        self.assertNotIn("did not end", errors)
        self.assertFalse(alive(gpu))
        logs = pathlib.Path(errors.strip().rpartition("qemu-boot: logs: ")[2])
        self.assertRegex((logs / "vgpu0.log").read_text(), "Connection closed|Client is gone")

    def test_a_virtual_gpu_whose_qemu_is_killed_ends_by_itself(self):
        process, gpu = self.start("sleep 100")
        os.kill(process_named(process.pid, "qemu-system"), signal.SIGKILL)
        self.ended(process, gpu, Status.QEMU_DIED)

    def test_a_virtual_gpu_whose_guest_crashes_ends_by_itself(self):
        process, gpu = self.start("echo c >/proc/sysrq-trigger")
        self.ended(process, gpu, Status.PANIC)

    def test_a_virtual_gpu_whose_guest_reboots_ends_by_itself(self):
        process, gpu = self.start("reboot -f")
        self.ended(process, gpu, Status.QEMU_DIED)


class Leftovers(unittest.TestCase):
    """No process and no file outlives the launcher."""

    def scratch(self):
        return set(pathlib.Path("/run").glob("mirage-*"))

    def stopped_by(self, sign):
        before = self.scratch()
        process = start("sh", "-c", "echo up; sleep 100", gpus=1)
        self.assertEqual(process.stdout.readline(), b"up\n")
        children = descendants(process.pid)
        self.assertTrue(children)
        process.send_signal(sign)
        process.communicate(timeout=30)
        self.assertTrue(wait_until(lambda: not any(map(alive, children)), 10), "a process is left")
        return process.returncode, self.scratch() - before

    def test_sigterm(self):
        self.assertEqual(self.stopped_by(signal.SIGTERM), (128 + signal.SIGTERM, set()))

    def test_sigint(self):
        self.assertEqual(self.stopped_by(signal.SIGINT), (128 + signal.SIGINT, set()))

    def test_sigkill_takes_the_guest_along(self):
        status, left = self.stopped_by(signal.SIGKILL)
        self.assertEqual(status, -signal.SIGKILL)
        # Its directory went with its mount namespace when it had one; this test shares one with it.
        for path in left:
            for file in sorted(path.rglob("*"), reverse=True):
                file.unlink()
            path.rmdir()

    def test_reader_that_goes_away(self):
        process = start("sh", "-c", "while :; do echo line; done")
        process.stdout.readline()
        children = descendants(process.pid)
        process.stdout.close()
        process.stdout = io.BytesIO()
        self.assertNotEqual(process.wait(timeout=60), 0)
        process.stdin.close()
        process.stderr.close()
        self.assertTrue(wait_until(lambda: not any(map(alive, children)), 10), "a process is left")


if __name__ == "__main__":
    unittest.main()
