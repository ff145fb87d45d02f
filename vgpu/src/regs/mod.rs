// SPDX-License-Identifier: MIT OR Apache-2.0
//! Register offsets and fields of the blocks that the MMU side models, with the manuals' names (open-gpu-doc,
//! `manuals/volta/gv100`).

pub(crate) mod fault;
pub(crate) mod mmu;
pub(crate) mod names;
pub(crate) mod pbus;
pub(crate) mod pmc;
