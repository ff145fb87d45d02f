#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Boots a kernel with virtual GPUs and the module, runs a command in the guest and returns its status.

Runs inside the builder root; scripts/qemu-boot.sh is its front. Kernel messages come over ttyS0 into a log that is
searched for reports while it grows; the command has hvc0; its status comes over a virtio port.
"""

import argparse
import asyncio
import contextlib
import ctypes
import dataclasses
import enum
import fcntl
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import time
import tty


class Status(enum.IntEnum):
    """Exit statuses that are not the command's own."""

    PANIC = 240
    REPORT = 241
    TIMEOUT = 242
    VGPU_DIED = 243
    QEMU_DIED = 244
    NOT_STARTED = 245
    MODULE = 246


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
READY_SECONDS = 60
SHUTDOWN_SECONDS = 90
MESSAGE_MILLISECONDS = 60000
LINES_SHOWN = 120
# Each of the guest's processors is a node with its own memory, so that pages can move between nodes.
NODES = 2
# For the tests of memory: swap on compressed memory, a file system of files that reach a disk. They load them when they run.
MEMORY_MODULES = ["zram", "loop", "ext4"]


class Failure(Exception):
    """The run failed for a reason that is not the command's."""

    def __init__(self, status, text):
        super().__init__(text)
        self.status = status


def say(text):
    print(f"qemu-boot: {text}", file=sys.stderr, flush=True)


def die_with_parent():
    """In a child, before exec: the kernel kills it when this process ends, however it ends."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    # Signals from the terminal are for the launcher, which ends its children in order.
    os.setsid()


def mebibytes(text):
    """A size such as 2G or 1536M; each node has half of it, in whole huge pages."""
    match = re.fullmatch(r"(\d+)([MG])", text)
    size = int(match[1]) * (1024 if match[2] == "G" else 1) if match else 0
    if size == 0 or size % (2 * NODES):
        raise argparse.ArgumentTypeError(f"'{text}' is no multiple of {2 * NODES}M: write 2G or 1536M")
    return size


def arguments():
    parser = argparse.ArgumentParser(prog="qemu-boot.sh", description=__doc__.splitlines()[0])
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


class Places:
    """Where the things are that a guest is made of."""

    def __init__(self, kernel_dir):
        state = pathlib.Path(os.environ["MIRAGE_STATE"])
        target = pathlib.Path(os.environ["CARGO_TARGET_DIR"])
        self.kernel = pathlib.Path(kernel_dir)
        self.release = (self.kernel / "release").read_text().strip()
        self.module = state / "module" / self.kernel.name / "mirage.ko"
        self.vgpu = pathlib.Path(os.environ.get("MIRAGE_VGPU") or target / "release" / "mirage-vgpu")
        self.guest_binaries = target / "x86_64-unknown-linux-gnu" / "release"
        self.init = pathlib.Path(__file__).with_name("guest-init")
        self.logs = state / "log"

    def new_log_directory(self):
        """A directory for this run; those of the last twenty runs stay."""
        self.logs.mkdir(parents=True, exist_ok=True)
        old = sorted((p for p in self.logs.iterdir() if p.name.startswith("boot-")), key=lambda p: p.stat().st_mtime)
        for path in old[:-19]:
            shutil.rmtree(path, ignore_errors=True)
        return pathlib.Path(tempfile.mkdtemp(prefix=time.strftime("boot-%m%d-%H%M%S-"), dir=self.logs))


def check(args, places):
    """Says what is missing before anything is started."""
    if args.gpus and not os.access(places.vgpu, os.X_OK):
        raise Failure(Status.NOT_STARTED, f"no virtual GPU at {places.vgpu}: run 'make vgpu' (or give --gpus 0)")
    if not args.no_module and not places.module.exists():
        raise Failure(Status.NOT_STARTED, f"no module for {places.release}: run 'make driver' (or give --no-module)")
    devices = subprocess.run(["qemu-system-x86_64", "-device", "help"], capture_output=True, text=True, check=False)
    if args.gpus and '"vfio-user-pci"' not in devices.stdout:
        raise Failure(
            Status.NOT_STARTED,
            "this QEMU has no vfio-user-pci device: it takes QEMU 10.1 or later (trixie-backports has one); "
            "MIRAGE_ROOT=builder takes the builder root's",
        )


class Image:
    """The guest's root: an initramfs with busybox, the modules, the built binaries and the overlays."""

    def __init__(self, places, scratch):
        self.places = places
        self.root = pathlib.Path(scratch, "root")
        self.file = pathlib.Path(scratch, "initramfs")

    def add(self, source, target, mode=0o755):
        path = self.root / target
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, path)
        path.chmod(mode)
        return path

    def add_modules(self, with_mirage):
        release = self.places.release
        stock = self.places.kernel / "modules"
        wanted = ["drm", *MEMORY_MODULES]
        if with_mirage:
            module = self.places.module
            run = subprocess.run(["modinfo", "-F", "depends", module], capture_output=True, text=True, check=True)
            wanted += filter(None, run.stdout.strip().split(","))
            self.add(module, f"lib/modules/{release}/updates/mirage.ko", 0o644)
        for name in wanted:
            run = subprocess.run(["modprobe", "-d", stock, "-S", release, "--show-depends", name], capture_output=True, text=True, check=False)
            for path in re.findall(r"^insmod (\S+)", run.stdout, re.M):
                self.add_module(pathlib.Path(path), stock)
        for path in (stock / "lib/modules" / release).glob("modules.[bo]*"):
            self.add(path, f"lib/modules/{release}/{path.name}", 0o644)
        subprocess.run(["depmod", "-b", self.root, release], check=True)

    def add_module(self, path, stock):
        target = self.root / path.relative_to(stock)
        if path.suffix == ".xz":
            target = target.with_suffix("")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(subprocess.run(["xz", "-dc", path], capture_output=True, check=True).stdout)
        else:
            self.add(path, path.relative_to(stock), 0o644)

    def build(self, args, columns, rows):
        for name in ("dev", "proc", "sys", "tmp", "run", "root", "etc/mirage", "usr/bin", "usr/sbin", "lib"):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        os.symlink("usr/bin", self.root / "bin")
        os.symlink("usr/sbin", self.root / "sbin")
        self.add("/usr/bin/busybox", "usr/bin/busybox")
        for applet in subprocess.run(["busybox", "--list-full"], capture_output=True, text=True, check=True).stdout.split():
            path = self.root / "usr" / ("sbin" if "sbin" in applet else "bin") / os.path.basename(applet)
            if not path.exists():
                path.symlink_to("/usr/bin/busybox")
        self.add(self.places.init, "init")
        (self.root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/tmp:/bin/sh\n")
        (self.root / "etc/group").write_text("root:x:0:\nnogroup:x:65534:\n")
        for path in self.places.guest_binaries.glob("*"):
            if path.is_file() and os.access(path, os.X_OK):
                subprocess.run(["strip", "-o", self.root / "usr/bin" / path.name, path], check=True)
        self.add_modules(not args.no_module)
        for overlay in args.overlay:
            subprocess.run(["cp", "-a", f"{overlay}/.", self.root], check=True)
        boot = {
            "BOOT_MODULES": "drm",
            "BOOT_MIRAGE": int(not args.no_module),
            "BOOT_MODULE_ARGS": args.module_args,
            "BOOT_GPUS": args.gpus,
            "BOOT_LEAKS": int(args.leaks),
            "BOOT_ROWS": rows,
            "BOOT_COLUMNS": columns,
        }
        (self.root / "etc/mirage/boot").write_text("".join(f"{k}={shlex.quote(str(v))}\n" for k, v in boot.items()))
        if args.command:
            (self.root / "etc/mirage/command").write_text("exec " + shlex.join(args.command) + "\n")
        self.root.chmod(0o755)
        with open(self.file, "wb") as out:
            names = subprocess.run(["find", ".", "-print0"], cwd=self.root, capture_output=True, check=True).stdout
            subprocess.run(["cpio", "--quiet", "-0", "-o", "-H", "newc", "-R", "0:0"], cwd=self.root, input=names, stdout=out, check=True)
        shutil.rmtree(self.root)
        return self.file


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


class Run:
    """One boot, from the first process to the last."""

    def __init__(self, args, places, scratch):
        self.args = args
        self.places = places
        self.scratch = scratch
        self.logs = places.new_log_directory()
        self.console = Console(self.logs / "console.log")
        self.vgpus = []
        self.qemu = None
        self.status = None
        self.done = False
        self.notes = []
        self.status_rest = b""
        self.terminal = Terminal()
        self.monitor = None

    # --- processes -----------------------------------------------------------------------------------------------

    async def start_vgpu(self, index):
        path = f"{self.scratch}/gpu{index}.sock"
        reader, writer = os.pipe()
        with open(self.logs / f"vgpu{index}.log", "wb") as log:
            process = await asyncio.create_subprocess_exec(
                self.places.vgpu,
                "--socket", path, "--ready-fd", str(writer), *self.args.vgpu_args,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=[writer], preexec_fn=die_with_parent,
            )  # fmt: skip
        os.close(writer)
        self.vgpus.append(process)
        loop = asyncio.get_running_loop()
        os.set_blocking(reader, False)
        stream = asyncio.StreamReader()
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stream), os.fdopen(reader, "rb"))
        try:
            line = await asyncio.wait_for(stream.readline(), READY_SECONDS)
        except TimeoutError:
            raise Failure(Status.VGPU_DIED, f"virtual GPU {index} was not ready after {READY_SECONDS} s") from None
        finally:
            transport.close()
        if not line:
            await process.wait()
            raise Failure(Status.VGPU_DIED, f"virtual GPU {index} ended before it was ready, {ending(process)}")
        return path

    def accelerator(self):
        chosen = os.environ.get("MIRAGE_ACCEL")
        if not chosen:
            # /dev/kvm alone proves nothing: without these flags a guest hangs on it.
            flags = re.search(r"^flags\s*:.*\b(vmx|svm)\b", pathlib.Path("/proc/cpuinfo").read_text(), re.M)
            chosen = "kvm" if flags and os.access("/dev/kvm", os.R_OK | os.W_OK) else "tcg"
        # Without 57-bit addresses: an interrupt while a KASAN kernel with them identifies its processor makes a false report.
        return ["-accel", "kvm", "-cpu", "host"] if chosen == "kvm" else ["-accel", "tcg,thread=multi", "-cpu", "max,la57=off"]

    def qemu_command(self, sockets, initramfs, channels):
        kernel_line = ["console=ttyS0", "panic=-1", "oops=panic", "rdinit=/init", "loglevel=7", "unknown_nmi_panic=1"]
        # Pages move between nodes when a test says so, not when the kernel thinks so.
        kernel_line += ["numa_balancing=disable"]
        # A machine that is busy with other things is no lockup.
        kernel_line += ["watchdog_thresh=40", "rcupdate.rcu_cpu_stall_timeout=120"]
        command = ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-smp", f"{NODES},sockets={NODES}"]
        command += self.accelerator()
        command += ["-machine", "q35", "-m", f"{self.args.memory}M"]
        for node in range(NODES):
            command += ["-object", f"memory-backend-memfd,id=mem{node},size={self.args.memory // NODES}M,share=on"]
            command += ["-numa", f"node,nodeid={node},cpus={node},memdev=mem{node}"]
        command += ["-kernel", self.places.kernel / "vmlinuz", "-initrd", initramfs]
        command += ["-append", " ".join([*kernel_line, os.environ.get("KERNEL_ARGS", "")]).strip()]
        for name, channel in channels.items():
            command += ["-chardev", f"socket,id={name},fd={channel.theirs.fileno()}"]
        command += ["-serial", "chardev:console", "-mon", "chardev=monitor,mode=readline"]
        command += ["-device", "virtio-serial-pci,max_ports=4", "-device", "virtconsole,chardev=terminal,nr=0"]
        command += ["-device", "virtserialport,chardev=status,nr=1,name=mirage.status"]
        for index, path in enumerate(sockets):
            command += ["-device", f"pcie-root-port,id=port{index},chassis={index + 1},slot={index + 1}"]
            gpu = {"driver": "vfio-user-pci", "id": f"gpu{index}", "bus": f"port{index}", "socket": {"type": "unix", "path": path}}
            command += ["-device", json.dumps(gpu | {"x-msg-timeout": MESSAGE_MILLISECONDS})]
        return command + shlex.split(os.environ.get("QEMU_ARGS", ""))

    async def start_qemu(self, sockets, initramfs, channels):
        command = self.qemu_command(sockets, initramfs, channels)
        (self.logs / "qemu-command").write_text(shlex.join(map(str, command)) + "\n")
        with open(self.logs / "qemu.log", "wb") as log:
            self.qemu = await asyncio.create_subprocess_exec(
                *command,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                pass_fds=[c.theirs.fileno() for c in channels.values()], preexec_fn=die_with_parent,
            )  # fmt: skip
        for channel in channels.values():
            channel.theirs.close()

    # --- what comes from the guest -------------------------------------------------------------------------------

    def take_output(self, data):
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()

    def take_status(self, data):
        *whole, self.status_rest = (self.status_rest + data).split(b"\n")
        for line in whole:
            word, _, rest = line.decode(errors="replace").partition(" ")
            if word == "exit":
                self.status = int(rest)
            elif word == "done":
                self.done = True
            elif word == "bound":
                say(f"note: the driver bound {rest} of {self.args.gpus} virtual GPUs")
            else:
                self.notes.append({"load": "the module did not load: ", "unload": "the module did not unload: "}.get(word, f"{word}: ") + rest)

    async def forward_input(self, terminal):
        loop = asyncio.get_running_loop()
        stream = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stream), os.fdopen(os.dup(0), "rb"))
        while data := await stream.read(4096):
            await terminal.write(data)
        await terminal.write(b"\x04")

    # --- the run -------------------------------------------------------------------------------------------------

    async def boot(self):
        image = Image(self.places, self.scratch).build(self.args, *self.terminal.size())
        sockets = [await self.start_vgpu(index) for index in range(self.args.gpus)]
        channels = {name: Channel.new() for name in ("console", "terminal", "status", "monitor")}
        self.monitor = channels["monitor"]
        await self.start_qemu(sockets, image, channels)
        readers = [
            asyncio.create_task(channels["console"].read(self.console.feed)),
            asyncio.create_task(channels["terminal"].read(self.take_output)),
            asyncio.create_task(channels["status"].read(self.take_status)),
        ]
        drain = asyncio.create_task(channels["monitor"].read(lambda _: None))
        forward = None
        if not self.args.command:
            self.terminal.raw()
            forward = asyncio.create_task(self.forward_input(channels["terminal"]))
        try:
            await self.watch(readers)
            # QEMU is gone: what it wrote before is still to be read.
            await asyncio.wait(readers, timeout=5)
        finally:
            self.terminal.restore()
            for task in (*readers, drain, forward):
                if task:
                    task.cancel()

    async def watch(self, readers):
        """Returns when QEMU ended by itself; raises what went wrong first."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.args.timeout if self.args.timeout else None
        bound = None
        qemu = asyncio.create_task(self.qemu.wait())
        panic = asyncio.create_task(self.console.panicked.wait())
        vgpus = [asyncio.create_task(v.wait()) for v in self.vgpus]
        try:
            while not qemu.done():
                if self.status is not None and bound is None:
                    bound = loop.time() + SHUTDOWN_SECONDS
                until = bound or deadline
                waiting = min(0.5, until - loop.time()) if until else 0.5
                await asyncio.wait([qemu, panic, *(v for v in vgpus if not v.done())], timeout=max(0, waiting), return_when=asyncio.FIRST_COMPLETED)
                for reader in readers:
                    if reader.done():
                        # raises when nobody takes the output any more
                        reader.result()
                if panic.done():
                    # panic=-1 makes QEMU end once all of the panic is on the console
                    await asyncio.wait([qemu], timeout=10)
                    return
                for index, task in enumerate(vgpus):
                    if task.done() and not await self.qemu_follows(qemu):
                        raise Failure(Status.VGPU_DIED, f"virtual GPU {index} ended, {ending(self.vgpus[index])}")
                if until and loop.time() >= until and not qemu.done():
                    await self.dump_guest(qemu)
                    what = f"the guest did not shut down within {SHUTDOWN_SECONDS} s" if bound else f"no end after {self.args.timeout:g} s"
                    raise Failure(Status.TIMEOUT, what)
        finally:
            for task in (qemu, panic, *vgpus):
                task.cancel()

    async def qemu_follows(self, qemu):
        """A virtual GPU may end since QEMU did: then QEMU's end is what counts."""
        await asyncio.wait([qemu], timeout=1)
        return qemu.done()

    async def dump_guest(self, qemu):
        """Makes the guest say where its processors are, by an NMI that it takes for a panic."""
        await self.monitor.write(b"nmi\n")
        await asyncio.wait([qemu], timeout=10)

    async def stop(self):
        """Ends every process, first by asking, and returns when they are gone."""
        children = [c for c in (self.qemu, *self.vgpus) if c is not None and c.returncode is None]
        if self.qemu is not None and self.qemu.returncode is not None:
            # a virtual GPU whose client is gone ends by itself and then tells what it saw
            for child in children:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(child.wait(), 3)
        for sign in (signal.SIGTERM, signal.SIGKILL):
            for child in children:
                if child.returncode is None:
                    with contextlib.suppress(ProcessLookupError):
                        child.send_signal(sign)
            for child in children:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(child.wait(), 5)

    def verdict(self):
        """The status of a run whose QEMU ended by itself."""
        console = self.console
        if console.panicked.is_set():
            start = console.first_report if console.first_report is not None else 0
            console.show(start)
            raise Failure(Status.PANIC, "the guest panicked")
        if console.first_report is not None:
            console.show(console.first_report)
            raise Failure(Status.REPORT, f"the kernel reported: {console.headline()}")
        if self.notes:
            console.show_tail()
            raise Failure(Status.MODULE, self.notes[0])
        if self.status is None or not self.done:
            console.show_tail()
            raise Failure(Status.QEMU_DIED, f"QEMU ended before the command did, {ending(self.qemu)}: {tail(self.logs / 'qemu.log')}")
        for index, vgpu in enumerate(self.vgpus):
            if vgpu.returncode not in (0, -signal.SIGTERM):
                raise Failure(Status.VGPU_DIED, f"virtual GPU {index} failed, {ending(vgpu)}: {tail(self.logs / f'vgpu{index}.log')}")
        return self.status


def ending(process):
    code = process.returncode
    if code is None:
        return "still running"
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"status {code}"


def tail(path):
    lines = pathlib.Path(path).read_text(errors="replace").strip().splitlines()
    return " / ".join(lines[-5:]) or "it said nothing"


async def supervise(run):
    """Runs to the end or to the first signal; leaves no process in either case."""
    loop = asyncio.get_running_loop()
    caught = []
    task = asyncio.create_task(run.boot())

    def on_signal(number):
        caught.append(number)
        task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, on_signal, number)
    try:
        await task
    except asyncio.CancelledError:
        if not caught:
            raise
    except BrokenPipeError:
        caught.append(signal.SIGPIPE)
        # or Python complains about it once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Failure as failure:
        if run.console.first_report is not None:
            run.console.show(run.console.first_report)
        elif failure.status == Status.TIMEOUT:
            run.console.show_tail()
        raise
    finally:
        await run.stop()
    if caught:
        raise Failure(128 + caught[0], f"stopped by {signal.Signals(caught[0]).name}")
    return run.verdict()


def main():
    args = arguments()
    places = Places(args.kernel_dir)
    # In the builder root /run is a file system of this run alone; it goes with the last process.
    with tempfile.TemporaryDirectory(prefix="mirage-", dir="/run" if os.access("/run", os.W_OK) else None) as scratch:
        run = None
        try:
            check(args, places)
            run = Run(args, places, scratch)
            status = asyncio.run(supervise(run))
        except Failure as failure:
            say(str(failure))
            if run is not None:
                say(f"logs: {run.logs}")
            status = failure.status
    sys.exit(status)


if __name__ == "__main__":
    main()
