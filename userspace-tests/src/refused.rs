// SPDX-License-Identifier: MIT OR Apache-2.0
//! What EXEC refuses of arrays: of push buffers, of syncobjs to wait for, of syncobjs to signal.

use std::os::fd::AsFd;

use anyhow::{ensure, Result};
use mirage::uapi::{Exec, IoctlId, Param, Push, SyncPoint};
use nix::errno::Errno;

use crate::channels::still_works;
use crate::fixture::{ensure_eq, Mirror};
use crate::harness::guest_tests;
use crate::ioctls::{call, describe, exec};
use crate::region::{Region, PAGE};
use crate::submit::{marker, Submission, Syncobj};

guest_tests![
    a_point_that_is_not_above_the_last_is_invalid,
    a_syncobj_without_a_fence_is_invalid,
    a_refused_submission_leaves_nothing_behind,
    malformed_syncobjs_are_invalid,
    arrays_beyond_their_limits_are_invalid,
    arrays_that_cannot_be_read_are_a_fault,
];

fn a_point_that_is_not_above_the_last_is_invalid() -> Result<()> {
    let (mirror, page) = (Mirror::new()?, Region::anonymous(PAGE)?);
    let (timeline, other) = (Syncobj::new(&mirror.gpu)?, Syncobj::new(&mirror.gpu)?);
    let submit = |points: &[u64]| {
        let mut work = marker(&mirror.channel, &page, 1)?.signals(other.binary());
        work.signals
            .extend(points.iter().map(|&p| timeline.point(p)));
        anyhow::Ok(work.exec(&mirror.gpu, &mirror.channel))
    };
    submit(&[10])??;
    timeline.wait_point(10)?;
    page.store(0, 0);
    for points in [&[10][..], &[9], &[1], &[11, 11], &[12, 11], &[11, 12, 3]] {
        ensure!(
            submit(points)? == Err(Errno::EINVAL),
            "points {points:?} behind 10"
        );
    }
    ensure_eq!((page.load(0), timeline.value()?), (0, 10));
    submit(&[11, 13])??;
    timeline.wait_point(13)?;
    ensure_eq!(page.load(0), 1);
    Ok(())
}

fn a_syncobj_without_a_fence_is_invalid() -> Result<()> {
    let (mirror, page) = (Mirror::new()?, Region::anonymous(PAGE)?);
    let (empty, timeline) = (Syncobj::new(&mirror.gpu)?, Syncobj::new(&mirror.gpu)?);
    timeline.signal_point(4)?;
    for sync in [empty.binary(), empty.point(1), timeline.point(5)] {
        let work = marker(&mirror.channel, &page, 1)?.after(sync);
        ensure_eq!(work.exec(&mirror.gpu, &mirror.channel), Err(Errno::EINVAL));
    }
    still_works(&mirror)?;
    ensure_eq!(page.load(0), 0);
    Ok(())
}

/// Everything is right but one thing, which is looked at as late as possible.
fn a_refused_submission_leaves_nothing_behind() -> Result<()> {
    let (mirror, page) = (Mirror::new()?, Region::anonymous(PAGE)?);
    let (done, timeline) = (Syncobj::new(&mirror.gpu)?, Syncobj::new(&mirror.gpu)?);
    let good = marker(&mirror.channel, &page, 1)?
        .signals(done.binary())
        .signals(timeline.point(5));
    let unknown = SyncPoint {
        handle: 4711,
        ..done.binary()
    };
    let unfinished = vec![(1 << 29) | (2 << 16), 0];
    let mut bad_push = good.clone();
    bad_push.pushes.push(unfinished);
    let refused = [
        (good.clone().after(unknown), Errno::ENOENT),
        (good.clone().signals(unknown), Errno::ENOENT),
        (good.clone().after(done.binary()), Errno::EINVAL),
        (good.clone().signals(timeline.point(5)), Errno::EINVAL),
        (bad_push, Errno::EINVAL),
    ];
    for (work, errno) in refused {
        ensure_eq!(work.exec(&mirror.gpu, &mirror.channel), Err(errno));
        ensure_eq!((done.is_signaled()?, timeline.is_signaled()?), (None, None));
    }
    still_works(&mirror)?;
    ensure_eq!(page.load(0), 0);
    good.exec(&mirror.gpu, &mirror.channel)?;
    ensure_eq!(
        (done.error()?, page.load(0), timeline.value()?),
        (None, 1, 5)
    );
    Ok(())
}

fn malformed_syncobjs_are_invalid() -> Result<()> {
    let (mirror, page) = (Mirror::new()?, Region::anonymous(PAGE)?);
    let syncobj = Syncobj::new(&mirror.gpu)?;
    syncobj.signal_point(1)?;
    let malformed = [
        SyncPoint {
            kind: 2,
            ..syncobj.binary()
        },
        SyncPoint {
            kind: u32::MAX,
            ..syncobj.point(2)
        },
        SyncPoint {
            point: 1,
            ..syncobj.binary()
        },
        syncobj.point(0),
    ];
    for sync in malformed {
        let good = marker(&mirror.channel, &page, 1)?;
        for work in [good.clone().after(sync), good.signals(sync)] {
            ensure!(
                work.exec(&mirror.gpu, &mirror.channel) == Err(Errno::EINVAL),
                "{sync:?}"
            );
        }
    }
    still_works(&mirror)?;
    ensure_eq!(page.load(0), 0);
    Ok(())
}

fn arrays_beyond_their_limits_are_invalid() -> Result<()> {
    let mirror = Mirror::new()?;
    let (done, nop) = (Syncobj::new(&mirror.gpu)?, vec![(1_u32 << 29) | 0x40]);
    let pushes = mirror.gpu.param(Param::PushesMax)? as usize;
    let syncs = mirror.gpu.param(Param::SyncsMax)? as usize;
    ensure!(
        pushes >= 16 && syncs >= 16,
        "{pushes} pushes, {syncs} syncs"
    );
    let work = |pushes: usize, waits: usize, signals: usize| Submission {
        pushes: vec![nop.clone(); pushes],
        waits: vec![done.binary(); waits],
        signals: vec![done.binary(); signals],
    };
    let outcome = |work: Submission| work.exec(&mirror.gpu, &mirror.channel);
    outcome(work(pushes, 0, syncs))?;
    outcome(work(pushes, syncs, syncs))?;
    for work in [
        work(pushes + 1, 0, 1),
        work(1, syncs + 1, 1),
        work(1, 0, syncs + 1),
    ] {
        ensure_eq!(outcome(work), Err(Errno::EINVAL));
    }
    let huge = [
        Exec {
            push_count: u32::MAX,
            ..exec(&[], mirror.channel.handle())
        },
        Exec {
            wait_count: u32::MAX,
            ..exec(&[], mirror.channel.handle())
        },
        Exec {
            sig_count: 1 << 31,
            ..exec(&[], mirror.channel.handle())
        },
    ];
    for args in huge {
        let outcome = call(mirror.gpu.as_fd(), IoctlId::Exec, args);
        ensure_eq!(outcome.err(), Some(Errno::EINVAL));
    }
    // Each fits, all together do not.
    let half = vec![0x8000_0040_u32; mirror.gpu.param(Param::PushMax)? as usize / 8 + 1];
    let too_much = Submission {
        pushes: vec![half.clone(), half],
        ..Default::default()
    };
    ensure_eq!(outcome(too_much), Err(Errno::EINVAL));
    still_works(&mirror)
}

fn arrays_that_cannot_be_read_are_a_fault() -> Result<()> {
    let (mirror, mut region) = (Mirror::new()?, Region::anonymous(2 * PAGE)?);
    region.unmap(PAGE..2 * PAGE)?;
    let push = [0x8000_0040_u32];
    let good = [describe(&push)];
    let end = region.at(PAGE).addr();
    for ptr in [0, end - 8, end, u64::MAX - 7, 0xffff_8880_0000_0000] {
        let bad = [
            Exec {
                push_ptr: ptr,
                ..exec(&good, mirror.channel.handle())
            },
            Exec {
                wait_count: 1,
                wait_ptr: ptr,
                ..exec(&good, mirror.channel.handle())
            },
            Exec {
                sig_count: 1,
                sig_ptr: ptr,
                ..exec(&good, mirror.channel.handle())
            },
        ];
        for args in bad {
            let outcome = call(mirror.gpu.as_fd(), IoctlId::Exec, args);
            ensure!(
                outcome.err() == Some(Errno::EFAULT),
                "{args:x?}: {outcome:?}"
            );
        }
    }
    for flags in (0..32).map(|bit| 1 << bit) {
        let flagged = [Push { flags, ..good[0] }];
        let args = exec(&flagged, mirror.channel.handle());
        ensure_eq!(
            call(mirror.gpu.as_fd(), IoctlId::Exec, args).err(),
            Some(Errno::EINVAL)
        );
    }
    still_works(&mirror)
}
