//! How weights are spread.

use crate::worker::inspection::WeightSpread;

/// Bins of the histogram: odd, so that weights around zero share one.
const BINS: usize = 255;

/// Moments and histogram of finite weights; sums are in f64.
pub(super) fn spread(weights: &[f32]) -> WeightSpread {
    let n = weights.len() as u64;
    let (mut min, mut max, mut sum, mut zeros) = (f64::INFINITY, f64::NEG_INFINITY, 0.0, 0);
    for weight in weights {
        let weight = f64::from(*weight);
        (min, max) = (min.min(weight), max.max(weight));
        sum += weight;
        zeros += u64::from(weight == 0.0);
    }
    if weights.is_empty() {
        (min, max) = (0.0, 0.0);
    }
    let mean = sum / n.max(1) as f64;
    let width = max - min;
    let mut counts = vec![0_u64; if width > 0.0 { BINS } else { 1 }];
    let last = counts.len() - 1;
    let per_unit = if width > 0.0 { counts.len() as f64 / width } else { 0.0 };
    let mut squares = 0.0;
    for weight in weights {
        let weight = f64::from(*weight);
        squares += (weight - mean) * (weight - mean);
        counts[(((weight - min) * per_unit) as usize).min(last)] += 1;
    }
    let sd = (squares / n.max(1) as f64).sqrt();
    WeightSpread { n, zeros, mean, sd, min, max, counts }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_sum_to_all_and_moments_are_those_of_the_numbers() {
        let weights: Vec<f32> = (0..1000).map(|i| ((i * 37 % 101) as f32 - 50.0) / 8.0).collect();
        let found = spread(&weights);
        assert_eq!(found.counts.iter().sum::<u64>(), 1000);
        assert_eq!(found.zeros, weights.iter().filter(|weight| **weight == 0.0).count() as u64);
        assert_eq!((found.min, found.max), (-6.25, 6.25));
        let mean = weights.iter().map(|w| f64::from(*w)).sum::<f64>() / 1000.0;
        let variance = weights.iter().map(|w| (f64::from(*w) - mean).powi(2)).sum::<f64>() / 1000.0;
        assert!((found.mean - mean).abs() < 1e-12 && (found.sd - variance.sqrt()).abs() < 1e-12);
    }

    #[test]
    fn a_constant_and_the_ends_have_their_bins() {
        let constant = spread(&[0.5; 7]);
        assert_eq!((constant.counts, constant.sd, constant.zeros), (vec![7], 0.0, 0));
        let ends = spread(&[-1.0, 0.0, 0.0, 1.0]);
        assert_eq!((ends.counts[0], ends.counts[BINS / 2], ends.counts[BINS - 1]), (1, 2, 1));
        assert_eq!(ends.zero_share(), 0.5);
        // The range of two neighbours of the largest float overflows to infinity in f32, not in f64.
        let wide = spread(&[f32::MIN, f32::MAX]);
        assert!(wide.sd.is_finite() && wide.counts.iter().sum::<u64>() == 2);
    }
}
