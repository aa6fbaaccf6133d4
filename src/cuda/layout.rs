//! How packed weights lie in a card's memory: the bytes of the format, in an order that threads read side by side.
//!
//! Rows begin at multiples of 16 bytes. In rows of GGML blocks each field of all blocks lies together.

use crate::compress::{ActivationGrid, Fp8Matrix, IntMatrix, PackedWeights, ZeroPoints, block_type};
use crate::kernels::BlockType;
use crate::recipe::{Execution, Fp8Scale, IntFormat};

/// A matrix as it is copied to a card.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Layout {
    /// The format in names of kernels.
    pub(super) format: &'static str,
    /// Whether the product itself takes 8-bit activations.
    pub(super) takes_tokens: bool,
    /// Whether zeros that the packed form leaves out are there again.
    pub(super) is_expanded: bool,
    pub(super) codes: Vec<u8>,
    pub(super) scales: Vec<f32>,
    pub(super) zeros: Vec<f32>,
    /// Bytes from row to row.
    pub(super) stride: usize,
    /// Inputs of a group; for 8-bit floats 0 for a scale a matrix, 1 for one a row, else the side of a square.
    pub(super) group: usize,
}

impl Layout {
    /// Weights (rows, inputs). Formats without a kernel, and all where `execution` is not packed, are widened to f32.
    pub(super) fn new(
        packed: &PackedWeights,
        [rows, inputs]: [usize; 2],
        execution: Execution,
        activations: ActivationGrid,
    ) -> Self {
        let plain = |format, width: usize, bytes: &[u8]| Self::rows(format, bytes, inputs * width);
        let widened = |weights: &[f32]| plain("f32", 4, bytemuck::cast_slice(weights));
        match packed {
            PackedWeights::F32(weights) => widened(weights),
            other if execution != Execution::Packed => widened(&other.dequantize()),
            PackedWeights::F16(weights) => plain("f16", 2, bytemuck::cast_slice(weights)),
            PackedWeights::Bf16(weights) => plain("bf16", 2, bytemuck::cast_slice(weights)),
            PackedWeights::Ggml { format, bytes } => blocks(block_type(*format), bytes, rows),
            PackedWeights::Fp8(matrix) => fp8(matrix, inputs),
            PackedWeights::Int(matrix) if IntFormat::PACKED_BITS.contains(&matrix.format().bits) => {
                int(matrix, inputs, activations)
            }
            PackedWeights::Sparse(matrix) => {
                let dense = match (matrix.to_int(), matrix.halves()) {
                    (Some(codes), _) => int(&codes, inputs, activations),
                    (None, Some(halves)) => plain("f16", 2, bytemuck::cast_slice(&halves)),
                    (None, None) => widened(&matrix.dequantize()),
                };
                Self { is_expanded: true, ..dense }
            }
            other => widened(&other.dequantize()),
        }
    }

    /// Rows of so many bytes.
    fn rows(format: &'static str, bytes: &[u8], row_bytes: usize) -> Self {
        let stride = row_bytes.next_multiple_of(16);
        let mut codes = Vec::with_capacity(bytes.len() / row_bytes.max(1) * stride);
        for row in bytes.chunks(row_bytes.max(1)) {
            codes.extend_from_slice(row);
            codes.resize(codes.len().next_multiple_of(16), 0);
        }
        let (scales, zeros) = (Vec::new(), Vec::new());
        Self { format, takes_tokens: false, is_expanded: false, codes, scales, zeros, stride, group: 1 }
    }
}

/// Fields of a block of GGML in the order of a card: (first byte, bytes).
fn fields(kind: BlockType) -> &'static [(usize, usize)] {
    match kind {
        BlockType::Q4_0 => &[(2, 16), (0, 2)],
        BlockType::Q4_1 => &[(4, 16), (0, 4)],
        BlockType::Q5_0 => &[(6, 16), (2, 4), (0, 2)],
        BlockType::Q5_1 => &[(8, 16), (4, 4), (0, 4)],
        BlockType::Q8_0 => &[(2, 32), (0, 2)],
        BlockType::Q2k => &[(0, 16), (16, 64), (80, 4)],
        BlockType::Q3k => &[(0, 32), (32, 64), (96, 12), (108, 2)],
        BlockType::Q4k => &[(0, 16), (16, 128)],
        BlockType::Q5k => &[(0, 16), (16, 32), (48, 128)],
        BlockType::Q6k => &[(0, 128), (128, 64), (192, 16), (208, 2)],
    }
}

fn blocks(kind: BlockType, bytes: &[u8], rows: usize) -> Layout {
    let row_bytes = bytes.len() / rows.max(1);
    let n_blocks = row_bytes / kind.block_bytes();
    let stride: usize = fields(kind).iter().map(|(_, len)| (len * n_blocks).next_multiple_of(16)).sum();
    let mut codes = Vec::with_capacity(rows * stride);
    for row in bytes.chunks(row_bytes.max(1)) {
        for &(first, len) in fields(kind) {
            for block in row.chunks(kind.block_bytes()) {
                codes.extend_from_slice(&block[first..first + len]);
            }
            codes.resize(codes.len().next_multiple_of(16), 0);
        }
    }
    Layout { codes, stride, ..Layout::rows(kind.name(), &[], 1) }
}

fn fp8(matrix: &Fp8Matrix, inputs: usize) -> Layout {
    let group = match matrix.scale() {
        Fp8Scale::Tensor => 0,
        Fp8Scale::Row => 1,
        Fp8Scale::Block => Fp8Scale::BLOCK,
    };
    Layout { scales: matrix.scales().to_vec(), group, ..Layout::rows("fp8", matrix.codes(), inputs) }
}

fn int(matrix: &IntMatrix, inputs: usize, activations: ActivationGrid) -> Layout {
    let format = matrix.format();
    let group = format.group.len(inputs);
    let scales = matrix.scales().iter().map(|scale| scale.to_f32()).collect();
    if activations != ActivationGrid::Float && format.bits == 8 && format.symmetric && group == inputs {
        // Codes around zero, as the card multiplies them.
        let signed: Vec<u8> = matrix.codes().iter().map(|code| code.wrapping_sub(128)).collect();
        return Layout { takes_tokens: true, scales, group, ..Layout::rows("tokens", &signed, inputs) };
    }
    let zeros = match matrix.zeros() {
        ZeroPoints::Codes(zeros) => zeros.iter().map(|zero| f32::from(*zero)).collect(),
        ZeroPoints::Floats(zeros) => zeros.iter().map(|zero| zero.to_f32()).collect(),
    };
    let layout = if format.bits == 8 {
        Layout::rows("int8", matrix.codes(), inputs)
    } else {
        let halves: Vec<u8> = matrix.codes().chunks(inputs.max(1)).flat_map(nibbles).collect();
        Layout::rows("int4", &halves, inputs.next_multiple_of(32) / 2)
    };
    Layout { scales, zeros, group, ..layout }
}

/// A row of 4-bit codes: 32 share 16 bytes, the first 16 in the low halves.
fn nibbles(row: &[u8]) -> impl Iterator<Item = u8> {
    row.chunks(32).flat_map(|codes| {
        let code = move |at: usize| codes.get(at).copied().unwrap_or(0);
        (0..16).map(move |at| code(at) | code(at + 16) << 4)
    })
}
