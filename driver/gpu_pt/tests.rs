// SPDX-License-Identifier: GPL-2.0

//! The page tables of a block, against memory that is an array. What is expected is written as the raw bits of the manual, so
//! that a wrong field shows.

use super::{
    block::{Block, BlockTables, Leaf, Retired, Stale},
    directory_indices,
    shadow::Shadow,
    Access, LeafSize, Pde, Pte, TableMem, BIG_PAGES, BLOCK_PAGES,
};
use crate::vram::VramOffset;
use kernel::{
    prelude::*,
    sync::atomic::{Atomic, Relaxed},
};

mod device;

use device::Device;

const PDE0: VramOffset = VramOffset(0);
const BIG: VramOffset = VramOffset(0x100);
const SMALL: VramOffset = VramOffset(0x1000);
const WORDS: usize = 0x400;
/// A bus address aligned to 2 MiB.
const DMA: u64 = 0x12_3460_0000;

/// Table memory from address 0 on.
struct Memory(KVec<Atomic<u64>>);

impl Memory {
    fn new() -> Result<Self> {
        let mut words = KVec::with_capacity(WORDS, GFP_KERNEL)?;
        for _ in 0..WORDS {
            words.push(Atomic::new(0), GFP_KERNEL)?;
        }
        Ok(Self(words))
    }
}

impl Memory {
    fn read(&self, at: VramOffset) -> u64 {
        self.0
            .get(at.0 as usize / 8)
            .map_or(u64::MAX, |word| word.load(Relaxed))
    }
}

impl TableMem for Memory {
    fn write(&self, at: VramOffset, value: u64) {
        if let Some(word) = self.0.get(at.0 as usize / 8) {
            word.store(value, Relaxed);
        }
    }

    fn write_run(&self, at: VramOffset, entries: &[u64]) {
        for (i, entry) in entries.iter().enumerate() {
            self.write(at.add(i as u64 * 8), *entry);
        }
    }

    fn barrier(&self) {}
}

fn block() -> Result<Block> {
    let tables = BlockTables {
        pde0: PDE0,
        big: BIG,
        small: SMALL,
    };
    Ok(Block::new(tables, Shadow::new()?))
}

fn leaf(page: usize, size: LeafSize, access: Access) -> Result<Leaf> {
    let pte = Pte::sysmem(DMA + page as u64 * 4096, access)?;
    Ok(Leaf { page, size, pte })
}

/// Bus addresses that `reap` hands out for `pages`, relative to [`DMA`], in pages: how many, and their sum.
fn reap(block: &mut Block, mem: &impl TableMem, pages: core::ops::Range<usize>) -> (usize, u64) {
    let (mut count, mut sum) = (0, 0);
    block.reap(mem, pages, |addr| {
        count += 1;
        sum += (addr - DMA) / 4096;
    });
    (count, sum)
}

fn sum(pages: core::ops::Range<usize>) -> (usize, u64) {
    (pages.len(), pages.map(|page| page as u64).sum())
}

fn huge_block(mem: &Memory) -> Result<Block> {
    let mut block = block()?;
    let stale = block.map(mem, leaf(0, LeafSize::Huge, Access::ReadWrite)?)?;
    assert_eq!(stale, Stale::Nothing);
    Ok(block)
}

#[kernel::macros::kunit_tests(mirage_gpu_pt)]
mod suite {
    use super::*;

    #[test]
    fn a_pte_has_the_bits_of_the_manual() -> Result {
        // VALID, APERTURE 2 (system memory), VOL, address >> 12 at bit 8.
        let rw = (DMA >> 4) | 1 | 2 << 1 | 1 << 3;
        assert_eq!(Pte::sysmem(DMA, Access::ReadWrite)?.into_raw(), rw);
        // READ_ONLY and ATOMIC_DISABLE.
        assert_eq!(
            Pte::sysmem(DMA, Access::ReadOnly)?.into_raw(),
            rw | 1 << 6 | 1 << 7
        );
        Ok(())
    }

    #[test]
    fn a_pde_names_vram_with_another_code_than_a_pte() -> Result {
        assert_eq!(
            Pde::table(VramOffset(0x34_5000))?.into_raw(),
            0x345 << 8 | 1 << 1
        );
        Ok(())
    }

    #[test]
    fn an_address_that_does_not_fit_is_refused() {
        assert!(Pte::sysmem(1 << 58, Access::ReadOnly).is_err());
        assert!(Pde::table(VramOffset(1 << 37)).is_err());
    }

    #[test]
    fn an_address_is_cut_into_the_indices_of_the_levels() {
        let va = 2 << 47 | 0x101 << 38 | 0x1ff << 29 | 0x80 << 21 | 0xabc;
        assert_eq!(directory_indices(va), [2, 0x101, 0x1ff, 0x80]);
    }

    #[test]
    fn a_huge_leaf_is_the_low_half_of_the_pde0() -> Result {
        let mem = Memory::new()?;
        let block = huge_block(&mem)?;
        assert_eq!(
            mem.read(PDE0),
            Pte::sysmem(DMA, Access::ReadWrite)?.into_raw()
        );
        assert_eq!(mem.read(PDE0.add(8)), 0);
        assert_eq!(block.lookup(511), Some((Access::ReadWrite, LeafSize::Huge)));
        assert_eq!(block.lookup(512), None);
        Ok(())
    }

    #[test]
    fn smaller_leaves_link_both_tables() -> Result {
        let mem = Memory::new()?;
        let mut block = block()?;
        block.map(&mem, leaf(3, LeafSize::Small, Access::ReadOnly)?)?;
        block.map(&mem, leaf(16, LeafSize::Big, Access::ReadWrite)?)?;
        // Big half: address >> 8 at bit 4; small half: address >> 12 at bit 8; both APERTURE 1.
        assert_eq!(mem.read(PDE0), BIG.0 >> 8 << 4 | 1 << 1);
        assert_eq!(mem.read(PDE0.add(8)), SMALL.0 >> 12 << 8 | 1 << 1);
        assert_eq!(block.lookup(3), Some((Access::ReadOnly, LeafSize::Small)));
        assert_eq!(block.lookup(31), Some((Access::ReadWrite, LeafSize::Big)));
        assert_eq!(block.lookup(32), None);
        assert_eq!(block.mapped(), 17);
        Ok(())
    }

    #[test]
    fn leaves_must_be_aligned_and_free() -> Result {
        let mem = Memory::new()?;
        let mut block = block()?;
        assert_eq!(
            block.map(&mem, leaf(8, LeafSize::Big, Access::ReadOnly)?),
            Err(EINVAL)
        );
        assert_eq!(
            block.map(&mem, leaf(BLOCK_PAGES, LeafSize::Small, Access::ReadOnly)?),
            Err(EINVAL)
        );
        block.map(&mem, leaf(17, LeafSize::Small, Access::ReadOnly)?)?;
        assert_eq!(
            block.map(&mem, leaf(16, LeafSize::Big, Access::ReadOnly)?),
            Err(EEXIST)
        );
        assert_eq!(
            block.map(&mem, leaf(0, LeafSize::Huge, Access::ReadOnly)?),
            Err(EEXIST)
        );
        Ok(())
    }

    #[test]
    fn retiring_a_page_of_a_huge_leaf_keeps_the_other_511() -> Result {
        let mem = Memory::new()?;
        let mut block = huge_block(&mem)?;
        assert_eq!(
            block.retire(&mem, 100..101)?,
            Retired {
                pages: 1,
                stale: Stale::Pde0
            }
        );
        assert_eq!(block.lookup(100), None);
        for page in [0, 99, 101, 511] {
            assert_eq!(
                block.lookup(page),
                Some((Access::ReadWrite, LeafSize::Small))
            );
            let pte = Pte::sysmem(DMA + page as u64 * 4096, Access::ReadWrite)?;
            assert_eq!(mem.read(SMALL.add(page as u64 * 8)), pte.into_raw());
        }
        assert_eq!(reap(&mut block, &mem, 100..101), sum(100..101));
        assert_eq!(mem.read(SMALL.add(800)), 0);
        assert_eq!(block.mapped(), 511);
        Ok(())
    }

    #[test]
    fn retiring_part_of_a_big_leaf_keeps_the_rest_of_it() -> Result {
        let mem = Memory::new()?;
        let mut block = block()?;
        block.map(&mem, leaf(32, LeafSize::Big, Access::ReadOnly)?)?;
        block.map(&mem, leaf(48, LeafSize::Big, Access::ReadOnly)?)?;
        assert_eq!(
            block.retire(&mem, 40..48)?,
            Retired {
                pages: 8,
                stale: Stale::Pte
            }
        );
        assert_eq!(block.lookup(39), Some((Access::ReadOnly, LeafSize::Small)));
        assert_eq!(block.lookup(40), None);
        assert_eq!(block.lookup(48), Some((Access::ReadOnly, LeafSize::Big)));
        assert_eq!(reap(&mut block, &mem, 40..48), sum(40..48));
        Ok(())
    }

    #[test]
    fn a_retired_entry_says_nothing_to_the_hardware_but_keeps_its_address() -> Result {
        let mem = Memory::new()?;
        let mut block = huge_block(&mem)?;
        assert_eq!(
            block.retire(&mem, 0..BLOCK_PAGES)?,
            Retired {
                pages: BLOCK_PAGES,
                stale: Stale::Pde0
            }
        );
        // No IS_PTE, APERTURE or VOL: an invalid PDE0, neither table nor sparse.
        assert_eq!(mem.read(PDE0), DMA >> 4);
        assert_eq!(reap(&mut block, &mem, 0..BLOCK_PAGES), sum(0..BLOCK_PAGES));
        assert_eq!(mem.read(PDE0), 0);
        Ok(())
    }

    #[test]
    fn retiring_what_is_not_mapped_changes_nothing() -> Result {
        let mem = Memory::new()?;
        let mut block = block()?;
        assert_eq!(block.retire(&mem, 0..BLOCK_PAGES)?, Retired::default());
        block.map(&mem, leaf(5, LeafSize::Small, Access::ReadOnly)?)?;
        assert_eq!(block.retire(&mem, 6..BLOCK_PAGES)?, Retired::default());
        assert_eq!(block.mapped(), 1);
        Ok(())
    }

    #[test]
    fn each_address_is_handed_out_once() -> Result {
        let mem = Memory::new()?;
        let mut block = huge_block(&mem)?;
        block.retire(&mem, 0..8).map(drop)?;
        assert_eq!(reap(&mut block, &mem, 0..8), sum(0..8));
        assert_eq!(reap(&mut block, &mem, 0..8), (0, 0));
        block.retire(&mem, 0..BLOCK_PAGES).map(drop)?;
        assert_eq!(reap(&mut block, &mem, 0..BLOCK_PAGES), sum(8..BLOCK_PAGES));
        assert_eq!(block.mapped(), 0);
        Ok(())
    }

    #[test]
    fn an_emptied_block_can_be_mapped_huge_again() -> Result {
        let mem = Memory::new()?;
        let mut block = block()?;
        block.map(&mem, leaf(16, LeafSize::Big, Access::ReadOnly)?)?;
        block.retire(&mem, 0..BLOCK_PAGES).map(drop)?;
        reap(&mut block, &mem, 0..BLOCK_PAGES);
        // The tables were linked, so the device may have the PDE0 cached.
        assert_eq!(
            block.map(&mem, leaf(0, LeafSize::Huge, Access::ReadWrite)?)?,
            Stale::Pde0
        );
        assert_eq!(mem.read(PDE0.add(8)), 0);
        Ok(())
    }

    /// It may have read one half of a PDE0 before it was written, and the other after.
    #[test]
    fn a_device_that_walks_all_the_time_finds_every_leaf() -> Result {
        let sizes = [LeafSize::Small, LeafSize::Big, LeafSize::Huge];
        for sizes in sizes
            .map(|first| sizes.map(|then| [first, then]))
            .as_flattened()
        {
            let (device, mut block) = (Device::new()?, block()?);
            for size in *sizes {
                device.invalidate(block.map(&device, leaf(0, size, Access::ReadWrite)?)?);
                assert!(device.finds(0));
                device.invalidate(block.retire(&device, 0..BLOCK_PAGES)?.stale);
                assert!(!device.finds(0));
                reap(&mut block, &device, 0..BLOCK_PAGES);
            }
        }
        Ok(())
    }

    #[test]
    fn upgrading_a_whole_leaf_keeps_its_size() -> Result {
        let mem = Memory::new()?;
        let mut block = block()?;
        block.map(&mem, leaf(0, LeafSize::Huge, Access::ReadOnly)?)?;
        assert_eq!(block.upgrade(&mem, 7, true)?, Stale::Pte);
        assert_eq!(block.lookup(300), Some((Access::ReadWrite, LeafSize::Huge)));
        Ok(())
    }

    #[test]
    fn upgrading_one_page_of_a_leaf_leaves_the_others_read_only() -> Result {
        let mem = Memory::new()?;
        let mut block = block()?;
        block.map(&mem, leaf(0, LeafSize::Big, Access::ReadOnly)?)?;
        block.upgrade(&mem, 7, false).map(drop)?;
        assert_eq!(block.lookup(7), Some((Access::ReadWrite, LeafSize::Small)));
        assert_eq!(block.lookup(8), Some((Access::ReadOnly, LeafSize::Small)));
        assert_eq!(block.mapped(), BIG_PAGES);
        Ok(())
    }

    #[test]
    fn upgrading_what_is_not_mapped_is_an_error() -> Result {
        assert_eq!(block()?.upgrade(&Memory::new()?, 0, false), Err(ENOENT));
        Ok(())
    }

    /// Device memory reads as all ones while the device is away, and a device may write what it wants.
    #[test]
    fn what_the_device_makes_of_its_memory_changes_nothing_that_the_driver_knows() -> Result {
        let mem = Memory::new()?;
        let mut block = block()?;
        block.map(&mem, leaf(16, LeafSize::Big, Access::ReadWrite)?)?;
        block.map(&mem, leaf(40, LeafSize::Small, Access::ReadWrite)?)?;
        for word in 0..WORDS as u64 {
            mem.write(VramOffset(word * 8), u64::MAX);
        }
        assert_eq!(block.lookup(48), None);
        let retired = block.retire(&mem, 0..BLOCK_PAGES)?;
        assert_eq!(retired.pages, BIG_PAGES + 1);
        let (count, total) = sum(16..32);
        assert_eq!(
            reap(&mut block, &mem, 0..BLOCK_PAGES),
            (count + 1, total + 40)
        );
        Ok(())
    }
}
