# SPDX-License-Identifier: MIT OR Apache-2.0
"""The launcher's command line."""

import argparse
import re
import shlex

from .status import Status

# Each of the guest's processors is a node with its own memory, so that pages can move between nodes.
NODES = 2


def mebibytes(text):
    """A size such as 2G or 1536M; each node has half of it, in whole huge pages."""
    match = re.fullmatch(r"(\d+)([MG])", text)
    size = int(match[1]) * (1024 if match[2] == "G" else 1) if match else 0
    if size == 0 or size % (2 * NODES):
        raise argparse.ArgumentTypeError(f"'{text}' is no multiple of {2 * NODES}M: write 2G or 1536M")
    return size


def parse_arguments(description):
    parser = argparse.ArgumentParser(prog="qemu-boot.sh", description=description)
    parser.add_argument("--kernel", choices=["stock", "debug"], help="default: stock")
    parser.add_argument("--kernel-dir", help=argparse.SUPPRESS)
    parser.add_argument("--gpus", type=int, default=1, metavar="N", help="virtual GPUs (default 1)")
    parser.add_argument("--overlay", action="append", default=[], metavar="DIR", help="files laid over the guest's root")
    parser.add_argument("--vgpu-args", type=shlex.split, default=[], metavar="'...'", help="passed to each virtual GPU")
    parser.add_argument("--module-args", default="", metavar="'...'", help="parameters of the module")
    parser.add_argument("--no-module", action="store_true", help="do not load mirage.ko")
    parser.add_argument("--memory", type=mebibytes, default="2G", metavar="SIZE", help="guest memory, in M or G (default 2G)")
    parser.add_argument("--leaks", action="store_true", help="end with a kmemleak scan (debug kernel)")
    parser.add_argument("--timeout", type=float, metavar="S", help="default 900 with CMD, none without")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="-- CMD", help="default: an interactive shell")
    parser.epilog = "QEMU_ARGS is appended to QEMU's command line, KERNEL_ARGS to the kernel's. Status: CMD's, or " + ", ".join(
        f"{s.value} {s.name.lower()}" for s in Status
    )
    args = parser.parse_args()
    if args.command[:1] == ["--"]:
        args.command = args.command[1:]
    elif args.command:
        parser.error(f"unexpected '{args.command[0]}': the command comes after --")
    if args.timeout is None and args.command:
        args.timeout = 900.0
    return args
