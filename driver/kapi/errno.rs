// SPDX-License-Identifier: GPL-2.0

//! Errors that `kernel::error::code` lacks, in some versions or in all.

use kernel::{
    bindings,
    prelude::*, //
};

/// `ECANCELED`: the operation was abandoned.
pub(crate) fn canceled() -> Error {
    from_code(bindings::ECANCELED)
}

/// `EOPNOTSUPP`: this cannot be done here.
pub(crate) fn not_supported() -> Error {
    from_code(bindings::EOPNOTSUPP)
}

fn from_code(code: u32) -> Error {
    // CAST: Error codes are below 4096.
    Error::from_errno(-(code as c_int))
}
