// SPDX-License-Identifier: MIT OR Apache-2.0
//! Channels and the compute engine, driven through registers and memory as a driver would.

mod bindings;
mod channels;
mod copy;
mod copy_errors;
mod copy_faults;
mod copy_physical;
mod copy_resets;
mod errors;
mod evictions;
mod faults;
mod host;
mod kill;
mod operations;
mod push;
mod random;
mod rig;
mod switching;
