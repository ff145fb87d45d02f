// SPDX-License-Identifier: MIT OR Apache-2.0
//! `mirage map self`: both views of a buffer of this process.

use mirage::{CpuPage, GpuPage, Intent, Page, PageRange, Place, Svm, PAGE_SIZE};
use serde::Serialize;

use crate::output::{self, say, size, table};
use crate::Outcome;

/// Bytes of the buffer: some huge pages, if the kernel gives them.
const BUFFER: usize = 8 << 20;

/// A run of pages that look alike from both sides.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Run {
    start: u64,
    end: u64,
    gpu: Option<View>,
    cpu: Option<View>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct View {
    page_bytes: u64,
    writable: bool,
    /// The GPU may do atomics; on the CPU, as writable.
    atomic: bool,
    zero: bool,
    place: &'static str,
}

fn place(place: Place) -> &'static str {
    match place {
        Place::System => "system",
        Place::Vram => "vram",
    }
}

impl From<GpuPage> for View {
    fn from(page: GpuPage) -> Self {
        View {
            page_bytes: page.order.bytes(),
            writable: page.writable,
            atomic: page.atomic,
            zero: false,
            place: place(page.place),
        }
    }
}

impl From<CpuPage> for View {
    fn from(page: CpuPage) -> Self {
        View {
            page_bytes: page.order.bytes(),
            writable: page.writable,
            atomic: page.writable,
            zero: page.zero,
            place: place(page.place),
        }
    }
}

impl View {
    fn text(view: Option<&Self>) -> String {
        let Some(view) = view else {
            return "-".to_owned();
        };
        let rights = if view.writable { "read, write" } else { "read" };
        let zero = if view.zero { ", zero page" } else { "" };
        format!("{} {}, {rights}{zero}", size(view.page_bytes), view.place)
    }
}

fn runs(pages: &[Page]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for page in pages {
        let (gpu, cpu) = (page.gpu.map(View::from), page.cpu.map(View::from));
        match runs.last_mut() {
            Some(last) if last.end == page.addr && last.gpu == gpu && last.cpu == cpu => {
                last.end += PAGE_SIZE;
            }
            _ => runs.push(Run {
                start: page.addr,
                end: page.addr + PAGE_SIZE,
                gpu,
                cpu,
            }),
        }
    }
    runs
}

pub(crate) fn run(svm: &Svm, json: bool) -> Outcome<()> {
    // The CPU writes the first half, the driver prefetches the middle half for writing; the last quarter nobody has touched.
    let mut buffer = vec![0_u8; BUFFER];
    buffer[..BUFFER / 2].fill(1);
    svm.prefetch(
        PageRange::of(&buffer[BUFFER / 4..3 * BUFFER / 4]),
        Intent::Write,
    )?;
    let runs = runs(&svm.query(PageRange::of(&buffer))?);
    if json {
        return runs.iter().try_for_each(output::json);
    }
    say!(
        "a buffer of {}: the CPU wrote its first half, the GPU got its middle half ahead of use",
        size(BUFFER as u64)
    );
    let row = |run: &Run| {
        let range = format!("{:#x}-{:#x}", run.start, run.end);
        vec![
            range,
            size(run.end - run.start),
            View::text(run.gpu.as_ref()),
            View::text(run.cpu.as_ref()),
        ]
    };
    let rows: Vec<_> = runs.iter().map(row).collect();
    table(&["range", "size", "GPU", "CPU"], &rows, 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_that_look_alike_are_one_run() {
        let page = |number: u64| Page {
            addr: number * PAGE_SIZE,
            gpu: None,
            cpu: None,
        };
        let found = runs(&[page(1), page(2), page(5)]);
        assert_eq!(
            found
                .iter()
                .map(|run| (run.start, run.end))
                .collect::<Vec<_>>(),
            [(0x1000, 0x3000), (0x5000, 0x6000)]
        );
    }

    #[test]
    fn a_view_is_said_in_words() {
        let view = View {
            page_bytes: 2 << 20,
            writable: false,
            atomic: false,
            zero: true,
            place: "system",
        };
        assert_eq!(
            (View::text(Some(&view)), View::text(None)),
            ("2 MiB system, read, zero page".to_owned(), "-".to_owned())
        );
    }
}
