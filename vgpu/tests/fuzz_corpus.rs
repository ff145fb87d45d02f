// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs the inputs that the fuzz targets keep, each as its target would.

use std::fs;
use std::panic;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::Once;

#[path = "../fuzz/harness/mod.rs"]
mod harness;

/// Panics of any thread: one of the device's own would end that thread and nothing else.
static PANICS: AtomicU32 = AtomicU32::new(0);

fn count_panics() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let shown = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            PANICS.fetch_add(1, Ordering::SeqCst);
            shown(info);
        }));
    });
}

fn replay(target: &str, run: fn(&[u8])) {
    count_panics();
    let kept = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target);
    let mut inputs: Vec<_> = fs::read_dir(&kept)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    inputs.sort();
    assert!(!inputs.is_empty(), "{} is empty", kept.display());
    for input in inputs {
        println!("{}", input.display());
        run(&fs::read(&input).unwrap());
    }
    run(&[]);
    assert_eq!(PANICS.load(Ordering::SeqCst), 0, "a thread panicked");
}

#[test]
fn kept_register_accesses_do_no_harm() {
    replay("registers", harness::registers::run);
}

#[test]
fn kept_page_tables_do_no_harm() {
    replay("page_tables", harness::page_tables::run);
}

#[test]
fn kept_push_buffers_do_no_harm() {
    replay("push_buffers", harness::push_buffers::run);
}

#[test]
fn kept_fault_buffers_do_no_harm() {
    replay("fault_buffers", harness::fault_buffers::run);
}
