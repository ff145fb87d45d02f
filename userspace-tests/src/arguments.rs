// SPDX-License-Identifier: MIT OR Apache-2.0
//! Arguments of ioctls that are too short, too long, or not there.

use std::os::fd::AsFd;

use anyhow::{ensure, Result};
use mirage::uapi::{
    ChannelAlloc, ChannelFree, Exec, Getparam, IoctlId, Param, SvmInit, DRM_COMMAND_BASE,
};
use mirage::Gpu;
use nix::errno::Errno;

use crate::channels::still_works;
use crate::fixture::{ensure_eq, Mirror};
use crate::harness::guest_tests;
use crate::ioctls::{open, request};
use crate::region::{Region, PAGE};
use crate::sys;

guest_tests![
    an_argument_that_is_too_short_counts_as_padded_with_zeros,
    an_argument_that_is_too_long_changes_nothing,
    an_argument_that_cannot_be_accessed_is_a_fault,
    an_unknown_ioctl_is_invalid,
];

/// Sizes come with the request code, and DRM pads what is missing.
fn an_argument_that_is_too_short_counts_as_padded_with_zeros() -> Result<()> {
    let mirror = Mirror::new()?;
    let (fd, handle) = (mirror.gpu.as_fd(), mirror.channel.handle());
    let short = |id: IoctlId, argument: &mut [u8]| {
        sys::ioctl(fd, request(id.nr(), argument.len()), argument).err()
    };
    // Push buffer of 0 bytes, range of 0 bytes, no value to return, handle without padding.
    ensure_eq!(short(IoctlId::Exec, &mut [0xff; 8]), Some(Errno::EINVAL));
    ensure_eq!(
        sys::ioctl(
            open()?.as_fd(),
            request(IoctlId::SvmInit.nr(), 8),
            &mut [0; 8]
        )
        .err(),
        Some(Errno::EINVAL)
    );
    ensure_eq!(short(IoctlId::Getparam, &mut [0; 8]), None);
    ensure_eq!(short(IoctlId::Getparam, &mut []), None);
    ensure_eq!(short(IoctlId::ChannelFree, &mut handle.to_ne_bytes()), None);
    Ok(())
}

fn an_argument_that_is_too_long_changes_nothing() -> Result<()> {
    let (gpu, mut argument) = (Gpu::open()?, [0_u64; 512]);
    argument[2..].fill(u64::MAX);
    sys::ioctl(
        gpu.as_fd(),
        request(IoctlId::Getparam.nr(), 4096),
        bytemuck::cast_slice_mut(&mut argument),
    )?;
    ensure_eq!(argument[1], gpu.param(Param::Chipset)?);
    Ok(())
}

fn an_argument_that_cannot_be_accessed_is_a_fault() -> Result<()> {
    let (mirror, mut region) = (Mirror::new()?, Region::anonymous(2 * PAGE)?);
    region.unmap(PAGE..2 * PAGE)?;
    let sizes = [
        (IoctlId::Getparam, size_of::<Getparam>()),
        (IoctlId::SvmInit, size_of::<SvmInit>()),
        (IoctlId::ChannelAlloc, size_of::<ChannelAlloc>()),
        (IoctlId::ChannelFree, size_of::<ChannelFree>()),
        (IoctlId::Exec, size_of::<Exec>()),
    ];
    for (id, size) in sizes {
        for addr in [0, region.at(PAGE - 4).addr(), u64::MAX - 3] {
            let outcome = sys::ioctl_at(mirror.gpu.as_fd(), request(id.nr(), size), addr);
            ensure!(
                outcome.err() == Some(Errno::EFAULT),
                "{id:?} with its argument at {addr:#x}: {outcome:?}"
            );
        }
    }
    still_works(&mirror)
}

fn an_unknown_ioctl_is_invalid() -> Result<()> {
    let mirror = Mirror::new()?;
    for nr in IoctlId::Exec.nr() + 1..DRM_COMMAND_BASE + 0x60 {
        let outcome = sys::ioctl(mirror.gpu.as_fd(), request(nr, 64), &mut [0; 64]);
        ensure!(
            matches!(outcome, Err(Errno::EINVAL | Errno::ENOTTY)),
            "ioctl {nr:#x}: {outcome:?}"
        );
    }
    Ok(())
}
