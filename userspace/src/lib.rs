// SPDX-License-Identifier: MIT OR Apache-2.0
//! Client library of the Mirage GPU driver.
