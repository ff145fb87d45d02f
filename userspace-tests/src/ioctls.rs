// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the driver refuses: flags, padding, alignment, ranges and handles that make no sense.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use anyhow::{ensure, Context, Result};
use bytemuck::{bytes_of_mut, Pod};
use mirage::uapi::{
    ChannelAlloc, ChannelFree, Exec, Getparam, IoctlId, Param, Push, SvmInit, DRM_IOCTL_BASE,
    FEATURE_USERFAULTFD,
};
use mirage::Gpu;
use nix::errno::Errno;

use crate::fixture::{ensure_eq, Mirror};
use crate::harness::guest_tests;
use crate::sys;

guest_tests![
    parameters_of_the_device_make_sense,
    an_unknown_parameter_is_invalid,
    a_second_svm_init_is_busy,
    a_range_that_the_driver_cannot_use_is_invalid,
    unknown_flags_and_padding_are_invalid,
    without_svm_init_there_is_nothing_to_use,
    a_forked_child_may_not_use_the_file_of_its_parent,
    syncobjs_and_timelines_are_advertised,
    fdinfo_names_the_driver,
];

/// Request code as the header has it for an argument of `size` bytes.
pub(crate) fn request(nr: u8, size: usize) -> u64 {
    nix::request_code_readwrite!(DRM_IOCTL_BASE, nr, size)
}

pub(crate) fn call<T: Pod>(fd: BorrowedFd<'_>, id: IoctlId, mut argument: T) -> nix::Result<T> {
    sys::ioctl(
        fd,
        request(id.nr(), size_of::<T>()),
        bytes_of_mut(&mut argument),
    )?;
    Ok(argument)
}

/// A push buffer as EXEC wants it described.
pub(crate) fn describe(push: &[u32]) -> Push {
    Push {
        va: push.as_ptr().expose_provenance() as u64,
        size: size_of_val(push) as u32,
        flags: 0,
    }
}

/// EXEC of `pushes` without syncobjs.
pub(crate) fn exec(pushes: &[Push], channel: u32) -> Exec {
    Exec {
        channel,
        push_count: pushes.len() as u32,
        push_ptr: pushes.as_ptr().expose_provenance() as u64,
        ..Default::default()
    }
}

/// Another open file of the same GPU, without a mirror.
pub(crate) fn open() -> Result<File> {
    let path = Gpu::open()?.path().to_owned();
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .context("open")
}

fn parameters_of_the_device_make_sense() -> Result<()> {
    let gpu = Gpu::open()?;
    ensure_eq!(gpu.param(Param::Chipset)?, 0x1400_00a1);
    ensure_eq!(gpu.param(Param::ComputeClass)?, 0xfec0);
    ensure!(
        gpu.param(Param::VramSize)? >= 64 << 20,
        "VRAM is smaller than the device can be made"
    );
    ensure!(
        (64..=4096).contains(&gpu.param(Param::ChannelsMax)?),
        "the number of channels of the device"
    );
    ensure!(
        gpu.param(Param::UnmanagedAlign)?.is_power_of_two(),
        "an alignment is a power of two"
    );
    ensure!(gpu.param(Param::UnmanagedMin)? > 0, "rings need room");
    ensure!(gpu.param(Param::PushMax)? >= 4096, "no room for a launch");
    ensure_eq!(gpu.param(Param::CopyClass)?, 0xc3b5);
    ensure_eq!(gpu.param(Param::CopyEngines)?, 2);
    ensure_eq!(gpu.param(Param::Features)? & !FEATURE_USERFAULTFD, 0);
    let (file, device) = (Param::ChannelsPerFile, Param::ChannelsMax);
    ensure!(
        (1..gpu.param(device)?).contains(&gpu.param(file)?),
        "one file can have all channels"
    );
    let (default, max) = (Param::TimeoutDefault, Param::TimeoutMax);
    ensure!(
        (1000..=gpu.param(max)?).contains(&gpu.param(default)?),
        "the time-out of who asks for none"
    );
    for at_once in [Param::PushesMax, Param::SyncsMax, Param::QueryPagesMax] {
        ensure!(gpu.param(at_once)? >= 16, "{at_once:?}");
    }
    Ok(())
}

fn an_unknown_parameter_is_invalid() -> Result<()> {
    let file = open()?;
    let known = Param::QueryPagesMax as u64;
    for param in [known + 1, u64::MAX, 1 << 32, 1 << 63] {
        let outcome = call(
            file.as_fd(),
            IoctlId::Getparam,
            Getparam { param, value: 0 },
        );
        ensure_eq!(outcome.err(), Some(Errno::EINVAL));
    }
    Ok(())
}

fn a_second_svm_init_is_busy() -> Result<()> {
    let gpu = Gpu::open()?;
    let first = sys::mirror(&gpu)?;
    ensure_eq!(
        sys::mirror(&gpu).err().and_then(|error| error.errno()),
        Some(Errno::EBUSY)
    );
    first.channel().context("the first mirror was damaged")?;
    Ok(())
}

fn a_range_that_the_driver_cannot_use_is_invalid() -> Result<()> {
    let gpu = Gpu::open()?;
    let (align, min) = (
        gpu.param(Param::UnmanagedAlign)?,
        gpu.param(Param::UnmanagedMin)?.max(1),
    );
    let (good, end, size) = (
        0x10_0000_0000_u64.next_multiple_of(align),
        1 << 40,
        min.next_multiple_of(align),
    );
    let mut bad = vec![
        ("starts at 0", 0, size),
        ("is empty", good, 0),
        ("ends above 2^40", end - size + align, size),
        ("starts above 2^40", 0x7f00_0000_0000, size),
        (
            "ends behind the end of the address space",
            0_u64.wrapping_sub(align),
            2 * align,
        ),
        (
            "is the whole address space",
            align,
            0_u64.wrapping_sub(align),
        ),
    ];
    if align > 1 {
        bad.extend([
            ("starts between", good + align / 2, size),
            ("ends between", good, size + align / 2),
        ]);
    }
    if min > align {
        bad.push(("is too small", good, min.next_multiple_of(align) - align));
    }
    for (what, unmanaged_addr, unmanaged_size) in bad {
        let args = SvmInit {
            unmanaged_addr,
            unmanaged_size,
            ..Default::default()
        };
        let outcome = call(gpu.as_fd(), IoctlId::SvmInit, args);
        ensure!(
            outcome.err() == Some(Errno::EINVAL),
            "a range that {what}: {outcome:?}"
        );
    }
    // None of them left anything behind.
    sys::mirror(&gpu).context("a good range after the bad ones")?;
    Ok(())
}

fn unknown_flags_and_padding_are_invalid() -> Result<()> {
    let (mirror, push) = (Mirror::new()?, [0_u32; 2]);
    let pushes = [describe(&push)];
    let (fd, channel, file) = (mirror.gpu.as_fd(), mirror.channel.handle(), open()?);
    let (unmanaged_addr, unmanaged_size) = mirror.svm.unmanaged();
    for bit in (0..32).map(|bit| 1 << bit) {
        let init = SvmInit {
            unmanaged_addr,
            unmanaged_size,
            flags: bit,
            pad: 0,
        };
        ensure_eq!(
            call(file.as_fd(), IoctlId::SvmInit, init).err(),
            Some(Errno::EINVAL)
        );
        let init = SvmInit {
            unmanaged_addr,
            unmanaged_size,
            flags: 0,
            pad: bit,
        };
        ensure_eq!(
            call(file.as_fd(), IoctlId::SvmInit, init).err(),
            Some(Errno::EINVAL)
        );
        let alloc = ChannelAlloc {
            flags: bit,
            ..Default::default()
        };
        ensure_eq!(
            call(fd, IoctlId::ChannelAlloc, alloc).err(),
            Some(Errno::EINVAL)
        );
        let free = ChannelFree { channel, pad: bit };
        ensure_eq!(
            call(fd, IoctlId::ChannelFree, free).err(),
            Some(Errno::EINVAL)
        );
        let exec = Exec {
            flags: bit,
            ..exec(&pushes, channel)
        };
        ensure_eq!(call(fd, IoctlId::Exec, exec).err(), Some(Errno::EINVAL));
    }
    Ok(())
}

fn without_svm_init_there_is_nothing_to_use() -> Result<()> {
    let (file, push) = (open()?, [0_u32; 2]);
    let fd = file.as_fd();
    ensure_eq!(
        call(fd, IoctlId::ChannelAlloc, ChannelAlloc::default()).err(),
        Some(Errno::ENXIO)
    );
    let unknown = |error| matches!(error, Some(Errno::ENOENT | Errno::ENXIO));
    ensure!(
        unknown(call(fd, IoctlId::ChannelFree, ChannelFree::default()).err()),
        "freed a channel of no mirror"
    );
    ensure!(
        unknown(call(fd, IoctlId::Exec, exec(&[describe(&push)], 0)).err()),
        "ran work of no mirror"
    );
    Ok(())
}

fn syncobjs_and_timelines_are_advertised() -> Result<()> {
    const GET_CAP: u8 = 0x0c;
    const CAP_SYNCOBJ: u64 = 0x13;
    const CAP_SYNCOBJ_TIMELINE: u64 = 0x14;
    for capability in [CAP_SYNCOBJ, CAP_SYNCOBJ_TIMELINE] {
        let mut argument = [capability, 0];
        sys::ioctl(
            Gpu::open()?.as_fd(),
            request(GET_CAP, 16),
            bytemuck::cast_slice_mut(&mut argument),
        )?;
        ensure!(
            argument == [capability, 1],
            "capability {capability:#x} is {}",
            argument[1]
        );
    }
    Ok(())
}

fn fdinfo_names_the_driver() -> Result<()> {
    let gpu = Gpu::open()?;
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", gpu.as_fd().as_raw_fd()))?;
    let mut lines = info.lines().filter_map(|line| line.split_once(':'));
    let driver = lines.find_map(|(key, value)| (key == "drm-driver").then_some(value.trim()));
    ensure_eq!(driver, Some("mirage"));
    Ok(())
}

fn a_forked_child_may_not_use_the_file_of_its_parent() -> Result<()> {
    let (mirror, push) = (Mirror::new()?, [0_u32; 2]);
    let child = sys::fork(|| {
        let (fd, channel) = (mirror.gpu.as_fd(), mirror.channel.handle());
        let (unmanaged_addr, unmanaged_size) = mirror.svm.unmanaged();
        let init = SvmInit {
            unmanaged_addr,
            unmanaged_size,
            ..Default::default()
        };
        ensure_eq!(call(fd, IoctlId::SvmInit, init).err(), Some(Errno::EPERM));
        ensure_eq!(
            call(fd, IoctlId::ChannelAlloc, ChannelAlloc::default()).err(),
            Some(Errno::EPERM)
        );
        ensure_eq!(
            call(fd, IoctlId::Exec, exec(&[describe(&push)], channel)).err(),
            Some(Errno::EPERM)
        );
        ensure_eq!(
            call(fd, IoctlId::ChannelFree, ChannelFree { channel, pad: 0 }).err(),
            Some(Errno::EPERM)
        );
        // A file of its own is fine.
        crate::channels::still_works(&Mirror::new()?)
    })?;
    child.join()?;
    crate::channels::still_works(&mirror)
}
