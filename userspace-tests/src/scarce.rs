// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory that is not to be had: the kernel's fault injection refuses each allocation of an ioctl, one after the other.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;

use anyhow::{ensure, Context, Result};
use mirage::uapi::{ChannelAlloc, IoctlId, Param, SvmBind, SvmInit};
use mirage::{lanes, Channel, Gpu, Store};
use nix::errno::Errno;

use crate::channels::still_works;
use crate::exec::exec_once;
use crate::fixture::{ensure_eq, Mirror};
use crate::harness::{guest_tests, skip};
use crate::ioctls::call;
use crate::kernel::Setting;
use crate::query::query;
use crate::region::{Region, PAGE};
use crate::sys::Low;

guest_tests![
    svm_init_survives_each_allocation_that_fails,
    channel_alloc_survives_each_allocation_that_fails,
    exec_survives_each_allocation_that_fails,
    svm_bind_survives_each_allocation_that_fails,
    svm_query_survives_each_allocation_that_fails,
];

/// More allocations than any of these ioctls makes.
const ALLOCATIONS_MAX: u32 = 500;

/// The n-th allocation of this thread fails, and no other. Pages for programs do not count: who touches them would have to wait.
struct FailNth {
    file: File,
    _settings: Vec<Setting>,
}

impl FailNth {
    fn new() -> Result<Self> {
        let Ok(file) = File::options()
            .read(true)
            .write(true)
            .open("/proc/thread-self/fail-nth")
        else {
            return skip("the kernel has no fault injection");
        };
        let settings = [
            ("failslab/ignore-gfp-wait", "N"),
            ("failslab/verbose", "0"),
            ("fail_page_alloc/ignore-gfp-wait", "N"),
            ("fail_page_alloc/min-order", "0"),
            ("fail_page_alloc/verbose", "0"),
        ];
        let set = |(name, value)| Setting::set(format!("/sys/kernel/debug/{name}"), value);
        Ok(FailNth {
            file,
            _settings: settings.into_iter().map(set).collect::<Result<_>>()?,
        })
    }

    /// Whether the call came to its n-th allocation, and so failed to get it.
    fn during<T>(&self, nth: u32, call: impl FnOnce() -> T) -> Result<(T, bool)> {
        let (nth, mut left) = (nth.to_string(), [0; 16]);
        self.file.write_all_at(nth.as_bytes(), 0)?;
        let outcome = call();
        let read = self.file.read_at(&mut left, 0);
        self.file.write_all_at(b"0", 0)?;
        Ok((outcome, left[..read?].starts_with(b"0")))
    }

    /// Has each allocation of `call` fail once, beginning anew with what `prepare` makes: it succeeds all the same, or says ENOMEM. No
    /// mirror gives up a region for that: device memory has room.
    fn each<T, R>(
        &self,
        prepare: impl Fn() -> Result<T>,
        call: impl Fn(&T) -> nix::Result<R>,
    ) -> Result<()> {
        let evicted = || anyhow::Ok(Gpu::open()?.counters()?.get("regions_evicted"));
        let (mut refused, before) = (0, evicted()?);
        for nth in 1..ALLOCATIONS_MAX {
            let prepared = prepare()?;
            let (outcome, failed) = self.during(nth, || call(&prepared))?;
            match outcome.err() {
                None => {}
                Some(Errno::ENOMEM) if failed => {
                    refused += 1;
                    // It can be tried again.
                    call(&prepared).with_context(|| format!("after allocation {nth}"))?;
                }
                Some(errno) => anyhow::bail!("{errno} at allocation {nth}"),
            }
            if !failed {
                println!("{} allocations, {refused} were needed", nth - 1);
                ensure!(refused > 0, "nothing was allocated that was needed");
                ensure_eq!(evicted()?, before);
                return still_works(&Mirror::new()?);
            }
        }
        anyhow::bail!("more than {ALLOCATIONS_MAX} allocations")
    }
}

/// An open file, and a range that is reserved for its mirror.
fn svm_init_survives_each_allocation_that_fails() -> Result<()> {
    let (low, size) = (Low::new()?, Gpu::open()?.param(Param::UnmanagedMin)?);
    let unmanaged_addr = low.reserve(size)?;
    let init = |gpu: &Gpu| {
        let args = SvmInit {
            unmanaged_addr,
            unmanaged_size: size,
            ..Default::default()
        };
        call(gpu.as_fd(), IoctlId::SvmInit, args)
    };
    FailNth::new()?.each(|| Ok(Gpu::open()?), init)
}

fn channel_alloc_survives_each_allocation_that_fails() -> Result<()> {
    let alloc = |mirror: &Mirror| {
        call(
            mirror.gpu.as_fd(),
            IoctlId::ChannelAlloc,
            ChannelAlloc::default(),
        )
    };
    FailNth::new()?.each(Mirror::new, alloc)?;
    // None of the device's channels was lost.
    let files = (0..2).map(|_| Mirror::new()).collect::<Result<Vec<_>>>()?;
    for mirror in &files {
        let most = mirror.gpu.param(Param::ChannelsPerFile)?;
        let channels = (1..most).map(|_| mirror.svm.channel());
        let channels = channels.collect::<mirage::Result<Vec<Channel>>>()?;
        ensure_eq!(channels.len() as u64, most - 1);
    }
    Ok(())
}

fn exec_survives_each_allocation_that_fails() -> Result<()> {
    let (mirror, page) = (Mirror::new()?, Region::anonymous(PAGE)?);
    page.store(0, 1);
    let mut push = mirror.channel.push_buffer();
    push.launch(&Store::new(page.lanes(0, 0), 7_u64), lanes(1))?;
    FailNth::new()?.each(
        || Ok(()),
        |()| exec_once(&mirror.gpu, &mirror.channel, push.words()),
    )?;
    still_works(&mirror)?;
    ensure_eq!(page.load(0), 7);
    let state = mirror.channel.state()?;
    ensure!(state.stopped.is_none() && state.finished == state.submitted);
    Ok(())
}

/// Of memory that the CPU has touched, so that all allocations are the driver's, and that another mirror has mapped: where the kernel
/// checks DMA, it keeps a tree of pages that are mapped, and checks nothing any more once that finds no memory.
fn svm_bind_survives_each_allocation_that_fails() -> Result<()> {
    let bind = |mirror: &Mirror, region: &Region| {
        let args = SvmBind {
            va: region.at(0).addr(),
            size: region.len() as u64,
            flags: 1,
            ..Default::default()
        };
        call(mirror.gpu.as_fd(), IoctlId::SvmBind, args)
    };
    let prepare = || {
        let (other, region) = (Mirror::new()?, Region::anonymous(16 * PAGE)?);
        region.fill(0..region.len(), 3);
        bind(&other, &region)?;
        Ok((Mirror::new()?, region, other))
    };
    FailNth::new()?.each(prepare, |(mirror, region, _)| bind(mirror, region))
}

fn svm_query_survives_each_allocation_that_fails() -> Result<()> {
    let (mirror, region) = (Mirror::new()?, Region::anonymous(16 * PAGE)?);
    region.fill(0..region.len(), 3);
    mirror.run(Store::new(region.lanes(0, PAGE), 4_u64), lanes(16))?;
    FailNth::new()?.each(
        || Ok(()),
        |()| {
            let outcome = query(&mirror, region.at(0).addr(), region.pages());
            outcome.map_err(|error| error.downcast().unwrap_or(Errno::UnknownErrno))
        },
    )?;
    still_works(&mirror)
}
