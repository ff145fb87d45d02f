// SPDX-License-Identifier: MIT OR Apache-2.0
//! A bounded set-associative cache of translations, tagged by page directory and page number.

use crate::bus::PhysAddr;

use super::format::PAGE_SHIFT;
use super::invalidation::Scope;

/// Entries that share a set.
const WAYS: usize = 4;

/// What an entry is found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tag {
    pub(crate) pdb: PhysAddr,
    /// Virtual address >> the cache's shift.
    pub(crate) page: u64,
}

/// A cache of entries that each cover `1 << shift` bytes.
pub(crate) struct Cache<V> {
    shift: u32,
    sets: Vec<[Option<(Tag, V)>; WAYS]>,
    used: usize,
    victim: usize,
}

impl<V: Copy> Cache<V> {
    /// An empty cache of `1 << set_bits` sets.
    pub(crate) fn new(shift: u32, set_bits: u32) -> Self {
        Self {
            shift,
            sets: vec![[None; WAYS]; 1 << set_bits],
            used: 0,
            victim: 0,
        }
    }

    /// The entry for the page of `va`.
    pub(crate) fn get(&self, pdb: PhysAddr, va: u64) -> Option<V> {
        if self.used == 0 {
            return None;
        }
        let page = va >> self.shift;
        let tag = Tag { pdb, page };
        let set = self.sets.get(self.set_index(tag))?;
        let slot = set.iter().flatten().find(|(found, _)| *found == tag);
        slot.map(|(_, value)| *value)
    }

    /// Enters a value for the page of `va`, in place of an older one of the same page or of any other.
    pub(crate) fn insert(&mut self, pdb: PhysAddr, va: u64, value: V) {
        let page = va >> self.shift;
        let tag = Tag { pdb, page };
        let index = self.set_index(tag);
        let Some(set) = self.sets.get_mut(index) else {
            return;
        };
        let same = |slot: &Option<(Tag, V)>| slot.is_some_and(|(found, _)| found == tag);
        let way = set.iter().position(same);
        let way = way.or_else(|| set.iter().position(Option::is_none));
        let way = way.unwrap_or_else(|| {
            self.victim = (self.victim + 1) % WAYS;
            self.victim
        });
        if let Some(slot) = set.get_mut(way) {
            self.used += usize::from(slot.is_none());
            *slot = Some((tag, value));
        }
    }

    /// Drops the entries that overlap the scope.
    pub(crate) fn invalidate(&mut self, scope: &Scope) {
        if self.used == 0 {
            return;
        }
        match scope.tags(self.shift, self.sets.len()) {
            Some(tags) => tags.for_each(|tag| self.drop_tag(tag)),
            None => self.drop_covered(scope),
        }
    }

    fn drop_tag(&mut self, tag: Tag) {
        let index = self.set_index(tag);
        for slot in self.sets.get_mut(index).into_iter().flatten() {
            if slot.is_some_and(|(found, _)| found == tag) {
                *slot = None;
                self.used -= 1;
            }
        }
    }

    fn drop_covered(&mut self, scope: &Scope) {
        for slot in self.sets.iter_mut().flatten() {
            if slot.is_some_and(|(tag, _)| scope.covers(tag, self.shift)) {
                *slot = None;
                self.used -= 1;
            }
        }
    }

    /// Drops everything.
    pub(crate) fn clear(&mut self) {
        self.sets.fill([None; WAYS]);
        self.used = 0;
    }

    fn set_index(&self, tag: Tag) -> usize {
        let hash = tag.page ^ (tag.pdb.addr >> PAGE_SHIFT);
        // The number of sets is a power of two.
        hash as usize & (self.sets.len() - 1)
    }
}
