// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pages that get another place in memory while the GPU uses them: other nodes, compaction, merging, pages found bad, pages that are pinned.

use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{ensure, Context, Result};
use mirage::{lanes, Access, Atomic, Gpu, Reason, Store};
use nix::sys::mman::MmapAdvise;

use crate::fixture::{ensure_eq, ensure_report, Mirror, Spinner, LIMIT};
use crate::harness::{guest_tests, skip, wait_until};
use crate::kernel::{pagemap, Setting};
use crate::region::{Advice, Region, HUGE, PAGE, WORD};
use crate::sys::{self, fork};
use crate::work::{count_while, ensure_words, gpu_reads, gpu_writes};

guest_tests![
    pages_moved_to_another_node_stay_the_same_for_the_gpu,
    no_count_is_lost_while_pages_move_between_nodes,
    no_count_is_lost_while_huge_pages_move_between_nodes,
    no_count_is_lost_while_shared_pages_move_between_nodes,
    no_count_is_lost_while_memory_is_bound_to_one_node_and_the_other,
    no_count_is_lost_while_the_kernel_looks_for_the_nearer_node,
    no_count_is_lost_while_memory_is_compacted,
    no_count_is_lost_while_equal_pages_are_merged,
    a_page_taken_offline_softly_keeps_what_the_gpu_wrote,
    a_page_with_a_memory_error_is_refused_and_no_other,
    a_memory_error_under_the_gpu_stops_its_work,
    pages_pinned_by_another_device_stay_shared_with_the_gpu,
    pages_pinned_before_a_fork_stay_with_the_parent,
];

const PAGES: usize = 128;
const LEN: usize = PAGES * PAGE;

/// Skips on a machine where pages have nowhere to go.
fn need_two_nodes() -> Result<()> {
    let nodes = std::fs::read_to_string("/sys/devices/system/node/online").unwrap_or_default();
    match nodes.trim() {
        "" | "0" => skip("one node only"),
        _ => Ok(()),
    }
}

fn pages_moved_to_another_node_stay_the_same_for_the_gpu() -> Result<()> {
    need_two_nodes()?;
    let (mirror, region) = (Mirror::new()?, Region::anonymous(LEN)?);
    region.no_huge_pages();
    gpu_writes(&mirror, &region, 40)?;
    // They are on the node of whoever served the faults.
    region.move_to_node(0)?;
    for node in [1, 0, 1] {
        let before: Vec<_> = pagemap(&region)?.iter().map(|page| page.frame()).collect();
        let nodes = region.move_to_node(node)?;
        let there = nodes.iter().filter(|&&now| now == node).count();
        println!("{there} of {PAGES} pages are on node {node}");
        ensure!(there > 0, "no page moved: {nodes:?}");
        ensure_words(&gpu_reads(&mirror, &region)?, |i| 40 + i as u64)?;
        let after: Vec<_> = pagemap(&region)?.iter().map(|page| page.frame()).collect();
        ensure!(before != after, "all pages are where they were");
    }
    gpu_writes(&mirror, &region, 50)?;
    ensure_words(&region.words(0..LEN), |i| 50 + i as u64)
}

fn no_count_is_lost_while_pages_move_between_nodes() -> Result<()> {
    need_two_nodes()?;
    let region = Region::anonymous(LEN)?;
    region.no_huge_pages();
    count_while(&region, 40, |round| {
        region.move_to_node((round % 2) as i32).map(drop)
    })
}

fn no_count_is_lost_while_huge_pages_move_between_nodes() -> Result<()> {
    need_two_nodes()?;
    let region = Region::huge_aligned(HUGE)?;
    let _ = region.advise(0..HUGE, MmapAdvise::MADV_HUGEPAGE);
    count_while(&region, 10, |round| {
        region.move_to_node((round % 2) as i32).map(drop)
    })
}

fn no_count_is_lost_while_shared_pages_move_between_nodes() -> Result<()> {
    need_two_nodes()?;
    let region = Region::shared(LEN)?;
    count_while(&region, 40, |round| {
        region.move_to_node((round % 2) as i32).map(drop)
    })
}

fn no_count_is_lost_while_memory_is_bound_to_one_node_and_the_other() -> Result<()> {
    need_two_nodes()?;
    let region = Region::anonymous(LEN)?;
    region.no_huge_pages();
    count_while(&region, 20, |round| region.bind_to_node((round % 2) as u32))
}

/// The kernel takes rights away from pages to see who touches them. That is no loss of the mapping.
fn no_count_is_lost_while_the_kernel_looks_for_the_nearer_node() -> Result<()> {
    need_two_nodes()?;
    let _balancing = Setting::set("/proc/sys/kernel/numa_balancing", "1")?;
    let debug = "/sys/kernel/debug/sched/numa_balancing";
    let _often = [
        Setting::set(format!("{debug}/scan_delay_ms"), "1")?,
        Setting::set(format!("{debug}/scan_period_min_ms"), "10")?,
        Setting::set(format!("{debug}/scan_period_max_ms"), "20")?,
    ];
    let (gpu, region) = (Gpu::open()?, Region::anonymous(LEN)?);
    region.no_huge_pages();
    let (again, done) = (Mirror::new()?, AtomicBool::new(false));
    let taken = || gpu.counters().map(|now| now.get("invalidated_pages"));
    std::thread::scope(|scope| {
        // Of a process with one thread, pages that are near already are left alone; and a thread that began before the settings
        // runs for a second before it looks.
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                std::hint::black_box(region.page_words());
            }
        });
        let outcome = count_while(&region, 12, |_| {
            let (taken_before, hints_before) = (taken()?, hints()?);
            let start = Instant::now();
            // Nothing else takes pages from the GPU here; and what was taken once is taken again only if the GPU has it back.
            while taken()? == taken_before || hints()? == hints_before {
                ensure!(start.elapsed() < LIMIT, "the kernel does not look");
                let nothing = Atomic::add(region.lanes(0, PAGE), 0_u64);
                again.run(nothing, lanes(PAGES as u32))?;
            }
            Ok(())
        });
        done.store(true, Ordering::Relaxed);
        outcome
    })
}

/// Pages that the kernel has taken rights away from to see who touches them.
fn hints() -> Result<u64> {
    let vmstat = std::fs::read_to_string("/proc/vmstat")?;
    let line = |line: &str| line.strip_prefix("numa_pte_updates ")?.parse().ok();
    vmstat.lines().find_map(line).context("no numa_pte_updates")
}

fn no_count_is_lost_while_memory_is_compacted() -> Result<()> {
    let region = Region::anonymous(LEN)?;
    region.no_huge_pages();
    count_while(&region, 6, |_| {
        std::fs::write("/proc/sys/vm/compact_memory", "1").context("compact_memory")
    })
}

fn no_count_is_lost_while_equal_pages_are_merged() -> Result<()> {
    let ksm = "/sys/kernel/mm/ksm";
    let _fast = [
        Setting::set(format!("{ksm}/sleep_millisecs"), "1")?,
        Setting::set(format!("{ksm}/pages_to_scan"), "1000")?,
        Setting::set(format!("{ksm}/run"), "1")?,
    ];
    let (mirror, region) = (Mirror::new()?, Region::anonymous(LEN)?);
    region.no_huge_pages();
    region.advise(0..LEN, MmapAdvise::MADV_MERGEABLE)?;
    let merged = || -> usize {
        let text = std::fs::read_to_string("/proc/self/ksm_merging_pages").unwrap_or_default();
        text.trim().parse().unwrap_or(0)
    };
    let mut parted = 0;
    for round in 1..=4 {
        // All pages alike, by the GPU, and merged once they have been quiet for a while.
        mirror.run(
            Atomic::add(region.lanes(0, PAGE), 1_u64),
            lanes(PAGES as u32),
        )?;
        let _ = wait_until(std::time::Duration::from_secs(5), || merged() >= PAGES / 2);
        parted += merged();
        // Half of them become different again, and alike once more by the launch after that.
        let half = lanes(PAGES as u32 / 2);
        mirror.run(Atomic::add(region.lanes(0, 2 * PAGE), 1_u64 << 32), half)?;
        let due = |i: usize, more: u64| match i * WORD % (2 * PAGE) {
            0 => round + more,
            PAGE => round,
            _ => 0,
        };
        ensure_words(&region.words(0..LEN), |i| due(i, 1 << 32))?;
        mirror.run(
            Atomic::add(region.lanes(0, 2 * PAGE), 0_u64.wrapping_sub(1 << 32)),
            half,
        )?;
        ensure_words(&gpu_reads(&mirror, &region)?, |i| due(i, 0))?;
    }
    region.advise(0..LEN, MmapAdvise::MADV_UNMERGEABLE)?;
    ensure_words(&gpu_reads(&mirror, &region)?, |i| {
        if i * WORD % PAGE == 0 {
            4
        } else {
            0
        }
    })?;
    if parted == 0 {
        return skip("no pages were merged");
    }
    Ok(())
}

fn a_page_taken_offline_softly_keeps_what_the_gpu_wrote() -> Result<()> {
    let (mirror, region) = (Mirror::new()?, Region::anonymous(16 * PAGE)?);
    region.no_huge_pages();
    gpu_writes(&mirror, &region, 5)?;
    let before = pagemap(&region)?[3].frame();
    if let Err(errno) = region.ask(3 * PAGE..4 * PAGE, Advice::SoftOffline) {
        return skip(format!("no pages can be taken offline: {errno}"));
    }
    ensure!(
        pagemap(&region)?[3].frame() != before,
        "the page is where it was"
    );
    ensure_words(&gpu_reads(&mirror, &region)?, |i| 5 + i as u64)?;
    mirror.run(
        Atomic::add(region.lanes(0, WORD), 1_u64),
        lanes((16 * PAGE / WORD) as u32),
    )?;
    ensure_words(&region.words(0..16 * PAGE), |i| 6 + i as u64)
}

fn a_page_with_a_memory_error_is_refused_and_no_other() -> Result<()> {
    let (mirror, region) = (Mirror::new()?, Region::anonymous(16 * PAGE)?);
    region.no_huge_pages();
    gpu_writes(&mirror, &region, 5)?;
    if let Err(errno) = region.ask(3 * PAGE..4 * PAGE, Advice::HwPoison) {
        return skip(format!("memory errors cannot be made: {errno}"));
    }
    let write = mirror.refused(Store::new(region.lanes(3 * PAGE, 0), 1_u64), lanes(1))?;
    ensure_report(&write, region.at(3 * PAGE), Access::Write, Reason::Bus)?;
    let read = mirror.refused(
        mirage::Load::<u64>::new(region.lanes(3 * PAGE + 8, 0)),
        lanes(1),
    )?;
    ensure_report(&read, region.at(3 * PAGE), Access::Read, Reason::Bus)?;
    for part in [0..3 * PAGE, 4 * PAGE..16 * PAGE] {
        let all = lanes((part.len() / WORD) as u32);
        mirror.run(Atomic::add(region.lanes(part.start, WORD), 1_u64), all)?;
        ensure_words(&region.words(part.clone()), |i| {
            6 + (part.start / WORD + i) as u64
        })?;
    }
    // The place gets a new page when the bad one is given back.
    region.advise(3 * PAGE..4 * PAGE, MmapAdvise::MADV_DONTNEED)?;
    mirror.run(
        Store::new(region.lanes(3 * PAGE, WORD), 9_u64),
        lanes((PAGE / WORD) as u32),
    )?;
    ensure_words(&region.words(3 * PAGE..4 * PAGE), |_| 9)
}

fn a_memory_error_under_the_gpu_stops_its_work() -> Result<()> {
    let (mirror, region) = (Mirror::new()?, Region::anonymous(16 * PAGE)?);
    region.no_huge_pages();
    let (spinner, channel) = (Spinner::over(&region)?, mirror.svm.channel()?);
    let job = spinner.start(&channel)?;
    spinner.wait_round(&region)?;
    if let Err(errno) = region.ask(5 * PAGE..6 * PAGE, Advice::HwPoison) {
        spinner.finish(&job)?;
        return skip(format!("memory errors cannot be made: {errno}"));
    }
    let report = mirror.stopped(&channel, &job)?;
    ensure_report(&report, region.at(5 * PAGE), Access::Atomic, Reason::Bus)
}

/// Fixed buffers of io_uring are pinned for as long as the ring lives, as a network card's would be.
fn pages_pinned_by_another_device_stay_shared_with_the_gpu() -> Result<()> {
    let (mirror, region) = (Mirror::new()?, Region::anonymous(LEN)?);
    region.no_huge_pages();
    gpu_writes(&mirror, &region, 5)?;
    let Some(_ring) = sys::pin(&region) else {
        return skip("no io_uring");
    };
    let frames =
        || -> Result<Vec<_>> { Ok(pagemap(&region)?.iter().map(|page| page.frame()).collect()) };
    let before = frames()?;
    // None of this can move them, and the GPU's accesses go where the pins are.
    count_while(&region, 6, |round| {
        match round % 3 {
            0 => drop(region.move_to_node(1)),
            1 => drop(region.advise(0..LEN, MmapAdvise::MADV_PAGEOUT)),
            _ => drop(std::fs::write("/proc/sys/vm/compact_memory", "1")),
        }
        Ok(())
    })?;
    ensure!(before == frames()?, "a pinned page moved");
    let (mut reader, writer) = nix::unistd::pipe()
        .map(|(r, w)| (std::fs::File::from(r), w))
        .context("pipe")?;
    region.put_into_pipe(0..PAGE, writer.as_fd())?;
    mirror.run(
        Store::new(region.lanes(0, WORD), 3_u64),
        lanes((PAGE / WORD) as u32),
    )?;
    let mut bytes = vec![0; PAGE];
    std::io::Read::read_exact(&mut reader, &mut bytes)?;
    ensure_eq!(
        bytemuck::pod_collect_to_vec::<u8, u64>(&bytes),
        vec![3_u64; PAGE / WORD]
    );
    Ok(())
}

/// A page that a device may write must not be taken from its process by copy on write: the child gets the copy, at once.
fn pages_pinned_before_a_fork_stay_with_the_parent() -> Result<()> {
    let (mirror, region) = (Mirror::new()?, Region::anonymous(16 * PAGE)?);
    region.no_huge_pages();
    gpu_writes(&mirror, &region, 5)?;
    let Some(_ring) = sys::pin(&region) else {
        return skip("no io_uring");
    };
    let before: Vec<_> = pagemap(&region)?.iter().map(|page| page.frame()).collect();
    let written = Region::shared(PAGE)?;
    let child = fork(|| {
        wait_until(crate::fixture::LIMIT, || written.load(0) != 0)?;
        ensure_words(&region.words(0..16 * PAGE), |i| 5 + i as u64)
    })?;
    gpu_writes(&mirror, &region, 1 << 20)?;
    written.store(0, 1);
    child.join()?;
    let after: Vec<_> = pagemap(&region)?.iter().map(|page| page.frame()).collect();
    ensure!(before == after, "the GPU's write moved a pinned page");
    ensure_words(&region.words(0..16 * PAGE), |i| (1 << 20) + i as u64)
}
