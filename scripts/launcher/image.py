# SPDX-License-Identifier: MIT OR Apache-2.0
"""The guest's root file system and what it is made of."""

import os
import pathlib
import re
import shlex
import shutil
import subprocess
import tempfile
import time

from .status import Failure, Status

# For the tests of memory: swap on compressed memory, a file system of files that reach a disk. They load them when they run.
MEMORY_MODULES = ["zram", "loop", "ext4"]


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
        self.init = pathlib.Path(__file__).parent.with_name("guest-init")
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
