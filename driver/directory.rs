// SPDX-License-Identifier: GPL-2.0

//! The upper levels of one GPU address space: from the root (PDE3) down to the tables of PDE0s.
//!
//! Regions own the PDE0s; the tables above are shared, and counted: a PDE0 table goes when its last region goes. The two
//! levels above that (at most one table each per 256 GiB that the process ever used) stay until the end.

use crate::{
    gpu_pt::{directory_indices, Pde, TableMem, BLOCK_SHIFT},
    vram::{Vram, VramOffset, VramPage},
};
use kernel::{prelude::*, rbtree::RBTree};

/// Bytes of a directory entry, and of a PDE0.
const PDE_SIZE: u64 = 8;
const PDE0_SIZE: u64 = 16;
/// log2 of what one table of each level covers, from the table that PDE3 points to downwards.
const TABLE_SHIFTS: [u32; 3] = [47, 38, 29];

/// A table below the root: which level, and which one.
type Key = (usize, u64);

struct Table {
    page: VramPage,
    users: usize,
}

/// The directory of one address space.
pub(crate) struct Directory {
    root: VramPage,
    tables: RBTree<Key, Table>,
}

impl Directory {
    /// An empty address space.
    pub(crate) fn new(vram: &Vram) -> Result<Self> {
        Ok(Self {
            root: vram.alloc_page()?,
            tables: RBTree::new(),
        })
    }

    /// The page directory base.
    pub(crate) fn pdb(&self) -> VramOffset {
        self.root.offset()
    }

    /// Address of the PDE0 for `va`, making the tables that lead to it; to be given back with [`Directory::put`].
    pub(crate) fn get(&mut self, vram: &Vram, va: u64) -> Result<VramOffset> {
        let indices = directory_indices(va);
        let mut parent = self.root.offset();
        for (level, shift) in TABLE_SHIFTS.into_iter().enumerate() {
            let key = (level, va >> shift);
            if self.tables.get(&key).is_none() {
                let page = vram.alloc_page()?;
                let entry = Pde::table(page.offset())?.into_raw();
                self.tables
                    .try_create_and_insert(key, Table { page, users: 0 }, GFP_KERNEL)?;
                let at = parent.add(indices.get(level).copied().ok_or(EINVAL)? * PDE_SIZE);
                vram.barrier();
                vram.write(at, entry);
            }
            let table = self.tables.get_mut(&key).ok_or(ENOENT)?;
            if level == TABLE_SHIFTS.len() - 1 {
                table.users += 1;
            }
            parent = table.page.offset();
        }
        Ok(parent.add(((va >> BLOCK_SHIFT) & 0xff) * PDE0_SIZE))
    }

    /// Gives a [`Directory::get`] back. The page of a table that nobody uses any more is returned: it may be freed after a TLB
    /// invalidate of all levels.
    #[must_use]
    pub(crate) fn put(&mut self, vram: &Vram, va: u64) -> Option<VramPage> {
        let [_, _, index, _] = directory_indices(va);
        let [_, parent_shift, shift] = TABLE_SHIFTS;
        let key = (2, va >> shift);
        let table = self.tables.get_mut(&key)?;
        table.users = table.users.saturating_sub(1);
        if table.users != 0 {
            return None;
        }
        let parent = self.tables.get(&(1, va >> parent_shift))?.page.offset();
        vram.write(parent.add(index * PDE_SIZE), 0);
        self.tables.remove(&key).map(|table| table.page)
    }

    /// Makes the root empty: the address space has no translation any more.
    pub(crate) fn unlink_all(&self, vram: &Vram) {
        for index in 0..4 {
            vram.write(self.root.offset().add(index * PDE_SIZE), 0);
        }
    }
}
