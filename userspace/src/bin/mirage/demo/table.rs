// SPDX-License-Identifier: MIT OR Apache-2.0
//! The data: a hash table as anyone would write it.

use std::mem::offset_of;
use std::sync::atomic::{AtomicU64, Ordering};

use fastrand::Rng;
use mirage::NodeLayout;

use crate::Outcome;

/// Chains of the table.
const CHAINS: usize = 1 << 15;

/// What the GPU must know to find its way in a [`Node`].
pub(crate) const LAYOUT: NodeLayout = NodeLayout {
    next: offset_of!(Node, next) as u32,
    value: offset_of!(Node, value) as u32,
};

/// A node of a chain. The value is atomic because somebody else, the GPU, changes it while it is shared.
pub(crate) struct Node {
    next: Option<Box<Node>>,
    value: AtomicU64,
    key: u64,
}

/// A hash table of boxed nodes.
pub(crate) struct Table {
    heads: Vec<Option<Box<Node>>>,
    len: u64,
}

impl Table {
    /// `len` nodes with the keys 0, 1, 2 ..., scattered over the chains. Each value begins as its key.
    pub(crate) fn build(len: usize, seed: u64) -> Self {
        let mut heads: Vec<Option<Box<Node>>> =
            std::iter::repeat_with(|| None).take(CHAINS).collect();
        let mut rng = Rng::with_seed(seed);
        for key in 0..len as u64 {
            let head = &mut heads[rng.usize(..CHAINS)];
            *head = Some(Box::new(Node {
                next: head.take(),
                value: AtomicU64::new(key),
                key,
            }));
        }
        Table {
            heads,
            len: len as u64,
        }
    }

    /// The first nodes of all chains.
    pub(crate) fn heads(&self) -> &[Option<Box<Node>>] {
        &self.heads
    }

    /// Number of nodes.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Sum of all values after `walks` walks, wrapping.
    pub(crate) fn sum(&self, walks: u64) -> u64 {
        let keys: u64 = (0..self.len).fold(0, u64::wrapping_add);
        keys.wrapping_add(self.len.wrapping_mul(walks))
    }

    /// The nodes of one chain.
    pub(crate) fn chain(&self, chain: usize) -> impl Iterator<Item = &Node> {
        let first = self.heads.get(chain).and_then(Option::as_deref);
        std::iter::successors(first, |node| node.next.as_deref())
    }

    /// A chain that is not empty, chosen by `rng`, or the first one.
    pub(crate) fn some_node(&self, rng: &mut Rng) -> Option<&Node> {
        self.chain(rng.usize(..CHAINS)).nth(rng.usize(..16))
    }

    /// Looks at every node: each must have been added to `walks` times, and none may be missing.
    pub(crate) fn check(&self, walks: u64) -> Outcome<()> {
        let mut count = 0;
        for node in (0..CHAINS).flat_map(|chain| self.chain(chain)) {
            let (key, value) = (node.key, node.value());
            if value != key + walks {
                return Err(format!("node {key} has the value {value} after {walks} walks").into());
            }
            count += 1;
        }
        if count != self.len {
            return Err(format!("{count} nodes are left of {}", self.len).into());
        }
        Ok(())
    }
}

impl Node {
    /// The value as it is now.
    pub(crate) fn value(&self) -> u64 {
        self.value.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_of_a_table_is_that_of_its_nodes() {
        let table = Table::build(1000, 3);
        let sum: u64 = (0..CHAINS)
            .flat_map(|chain| table.chain(chain))
            .map(Node::value)
            .sum();
        assert_eq!(sum, table.sum(0));
    }

    #[test]
    fn a_check_finds_the_one_node_that_was_missed() {
        let table = Table::build(1000, 3);
        let all = || (0..CHAINS).flat_map(|chain| table.chain(chain));
        let walk = |node: &Node| {
            node.value.fetch_add(1, Ordering::Relaxed);
        };
        all().skip(1).for_each(walk);
        assert!(table.check(1).is_err());
        all().take(1).for_each(walk);
        assert!(table.check(1).is_ok());
    }
}
