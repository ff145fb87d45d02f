// SPDX-License-Identifier: GPL-2.0

//! Room in device memory: when it is full, who has most of it gives up a region, so that a few address spaces cannot keep it from others.

use super::Svm;
use crate::gpu::Gpu;
use kernel::{prelude::*, sync::atomic::Relaxed};

/// Regions given up, one by one, before it is said that there is no memory.
const EVICTIONS_MAX: usize = 8;

/// Has `allocate` try again, for the file `client`, while device memory has no room. Called without a lock that comes after `Gpu::svms`.
///
/// # Errors
///
/// `ENOMEM`: there is no room, and nobody to make some; or system memory is what ran out. Other errors of `allocate`.
pub(super) fn with_room<T>(
    gpu: &Gpu,
    client: u64,
    mut allocate: impl FnMut() -> Result<T>,
) -> Result<T> {
    for _ in 0..EVICTIONS_MAX {
        let refused = gpu.vram.refused();
        match allocate() {
            // What another one was refused counts as well, and costs a region too many at most.
            Err(e) if e == ENOMEM && gpu.vram.refused() != refused => {}
            other => return other,
        }
        // One lock of an address space at a time.
        let most = gpu.svm_with_most_regions(client).ok_or(ENOMEM)?;
        most.evict();
    }
    allocate()
}

impl Svm {
    /// How many regions it has, or had a moment ago.
    pub(crate) fn regions(&self) -> usize {
        self.regions.load(Relaxed)
    }

    /// Gives up a region, if it has one.
    fn evict(&self) {
        let mut guard = self.space.lock();
        if let Some(space) = &mut *guard {
            // An error is found by whoever tries again.
            let _ = space.evict(&self.gpu);
            self.regions.store(space.count(), Relaxed);
        }
    }
}
