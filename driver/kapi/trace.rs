// SPDX-License-Identifier: GPL-2.0

//! Trace events, declared in `mirage_trace.h`. One that is off costs a branch that is patched out: what would be recorded is not even
//! computed.
//!
//! `kernel::declare_trace!` finds only events of the kernel's own bindings, so this is a copy for those of the module.

use super::raw;
pub(crate) use raw::{
    mirage_trace_cancel as Cancel,
    mirage_trace_commit as Commit,
    mirage_trace_fault as Fault,
    mirage_trace_invalidate as Invalidate,
    mirage_trace_replay as Replay,
    mirage_trace_retry as Retry, //
};

macro_rules! trace_events {
    ($($(#[$doc:meta])* $name:ident($args:ty) => $key:ident, $do_trace:ident;)*) => {$(
        $(#[$doc])*
        #[inline(always)]
        pub(crate) fn $name(args: impl FnOnce() -> $args) {
            #[cfg(CONFIG_TRACEPOINTS)]
            {
                // SAFETY: The key is that of a tracepoint which `trace.c` defines.
                let enabled = unsafe {
                    kernel::jump_label::static_branch_unlikely!(
                        raw::$key,
                        kernel::bindings::tracepoint,
                        key
                    )
                };
                if enabled {
                    // SAFETY: The event copies what it is given before it returns.
                    unsafe { raw::$do_trace(&args()) };
                }
            }
            #[cfg(not(CONFIG_TRACEPOINTS))]
            drop(args);
        }
    )*};
}

trace_events! {
    /// A fault is about to be served.
    fault(Fault) => __tracepoint_mirage_fault, rust_do_trace_mirage_fault;
    /// Pages were mapped.
    commit(Commit) => __tracepoint_mirage_commit, rust_do_trace_mirage_commit;
    /// An invalidation made the fault loop start again.
    retry(Retry) => __tracepoint_mirage_retry, rust_do_trace_mirage_retry;
    /// Mappings went, because the CPU's change.
    invalidate(Invalidate) => __tracepoint_mirage_invalidate, rust_do_trace_mirage_invalidate;
    /// A batch is done.
    replay(Replay) => __tracepoint_mirage_replay, rust_do_trace_mirage_replay;
    /// An access cannot be served.
    cancel(Cancel) => __tracepoint_mirage_cancel, rust_do_trace_mirage_cancel;
}
