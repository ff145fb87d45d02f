// SPDX-License-Identifier: GPL-2.0

//! Ioctls of channels, and EXEC.

use super::{
    require_zero,
    File,
    MirageFile,
    Outcome,
    Registered, //
};
use crate::{
    channel::{
        ChannelConfig,
        EngineKind,
        Exec,
        PUSHES_MAX,
        PUSH_MAX,
        SYNCS_MAX,
        TIMEOUT_MAX_MS, //
    },
    kapi::{
        fence::InFence,
        raw,
        syncobj::{
            find_fence,
            Signal,
            Syncobj, //
        },
        user, //
    },
};
use kernel::prelude::*;

/// Size of a word of a push buffer in bytes.
const WORD: usize = size_of::<u32>();

impl MirageFile {
    /// CHANNEL_ALLOC.
    pub(crate) fn channel_alloc(
        _device: &Registered,
        args: &mut raw::drm_mirage_channel_alloc,
        file: &File,
    ) -> Outcome {
        require_zero(&[args.flags])?;
        if args.timeout_ms > TIMEOUT_MAX_MS {
            return Err(EINVAL);
        }
        let engine = match args.engine {
            raw::drm_mirage_engine_DRM_MIRAGE_ENGINE_COMPUTE => EngineKind::Compute,
            raw::drm_mirage_engine_DRM_MIRAGE_ENGINE_COPY => EngineKind::Copy,
            _ => return Err(EINVAL),
        };
        let config = ChannelConfig {
            engine,
            timeout_ms: args.timeout_ms,
        };
        args.channel = file.inner().svm()?.channel_alloc(config)?;
        Ok(None)
    }

    /// CHANNEL_FREE.
    pub(crate) fn channel_free(
        _device: &Registered,
        args: &mut raw::drm_mirage_channel_free,
        file: &File,
    ) -> Outcome {
        require_zero(&[args.pad])?;
        file.inner().svm()?.channel_free(args.channel)?;
        Ok(None)
    }

    /// CHANNEL_QUERY.
    pub(crate) fn channel_query(
        _device: &Registered,
        args: &mut raw::drm_mirage_channel_query,
        file: &File,
    ) -> Outcome {
        require_zero(&[args.pad])?;
        let channel = file.inner().svm()?.channel(args.channel)?;
        let notifier = channel.notifier();
        *args = raw::drm_mirage_channel_query {
            channel: args.channel,
            state: raw::drm_mirage_channel_state_DRM_MIRAGE_CHANNEL_USABLE,
            addr: 0,
            timestamp: 0,
            access: raw::drm_mirage_access_DRM_MIRAGE_ACCESS_NONE,
            reason: 0,
            submitted: notifier.submitted,
            finished: notifier.finished,
            resets: notifier.resets,
            pad: 0,
        };
        if let Some(stopped) = notifier.stopped {
            args.state = raw::drm_mirage_channel_state_DRM_MIRAGE_CHANNEL_STOPPED;
            args.addr = stopped.addr;
            args.timestamp = stopped.timestamp;
            args.access = stopped.access as u32;
            args.reason = stopped.reason as u32;
        }
        Ok(None)
    }

    /// CHANNEL_RESET.
    pub(crate) fn channel_reset(
        _device: &Registered,
        args: &mut raw::drm_mirage_channel_reset,
        file: &File,
    ) -> Outcome {
        require_zero(&[args.flags])?;
        file.inner().svm()?.channel(args.channel)?.reset()?;
        Ok(None)
    }

    /// EXEC.
    pub(crate) fn exec(
        _device: &Registered,
        args: &mut raw::drm_mirage_exec,
        file: &File,
    ) -> Outcome {
        require_zero(&[args.flags, args.pad])?;
        let counts = [
            (args.push_count, PUSHES_MAX),
            (args.wait_count, SYNCS_MAX),
            (args.sig_count, SYNCS_MAX),
        ];
        if counts.iter().any(|&(count, max)| count > max) {
            return Err(EINVAL);
        }
        let svm = file.inner().svm()?;
        // A channel that is not there is told of before anything else is looked at.
        let channel = svm.channel(args.channel)?;
        channel.exec(Exec {
            waits: wait_fences(args, file)?,
            signals: signals(args, file)?,
            words: copy_pushes(args)?,
        })
    }
}

/// Copies the push buffers of EXEC, one behind the other.
fn copy_pushes(args: &raw::drm_mirage_exec) -> Result<KVVec<u32>> {
    let pushes: KVec<raw::drm_mirage_push> = user::copy_array(args.push_ptr, args.push_count)?;
    let mut bytes: usize = 0;
    for push in &pushes {
        require_zero(&[push.flags])?;
        let size = usize::try_from(push.size)?;
        if size == 0 || size % WORD != 0 {
            return Err(EINVAL);
        }
        bytes = bytes.checked_add(size).ok_or(EINVAL)?;
        if bytes > PUSH_MAX {
            return Err(EINVAL);
        }
    }
    let mut words = KVVec::from_elem(0u32, bytes / WORD, GFP_KERNEL_ACCOUNT)?;
    let mut rest = &mut *words;
    for push in &pushes {
        let (this, others) = rest
            .split_at_mut_checked(usize::try_from(push.size)? / WORD)
            .ok_or(EINVAL)?;
        user::copy_words(push.va, this)?;
        // A method may not begin in one and end in the next: they are independent.
        crate::push::validate(this)?;
        rest = others;
    }
    Ok(words)
}

/// The fences that EXEC waits for.
fn wait_fences(args: &raw::drm_mirage_exec, file: &File) -> Result<KVec<InFence>> {
    let syncs: KVec<raw::drm_mirage_sync> = user::copy_array(args.wait_ptr, args.wait_count)?;
    let mut fences = KVec::with_capacity(syncs.len(), GFP_KERNEL_ACCOUNT)?;
    for sync in &syncs {
        check_sync(sync)?;
        let fence = find_fence(file, sync.handle, sync.point)?;
        fences.push(fence, GFP_KERNEL_ACCOUNT)?;
    }
    Ok(fences)
}

/// The places that get the fence of EXEC.
fn signals(args: &raw::drm_mirage_exec, file: &File) -> Result<KVec<Signal>> {
    let syncs: KVec<raw::drm_mirage_sync> = user::copy_array(args.sig_ptr, args.sig_count)?;
    let mut signals: KVec<Signal> = KVec::with_capacity(syncs.len(), GFP_KERNEL_ACCOUNT)?;
    for sync in &syncs {
        check_sync(sync)?;
        let syncobj = Syncobj::find(file, sync.handle)?;
        // The same timeline may be there twice.
        let before = signals
            .iter()
            .rev()
            .find_map(|signal| signal.point_of(&syncobj));
        let last = before.unwrap_or_else(|| syncobj.last_point());
        let signal = match sync.point {
            0 => Signal::binary(syncobj),
            point if point > last => Signal::timeline(syncobj, point)?,
            _ => return Err(EINVAL),
        };
        signals.push(signal, GFP_KERNEL_ACCOUNT)?;
    }
    Ok(signals)
}

/// Fails unless type and point fit together.
fn check_sync(sync: &raw::drm_mirage_sync) -> Result {
    match sync.type_ {
        raw::drm_mirage_sync_type_DRM_MIRAGE_SYNC_SYNCOBJ if sync.point == 0 => Ok(()),
        raw::drm_mirage_sync_type_DRM_MIRAGE_SYNC_TIMELINE if sync.point != 0 => Ok(()),
        _ => Err(EINVAL),
    }
}
