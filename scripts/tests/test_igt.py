# SPDX-License-Identifier: MIT OR Apache-2.0
"""The guest tests under igt_runner: it runs them, ends one that hangs, and goes on after it was killed itself."""

import json
import pathlib
import subprocess
import unittest

SCRIPTS = pathlib.Path(__file__).resolve().parent.parent

GUEST = r"""
set -e
mkdir -p /tmp/tests
ln -s /usr/bin/mirage-tests /tmp/tests/
printf 'TESTLIST\nmirage-tests\nEND TESTLIST\n' >/tmp/tests/test-list.txt
printf 'igt@mirage-tests@%s\n' samples-passes samples-skips samples-fails samples-panics samples-hangs \
	ioctls-parameters_of_the_device_make_sense >/tmp/list
runner="igt_runner -e MIRAGE_TEST_SAMPLES=1 --test-list /tmp/list"
echo "=== all"
$runner --per-test-timeout 20 /tmp/tests /tmp/all >/dev/null 2>&1
cat /tmp/all/results.json
echo "=== killed"
$runner /tmp/tests /tmp/killed >/dev/null 2>&1 &
# the one that hangs is number 4
tries=0
until grep -qs hangs /tmp/killed/4/out.txt; do sleep 1; [ $((tries += 1)) -lt 60 ]; done
kill -9 $!
killall -9 mirage-tests
igt_resume /tmp/killed >/dev/null 2>&1
cat /tmp/killed/results.json
"""


def guest():
    """Boots once; returns the results of both runs."""
    overlay = subprocess.run([SCRIPTS / "prepare-igt.sh"], capture_output=True, text=True, check=True).stdout.strip()
    line = [SCRIPTS / "qemu-boot.sh", "--timeout", "300", "--overlay", overlay, "--", "sh", "-c", GUEST]
    run = subprocess.run(line, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    _, everything, killed = run.stdout.split("=== ")
    return [json.loads(text.partition("\n")[2])["tests"] for text in (everything, killed)]


class MirageTests(unittest.TestCase):
    """mirage-tests speaks the subtest protocol of igt-gpu-tools."""

    @classmethod
    def setUpClass(cls):
        cls.all, cls.killed = guest()

    def results(self, tests):
        return {name.partition("@")[2].partition("@")[2]: test["result"] for name, test in tests.items()}

    def test_each_way_to_end_has_its_result(self):
        self.assertEqual(
            self.results(self.all),
            {
                "samples-passes": "pass",
                "samples-skips": "skip",
                "samples-fails": "fail",
                "samples-panics": "fail",
                "samples-hangs": "timeout",
                "ioctls-parameters_of_the_device_make_sense": "pass",
            },
        )

    def test_what_a_test_said_is_in_its_result(self):
        self.assertIn("failed as a sample", self.all["igt@mirage-tests@samples-fails"]["out"])
        self.assertIn("panicked as a sample", self.all["igt@mirage-tests@samples-panics"]["err"])

    def test_a_run_that_was_killed_is_resumed_behind_the_test_that_ran(self):
        results = self.results(self.killed)
        self.assertEqual(results["samples-hangs"], "incomplete")
        self.assertEqual(results["ioctls-parameters_of_the_device_make_sense"], "pass")
        self.assertEqual(results["samples-passes"], "pass")


if __name__ == "__main__":
    unittest.main()
