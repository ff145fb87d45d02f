// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runlists (dev_fifo, dev_ram RAMRL): which channels an engine runs, and in which groups.

use std::collections::BTreeMap;

use bitfield_struct::bitfield;

use crate::bus::{Bus, PhysAddr};

use super::regs::{self, RunlistBase, RunlistSubmit};

/// Runlists of the device; each serves one engine.
pub(super) const RUNLISTS: usize = 3;
/// NV_RAMRL_ENTRY_SIZE.
const ENTRY: usize = 16;
/// Entries that are read at a time.
const READ: usize = 256;

/// First dword of an entry.
#[bitfield(u32)]
struct EntryType {
    tsg: bool,
    #[bits(31)]
    __: u32,
}

/// Second dword of a TSG header.
#[bitfield(u32)]
struct TsgLength {
    length: u8,
    #[bits(24)]
    __: u32,
}

/// Third dword: the channel or the TSG.
#[bitfield(u32)]
struct EntryId {
    #[bits(12)]
    id: u16,
    #[bits(20)]
    __: u32,
}

/// Where a runlist has a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) runlist: u8,
    pub(super) tsg: u16,
}

/// NV_PFIFO_INTR_SCHED_ERROR_CODE: why a runlist is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum SchedError {
    /// It cannot be read (RL_RDAT_TIMEOUT).
    Unreadable = 0x08,
    /// A channel outside a TSG, or a TSG that has not as many channels as it says.
    BadTsg = 0x20,
}

/// The channels of a list, with their TSGs.
pub(super) type List = BTreeMap<u16, Place>;

/// Takes a list apart as its entries come by.
struct Parser {
    runlist: u8,
    list: List,
    tsg: u16,
    /// Channels that the TSG still has.
    left: u8,
}

impl Parser {
    fn entry(&mut self, words: [u32; 4]) -> Result<(), SchedError> {
        let [kind, length, id, _] = words;
        let id = EntryId::from(id).id();
        if EntryType::from(kind).tsg() {
            let length = TsgLength::from(length).length();
            if self.left > 0 || length == 0 {
                return Err(SchedError::BadTsg);
            }
            (self.tsg, self.left) = (id, length);
        } else {
            self.left = self.left.checked_sub(1).ok_or(SchedError::BadTsg)?;
            let (runlist, tsg) = (self.runlist, self.tsg);
            self.list.insert(id, Place { runlist, tsg });
        }
        Ok(())
    }

    fn finish(self) -> Result<List, SchedError> {
        if self.left > 0 {
            return Err(SchedError::BadTsg);
        }
        Ok(self.list)
    }
}

/// Reads the list that a write of NV_PFIFO_RUNLIST submits.
pub(super) fn read(
    bus: &dyn Bus,
    base: RunlistBase,
    submit: RunlistSubmit,
) -> Result<List, SchedError> {
    let aperture = regs::aperture(base.target()).ok_or(SchedError::Unreadable)?;
    let base = PhysAddr {
        aperture,
        addr: u64::from(base.ptr()) << 12,
    };
    let mut parser = Parser {
        runlist: submit.id(),
        list: List::new(),
        tsg: 0,
        left: 0,
    };
    let mut buffer = [0; READ * ENTRY];
    let mut done = 0;
    while done < usize::from(submit.length()) {
        let count = (usize::from(submit.length()) - done).min(READ);
        let entries = buffer.get_mut(..count * ENTRY).unwrap_or_default();
        let at = base.offset((done * ENTRY) as u64);
        bus.read(at, entries).map_err(|_| SchedError::Unreadable)?;
        for entry in entries.chunks_exact(ENTRY) {
            parser.entry(words(entry))?;
        }
        done += count;
    }
    parser.finish()
}

fn words(entry: &[u8]) -> [u32; 4] {
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(entry.chunks_exact(4)) {
        *word = bytes.try_into().map_or(0, u32::from_le_bytes);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(entries: &[[u32; 4]]) -> Result<List, SchedError> {
        let mut parser = Parser {
            runlist: 1,
            list: List::new(),
            tsg: 0,
            left: 0,
        };
        for entry in entries {
            parser.entry(*entry)?;
        }
        parser.finish()
    }

    const fn tsg(id: u32, length: u32) -> [u32; 4] {
        [1, length, id, 0]
    }

    const fn channel(id: u32) -> [u32; 4] {
        [0, 0, id, 0]
    }

    #[test]
    fn channels_belong_to_the_tsg_before_them() {
        let list = parse(&[tsg(7, 2), channel(1), channel(2), tsg(8, 1), channel(5)]).unwrap();
        let tsgs: Vec<_> = list.iter().map(|(id, place)| (*id, place.tsg)).collect();
        assert_eq!(tsgs, [(1, 7), (2, 7), (5, 8)]);
        assert_eq!(parse(&[]).map(|list| list.len()), Ok(0));
    }

    #[test]
    fn a_tsg_has_exactly_the_channels_that_it_announces() {
        for bad in [
            &[channel(1)][..],
            &[tsg(1, 0)],
            &[tsg(1, 2), channel(1)],
            &[tsg(1, 2), channel(1), tsg(2, 1), channel(2)],
            &[tsg(1, 1), channel(1), channel(2)],
        ] {
            assert_eq!(parse(bad), Err(SchedError::BadTsg), "{bad:?}");
        }
    }
}
