# SPDX-License-Identifier: MIT OR Apache-2.0
"""How a run ends, and what the launcher says of it."""

import enum
import pathlib
import signal
import sys


class Status(enum.IntEnum):
    """Exit statuses that are not the command's own."""

    PANIC = 240
    REPORT = 241
    TIMEOUT = 242
    VGPU_DIED = 243
    QEMU_DIED = 244
    NOT_STARTED = 245
    MODULE = 246


class Failure(Exception):
    """The run failed for a reason that is not the command's."""

    def __init__(self, status, text):
        super().__init__(text)
        self.status = status


def say(text):
    print(f"qemu-boot: {text}", file=sys.stderr, flush=True)


def ending(process):
    code = process.returncode
    if code is None:
        return "still running"
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"status {code}"


def tail(path):
    lines = pathlib.Path(path).read_text(errors="replace").strip().splitlines()
    return " / ".join(lines[-5:]) or "it said nothing"
