//! What a layer's weights are, known before any are made.

use crate::compress::{IntMatrix, LowRankMatrix, PackedWeights, ZeroPoints};
use crate::model::{Layer, SparseValues, StoredFormat, StoredSparse};
use crate::recipe::{Fp8Scale, Group, IntFormat, LayerSettings, Rounding, WeightFormat};

/// The form of a layer's weights, as far as layouts care.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A dense format or GGML blocks.
    Stored(StoredFormat),
    /// A uniform grid with integer zero points.
    Int(IntFormat),
    /// A uniform grid with zero points between codes.
    IntFloatZeros(IntFormat),
    /// FP8 with scales.
    Fp8(Fp8Scale),
    /// Weights whose zeros are left out. The number of values is 0 while it is not known.
    Sparse(StoredSparse),
    /// Two thin factors; `factor` is the dense format that holds both exactly. The rank is 0 while it is not known.
    LowRank { rank: usize, factor: StoredFormat },
    /// Quantized weights and a low-rank term.
    Corrected,
}

impl Kind {
    /// What `settings` will make of a layer of a checkpoint.
    pub(super) fn planned(settings: &LayerSettings, layer: &Layer) -> Self {
        let stored = match settings.weights {
            WeightFormat::F32 => StoredFormat::F32,
            WeightFormat::F16 => StoredFormat::F16,
            WeightFormat::Bf16 => StoredFormat::Bf16,
            other => other.ggml().map_or(layer.stored, StoredFormat::Ggml),
        };
        let dense = if matches!(stored, StoredFormat::Ggml(_)) { StoredFormat::F32 } else { stored };
        if let Some(values) = settings.bitmask_values(layer.stored) {
            return Self::Sparse(StoredSparse { values, n_values: 0 });
        }
        match (settings.weights, settings.rounding) {
            _ if settings.low_rank.is_some() => Self::LowRank { rank: 0, factor: dense },
            _ if settings.correction.is_some() => Self::Corrected,
            (WeightFormat::Int(format), Rounding::Hqq(_)) => Self::IntFloatZeros(format),
            (WeightFormat::Int(format), _) => Self::Int(format),
            (WeightFormat::Fp8(scale), _) => Self::Fp8(scale),
            _ => match (layer.rank, layer.sparse) {
                (Some(rank), _) if settings.is_reference() => Self::LowRank { rank, factor: layer.stored },
                (_, Some(sparse)) if settings.is_reference() => Self::Sparse(sparse),
                _ => Self::Stored(stored),
            },
        }
    }

    /// What `weights` are.
    pub(super) fn of(weights: &PackedWeights) -> Self {
        match weights {
            PackedWeights::F32(_) => Self::Stored(StoredFormat::F32),
            PackedWeights::F16(_) => Self::Stored(StoredFormat::F16),
            PackedWeights::Bf16(_) => Self::Stored(StoredFormat::Bf16),
            PackedWeights::Ggml { format, .. } => Self::Stored(StoredFormat::Ggml(*format)),
            PackedWeights::Fp8(matrix) => Self::Fp8(matrix.scale()),
            PackedWeights::Int(matrix) => Self::of_int(matrix),
            PackedWeights::Sparse(matrix) => {
                Self::Sparse(StoredSparse { values: matrix.kind(), n_values: matrix.n_values() as u64 })
            }
            PackedWeights::LowRank(factors) => Self::of_factors(factors),
            PackedWeights::Corrected { .. } => Self::Corrected,
        }
    }

    fn of_int(matrix: &IntMatrix) -> Self {
        match matrix.zeros() {
            ZeroPoints::Codes(_) => Self::Int(matrix.format()),
            ZeroPoints::Floats(_) => Self::IntFloatZeros(matrix.format()),
        }
    }

    fn of_factors(factors: &LowRankMatrix) -> Self {
        let factor = match (Self::of(&factors.up), Self::of(&factors.down)) {
            (Self::Stored(up), Self::Stored(down)) if up == down && !matches!(up, StoredFormat::Ggml(_)) => up,
            _ => StoredFormat::F32,
        };
        Self::LowRank { rank: factors.shape[1], factor }
    }

    /// The form in a layout that has zeros like other weights.
    pub(super) fn with_zeros(self) -> Self {
        match self {
            Self::Sparse(StoredSparse { values: SparseValues::F16, .. }) => Self::Stored(StoredFormat::F16),
            Self::Sparse(StoredSparse { values: SparseValues::Int8, .. }) => {
                Self::Int(IntFormat { bits: 8, group: Group::Row, symmetric: true })
            }
            other => other,
        }
    }

    /// The dense format that holds the values exactly.
    pub(super) fn dense(self) -> StoredFormat {
        match self {
            Self::Sparse(sparse) => sparse.values.dense(),
            Self::Stored(format) | Self::LowRank { factor: format, .. } if !self.is_packed() => format,
            _ => StoredFormat::F32,
        }
    }

    /// Whether the values are those of a packed format, which takes less room than [`Self::dense`] and which safetensors
    /// has no words for.
    pub(super) fn is_packed(self) -> bool {
        match self {
            Self::Stored(format) => matches!(format, StoredFormat::Ggml(_)),
            Self::Int(_) | Self::IntFloatZeros(_) | Self::Fp8(_) | Self::Corrected => true,
            Self::LowRank { .. } | Self::Sparse(_) => false,
        }
    }
}
