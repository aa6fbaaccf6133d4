//! The weights of one layer of an export: made, or read from where they lie.

use half::{bf16, f16};

use crate::checkpoint::{Checkpoint, widen};
use crate::compress::{
    self, CompressError, LowRankMatrix, PackedWeights, SparseMatrix, StoredValues, compress, dequantize_ggml,
};
use crate::export::ExportError;
use crate::export::tensors::SparsePart;
use crate::model::{Layer, StoredFormat};
use crate::recipe::{LayerSettings, WeightFormat};

/// The weights of one layer, rows in the model's order.
#[derive(Debug)]
pub(super) enum Made {
    /// The file's own bytes.
    Stored(StoredFormat, Vec<u8>),
    /// What the compressor made.
    Packed(PackedWeights),
}

impl Made {
    /// The values that the weights stand for.
    pub(super) fn values(&self, name: &str) -> Result<Vec<f32>, ExportError> {
        match self {
            Self::Stored(format, bytes) => values(name, *format, bytes),
            Self::Packed(packed) => Ok(packed.dequantize()),
        }
    }

    /// Little-endian bytes in `format`: the weights' own where nothing changes, otherwise their values.
    pub(super) fn into_bytes(self, name: &str, format: StoredFormat) -> Result<Vec<u8>, ExportError> {
        match self {
            Self::Stored(stored, bytes) if stored == format => Ok(bytes),
            Self::Stored(..) => dense_bytes(name, &self.values(name)?, format),
            Self::Packed(PackedWeights::Ggml { format: made, bytes }) if format == StoredFormat::Ggml(made) => {
                Ok(bytes)
            }
            Self::Packed(packed) => Self::packed_bytes(&packed, name, format),
        }
    }

    /// As [`Self::into_bytes`], of one factor.
    pub(super) fn packed_bytes(
        packed: &PackedWeights,
        name: &str,
        format: StoredFormat,
    ) -> Result<Vec<u8>, ExportError> {
        match packed {
            PackedWeights::F16(values) if format == StoredFormat::F16 => Ok(f16_bytes(values)),
            PackedWeights::Bf16(values) if format == StoredFormat::Bf16 => Ok(bf16_bytes(values)),
            PackedWeights::F32(values) => dense_bytes(name, values, format),
            other => dense_bytes(name, &other.dequantize(), format),
        }
    }

    /// A part of weights whose zeros are left out, rows in this order (empty: as they are); `None` of other weights.
    pub(super) fn sparse_bytes(&self, part: SparsePart, order: &[usize]) -> Option<Vec<u8>> {
        let Self::Packed(PackedWeights::Sparse(matrix)) = self else { return None };
        let turned = (!order.is_empty()).then(|| matrix.with_rows(order));
        let matrix = turned.as_ref().unwrap_or(matrix);
        match (part, matrix.values()) {
            (SparsePart::Bitmask, _) => Some(matrix.bitmask().to_vec()),
            (SparsePart::RowStarts, _) => {
                Some(matrix.row_starts().iter().flat_map(|start| start.to_le_bytes()).collect())
            }
            (SparsePart::Values, StoredValues::F16(values)) => Some(f16_bytes(values)),
            (SparsePart::Values, StoredValues::Int8 { codes, .. }) => {
                Some(codes.iter().map(|code| code.cast_unsigned()).collect())
            }
            (SparsePart::Scales, StoredValues::Int8 { scales, .. }) => Some(f16_bytes(scales)),
            (SparsePart::Scales, StoredValues::F16(_)) => None,
        }
    }

    /// The factors of low-rank weights.
    pub(super) fn factors(&self) -> Option<&LowRankMatrix> {
        match self {
            Self::Packed(PackedWeights::LowRank(factors)) => Some(factors),
            _ => None,
        }
    }
}

fn f16_bytes(values: &[f16]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn bf16_bytes(values: &[bf16]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn values(name: &str, format: StoredFormat, bytes: &[u8]) -> Result<Vec<f32>, ExportError> {
    match format {
        StoredFormat::Ggml(ggml) => {
            dequantize_ggml(ggml, bytes).map_err(|source| ExportError::Compress { layer: name.to_owned(), source })
        }
        dense => Ok(widen(dense, bytes).expect("every other format is dense")),
    }
}

/// What the layer of the checkpoint becomes by `settings`, calibration and structure aside.
pub(super) fn make(source: &Checkpoint, layer: &Layer, settings: &LayerSettings) -> Result<Made, ExportError> {
    let stored = stored(source, layer)?;
    if settings.is_reference() {
        return Ok(stored);
    }
    let dense = stored.values(layer.path.as_str())?;
    drop(stored);
    let job = compress::Job { dense: &dense, shape: layer.shape, settings, native: layer.stored, moments: None };
    let made = compress(&job).map_err(|source| ExportError::Compress { layer: layer.path.to_string(), source })?;
    Ok(Made::Packed(made.weights))
}

fn stored(source: &Checkpoint, layer: &Layer) -> Result<Made, ExportError> {
    let read = |name: &str| {
        let entry = source.entry(name).ok_or_else(|| ExportError::Unsupported(format!("{name} is gone")))?;
        Ok::<_, ExportError>(source.read(entry)?)
    };
    if let Some((parts, stored)) = source.read_sparse(layer)?.zip(layer.sparse) {
        let matrix = SparseMatrix::from_bytes(layer.shape, stored.values, &parts.values, &parts.scales, parts.bitmask);
        let failed = |source| ExportError::Compress { layer: layer.path.to_string(), source };
        return Ok(Made::Packed(PackedWeights::Sparse(matrix.map_err(failed)?)));
    }
    let tensors = layer.tensors();
    let [(up, up_shape), (down, down_shape)] = &tensors[..] else {
        return Ok(Made::Stored(layer.stored, read(&tensors[0].0)?));
    };
    let factor = |name: &str| {
        let bytes = read(name)?;
        Ok::<_, ExportError>(match layer.stored {
            StoredFormat::F16 => {
                PackedWeights::F16(bytes.as_chunks::<2>().0.iter().map(|&pair| f16::from_le_bytes(pair)).collect())
            }
            StoredFormat::Bf16 => {
                PackedWeights::Bf16(bytes.as_chunks::<2>().0.iter().map(|&pair| bf16::from_le_bytes(pair)).collect())
            }
            format => PackedWeights::F32(values(name, format, &bytes)?),
        })
    };
    let shape = [up_shape[0], up_shape[1], down_shape[1]];
    let factors = LowRankMatrix { up: Box::new(factor(up)?), down: factor(down)?.into(), shape };
    Ok(Made::Packed(PackedWeights::LowRank(factors)))
}

/// Little-endian bytes of dense values; values that the format cannot hold are an error.
pub(super) fn dense_bytes(name: &str, values: &[f32], format: StoredFormat) -> Result<Vec<u8>, ExportError> {
    let weights = match format {
        StoredFormat::F32 => return Ok(values.iter().flat_map(|value| value.to_le_bytes()).collect()),
        StoredFormat::F16 => WeightFormat::F16,
        StoredFormat::Bf16 => WeightFormat::Bf16,
        StoredFormat::Ggml(_) => return Err(ExportError::Unsupported(format!("{name} cannot be packed here"))),
    };
    let settings = LayerSettings::of(weights);
    let job =
        compress::Job { dense: values, shape: [1, values.len()], settings: &settings, native: format, moments: None };
    let packed = compress(&job).map(|made| made.weights);
    let packed = packed.map_err(|source: CompressError| ExportError::Compress { layer: name.to_owned(), source })?;
    Ok(match packed {
        PackedWeights::F16(values) => f16_bytes(&values),
        PackedWeights::Bf16(values) => bf16_bytes(&values),
        _ => return Err(ExportError::Unsupported(format!("{name} was packed in another format"))),
    })
}
