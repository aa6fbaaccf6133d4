//! Settings that are tried on one layer alone.

use std::time::Instant;

use crate::compress::{CompressError, Job, Member, Moments, awq_scales, compress};
use crate::model::Layer;
use crate::recipe::{
    AwqOptions, Fp8Scale, GptqOptions, Group, HqqOptions, ImatrixOptions, IntFormat, LayerSettings, LowRank,
    LowRankMethod, Rounding, Sparsity, SparsityMethod, WeightFormat,
};
use crate::worker::inspection::{Candidate, LocalError};

/// What is tried: settings that take a moment, and those that take longer; with calibrated inputs more of these.
pub(super) fn list(is_calibrated: bool) -> (Vec<LayerSettings>, Vec<LayerSettings>) {
    let int = |bits, group| WeightFormat::Int(IntFormat { bits, group, symmetric: false });
    let int4 = int(4, Group::Size(32));
    let quick = [
        WeightFormat::Q8_0,
        int(8, Group::Row),
        WeightFormat::Fp8(Fp8Scale::Row),
        WeightFormat::Q6k,
        WeightFormat::Q5k,
        WeightFormat::Q4k,
        WeightFormat::Q4_0,
        int4,
        int(4, Group::Row),
    ];
    let native = LayerSettings::default();
    let rounded = |weights, rounding| LayerSettings { rounding, ..LayerSettings::of(weights) };
    let sparse = |method| LayerSettings { sparsity: Some(Sparsity::new(method, 0.5)), ..native };
    let thin = |method| LayerSettings { low_rank: Some(LowRank::with_ratio(method, 0.7)), ..native };
    let mut slow = vec![rounded(int4, Rounding::Hqq(HqqOptions::default()))];
    if is_calibrated {
        slow.extend([
            rounded(int4, Rounding::Gptq(GptqOptions::default())),
            rounded(WeightFormat::Q4_0, Rounding::Gptq(GptqOptions::default())),
            rounded(int4, Rounding::Awq(AwqOptions::default())),
            rounded(WeightFormat::Q4_0, Rounding::Imatrix(ImatrixOptions::default())),
        ]);
    }
    slow.push(sparse(SparsityMethod::Magnitude));
    if is_calibrated {
        slow.extend([sparse(SparsityMethod::Wanda), sparse(SparsityMethod::SparseGpt)]);
    }
    slow.push(thin(LowRankMethod::Svd));
    if is_calibrated {
        slow.push(thin(LowRankMethod::Whitened));
    }
    (quick.map(LayerSettings::of).to_vec(), slow)
}

/// Compresses the layer as `settings` say, and measures what that does to it.
pub(super) fn attempt(dense: &[f32], layer: &Layer, settings: LayerSettings, moments: Option<&Moments>) -> Candidate {
    let result = measured(dense, layer, &settings, moments).map_err(|error| error.to_string()).and_then(|found| {
        let is_finite = found.weight_error.is_finite() && found.output_error.is_none_or(f64::is_finite);
        if is_finite { Ok(found) } else { Err("its error is not finite".to_owned()) }
    });
    Candidate { settings, result }
}

fn measured(
    dense: &[f32],
    layer: &Layer,
    settings: &LayerSettings,
    moments: Option<&Moments>,
) -> Result<LocalError, CompressError> {
    let began = Instant::now();
    let (shape, native) = (layer.shape, layer.stored);
    let is_scaled = matches!(settings.rounding, Rounding::Awq(_));
    let (made, restored) = match moments.filter(|_| is_scaled) {
        None => {
            let made = compress(&Job { dense, shape, settings, native, moments })?;
            let restored = made.weights.dequantize();
            (made, restored)
        }
        Some(moments) => {
            // The scales of this layer alone; in a variant, layers that read the same input share them.
            let scales = awq_scales(&[Member { dense, shape, settings }], moments)?;
            let scaled: Vec<f32> =
                dense.iter().zip(scales.iter().cycle()).map(|(weight, scale)| weight * scale).collect();
            let moments = moments.divided(&scales);
            let made = compress(&Job { dense: &scaled, shape, settings, native, moments: Some(&moments) })?;
            let mut restored = made.weights.dequantize();
            restored.iter_mut().zip(scales.iter().cycle()).for_each(|(weight, scale)| *weight /= scale);
            (made, restored)
        }
    };
    let secs = began.elapsed().as_secs_f64();
    Ok(LocalError {
        weight_error: relative_error(dense, &restored),
        output_error: made.output_error,
        packed_bytes: made.weights.packed_bytes(),
        secs,
        notes: made.notes,
    })
}

/// ‖W − Ŵ‖² / ‖W‖², summed in f64.
fn relative_error(dense: &[f32], made: &[f32]) -> f64 {
    let (mut difference, mut norm) = (0.0, 0.0);
    for (weight, made) in dense.iter().zip(made) {
        let (weight, made) = (f64::from(*weight), f64::from(*made));
        difference += (weight - made) * (weight - made);
        norm += weight * weight;
    }
    if difference == 0.0 { 0.0 } else { difference / norm }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{LayerPath, LayerRole, StoredFormat};

    fn layer(shape: [usize; 2]) -> Layer {
        let path = LayerPath::from("model.layers.0.mlp.up_proj");
        Layer {
            path,
            block: Some(0),
            role: LayerRole::UpProj,
            shape,
            stored: StoredFormat::F32,
            bias_len: 0,
            rank: None,
            sparse: None,
            shared_with: None,
        }
    }

    fn tried(settings: LayerSettings, shape: [usize; 2]) -> Result<LocalError, String> {
        let dense: Vec<f32> = (0..shape[0] * shape[1]).map(|i| ((i * 37 % 101) as f32 - 50.0) / 64.0).collect();
        attempt(&dense, &layer(shape), settings, None).result
    }

    #[test]
    fn fewer_bits_take_fewer_bytes_and_cost_more() {
        let [q8, q4] =
            [WeightFormat::Q8_0, WeightFormat::Q4_0].map(|format| tried(LayerSettings::of(format), [8, 256]).unwrap());
        assert_eq!((q8.packed_bytes, q4.packed_bytes), (8 * 256 / 32 * 34, 8 * 256 / 32 * 18));
        assert!(0.0 < q8.weight_error && q8.weight_error < q4.weight_error && q4.weight_error < 0.1);
        let same = tried(LayerSettings::of(WeightFormat::F32), [8, 256]).unwrap();
        assert_eq!((same.weight_error, same.packed_bytes), (0.0, 8 * 256 * 4));
    }

    #[test]
    fn a_mask_is_not_called_smaller() {
        let pruned = LayerSettings { sparsity: Some(Sparsity::magnitude(0.5)), ..LayerSettings::default() };
        let found = tried(pruned, [8, 256]).unwrap();
        assert_eq!(found.packed_bytes, 8 * 256 * 4);
        assert!(found.weight_error > 0.0);
    }

    #[test]
    fn what_does_not_fit_says_why() {
        let why = tried(LayerSettings::of(WeightFormat::Q4k), [8, 288]).unwrap_err();
        assert!(why.contains("288") && why.contains("256"), "{why}");
        let settings = |is_calibrated| {
            let (quick, slow) = list(is_calibrated);
            [quick, slow].concat()
        };
        assert!(settings(false).iter().all(|settings| !settings.needs_calibration()));
        let calibrated = settings(true).iter().filter(|settings| settings.needs_calibration()).count();
        assert_eq!(calibrated, settings(true).len() - settings(false).len());
    }

    #[test]
    fn scales_are_taken_back_before_weights_are_compared() {
        let shape = [8, 64];
        let dense: Vec<f32> = (0..512).map(|i| ((i * 37 % 101) as f32 - 50.0) / 64.0).collect();
        let mut moments = Moments::new(64);
        // One channel is a hundred times as large as the others.
        let inputs = (0..128 * 64).map(|i| ((i * 29 % 97) as f32 - 48.0) * if i % 64 == 5 { 1.0 } else { 0.01 });
        moments.observe(&inputs.collect::<Vec<f32>>(), 1);
        let moments = moments.finish();
        let error = |rounding| {
            let int4 = WeightFormat::Int(IntFormat { bits: 4, group: Group::Row, symmetric: false });
            let settings = LayerSettings { rounding, ..LayerSettings::of(int4) };
            attempt(&dense, &layer(shape), settings, Some(&moments)).result.unwrap()
        };
        let (nearest, awq) = (error(Rounding::Nearest), error(Rounding::Awq(AwqOptions::default())));
        assert!(awq.output_error.unwrap() < nearest.output_error.unwrap(), "{awq:?} {nearest:?}");
        assert!(awq.weight_error < 0.2, "{awq:?}");
    }

    #[test]
    fn zeros_have_no_error() {
        let found = attempt(&[0.0; 64], &layer([2, 32]), LayerSettings::of(WeightFormat::Q4_0), None);
        assert_eq!(found.result.unwrap().weight_error, 0.0);
    }
}
