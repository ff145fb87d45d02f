// SPDX-License-Identifier: MIT OR Apache-2.0
//! The interface of 32-bit programs. The kernel takes such calls as theirs; the addresses are below 4 GiB, as such a program's are.

use std::os::fd::{AsFd, BorrowedFd};

use anyhow::{ensure, Result};
use bytemuck::{bytes_of, Pod};
use mirage::uapi::{
    ChannelAlloc, Exec, Getparam, IoctlId, Param, Push, SvmBind, SvmInit, SvmQuery, SyncPoint,
    BIND_PREFETCH, BIND_WRITE,
};
use mirage::{lanes, Gpu, GpuPtr, PushBuffer, Store};
use nix::errno::Errno;

use crate::fixture::ensure_eq;
use crate::harness::guest_tests;
use crate::region::PAGE;
use crate::submit::Syncobj;
use crate::sys::Low;

guest_tests![
    a_32_bit_program_uses_the_same_interface,
    a_32_bit_program_submits_work_that_waits_and_signals,
    a_32_bit_program_prefetches,
];

/// Where things lie in the page of a program.
const PAGES: usize = 256;
const PUSHES: usize = 512;
const WAITS: usize = 640;
const SIGNALS: usize = 768;
const VALUE: usize = 1024;
const METHODS: usize = 2048;

/// Mirrors this process in an open GPU.
fn init(low: &Low, fd: BorrowedFd<'_>) -> Result<()> {
    let param = Getparam {
        param: Param::UnmanagedMin as u64,
        value: 0,
    };
    let size = low.call(fd, IoctlId::Getparam, param)?.value;
    let init = SvmInit {
        unmanaged_addr: low.reserve(size)?,
        unmanaged_size: size,
        ..Default::default()
    };
    low.call(fd, IoctlId::SvmInit, init).map(drop)
}

/// An array below 4 GiB, for a pointer in an argument.
fn put<T: Pod>(low: &Low, offset: usize, array: &[T]) -> u64 {
    let words = array.iter().flat_map(|one| bytes_of(one).chunks(4));
    let words = words.map(|word| word.try_into().map_or(0, u32::from_ne_bytes));
    low.put(offset, &words.collect::<Vec<_>>());
    low.addr() + offset as u64
}

/// Both views of the program's page: (GPU, CPU).
fn view(low: &Low, fd: BorrowedFd<'_>) -> Result<(u32, u32)> {
    let query = SvmQuery {
        va: low.addr() & !(PAGE as u64 - 1),
        size: PAGE as u64,
        pages_ptr: put(low, PAGES, &[0_u64]),
        flags: 0,
        page_size: 8,
    };
    low.call(fd, IoctlId::SvmQuery, query)?;
    let word = low.word(PAGES);
    Ok((word as u32, (word >> 32) as u32))
}

fn a_32_bit_program_uses_the_same_interface() -> Result<()> {
    let (gpu, low) = (Gpu::open()?, Low::new()?);
    let fd = gpu.as_fd();
    let param = Getparam {
        param: Param::UnmanagedMin as u64,
        value: 0,
    };
    let param = low.call(fd, IoctlId::Getparam, param)?;
    ensure_eq!(param.value, gpu.param(Param::UnmanagedMin)?);
    init(&low, fd)?;
    let channel = low.call(fd, IoctlId::ChannelAlloc, ChannelAlloc::default())?;
    ensure_eq!((channel.flags, channel.timeout_ms), (0, 0));
    // The CPU maps the page that the call itself uses, and may write to it.
    ensure_eq!(view(&low, fd)?.1 & 0xff, 3);
    Ok(())
}

fn a_32_bit_program_submits_work_that_waits_and_signals() -> Result<()> {
    let (gpu, low) = (Gpu::open()?, Low::new()?);
    let fd = gpu.as_fd();
    init(&low, fd)?;
    let channel = low.call(fd, IoctlId::ChannelAlloc, ChannelAlloc::default())?;
    let class = gpu.param(Param::ComputeClass)? as u32;
    let at = |offset: usize| GpuPtr::new(low.addr() + offset as u64);
    let value = 0x1234_5678_9abc_def0_u64;
    put(&low, VALUE, &[0_u64; 2]);
    let (first, second) = (Syncobj::new(&gpu)?, Syncobj::new(&gpu)?);
    let submit = |offset: usize, waits: &[SyncPoint], signals: &[SyncPoint]| -> Result<()> {
        let mut words = Vec::new();
        let mut pushes = Vec::new();
        for more in 0..2 {
            let mut push = PushBuffer::for_class(class);
            let store = Store::new(at(offset + 8 * more).into(), value + more as u64);
            push.launch(&store, lanes(1))?;
            pushes.push(Push {
                va: low.addr() + (METHODS + 4 * words.len()) as u64,
                size: size_of_val(push.words()) as u32,
                flags: 0,
            });
            words.extend_from_slice(push.words());
        }
        put(&low, METHODS, &words);
        let exec = Exec {
            channel: channel.channel,
            push_count: 2,
            wait_count: waits.len() as u32,
            sig_count: signals.len() as u32,
            push_ptr: put(&low, PUSHES, &pushes),
            wait_ptr: put(&low, WAITS, waits),
            sig_ptr: put(&low, SIGNALS, signals),
            ..Default::default()
        };
        low.call(fd, IoctlId::Exec, exec).map(drop)
    };
    submit(VALUE, &[], &[first.binary(), second.point(3)])?;
    let third = Syncobj::new(&gpu)?;
    // The last of what it waits for is looked at, too.
    let early = submit(VALUE + 16, &[first.binary(), third.binary()], &[]);
    let errno = early.err().and_then(|error| error.downcast_ref().copied());
    ensure_eq!(errno, Some(Errno::EINVAL));
    submit(
        VALUE + 16,
        &[first.binary(), second.point(3)],
        &[third.binary()],
    )?;
    ensure_eq!(third.error()?, None);
    for (offset, more) in [(0, 0), (8, 1), (16, 0), (24, 1)] {
        ensure_eq!((offset, low.word(VALUE + offset)), (offset, value + more));
    }
    ensure_eq!(first.error()?, None);
    Ok(())
}

fn a_32_bit_program_prefetches() -> Result<()> {
    let (gpu, low) = (Gpu::open()?, Low::new()?);
    let fd = gpu.as_fd();
    init(&low, fd)?;
    let mapped = view(&low, fd)?.0;
    ensure!(mapped == 0, "the GPU has the page already: {mapped:#x}");
    let bind = SvmBind {
        va: low.addr(),
        size: PAGE as u64,
        op: BIND_PREFETCH,
        flags: BIND_WRITE,
        pages_done: 0,
    };
    let done = low.call(fd, IoctlId::SvmBind, bind)?.pages_done;
    ensure_eq!((done, view(&low, fd)?.0 & 0xff), (1, 7));
    Ok(())
}
