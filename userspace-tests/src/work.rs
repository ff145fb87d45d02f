// SPDX-License-Identifier: MIT OR Apache-2.0
//! GPU work whose result tells whether a single access went astray, and the reading of whole regions by the GPU.

use anyhow::{ensure, Context, Result};
use mirage::{lanes, Atomic, Load, Store};

use crate::fixture::{Mirror, LIMIT};
use crate::harness::rounds;
use crate::region::{Region, PAGE, WORD};

/// Bytes between the words that count.
const STRIDE: usize = 64;

/// All words of a region, as the GPU reads them.
pub(crate) fn gpu_reads(mirror: &Mirror, region: &Region) -> Result<Vec<u64>> {
    let count = region.len() / WORD;
    let results = Region::anonymous(region.len())?;
    mirror.run(
        Load::new(region.lanes(0, WORD)).results(results.results::<u64>(0)),
        lanes(count as u32),
    )?;
    Ok(results.words(0..results.len()))
}

/// The GPU writes `first`, `first` + 1, ... to all words of a region.
pub(crate) fn gpu_writes(mirror: &Mirror, region: &Region, first: u64) -> Result<()> {
    mirror.run(
        Store::new(region.lanes(0, WORD), first).plus_lane(),
        lanes((region.len() / WORD) as u32),
    )
}

/// The CPU finds `first`, `first` + 1, ... in all words of a region.
pub(crate) fn ensure_counts_from(region: &Region, first: u64) -> Result<()> {
    ensure_words(&region.words(0..region.len()), |i| first + i as u64)
}

/// Each word is what `due` says of its number.
pub(crate) fn ensure_words(words: &[u64], due: impl Fn(usize) -> u64) -> Result<()> {
    let wrong = words.iter().enumerate().find(|&(i, &word)| word != due(i));
    match wrong {
        Some((i, word)) => anyhow::bail!(
            "word {i:#x} (page {}) is {word:#x}, not {:#x}",
            i * WORD / PAGE,
            due(i)
        ),
        None => Ok(()),
    }
}

/// Launches that each add 1 to words all over a region, while `change` has the region's pages move, vanish and come back.
/// One addition that goes to a page which is no longer the right one, and a word falls behind; one copy that misses an addition, likewise.
pub(crate) fn count_while(
    region: &Region,
    full_rounds: u64,
    mut change: impl FnMut(u64) -> Result<()>,
) -> Result<()> {
    // Most changes have two kinds that take turns.
    let (mirror, rounds) = (Mirror::new()?, rounds(full_rounds).max(4));
    (0..region.len())
        .step_by(WORD)
        .for_each(|offset| region.store(offset, offset as u64));
    let all = lanes((region.len() / STRIDE) as u32);
    for round in 0..rounds {
        let job = mirror
            .channel
            .launch(Atomic::add(region.lanes(0, STRIDE), 1_u64), all)?;
        change(round).with_context(|| format!("round {round}"))?;
        job.wait(LIMIT).with_context(|| format!("round {round}"))?;
    }
    ensure_words(&region.words(0..region.len()), |i| {
        let counts = i * WORD % STRIDE == 0;
        (i * WORD) as u64 + if counts { rounds } else { 0 }
    })?;
    // What the GPU sees at the end is the same.
    let seen = gpu_reads(&mirror, region)?;
    ensure!(
        seen == region.words(0..region.len()),
        "GPU and CPU do not see the same"
    );
    Ok(())
}
