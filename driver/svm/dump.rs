// SPDX-License-Identifier: GPL-2.0

//! What address spaces consist of, as text: `mirage_svm` in debugfs; and the figures of fdinfo.
//!
//! Records: a line for the address space, one for each region, and for each block that has something mapped a line for each run of
//! equal leaves. No lock is held between two records.

use super::{space::Space, Svm};
use crate::{
    fault::VA_BITS,
    gpu::Gpu,
    gpu_pt::{Access, LeafSize, BLOCK_PAGES, BLOCK_SHIFT, PAGE_SHIFT},
    kapi::drm::debugfs::DebugfsFile,
    mirror::{Region, REGION_BLOCKS, REGION_SHIFT, REGION_SIZE},
};
use kernel::{prelude::*, seq_file::SeqFile, seq_print, sync::Arc};

/// Bits of a position for the region, and for the record in the region.
const REGION_BITS: u32 = 25;
const RECORD_BITS: u32 = 5;

const _: () = assert!(
    1 << (VA_BITS - REGION_SHIFT) < 1u64 << REGION_BITS,
    "1 + the number of any region fits, and one more, where the search goes on"
);
const _: () = assert!(REGION_BLOCKS + 1 < 1 << RECORD_BITS);

/// A record. Positions of an address space count from 0; the first is its own, then each region has some.
#[derive(Clone, Copy)]
struct Position {
    client: u64,
    /// 0 for the address space's own record, else 1 + the number of a region.
    region: u64,
    /// In a region: 0 for its own record, else 1 + the number of a block.
    record: u64,
}

impl Position {
    fn decode(position: u64) -> Self {
        Self {
            client: position >> (REGION_BITS + RECORD_BITS),
            region: position >> RECORD_BITS & ((1 << REGION_BITS) - 1),
            record: position & ((1 << RECORD_BITS) - 1),
        }
    }

    fn encode(self) -> u64 {
        (self.client << REGION_BITS | self.region) << RECORD_BITS | self.record
    }
}

/// `mirage_svm`.
pub(crate) struct Dump;

impl DebugfsFile<Arc<Gpu>> for Dump {
    const NAME: &'static CStr = c"mirage_svm";

    fn next(gpu: &Arc<Gpu>, from: u64) -> Option<u64> {
        let mut from = Position::decode(from);
        loop {
            let svm = gpu.next_svm(from.client)?;
            if svm.client.id > from.client {
                from = Position::of_svm(svm.client.id);
            }
            if let Some(next) = svm.next_record(from) {
                return Some(next.encode());
            }
            from = Position::of_svm(from.client + 1);
        }
    }

    fn show(gpu: &Arc<Gpu>, position: u64, seq: &SeqFile) {
        let at = Position::decode(position);
        let svm = gpu.next_svm(at.client);
        if let Some(svm) = svm.filter(|svm| svm.client.id == at.client) {
            svm.show_record(at, seq);
        }
    }
}

impl Position {
    fn of_svm(client: u64) -> Self {
        Self {
            client,
            region: 0,
            record: 0,
        }
    }
}

/// What an address space uses.
#[derive(Default)]
pub(crate) struct Usage {
    pub(crate) regions: usize,
    /// Bytes that the GPU maps of the process's memory.
    pub(crate) mapped: u64,
    /// Bytes of page tables below the directory.
    pub(crate) tables: u64,
}

impl Svm {
    /// What it uses now.
    pub(crate) fn usage(&self) -> Usage {
        let mut usage = Usage::default();
        let directory = self.space.lock().as_ref().map_or(0, Space::directory_pages);
        usage.tables = (directory as u64) << PAGE_SHIFT;
        let mut next = 0;
        while let Some(region) = self.region_from(next) {
            next = (region.start >> REGION_SHIFT) + 1;
            let mut state = region.notifier.lock();
            usage.regions += 1;
            usage.mapped += (state.tables().mapped() as u64) << PAGE_SHIFT;
            usage.tables += (state.tables().pages() as u64) << PAGE_SHIFT;
        }
        usage
    }

    /// The first region whose number is `key` or more.
    fn region_from(&self, key: u64) -> Option<Arc<Region>> {
        self.space.lock().as_ref()?.region_from(key)
    }

    /// The first record that is at `from`, or behind it.
    fn next_record(&self, from: Position) -> Option<Position> {
        if from.region == 0 {
            if from.record == 0 {
                return Some(from);
            }
            return self.next_record(Position {
                region: 1,
                record: 0,
                ..from
            });
        }
        let region = self.region_from(from.region - 1)?;
        let number = (region.start >> REGION_SHIFT) + 1;
        let record = if number == from.region {
            from.record
        } else {
            0
        };
        if record <= REGION_BLOCKS as u64 {
            return Some(Position {
                region: number,
                record,
                ..from
            });
        }
        self.next_record(Position {
            region: number + 1,
            record: 0,
            ..from
        })
    }

    fn show_record(&self, at: Position, seq: &SeqFile) {
        let Some(number) = at.region.checked_sub(1) else {
            return self.show_svm(seq);
        };
        let region = self.region_from(number);
        let region = region.filter(|region| region.start >> REGION_SHIFT == number);
        let Some(region) = region else { return };
        match at.record.checked_sub(1) {
            None => {
                let end = region.start + REGION_SIZE;
                seq_print!(seq, "region {:#x}-{:#x}\n", region.start, end);
            }
            // CAST: A region has 16 blocks.
            Some(block) => show_block(&region, block as usize, seq),
        }
    }

    fn show_svm(&self, seq: &SeqFile) {
        let usage = self.usage();
        seq_print!(
            seq,
            "svm client={} unmanaged={:#x}-{:#x} regions={} mapped={} tables={} {}\n",
            self.client.id,
            self.unmanaged.start,
            self.unmanaged.end,
            usage.regions,
            usage.mapped,
            usage.tables,
            self.client.process
        );
    }
}

/// Writes a line for each run of equal leaves.
fn show_block(region: &Region, block: usize, seq: &SeqFile) {
    let mut state = region.notifier.lock();
    let base = region.start + ((block as u64) << BLOCK_SHIFT);
    let address = |page: usize| base + ((page as u64) << PAGE_SHIFT);
    let mut run: Option<(usize, (Access, LeafSize))> = None;
    let mut page = 0;
    while page <= BLOCK_PAGES {
        let leaf = state.leaf(block, page);
        if let Some((start, old)) = run.filter(|(_, old)| leaf != Some(*old)) {
            let (access, size) = old;
            let write = u32::from(access == Access::ReadWrite);
            seq_print!(
                seq,
                "leaf {:#x}-{:#x} order={} write={} atomic={} place=system\n",
                address(start),
                address(page),
                size.order(),
                write,
                write
            );
            run = None;
        }
        if let (None, Some(leaf)) = (run, leaf) {
            run = Some((page, leaf));
        }
        page += leaf.map_or(1, |(_, size)| size.pages());
    }
}
