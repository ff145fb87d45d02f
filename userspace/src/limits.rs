// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a device and its driver can do, and how much of it.

use std::time::Duration;

use crate::error::Result;
use crate::node::Node;
use crate::uapi::{Param, FEATURE_USERFAULTFD};

/// How much there may be of everything; from [`Gpu::limits`](crate::Gpu::limits).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Bytes of device memory.
    pub vram: u64,
    /// Channels of the device, over all open files.
    pub channels: u64,
    /// Channels of one open file.
    pub channels_per_file: u64,
    /// Copy engines.
    pub copy_engines: u64,
    /// Bytes of all push buffers of one submission.
    pub push_max: u64,
    /// Push buffers of one submission.
    pub pushes_max: u64,
    /// Syncobjs that one submission can wait for, and as many that it can signal; a [`Job`](crate::Job) is one of the latter.
    pub syncs_max: u64,
    /// Pages of one query; [`Svm::query`](crate::Svm::query) splits larger ones.
    pub query_pages_max: u64,
    /// Time-out of a channel that asks for none.
    pub timeout_default: Duration,
    /// Longest time-out of a channel.
    pub timeout_max: Duration,
}

impl Limits {
    pub(crate) fn of(node: &Node) -> Result<Self> {
        Ok(Limits {
            vram: node.param(Param::VramSize)?,
            channels: node.param(Param::ChannelsMax)?,
            channels_per_file: node.param(Param::ChannelsPerFile)?,
            copy_engines: node.param(Param::CopyEngines)?,
            push_max: node.param(Param::PushMax)?,
            pushes_max: node.param(Param::PushesMax)?,
            syncs_max: node.param(Param::SyncsMax)?,
            query_pages_max: node.param(Param::QueryPagesMax)?,
            timeout_default: Duration::from_millis(node.param(Param::TimeoutDefault)?),
            timeout_max: Duration::from_millis(node.param(Param::TimeoutMax)?),
        })
    }
}

/// What a driver can do beyond the first version of the interface; from [`Gpu::features`](crate::Gpu::features).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    bits: u64,
}

impl Features {
    pub(crate) fn of(node: &Node) -> Result<Self> {
        Ok(Features {
            bits: node.param(Param::Features)?,
        })
    }

    /// Pages that a userfaultfd handler has to supply can be faulted in by the GPU.
    pub fn userfaultfd(self) -> bool {
        self.bits & FEATURE_USERFAULTFD != 0
    }

    /// All bits, as the driver gives them.
    pub fn bits(self) -> u64 {
        self.bits
    }

    /// Names of the bits that this version of the library knows.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        [(FEATURE_USERFAULTFD, "userfaultfd")]
            .into_iter()
            .filter_map(move |(bit, name)| (self.bits & bit != 0).then_some(name))
    }
}
