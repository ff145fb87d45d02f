// SPDX-License-Identifier: GPL-2.0

//! The address spaces of a [`Gpu`], for its end, for debugfs, and for who needs device memory.

use super::Gpu;
use crate::svm::{
    Svm,
    WORKERS, //
};
use kernel::{
    prelude::*,
    sync::Arc, //
};

/// Most address spaces of a device. Of one that was closed, workers may still wait for a program; each worker of all of them finds a
/// thread, so that nobody who makes many waits keeps others from being served.
const SVMS_MAX: usize = 512;
/// Workers of all address spaces.
pub(super) const WORKERS_MAX: usize = SVMS_MAX * WORKERS;

impl Gpu {
    /// Registers an address space.
    ///
    /// # Errors
    ///
    /// `ENOSPC`: there are [`SVMS_MAX`]. `ENODEV`: the device is lost. `ENOMEM`.
    pub(crate) fn add_svm(&self, svm: &Arc<Svm>) -> Result {
        let mut svms = self.svms.lock();
        if self.is_lost() {
            return Err(ENODEV);
        }
        if svms.len() >= SVMS_MAX {
            return Err(ENOSPC);
        }
        Ok(svms.push(svm.clone(), GFP_KERNEL)?)
    }

    /// The address space of the file with the smallest number that is `client` or more.
    pub(crate) fn next_svm(&self, client: u64) -> Option<Arc<Svm>> {
        let svms = self.svms.lock();
        let candidates = svms.iter().filter(|svm| svm.client() >= client);
        candidates.min_by_key(|svm| svm.client()).cloned()
    }

    /// The address space that has most regions; of equals, that of the file `client`. `None` if none has any.
    pub(crate) fn svm_with_most_regions(&self, client: u64) -> Option<Arc<Svm>> {
        let svms = self.svms.lock();
        let candidates = svms.iter().filter(|svm| svm.regions() != 0);
        candidates
            .max_by_key(|svm| (svm.regions(), svm.client() == client))
            .cloned()
    }

    /// Forgets an address space.
    pub(crate) fn remove_svm(&self, svm: &Arc<Svm>) {
        self.svms.lock().retain(|other| !Arc::ptr_eq(other, svm));
    }
}
