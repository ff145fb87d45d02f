// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the operations of the compute class do, lane by lane.

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{ensure, Result};
use mirage::{
    lanes, Atomic, Chase, Chased, Compare, CopyBytes, Fill, GpuPtr, NodeLayout, Store, Strided,
};

use crate::fixture::{ensure_eq, Mirror, LIMIT};
use crate::harness::guest_tests;
use crate::region::{Region, PAGE, WORD};

guest_tests![
    a_store_touches_its_element_and_no_neighbour,
    a_fill_writes_length_bytes_of_each_lane,
    a_copy_moves_each_lane_from_b_to_a,
    a_compare_gives_the_offset_of_the_first_difference,
    an_exchange_returns_what_it_replaced,
    a_compare_and_swap_writes_only_where_it_finds_the_value,
    a_chase_counts_sums_and_adds_along_the_chain,
    a_chase_stops_after_its_steps,
    lanes_that_meet_on_one_word_do_not_lose_a_count,
    atomics_of_gpu_and_cpu_do_not_lose_a_count,
];

fn bytes(region: &Region, len: usize) -> Vec<u8> {
    bytemuck::pod_collect_to_vec(&region.words(0..len))
}

fn a_store_touches_its_element_and_no_neighbour() -> Result<()> {
    let (mirror, region) = (Mirror::new()?, Region::anonymous(PAGE)?);
    region.fill(0..PAGE, u64::MAX);
    mirror.run(Store::new(region.lanes(8, 0), 0_u8), lanes(1))?;
    mirror.run(Store::new(region.lanes(16 + 2, 0), 0x1234_u16), lanes(1))?;
    mirror.run(
        Store::new(region.lanes(24 + 4, 0), 0xabcd_ef01_u32),
        lanes(1),
    )?;
    ensure_eq!(
        region.words(0..40),
        [
            u64::MAX,
            0xffff_ffff_ffff_ff00,
            0xffff_ffff_1234_ffff,
            0xabcd_ef01_ffff_ffff,
            u64::MAX
        ]
    );
    Ok(())
}

fn a_fill_writes_length_bytes_of_each_lane() -> Result<()> {
    let (mirror, region) = (Mirror::new()?, Region::anonymous(2 * PAGE)?);
    mirror.run(Fill::new(region.lanes(1, 64), 0xee_u8, 13), lanes(128))?;
    let filled = |i: usize| if (1..14).contains(&(i % 64)) { 0xee } else { 0 };
    ensure_eq!(
        bytes(&region, 2 * PAGE)
            .iter()
            .enumerate()
            .find(|&(i, &byte)| byte != filled(i)),
        None
    );
    Ok(())
}

fn a_copy_moves_each_lane_from_b_to_a() -> Result<()> {
    let (mirror, from, to) = (
        Mirror::new()?,
        Region::anonymous(4 * PAGE)?,
        Region::anonymous(4 * PAGE)?,
    );
    (0..from.len())
        .step_by(WORD)
        .for_each(|offset| from.store(offset, 0x0101 * offset as u64));
    // Every lane takes 24 bytes of its 64 and puts them next to the lane's before.
    mirror.run(
        CopyBytes::new(to.lanes(0, 24), from.lanes(16, 64), 24),
        lanes(256),
    )?;
    let expected = |i: usize| from.load(16 + i / 3 * 64 + i % 3 * WORD);
    ensure_eq!(
        (0..256 * 3).find(|&i| to.load(i * WORD) != expected(i)),
        None
    );
    ensure_eq!(to.load(256 * 24), 0);
    Ok(())
}

fn a_compare_gives_the_offset_of_the_first_difference() -> Result<()> {
    let (mirror, left, right) = (
        Mirror::new()?,
        Region::anonymous(3 * PAGE)?,
        Region::anonymous(3 * PAGE)?,
    );
    right.store(PAGE + 1016, 0x0100);
    right.store(PAGE + 2000, 1);
    let results = Region::anonymous(PAGE)?;
    mirror.run(
        Compare::new(
            left.lanes(0, PAGE),
            right.lanes(0, PAGE),
            4096,
            results.results(0),
        ),
        lanes(3),
    )?;
    ensure_eq!(
        results.words(0..3 * WORD),
        [Compare::EQUAL, 1017, Compare::EQUAL]
    );
    Ok(())
}

fn an_exchange_returns_what_it_replaced() -> Result<()> {
    let (mirror, region, results) = (
        Mirror::new()?,
        Region::anonymous(PAGE)?,
        Region::anonymous(PAGE)?,
    );
    (0..100).for_each(|i| region.store(i * WORD, 7 * i as u64));
    mirror.run(
        Atomic::exchange(region.lanes(0, WORD), 3_u64)
            .plus_lane()
            .results(results.results(0)),
        lanes(100),
    )?;
    ensure!(
        region.words(0..100 * WORD).into_iter().eq(3..103),
        "not what was swapped in"
    );
    ensure!(
        results
            .words(0..100 * WORD)
            .into_iter()
            .eq((0..100).map(|i| 7 * i)),
        "not what was there before"
    );
    Ok(())
}

fn a_compare_and_swap_writes_only_where_it_finds_the_value() -> Result<()> {
    let (mirror, region, results) = (
        Mirror::new()?,
        Region::anonymous(PAGE)?,
        Region::anonymous(PAGE)?,
    );
    (0..100).for_each(|i| region.store(i * WORD, i as u64 % 3));
    mirror.run(
        Atomic::compare_and_swap(region.lanes(0, WORD), 1_u64, 50).results(results.results(0)),
        lanes(100),
    )?;
    let expected = (0..100).map(|i| if i % 3 == 1 { 50 } else { i % 3 });
    ensure!(
        region.words(0..100 * WORD).into_iter().eq(expected),
        "swapped in the wrong places"
    );
    ensure!(
        results
            .words(0..100 * WORD)
            .into_iter()
            .eq((0..100).map(|i| i % 3)),
        "not what was there before"
    );
    Ok(())
}

/// A chain of `len` nodes, one every 40 bytes, whose values are 0, 1, 2 ...; the word at 0 points to the first.
fn chain(len: usize) -> Result<(Region, NodeLayout)> {
    let region = Region::anonymous((WORD + len * 40).next_multiple_of(PAGE))?;
    let node = |i: usize| {
        if i < len {
            region.at(WORD + i * 40).addr()
        } else {
            0
        }
    };
    region.store(0, node(0));
    for i in 0..len {
        region.store(WORD + i * 40 + 8, node(i + 1));
        region.store(WORD + i * 40 + 24, i as u64);
    }
    Ok((region, NodeLayout { next: 8, value: 24 }))
}

fn a_chase_counts_sums_and_adds_along_the_chain() -> Result<()> {
    let (len, (chain, layout)) = (1000, chain(1000)?);
    let mut found = [Chased::default()];
    let chase = Chase::new(chain.lanes(0, 0), layout)
        .adding(5)
        .results(found.as_mut_ptr());
    Mirror::new()?.run(chase, lanes(1))?;
    ensure_eq!(
        found,
        [Chased {
            nodes: 1000,
            sum: 499_500,
            last: 0
        }]
    );
    let values = (0..len).map(|i| chain.load(WORD + i * 40 + 24));
    ensure!(
        values.eq((0..len).map(|i| i as u64 + 5)),
        "not every value was added to once"
    );
    Ok(())
}

fn a_chase_stops_after_its_steps() -> Result<()> {
    let (chain, layout) = chain(100)?;
    let mut found = [Chased::default()];
    let chase = Chase::new(chain.lanes(0, 0), layout)
        .steps(10)
        .results(found.as_mut_ptr());
    Mirror::new()?.run(chase, lanes(1))?;
    let [Chased { nodes, sum, last }] = found;
    ensure_eq!(
        (nodes, sum, last),
        (10, 45, chain.at(WORD + 10 * 40).addr())
    );
    Ok(())
}

fn lanes_that_meet_on_one_word_do_not_lose_a_count() -> Result<()> {
    let word = AtomicU64::new(0);
    let at = Strided::from(GpuPtr::from(word.as_ptr()));
    Mirror::new()?.run(Atomic::add(at, 3_u64), lanes(10_000))?;
    ensure_eq!(word.into_inner(), 30_000);
    Ok(())
}

fn atomics_of_gpu_and_cpu_do_not_lose_a_count() -> Result<()> {
    let (mirror, word) = (Mirror::new()?, AtomicU64::new(0));
    let at = Strided::from(GpuPtr::from(word.as_ptr()));
    let job = mirror
        .channel
        .launch(Atomic::add(at, 1_u64), lanes(1 << 20))?;
    let mut ours = 0;
    while !job.is_done() {
        for _ in 0..1000 {
            word.fetch_add(1, Ordering::Relaxed);
        }
        ours += 1000;
    }
    job.wait(LIMIT)?;
    ensure_eq!(word.into_inner(), (1 << 20) + ours);
    Ok(())
}
