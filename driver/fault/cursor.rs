// SPDX-License-Identifier: GPL-2.0

//! How far the driver has read a fault buffer. What the device says of its side is checked here.

use core::ops::RangeInclusive;
use kernel::prelude::*;

/// Bounds of what the device may say about the size of a buffer, in packets.
const ENTRIES: RangeInclusive<u32> = 2..=65536;

/// A position in a buffer.
///
/// # Invariants
///
/// `get < entries`, and `entries` is in [`ENTRIES`].
pub(super) struct Cursor {
    entries: u32,
    get: u32,
}

impl Cursor {
    /// Checks a size, in packets, that the device told. [`ENODEV`] if it cannot be.
    pub(super) fn entries(told: u32) -> Result<u32> {
        if !ENTRIES.contains(&told) {
            return Err(ENODEV);
        }
        Ok(told)
    }

    /// Begins where the device goes on, at `put`. [`ENODEV`] if that cannot be.
    pub(super) fn new(entries: u32, put: u32) -> Result<Self> {
        let entries = Self::entries(entries)?;
        if put >= entries {
            return Err(ENODEV);
        }
        // INVARIANT: Both were checked.
        Ok(Self { entries, get: put })
    }

    /// The packet to read next.
    pub(super) fn get(&self) -> u32 {
        self.get
    }

    /// Packets from here to `put`; [`None`] if there is no such place.
    pub(super) fn waiting(&self, put: u32) -> Option<u32> {
        (put < self.entries).then(|| (put + self.entries - self.get) % self.entries)
    }

    /// Goes on to the next packet.
    pub(super) fn advance(&mut self) {
        // INVARIANT: A remainder is less than its divisor.
        self.get = (self.get + 1) % self.entries;
    }
}

#[cfg(CONFIG_KUNIT = "y")]
#[kernel::macros::kunit_tests(mirage_cursor)]
mod tests {
    use super::*;

    #[test]
    fn a_size_that_no_buffer_has_is_no_device() {
        for told in [0, 1, 65537, u32::MAX] {
            assert_eq!(Cursor::entries(told), Err(ENODEV));
        }
        assert_eq!(Cursor::entries(2), Ok(2));
        assert_eq!(Cursor::entries(65536), Ok(65536));
    }

    #[test]
    fn a_device_that_goes_on_outside_is_no_device() {
        assert!(Cursor::new(16, 15).is_ok());
        assert!(Cursor::new(16, 16).is_err());
        assert!(Cursor::new(16, u32::MAX).is_err());
    }

    #[test]
    fn packets_wait_round_the_corner_too() -> Result {
        let mut cursor = Cursor::new(16, 14)?;
        assert_eq!(cursor.waiting(14), Some(0));
        assert_eq!(cursor.waiting(1), Some(3));
        assert_eq!(cursor.waiting(13), Some(15));
        for next in [15, 0, 1] {
            cursor.advance();
            assert_eq!(cursor.get(), next);
        }
        assert_eq!(cursor.waiting(1), Some(0));
        Ok(())
    }

    #[test]
    fn a_put_outside_has_no_packets() -> Result {
        let cursor = Cursor::new(16, 0)?;
        assert_eq!(cursor.waiting(16), None);
        assert_eq!(cursor.waiting(u32::MAX), None);
        Ok(())
    }
}
