#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Boots a kernel with virtual GPUs and the module, runs a command in the guest and returns its status.

Runs inside the builder root; scripts/qemu-boot.sh is its front. Kernel messages come over ttyS0 into a log that is
searched for reports while it grows; the command has hvc0; its status comes over a virtio port; over another one the guest
asks for its device to be taken away or brought back.
"""

import asyncio
import os
import signal
import sys
import tempfile

from launcher.arguments import parse_arguments
from launcher.console import Channel, Console, Terminal
from launcher.image import Image, Places, check
from launcher.machine import Machine
from launcher.status import Failure, Status, ending, say, tail

# For each step of the guest's end, such as one scan for leaks: 25 s on an idle machine.
STEP_SECONDS = 180


class Lines:
    """Bytes that come as they come, taken by the line."""

    def __init__(self, take):
        self.take = take
        self.rest = b""

    def feed(self, data):
        *whole, self.rest = (self.rest + data).split(b"\n")
        for line in whole:
            self.take(line.decode(errors="replace"))


class Run:
    """One boot, from the first process to the last."""

    def __init__(self, args, places, scratch):
        self.args = args
        self.places = places
        self.scratch = scratch
        self.logs = places.new_log_directory()
        self.console = Console(self.logs / "console.log")
        self.machine = Machine(args, places, scratch, self.logs)
        self.status = None
        self.done = False
        self.heard = None  # when the guest last told something
        self.step = "stop"
        self.notes = []
        self.requests = asyncio.Queue()
        self.terminal = Terminal()

    # --- what comes from the guest -------------------------------------------------------------------------------

    def take_output(self, data):
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()

    def take_status(self, line):
        word, _, rest = line.partition(" ")
        self.heard = asyncio.get_running_loop().time()
        if word == "exit":
            self.status = int(rest)
        elif word == "step":
            self.step = rest
        elif word == "done":
            self.done = True
            self.step = "power-off"
        elif word == "bound":
            say(f"note: the driver bound {rest} of {self.args.gpus} virtual GPUs")
        else:
            self.notes.append({"load": "the module did not load: ", "unload": "the module did not unload: "}.get(word, f"{word}: ") + rest)

    async def serve_requests(self, control):
        while True:
            answer = await self.machine.serve(await self.requests.get())
            await control.write(answer.encode() + b"\n")

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
        for index in range(self.args.gpus):
            await self.machine.start_gpu(index)
        channels = {name: Channel.new() for name in ("console", "terminal", "status", "control", "monitor")}
        await self.machine.start_qemu(image, channels)
        takers = {
            "console": self.console.feed,
            "terminal": self.take_output,
            "status": Lines(self.take_status).feed,
            "control": Lines(self.requests.put_nowait).feed,
            "monitor": self.machine.monitor.feed,
        }
        readers = [asyncio.create_task(channels[name].read(take)) for name, take in takers.items()]
        others = [asyncio.create_task(self.serve_requests(channels["control"]))]
        if not self.args.command:
            self.terminal.raw()
            others.append(asyncio.create_task(self.forward_input(channels["terminal"])))
        try:
            await self.watch([*readers, others[0]])
            # QEMU is gone: what it wrote before is still to be read.
            await asyncio.wait(readers, timeout=5)
        finally:
            self.terminal.restore()
            for task in (*readers, *others):
                task.cancel()

    async def watch(self, tasks):
        """Returns when QEMU ended by itself; raises what went wrong first."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.args.timeout if self.args.timeout else None
        qemu = asyncio.create_task(self.machine.qemu.wait())
        panic = asyncio.create_task(self.console.panicked.wait())
        try:
            while not qemu.done():
                ends = self.status is not None
                until = self.heard + STEP_SECONDS if ends else deadline
                waiting = min(0.5, until - loop.time()) if until else 0.5
                gpus = [gpu.ended for gpu in self.machine.gpus if not gpu.ended.done()]
                await asyncio.wait([qemu, panic, *gpus], timeout=max(0, waiting), return_when=asyncio.FIRST_COMPLETED)
                for task in tasks:
                    if task.done():
                        # raises when nobody takes the output any more
                        task.result()
                if panic.done():
                    # panic=-1 makes QEMU end once all of the panic is on the console
                    await asyncio.wait([qemu], timeout=10)
                    return
                for gpu in self.machine.gpus:
                    if gpu.ended.done() and not gpu.given_up and not await self.qemu_follows(qemu):
                        raise Failure(Status.VGPU_DIED, f"virtual GPU {gpu.index} ended, {ending(gpu.process)}")
                if until and loop.time() >= until and not qemu.done():
                    await self.dump_guest(qemu)
                    what = f"the guest's end: {self.step} took more than {STEP_SECONDS} s" if ends else f"no end after {self.args.timeout:g} s"
                    raise Failure(Status.TIMEOUT, what)
        finally:
            for task in (qemu, panic):
                task.cancel()

    async def qemu_follows(self, qemu):
        """A virtual GPU may end since QEMU did: then QEMU's end is what counts."""
        await asyncio.wait([qemu], timeout=10)
        return qemu.done()

    async def dump_guest(self, qemu):
        """Makes the guest say where its processors are, by an NMI that it takes for a panic."""
        await self.machine.monitor.send("inject-nmi")
        await asyncio.wait([qemu], timeout=10)

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
            raise Failure(Status.QEMU_DIED, f"QEMU ended before the command did, {ending(self.machine.qemu)}: {tail(self.logs / 'qemu.log')}")
        for gpu in self.machine.gpus:
            if not gpu.given_up and gpu.process.returncode not in (0, -signal.SIGTERM):
                raise Failure(Status.VGPU_DIED, f"virtual GPU {gpu.index} failed, {ending(gpu.process)}: {tail(gpu.log)}")
        return self.status


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
        await run.machine.stop()
    if caught:
        raise Failure(128 + caught[0], f"stopped by {signal.Signals(caught[0]).name}")
    return run.verdict()


def main():
    args = parse_arguments(__doc__.splitlines()[0])
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
