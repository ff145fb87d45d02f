// SPDX-License-Identifier: GPL-2.0

//! The upper levels of one GPU address space: from the root (PDE3) down to the tables of PDE0s.
//!
//! Regions own the PDE0s; the tables above are shared, and counted: they go when their last region goes.

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
    ///
    /// # Errors
    ///
    /// `ENOMEM`. Some tables may have been made: see [`Directory::take_unused`].
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
            parent = self.tables.get(&key).ok_or(ENOENT)?.page.offset();
        }
        self.count(va, |users| users + 1);
        Ok(parent.add(((va >> BLOCK_SHIFT) & 0xff) * PDE0_SIZE))
    }

    /// Pages of device memory that it takes.
    pub(crate) fn pages(&self) -> usize {
        1 + self.tables.values().count()
    }

    /// Gives a [`Directory::get`] back.
    pub(crate) fn put(&mut self, va: u64) {
        self.count(va, |users| users.saturating_sub(1));
    }

    fn count(&mut self, va: u64, change: impl Fn(usize) -> usize) {
        for (level, shift) in TABLE_SHIFTS.into_iter().enumerate() {
            if let Some(table) = self.tables.get_mut(&(level, va >> shift)) {
                table.users = change(table.users);
            }
        }
    }

    /// Takes the tables that would lead to `va` and that nobody uses out of the directory. Their pages may be freed after a TLB
    /// invalidate of all levels.
    #[must_use]
    pub(crate) fn take_unused(&mut self, vram: &Vram, va: u64) -> [Option<VramPage>; 3] {
        let indices = directory_indices(va);
        let mut parents = [None, None, None];
        let mut parent = Some(self.root.offset());
        for ((level, shift), out) in TABLE_SHIFTS.into_iter().enumerate().zip(&mut parents) {
            *out = parent;
            let table = self.tables.get(&(level, va >> shift));
            parent = table.map(|table| table.page.offset());
        }
        let mut pages = [const { None }; 3];
        let levels = TABLE_SHIFTS
            .into_iter()
            .enumerate()
            .zip(parents)
            .zip(indices);
        for ((((level, shift), parent), index), out) in levels.zip(&mut pages) {
            let key = (level, va >> shift);
            let unused = self.tables.get(&key).is_some_and(|table| table.users == 0);
            if let (Some(parent), true) = (parent, unused) {
                vram.write(parent.add(index * PDE_SIZE), 0);
                *out = self.tables.remove(&key).map(|table| table.page);
            }
        }
        pages
    }

    /// Makes the root empty: the address space has no translation any more.
    pub(crate) fn unlink_all(&self, vram: &Vram) {
        for index in 0..4 {
            vram.write(self.root.offset().add(index * PDE_SIZE), 0);
        }
    }
}
