// SPDX-License-Identifier: MIT OR Apache-2.0
//! Copy channels: data between buffers that nobody touched, and nothing outside of the mirror.

use std::os::fd::AsFd;

use anyhow::{ensure, Context, Result};
use mirage::uapi::{
    ChannelAlloc, ChannelFree, ChannelQuery, Exec, IoctlId, Param, CHANNEL_STOPPED, ENGINE_COPY,
};
use mirage::{PushBuffer, Reason, Subchannel};
use nix::errno::Errno;

use crate::channels::still_works;
use crate::fixture::{ensure_eq, Mirror};
use crate::harness::guest_tests;
use crate::ioctls::{call, describe, exec};
use crate::region::{Region, PAGE};
use crate::submit::Syncobj;

guest_tests![
    a_copy_between_buffers_that_nobody_touched,
    a_copy_engine_follows_memory_that_goes_away_and_comes_back,
    a_copy_whose_interrupt_stops_the_engine_holds_up_no_other,
    a_bad_copy_stops_its_channel_with_a_reason,
    a_copy_engine_has_no_physical_addresses_for_programs,
    compute_classes_cannot_be_bound_on_a_copy_channel,
];

/// Subchannel of copy engines, by convention, and methods of the class.
const COPY: Subchannel = Subchannel(4);
const SET_SRC_PHYS_MODE: u16 = 0x260;
const SET_DST_PHYS_MODE: u16 = 0x264;
const LAUNCH_DMA: u16 = 0x300;
const OFFSET_IN_UPPER: u16 = 0x400;
/// LAUNCH_DMA: not pipelined, flushed, source and destination pitched.
const LAUNCH: u32 = 2 | (1 << 2) | (1 << 7) | (1 << 8);
const SRC_PHYSICAL: u32 = 1 << 12;
const DST_PHYSICAL: u32 = 1 << 13;

/// A channel of a copy engine, freed with this value.
struct CopyChannel<'a> {
    mirror: &'a Mirror,
    handle: u32,
}

impl<'a> CopyChannel<'a> {
    fn new(mirror: &'a Mirror) -> Result<Self> {
        let args = ChannelAlloc {
            engine: ENGINE_COPY,
            ..Default::default()
        };
        let args = call(mirror.gpu.as_fd(), IoctlId::ChannelAlloc, args)?;
        Ok(CopyChannel {
            mirror,
            handle: args.channel,
        })
    }

    /// Runs a push buffer; returns how its fence ended.
    fn run(&self, push: &PushBuffer) -> Result<Option<Errno>> {
        let done = Syncobj::new(&self.mirror.gpu)?;
        let (pushes, signals) = ([describe(push.words())], [done.binary()]);
        let args = Exec {
            sig_count: 1,
            sig_ptr: signals.as_ptr().expose_provenance() as u64,
            ..exec(&pushes, self.handle)
        };
        call(self.mirror.gpu.as_fd(), IoctlId::Exec, args)?;
        done.error()
    }

    fn query(&self) -> Result<ChannelQuery> {
        let args = ChannelQuery {
            channel: self.handle,
            ..Default::default()
        };
        Ok(call(self.mirror.gpu.as_fd(), IoctlId::ChannelQuery, args)?)
    }

    /// Runs a push buffer that must stop the channel; returns why it was.
    fn refused(&self, push: &PushBuffer) -> Result<ChannelQuery> {
        ensure_eq!(self.run(push)?, Some(Errno::EIO));
        let told = self.query()?;
        ensure_eq!(told.state, CHANNEL_STOPPED);
        Ok(told)
    }
}

impl Drop for CopyChannel<'_> {
    fn drop(&mut self) {
        let free = ChannelFree {
            channel: self.handle,
            pad: 0,
        };
        let _ = call(self.mirror.gpu.as_fd(), IoctlId::ChannelFree, free);
    }
}

fn bound(mirror: &Mirror) -> Result<PushBuffer> {
    let class = mirror.gpu.param(Param::CopyClass)? as u32;
    let mut push = PushBuffer::new();
    push.methods(COPY, 0, &[class]);
    Ok(push)
}

/// Appends a copy of `len` bytes, as lines of a page.
fn append(push: &mut PushBuffer, to: u64, from: u64, len: usize, launch: u32) {
    let page = PAGE as u32;
    push.methods(
        COPY,
        OFFSET_IN_UPPER,
        &[
            (from >> 32) as u32,
            from as u32,
            (to >> 32) as u32,
            to as u32,
            page,
            page,
            page,
            (len / PAGE) as u32,
        ],
    );
    // MULTI_LINE
    push.methods(COPY, LAUNCH_DMA, &[launch | (1 << 9)]);
}

fn copy(mirror: &Mirror, to: u64, from: u64, len: usize) -> Result<PushBuffer> {
    let mut push = bound(mirror)?;
    append(&mut push, to, from, len, LAUNCH);
    Ok(push)
}

fn a_copy_between_buffers_that_nobody_touched() -> Result<()> {
    const LEN: usize = 64 * PAGE;
    let mirror = Mirror::new()?;
    ensure!(mirror.gpu.param(Param::CopyEngines)? >= 1, "no copy engine");
    let channels = (0..4)
        .map(|_| CopyChannel::new(&mirror))
        .collect::<Result<Vec<_>>>()?;
    for channel in &channels {
        // The source reads as zeroes, the destination is not there yet.
        let (from, to) = (Region::anonymous(LEN)?, Region::anonymous(LEN)?);
        let push = copy(&mirror, to.at(0).addr(), from.at(0).addr(), LEN)?;
        ensure_eq!(channel.run(&push)?, None);
        ensure!(
            to.words(0..LEN).iter().all(|&word| word == 0),
            "an untouched source does not read as zeroes"
        );
        for word in 0..LEN / 8 {
            from.store(word * 8, word as u64 + 1);
        }
        let fresh = Region::anonymous(LEN)?;
        let push = copy(&mirror, fresh.at(0).addr(), from.at(0).addr(), LEN)?;
        ensure_eq!(channel.run(&push)?, None);
        let wrong = (0..LEN / 8).find(|&word| fresh.load(word * 8) != word as u64 + 1);
        ensure_eq!(wrong, None);
    }
    Ok(())
}

fn a_copy_engine_follows_memory_that_goes_away_and_comes_back() -> Result<()> {
    const LEN: usize = 16 * PAGE;
    let (mirror, from, to) = (
        Mirror::new()?,
        Region::anonymous(LEN)?,
        Region::anonymous(LEN)?,
    );
    let channel = CopyChannel::new(&mirror)?;
    let push = copy(&mirror, to.at(0).addr(), from.at(0).addr(), LEN)?;
    for round in 1..30_u64 {
        for page in 0..LEN / PAGE {
            from.store(page * PAGE, round);
        }
        ensure_eq!(channel.run(&push)?, None);
        ensure_eq!(to.page_words(), vec![round; LEN / PAGE]);
        to.advise(0..LEN, nix::sys::mman::MmapAdvise::MADV_DONTNEED)?;
        from.advise(0..LEN, nix::sys::mman::MmapAdvise::MADV_DONTNEED)?;
    }
    Ok(())
}

fn a_copy_whose_interrupt_stops_the_engine_holds_up_no_other() -> Result<()> {
    // LAUNCH_DMA: INTERRUPT BLOCKING.
    const BLOCKING: u32 = 1 << 5;
    let (mirror, other) = (Mirror::new()?, Mirror::new()?);
    let engines = 0..mirror.gpu.param(Param::CopyEngines)?;
    let channels = |mirror| engines.clone().map(move |_| CopyChannel::new(mirror));
    let stops = channels(&mirror).collect::<Result<Vec<_>>>()?;
    let (from, to) = (Region::anonymous(PAGE)?, Region::anonymous(PAGE)?);
    from.store(0, 5);
    for channel in &stops {
        let mut push = bound(&mirror)?;
        append(
            &mut push,
            to.at(0).addr(),
            from.at(0).addr(),
            PAGE,
            LAUNCH | BLOCKING,
        );
        ensure_eq!(channel.run(&push)?, None);
    }
    // One of each engine.
    for channel in channels(&other) {
        let push = copy(&other, to.at(0).addr(), from.at(0).addr(), PAGE)?;
        ensure_eq!(channel?.run(&push)?, None);
    }
    ensure_eq!(to.load(0), 5);
    Ok(())
}

fn a_bad_copy_stops_its_channel_with_a_reason() -> Result<()> {
    let (mirror, mut region) = (Mirror::new()?, Region::anonymous(4 * PAGE)?);
    region.unmap(2 * PAGE..3 * PAGE)?;
    let (good, hole) = (region.at(0).addr(), region.at(2 * PAGE).addr());
    for (to, from) in [(good, hole), (hole, good), (good, 0x3000), (0x3000, good)] {
        let channel = CopyChannel::new(&mirror)?;
        let told = channel.refused(&copy(&mirror, to, from, PAGE)?)?;
        ensure_eq!(Reason::from(told.reason), Reason::NoVma);
        ensure_eq!(told.addr, if to == good { from } else { to });
    }
    let next = CopyChannel::new(&mirror)?;
    let push = copy(&mirror, good + PAGE as u64, good, PAGE)?;
    ensure_eq!(next.run(&push)?, None);
    still_works(&mirror)
}

fn a_copy_engine_has_no_physical_addresses_for_programs() -> Result<()> {
    let (mirror, page) = (Mirror::new()?, Region::anonymous(PAGE)?);
    let at = page.at(0).addr();
    page.store(0, 0x5afe);
    // Device memory, coherent and other system memory.
    for mode in 0..3 {
        for (launch, to, from) in [
            (SRC_PHYSICAL, at, 0),
            (DST_PHYSICAL, 0, at),
            (SRC_PHYSICAL | DST_PHYSICAL, 0, 0x1000),
        ] {
            let channel = CopyChannel::new(&mirror)?;
            let mut push = bound(&mirror)?;
            push.methods(COPY, SET_SRC_PHYS_MODE, &[mode]);
            push.methods(COPY, SET_DST_PHYS_MODE, &[mode]);
            append(&mut push, to, from, PAGE, LAUNCH | launch);
            let told = channel
                .refused(&push)
                .with_context(|| format!("mode {mode}, launch {launch:#x}"))?;
            ensure!(
                matches!(
                    Reason::from(told.reason),
                    Reason::Method | Reason::Device | Reason::Permission
                ),
                "{:?}",
                Reason::from(told.reason)
            );
            ensure_eq!(page.load(0), 0x5afe);
        }
    }
    let channel = CopyChannel::new(&mirror)?;
    let other = Region::anonymous(PAGE)?;
    let push = copy(&mirror, other.at(0).addr(), at, PAGE)?;
    ensure_eq!((channel.run(&push)?, other.load(0)), (None, 0x5afe));
    still_works(&mirror)
}

fn compute_classes_cannot_be_bound_on_a_copy_channel() -> Result<()> {
    let mirror = Mirror::new()?;
    let compute = mirror.gpu.param(Param::ComputeClass)? as u32;
    for subchannel in [1, 4] {
        let channel = CopyChannel::new(&mirror)?;
        let mut push = PushBuffer::new();
        push.methods(Subchannel(subchannel), 0, &[compute]);
        let told = channel.refused(&push)?;
        ensure_eq!(Reason::from(told.reason), Reason::Method);
    }
    still_works(&mirror)
}
