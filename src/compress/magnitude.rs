//! What every weight of a matrix is asked before and after rounding, on all cores.
//!
//! Magnitudes are compared as integers: they order as the numbers do, what is not finite lies above, and the loops have
//! no early end and no order of their own, so that they run at the speed of memory.

use rayon::iter::{IndexedParallelIterator as _, ParallelIterator as _};
use rayon::slice::ParallelSlice as _;

/// Weights that one thread looks at.
const CHUNK: usize = 1 << 16;

/// Position of the first weight that is infinite or not a number.
pub(super) fn first_not_finite(weights: &[f32]) -> Option<usize> {
    let has_one = |chunk: &[f32]| largest_bits(chunk) >= f32::INFINITY.to_bits();
    let chunk = if weights.len() <= CHUNK {
        has_one(weights).then_some(0)
    } else {
        weights.par_chunks(CHUNK).position_first(has_one)
    };
    let begin = chunk? * CHUNK;
    weights[begin..].iter().position(|weight| !weight.is_finite()).map(|index| begin + index)
}

/// The largest magnitude of finite weights; 0 of none.
pub(super) fn largest_magnitude(weights: &[f32]) -> f32 {
    let largest = if weights.len() <= CHUNK {
        largest_bits(weights)
    } else {
        weights.par_chunks(CHUNK).map(largest_bits).max().unwrap_or(0)
    };
    f32::from_bits(largest)
}

/// Whether every weight is finite and at most `limit`.
pub(super) fn are_within(weights: &[f32], limit: f32) -> bool {
    largest_bits(weights) <= limit.to_bits()
}

fn largest_bits(weights: &[f32]) -> u32 {
    // Signed, because the least instruction set compares no others.
    let largest = weights.iter().fold(0_i32, |largest, weight| largest.max(weight.abs().to_bits().cast_signed()));
    largest.cast_unsigned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_that_is_not_finite_is_found_wherever_it_is() {
        for len in [1, 7, CHUNK, CHUNK + 1, 3 * CHUNK + 5] {
            let mut weights: Vec<f32> = (0..len).map(|i| (i as f32).sin()).collect();
            assert_eq!(first_not_finite(&weights), None);
            for (index, bad) in [(len - 1, f32::NEG_INFINITY), (len / 2, f32::NAN), (0, f32::INFINITY)] {
                weights[index] = bad;
                assert_eq!(first_not_finite(&weights), Some(index), "{len}");
            }
        }
    }

    #[test]
    fn the_largest_magnitude_has_no_sign() {
        let mut weights = vec![0.5; 2 * CHUNK];
        assert_eq!(largest_magnitude(&weights).to_bits(), 0.5_f32.to_bits());
        weights[CHUNK + 3] = -65_505.0;
        assert_eq!(largest_magnitude(&weights).to_bits(), 65_505.0_f32.to_bits());
        assert!(are_within(&weights, 65_505.0) && !are_within(&weights, 65_504.0));
        weights[9] = f32::NAN;
        assert!(!are_within(&weights, f32::MAX));
        assert_eq!(largest_magnitude(&[]).to_bits(), 0);
    }
}
