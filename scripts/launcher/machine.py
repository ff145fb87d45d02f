# SPDX-License-Identifier: MIT OR Apache-2.0
"""The processes that a guest is made of: virtual GPUs and QEMU."""

import asyncio
import contextlib
import ctypes
import json
import os
import pathlib
import re
import shlex
import signal
import subprocess

from .arguments import NODES
from .status import Failure, Status, ending, say

READY_SECONDS = 60
DRAIN_SECONDS = 2
REQUEST_SECONDS = 60
# What a slot's bridge lets through: registers, and video memory.
SLOT_WINDOWS = "mem-reserve=32M,pref64-reserve=1G"
MESSAGE_MILLISECONDS = 60000
LAST_WORDS_SECONDS = 10


def die_with_parent():
    """In a child, before exec: the kernel kills it when this process ends, however it ends."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    # Signals from the terminal are for the launcher, which ends its children in order.
    os.setsid()


class Gpu:
    """One virtual GPU, a process."""

    def __init__(self, index, scratch, logs):
        self.index = index
        self.socket = f"{scratch}/gpu{index}.sock"
        self.log = logs / f"vgpu{index}.log"
        self.process = None
        self.ended = None
        # Somebody asked for its end: then however it ends is fine.
        self.given_up = False

    async def start(self, binary, arguments):
        reader, writer = os.pipe()
        with open(self.log, "wb") as log:
            self.process = await asyncio.create_subprocess_exec(
                binary, "--socket", self.socket, "--ready-fd", str(writer), *arguments,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=[writer], preexec_fn=die_with_parent,
            )  # fmt: skip
        os.close(writer)
        self.ended = asyncio.create_task(self.process.wait())
        os.set_blocking(reader, False)
        stream = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stream), os.fdopen(reader, "rb"))
        try:
            line = await asyncio.wait_for(stream.readline(), READY_SECONDS)
        except TimeoutError:
            raise Failure(Status.VGPU_DIED, f"virtual GPU {self.index} was not ready after {READY_SECONDS} s") from None
        finally:
            transport.close()
        if not line:
            await self.ended
            raise Failure(Status.VGPU_DIED, f"virtual GPU {self.index} ended before it was ready, {ending(self.process)}")

    def device(self):
        """What QEMU calls it."""
        address = {"type": "unix", "path": self.socket}
        device = {"driver": "vfio-user-pci", "id": f"gpu{self.index}", "bus": f"port{self.index}", "socket": address}
        return device | {"x-msg-timeout": MESSAGE_MILLISECONDS}


class Monitor:
    """QEMU's monitor protocol, one command at a time."""

    def __init__(self, channel):
        self.channel = channel
        self.rest = b""
        self.asked = 0
        self.answers = asyncio.Queue()

    def feed(self, data):
        *whole, self.rest = (self.rest + data).split(b"\n")
        for message in map(json.loads, whole):
            if "return" in message or "error" in message:
                self.answers.put_nowait(message)

    async def send(self, command, arguments=None):
        self.asked += 1
        request = {"execute": command, "arguments": arguments or {}, "id": self.asked}
        await self.channel.write(json.dumps(request).encode() + b"\n")

    async def ask(self, command, arguments=None):
        await self.send(command, arguments)
        # answers to what was only sent, or given up on, come before
        while (answer := await self.answers.get()).get("id") != self.asked:
            pass
        if error := answer.get("error"):
            raise RuntimeError(error["desc"])


class Machine:
    """QEMU with its virtual GPUs, which come and go as the guest asks."""

    def __init__(self, args, places, scratch, logs):
        self.args = args
        self.places = places
        self.scratch = scratch
        self.logs = logs
        self.gpus = []
        self.qemu = None
        self.monitor = None

    async def start_gpu(self, index):
        gpu = Gpu(index, self.scratch, self.logs)
        self.gpus.append(gpu)
        await gpu.start(self.places.vgpu, self.args.vgpu_args)

    def accelerator(self):
        chosen = os.environ.get("MIRAGE_ACCEL")
        if not chosen:
            # /dev/kvm alone proves nothing: without these flags a guest hangs on it.
            flags = re.search(r"^flags\s*:.*\b(vmx|svm)\b", pathlib.Path("/proc/cpuinfo").read_text(), re.M)
            chosen = "kvm" if flags and os.access("/dev/kvm", os.R_OK | os.W_OK) else "tcg"
        # Without 57-bit addresses: an interrupt while a KASAN kernel with them identifies its processor makes a false report.
        return ["-accel", "kvm", "-cpu", "host"] if chosen == "kvm" else ["-accel", "tcg,thread=multi", "-cpu", "max,la57=off"]

    def qemu_command(self, initramfs, channels):
        kernel_line = ["console=ttyS0", "panic=-1", "oops=panic", "rdinit=/init", "loglevel=7", "unknown_nmi_panic=1"]
        # Pages move between nodes when a test says so, not when the kernel thinks so.
        kernel_line += ["numa_balancing=disable"]
        # QEMU puts the windows of its bridges where its memory map has a hole of AMD's; a device that comes later needs them.
        kernel_line += ["pci=no_e820"]
        # The time-stamp counters are the host's. Taken for unsynchronised, each look at the time would be an access to the HPET.
        kernel_line += ["tsc=reliable"]
        # A machine that is busy with other things is no lockup, and no broken timer.
        kernel_line += ["watchdog_thresh=40", "rcupdate.rcu_cpu_stall_timeout=120", "no_timer_check"]
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
        command += ["-serial", "chardev:console", "-mon", "chardev=monitor,mode=control"]
        command += ["-device", "virtio-serial-pci,max_ports=4", "-device", "virtconsole,chardev=terminal,nr=0"]
        command += ["-device", "virtserialport,chardev=status,nr=1,name=mirage.status"]
        command += ["-device", "virtserialport,chardev=control,nr=2,name=mirage.control"]
        # The last slot is empty, for a device that comes later.
        for index in range(self.args.gpus + 1):
            command += ["-device", f"pcie-root-port,id=port{index},chassis={index + 1},slot={index + 1},{SLOT_WINDOWS}"]
        for gpu in self.gpus:
            command += ["-device", json.dumps(gpu.device())]
        return command + shlex.split(os.environ.get("QEMU_ARGS", ""))

    async def start_qemu(self, initramfs, channels):
        command = self.qemu_command(initramfs, channels)
        (self.logs / "qemu-command").write_text(shlex.join(map(str, command)) + "\n")
        with open(self.logs / "qemu.log", "wb") as log:
            self.qemu = await asyncio.create_subprocess_exec(
                *command,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                pass_fds=[c.theirs.fileno() for c in channels.values()], preexec_fn=die_with_parent,
            )  # fmt: skip
        for channel in channels.values():
            channel.theirs.close()
        self.monitor = Monitor(channels["monitor"])
        await self.monitor.send("qmp_capabilities")

    # --- what the guest may ask for, to see how its driver takes it ----------------------------------------------

    async def serve(self, request):
        """Does what a line from the guest asks for, and says how it went."""
        word, _, rest = request.partition(" ")
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                if word == "kill" and rest.isdigit() and int(rest) < len(self.gpus):
                    await self.kill(self.gpus[int(rest)])
                elif request == "plug":
                    await self.plug()
                else:
                    raise RuntimeError(f"'{request}' is nothing that the launcher does")
        except (RuntimeError, TimeoutError, Failure) as error:
            return f"error: {error or 'no answer in time'}"
        return "ok"

    async def kill(self, gpu):
        """Takes a device away by surprise: from now on every read gives ones.

        The guest stands still meanwhile: QEMU (11.1) aborts when a device goes that has not read all that it was sent, since it
        takes the error of the socket for a short message, and reports both.
        """
        gpu.given_up = True
        await self.monitor.ask("stop")
        # writes are not waited for: the device reads them now
        await asyncio.sleep(DRAIN_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            gpu.process.kill()
        await asyncio.wait([gpu.ended])
        await self.monitor.ask("cont")

    async def plug(self):
        """Puts a new device into the spare slot. None is ever taken out of its slot: QEMU (11.1) aborts when a vfio-user device
        with MSI-X goes, since it takes the pending bits out of a memory region that is gone already."""
        if len(self.gpus) > self.args.gpus:
            raise RuntimeError("the spare slot is taken")
        await self.start_gpu(len(self.gpus))
        await self.monitor.ask("device_add", self.gpus[-1].device())

    # --- the end -------------------------------------------------------------------------------------------------

    async def stop(self):
        """Ends every process, first by asking, and returns when they are gone."""
        if self.qemu is not None and self.qemu.returncode is not None:
            # a virtual GPU whose client is gone ends by itself and then tells what it saw
            gpus = [gpu.ended for gpu in self.gpus if gpu.ended is not None]
            if gpus and (await asyncio.wait(gpus, timeout=LAST_WORDS_SECONDS))[1]:
                say(f"note: a virtual GPU did not end within {LAST_WORDS_SECONDS} s of QEMU's end")
        processes = [self.qemu, *(gpu.process for gpu in self.gpus)]
        children = [p for p in processes if p is not None and p.returncode is None]
        for sign in (signal.SIGTERM, signal.SIGKILL):
            for child in children:
                if child.returncode is None:
                    with contextlib.suppress(ProcessLookupError):
                        child.send_signal(sign)
            for child in children:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(child.wait(), 5)
