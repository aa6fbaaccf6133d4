//! GGML blocks whose scales minimise a weighted square error: quantization with an importance matrix.
//!
//! The searches follow those of llama.cpp (`make_qx_quants`, `make_qkx3_quants`, `make_qp_quants`) in what they try; the
//! objective here is the weighted square error alone, and a block that plain rounding does better is kept plain.

use half::f16;
use rayon::prelude::*;

use crate::compress::ggml::{check_range, plain_blocks};
use crate::compress::ggml_blocks::{codes, lines, put_codes, put_scales, put_steps, run_len};
use crate::compress::line::Line;
use crate::compress::{CompressError, Moments, PackedWeights, dequantize_ggml};
use crate::model::GgmlType;

/// The smallest importance, as a share of the mean: an input that calibration never saw still matters a little.
const FLOOR: f64 = 1e-6;
/// Blocks of one task, at least.
const BLOCKS: usize = 64;

/// The mean square of each input, relative to their mean; all ones without calibrated inputs or where all are zero.
pub(super) fn importance(moments: Option<&Moments>, width: usize) -> Vec<f32> {
    let Some(moments) = moments else { return vec![1.0; width] };
    let squares = moments.sum_squares();
    let mean = squares.iter().sum::<f64>() / width as f64;
    if mean <= 0.0 {
        return vec![1.0; width];
    }
    squares.iter().map(|square| (square / mean).max(FLOOR) as f32).collect()
}

/// Packs `weights` (rows, `row_len`) into GGML blocks with the least Σ importance · (w − ŵ)² that the search finds.
///
/// - `importance`: one an input, positive
///
/// # Errors
/// [`CompressError::RowLength`] if a row is not made of whole blocks, [`CompressError::Range`] beyond f16 scales.
pub(super) fn quantize_weighted(
    weights: &[f32],
    row_len: usize,
    format: GgmlType,
    importance: &[f32],
) -> Result<PackedWeights, CompressError> {
    let mut bytes = plain_blocks(weights, row_len, format)?;
    let (len, size) = (format.block_len(), format.block_bytes());
    let work = bytes.par_chunks_mut(BLOCKS * size).zip(weights.par_chunks(BLOCKS * len)).enumerate();
    work.try_for_each(|(task, (bytes, weights))| {
        let plain = dequantize_ggml(format, bytes)?;
        let blocks = bytes.chunks_mut(size).zip(weights.chunks(len).zip(plain.chunks(len)));
        for (number, (block, (weights, plain))) in (task * BLOCKS..).zip(blocks) {
            let first = number * len % row_len;
            improve(format, block, weights, plain, &importance[first..first + len]);
        }
        Ok::<(), CompressError>(())
    })?;
    check_range(weights, format, &bytes)?;
    Ok(PackedWeights::Ggml { format, bytes })
}

/// Replaces a block by the one that the search finds, if its error is smaller than that of the `plain` values.
fn improve(format: GgmlType, block: &mut [u8], weights: &[f32], plain: &[f32], importance: &[f32]) {
    let mut found = vec![0; block.len()];
    if !fit(format, &mut found, weights, importance) {
        return;
    }
    let run = run_len(format);
    let mut of_runs = [Line::default(); 16];
    let of_runs = &mut of_runs[..weights.len() / run];
    lines(format, &found, of_runs);
    let mut found_codes = [0; 256];
    let mut error = 0.0;
    for (place, ((weight, importance), code)) in weights.iter().zip(importance).zip(&mut found_codes).enumerate() {
        let line = &of_runs[place / run];
        *code = line.code(f64::from(*weight));
        error += f64::from(*importance) * f64::from(weight - line.value(*code)).powi(2);
    }
    let of_plain = weights.iter().zip(plain).zip(importance);
    let plain_error: f64 = of_plain.map(|((w, plain), weight)| f64::from(*weight) * f64::from(w - plain).powi(2)).sum();
    // Also replaces a plain block that is not finite.
    if error < plain_error || plain_error.is_nan() {
        put_codes(format, &mut found, &found_codes[..weights.len()]);
        block.copy_from_slice(&found);
    }
}

/// Writes the scales that the search finds; false where f16 cannot hold them.
fn fit(format: GgmlType, block: &mut [u8], x: &[f32], weights: &[f32]) -> bool {
    let (bias, low, high) = codes(format);
    let (low, high) = (f32::from(low) - f32::from(bias), f32::from(high) - f32::from(bias));
    let run = run_len(format);
    let runs = x.chunks(run).zip(weights.chunks(run));
    let (step, min) = match format {
        GgmlType::Q4_0 | GgmlType::Q5_0 | GgmlType::Q8_0 => (fit_step(x, weights, low, high), 0.0),
        GgmlType::Q4_1 | GgmlType::Q5_1 => fit_line(x, weights, high, f32::INFINITY),
        GgmlType::Q3k | GgmlType::Q6k => {
            let steps: Vec<f32> = runs.clone().map(|(x, weights)| fit_step(x, weights, low, high)).collect();
            let sums: Vec<f32> = runs.map(|(_, weights)| weights.iter().sum()).collect();
            let (low, high) = if format == GgmlType::Q3k { (-32.0, 31.0) } else { (-128.0, 127.0) };
            let step = f16::from_f32(fit_step(&steps, &sums, low, high)).to_f32();
            put_scales(format, block, &nearest_codes(&steps, step, low, high), &[]);
            (step, 0.0)
        }
        GgmlType::Q2k | GgmlType::Q4k | GgmlType::Q5k => {
            let (steps, mins): (Vec<f32>, Vec<f32>) =
                runs.clone().map(|(x, weights)| fit_line(x, weights, high, 0.0)).map(|(s, m)| (s, -m)).unzip();
            let sums: Vec<f32> = runs.map(|(_, weights)| weights.iter().sum()).collect();
            let high = if format == GgmlType::Q2k { 15.0 } else { 63.0 };
            let [step, min] = [&steps, &mins].map(|x| f16::from_f32(fit_step(x, &sums, 0.0, high)).to_f32());
            let (steps, mins) = (nearest_codes(&steps, step, 0.0, high), nearest_codes(&mins, min, 0.0, high));
            put_scales(format, block, &steps, &mins);
            (step, min)
        }
    };
    let (step, min) = (f16::from_f32(step), f16::from_f32(min));
    put_steps(format, block, step, min);
    step.is_finite() && min.is_finite()
}

fn nearest_codes(x: &[f32], step: f32, low: f32, high: f32) -> Vec<i8> {
    if step == 0.0 || !step.is_finite() {
        return vec![0; x.len()];
    }
    x.iter().map(|x| (x / step).round_ties_even().clamp(low, high) as i8).collect()
}

/// The step s with the least Σ w (x − s · l)² over whole l from `low` to `high` that the search finds; 0 for zeros.
///
/// Starts from steps around those that take the largest magnitude to an end of the codes; each gets the step that is best
/// for its codes, and the best of them a few rounds of both.
fn fit_step(x: &[f32], weights: &[f32], low: f32, high: f32) -> f32 {
    let largest = x.iter().fold(0.0_f32, |largest, x| if x.abs() > largest.abs() { *x } else { largest });
    if largest == 0.0 {
        return 0.0;
    }
    let try_inverse = |inverse: f32| {
        let (mut along, mut square) = (0.0_f32, 0.0_f32);
        for (x, weight) in x.iter().zip(weights) {
            let code = (inverse * x).round_ties_even().clamp(low, high);
            along += weight * x * code;
            square += weight * code * code;
        }
        // Σ w (x − s l)² falls by along² / square from Σ w x² when s = along / square.
        if square > 0.0 { (along * along / square, along / square) } else { (0.0, 0.0) }
    };
    let mut best = (0.0_f32, 0.0_f32);
    for end in [low, high] {
        for nudge in -9..=9_i8 {
            let found = try_inverse((end + 0.1 * f32::from(nudge)) / largest);
            if found.0 > best.0 {
                best = found;
            }
        }
    }
    for _ in 0..4 {
        let found = if best.1 == 0.0 { best } else { try_inverse(1.0 / best.1) };
        if found.0 <= best.0 {
            break;
        }
        best = found;
    }
    best.1
}

/// Step s and offset m, at most `max_offset`, with the least Σ w (x − s · l − m)² over whole l from 0 to `high` that the
/// search finds.
fn fit_line(x: &[f32], weights: &[f32], high: f32, max_offset: f32) -> (f32, f32) {
    let (min, max) = x.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(min, max), x| (min.min(*x), max.max(*x)));
    let min = min.min(max_offset);
    if max <= min {
        return (0.0, min);
    }
    let error_of = |inverse: f32, (step, offset): (f32, f32)| -> f32 {
        let terms = x.iter().zip(weights).map(|(x, weight)| {
            let code = (inverse * (x - min)).round_ties_even().clamp(0.0, high);
            let error = step * code + offset - x;
            weight * error * error
        });
        terms.sum()
    };
    let mut best = ((max - min) / high, min);
    let mut least = error_of(high / (max - min), best);
    let (sum_w, sum_x) = x.iter().zip(weights).fold((0.0, 0.0), |(w, wx), (x, weight)| (w + weight, wx + weight * x));
    for nudge in 0..=36_u8 {
        let inverse = (high - 0.9 + 0.05 * f32::from(nudge)) / (max - min);
        let (mut sum_l, mut sum_l2, mut sum_xl) = (0.0_f32, 0.0_f32, 0.0_f32);
        for (x, weight) in x.iter().zip(weights) {
            let code = (inverse * (x - min)).round_ties_even().clamp(0.0, high);
            sum_l += weight * code;
            sum_l2 += weight * code * code;
            sum_xl += weight * code * x;
        }
        let determinant = sum_w * sum_l2 - sum_l * sum_l;
        if determinant <= 0.0 {
            continue;
        }
        let mut line =
            ((sum_w * sum_xl - sum_x * sum_l) / determinant, (sum_l2 * sum_x - sum_l * sum_xl) / determinant);
        if line.1 > max_offset {
            line = (sum_xl / sum_l2, max_offset);
        }
        let error = error_of(inverse, line);
        if error < least {
            (least, best) = (error, line);
        }
    }
    best
}

#[cfg(test)]
#[path = "imatrix_tests.rs"]
mod tests;
