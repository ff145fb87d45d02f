// SPDX-License-Identifier: GPL-2.0

//! Push buffers: what the driver checks in the program's, and how it writes its own. Pure logic.
//!
//! A method's data may continue in the next push buffer of a channel (dev_pbdma), so one that ends in the middle would
//! swallow what the driver appends. Nothing else is checked: methods reach no memory but through the page tables of
//! the channel, and privileged ones are refused by the hardware.

use crate::ram::{host_method, sec_op, MethodHeader, SemExecute, SEM_OPERATION_RELEASE};
use kernel::prelude::*;

/// Words of the driver's own push buffer behind each of the program's.
pub(crate) const FENCE_WORDS: usize = 7;

/// Checks that `words` is a sequence of whole methods.
///
/// # Errors
///
/// `EINVAL` if not.
pub(crate) fn validate(words: &[u32]) -> Result {
    let mut rest = words;
    while let Some((header, data)) = rest.split_first() {
        let header = MethodHeader::from(*header);
        let count = match header.sec_op().get() {
            sec_op::INC_METHOD | sec_op::NON_INC_METHOD | sec_op::ONE_INC => {
                usize::try_from(header.count().get())?
            }
            sec_op::IMMD_DATA_METHOD => 0,
            _ => return Err(EINVAL),
        };
        rest = data.get(count..).ok_or(EINVAL)?;
    }
    Ok(())
}

/// The push buffer that, when all work before it is done, writes `payload` to `address` and raises the non-stall interrupt.
pub(crate) fn fence(address: u64, payload: u32) -> Result<[u32; FENCE_WORDS]> {
    let release = SemExecute::zeroed()
        .with_const_operation::<{ SEM_OPERATION_RELEASE as u32 }>()
        .with_release_wfi(true);
    Ok([
        header(sec_op::INC_METHOD, host_method::SEM_ADDR_LO, 5)?,
        // CAST: The low half.
        address as u32,
        u32::try_from(address >> 32)?,
        payload,
        0,
        release.into_raw(),
        header(sec_op::IMMD_DATA_METHOD, host_method::NON_STALL_INT, 0)?,
    ])
}

fn header(op: u32, method: u32, count: u32) -> Result<u32> {
    Ok(MethodHeader::zeroed()
        .try_with_sec_op(op)?
        .try_with_count(count)?
        .try_with_address(method >> 2)?
        .into_raw())
}

#[cfg(CONFIG_KUNIT = "y")]
#[kernel::macros::kunit_tests(mirage_push)]
mod tests {
    use super::*;

    const INC_TWO: u32 = 0x2002_0080;

    #[test]
    fn whole_methods_are_accepted() {
        assert!(validate(&[INC_TWO, 1, 2, 0x8001_0040]).is_ok());
    }

    #[test]
    fn an_empty_push_buffer_is_accepted() {
        assert!(validate(&[]).is_ok());
    }

    #[test]
    fn a_method_that_ends_outside_is_refused() {
        assert_eq!(validate(&[INC_TWO, 1]), Err(EINVAL));
    }

    #[test]
    fn unknown_operations_are_refused() {
        for op in [0, 2, 6, 7u32] {
            assert_eq!(validate(&[op << 29]), Err(EINVAL));
        }
    }

    #[test]
    fn the_fence_is_whole_methods() {
        assert!(fence(0x12_3456_7000, 7).is_ok_and(|words| validate(&words).is_ok()));
    }
}
