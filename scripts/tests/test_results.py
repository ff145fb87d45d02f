# SPDX-License-Identifier: MIT OR Apache-2.0
"""How results are counted: what is missing counts as failed."""

import importlib.util
import json
import pathlib
import sys
import unittest

SCRIPTS = pathlib.Path(__file__).resolve().parent.parent

spec = importlib.util.spec_from_file_location("runner", SCRIPTS / "test.py")
runner = importlib.util.module_from_spec(spec)
sys.modules["runner"] = runner
spec.loader.exec_module(runner)


class Ktap(unittest.TestCase):
    """KTAP of guest tests and of the kernel's log."""

    def counts(self, text):
        counts = runner.ktap(text)
        return counts.passed, counts.failed, counts.skipped

    def test_results_are_counted(self):
        text = "KTAP version 1\n1..3\nok 1 a\n# why\nnot ok 2 b\nok 3 c # SKIP no swap\n"
        self.assertEqual(self.counts(text), (1, 1, 1))
        self.assertEqual(runner.ktap(text).problems, ["b"])

    def test_a_suite_that_dies_in_the_middle_fails(self):
        passed, failed, _ = self.counts("KTAP version 1\n1..3\nok 1 a\n")
        self.assertEqual(passed, 1)
        self.assertGreater(failed, 0)

    def test_a_suite_without_a_plan_fails(self):
        self.assertGreater(self.counts("KTAP version 1\nok 1 a\n")[1], 0)

    def test_nothing_at_all_fails(self):
        self.assertGreater(self.counts("")[1], 0)

    def test_a_log_has_several_documents(self):
        log = (
            "[    1.000000] KTAP version 1\n[    1.000000] 1..1\n[    1.000000]     KTAP version 1\n"
            "[    1.000000]     # Subtest: other\n[    1.000000]     1..1\n[    1.000000]     ok 1 x\n[    1.000000] ok 1 other\n"
            "[    2.000000] KTAP version 1\n[    2.000000] 1..1\n[    2.000000]     KTAP version 1\n"
            "[    2.000000]     # Subtest: mirage_a\n[    2.000000]     1..2\n[    2.000000]     ok 1 y\n[    2.000000]     ok 2 z\n"
            "[    2.000000] ok 1 mirage_a\n"
        )
        found = runner.sections(log)
        self.assertEqual(len(found), 2)
        self.assertEqual(self.counts(log), (3, 0, 0))
        self.assertEqual(self.counts(found[1]), (2, 0, 0))


class Igt(unittest.TestCase):
    """Results of igt_runner, against the list of what has to be among them."""

    def setUp(self):
        lines = (SCRIPTS / "igt-subtests.txt").read_text().splitlines()
        self.listed = [line for line in lines if line.startswith("igt@")]
        self.tests = {line.split()[0].lower(): {"result": "skip" if "SKIP" in line else "pass"} for line in self.listed}

    def counts(self, *again):
        runs = [json.dumps({"tests": tests}) + "\nwords\n" for tests in (self.tests, *again)]
        return runner.igt(runner.IGT_RESULTS.join(["words\n", *runs]))

    def test_every_listed_subtest_counts(self):
        counts = self.counts()
        self.assertEqual((counts.passed, counts.failed, counts.skipped), (len(self.listed) - 2, 0, 2))

    def test_a_subtest_that_vanished_fails(self):
        del self.tests["igt@syncobj_basic@test-valid-cycle"]
        self.assertEqual(self.counts().failed, 1)
        self.assertIn("igt@syncobj_basic@test-valid-cycle", self.counts().problems[0])

    def test_every_other_result_fails_and_says_why(self):
        for result in ("fail", "crash", "timeout", "incomplete", "abort", "dmesg-warn", "dmesg-fail", "notrun", "skip"):
            self.tests["igt@core_auth@many-magics"] = {"result": result, "err": "(x:1) CRITICAL: Test assertion failure\n"}
            counts = self.counts()
            self.assertEqual(counts.failed, 1, result)
            self.assertEqual(counts.problems, [f"igt@core_auth@many-magics: {result}: (x:1) CRITICAL: Test assertion failure"])

    def test_the_last_run_of_a_subtest_counts(self):
        name = "igt@syncobj_wait@wait-all-snapshot"
        self.tests[name] = {"result": "fail"}
        self.assertEqual(self.counts({name: {"result": "pass"}}).failed, 0)
        self.assertEqual(self.counts({name: {"result": "pass"}}, {name: {"result": "fail"}}).failed, 1)

    def test_no_results_at_all_fail(self):
        for output in ("", runner.IGT_RESULTS, runner.IGT_RESULTS + '{"tests": {"igt@core_au'):
            self.assertEqual(runner.igt(output).failed, len(self.listed))


if __name__ == "__main__":
    unittest.main()
