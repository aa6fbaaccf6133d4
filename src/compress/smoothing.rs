//! 8-bit activations: outliers moved into the weights, and ranges from calibration.
//!
//! Paper: Xiao et al., 2022 (`SmoothQuant`), arXiv:2211.10438.

use rayon::prelude::*;

use crate::compress::{ActivationGrid, CompressError, Member, Moments};
use crate::recipe::{ActivationRange, Activations};

/// The smallest scale, and the smallest magnitude of weights that one is divided by.
const LEAST: f64 = 1e-5;
/// Codes on each side of zero.
const MAX_CODE: f32 = 127.0;
/// Ranges that the search of the smallest square error tries: 1 % to 100 % of the largest magnitude.
const RANGES: u16 = 100;

/// One positive scale an input feature for layers that read the same input: W' = W · diag(s), x' = x / s.
///
/// s = max|x|^α / max|w|^(1 − α), the weights' maximum over all members; 1 for inputs and weights that are all zero.
///
/// # Errors
/// [`CompressError::Inputs`] when moments and members do not fit, [`CompressError::NonFinite`] for weights.
pub fn smoothing_scales(members: &[Member<'_>], moments: &Moments, alpha: f64) -> Result<Vec<f32>, CompressError> {
    let mut largest = vec![0.0_f32; moments.n_inputs()];
    for member in members {
        member.check(moments)?;
        for row in member.dense.chunks(largest.len().max(1)) {
            largest.iter_mut().zip(row).for_each(|(largest, weight)| *largest = largest.max(weight.abs()));
        }
    }
    let of_feature = |(input, weight): (&f32, &f32)| {
        if *input == 0.0 || *weight == 0.0 {
            return 1.0;
        }
        let weight = f64::from(*weight).max(LEAST);
        (f64::from(*input).powf(alpha) / weight.powf(1.0 - alpha)).max(LEAST) as f32
    };
    Ok(moments.max_abs().iter().zip(&largest).map(of_feature).collect())
}

/// How a layer's inputs are taken, from its calibrated inputs where a range is asked for.
///
/// Also returns what to know about the range, in words: percentile and least square error read the token sample.
///
/// # Errors
/// [`CompressError::NotCalibrated`] when a static range has no inputs.
pub(super) fn activation_grid(
    activations: Activations,
    moments: Option<&Moments>,
) -> Result<(ActivationGrid, Vec<String>), CompressError> {
    let options = match activations {
        Activations::Float => return Ok((ActivationGrid::Float, Vec::new())),
        Activations::Int8Dynamic(_) => return Ok((ActivationGrid::Int8PerToken, Vec::new())),
        Activations::Int8Static(options) => options,
    };
    let moments = moments.ok_or(CompressError::NotCalibrated)?;
    let largest = moments.max_abs().iter().fold(0.0_f32, |largest, max| largest.max(*max));
    if largest == 0.0 {
        let note = "every calibrated input was zero: the static range is 1".to_owned();
        return Ok((ActivationGrid::Int8Static { scale: 1.0 / MAX_CODE }, vec![note]));
    }
    let range = match options.range {
        ActivationRange::Absmax => largest,
        ActivationRange::Percentile(percentile) => percentile_of(moments.sample(), percentile),
        ActivationRange::Mse => least_square_range(moments.sample(), largest),
    };
    // A percentile of mostly zeros may be zero, and the smallest denormals have no 127th part.
    let is_usable = (range / MAX_CODE).is_normal();
    let mut notes = Vec::new();
    if options.range != ActivationRange::Absmax {
        let n_sampled = moments.sample().len() / moments.n_inputs().max(1);
        let all = moments.n_tokens();
        if (n_sampled as u64) < all {
            notes.push(format!("the static range was chosen on {n_sampled} of {all} calibrated tokens"));
        }
        if !is_usable {
            notes.push("the chosen static range was zero: the largest magnitude was used".to_owned());
        }
    }
    let range = if is_usable { range } else { largest };
    Ok((ActivationGrid::Int8Static { scale: (range / MAX_CODE).max(f32::MIN_POSITIVE) }, notes))
}

/// The magnitude that `percentile` percent of `sample` do not exceed, between neighbours in proportion.
fn percentile_of(sample: &[f32], percentile: f64) -> f32 {
    let mut magnitudes: Vec<f32> = sample.iter().map(|value| value.abs()).collect();
    if magnitudes.is_empty() {
        return 0.0;
    }
    let place = (magnitudes.len() - 1) as f64 * (percentile / 100.0).clamp(0.0, 1.0);
    let (_, below, above) = magnitudes.select_nth_unstable_by(place as usize, f32::total_cmp);
    let next = above.iter().copied().reduce(f32::min).unwrap_or(*below);
    *below + (next - *below) * place.fract() as f32
}

/// The range whose codes have the smallest Σ (x − x̂)² over `sample`; of equal ones the largest.
fn least_square_range(sample: &[f32], largest: f32) -> f32 {
    let errors: Vec<(f64, f32)> = (1..=RANGES)
        .into_par_iter()
        .map(|step| {
            let range = largest * f32::from(step) / f32::from(RANGES);
            let scale = range / MAX_CODE;
            let error = sample.iter().map(|value| {
                let code = (value / scale).round_ties_even().clamp(-MAX_CODE, MAX_CODE);
                f64::from(value - code * scale).powi(2)
            });
            (error.sum(), range)
        })
        .collect();
    let best = errors.into_iter().rev().reduce(|best, next| if next.0 < best.0 { next } else { best });
    best.map_or(largest, |(_, range)| range)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compress::PackedWeights;
    use crate::compress::round_to_nearest;
    use crate::compress::synthetic::{Synthetic, layers};
    use crate::recipe::{Group, IntFormat, LayerSettings, StaticOptions, WeightFormat};

    const INT8: IntFormat = IntFormat { bits: 8, group: Group::Row, symmetric: true };

    /// x (tokens, n) times wᵀ (outputs, n) in f64.
    fn product(x: &[f64], w: &[f64], width: usize) -> Vec<f64> {
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        x.chunks(width).flat_map(|x| w.chunks(width).map(move |w| dot(x, w))).collect()
    }

    fn distance(a: &[f64], b: &[f64]) -> f64 {
        let square: f64 = a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum();
        square / b.iter().map(|b| b * b).sum::<f64>()
    }

    /// The error of 8-bit weights and per-token 8-bit activations after dividing x and multiplying w by `scales`.
    fn w8a8_error(layer: &Synthetic, scales: &[f32], tokens: usize) -> f64 {
        let wide = |values: &[f32]| values.iter().map(|value| f64::from(*value)).collect::<Vec<f64>>();
        let x = &layer.inputs[..tokens * 128];
        let exact = product(&wide(x), &wide(&layer.dense), 128);
        let divided: Vec<f32> = x.iter().zip(scales.iter().cycle()).map(|(x, s)| x / s).collect();
        let rounded: Vec<f64> = divided
            .chunks(128)
            .flat_map(|token| {
                let scale = token.iter().fold(0.0_f32, |max, x| max.max(x.abs())) / MAX_CODE;
                token.iter().map(move |x| f64::from((x / scale).round_ties_even() * scale))
            })
            .collect();
        let scaled: Vec<f32> = layer.dense.iter().zip(scales.iter().cycle()).map(|(w, s)| w * s).collect();
        let packed = PackedWeights::Int(round_to_nearest(&scaled, 128, INT8).unwrap()).dequantize();
        distance(&product(&rounded, &wide(&packed), 128), &exact)
    }

    #[test]
    fn smoothing_changes_nothing_but_what_rounding_takes() {
        let settings = LayerSettings::of(WeightFormat::Int(INT8));
        let mut ratios = Vec::new();
        for (number, layer) in layers().iter().take(10).enumerate() {
            let member = Member { dense: &layer.dense, shape: layer.shape, settings: &settings };
            let scales = smoothing_scales(&[member, member], &layer.calibration, 0.5).unwrap();
            let x: Vec<f64> = layer.inputs[..64 * 128].iter().map(|x| f64::from(*x)).collect();
            let w: Vec<f64> = layer.dense.iter().map(|w| f64::from(*w)).collect();
            let over = |a: &[f64], power: i32| -> Vec<f64> {
                a.iter().zip(scales.iter().cycle()).map(|(a, s)| a * f64::from(*s).powi(power)).collect()
            };
            let gap = distance(&product(&over(&x, -1), &over(&w, 1), 128), &product(&x, &w, 128)).sqrt();
            assert!(gap < 1e-15, "layer {number}: {gap}");
            ratios.push(w8a8_error(layer, &scales, 64) / w8a8_error(layer, &[1.0; 128], 64));
        }
        let mean = ratios.iter().sum::<f64>() / ratios.len() as f64;
        assert!(mean < 0.5, "smoothing leaves {mean} of the error");
    }

    #[test]
    fn ranges_are_those_of_the_inputs() {
        let mut moments = Moments::new(1);
        let values: Vec<f32> = (0..=400_i16).map(|i| f32::from(i - 200) / 2.0).chain([1000.0]).collect();
        moments.observe(&values, 1);
        let moments = moments.finish();
        let scale = |range| {
            let options = StaticOptions { range, smoothing: None };
            match activation_grid(Activations::Int8Static(options), Some(&moments)).unwrap() {
                (ActivationGrid::Int8Static { scale }, notes) => (scale, notes.len()),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(scale(ActivationRange::Absmax), (1000.0 / 127.0, 0));
        assert_eq!(scale(ActivationRange::Percentile(100.0)), (1000.0 / 127.0, 0));
        assert!((scale(ActivationRange::Percentile(50.0)).0 * 127.0 - 50.0).abs() < 0.5);
        let mse = scale(ActivationRange::Mse).0 * 127.0;
        assert!((600.0..=1000.0).contains(&mse), "{mse}");
        assert!(activation_grid(Activations::all()[2], None).is_err());
        assert_eq!(activation_grid(Activations::all()[1], None).unwrap().0, ActivationGrid::Int8PerToken);
        let mut long = Moments::new(1);
        long.observe(&vec![1.0; 2000], 4);
        let options = StaticOptions { range: ActivationRange::Mse, smoothing: None };
        let notes = activation_grid(Activations::Int8Static(options), Some(&long.finish())).unwrap().1;
        assert!(notes[0].contains("500 of 2000"), "{notes:?}");
    }
}
