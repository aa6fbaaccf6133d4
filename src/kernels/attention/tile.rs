//! A block of rows with a tile of keys: scores, their softmax so far, and the mix of values.
//!
//! Everything here is plain code over arrays of fixed size, compiled once for each instruction set by its callers.

use crate::kernels::vector::{LANES, Register, decay};

/// Keys of a tile, whose scores exist at the same time.
pub(super) const KEYS: usize = 64;
/// Registers of a tile's scores.
const PANELS: usize = KEYS / LANES;

/// Keys of a tile or their scores, or 16 features, side by side.
pub(super) type Lane = [f32; LANES];
/// Scores of the rows of a block: rows outermost.
pub(super) type Scores<const R: usize> = [[Lane; PANELS]; R];

/// Products of R queries (features outermost) with the first `panels` · 16 keys of a tile (features outermost).
#[inline(always)]
pub(super) fn score<V: Register, const R: usize>(
    queries: &[[f32; R]],
    keys: &[[Lane; PANELS]],
    panels: usize,
    scores: &mut Scores<R>,
) {
    for panel in 0..panels.min(PANELS) {
        let mut sums = [V::splat(0.0); R];
        for (query, key) in queries.iter().zip(keys) {
            let key = V::of(&key[panel]);
            let mut row = 0;
            while row < R {
                sums[row] = V::splat(query[row]).multiply_add(key, sums[row]);
                row += 1;
            }
        }
        for (scores, sums) in scores.iter_mut().zip(sums) {
            sums.write(&mut scores[panel]);
        }
    }
}

/// Adds the values (keys outermost) weighted by the scores of the first `visible` keys to 16 features of R rows.
#[inline(always)]
pub(super) fn mix<V: Register, const R: usize>(
    scores: &Scores<R>,
    values: &[Lane; KEYS],
    visible: usize,
    mixed: &mut [Lane; R],
) {
    let mut sums = [V::splat(0.0); R];
    for (sums, mixed) in sums.iter_mut().zip(&*mixed) {
        *sums = V::of(mixed);
    }
    for (key, values) in values.iter().enumerate().take(visible) {
        let values = V::of(values);
        let mut row = 0;
        while row < R {
            sums[row] = V::splat(scores[row].as_flattened()[key]).multiply_add(values, sums[row]);
            row += 1;
        }
    }
    for (sums, mixed) in sums.into_iter().zip(mixed) {
        sums.write(mixed);
    }
}

/// Turns the scores of a row into exp(score − maximum) under the maximum so far, and returns the factor for what was
/// summed under the old one, and the sum of the new. Where no key was seen yet, weights are 0.
#[inline(always)]
pub(super) fn soften<V: Register>(scores: &mut [Lane], maximum: &mut f32) -> (f32, f32) {
    let mut lanes = V::splat(*maximum);
    for scores in &*scores {
        lanes = V::of(scores).larger(lanes);
    }
    let largest = lanes.largest();
    if largest == f32::NEG_INFINITY {
        scores.fill([0.0; LANES]);
        return (1.0, 0.0);
    }
    let factor = if largest == *maximum { 1.0 } else { decay(*maximum - largest) };
    *maximum = largest;
    let mut sums = V::splat(0.0);
    for scores in scores {
        let weights = V::of(scores).add(V::splat(-largest)).decay();
        weights.write(scores);
        sums = sums.add(weights);
    }
    (factor, sums.sum())
}

/// Multiplies in place.
#[inline(always)]
pub(super) fn scale<V: Register>(values: &mut Lane, factor: f32) {
    V::of(values).mul(V::splat(factor)).write(values);
}
