// SPDX-License-Identifier: GPL-2.0

//! The address spaces of a [`Gpu`], for its end, for debugfs, and for who needs device memory.

use super::Gpu;
use crate::svm::Svm;
use kernel::{
    prelude::*,
    sync::Arc, //
};

impl Gpu {
    /// Registers an address space.
    pub(crate) fn add_svm(&self, svm: &Arc<Svm>) -> Result {
        let mut svms = self.svms.lock();
        if self.is_lost() {
            return Err(ENODEV);
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
