//! One layer through all its settings.

use std::borrow::Cow;
use std::sync::Arc;

use half::{bf16, f16};

use crate::compress::awq::clipped;
use crate::compress::fp8::quantize_fp8;
use crate::compress::gptq::{GridFormat, Layer, Zeros, gptq, sparsegpt};
use crate::compress::hqq::hqq;
use crate::compress::imatrix::{importance, quantize_weighted};
use crate::compress::low_rank::{factorize_with, lack_of_rank};
use crate::compress::magnitude::{first_not_finite, largest_magnitude};
use crate::compress::smoothing::activation_grid;
use crate::compress::solver::{Host, Solver};
use crate::compress::{
    ActivationGrid, CompressError, LowRankMatrix, Moments, PackedWeights, SparseMatrix, keep_mask, quantize_ggml,
    round_to_nearest,
};
use crate::model::StoredFormat;
use crate::recipe::{Correction, LayerSettings, LowRank, Rounding, Sparsity, SparsityMethod, WeightFormat};

/// One layer to compress.
#[derive(Debug, Clone, Copy)]
pub struct Job<'a> {
    /// (`out_features`, `in_features`), row-major, widened to f32.
    pub dense: &'a [f32],
    /// (`out_features`, `in_features`).
    pub shape: [usize; 2],
    /// What becomes of it. A fraction of OWL and a rank of an error budget are already this layer's own, and AWQ's clip
    /// search is off where the layer makes queries or keys.
    pub settings: &'a LayerSettings,
    /// The checkpoint's own format, used by [`WeightFormat::Native`]; a GGML one is quantized anew.
    pub native: StoredFormat,
    /// Its calibrated inputs; every method that reads them fails without. Where AWQ or smoothing has scaled the weights,
    /// those of the divided inputs.
    pub moments: Option<&'a Moments>,
}

/// A compressed layer.
#[derive(Debug, Clone, PartialEq)]
pub struct Compressed {
    /// Its weights.
    pub weights: PackedWeights,
    /// How its product takes activations.
    pub activations: ActivationGrid,
    /// ‖X (W − Ŵ)ᵀ‖² / ‖X Wᵀ‖² over the calibrated inputs, when there are some and the outputs are not all zero.
    pub output_error: Option<f64>,
    /// What did not go as asked, in words: raised damping, a fallback, dead inputs.
    pub notes: Vec<String>,
}

/// Prunes, factors, rounds, packs and corrects one layer.
///
/// # Errors
/// [`CompressError`] when a weight or a calibrated sum is not finite, the shape does not fit the format or the inputs, or
/// calibrated inputs are missing.
pub fn compress(job: &Job<'_>) -> Result<Compressed, CompressError> {
    compress_with(job, &Host)
}

/// [`compress`], with its heavy linear algebra by `solver`.
///
/// # Errors
/// As [`compress`], and [`CompressError::Device`].
pub(crate) fn compress_with(job: &Job<'_>, solver: &dyn Solver) -> Result<Compressed, CompressError> {
    // Moments without tokens say nothing.
    let job = Job { moments: job.moments.filter(|moments| moments.n_tokens() > 0), ..*job };
    check(&job)?;
    let mut notes = Vec::new();
    let mut weights = match job.settings.low_rank.filter(|low_rank| !low_rank.is_full()) {
        Some(low_rank) => factored(&job, low_rank, solver, &mut notes)?,
        None => without_zeros(&job, rounded(&job, solver, &mut notes)?)?,
    };
    if let Some(correction) = job.settings.correction.filter(|correction| correction.rank > 0) {
        weights = corrected(&job, weights, correction, solver, &mut notes)?;
    }
    let (activations, about_range) = activation_grid(job.settings.activations, job.moments)?;
    notes.extend(about_range);
    let output_error = match job.moments {
        Some(moments) => solver.output_error(job.dense, &weights.dequantize(), moments)?,
        None => None,
    };
    Ok(Compressed { weights, activations, output_error, notes })
}

fn check(job: &Job<'_>) -> Result<(), CompressError> {
    let Job { dense, shape: [rows, row_len], settings, .. } = *job;
    if Some(dense.len()) != rows.checked_mul(row_len) || dense.is_empty() {
        return Err(CompressError::Shape { len: dense.len(), rows, row_len });
    }
    if let Some(index) = first_not_finite(dense) {
        return Err(CompressError::NonFinite { index, len: dense.len() });
    }
    if let Some(moments) = job.moments {
        moments.check(row_len)?;
    }
    let is_pruned = sparsity_of(settings).is_some();
    if is_pruned && settings.low_rank.is_some_and(|low_rank| !low_rank.is_full()) {
        return Err(CompressError::Unsupported("low_rank and sparsity cannot be combined in one layer"));
    }
    if is_pruned && (!settings.weights.has_exact_zero() || matches!(settings.rounding, Rounding::Hqq(_))) {
        return Err(CompressError::Unsupported("pruned weights need a format with an exact zero"));
    }
    if sparsity_of(settings).is_some_and(|sparsity| sparsity.is_bitmask()) && settings.correction.is_some() {
        return Err(CompressError::Unsupported("a correction leaves no zeros that could be left out"));
    }
    Ok(())
}

fn sparsity_of(settings: &LayerSettings) -> Option<Sparsity> {
    settings.sparsity.filter(|sparsity| sparsity.fraction > 0.0)
}

/// What a format asks of the weights.
#[derive(Debug, Clone, Copy)]
enum Storage {
    F32,
    F16,
    Bf16,
    Grid(GridFormat),
}

fn storage(format: WeightFormat, native: StoredFormat) -> Storage {
    match (format, native) {
        (WeightFormat::F32, _) | (WeightFormat::Native, StoredFormat::F32) => Storage::F32,
        (WeightFormat::F16, _) | (WeightFormat::Native, StoredFormat::F16) => Storage::F16,
        (WeightFormat::Bf16, _) | (WeightFormat::Native, StoredFormat::Bf16) => Storage::Bf16,
        (WeightFormat::Native, StoredFormat::Ggml(format)) => Storage::Grid(GridFormat::Ggml(format)),
        (WeightFormat::Fp8(scale), _) => Storage::Grid(GridFormat::Fp8(scale)),
        (WeightFormat::Int(format), _) => Storage::Grid(GridFormat::Int(format)),
        (named, _) => Storage::Grid(GridFormat::Ggml(named.ggml().expect("every other format is a GGML type"))),
    }
}

/// Both thin factors, to nearest in the format of the weights.
fn factored(
    job: &Job<'_>,
    low_rank: LowRank,
    solver: &dyn Solver,
    notes: &mut Vec<String>,
) -> Result<PackedWeights, CompressError> {
    let [rows, row_len] = job.shape;
    let factors = factorize_with(job.dense, job.shape, &low_rank, job.moments, solver)?;
    notes.extend(factors.notes);
    let pack = |weights: &[f32], row_len| to_nearest(weights, row_len, storage(job.settings.weights, job.native));
    let (up, down) = (pack(&factors.up, factors.rank)?, pack(&factors.down, row_len)?);
    let shape = [rows, factors.rank, row_len];
    Ok(PackedWeights::LowRank(LowRankMatrix { up: Box::new(up), down: Arc::new(down), shape }))
}

/// The weights with a low-rank term in f16 for what they lack of the dense ones.
fn corrected(
    job: &Job<'_>,
    base: PackedWeights,
    correction: Correction,
    solver: &dyn Solver,
    notes: &mut Vec<String>,
) -> Result<PackedWeights, CompressError> {
    let [rows, row_len] = job.shape;
    let lack: Vec<f32> = job.dense.iter().zip(base.dequantize()).map(|(dense, base)| dense - base).collect();
    let factors = lack_of_rank(&lack, job.shape, correction, job.moments, solver)?;
    notes.extend(factors.notes);
    let [up, down] = [&factors.up, &factors.down].map(|weights| to_f16(weights).map(PackedWeights::F16));
    let shape = [rows, factors.rank, row_len];
    let term = LowRankMatrix { up: Box::new(up?), down: Arc::new(down?), shape };
    Ok(PackedWeights::Corrected { base: Box::new(base), term })
}

/// The pruned weights as their settings store them.
fn without_zeros(job: &Job<'_>, weights: PackedWeights) -> Result<PackedWeights, CompressError> {
    if !sparsity_of(job.settings).is_some_and(|sparsity| sparsity.is_bitmask()) {
        return Ok(weights);
    }
    let sparse = match &weights {
        PackedWeights::F16(weights) => SparseMatrix::of_halves(weights, job.shape)?,
        PackedWeights::Int(matrix) => SparseMatrix::of_int(matrix)?,
        _ => return Err(CompressError::Unsupported("zeros are left out of f16 and of int of 8 bits a row only")),
    };
    Ok(PackedWeights::Sparse(sparse))
}

/// Prunes and rounds.
fn rounded(job: &Job<'_>, solver: &dyn Solver, notes: &mut Vec<String>) -> Result<PackedWeights, CompressError> {
    let Job { dense, shape: [_, row_len], settings, moments, native } = *job;
    let storage = storage(settings.weights, native);
    let rounding = if settings.weights.is_quantized() { settings.rounding } else { Rounding::Nearest };
    let with_inputs = || -> Result<Layer<'_>, CompressError> {
        Ok(Layer { dense, row_len, moments: moments.ok_or(CompressError::NotCalibrated)?, solver })
    };
    let (weights, keep) = match sparsity_of(settings) {
        None => (Cow::Borrowed(dense), None),
        Some(sparsity) if sparsity.method == SparsityMethod::SparseGpt => {
            if let (Rounding::Gptq(options), Storage::Grid(format)) = (rounding, &storage)
                && let Some((packed, told)) = gptq(&with_inputs()?, *format, options, Zeros::SparseGpt(sparsity))?
            {
                notes.extend(told);
                return Ok(packed);
            }
            let (pruned, told) = sparsegpt(&with_inputs()?, sparsity)?;
            notes.extend(told);
            (Cow::Owned(pruned), None)
        }
        Some(sparsity) => {
            let keep = keep_mask(dense, row_len, &sparsity, moments)?;
            let pruned = dense.iter().zip(&keep).map(|(weight, keep)| if *keep { *weight } else { 0.0 });
            (Cow::Owned(pruned.collect()), Some(keep))
        }
    };
    match (storage, rounding) {
        (Storage::Grid(format), Rounding::Gptq(options)) => {
            let zeros = keep.as_deref().map_or(Zeros::None, Zeros::Mask);
            if let Some((packed, told)) = gptq(&with_inputs()?, format, options, zeros)? {
                notes.extend(told);
                return Ok(packed);
            }
            let fallback = "gptq: the Hessian is not positive definite with any damping up to 1, so weights were rounded \
                            to nearest";
            notes.push(fallback.to_owned());
            to_nearest(&weights, row_len, Storage::Grid(format))
        }
        (Storage::Grid(GridFormat::Int(format)), Rounding::Awq(options)) if options.clip => {
            let moments = moments.ok_or(CompressError::NotCalibrated)?;
            let clipped = clipped(&weights, row_len, format, moments)?;
            Ok(PackedWeights::Int(round_to_nearest(&clipped, row_len, format)?))
        }
        (storage, Rounding::Nearest | Rounding::Awq(_)) => to_nearest(&weights, row_len, storage),
        (Storage::Grid(GridFormat::Int(format)), Rounding::Hqq(options)) => {
            Ok(PackedWeights::Int(hqq(&weights, row_len, format, options)?))
        }
        (Storage::Grid(GridFormat::Ggml(format)), Rounding::Imatrix(options)) => {
            let weighs = if options.uniform { None } else { Some(moments.ok_or(CompressError::NotCalibrated)?) };
            quantize_weighted(&weights, row_len, format, &importance(weighs, row_len))
        }
        (_, Rounding::Hqq(_)) => Err(CompressError::Unsupported("hqq rounds to int formats only")),
        (_, Rounding::Imatrix(_)) => Err(CompressError::Unsupported("imatrix rounds to GGML types only")),
        (_, Rounding::Gptq(_)) => Err(CompressError::Unsupported("gptq rounds to quantized formats only")),
    }
}

fn to_nearest(weights: &[f32], row_len: usize, storage: Storage) -> Result<PackedWeights, CompressError> {
    Ok(match storage {
        Storage::F32 => PackedWeights::F32(weights.to_vec()),
        Storage::F16 => PackedWeights::F16(to_f16(weights)?),
        Storage::Bf16 => PackedWeights::Bf16(to_bf16(weights)?),
        Storage::Grid(GridFormat::Fp8(scale)) => PackedWeights::Fp8(quantize_fp8(weights, row_len, scale)?),
        Storage::Grid(GridFormat::Int(format)) => PackedWeights::Int(round_to_nearest(weights, row_len, format)?),
        Storage::Grid(GridFormat::Ggml(format)) => quantize_ggml(weights, row_len, format)?,
    })
}

fn to_f16(weights: &[f32]) -> Result<Vec<f16>, CompressError> {
    let packed: Vec<f16> = weights.iter().map(|weight| f16::from_f32(*weight)).collect();
    check_range(weights, packed.iter().all(|weight| weight.is_finite()), "f16")?;
    Ok(packed)
}

fn to_bf16(weights: &[f32]) -> Result<Vec<bf16>, CompressError> {
    let packed: Vec<bf16> = weights.iter().map(|weight| bf16::from_f32(*weight)).collect();
    check_range(weights, packed.iter().all(|weight| weight.is_finite()), "bf16")?;
    Ok(packed)
}

fn check_range(weights: &[f32], fits: bool, format: &'static str) -> Result<(), CompressError> {
    if fits {
        return Ok(());
    }
    Err(CompressError::Range { format, largest: largest_magnitude(weights) })
}

#[cfg(test)]
#[path = "job_tests.rs"]
mod tests;
