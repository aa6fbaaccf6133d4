//! From a dense matrix to a smaller one: pruning, rounding, packing.
//!
//! May import `kernels`, `recipe`, `model` and `units`; candle is used for its GGML block formats only. No I/O.
//!
//! **Invariants.** What [`compress`] returns is what a file would hold: exporters write these bytes, products run on them
//! or on their [`PackedWeights::dequantize`]d values. Every result is finite; a non-finite weight is an error.

mod ggml;
mod magnitude;
mod packed;
mod round_to_nearest;

pub(crate) use ggml::candle_type;
pub use ggml::{dequantize_ggml, quantize_ggml};
pub use magnitude::magnitude_prune;
pub use packed::{IntMatrix, PackedWeights};
pub use round_to_nearest::round_to_nearest;

use half::{bf16, f16};

use crate::model::StoredFormat;
use crate::recipe::{LayerSettings, SparsityMethod, WeightFormat};

/// A matrix that cannot be compressed as asked.
#[derive(Debug, thiserror::Error)]
pub enum CompressError {
    /// A weight is infinite or not a number.
    #[error("compress: weight {index} of {len} is not finite")]
    NonFinite {
        /// Position in the row-major matrix.
        index: usize,
        /// Weights in the matrix.
        len: usize,
    },
    /// A row is not made of whole blocks or groups.
    #[error("compress to {format}: rows of {row_len} are not a multiple of {block_len}")]
    RowLength {
        /// The format's name.
        format: String,
        /// Elements of a row.
        row_len: usize,
        /// Elements of a block or group.
        block_len: usize,
    },
    /// The number of elements is not that of the shape.
    #[error("compress: {len} weights for a shape of {rows} × {row_len}")]
    Shape {
        /// Elements given.
        len: usize,
        /// Rows of the shape.
        rows: usize,
        /// Elements of a row.
        row_len: usize,
    },
    /// A magnitude that the format cannot hold.
    #[error("compress to {format}: weights up to {largest} do not fit")]
    Range {
        /// The format's name.
        format: &'static str,
        /// The largest magnitude.
        largest: f32,
    },
    /// candle refused.
    #[error("compress with candle: {0}")]
    Candle(#[from] candle_core::Error),
}

/// Prunes and packs one layer.
///
/// - `dense`: (`out_features`, `in_features`), row-major, as the checkpoint holds it widened to f32
/// - `native`: the checkpoint's own format, used by [`WeightFormat::Native`]; a GGML one is quantized anew
///
/// # Errors
/// [`CompressError`] when a weight is not finite or the shape does not fit the format.
pub fn compress(
    dense: &[f32],
    shape: [usize; 2],
    settings: &LayerSettings,
    native: StoredFormat,
) -> Result<PackedWeights, CompressError> {
    let [rows, row_len] = shape;
    if Some(dense.len()) != rows.checked_mul(row_len) {
        return Err(CompressError::Shape { len: dense.len(), rows, row_len });
    }
    if let Some(index) = dense.iter().position(|weight| !weight.is_finite()) {
        return Err(CompressError::NonFinite { index, len: dense.len() });
    }
    let pruned;
    let weights = match settings.sparsity {
        None => dense,
        Some(sparsity) => {
            pruned = match sparsity.method {
                SparsityMethod::Magnitude => magnitude_prune(dense, row_len, sparsity.fraction, sparsity.scope),
            };
            &pruned
        }
    };
    pack(weights, row_len, settings.weights, native)
}

fn pack(
    weights: &[f32],
    row_len: usize,
    format: WeightFormat,
    native: StoredFormat,
) -> Result<PackedWeights, CompressError> {
    Ok(match format {
        WeightFormat::Native => match native {
            StoredFormat::F32 => PackedWeights::F32(weights.to_vec()),
            StoredFormat::F16 => PackedWeights::F16(to_f16(weights)?),
            StoredFormat::Bf16 => PackedWeights::Bf16(to_bf16(weights)?),
            StoredFormat::Ggml(format) => quantize_ggml(weights, row_len, format)?,
        },
        WeightFormat::F32 => PackedWeights::F32(weights.to_vec()),
        WeightFormat::F16 => PackedWeights::F16(to_f16(weights)?),
        WeightFormat::Bf16 => PackedWeights::Bf16(to_bf16(weights)?),
        WeightFormat::Int(int) => PackedWeights::Int(round_to_nearest(weights, row_len, int)?),
        named => {
            let format = named.ggml().expect("every other format is a GGML type");
            quantize_ggml(weights, row_len, format)?
        }
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
    let largest = weights.iter().fold(0.0_f32, |largest, weight| largest.max(weight.abs()));
    Err(CompressError::Range { format, largest })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::Sparsity;

    #[test]
    fn non_finite_weights_are_refused_with_their_place() {
        let error = compress(&[1.0, f32::NAN], [1, 2], &LayerSettings::default(), StoredFormat::F32).unwrap_err();
        assert!(error.to_string().contains("weight 1 of 2"), "{error}");
    }

    #[test]
    fn half_precision_refuses_what_does_not_fit() {
        let settings = LayerSettings { weights: WeightFormat::F16, sparsity: None };
        let error = compress(&[1e6, 0.0], [1, 2], &settings, StoredFormat::F32).unwrap_err();
        assert!(error.to_string().contains("1000000"), "{error}");
    }

    #[test]
    fn pruned_zeros_survive_every_format_that_may_be_pruned() {
        let dense: Vec<f32> = (0..512).map(|i| ((i * 37 % 101) as f32 - 50.0) / 64.0).collect();
        for weights in WeightFormat::NAMED {
            if !weights.has_exact_zero() {
                continue;
            }
            let settings = LayerSettings { weights, sparsity: Some(Sparsity::magnitude(0.5)) };
            let packed = compress(&dense, [2, 256], &settings, StoredFormat::F16).unwrap();
            let zeros = packed.dequantize().iter().filter(|weight| **weight == 0.0).count();
            assert!(zeros >= 256, "{}: {zeros}", weights.label());
        }
    }
}
