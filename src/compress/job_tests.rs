use super::*;
use crate::compress::synthetic::{Synthetic, layers, relative_output_error};
use crate::recipe::{
    AwqOptions, Fp8Scale, GptqOptions, Group, IntFormat, LowRankMethod, Pattern, SparseStorage, Sparsity,
    SparsityScope, settings_bits,
};

fn job<'a>(dense: &'a [f32], shape: [usize; 2], settings: &'a LayerSettings) -> Job<'a> {
    Job { dense, shape, settings, native: StoredFormat::F16, moments: None }
}

fn of_layer<'a>(layer: &'a Synthetic, settings: &'a LayerSettings) -> Job<'a> {
    Job { moments: Some(&layer.calibration), ..job(&layer.dense, layer.shape, settings) }
}

fn formats() -> impl Iterator<Item = WeightFormat> {
    let int = WeightFormat::Int(IntFormat { bits: 4, group: Group::Size(64), symmetric: false });
    WeightFormat::NAMED.into_iter().chain(Fp8Scale::ALL.map(WeightFormat::Fp8)).chain([int])
}

#[test]
fn non_finite_weights_are_refused_with_their_place() {
    let error = compress(&job(&[1.0, f32::NAN], [1, 2], &LayerSettings::default())).unwrap_err();
    assert!(error.to_string().contains("weight 1 of 2"), "{error}");
}

#[test]
fn half_precision_refuses_what_does_not_fit() {
    let settings = LayerSettings::of(WeightFormat::F16);
    let error = compress(&job(&[1e6, 0.0], [1, 2], &settings)).unwrap_err();
    assert!(error.to_string().contains("1000000"), "{error}");
}

#[test]
fn pruned_zeros_survive_every_format_that_may_be_pruned() {
    let dense: Vec<f32> = (0..512).map(|i| ((i * 37 % 101) as f32 - 50.0) / 64.0).collect();
    for weights in formats() {
        let settings = LayerSettings { sparsity: Some(Sparsity::magnitude(0.5)), ..LayerSettings::of(weights) };
        let Ok(found) = compress(&job(&dense, [2, 256], &settings)) else {
            assert!(!weights.has_exact_zero(), "{}", weights.label());
            continue;
        };
        let zeros = found.weights.dequantize().iter().filter(|weight| **weight == 0.0).count();
        assert!(zeros >= 256, "{}: {zeros}", weights.label());
    }
}

/// The settings of a pruned layer with its zeros in place and left out.
fn both_storages(weights: WeightFormat, rounding: Rounding, sparsity: Sparsity) -> [LayerSettings; 2] {
    [SparseStorage::Masked, SparseStorage::Bitmask].map(|storage| LayerSettings {
        sparsity: Some(Sparsity { storage, ..sparsity }),
        rounding,
        ..LayerSettings::of(weights)
    })
}

#[test]
fn zeros_that_are_left_out_are_the_masked_ones_and_take_the_planned_bytes() {
    const INT8: WeightFormat = WeightFormat::Int(IntFormat { bits: 8, group: Group::Row, symmetric: true });
    let layer = Synthetic::new([16, 256], 512, 31);
    let gptq = Rounding::Gptq(GptqOptions::default());
    let formats = [
        (WeightFormat::F16, Rounding::Nearest),
        (WeightFormat::Native, Rounding::Nearest),
        (INT8, Rounding::Nearest),
        (INT8, gptq),
    ];
    for (weights, rounding) in formats {
        for method in SparsityMethod::ALL {
            for sparsity in [
                Sparsity::new(method, 0.5),
                Sparsity::new(method, 0.7),
                Sparsity::with_pattern(method, Pattern::TWO_OF_FOUR),
            ] {
                let [masked, bitmask] = both_storages(weights, rounding, sparsity)
                    .map(|settings| compress(&of_layer(&layer, &settings)).unwrap());
                let settings = both_storages(weights, rounding, sparsity)[1];
                let PackedWeights::Sparse(matrix) = &bitmask.weights else { panic!("{}", settings.label()) };
                assert_eq!(matrix.dequantize(), masked.weights.dequantize(), "{}", settings.label());
                let planned = settings_bits(layer.shape, &settings, StoredFormat::F16).unwrap() / 8;
                let n_kept = layer.dense.len() - sparsity.n_zeros(layer.shape);
                let rounded_away = (n_kept - matrix.n_values()) as u64;
                let value_bytes = matrix.kind().value_bytes() as u64;
                assert_eq!(
                    bitmask.weights.packed_bytes() + rounded_away * value_bytes,
                    planned,
                    "{}",
                    settings.label()
                );
                assert!(weights == INT8 || rounded_away == 0, "{}: {rounded_away}", settings.label());
            }
        }
    }
}

#[test]
fn zeros_are_left_out_of_f16_and_int8_rows_only() {
    let dense: Vec<f32> = (0..512).map(|i| ((i * 37 % 101) as f32 - 50.0) / 64.0).collect();
    for weights in formats().filter(|format| format.has_exact_zero()) {
        let [_, settings] = both_storages(weights, Rounding::Nearest, Sparsity::magnitude(0.5));
        let made = compress(&job(&dense, [2, 256], &settings));
        // The checkpoint of a job is in f16.
        let is_legal = matches!(weights, WeightFormat::F16 | WeightFormat::Native);
        assert_eq!(made.is_ok(), is_legal, "{}", weights.label());
    }
}

#[test]
fn every_method_rounds_every_format_it_is_for() {
    let layer = Synthetic::new([16, 256], 512, 31);
    for weights in formats() {
        let nearest = LayerSettings::of(weights);
        let plain = compress(&of_layer(&layer, &nearest)).unwrap();
        for rounding in Rounding::all() {
            let settings = LayerSettings { rounding, ..nearest };
            let name = settings.label();
            let is_for = match rounding {
                Rounding::Hqq(_) => matches!(weights, WeightFormat::Int(_)),
                Rounding::Imatrix(_) => weights.ggml().is_some(),
                Rounding::Nearest | Rounding::Gptq(_) | Rounding::Awq(_) => true,
            };
            let found = compress(&of_layer(&layer, &settings));
            if !weights.is_quantized() {
                assert_eq!(found.unwrap().weights, plain.weights, "{name}");
                continue;
            }
            assert_eq!(found.is_ok(), is_for, "{name}");
            let Ok(found) = found else { continue };
            let error = found.output_error.unwrap();
            let expected = relative_output_error(&layer.dense, &found.weights.dequantize(), &layer.calibration);
            assert!((error - expected).abs() <= 1e-9 * expected + 1e-18, "{name}: {error} {expected}");
            if rounding.needs_calibration() {
                assert!(error <= plain.output_error.unwrap() * 1.05, "{name}: {error} {:?}", plain.output_error);
                let blind = compress(&Job { moments: None, ..of_layer(&layer, &settings) });
                // AWQ without a grid to clip is rounding to nearest of weights that were scaled before.
                let reads = !matches!(rounding, Rounding::Awq(_)) || matches!(weights, WeightFormat::Int(_));
                assert_eq!(blind.is_err(), reads, "{name}");
            }
        }
    }
}

#[test]
fn clip_off_is_rounding_to_nearest() {
    let weights = WeightFormat::Int(IntFormat { bits: 4, group: Group::Size(32), symmetric: false });
    let rounding = Rounding::Awq(AwqOptions { grid: 20, clip: false });
    let [awq, nearest] = [rounding, Rounding::Nearest].map(|rounding| {
        compress(&of_layer(&layers()[0], &LayerSettings { rounding, ..LayerSettings::of(weights) })).unwrap()
    });
    assert_eq!(awq, nearest);
}

#[test]
fn a_correction_gives_back_part_of_the_error() {
    let weights = WeightFormat::Int(IntFormat { bits: 3, group: Group::Row, symmetric: false });
    let layer = &layers()[0];
    let error = |correction| {
        let settings = LayerSettings { correction, ..LayerSettings::of(weights) };
        compress(&of_layer(layer, &settings)).unwrap().output_error.unwrap()
    };
    let with = |rank, method| error(Some(Correction { rank, method }));
    let none = error(None);
    let (plain, whitened) = (with(8, LowRankMethod::Svd), with(8, LowRankMethod::Whitened));
    assert!(whitened < plain && plain < none, "{whitened} {plain} {none}");
    assert!(whitened < 0.5 * none, "{whitened} {none}");
    assert!(with(96, LowRankMethod::Whitened) < 1e-4 * none);
    assert_eq!(with(0, LowRankMethod::Svd), none);
}

#[test]
fn factors_of_full_rank_are_the_layer() {
    let layer = &layers()[3];
    let settings = |method, ratio| {
        let low_rank = Some(LowRank::with_ratio(method, ratio));
        LayerSettings { low_rank, ..LayerSettings::of(WeightFormat::F32) }
    };
    for method in [LowRankMethod::Svd, LowRankMethod::Whitened] {
        let full = compress(&of_layer(layer, &settings(method, 128.0 * 96.0 / 12288.0 * 2.0))).unwrap();
        assert!(full.output_error.unwrap() < 1e-10);
    }
    let [plain, whitened] = [LowRankMethod::Svd, LowRankMethod::Whitened]
        .map(|method| compress(&of_layer(layer, &settings(method, 0.5))).unwrap().output_error.unwrap());
    assert!(whitened < plain);
}

#[test]
fn bad_input_is_an_error_in_words() {
    let int = |group| WeightFormat::Int(IntFormat { bits: 4, group, symmetric: false });
    let gptq = Rounding::Gptq(GptqOptions::default());
    let layer = &layers()[0];
    let narrow = layer.calibration.select(&[0, 1, 2]);
    let check = |settings: LayerSettings, moments: Option<&Moments>, words: &str| {
        let job = Job { moments, ..job(&layer.dense, layer.shape, &settings) };
        let error = compress(&job).unwrap_err().to_string();
        assert!(error.contains(words), "{}: {error}", settings.label());
    };
    let with = |weights, rounding| LayerSettings { rounding, ..LayerSettings::of(weights) };
    check(with(int(Group::Row), gptq), None, "needs calibrated inputs");
    check(with(int(Group::Row), gptq), Some(&Moments::new(128)), "needs calibrated inputs");
    check(with(int(Group::Row), gptq), Some(&narrow), "3 features for rows of 128");
    check(with(int(Group::Size(96)), gptq), Some(&layer.calibration), "not a multiple of 96");
    check(with(WeightFormat::Q4k, gptq), Some(&layer.calibration), "not a multiple of 256");
    let unordered = GptqOptions { static_groups: false, ..GptqOptions::default() };
    check(with(int(Group::Row), Rounding::Gptq(unordered)), Some(&layer.calibration), "static_groups");
    let sparse = |sparsity| LayerSettings { sparsity: Some(sparsity), ..LayerSettings::of(WeightFormat::F32) };
    let pattern = Sparsity::with_pattern(SparsityMethod::SparseGpt, Pattern { zeros: 1, len: 3 });
    check(sparse(pattern), Some(&layer.calibration), "not a multiple of 3");
    check(sparse(Sparsity::new(SparsityMethod::Wanda, 0.5)), None, "needs calibrated inputs");
    let row = Sparsity { scope: SparsityScope::Row, ..Sparsity::magnitude(0.5) };
    check(LayerSettings { sparsity: Some(row), ..LayerSettings::of(WeightFormat::Q4_1) }, None, "exact zero");
}
