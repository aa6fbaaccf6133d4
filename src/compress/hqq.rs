//! HQQ: zero points between codes, by half-quadratic splitting.
//!
//! Source: Badri and Shaji, "Half-Quadratic Quantization of Large Machine Learning Models", 2023.

use half::f16;
use rayon::prelude::*;

use crate::compress::round_to_nearest::{check_groups, f16_towards_zero};
use crate::compress::{CompressError, IntMatrix, ZeroPoints};
use crate::recipe::{HqqOptions, IntFormat};

/// The penalty's first value and its growth in a round.
const BETA: f64 = 10.0;
const KAPPA: f64 = 1.01;

/// Rounds `weights` (rows, `row_len`) to an integer grid whose zero points are f16 numbers.
///
/// The grid of a group spans its least to its largest weight, in a symmetric format ±max|w|; only the zero point is sought.
/// Of all rounds each group keeps the one with the least Σ |w − ŵ|^p, p being `options.norm`; the first is plain rounding
/// on the same grid with its exact zero point in f16, so no group is worse than that. Scales are cut to f16 towards zero.
///
/// # Errors
/// [`CompressError::RowLength`] if the group does not divide `row_len`, [`CompressError::Range`] if scale or zero point
/// exceeds f16.
pub(super) fn hqq(
    weights: &[f32],
    row_len: usize,
    format: IntFormat,
    options: HqqOptions,
) -> Result<IntMatrix, CompressError> {
    let group = check_groups(row_len, format)?;
    let mut codes = vec![0; weights.len()];
    let work = codes.par_chunks_mut(group).zip(weights.par_chunks(group)).with_min_len(4096_usize.div_ceil(group));
    let found: Result<Vec<(f16, f16)>, CompressError> = work
        .map(|(codes, weights)| {
            let scale = fit_scale(weights, format)?;
            let zero = fit_zero(weights, scale, format, options);
            if !zero.is_finite() {
                return Err(CompressError::Range { format: "int with f16 zero points", largest: largest(weights) });
            }
            let grid = FloatGrid::new(scale, zero, format);
            codes.iter_mut().zip(weights).for_each(|(code, weight)| *code = grid.code(f64::from(*weight)) as u8);
            Ok((scale, zero))
        })
        .collect();
    let (scales, zeros) = found?.into_iter().unzip();
    Ok(IntMatrix { format, row_len, codes, scales, zeros: ZeroPoints::Floats(zeros) })
}

/// weight = scale · (code − zero).
struct FloatGrid {
    scale: f64,
    zero: f64,
    max_code: f64,
}

impl FloatGrid {
    fn new(scale: f16, zero: f16, format: IntFormat) -> Self {
        Self { scale: scale.to_f64(), zero: zero.to_f64(), max_code: f64::from((1_u16 << format.bits) - 1) }
    }

    fn code(&self, weight: f64) -> f64 {
        (weight / self.scale + self.zero).round_ties_even().clamp(0.0, self.max_code)
    }

    fn value(&self, code: f64) -> f64 {
        self.scale * (code - self.zero)
    }
}

fn ends(weights: &[f32], format: IntFormat) -> (f64, f64) {
    let start = (f64::INFINITY, f64::NEG_INFINITY);
    let wide = weights.iter().map(|weight| f64::from(*weight));
    let (low, high) = wide.fold(start, |(low, high), weight| (low.min(weight), high.max(weight)));
    let largest = high.abs().max(low.abs());
    if format.symmetric { (-largest, largest) } else { (low, high) }
}

fn fit_scale(weights: &[f32], format: IntFormat) -> Result<f16, CompressError> {
    let (low, high) = ends(weights, format);
    let max_code = f64::from((1_u16 << format.bits) - 1);
    // Equal weights are one step from the zero point; zeros are on it with any step.
    let exact = match (high > low, low) {
        (true, _) => (high - low) / max_code,
        (false, 0.0) => 1.0,
        (false, _) => low.abs(),
    };
    if exact > f16::MAX.to_f64() {
        return Err(CompressError::Range { format: "int with f16 scales", largest: largest(weights) });
    }
    Ok(f16_towards_zero(exact))
}

/// The zero point of the best round.
fn fit_zero(weights: &[f32], scale: f16, format: IntFormat, options: HqqOptions) -> f16 {
    let step = scale.to_f64();
    let mut zero = f16::from_f64(-ends(weights, format).0 / step);
    let mut best = (f64::INFINITY, zero);
    let mut beta = BETA;
    for round in 0..=options.iterations {
        let grid = FloatGrid::new(scale, zero, format);
        let (mut error, mut sum) = (0.0, 0.0);
        for weight in weights.iter().map(|weight| f64::from(*weight)) {
            let code = grid.code(weight);
            let distance = weight - grid.value(code);
            error += distance.abs().powf(options.norm);
            sum += code - (weight - shrink(distance, beta, options.norm)) / step;
        }
        if error < best.0 {
            best = (error, zero);
        }
        let next = f16::from_f64(sum / weights.len() as f64);
        if next == zero || !next.is_finite() || round == options.iterations {
            break;
        }
        (zero, beta) = (next, beta * KAPPA);
    }
    best.1
}

/// The generalised soft threshold: the minimiser, to first order, of |e|^p + β (e − x)² / 2.
fn shrink(x: f64, beta: f64, norm: f64) -> f64 {
    if x == 0.0 {
        return 0.0;
    }
    (x.abs() - x.abs().powf(norm - 1.0) / beta).max(0.0).copysign(x)
}

fn largest(weights: &[f32]) -> f32 {
    weights.iter().fold(0.0, |largest, weight| largest.max(weight.abs()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compress::PackedWeights;
    use crate::compress::synthetic::Synthetic;
    use crate::recipe::Group;

    /// Σ |w − ŵ|^p.
    fn loss(weights: &[f32], matrix: IntMatrix, norm: f64) -> f64 {
        let restored = PackedWeights::Int(matrix).dequantize();
        weights.iter().zip(restored).map(|(a, b)| f64::from(a - b).abs().powf(norm)).sum()
    }

    #[test]
    fn never_worse_than_rounding_on_the_same_grid() {
        let dense = Synthetic::layer(3).dense;
        let mut gains = 0;
        for bits in 2..=8 {
            for group in [Group::Row, Group::Size(32), Group::Size(64)] {
                for symmetric in [false, true] {
                    let format = IntFormat { bits, group, symmetric };
                    let options = HqqOptions::default();
                    let plain = hqq(&dense, 128, format, HqqOptions { iterations: 0, ..options }).unwrap();
                    let found = hqq(&dense, 128, format, options).unwrap();
                    assert!(found.codes().iter().all(|code| u16::from(*code) < 1 << bits));
                    assert_eq!(found, hqq(&dense, 128, format, options).unwrap());
                    let [plain, found] = [plain, found].map(|m| [0.7, 1.0].map(|p| loss(&dense, m.clone(), p)));
                    assert!(found[0] <= plain[0] * (1.0 + 1e-6), "{format:?}: {found:?} {plain:?}");
                    gains += u32::from(found[0] < 0.99 * plain[0]);
                }
            }
        }
        assert!(gains > 12, "{gains} of 42 grids gained");
    }

    #[test]
    fn equal_and_zero_groups_are_exact() {
        let format = IntFormat { bits: 4, group: Group::Size(32), symmetric: false };
        let weights: Vec<f32> = [0.0, 0.25, -3.0].iter().flat_map(|weight| [*weight; 32]).collect();
        let matrix = hqq(&weights, 96, format, HqqOptions::default()).unwrap();
        assert_eq!(PackedWeights::Int(matrix).dequantize(), weights);
        assert!(hqq(&[1e30; 32], 32, format, HqqOptions::default()).is_err());
        assert!(hqq(&[1.0; 33], 33, format, HqqOptions::default()).is_err());
    }
}
