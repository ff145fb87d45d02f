// SPDX-License-Identifier: GPL-2.0

//! A queue with a fixed capacity: adding to it allocates nothing, so it may be done while a fence is unsignalled. Pure logic.

use kernel::prelude::*;

/// First in, first out.
pub(super) struct Fifo<T> {
    /// As many as the capacity; those in use begin at `head`.
    slots: KVec<Option<T>>,
    head: usize,
    len: usize,
}

impl<T> Fifo<T> {
    /// An empty queue for `capacity` items.
    pub(super) fn with_capacity(capacity: usize) -> Result<Self> {
        let mut slots = KVec::with_capacity(capacity, GFP_KERNEL_ACCOUNT)?;
        for _ in 0..capacity {
            slots.push(None, GFP_KERNEL_ACCOUNT)?;
        }
        Ok(Self {
            slots,
            head: 0,
            len: 0,
        })
    }

    /// Number of items.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Whether [`Fifo::push`] would give the item back.
    pub(super) fn is_full(&self) -> bool {
        self.len == self.slots.len()
    }

    /// Adds an item behind the others, or gives it back if there is no room.
    pub(super) fn push(&mut self, item: T) -> Result<(), T> {
        if self.is_full() {
            return Err(item);
        }
        let at = self.wrapped(self.head + self.len);
        match self.slots.get_mut(at) {
            Some(slot) => *slot = Some(item),
            None => return Err(item),
        }
        self.len += 1;
        Ok(())
    }

    /// The oldest item.
    pub(super) fn front(&self) -> Option<&T> {
        self.slots.get(self.head)?.as_ref()
    }

    /// Takes the oldest item out.
    pub(super) fn pop(&mut self) -> Option<T> {
        let item = self.slots.get_mut(self.head)?.take()?;
        self.head = self.wrapped(self.head + 1);
        self.len -= 1;
        Some(item)
    }

    /// A position less than twice the capacity, round the corner. Without a division: the compiler knows of no capacity that is not
    /// zero, and objtool not that the panic of a division by zero does not return.
    fn wrapped(&self, at: usize) -> usize {
        at.checked_sub(self.slots.len()).unwrap_or(at)
    }
}

#[cfg(CONFIG_KUNIT = "y")]
#[kernel::macros::kunit_tests(mirage_fifo)]
mod tests {
    use super::*;

    #[test]
    fn items_come_out_in_the_order_they_went_in() -> Result {
        let mut fifo = Fifo::with_capacity(3)?;
        for round in 0..10u32 {
            assert!(fifo.push(2 * round).is_ok() && fifo.push(2 * round + 1).is_ok());
            assert_eq!(fifo.front(), Some(&(2 * round)));
            assert_eq!(fifo.pop(), Some(2 * round));
            assert_eq!(fifo.pop(), Some(2 * round + 1));
        }
        assert_eq!((fifo.len(), fifo.pop()), (0, None));
        Ok(())
    }

    #[test]
    fn a_full_queue_gives_the_item_back() -> Result {
        let mut fifo = Fifo::with_capacity(2)?;
        assert!(fifo.push(1u32).is_ok() && !fifo.is_full() && fifo.push(2).is_ok());
        assert_eq!((fifo.is_full(), fifo.push(3)), (true, Err(3)));
        assert_eq!((fifo.pop(), fifo.push(3)), (Some(1), Ok(())));
        assert_eq!(
            (fifo.pop(), fifo.pop(), fifo.pop()),
            (Some(2), Some(3), None)
        );
        Ok(())
    }

    #[test]
    fn a_queue_for_nothing_is_full() -> Result {
        let mut fifo = Fifo::with_capacity(0)?;
        assert_eq!(
            (fifo.is_full(), fifo.push(1u32), fifo.pop()),
            (true, Err(1), None)
        );
        Ok(())
    }
}
