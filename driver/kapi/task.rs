// SPDX-License-Identifier: GPL-2.0

//! Who a process is, for people.

use super::raw;
use core::fmt::Write as _;
use kernel::{bindings, current, fmt};

const COMM_LEN: usize = bindings::TASK_COMM_LEN as usize;

/// Number and name of a process, as they were.
#[derive(Clone, Copy)]
pub(crate) struct Process {
    pid: i32,
    comm: [u8; COMM_LEN],
}

impl Process {
    /// The process that the calling task belongs to.
    pub(crate) fn current() -> Self {
        let task = current!();
        let leader = task.group_leader();
        let mut comm = [0; COMM_LEN];
        // SAFETY: The leader is alive as long as the task that runs; `comm` has room for a name.
        unsafe { raw::mirage_task_comm(comm.as_mut_ptr().cast(), leader.as_ptr()) };
        Self {
            pid: leader.pid(),
            comm,
        }
    }
}

impl fmt::Display for Process {
    /// `pid=NUMBER comm=NAME`; the name may hold spaces, but no line ends.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pid={} comm=", self.pid)?;
        for byte in self.comm.iter().take_while(|byte| **byte != 0) {
            let printable = byte.is_ascii_graphic() || *byte == b' ';
            f.write_char(if printable { char::from(*byte) } else { '?' })?;
        }
        Ok(())
    }
}
