// SPDX-License-Identifier: GPL-2.0

//! The page tables of one 2 MiB block: a PDE0 and the two tables that it may point to.
//!
//! The driver reads only its own copy of what it has written ([`super::shadow`]).

use super::{
    shadow::Shadow, Access, LeafSize, Pde, PdeBig, Pte, TableMem, BIG_PAGES, BLOCK_PAGES,
    PAGE_SHIFT,
};
use crate::vram::VramOffset;
use core::ops::Range;
use kernel::prelude::*;

/// Where the tables of a block are; they belong to the block for as long as it exists.
#[derive(Clone, Copy)]
pub(crate) struct BlockTables {
    /// The 16-byte PDE0.
    pub(crate) pde0: VramOffset,
    /// 32 PTEs of 64 KiB.
    pub(crate) big: VramOffset,
    /// 512 PTEs of 4 KiB. Allocated before the first leaf, so that a split never allocates.
    pub(crate) small: VramOffset,
}

/// Form of a PDE0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// Nothing is mapped and no table is linked.
    Empty,
    /// A 2 MiB leaf.
    Huge,
    /// A 2 MiB leaf that was retired.
    HugeRetired,
    /// Both tables are linked.
    Tables,
}

/// What an operation did to entries that the device may have cached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stale {
    /// Nothing: only entries of one word became valid that were invalid.
    #[default]
    Nothing,
    /// PTEs.
    Pte,
    /// PTEs and the PDE0. Also of a PDE0 that was invalid: while its two halves are written, the device may read one and keep that.
    Pde0,
}

/// The page tables of one 2 MiB block.
pub(crate) struct Block {
    tables: BlockTables,
    shadow: Shadow,
    form: Form,
    /// 4 KiB pages that are mapped.
    mapped: usize,
    /// Leaves that were split since the last [`Block::take_splits`].
    splits: usize,
}

/// One leaf to write.
#[derive(Clone, Copy)]
pub(crate) struct Leaf {
    /// First 4 KiB page in the block; a multiple of the size.
    pub(crate) page: usize,
    /// Its size.
    pub(crate) size: LeafSize,
    /// What it points to and with what rights.
    pub(crate) pte: Pte,
}

impl Block {
    /// A block whose tables are all zero.
    pub(crate) fn new(tables: BlockTables, shadow: Shadow) -> Self {
        Self {
            tables,
            shadow,
            form: Form::Empty,
            mapped: 0,
            splits: 0,
        }
    }

    /// How many larger leaves were split since this was asked last.
    pub(crate) fn take_splits(&mut self) -> usize {
        core::mem::take(&mut self.splits)
    }

    /// 4 KiB pages that are mapped.
    pub(crate) fn mapped(&self) -> usize {
        self.mapped
    }

    /// What the GPU may do with `page`, if it is mapped, and the leaf that says so.
    pub(crate) fn lookup(&self, page: usize) -> Option<(Access, LeafSize)> {
        let (pte, size) = match self.form {
            _ if page >= BLOCK_PAGES => return None,
            Form::Empty | Form::HugeRetired => return None,
            Form::Huge => (self.shadow.huge, LeafSize::Huge),
            Form::Tables => {
                let big = self.shadow.big(page);
                if big.valid() {
                    (big, LeafSize::Big)
                } else {
                    (self.shadow.small(page), LeafSize::Small)
                }
            }
        };
        pte.valid().then(|| (pte.access(), size))
    }

    /// Writes a leaf where nothing is mapped.
    ///
    /// # Errors
    ///
    /// `EEXIST`: some page of it is mapped. `EINVAL`: the leaf is not aligned or not in the block.
    pub(crate) fn map(&mut self, mem: &impl TableMem, leaf: Leaf) -> Result<Stale> {
        let pages = leaf.size.pages();
        if leaf.page % pages != 0 || leaf.page >= BLOCK_PAGES {
            return Err(EINVAL);
        }
        if self.mapped != 0
            && (leaf.page..leaf.page + pages).any(|page| self.lookup(page).is_some())
        {
            return Err(EEXIST);
        }
        let stale = match leaf.size {
            LeafSize::Huge => self.map_huge(mem, leaf.pte),
            LeafSize::Big => {
                let stale = self.link_tables(mem)?;
                self.set_big(mem, leaf.page, leaf.pte);
                stale
            }
            LeafSize::Small => {
                let stale = self.link_tables(mem)?;
                self.update_small(mem, leaf.page..leaf.page + 1, |_| Some(leaf.pte));
                stale
            }
        };
        self.mapped += pages;
        Ok(stale)
    }

    /// Makes `page` writable; of a larger leaf the whole leaf if `whole`, else the leaf is split.
    ///
    /// # Errors
    ///
    /// `ENOENT`: the page is not mapped.
    pub(crate) fn upgrade(
        &mut self,
        mem: &impl TableMem,
        page: usize,
        whole: bool,
    ) -> Result<Stale> {
        let (_, size) = self.lookup(page).ok_or(ENOENT)?;
        let mut stale = Stale::Pte;
        if !whole {
            stale = stale.max(self.split_around(mem, page..page + 1)?);
        }
        let writable = |pte: Pte| pte.with_read_only(false).with_atomic_disable(false);
        match (size, whole) {
            (LeafSize::Huge, true) => self.set_huge(mem, writable(self.shadow.huge)),
            (LeafSize::Big, true) => self.set_big(mem, page, writable(self.shadow.big(page))),
            _ => drop(self.update_small(mem, page..page + 1, |pte| Some(writable(pte)))),
        }
        Ok(stale)
    }

    /// Makes all of `pages` invalid and keeps the addresses. Leaves that stick out are split first.
    ///
    /// # Errors
    ///
    /// `EINVAL`: the range is not in the block.
    pub(crate) fn retire(&mut self, mem: &impl TableMem, pages: Range<usize>) -> Result<Retired> {
        if pages.start > pages.end || pages.end > BLOCK_PAGES {
            return Err(EINVAL);
        }
        if self.mapped == 0 || pages.is_empty() {
            return Ok(Retired::default());
        }
        if self.form == Form::Huge && pages.len() == BLOCK_PAGES {
            self.set_huge(mem, self.shadow.huge.retired());
            self.form = Form::HugeRetired;
            self.mapped = 0;
            return Ok(Retired {
                pages: BLOCK_PAGES,
                stale: Stale::Pde0,
            });
        }
        let split = self.split_around(mem, pages.clone())?;
        let mut retired = 0;
        for group in groups(pages) {
            let big = self.shadow.big(group.start);
            if big.valid() {
                // Not in part: that was split.
                self.set_big(mem, group.start, big.retired());
                retired += BIG_PAGES;
                continue;
            }
            retired += self.update_small(mem, group, |pte| pte.valid().then(|| pte.retired()));
        }
        self.mapped -= retired;
        let stale = if retired == 0 {
            split
        } else {
            split.max(Stale::Pte)
        };
        Ok(Retired {
            pages: retired,
            stale,
        })
    }

    /// Hands out the bus address of each retired 4 KiB page in `pages`, and zeroes the entries.
    pub(crate) fn reap(
        &mut self,
        mem: &impl TableMem,
        pages: Range<usize>,
        mut f: impl FnMut(u64),
    ) {
        match self.form {
            Form::Empty | Form::Huge => (),
            Form::HugeRetired => {
                let pte = self.shadow.huge;
                self.set_huge(mem, Pte::zeroed());
                self.form = Form::Empty;
                each_page(pte, BLOCK_PAGES, &mut f);
            }
            Form::Tables => {
                for group in groups(pages) {
                    let big = self.shadow.big(group.start);
                    if big.is_retired() {
                        self.set_big(mem, group.start, Pte::zeroed());
                        each_page(big, BIG_PAGES, &mut f);
                    }
                    self.update_small(mem, group, |pte| {
                        pte.is_retired().then(|| {
                            each_page(pte, 1, &mut f);
                            Pte::zeroed()
                        })
                    });
                }
            }
        }
    }

    /// Takes the tables of a block with nothing mapped out of its PDE0.
    pub(crate) fn unlink(&mut self, mem: &impl TableMem) {
        mem.write(self.tables.pde0, 0);
        mem.write(self.tables.pde0.add(8), 0);
        self.form = Form::Empty;
    }

    /// Writes what `f` makes of the 4 KiB PTEs of `pages`, all in one group. Returns how many it changed.
    fn update_small(
        &mut self,
        mem: &impl TableMem,
        pages: Range<usize>,
        mut f: impl FnMut(Pte) -> Option<Pte>,
    ) -> usize {
        let at = self.small_at(pages.start);
        let Some(entries) = self.shadow.smalls(pages) else {
            return 0;
        };
        let mut changed = 0;
        for entry in entries.iter_mut() {
            if let Some(pte) = f(Pte::from_raw(*entry)) {
                *entry = pte.into_raw();
                changed += 1;
            }
        }
        if changed != 0 {
            mem.write_run(at, entries);
        }
        changed
    }

    fn map_huge(&mut self, mem: &impl TableMem, pte: Pte) -> Stale {
        let stale = if self.form == Form::Tables {
            Stale::Pde0
        } else {
            Stale::Nothing
        };
        self.set_huge(mem, pte);
        mem.barrier();
        mem.write(self.tables.pde0.add(8), 0);
        self.form = Form::Huge;
        stale
    }

    /// Links both tables into the PDE0 of a block that has no leaf, or has them linked already.
    fn link_tables(&mut self, mem: &impl TableMem) -> Result<Stale> {
        if self.form == Form::Tables {
            return Ok(Stale::Nothing);
        }
        self.write_pde0_tables(mem)?;
        Ok(Stale::Pde0)
    }

    /// The small half goes first: until the big half is written the device sees a leaf or nothing.
    fn write_pde0_tables(&mut self, mem: &impl TableMem) -> Result {
        let small = Pde::table(self.tables.small)?;
        let big = PdeBig::table(self.tables.big)?;
        mem.write(self.tables.pde0.add(8), small.into_raw());
        mem.barrier();
        mem.write(self.tables.pde0, big.into_raw());
        self.form = Form::Tables;
        Ok(())
    }

    /// Splits leaves that lie only partly in `pages` into 4 KiB ones with the same translation.
    fn split_around(&mut self, mem: &impl TableMem, pages: Range<usize>) -> Result<Stale> {
        if self.form == Form::Huge {
            self.fill_small(mem, 0, BLOCK_PAGES, self.shadow.huge)?;
            self.write_pde0_tables(mem)?;
            self.splits += 1;
            return Ok(Stale::Pde0);
        }
        let mut stale = Stale::Nothing;
        for edge in [pages.start, pages.end] {
            if edge % BIG_PAGES == 0 || edge >= BLOCK_PAGES {
                continue;
            }
            let first = edge - edge % BIG_PAGES;
            let pte = self.shadow.big(first);
            if self.form == Form::Tables && pte.valid() {
                self.fill_small(mem, first, BIG_PAGES, pte)?;
                self.set_big(mem, first, Pte::zeroed());
                self.splits += 1;
                stale = Stale::Pte;
            }
        }
        Ok(stale)
    }

    fn fill_small(&mut self, mem: &impl TableMem, first: usize, pages: usize, leaf: Pte) -> Result {
        let entries = self.shadow.smalls(first..first + pages);
        let entries = entries.ok_or(EINVAL)?;
        for (i, entry) in entries.iter_mut().enumerate() {
            *entry = leaf.advance(i)?.into_raw();
        }
        mem.write_run(self.tables.small.add(first as u64 * 8), entries);
        mem.barrier();
        Ok(())
    }

    fn big_at(&self, page: usize) -> VramOffset {
        self.tables.big.add((page / BIG_PAGES) as u64 * 8)
    }

    fn small_at(&self, page: usize) -> VramOffset {
        self.tables.small.add(page as u64 * 8)
    }

    fn set_huge(&mut self, mem: &impl TableMem, pte: Pte) {
        self.shadow.huge = pte;
        mem.write(self.tables.pde0, pte.into_raw());
    }

    fn set_big(&mut self, mem: &impl TableMem, page: usize, pte: Pte) {
        self.shadow.set_big(page, pte);
        mem.write(self.big_at(page), pte.into_raw());
    }
}

/// Cuts `pages` where 64 KiB leaves meet.
fn groups(pages: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let first = pages.start / BIG_PAGES;
    let last = pages.end.div_ceil(BIG_PAGES);
    (first..last).map(move |group| {
        let start = group * BIG_PAGES;
        pages.start.max(start)..pages.end.min(start + BIG_PAGES)
    })
}

fn each_page(pte: Pte, pages: usize, f: &mut impl FnMut(u64)) {
    for i in 0..pages as u64 {
        f(pte.dma() + (i << PAGE_SHIFT));
    }
}

/// What [`Block::retire`] did.
#[must_use]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Retired {
    /// 4 KiB pages that were mapped and are not any more.
    pub(crate) pages: usize,
    /// What the device may still have cached.
    pub(crate) stale: Stale,
}
