# SPDX-License-Identifier: MIT OR Apache-2.0
"""What is refused as a kernel to build on, and that the reason is named."""

import importlib.util
import pathlib
import subprocess
import tempfile
import unittest

SCRIPTS = pathlib.Path(__file__).resolve().parent.parent

spec = importlib.util.spec_from_file_location("prove_match", SCRIPTS / "prove-match.py")
prove_match = importlib.util.module_from_spec(spec)
spec.loader.exec_module(prove_match)


class InDirectory(unittest.TestCase):
    """Tests with files of their own."""

    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = pathlib.Path(directory.name)

    def write(self, name, text):
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path


class CheckKernel(InDirectory):
    """scripts/check-kernel.sh"""

    def check(self):
        run = subprocess.run([SCRIPTS / "check-kernel.sh", self.directory], capture_output=True, text=True, check=False)
        return run.returncode, run.stderr

    def test_every_missing_thing_is_named_at_once(self):
        self.write("Makefile", "")
        self.write(".config", 'CONFIG_MODULES=y\nCONFIG_RUST=y\nCONFIG_RUSTC_VERSION_TEXT="rustc 1.2.3"\nCONFIG_DRM=m\n')
        self.write("include/config/kernel.release", "7.1.9\n")
        status, errors = self.check()
        self.assertEqual(status, 1)
        for name in ("CONFIG_HMM_MIRROR", "CONFIG_DEVICE_PRIVATE", "libkernel.rmeta", "rustc 1.2.3", "Linux 7.1.9", "Module.symvers"):
            self.assertIn(name, errors)
        for name in ("CONFIG_DRM:", "CONFIG_MODULES:"):
            self.assertNotIn(name, errors)

    def test_a_tree_that_is_not_prepared_is_told_so(self):
        self.write("Makefile", "")
        self.write(".config", "CONFIG_MODULES=y\n")
        self.assertIn("modules_prepare", self.check()[1])

    def test_what_is_no_kernel_tree_is_told_so(self):
        self.assertIn("no kernel tree", self.check()[1])


class DebugConfig(InDirectory):
    """The debug kernel's configuration is what was asked for."""

    def check(self, text):
        path = self.write("config", text)
        run = subprocess.run([SCRIPTS / "build-debug-kernel.sh", "--check-config", path], capture_output=True, text=True, check=False)
        return run.returncode, run.stderr

    def asked(self):
        return (SCRIPTS.parent / "kernel/debug.config").read_text()

    def test_what_was_asked_for_is_accepted(self):
        self.assertEqual(self.check(self.asked()), (0, ""))

    def test_an_option_that_did_not_take_is_named(self):
        status, errors = self.check(self.asked().replace("CONFIG_KASAN=y\n", "# CONFIG_KASAN is not set\n"))
        self.assertEqual(status, 1)
        self.assertIn("CONFIG_KASAN did not take", errors)

    def test_an_option_that_came_back_is_named(self):
        status, errors = self.check(self.asked().replace("# CONFIG_SLUB_TINY is not set", "CONFIG_SLUB_TINY=y"))
        self.assertEqual(status, 1)
        self.assertIn("CONFIG_SLUB_TINY did not take", errors)


class ProofOfMatch(InDirectory):
    """Each kind of difference between tree and kernel is found."""

    def test_harmless_keys_may_differ_and_others_may_not(self):
        tree = self.write("tree", 'CONFIG_SAME=y\nCONFIG_SALT="a"\nCONFIG_ONLY_TREE=y\nCONFIG_HZ=250\n')
        stock = self.write("stock", 'CONFIG_SAME=y\nCONFIG_SALT="b"\nCONFIG_HZ=1000\n# CONFIG_ONLY_TREE is not set\n')
        found = list(prove_match.config_differences(tree, stock, {"CONFIG_SALT"}))
        self.assertEqual([line.split(":")[0] for line in found], ["CONFIG_HZ", "CONFIG_ONLY_TREE"])

    def test_rust_symbols_are_compared_both_ways(self):
        self.write("rust/exports_core_generated.h", "EXPORT_SYMBOL_RUST_GPL(_RBoth);\nEXPORT_SYMBOL_RUST_GPL(_RTree);\n")
        rows = ("0x0\t_RBoth\tvmlinux\tEXPORT_SYMBOL_GPL\t", "0x0\t_RKernel\tvmlinux\tEXPORT_SYMBOL_GPL\t", "0x0\t_RModule\tdrivers/x\tEXPORT_SYMBOL_GPL\t")
        symvers = self.write("Module.symvers", "\n".join(rows) + "\n")
        found = list(prove_match.symbol_differences(self.directory, symvers))
        self.assertEqual(found, ["_RKernel is exported by the kernel only", "_RTree is exported by the tree only"])

    def object_with(self, name, members):
        source = self.write(f"{name}.c", f"struct thing {{ {members} }} *thing;\n")
        binary = source.with_suffix(".o")
        subprocess.run(["gcc", "-g", "-c", "-o", binary, source], check=True)
        subprocess.run(["pahole", "-J", binary], check=True)
        return str(binary)

    def differences(self, ours, theirs, name="thing"):
        tree, stock = self.object_with("tree", ours), self.object_with("stock", theirs)
        return list(prove_match.struct_differences(tree, [[stock]], [(name, "thing.h")]))

    def test_equal_structures_are_equal(self):
        members = "int a; long b[3]; void (*call)(int, long); unsigned x : 3, y : 5; struct { char in; } s;"
        self.assertEqual(self.differences(members, members), [])

    def test_another_size_is_found(self):
        self.assertEqual(len(self.differences("int a; long b;", "int a; long b; long c;")), 1)

    def test_a_moved_member_is_found(self):
        self.assertEqual(len(self.differences("int a; int b;", "int b; int a;")), 1)

    def test_a_moved_function_pointer_is_found(self):
        self.assertEqual(len(self.differences("void (*a)(int); void (*b)(int);", "void (*b)(int); void (*a)(int);")), 1)

    def test_a_moved_bit_field_is_found(self):
        self.assertEqual(len(self.differences("unsigned a : 3, b : 5;", "unsigned b : 5, a : 3;")), 1)

    def test_a_structure_that_is_nowhere_is_found(self):
        self.assertEqual(self.differences("int a;", "int a;", name="other"), ["struct other: not in the tree"])


if __name__ == "__main__":
    unittest.main()
