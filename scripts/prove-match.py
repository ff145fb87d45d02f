#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Proves that a prepared tree matches the Debian kernel that it was prepared for.

A module built on the tree runs on a kernel that somebody else built, without MODVERSIONS to catch a difference. So
whatever could differ is compared here, and every difference is named: configuration, rustc, exported Rust symbols,
sizes and offsets of the structures listed in kernel/structs.
"""

import argparse
import os
import pathlib
import re
import subprocess
import sys
import tempfile


def lines(path):
    """The lines of a list file without comments."""
    for line in pathlib.Path(path).read_text().splitlines():
        line = line.split("#")[0].strip()
        if line:
            yield line


def config(path):
    found = {}
    for line in pathlib.Path(path).read_text().splitlines():
        if match := re.fullmatch(r"(CONFIG_\w+)=(.*)", line):
            found[match[1]] = match[2]
    return found


def config_differences(tree, stock, harmless):
    ours, theirs = config(tree), config(stock)
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name) and name not in harmless:
            yield f"{name}: kernel has {theirs.get(name, 'nothing')}, tree has {ours.get(name, 'nothing')}"


def rustc_differences(stock):
    wanted = config(stock).get("CONFIG_RUSTC_VERSION_TEXT", '"nothing"').strip('"')
    have = subprocess.run(["rustc", "-V"], capture_output=True, text=True, check=True).stdout.strip()
    if wanted != have:
        yield f"kernel was built with '{wanted}', this is '{have}'"


def symbol_differences(tree, symvers):
    ours = set()
    for header in sorted(pathlib.Path(tree, "rust").glob("exports_*_generated.h")):
        ours.update(re.findall(r"EXPORT_SYMBOL_RUST_GPL\((\w+)\)", header.read_text()))
    rows = (line.split("\t") for line in pathlib.Path(symvers).read_text().splitlines())
    exported = {row[1] for row in rows if row[2] == "vmlinux"}
    # Rust's mangled names, the helpers, and the few extern "C" functions that the tree knows about
    theirs = {name for name in exported if name.startswith(("_R", "rust_helper_")) or name in ours}
    if not ours or not theirs:
        yield f"no Rust symbols found: {len(ours)} in the tree, {len(theirs)} in the kernel"
    yield from (f"{name} is exported by the kernel only" for name in sorted(theirs - ours))
    yield from (f"{name} is exported by the tree only" for name in sorted(ours - theirs))
    print(f"{len(ours & theirs)} exported Rust symbols are the same")


def compile_structs(make, structs, directory):
    """An object whose BTF has every structure, as a module built on the tree would see it."""
    headers = dict.fromkeys(["linux/sched.h", *(header for _, header in structs)])
    source = ["// SPDX-License-Identifier: GPL-2.0", *(f"#include <{h}>" for h in headers)]
    source += [f"struct {name} *mirage_{name};" for name, _ in structs]
    pathlib.Path(directory, "layout.c").write_text("\n".join(source) + "\n")
    pathlib.Path(directory, "Kbuild").write_text("obj-m := layout.o\n")
    run = subprocess.run([*make, f"M={directory}", "layout.o"], capture_output=True, text=True, check=False)
    if run.returncode:
        sys.exit(f"the structure probe does not compile:\n{run.stdout}{run.stderr}")
    subprocess.run(["pahole", "-J", f"{directory}/layout.o"], check=True)
    return f"{directory}/layout.o"


def layout(source, name):
    """Members with offset and size, and the total, as pahole reads them from BTF; None if the type is not there."""
    run = subprocess.run(["pahole", "-F", "btf", *source, "-C", name], capture_output=True, text=True, check=False)
    members = re.findall(r"^\s*(?:.*?)(\w+)?(?:\[[^;]*\])*(?:\)\([^;]*\))?;\s*/\*\s*(\d+(?::\s*\d+)?)\s+(\d+)\s*\*/", run.stdout, re.M)
    size = re.search(r"/\* size: (\d+)", run.stdout)
    return (members, size[1]) if size else None


def struct_differences(ours, stock, structs):
    same = 0
    for name, _ in structs:
        have = layout([ours], name)
        want = next(filter(None, (layout(source, name) for source in stock)), None)
        if have is None or want is None:
            yield f"struct {name}: not in {'the tree' if have is None else 'the BTF of the kernel'}"
        elif have[1] != want[1]:
            yield f"struct {name}: {want[1]} bytes in the kernel, {have[1]} in the tree"
        elif have[0] != want[0]:
            yield f"struct {name}: members differ: {sorted(set(want[0]) ^ set(have[0]))[:4]}"
        else:
            same += 1
    print(f"{same} structures have the same layout")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tree", required=True, help="prepared build tree")
    parser.add_argument("--config", required=True, nargs="+", help="configurations that came with the kernel's packages")
    parser.add_argument("--symvers", required=True, help="Module.symvers of the kernel")
    parser.add_argument("--vmlinux", required=True, help="vmlinux with the kernel's BTF")
    parser.add_argument("--drm", help="the kernel's drm.ko (decompressed)")
    parser.add_argument("--lists", required=True, help="directory with harmless-config and structs")
    parser.add_argument("make", nargs="+", help="make command for modules on the tree")
    args = parser.parse_args()

    structs = [tuple(line.split()) for line in lines(f"{args.lists}/structs")]
    stock = [[args.vmlinux]] + ([[f"--btf_base={args.vmlinux}", args.drm]] if args.drm else [])
    bad = []
    with tempfile.TemporaryDirectory(dir=os.path.dirname(args.tree)) as directory:
        for stock_config in args.config:
            bad += config_differences(f"{args.tree}/.config", stock_config, set(lines(f"{args.lists}/harmless-config")))
        bad += rustc_differences(args.config[0])
        bad += symbol_differences(args.tree, args.symvers)
        bad += struct_differences(compile_structs(args.make, structs, directory), stock, structs)
    for difference in bad:
        print(f"no match: {difference}")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
