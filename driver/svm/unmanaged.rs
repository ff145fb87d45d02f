// SPDX-License-Identifier: GPL-2.0

//! The range that is left to the driver: memory of channels, mapped in it.

use super::Svm;
use crate::{
    channel::{
        CHANNEL_MEM,
        MAPPED, //
    },
    gpu_pt::block::Stale,
    tlb::{
        CacheLevel,
        Scope, //
    },
};
use kernel::prelude::*;

impl Svm {
    /// Maps a channel's memory in the unmanaged range.
    pub(crate) fn map_unmanaged(&self, va: u64, dma: u64) -> Result {
        let mut guard = self.space.lock();
        let space = Option::as_mut(&mut guard).ok_or(ENODEV)?;
        let mut stale = Stale::Nothing;
        let mapped = MAPPED.into_iter().try_for_each(|(piece, access)| {
            let range = va + piece.start..va + piece.end;
            let mapped = space.map_unmanaged(&self.gpu.vram, range, dma + piece.start, access);
            // A table may have been linked before an error.
            stale = stale.max(mapped.unwrap_or(Stale::Pde0));
            mapped.map(drop)
        });
        if stale != Stale::Nothing {
            self.gpu.tlb_invalidate(&Scope {
                pdb: self.pdb,
                range: Some(va..va + CHANNEL_MEM),
                level: stale.into(),
            });
        }
        mapped
    }

    /// Undoes [`Svm::map_unmanaged`]; when it returns, the GPU does not reach the memory.
    pub(crate) fn unmap_unmanaged(&self, va: u64) {
        let mut guard = self.space.lock();
        let Some(space) = &mut *guard else { return };
        let range = va..va + CHANNEL_MEM;
        space.unmap_unmanaged(&self.gpu.vram, &range, || {
            let scope = Scope {
                pdb: self.pdb,
                range: Some(range.clone()),
                level: CacheLevel::PteOnly,
            };
            self.gpu.tlb_invalidate(&scope);
        });
    }
}
