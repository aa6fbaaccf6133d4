//! Weights as a file holds them.

use half::{bf16, f16};

use crate::compress::dequantize_ggml;
use crate::model::GgmlType;
use crate::recipe::IntFormat;

/// The weights of one layer, (`out_features`, `in_features`) row-major, as a file holds them.
#[derive(Debug, Clone, PartialEq)]
pub enum PackedWeights {
    /// Single precision.
    F32(Vec<f32>),
    /// Half precision.
    F16(Vec<f16>),
    /// bfloat16.
    Bf16(Vec<bf16>),
    /// GGML blocks.
    Ggml {
        /// The block format.
        format: GgmlType,
        /// Whole blocks, row by row.
        bytes: Vec<u8>,
    },
    /// A uniform integer grid.
    Int(IntMatrix),
}

impl PackedWeights {
    /// The values that these weights stand for, in f32.
    pub fn dequantize(&self) -> Vec<f32> {
        match self {
            Self::F32(weights) => weights.clone(),
            Self::F16(weights) => weights.iter().map(|weight| weight.to_f32()).collect(),
            Self::Bf16(weights) => weights.iter().map(|weight| weight.to_f32()).collect(),
            Self::Ggml { format, bytes } => {
                dequantize_ggml(*format, bytes).expect("blocks made by quantize_ggml are whole")
            }
            Self::Int(matrix) => matrix.dequantize(),
        }
    }

    /// Bytes in a file, scales and zero points included; integer codes are counted as packed.
    pub fn packed_bytes(&self) -> u64 {
        match self {
            Self::F32(weights) => weights.len() as u64 * 4,
            Self::F16(weights) => weights.len() as u64 * 2,
            Self::Bf16(weights) => weights.len() as u64 * 2,
            Self::Ggml { bytes, .. } => bytes.len() as u64,
            Self::Int(matrix) => matrix.packed_bits().div_ceil(8),
        }
    }
}

/// Codes on a uniform integer grid: weight = scale · (code − zero point).
#[derive(Debug, Clone, PartialEq)]
pub struct IntMatrix {
    pub(super) format: IntFormat,
    pub(super) row_len: usize,
    /// One byte a code while in memory.
    pub(super) codes: Vec<u8>,
    /// One a group, row by row; positive and finite.
    pub(super) scales: Vec<f16>,
    /// One a group; all equal to 2^(bits − 1) in a symmetric grid, which does not store them.
    pub(super) zero_points: Vec<u8>,
}

impl IntMatrix {
    /// The codes, row by row, each below 2^bits.
    pub fn codes(&self) -> &[u8] {
        &self.codes
    }

    /// The scale of each group, row by row.
    pub fn scales(&self) -> &[f16] {
        &self.scales
    }

    fn dequantize(&self) -> Vec<f32> {
        let group = self.format.group.len(self.row_len);
        let grids = self.scales.iter().zip(&self.zero_points);
        let mut weights = Vec::with_capacity(self.codes.len());
        for (codes, (scale, zero_point)) in self.codes.chunks(group).zip(grids) {
            let (scale, zero_point) = (scale.to_f32(), i32::from(*zero_point));
            weights.extend(codes.iter().map(|code| scale * (i32::from(*code) - zero_point) as f32));
        }
        weights
    }

    fn packed_bits(&self) -> u64 {
        let bits = u64::from(self.format.bits);
        let zero_point = if self.format.symmetric { 0 } else { bits };
        self.codes.len() as u64 * bits + self.scales.len() as u64 * (16 + zero_point)
    }
}
