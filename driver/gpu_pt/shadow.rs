// SPDX-License-Identifier: GPL-2.0

//! A copy in system memory of the leaves of one block.
//!
//! Only this is read: device memory is slow to read, is all ones while the device is away, and is not to be trusted with the
//! addresses of DMA mappings.

use super::{Pte, BIG_PAGES, BLOCK_PAGES};
use core::ops::Range;
use kernel::prelude::*;

/// What the tables of a block hold.
pub(crate) struct Shadow {
    /// The PDE0 of a block that is, or was, a 2 MiB leaf.
    pub(super) huge: Pte,
    big: [Pte; BLOCK_PAGES / BIG_PAGES],
    /// As raw entries, which are written in runs.
    small: KBox<[u64; BLOCK_PAGES]>,
}

impl Shadow {
    /// Of tables that are all zero.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            huge: Pte::zeroed(),
            big: [Pte::zeroed(); BLOCK_PAGES / BIG_PAGES],
            small: KBox::init(pin_init::init_array_from_fn(|_| 0), GFP_KERNEL_ACCOUNT)?,
        })
    }

    /// The 64 KiB PTE over 4 KiB page `page` of the block.
    pub(super) fn big(&self, page: usize) -> Pte {
        let pte = self.big.get(page / BIG_PAGES).copied();
        pte.unwrap_or_else(Pte::zeroed)
    }

    /// Changes it.
    pub(super) fn set_big(&mut self, page: usize, pte: Pte) {
        if let Some(entry) = self.big.get_mut(page / BIG_PAGES) {
            *entry = pte;
        }
    }

    /// The 4 KiB PTE of `page`.
    pub(super) fn small(&self, page: usize) -> Pte {
        Pte::from_raw(self.small.get(page).copied().unwrap_or(0))
    }

    /// The 4 KiB PTEs of `pages`, to be changed; `None` outside of the block.
    pub(super) fn smalls(&mut self, pages: Range<usize>) -> Option<&mut [u64]> {
        self.small.get_mut(pages)
    }
}
