//! The types of 256 weights: scales by search, then the nearest codes.
#![expect(clippy::inline_always, reason = "the instructions of the caller are used only where it is inlined")]

use half::f16;

use super::layout::{put_bits, put_crumbs, put_nibbles, put_pairs, put_six_bits, put_sixths};
use super::runs::{LANES, Lanes, each, larger, nearest_byte, side_by_side, smaller};
use super::search::{AboveMin, AroundZero, Multiples};

/// Weights of a block.
const LEN: usize = 256;

/// How much a search tries.
struct Effort<T: 'static> {
    candidates: &'static [T],
    /// Fits to the codes of the best line, after the candidates.
    rounds: usize,
    /// How far from the nearest multiples to look, for scales and minimums.
    reach: (i8, i8),
    /// How often multiples are chosen; between them, the block's step and minimum are fitted to the codes.
    passes: usize,
}

/// The scales of one block, quantized.
struct Found<const RUNS: usize> {
    step: f16,
    min: f16,
    scales: Lanes,
    mins: Lanes,
    gain: f32,
}

impl<const RUNS: usize> Default for Found<RUNS> {
    fn default() -> Self {
        Self { step: f16::ZERO, min: f16::ZERO, scales: [0.0; LANES], mins: [0.0; LANES], gain: f32::NEG_INFINITY }
    }
}

impl<const RUNS: usize> Found<RUNS> {
    /// Takes what was found for the runs from `first` on, if it is better.
    #[inline(always)]
    fn offer(&mut self, found: &Multiples, step: f32, min: f32, first: usize) {
        let gain = found.gains[first..first + RUNS].iter().fold(0.0, |sum, gain| sum + gain);
        // The first is taken even if it is no number.
        if gain > self.gain || self.gain == f32::NEG_INFINITY {
            (self.step, self.min, self.gain) = (f16::from_f32(step), f16::from_f32(min), gain);
            self.scales[..RUNS].copy_from_slice(&found.scales[first..first + RUNS]);
            self.mins[..RUNS].copy_from_slice(&found.mins[first..first + RUNS]);
        }
    }
}

/// Candidates that take a run's highest weight to `COUNT` places from `first` on, `by` apart, each for every share of
/// what lies beyond `high` that is cut off below the lowest code instead of above the highest.
const fn line_candidates<const COUNT: usize, const N: usize>(
    first: f32,
    by: f32,
    high: f32,
    shares: &[f32],
) -> [(f32, f32); N] {
    assert!(N == COUNT * shares.len());
    let mut candidates = [(0.0, 0.0); N];
    let mut i = 0;
    while i < N {
        let end = first + by * (i % COUNT) as f32;
        candidates[i] = (end, -shares[i / COUNT] * (end - high));
        i += 1;
    }
    candidates
}

/// Candidates that take the weight of largest magnitude to `first` and `by` apart from there on, with either sign.
const fn step_candidates<const N: usize>(first: f32, by: f32) -> [f32; N] {
    let mut ends = [0.0; N];
    let mut i = 0;
    while i < N {
        let end = first + by * (i / 2) as f32;
        ends[i] = if i % 2 == 0 { -end } else { end };
        i += 1;
    }
    ends
}

// Beyond these the error falls by less than 0.2 % and the time grows by a quarter. With few codes it pays to cut off the
// ends of a run; with many, to try steps well above the range, some of which happen to meet its weights.
const Q2: Effort<(f32, f32)> = Effort {
    candidates: &line_candidates::<7, 21>(2.4, 0.4, 3.0, &[0.0, 0.3, 0.6]),
    rounds: 1,
    reach: (1, 1),
    passes: 2,
};
const Q4: Effort<(f32, f32)> =
    Effort { candidates: &line_candidates::<21, 21>(13.0, 0.15, 15.0, &[0.0]), rounds: 1, reach: (1, 1), passes: 2 };
const Q5: Effort<(f32, f32)> =
    Effort { candidates: &line_candidates::<20, 20>(26.0, 0.3, 31.0, &[0.0]), rounds: 1, reach: (1, 1), passes: 2 };
const Q3: Effort<f32> = Effort { candidates: &step_candidates::<18>(3.0, 0.3), rounds: 2, reach: (1, 0), passes: 2 };
const Q6: Effort<f32> = Effort { candidates: &step_candidates::<48>(24.0, 0.4), rounds: 1, reach: (1, 0), passes: 2 };

#[inline(always)]
pub(super) fn quantize_q2k(weights: &[f32], bytes: &mut [u8]) {
    for (weights, block) in weights.as_chunks::<LEN>().0.iter().zip(bytes.as_chunks_mut::<84>().0) {
        let [found] = find_lines::<16, 16, 1>(weights, (3.0, 15.0), &Q2);
        let codes = line_codes::<16, 16>(weights, &found, 3.0);
        for (byte, (scale, min)) in block.iter_mut().zip(found.scales.iter().zip(&found.mins)) {
            *byte = nearest_byte(*scale) | nearest_byte(*min) << 4;
        }
        let (head, steps) = block.split_at_mut(80);
        if let Some(places) = head[16..].as_chunks_mut::<64>().0.first_mut() {
            put_crumbs(places, &codes);
        }
        steps[..2].copy_from_slice(&found.step.to_le_bytes());
        steps[2..].copy_from_slice(&found.min.to_le_bytes());
    }
}

#[inline(always)]
pub(super) fn quantize_q4k(weights: &[f32], bytes: &mut [u8]) {
    for (weights, blocks) in weights.chunks(2 * LEN).zip(bytes.chunks_mut(2 * 144)) {
        let found = find_lines::<32, 8, 2>(weights, (15.0, 63.0), &Q4);
        let blocks = blocks.as_chunks_mut::<144>().0.iter_mut();
        for ((weights, block), found) in weights.as_chunks::<LEN>().0.iter().zip(blocks).zip(&found) {
            let codes = line_codes::<32, 8>(weights, found, 15.0);
            let (head, places) = block.split_at_mut(16);
            put_head(head, found);
            for (places, codes) in places.as_chunks_mut::<32>().0.iter_mut().zip(codes.as_chunks::<64>().0) {
                put_nibbles(places, codes);
            }
        }
    }
}

#[inline(always)]
pub(super) fn quantize_q5k(weights: &[f32], bytes: &mut [u8]) {
    for (weights, blocks) in weights.chunks(2 * LEN).zip(bytes.chunks_mut(2 * 176)) {
        let found = find_lines::<32, 8, 2>(weights, (31.0, 63.0), &Q5);
        let blocks = blocks.as_chunks_mut::<176>().0.iter_mut();
        for ((weights, block), found) in weights.as_chunks::<LEN>().0.iter().zip(blocks).zip(&found) {
            let codes = line_codes::<32, 8>(weights, found, 31.0);
            let (head, places) = block.split_at_mut(16);
            put_head(head, found);
            let (high, low) = places.split_at_mut(32);
            if let Some(high) = high.as_chunks_mut::<32>().0.first_mut() {
                put_bits::<4>(high, &codes);
            }
            for (places, codes) in low.as_chunks_mut::<32>().0.iter_mut().zip(codes.as_chunks::<64>().0) {
                put_nibbles(places, codes);
            }
        }
    }
}

#[inline(always)]
pub(super) fn quantize_q3k(weights: &[f32], bytes: &mut [u8]) {
    for (weights, block) in weights.as_chunks::<LEN>().0.iter().zip(bytes.as_chunks_mut::<110>().0) {
        let found = find_steps(weights, (-4.0, 3.0), (-32.0, 31.0), &Q3);
        let codes = step_codes(weights, &found, (-4.0, 3.0));
        let (high, rest) = block.split_at_mut(32);
        let (low, rest) = rest.split_at_mut(64);
        let (packed, tail) = rest.split_at_mut(12);
        if let (Some(high), Some(low), Some(packed)) =
            (high.first_chunk_mut::<32>(), low.first_chunk_mut::<64>(), packed.first_chunk_mut::<12>())
        {
            put_bits::<2>(high, &codes);
            put_crumbs(low, &codes);
            put_sixths(packed, &found.scales.map(|scale| nearest_byte(scale + 32.0)));
        }
        tail.copy_from_slice(&found.step.to_le_bytes());
    }
}

#[inline(always)]
pub(super) fn quantize_q6k(weights: &[f32], bytes: &mut [u8]) {
    for (weights, block) in weights.as_chunks::<LEN>().0.iter().zip(bytes.as_chunks_mut::<210>().0) {
        let found = find_steps(weights, (-32.0, 31.0), (-128.0, 127.0), &Q6);
        let codes = step_codes(weights, &found, (-32.0, 31.0));
        let (low, rest) = block.split_at_mut(128);
        let (high, rest) = rest.split_at_mut(64);
        let (packed, tail) = rest.split_at_mut(16);
        if let (Some(low), Some(high)) = (low.first_chunk_mut::<128>(), high.first_chunk_mut::<64>()) {
            put_six_bits(low, high, &codes);
        }
        packed.copy_from_slice(&found.scales.map(nearest_byte));
        tail.copy_from_slice(&found.step.to_le_bytes());
    }
}

/// The scales of `BLOCKS` blocks of `RUNS` runs of `RUN` weights with minimums; missing blocks are zeros.
#[inline(always)]
fn find_lines<const RUN: usize, const RUNS: usize, const BLOCKS: usize>(
    weights: &[f32],
    ends: (f32, f32),
    effort: &Effort<(f32, f32)>,
) -> [Found<RUNS>; BLOCKS] {
    let (high, most_scale) = ends;
    let mut runs = [[0.0; LANES]; RUN];
    side_by_side(weights, &mut runs);
    let runs = AboveMin::new(&runs);
    let lines = runs.search(high, effort.candidates, effort.rounds);
    let (mut step, mut min) = ([0.0; LANES], [0.0; LANES]);
    for block in 0..BLOCKS {
        let range = block * RUNS..(block + 1) * RUNS;
        let most = lines.steps[range.clone()].iter().fold(0.0, |most, step| larger(*step, most));
        let deepest = lines.offsets[range.clone()].iter().fold(0.0, |most, offset| larger(-*offset, most));
        step[range.clone()].fill(most / most_scale);
        min[range].fill(deepest / most_scale);
    }
    let mut best: [Found<RUNS>; BLOCKS] = std::array::from_fn(|_| Found::default());
    for pass in 0..effort.passes {
        (step, min) = (halves(&step), halves(&min));
        let found = runs.multiples(&lines, (&step, &min), ends, effort.reach);
        for (block, best) in best.iter_mut().enumerate() {
            best.offer(&found, step[block * RUNS], min[block * RUNS], block * RUNS);
        }
        if pass + 1 < effort.passes {
            runs.refit(&found, &mut step, &mut min, high, RUNS);
        }
    }
    best
}

/// As f16 keeps them.
#[inline(always)]
fn halves(x: &Lanes) -> Lanes {
    each(|lane| f16::from_f32(x[lane]).to_f32())
}

/// The codes of one block nearest to its weights.
#[inline(always)]
fn line_codes<const RUN: usize, const RUNS: usize>(weights: &[f32; LEN], found: &Found<RUNS>, high: f32) -> [u8; LEN] {
    let mut codes = [0; LEN];
    let (step, min) = (found.step.to_f32(), found.min.to_f32());
    let runs = weights.as_chunks::<RUN>().0.iter().zip(codes.as_chunks_mut::<RUN>().0);
    for (run, (weights, codes)) in runs.enumerate() {
        let (step, min) = (step * found.scales[run], min * found.mins[run]);
        let inverse = if step > 0.0 { 1.0 / step } else { 0.0 };
        for (code, weight) in codes.iter_mut().zip(weights) {
            *code = nearest_byte(smaller(larger((weight + min) * inverse, 0.0), high));
        }
    }
    codes
}

/// The step and the scales of a block of 16 runs without minimums.
#[inline(always)]
fn find_steps(weights: &[f32; LEN], ends: (f32, f32), scale_ends: (f32, f32), effort: &Effort<f32>) -> Found<16> {
    let mut runs = [[0.0; LANES]; 16];
    side_by_side(weights, &mut runs);
    let runs = AroundZero::new(runs, ends);
    let steps = runs.search(effort.candidates, effort.rounds);
    let largest = steps.iter().fold(0.0_f32, |largest, step| if step.abs() > largest.abs() { *step } else { largest });
    let mut unit = largest / scale_ends.0;
    let mut best = Found::default();
    for pass in 0..effort.passes {
        unit = f16::from_f32(unit).to_f32();
        let found = runs.multiples(&steps, unit, scale_ends, effort.reach.0);
        best.offer(&found, unit, 0.0, 0);
        if pass + 1 < effort.passes {
            unit = runs.refit(&found, unit);
        }
    }
    best
}

/// The codes of one block nearest to its weights, from 0.
#[inline(always)]
fn step_codes(weights: &[f32; LEN], found: &Found<16>, (low, high): (f32, f32)) -> [u8; LEN] {
    let mut codes = [0; LEN];
    let steps = each(|lane| found.step.to_f32() * found.scales[lane]);
    let runs = weights.as_chunks::<16>().0.iter().zip(codes.as_chunks_mut::<16>().0);
    for (run, (weights, codes)) in runs.enumerate() {
        let inverse = if steps[run] == 0.0 { 0.0 } else { 1.0 / steps[run] };
        for (code, weight) in codes.iter_mut().zip(weights) {
            *code = nearest_byte(smaller(larger(weight * inverse, low), high) - low);
        }
    }
    codes
}

/// Steps, scales and minimums of a block of `q4_k` or `q5_k`.
#[inline(always)]
fn put_head(head: &mut [u8], found: &Found<8>) {
    head[..2].copy_from_slice(&found.step.to_le_bytes());
    head[2..4].copy_from_slice(&found.min.to_le_bytes());
    if let Some(packed) = head[4..].first_chunk_mut::<12>() {
        let (scales, mins) = (found.scales.map(nearest_byte), found.mins.map(nearest_byte));
        put_pairs(packed, &scales, &mins);
    }
}
