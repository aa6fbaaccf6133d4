//! Weights as a file holds them.

use std::sync::Arc;

use half::{bf16, f16};
use serde::{Deserialize, Serialize};

use crate::compress::{SparseMatrix, dequantize_ggml};
use crate::model::GgmlType;
use crate::recipe::{Fp8Scale, IntFormat};

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
    /// 8-bit floats with scales.
    Fp8(Fp8Matrix),
    /// A uniform integer grid.
    Int(IntMatrix),
    /// The weights that are not zero, and a bit for each weight.
    Sparse(SparseMatrix),
    /// Two thin factors: `up` · `down`.
    LowRank(LowRankMatrix),
    /// Quantized weights plus a low-rank term.
    Corrected {
        /// The quantized weights.
        base: Box<Self>,
        /// The term.
        term: LowRankMatrix,
    },
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
            Self::Fp8(matrix) => matrix.dequantize(),
            Self::Int(matrix) => matrix.dequantize(),
            Self::Sparse(matrix) => matrix.dequantize(),
            Self::LowRank(factors) => factors.product(),
            Self::Corrected { base, term } => {
                let mut weights = base.dequantize();
                weights.iter_mut().zip(term.product()).for_each(|(weight, term)| *weight += term);
                weights
            }
        }
    }

    /// Bytes in a file, scales and zero points included; integer codes are counted as packed, shared factors in full.
    pub fn packed_bytes(&self) -> u64 {
        match self {
            Self::F32(weights) => weights.len() as u64 * 4,
            Self::F16(weights) => weights.len() as u64 * 2,
            Self::Bf16(weights) => weights.len() as u64 * 2,
            Self::Ggml { bytes, .. } => bytes.len() as u64,
            Self::Fp8(matrix) => matrix.codes.len() as u64 + matrix.scales.len() as u64 * 4,
            Self::Int(matrix) => matrix.packed_bits().div_ceil(8),
            Self::Sparse(matrix) => matrix.packed_bytes(),
            Self::LowRank(factors) => factors.packed_bytes(),
            Self::Corrected { base, term } => base.packed_bytes() + term.packed_bytes(),
        }
    }
}

/// The thin factors of a matrix: `up` (`out_features`, rank) times `down` (rank, `in_features`).
#[derive(Debug, Clone, PartialEq)]
pub struct LowRankMatrix {
    /// (`out_features`, rank).
    pub up: Box<PackedWeights>,
    /// (rank, `in_features`); layers that share a basis share it.
    pub down: Arc<PackedWeights>,
    /// `out_features`, rank, `in_features`.
    pub shape: [usize; 3],
}

impl LowRankMatrix {
    /// The matrix (`out_features`, `in_features`) that the factors stand for, summed in f64.
    pub fn product(&self) -> Vec<f32> {
        let [rows, rank, row_len] = self.shape;
        let (up, down) = (self.up.dequantize(), self.down.dequantize());
        let mut weights = Vec::with_capacity(rows * row_len);
        let mut row = vec![0.0_f64; row_len];
        for coefficients in up.chunks(rank.max(1)).take(rows) {
            row.fill(0.0);
            for (coefficient, basis) in coefficients.iter().zip(down.chunks(row_len.max(1))) {
                let coefficient = f64::from(*coefficient);
                row.iter_mut().zip(basis).for_each(|(sum, value)| *sum += coefficient * f64::from(*value));
            }
            weights.extend(row.iter().map(|sum| *sum as f32));
        }
        weights
    }

    /// Bytes of both factors.
    pub fn packed_bytes(&self) -> u64 {
        self.up.packed_bytes() + self.down.packed_bytes()
    }
}

/// 8-bit floats (E4M3, finite): weight = scale · code.
#[derive(Debug, Clone, PartialEq)]
pub struct Fp8Matrix {
    /// The weights that share a scale.
    pub(super) scale: Fp8Scale,
    pub(super) row_len: usize,
    /// One byte a weight, row by row.
    pub(super) codes: Vec<u8>,
    /// Positive and finite; blocks row by row.
    pub(super) scales: Vec<f32>,
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
    pub(super) zeros: ZeroPoints,
}

/// The zero point of each group.
#[derive(Debug, Clone, PartialEq)]
pub enum ZeroPoints {
    /// Codes; all equal to 2^(bits − 1) in a symmetric grid, which does not store them.
    Codes(Vec<u8>),
    /// Between codes, as HQQ finds them.
    Floats(Vec<f16>),
}

impl IntMatrix {
    /// The grid.
    pub fn format(&self) -> IntFormat {
        self.format
    }

    /// `in_features`.
    pub fn row_len(&self) -> usize {
        self.row_len
    }

    /// The codes, row by row, each below 2^bits.
    pub fn codes(&self) -> &[u8] {
        &self.codes
    }

    /// The scale of each group, row by row.
    pub fn scales(&self) -> &[f16] {
        &self.scales
    }

    /// The zero point of each group, row by row.
    pub fn zeros(&self) -> &ZeroPoints {
        &self.zeros
    }

    fn dequantize(&self) -> Vec<f32> {
        let group = self.format.group.len(self.row_len);
        let mut weights = Vec::with_capacity(self.codes.len());
        for (index, (codes, scale)) in self.codes.chunks(group).zip(&self.scales).enumerate() {
            let scale = scale.to_f32();
            match &self.zeros {
                ZeroPoints::Codes(zeros) => {
                    let zero = i32::from(zeros[index]);
                    weights.extend(codes.iter().map(|code| scale * (i32::from(*code) - zero) as f32));
                }
                ZeroPoints::Floats(zeros) => {
                    let zero = zeros[index].to_f32();
                    weights.extend(codes.iter().map(|code| scale * (f32::from(*code) - zero)));
                }
            }
        }
        weights
    }

    fn packed_bits(&self) -> u64 {
        let bits = u64::from(self.format.bits);
        let zero_point = match self.zeros {
            ZeroPoints::Codes(_) if self.format.symmetric => 0,
            ZeroPoints::Codes(_) => bits,
            ZeroPoints::Floats(_) => 16,
        };
        self.codes.len() as u64 * bits + self.scales.len() as u64 * (16 + zero_point)
    }
}

/// How a layer's product takes its inputs.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActivationGrid {
    /// As they come.
    #[default]
    Float,
    /// 8 bits, symmetric: codes −128 to 127; a scale for each token, its largest magnitude over 127.5.
    Int8PerToken,
    /// 8 bits, symmetric, one scale for every token; larger magnitudes saturate.
    Int8Static {
        /// Value of one step, positive and finite.
        scale: f32,
    },
}
