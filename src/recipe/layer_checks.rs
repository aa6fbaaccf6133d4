//! What one layer's settings must keep, on its model.

use crate::model::{GgmlType, Layer, StoredFormat};
use crate::recipe::plan::layer_bits;
use crate::recipe::resolve::Traced;
use crate::recipe::{
    ActivationRange, Activations, Execution, IntFormat, LayerPlan, LayerSettings, LowRank, PartialSettings, Problem,
    RankRule, RecipeIssue, Rounding, Sparsity, SparsityMethod, WeightFormat,
};

/// The plan of one layer whose shape after structural pruning is `shape`; `None` when something is wrong with it.
pub(super) fn check(
    layer: &Layer,
    shape: Option<[usize; 2]>,
    traced: Traced,
    issues: &mut Vec<RecipeIssue>,
) -> Option<LayerPlan> {
    let settings = traced.settings;
    let weights = settings.weights;
    let mut found: Vec<(Option<usize>, Problem)> = Vec::new();
    found.extend(bad_bits(weights).map(|problem| (traced.weights_rule, problem)));
    let bits = match shape {
        Some(shape) => layer_bits(layer, shape, &settings),
        None => Some(0),
    };
    if let (None, Some([_, row_len])) = (bits, shape) {
        let block_len = match weights {
            WeightFormat::Int(int) => int.group.len(row_len),
            WeightFormat::Native => stored_block_len(layer.stored),
            other => other.ggml().map_or(1, GgmlType::block_len),
        };
        let is_factor = settings.low_rank.is_some() && row_len.is_multiple_of(block_len);
        found.push(if is_factor {
            (
                traced.method_rule,
                Problem::Conflict(
                    "the rank of the factors is not made of whole blocks of this format; give low_rank an align of the \
                     block's length, or choose a floating format",
                ),
            )
        } else {
            (traced.weights_rule, Problem::RowLength { format: weights, row_len, block_len })
        });
    }
    if let (Some(sparsity), Some([_, row_len])) = (settings.sparsity, shape) {
        let problems = sparsity_problems(layer, &settings, &sparsity, row_len);
        found.extend(problems.map(|problem| (traced.sparsity_rule, problem)));
    }
    let partial = PartialSettings::from(settings);
    let methods = method_values(&partial).chain(method_conflicts(layer, &settings));
    found.extend(methods.map(|problem| (traced.method_rule, problem)));
    let is_fine = found.is_empty();
    let with_layer = |(rule, problem)| RecipeIssue { layer: Some(layer.path.clone()), rule, problem };
    issues.extend(found.into_iter().map(with_layer));
    if !is_fine {
        return None;
    }
    Some(LayerPlan {
        path: layer.path.clone(),
        settings,
        execution: Execution::of(weights),
        shape,
        packed_bytes: bits?.div_ceil(8),
    })
}

/// Values that are wrong on any model.
pub(super) fn bad_values(settings: &PartialSettings) -> Vec<Problem> {
    let bits = settings.weights.and_then(bad_bits);
    bits.into_iter().chain(settings.sparsity.and_then(bad_fraction)).chain(method_values(settings)).collect()
}

fn stored_block_len(stored: StoredFormat) -> usize {
    match stored {
        StoredFormat::Ggml(format) => format.block_len(),
        StoredFormat::F32 | StoredFormat::F16 | StoredFormat::Bf16 => 1,
    }
}

fn bad_bits(weights: WeightFormat) -> Option<Problem> {
    match weights {
        WeightFormat::Int(IntFormat { bits, .. }) if !IntFormat::BITS.contains(&bits) => Some(Problem::Bits(bits)),
        _ => None,
    }
}

fn bad_fraction(sparsity: Sparsity) -> Option<Problem> {
    let fraction = sparsity.fraction;
    (!(0.0..=Sparsity::MAX_FRACTION).contains(&fraction)).then_some(Problem::Fraction(fraction))
}

fn sparsity_problems(
    layer: &Layer,
    settings: &LayerSettings,
    sparsity: &Sparsity,
    row_len: usize,
) -> impl Iterator<Item = Problem> {
    let weights = settings.weights;
    let packed = weights == WeightFormat::Native && matches!(layer.stored, StoredFormat::Ggml(_));
    let no_zero = !weights.has_exact_zero() || matches!(settings.rounding, Rounding::Hqq(_));
    let runs = sparsity.pattern.filter(|pattern| !row_len.is_multiple_of(usize::from(pattern.len)));
    let is_row_sparsegpt =
        sparsity.method == SparsityMethod::SparseGpt && sparsity.scope != SparsityMethod::SparseGpt.scope();
    [
        bad_fraction(*sparsity),
        packed.then_some(Problem::PackedSparsity(layer.stored)),
        no_zero.then_some(if weights.has_exact_zero() {
            Problem::Conflict("hqq has no exact zero, so pruned weights would come back; use nearest or gptq")
        } else {
            Problem::NoExactZero(weights)
        }),
        runs.map(|pattern| Problem::PatternLength { pattern, row_len }),
        is_row_sparsegpt.then_some(Problem::Conflict("sparsegpt compares all rows of 128 columns; leave out scope")),
        sparsity.is_bitmask().then(|| bitmask_problem(layer, settings)).flatten(),
    ]
    .into_iter()
    .flatten()
}

/// Why zeros cannot be left out of a layer with these settings, if they cannot.
fn bitmask_problem(layer: &Layer, settings: &LayerSettings) -> Option<Problem> {
    if settings.correction.is_some() {
        return Some(Problem::Conflict(
            "a correction gives zeros a value again, so none can be left out; leave out correction, or choose storage = \
             \"masked\"",
        ));
    }
    settings.bitmask_values(layer.stored).is_none().then_some(Problem::Conflict(
        "storage = \"bitmask\" is there for f16 and { int = { bits = 8, group = \"row\", symmetric = true } }; choose one \
         of these weights, or storage = \"masked\"",
    ))
}

/// Options outside their range.
fn method_values(settings: &PartialSettings) -> impl Iterator<Item = Problem> {
    let out = |is_wrong: bool, name, value: f64, range| is_wrong.then_some(Problem::OutOfRange { name, value, range });
    let within = |value: f64, low: f64, high: f64| (low..=high).contains(&value);
    let rounding = match settings.rounding {
        Some(Rounding::Gptq(options)) => [
            out(options.block == 0, "gptq block", f64::from(options.block), "at least 1 column"),
            out(!within(options.damping, 1e-8, 1.0), "gptq damping", options.damping, "from 1e-8 to 1"),
        ],
        Some(Rounding::Awq(options)) => {
            [out(!(1..=100).contains(&options.grid), "awq grid", f64::from(options.grid), "1 to 100 steps"), None]
        }
        Some(Rounding::Hqq(options)) => [
            out(options.iterations == 0, "hqq iterations", f64::from(options.iterations), "at least 1"),
            out(!within(options.norm, 1e-3, 1.0), "hqq norm", options.norm, "above 0, at most 1"),
        ],
        Some(Rounding::Nearest | Rounding::Imatrix(_)) | None => [None, None],
    };
    let smoothing = settings.activations.and_then(Activations::smoothing);
    let smoothing = smoothing.and_then(|value| out(!within(value, 0.0, 1.0), "smoothing", value, "from 0 to 1"));
    let percentile = match settings.activations {
        Some(Activations::Int8Static(options)) => match options.range {
            ActivationRange::Percentile(value) => {
                out(!within(value, 50.0, 100.0), "percentile", value, "from 50 to 100")
            }
            ActivationRange::Absmax | ActivationRange::Mse => None,
        },
        _ => None,
    };
    let rank = settings.low_rank.and_then(|LowRank { rank, .. }| match rank {
        RankRule::Ratio(ratio) => out(!within(ratio, 1e-3, 1.0), "low_rank ratio", ratio, "above 0, at most 1"),
        RankRule::Energy(energy) => out(!within(energy, 1e-3, 1.0), "low_rank energy", energy, "above 0, at most 1"),
        RankRule::ErrorBudget(budget) => {
            out(!within(budget, 0.0, 0.999), "low_rank error_budget", budget, "from 0, below 1")
        }
    });
    rounding.into_iter().chain([smoothing, percentile, rank]).flatten()
}

/// Settings that do not go together.
fn method_conflicts(layer: &Layer, settings: &LayerSettings) -> impl Iterator<Item = Problem> {
    let is_int = matches!(settings.weights, WeightFormat::Int(_));
    let is_ggml = settings.weights.ggml().is_some();
    let has_int8 = settings.activations != Activations::Float;
    let rounding = settings.rounding;
    let dynamic_order = matches!(rounding, Rounding::Gptq(options) if options.act_order && !options.static_groups);
    let embedding = layer.block.is_none();
    let is_calibrated = settings.needs_calibration();
    let conflict = |is_wrong: bool, reason| is_wrong.then_some(Problem::Conflict(reason));
    [
        conflict(
            dynamic_order,
            "gptq with act_order needs static_groups, or each weight would need its group's number",
        ),
        conflict(
            matches!(rounding, Rounding::Hqq(_)) && !is_int,
            "hqq has floating zero points, which only int formats hold",
        ),
        conflict(
            matches!(rounding, Rounding::Imatrix(_)) && !is_ggml,
            "imatrix is the scale search of GGML types; use gptq or awq here",
        ),
        conflict(
            has_int8 && !is_int,
            "int8 activations need int weights, for example { int = { bits = 8, group = \"row\", symmetric = true } }",
        ),
        conflict(
            settings.low_rank.is_some() && settings.sparsity.is_some(),
            "low_rank and sparsity cannot be combined in one layer",
        ),
        conflict(
            settings.low_rank.is_some() && settings.correction.is_some(),
            "low_rank and correction cannot be combined in one layer",
        ),
        conflict(
            settings.low_rank.is_some() && rounding != Rounding::Nearest,
            "factors of low_rank are rounded to nearest; leave out rounding here",
        ),
        conflict(
            settings.low_rank.is_some() && has_int8,
            "low_rank runs on floating activations; leave out activations here",
        ),
        conflict(
            embedding && (is_calibrated || settings.low_rank.is_some()),
            "embedding and head are not calibrated; give them a plain format",
        ),
    ]
    .into_iter()
    .flatten()
}
