//! AWQ: a scale for each input channel that protects the channels of large inputs, and clipped ranges.
//!
//! Paper: Lin et al., 2023, arXiv:2306.00978.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

use crate::compress::fp8::quantize_fp8;
use crate::compress::line::Line;
use crate::compress::output_error::quadratic_form;
use crate::compress::round_to_nearest::{IntGrid, check_groups};
use crate::compress::{CompressError, Moments, PackedWeights, quantize_ggml, round_to_nearest};
use crate::recipe::{IntFormat, LayerSettings, Rounding, WeightFormat};

/// The smallest scale before they are normalised.
const LEAST: f64 = 1e-4;
/// Steps of the clip search, each 5 % of the range.
const CLIP_STEPS: u8 = 10;
const CLIP_STEP: f64 = 0.05;
/// Rows that one task of the clip search works on.
const BAND: usize = 32;

/// One of the layers that read the same input.
#[derive(Debug, Clone, Copy)]
pub struct Member<'a> {
    /// (`out_features`, `in_features`), row-major.
    pub dense: &'a [f32],
    /// (`out_features`, `in_features`).
    pub shape: [usize; 2],
    /// What becomes of it.
    pub settings: &'a LayerSettings,
}

impl Member<'_> {
    pub(super) fn check(&self, moments: &Moments) -> Result<(), CompressError> {
        let [rows, row_len] = self.shape;
        if Some(self.dense.len()) != rows.checked_mul(row_len) {
            return Err(CompressError::Shape { len: self.dense.len(), rows, row_len });
        }
        if let Some(index) = self.dense.iter().position(|weight| !weight.is_finite()) {
            return Err(CompressError::NonFinite { index, len: self.dense.len() });
        }
        moments.check(row_len)
    }
}

/// One positive scale an input feature for layers that read the same input: W' = W · diag(s), x' = x / s.
///
/// Of s = mean|x|^r with r = i / grid, the one whose quantized weights change the members' outputs least:
/// Σ `tr(ΔW G ΔWᵀ)` over the members, rounded to nearest without clipping or pruning. Members in a format of floating point
/// have no say. r = 0 is all ones, so the calibration error is never worse than that of rounding to nearest. The number
/// of steps is that of the first member with AWQ's options.
///
/// # Errors
/// [`CompressError::Inputs`] and [`CompressError::Shape`] when moments or members do not fit,
/// [`CompressError::NonFinite`] for weights, and those of the formats.
pub fn awq_scales(members: &[Member<'_>], moments: &Moments) -> Result<Vec<f32>, CompressError> {
    members.iter().try_for_each(|member| member.check(moments))?;
    let grid = members.iter().find_map(|member| match member.settings.rounding {
        Rounding::Awq(options) => Some(options.grid),
        _ => None,
    });
    let mean_abs = moments.mean_abs();
    let mut best = (f64::INFINITY, vec![1.0; mean_abs.len()]);
    for step in 0..grid.unwrap_or(0) {
        let scales = scales_of_ratio(&mean_abs, f64::from(step) / f64::from(grid.unwrap_or(1)));
        let errors = members.iter().map(|member| scaled_error(member, &scales, moments));
        let error = errors.sum::<Result<f64, CompressError>>()?;
        if error < best.0 {
            best = (error, scales);
        }
    }
    Ok(best.1)
}

/// mean|x|^r, at least 1e-4, divided by the geometric mean of the least and the largest.
fn scales_of_ratio(mean_abs: &[f64], ratio: f64) -> Vec<f32> {
    let powers: Vec<f64> = mean_abs.iter().map(|mean| mean.powf(ratio).max(LEAST)).collect();
    let (least, most) = powers.iter().fold((f64::INFINITY, 0.0_f64), |(a, b), power| (a.min(*power), b.max(*power)));
    let middle = (least * most).sqrt();
    powers.iter().map(|power| (power / middle) as f32).collect()
}

/// `tr(ΔW G ΔWᵀ)` of W' = W · s rounded to nearest, divided by s.
fn scaled_error(member: &Member<'_>, scales: &[f32], moments: &Moments) -> Result<f64, CompressError> {
    let Member { dense, shape: [_, row_len], settings } = *member;
    let scaled: Vec<f32> = dense.iter().zip(scales.iter().cycle()).map(|(weight, scale)| weight * scale).collect();
    let packed = match settings.weights {
        WeightFormat::Int(format) => PackedWeights::Int(round_to_nearest(&scaled, row_len, format)?),
        WeightFormat::Fp8(scale) => PackedWeights::Fp8(quantize_fp8(&scaled, row_len, scale)?),
        other => match other.ggml() {
            Some(format) => quantize_ggml(&scaled, row_len, format)?,
            None => return Ok(0.0),
        },
    };
    let restored = packed.dequantize();
    Ok(quadratic_form(moments.gram(), row_len, dense.len(), |place| {
        f64::from(dense[place]) - f64::from(restored[place]) / f64::from(scales[place % row_len])
    }))
}

/// `weights` (rows, `row_len`) with each group clipped to the share of its largest magnitude, 100 % to 55 %, whose rounded
/// weights change the group's outputs least: δ G δᵀ of the group's own inputs, over all calibrated tokens.
///
/// The paper leaves the layers of queries and keys unclipped; the caller switches [`crate::recipe::AwqOptions::clip`] off.
///
/// # Errors
/// [`CompressError::RowLength`] if the group does not divide `row_len`, [`CompressError::Range`] if a scale exceeds f16.
pub(super) fn clipped(
    weights: &[f32],
    row_len: usize,
    format: IntFormat,
    moments: &Moments,
) -> Result<Vec<f32>, CompressError> {
    let group = check_groups(row_len, format)?;
    let gram = MatRef::from_row_major_slice(moments.gram(), row_len, row_len);
    let mut clipped = weights.to_vec();
    clipped.par_chunks_mut(BAND * row_len).try_for_each(|band| {
        let rows = band.len() / row_len;
        for first in (0..row_len).step_by(group) {
            let mut best = vec![(f64::INFINITY, 0.0_f32); rows];
            for step in 0..CLIP_STEPS {
                let mut errors = vec![0.0; rows * group];
                let limits = clip_errors(band, row_len, first, Clip { format, step }, &mut errors)?;
                let delta = MatRef::from_row_major_slice(&errors, rows, group);
                let mut product = vec![0.0; rows * group];
                let target = MatMut::from_row_major_slice_mut(&mut product, rows, group);
                let gram = gram.submatrix(first, first, group, group);
                matmul(target, Accum::Replace, delta, gram, 1.0, Par::Seq);
                let forms = product.chunks(group).zip(errors.chunks(group));
                for (((product, errors), limit), best) in forms.zip(limits).zip(&mut best) {
                    let loss: f64 = product.iter().zip(errors).map(|(a, b)| a * b).sum();
                    if loss < best.0 {
                        *best = (loss, limit);
                    }
                }
            }
            for (row, (_, limit)) in band.chunks_mut(row_len).zip(best) {
                row[first..first + group].iter_mut().for_each(|weight| *weight = weight.clamp(-limit, limit));
            }
        }
        Ok::<(), CompressError>(())
    })?;
    Ok(clipped)
}

/// A step of the clip search.
#[derive(Clone, Copy)]
struct Clip {
    format: IntFormat,
    step: u8,
}

/// Rounds one group of each row after clipping it: writes w − ŵ and returns the limits.
fn clip_errors(
    band: &[f32],
    row_len: usize,
    first: usize,
    clip: Clip,
    errors: &mut [f64],
) -> Result<Vec<f32>, CompressError> {
    let group = clip.format.group.len(row_len);
    let mut limits = Vec::with_capacity(band.len() / row_len);
    for (row, errors) in band.chunks(row_len).zip(errors.chunks_mut(group)) {
        let weights = &row[first..first + group];
        let largest = weights.iter().fold(0.0_f32, |largest, weight| largest.max(weight.abs()));
        let limit = (f64::from(largest) * (1.0 - CLIP_STEP * f64::from(clip.step))) as f32;
        let inside = weights.iter().map(|weight| f64::from(weight.clamp(-limit, limit)));
        let line: Line = IntGrid::fit(inside, clip.format)?.line();
        for (error, weight) in errors.iter_mut().zip(weights) {
            *error = f64::from(*weight) - line.nearest(f64::from(weight.clamp(-limit, limit)));
        }
        limits.push(limit);
    }
    Ok(limits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compress::synthetic::{Synthetic, layer_mean, layers, relative_output_error};
    use crate::recipe::{AwqOptions, Group};

    fn settings(format: IntFormat, grid: u16) -> LayerSettings {
        let rounding = Rounding::Awq(AwqOptions { grid, clip: false });
        LayerSettings { rounding, ..LayerSettings::of(WeightFormat::Int(format)) }
    }

    const FORMAT: IntFormat = IntFormat { bits: 4, group: Group::Size(64), symmetric: false };

    /// Ŵ = Q(W · s) / s.
    fn restored(layer: &Synthetic, scales: &[f32], format: IntFormat) -> Vec<f32> {
        let scaled: Vec<f32> = layer.dense.iter().zip(scales.iter().cycle()).map(|(w, s)| w * s).collect();
        let packed = PackedWeights::Int(round_to_nearest(&scaled, 128, format).unwrap()).dequantize();
        packed.iter().zip(scales.iter().cycle()).map(|(w, s)| w / s).collect()
    }

    #[test]
    fn the_first_step_is_rounding_to_nearest_and_the_best_is_never_worse() {
        let mean = layer_mean(|layer| {
            let scales = |grid| {
                let settings = settings(FORMAT, grid);
                let member = Member { dense: &layer.dense, shape: layer.shape, settings: &settings };
                awq_scales(&[member], &layer.calibration).unwrap()
            };
            assert!(scales(1).iter().all(|scale| *scale == 1.0));
            let plain = restored(layer, &scales(1), FORMAT);
            let found = restored(layer, &scales(20), FORMAT);
            let error = |restored: &[f32]| relative_output_error(&layer.dense, restored, &layer.calibration);
            assert!(error(&found) <= error(&plain) * (1.0 + 1e-6));
            layer.held_out_error(&found) / layer.held_out_error(&plain)
        });
        assert!((0.3..0.8).contains(&mean), "held-out error is {mean} of rounding to nearest");
    }

    #[test]
    fn clipping_lowers_the_output_error_of_groups() {
        let format = IntFormat { bits: 3, group: Group::Row, symmetric: false };
        let mut ratios = Vec::new();
        for (number, layer) in layers().iter().take(10).enumerate() {
            let clipped = clipped(&layer.dense, 128, format, &layer.calibration).unwrap();
            let error = |weights: &[f32]| {
                let packed = PackedWeights::Int(round_to_nearest(weights, 128, format).unwrap()).dequantize();
                relative_output_error(&layer.dense, &packed, &layer.calibration)
            };
            // The group is the row: the search's objective is the output error itself.
            assert!(error(&clipped) <= error(&layer.dense) * (1.0 + 1e-9), "layer {number}");
            ratios.push(error(&clipped) / error(&layer.dense));
        }
        assert!(ratios.iter().sum::<f64>() / 10.0 < 0.95, "{ratios:?}");
    }
}
