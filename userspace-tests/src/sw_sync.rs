// SPDX-License-Identifier: MIT OR Apache-2.0
//! Fences of the kernel's sw_sync, which signal when their timeline is told to: fences of another driver.

use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use anyhow::{Context as _, Result};
use nix::kmod::{finit_module, ModuleInitFlags};

use crate::harness::skip;
use crate::sys;

const FILE: &str = "/sys/kernel/debug/sync/sw_sync";
/// A module that only the guests of test suites have.
const MODULE: &str = "/usr/lib/mirage/sw_sync.ko";
const CREATE_FENCE: u64 = nix::request_code_readwrite!(b'W', 0, 40);
const INC: u64 = nix::request_code_write!(b'W', 1, 4);

/// A timeline.
pub(crate) struct Timeline(File);

impl Timeline {
    /// One at 0.
    pub(crate) fn new() -> Result<Self> {
        if !Path::new(FILE).exists() && Path::new(MODULE).exists() {
            finit_module(File::open(MODULE)?.as_fd(), c"", ModuleInitFlags::empty())
                .context("sw_sync.ko")?;
        }
        if !Path::new(FILE).exists() {
            return skip("this guest has no sw_sync");
        }
        let file = File::options().read(true).write(true).open(FILE)?;
        Ok(Timeline(file))
    }

    /// A fence that signals when the timeline is at `value`.
    pub(crate) fn fence(&self, value: u32) -> Result<OwnedFd> {
        // struct sw_sync_create_fence_data: value, name, out: fd.
        let mut data = [0_u32; 10];
        data[0] = value;
        sys::ioctl(
            self.0.as_fd(),
            CREATE_FENCE,
            bytemuck::cast_slice_mut(&mut data),
        )
        .context("SW_SYNC_IOC_CREATE_FENCE")?;
        sys::own_fd(data[9] as i32)
    }

    /// Moves on by 1.
    pub(crate) fn advance(&self) -> Result<()> {
        sys::ioctl(self.0.as_fd(), INC, &mut 1_u32.to_ne_bytes()).context("SW_SYNC_IOC_INC")?;
        Ok(())
    }
}
