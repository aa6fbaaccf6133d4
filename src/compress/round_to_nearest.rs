//! Round to nearest (RTN) onto a uniform integer grid.

use half::f16;
use rayon::prelude::*;

use crate::compress::line::Line;
use crate::compress::{CompressError, IntMatrix, ZeroPoints};
use crate::recipe::IntFormat;

/// Rounds `weights` to a uniform integer grid with one scale (and zero point) per group of input features.
///
/// - `weights`: (rows, `row_len`), row-major, finite
/// - returns codes below 2^bits and f16 scales; weight ≈ scale · (code − zero point)
///
/// Asymmetric grids span min(w, 0) to max(w, 0), symmetric ones ±max|w|, so zero is always exact. Rounds half to even;
/// scales are divided in f64. Scales are cut to f16 towards zero: both ends of the range keep their codes, so rounding
/// what was rounded changes nothing. An all-zero group gets the grid of −1 to 1.
///
/// # Errors
/// [`CompressError::RowLength`] if the group does not divide `row_len`, [`CompressError::Range`] if a scale exceeds f16.
///
/// Source: the quantizer of GPTQ (Frantar et al., ICLR 2023, arXiv:2210.17323); Jacob et al., CVPR 2018, arXiv:1712.05877.
pub fn round_to_nearest(weights: &[f32], row_len: usize, format: IntFormat) -> Result<IntMatrix, CompressError> {
    let group = check_groups(row_len, format)?;
    let grids = grids(weights, group, format)?;
    let mut codes = vec![0; weights.len()];
    let work = codes.par_chunks_mut(group).zip(weights.par_chunks(group)).zip(&grids);
    work.with_min_len(64.max(4096 / group)).for_each(|((codes, weights), grid)| {
        let line = grid.line();
        codes.iter_mut().zip(weights).for_each(|(code, weight)| *code = line.code(f64::from(*weight)));
    });
    let scales = grids.iter().map(|grid| grid.scale).collect();
    let zero_points = grids.iter().map(|grid| grid.zero_point).collect();
    Ok(IntMatrix { format, row_len, codes, scales, zeros: ZeroPoints::Codes(zero_points) })
}

/// The grid of each `group` consecutive weights.
///
/// # Errors
/// [`CompressError::Range`] if a scale exceeds f16.
pub(super) fn grids(weights: &[f32], group: usize, format: IntFormat) -> Result<Vec<IntGrid>, CompressError> {
    let groups = weights.par_chunks(group).with_min_len(64.max(4096 / group));
    groups.map(|weights| IntGrid::fit(weights.iter().map(|weight| f64::from(*weight)), format)).collect()
}

/// The length of a group, which divides the row.
///
/// # Errors
/// [`CompressError::RowLength`] if it does not; [`CompressError::Unsupported`] for widths that are not 2 to 8 bits.
pub(super) fn check_groups(row_len: usize, format: IntFormat) -> Result<usize, CompressError> {
    if !IntFormat::BITS.contains(&format.bits) {
        return Err(CompressError::Unsupported("integer grids have 2 to 8 bits"));
    }
    let group = format.group.len(row_len);
    if group == 0 || !row_len.is_multiple_of(group) {
        let format = crate::recipe::WeightFormat::Int(format).label();
        return Err(CompressError::RowLength { format, row_len, block_len: group });
    }
    Ok(group)
}

/// The grid of one group.
#[derive(Debug, Clone, Copy)]
pub(super) struct IntGrid {
    pub(super) scale: f16,
    pub(super) zero_point: u8,
    bits: u8,
}

impl IntGrid {
    /// The grid that spans `weights` and zero.
    ///
    /// # Errors
    /// [`CompressError::Range`] if the scale exceeds f16.
    pub(super) fn fit(weights: impl Iterator<Item = f64>, format: IntFormat) -> Result<Self, CompressError> {
        let max_code = f64::from((1_u16 << format.bits) - 1);
        let (mut low, mut high) = weights.fold((0.0_f64, 0.0_f64), |(low, high), w| (low.min(w), high.max(w)));
        if format.symmetric {
            high = high.max(-low);
            low = -high;
        }
        if low == 0.0 && high == 0.0 {
            (low, high) = (-1.0, 1.0);
        }
        let exact = (high - low) / max_code;
        if exact.is_nan() || exact > f16::MAX.to_f64() {
            return Err(CompressError::Range { format: "int with f16 scales", largest: high.max(-low) as f32 });
        }
        let scale = f16_towards_zero(exact);
        let zero_point = if format.symmetric {
            f64::from(1_u16 << (format.bits - 1))
        } else {
            (-low / scale.to_f64()).round_ties_even().clamp(0.0, max_code)
        };
        Ok(Self { scale, zero_point: zero_point as u8, bits: format.bits })
    }

    /// What its codes stand for.
    pub(super) fn line(self) -> Line {
        let high = ((1_u16 << self.bits) - 1) as u8;
        Line { step: self.scale.to_f32(), min: 0.0, bias: self.zero_point, low: 0, high }
    }
}

/// The largest f16 that does not exceed `value`, and at least the smallest positive one.
pub(super) fn f16_towards_zero(value: f64) -> f16 {
    let nearest = f16::from_f64(value);
    let cut = if nearest.to_f64() > value { f16::from_bits(nearest.to_bits() - 1) } else { nearest };
    if cut.to_bits() == 0 { f16::from_bits(1) } else { cut }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compress::PackedWeights;
    use crate::recipe::Group;

    /// A normal-looking sequence from a multiplicative hash, without randomness in tests.
    fn sample(n: u32) -> Vec<f32> {
        let uniform = |i: u32| f64::from(i.wrapping_mul(2_654_435_761) >> 8) / f64::from(1_u32 << 24);
        (0..n).map(|i| ((0..6).map(|k| uniform(i * 6 + k + 1)).sum::<f64>() - 3.0) as f32 * 0.05).collect()
    }

    fn formats() -> impl Iterator<Item = IntFormat> {
        (2..=8).flat_map(|bits| {
            [Group::Row, Group::Size(32), Group::Size(96)]
                .into_iter()
                .flat_map(move |group| [false, true].map(|symmetric| IntFormat { bits, group, symmetric }))
        })
    }

    #[test]
    fn codes_fit_and_errors_are_at_most_half_a_step() {
        let weights = sample(288 * 4);
        for format in formats() {
            let matrix = round_to_nearest(&weights, 288, format).unwrap();
            assert!(matrix.codes().iter().all(|code| u16::from(*code) < 1 << format.bits));
            let restored = PackedWeights::Int(matrix.clone()).dequantize();
            let group = format.group.len(288);
            for (index, (weight, restored)) in weights.iter().zip(&restored).enumerate() {
                let scale = matrix.scales()[index / group].to_f32();
                // The range ends may lie outside the grid by what cutting the scale to f16 takes away: 2^-10 of the range.
                let slack = scale * (1 << format.bits) as f32 / 1024.0;
                assert!((weight - restored).abs() <= scale / 2.0 + slack, "{format:?} at {index}");
            }
        }
    }

    #[test]
    fn rounding_twice_changes_nothing() {
        let weights = sample(288 * 16);
        for format in formats().filter(|format| !format.symmetric) {
            let once = PackedWeights::Int(round_to_nearest(&weights, 288, format).unwrap()).dequantize();
            let twice = PackedWeights::Int(round_to_nearest(&once, 288, format).unwrap()).dequantize();
            assert_eq!(once, twice, "{format:?}");
        }
    }

    #[test]
    fn a_group_as_long_as_the_row_is_the_row() {
        let weights = sample(96 * 3);
        let row = IntFormat { bits: 4, group: Group::Row, symmetric: false };
        let group = IntFormat { group: Group::Size(96), ..row };
        let codes = |format| round_to_nearest(&weights, 96, format).unwrap().codes().to_vec();
        assert_eq!(codes(row), codes(group));
    }

    #[test]
    fn all_zero_groups_and_denormals_decode_to_finite_values() {
        let format = IntFormat { bits: 4, group: Group::Row, symmetric: false };
        let zero = PackedWeights::Int(round_to_nearest(&[0.0; 32], 32, format).unwrap()).dequantize();
        assert!(zero.iter().all(|weight| *weight == 0.0));
        let tiny = PackedWeights::Int(round_to_nearest(&[1e-40; 32], 32, format).unwrap()).dequantize();
        assert!(tiny.iter().all(|weight| weight.is_finite() && weight.abs() < 1e-6));
        assert!(round_to_nearest(&[1e30; 32], 32, format).is_err());
        assert!(round_to_nearest(&[1.0; 33], 33, IntFormat { group: Group::Size(32), ..format }).is_err());
    }

    #[test]
    fn packed_size_counts_scales_and_zero_points() {
        let size = |symmetric| {
            let format = IntFormat { bits: 4, group: Group::Size(32), symmetric };
            PackedWeights::Int(round_to_nearest(&sample(320), 320, format).unwrap()).packed_bytes()
        };
        assert_eq!(size(false), (320 * 4 + 10 * 20) / 8);
        assert_eq!(size(true), (320 * 4 + 10 * 16) / 8);
    }
}
