# SPDX-License-Identifier: MIT OR Apache-2.0
"""What comes out of the guest, and the person's terminal."""

import asyncio
import contextlib
import dataclasses
import fcntl
import os
import re
import socket
import struct
import sys
import termios
import tty

# A kernel message that begins with one of these is a report; any fails the run.
REPORT = re.compile(
    r"^(\[ *\d+\.\d+\](\[ *[CT]\d+\])? )?("
    r"-{8,}\[ cut here \]-{8,}|WARNING:|BUG:|BUG [\w-]+|Oops|general protection fault|stack segment:|double fault|"
    r"Kernel panic - not syncing|KASAN:|UBSAN:|KFENCE:|ODEBUG:|kmemleak: \d+ new suspected|kmemleak: .*out of memory|"
    r"INFO: (task .* blocked|rcu_\w+ .*(detected|stall)|possible |trying to register|inconsistent)|rcu: INFO:|"
    r"watchdog: BUG|Bad page state|list_(add|del) corruption|refcount_t:|rust_kernel: panicked|"
    r"DMA-API: (?!preallocated|debugging enabled)|sysfs: cannot create duplicate)"
)
REPORT_END = re.compile(r"---\[ end |={60}")
PANIC = re.compile(r"Kernel panic - not syncing")
LINES_SHOWN = 120


class Console:
    """The kernel's console: kept in a file, searched for reports."""

    def __init__(self, path):
        self.path = path
        self.file = open(path, "wb", buffering=0)  # closed with the process
        self.rest = b""
        self.lines = []
        self.first_report = None
        self.panicked = asyncio.Event()

    def feed(self, data):
        self.file.write(data)
        *whole, self.rest = (self.rest + data).split(b"\n")
        for line in whole:
            self.take(line.decode(errors="replace").rstrip("\r"))

    def take(self, line):
        self.lines.append(line)
        if self.first_report is None and REPORT.search(line):
            self.first_report = len(self.lines) - 1
        if PANIC.search(line):
            self.panicked.set()

    def show(self, start):
        for number, line in enumerate(self.lines[start : start + LINES_SHOWN]):
            print(line, file=sys.stderr)
            if number > 2 and REPORT_END.search(line) and not self.panicked.is_set():
                break

    def headline(self):
        """The first line of the first report that says something."""
        return next((line for line in self.lines[self.first_report :] if "[ cut here ]" not in line), "")

    def show_tail(self):
        self.show(max(0, len(self.lines) - 30))


@dataclasses.dataclass
class Channel:
    """One socket pair: QEMU has one end, the launcher reads and writes the other."""

    ours: socket.socket
    theirs: socket.socket

    @classmethod
    def new(cls):
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        return cls(ours, theirs)

    async def read(self, take):
        """Gives `take` what comes until QEMU closes its end."""
        loop = asyncio.get_running_loop()
        with contextlib.suppress(ConnectionResetError):
            while data := await loop.sock_recv(self.ours, 65536):
                take(data)

    async def write(self, data):
        with contextlib.suppress(OSError):
            await asyncio.get_running_loop().sock_sendall(self.ours, data)


class Terminal:
    """The person's terminal in raw mode, so that keys such as ^C reach the guest."""

    def __init__(self):
        self.saved = None

    def size(self):
        try:
            rows, columns = struct.unpack("hhhh", fcntl.ioctl(0, termios.TIOCGWINSZ, bytes(8)))[:2]
        except OSError:
            return 80, 24
        return (columns, rows) if rows and columns else (80, 24)

    def raw(self):
        if os.isatty(0):
            self.saved = termios.tcgetattr(0)
            tty.setraw(0)

    def restore(self):
        if self.saved is not None:
            termios.tcsetattr(0, termios.TCSADRAIN, self.saved)
