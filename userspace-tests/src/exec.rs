// SPDX-License-Identifier: MIT OR Apache-2.0
//! What EXEC refuses: push buffers of bad sizes or contents, and handles that were never given out.

use std::os::fd::AsFd;

use anyhow::{ensure, Result};
use mirage::uapi::{ChannelFree, Exec, IoctlId, Param, Push, SyncPoint};
use mirage::{Channel, Gpu};
use nix::errno::Errno;

use crate::channels::still_works;
use crate::fixture::{ensure_eq, Mirror};
use crate::harness::guest_tests;
use crate::ioctls::{call, describe, exec};
use crate::region::{Region, PAGE};

guest_tests![
    a_push_buffer_of_an_odd_or_excessive_size_is_invalid,
    a_push_buffer_of_broken_methods_is_invalid,
    a_push_buffer_that_cannot_be_read_is_a_fault,
    handles_that_were_never_given_out_are_unknown,
    channels_of_another_file_are_unknown,
];

/// EXEC without a fence, once: a signal is not hidden.
pub(crate) fn exec_once(gpu: &Gpu, channel: &Channel, push: &[u32]) -> nix::Result<()> {
    let pushes = [describe(push)];
    call(gpu.as_fd(), IoctlId::Exec, exec(&pushes, channel.handle())).map(drop)
}

fn a_push_buffer_of_an_odd_or_excessive_size_is_invalid() -> Result<()> {
    let mirror = Mirror::new()?;
    let max = mirror.gpu.param(Param::PushMax)? as u32;
    let push = vec![0_u32; max as usize / 4 + 1];
    for size in [
        0,
        1,
        2,
        3,
        5,
        max - 1,
        max + 1,
        max + 4,
        u32::MAX,
        u32::MAX - 3,
    ] {
        let pushes = [Push {
            size,
            ..describe(&push)
        }];
        let outcome = call(
            mirror.gpu.as_fd(),
            IoctlId::Exec,
            exec(&pushes, mirror.channel.handle()),
        );
        ensure!(
            outcome.err() == Some(Errno::EINVAL),
            "{size} bytes: {outcome:?}"
        );
    }
    Ok(())
}

/// A method that ends outside would swallow what the driver appends.
fn a_push_buffer_of_broken_methods_is_invalid() -> Result<()> {
    const TWO_WORDS_FOLLOW: u32 = (1 << 29) | (2 << 16);
    let mirror = Mirror::new()?;
    let unfinished = [
        vec![TWO_WORDS_FOLLOW],
        vec![TWO_WORDS_FOLLOW, 0],
        vec![TWO_WORDS_FOLLOW, 0, 0, TWO_WORDS_FOLLOW],
    ];
    // SEC_OP 2 and 6 do not exist.
    let undecodable = [vec![2 << 29], vec![6 << 29]];
    for push in unfinished.iter().chain(&undecodable) {
        let outcome = exec_once(&mirror.gpu, &mirror.channel, push);
        ensure!(outcome == Err(Errno::EINVAL), "{push:x?}: {outcome:?}");
    }
    still_works(&mirror)
}

fn a_push_buffer_that_cannot_be_read_is_a_fault() -> Result<()> {
    let (mirror, mut region) = (Mirror::new()?, Region::anonymous(2 * PAGE)?);
    region.unmap(PAGE..2 * PAGE)?;
    let half = region.at(PAGE - 8).addr();
    for va in [0, 8, half, u64::MAX - 7, 0xffff_8880_0000_0000] {
        let pushes = [Push {
            va,
            size: 16,
            flags: 0,
        }];
        let outcome = call(
            mirror.gpu.as_fd(),
            IoctlId::Exec,
            exec(&pushes, mirror.channel.handle()),
        );
        ensure!(
            outcome.err() == Some(Errno::EFAULT),
            "push buffer at {va:#x}: {outcome:?}"
        );
    }
    still_works(&mirror)
}

fn handles_that_were_never_given_out_are_unknown() -> Result<()> {
    let (mirror, push) = (Mirror::new()?, [0_u32; 2]);
    let pushes = [describe(&push)];
    let (fd, known) = (mirror.gpu.as_fd(), mirror.channel.handle());
    for channel in [known + 1, known + 63, u32::MAX, 1 << 31] {
        ensure_eq!(
            call(fd, IoctlId::Exec, exec(&pushes, channel)).err(),
            Some(Errno::ENOENT)
        );
        ensure_eq!(
            call(fd, IoctlId::ChannelFree, ChannelFree { channel, pad: 0 }).err(),
            Some(Errno::ENOENT)
        );
    }
    let signals = [SyncPoint {
        handle: 12_345,
        ..Default::default()
    }];
    let exec = Exec {
        sig_count: 1,
        sig_ptr: signals.as_ptr().expose_provenance() as u64,
        ..exec(&pushes, known)
    };
    ensure_eq!(call(fd, IoctlId::Exec, exec).err(), Some(Errno::ENOENT));
    let freed = mirror.svm.channel()?;
    let handle = ChannelFree {
        channel: freed.handle(),
        pad: 0,
    };
    call(fd, IoctlId::ChannelFree, handle)?;
    ensure_eq!(
        call(fd, IoctlId::ChannelFree, handle).err(),
        Some(Errno::ENOENT)
    );
    still_works(&mirror)
}

fn channels_of_another_file_are_unknown() -> Result<()> {
    let (first, second, push) = (Mirror::new()?, Mirror::new()?, [0_u32; 2]);
    let pushes = [describe(&push)];
    let spare: Vec<Channel> = (0..4)
        .map(|_| first.svm.channel())
        .collect::<mirage::Result<_>>()?;
    let foreign = spare
        .iter()
        .map(Channel::handle)
        .filter(|&handle| handle != second.channel.handle());
    for channel in foreign {
        ensure_eq!(
            call(second.gpu.as_fd(), IoctlId::Exec, exec(&pushes, channel)).err(),
            Some(Errno::ENOENT)
        );
        let free = call(
            second.gpu.as_fd(),
            IoctlId::ChannelFree,
            ChannelFree { channel, pad: 0 },
        );
        ensure_eq!(free.err(), Some(Errno::ENOENT));
    }
    still_works(&first)
}
