// SPDX-License-Identifier: MIT OR Apache-2.0
//! What tests switch on in the kernel: settings, swap, a disk, groups with a limit, kernel files about pages. All of it goes back when dropped.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{ensure, Context, Result};
use nix::mount::{mount, MsFlags};

use crate::harness::{skip, wait_until};
use crate::region::{Region, PAGE, WORD};
use crate::sys;

/// A file of /proc/sys or /sys that has another value for a while.
#[derive(Debug)]
pub(crate) struct Setting {
    path: PathBuf,
    before: String,
}

impl Setting {
    /// Skips the test where the kernel has no such setting.
    pub(crate) fn set(path: impl AsRef<Path>, value: &str) -> Result<Self> {
        let path = path.as_ref().to_owned();
        let Ok(text) = std::fs::read_to_string(&path) else {
            return skip(format!("no {}", path.display()));
        };
        // Of a choice, `a [b] c`, the one in brackets is the present one.
        let chosen = text
            .split_once('[')
            .and_then(|(_, rest)| rest.split_once(']'));
        let before = chosen.map_or(text.trim(), |(word, _)| word).to_owned();
        std::fs::write(&path, value).with_context(|| format!("{value} into {}", path.display()))?;
        Ok(Setting { path, before })
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        let _ = std::fs::write(&self.path, &self.before);
    }
}

/// Whether the kernel is of this series or a later one.
pub(crate) fn at_least(major: u32, minor: u32) -> Result<bool> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|n| n.parse::<u32>().unwrap_or(0));
    let running = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    Ok(running >= (major, minor))
}

fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .context(program.to_owned())?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{program} {}: {}",
        arguments.join(" "),
        text.trim()
    );
    Ok(())
}

/// Loads a module, or skips the test where there is none. What is built in counts.
fn need_module(name: &str, sign: &str) -> Result<()> {
    let _ = run("modprobe", &[name]);
    if !Path::new(sign).exists() && !std::fs::read_to_string("/proc/filesystems")?.contains(sign) {
        return skip(format!("no {name}"));
    }
    Ok(())
}

/// Swap space in compressed memory.
#[derive(Debug)]
pub(crate) struct Swap {
    device: String,
    number: String,
}

impl Swap {
    pub(crate) fn on() -> Result<Self> {
        need_module("zram", "/sys/class/zram-control")?;
        let number = std::fs::read_to_string("/sys/class/zram-control/hot_add")
            .context("hot_add")?
            .trim()
            .to_owned();
        let swap = Swap {
            device: format!("/dev/zram{number}"),
            number,
        };
        wait_until(Duration::from_secs(5), || Path::new(&swap.device).exists())?;
        std::fs::write(format!("/sys/block/zram{}/disksize", swap.number), "256M")
            .context("disksize")?;
        run("mkswap", &[&swap.device])?;
        run("swapon", &[&swap.device])?;
        Ok(swap)
    }

    /// Brings everything back into memory.
    pub(crate) fn off(&self) -> Result<()> {
        run("swapoff", &[&self.device])
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        let _ = self.off();
        let _ = std::fs::write(format!("/sys/block/zram{}/reset", self.number), "1");
        let _ = std::fs::write("/sys/class/zram-control/hot_remove", &self.number);
    }
}

/// A file system whose files reach a (small, simulated) disk.
#[derive(Debug)]
pub(crate) struct Disk {
    image: PathBuf,
    mounted: PathBuf,
}

impl Disk {
    /// 24 MiB of ext4.
    pub(crate) fn new() -> Result<Self> {
        need_module("loop", "/dev/loop-control")?;
        need_module("ext4", "ext4")?;
        let name = format!("mirage-disk-{}", std::process::id());
        let (image, mounted) = (
            Path::new("/tmp").join(format!("{name}.img")),
            Path::new("/tmp").join(name),
        );
        File::create(&image)?.set_len(24 << 20)?;
        run("mke2fs", &["-F", "-b", "4096", &image.to_string_lossy()])?;
        std::fs::create_dir_all(&mounted)?;
        let disk = Disk { image, mounted };
        disk.mount()?;
        Ok(disk)
    }

    fn mount(&self) -> Result<()> {
        let (image, mounted) = (self.image.to_string_lossy(), self.mounted.to_string_lossy());
        run("mount", &["-t", "ext4", "-o", "loop", &image, &mounted])
    }

    fn unmount(&self) -> Result<()> {
        run("umount", &["-d", &self.mounted.to_string_lossy()])
    }

    /// Mounts it afresh: nothing in memory is left of its files.
    pub(crate) fn mount_again(&self) -> Result<()> {
        self.unmount()?;
        self.mount()
    }

    /// A new file of `len` bytes.
    pub(crate) fn file(&self, len: usize) -> Result<File> {
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(self.path())?;
        file.set_len(len as u64)?;
        Ok(file)
    }

    /// Holds up who writes to a page of its files that was clean, until [`Disk::thaw`].
    pub(crate) fn freeze(&self) -> Result<()> {
        const FIFREEZE: u64 = 0xc004_5877;
        let root = File::open(&self.mounted)?;
        sys::ioctl(root.as_fd(), FIFREEZE, &mut [0; 4]).context("FIFREEZE")
    }

    /// Lets them go on.
    pub(crate) fn thaw(&self) -> Result<()> {
        const FITHAW: u64 = 0xc004_5878;
        let root = File::open(&self.mounted)?;
        sys::ioctl(root.as_fd(), FITHAW, &mut [0; 4]).context("FITHAW")
    }

    /// Where [`Disk::file`] is.
    pub(crate) fn path(&self) -> PathBuf {
        self.mounted.join("file")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = self.unmount();
        let _ = std::fs::remove_dir(&self.mounted);
        let _ = std::fs::remove_file(&self.image);
    }
}

/// A memory cgroup with a limit.
#[derive(Debug)]
pub(crate) struct Cgroup(PathBuf);

impl Cgroup {
    /// Without swap of its own if there is none for `swap_bytes`.
    pub(crate) fn new(bytes: usize, swap_bytes: usize) -> Result<Self> {
        let root = Path::new("/tmp/mirage-cgroup");
        std::fs::create_dir_all(root)?;
        if !root.join("cgroup.controllers").exists() {
            let mounted = mount(
                None::<&str>,
                root,
                Some("cgroup2"),
                MsFlags::empty(),
                None::<&str>,
            );
            if mounted.is_err() {
                return skip("no cgroup2");
            }
        }
        if std::fs::write(root.join("cgroup.subtree_control"), "+memory").is_err() {
            return skip("no memory controller");
        }
        let group = root.join(format!("test-{}", std::process::id()));
        std::fs::create_dir(&group)?;
        std::fs::write(group.join("memory.max"), bytes.to_string())?;
        // Without swap in the kernel there is no such file, and no need for one.
        let _ = std::fs::write(group.join("memory.swap.max"), swap_bytes.to_string());
        Ok(Cgroup(group))
    }

    /// Takes the calling process in.
    pub(crate) fn join(&self) -> Result<()> {
        std::fs::write(self.0.join("cgroup.procs"), "0").context("cgroup.procs")
    }

    /// A number of one of its files.
    pub(crate) fn number(&self, file: &str, key: &str) -> Result<u64> {
        let text = std::fs::read_to_string(self.0.join(file))?;
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(key))
            .context(text.clone())?;
        Ok(value.trim().parse()?)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = wait_until(Duration::from_secs(10), || {
            std::fs::remove_dir(&self.0).is_ok()
        });
    }
}

/// What /proc/PID/pagemap says of a page.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PageMap(u64);

impl PageMap {
    pub(crate) fn present(self) -> bool {
        (self.0 >> 63) & 1 != 0
    }

    pub(crate) fn swapped(self) -> bool {
        (self.0 >> 62) & 1 != 0
    }

    pub(crate) fn soft_dirty(self) -> bool {
        (self.0 >> 55) & 1 != 0
    }

    /// The page's number in memory, if it is there.
    pub(crate) fn frame(self) -> Option<u64> {
        self.present().then_some(self.0 & ((1 << 55) - 1))
    }
}

/// Of each page of a region.
pub(crate) fn pagemap(region: &Region) -> Result<Vec<PageMap>> {
    let mut bytes = vec![0; region.pages() * WORD];
    let offset = region.at(0).addr() / PAGE as u64 * WORD as u64;
    File::open("/proc/self/pagemap")?
        .read_exact_at(&mut bytes, offset)
        .context("pagemap")?;
    let words: Vec<u64> = bytemuck::pod_collect_to_vec(&bytes);
    Ok(words.into_iter().map(PageMap).collect())
}

/// Kilobytes of a line of /proc/self/smaps for the mapping that holds a region's start.
pub(crate) fn smaps_kilobytes(region: &Region, key: &str) -> Result<usize> {
    let (smaps, at) = (
        std::fs::read_to_string("/proc/self/smaps")?,
        region.at(0).addr(),
    );
    let mut inside = false;
    for line in smaps.lines() {
        let range = line
            .split_whitespace()
            .next()
            .and_then(|word| word.split_once('-'));
        let ends = range.and_then(|(a, b)| {
            Some((
                u64::from_str_radix(a, 16).ok()?,
                u64::from_str_radix(b, 16).ok()?,
            ))
        });
        if let Some((start, end)) = ends {
            inside = (start..end).contains(&at);
        } else if let Some(value) = line.strip_prefix(key).filter(|_| inside) {
            let number = value.trim_start_matches(':').split_whitespace().next();
            return number.context("smaps")?.parse().context("smaps");
        }
    }
    Ok(0)
}
