//! How packed weights lie in a card's memory: the bytes of the format, in an order that threads read side by side.
//!
//! Rows begin at multiples of 16 bytes. In rows of GGML blocks each field of all blocks lies together.

use std::borrow::Cow;

use crate::compress::{ActivationGrid, Fp8Matrix, IntMatrix, PackedWeights, ZeroPoints, block_type};
use crate::kernels::BlockType;
use crate::model::StoredFormat;
use crate::recipe::{Execution, Fp8Scale, IntFormat};

/// A matrix as a card has it, but for its codes.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Layout {
    /// The format in names of kernels.
    pub(super) format: &'static str,
    /// Whether the product itself takes 8-bit activations.
    pub(super) takes_tokens: bool,
    /// Whether zeros that the packed form leaves out are there again.
    pub(super) is_expanded: bool,
    pub(super) rows: Rows,
    pub(super) scales: Vec<f32>,
    pub(super) zeros: Vec<f32>,
    /// Inputs of a group; for 8-bit floats 0 for a scale a matrix, 1 for one a row, else the side of a square.
    pub(super) group: usize,
}

/// How rows of packed codes become those of a card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rows {
    /// Their number.
    pub(super) n: usize,
    /// Bytes of a packed row.
    pub(super) packed: usize,
    /// Bytes from row to row on the card.
    pub(super) stride: usize,
    order: Order,
}

/// What becomes of the bytes of a packed row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    /// They stay in their order.
    Same,
    /// Each field of all blocks together.
    Fields(BlockType),
    /// Codes of 8 bits around 128 become signed ones.
    Signed,
    /// 32 codes of 4 bits, a byte each, share 16 bytes.
    Nibbles,
}

/// Packed codes on their way to a card.
#[derive(Debug)]
pub(super) enum Codes<'a> {
    Bytes(Cow<'a, [u8]>),
    Floats(Vec<f32>),
}

impl Codes<'_> {
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Floats(weights) => bytemuck::cast_slice(weights),
        }
    }
}

impl Layout {
    /// Weights (rows, inputs) and their packed codes. Formats without a kernel, and all where `execution` is not packed,
    /// are widened to f32.
    pub(super) fn new(
        packed: &PackedWeights,
        shape: [usize; 2],
        execution: Execution,
        activations: ActivationGrid,
    ) -> (Self, Codes<'_>) {
        let lent = |layout, codes| (layout, Codes::Bytes(Cow::Borrowed(codes)));
        let plain = |format, codes| lent(Self::plain(format, shape), codes);
        let widened = |weights| (Self::plain(StoredFormat::F32, shape), Codes::Floats(weights));
        match packed {
            PackedWeights::F32(weights) => plain(StoredFormat::F32, bytemuck::cast_slice(weights)),
            other if execution != Execution::Packed => widened(other.dequantize()),
            PackedWeights::F16(weights) => plain(StoredFormat::F16, bytemuck::cast_slice(weights)),
            PackedWeights::Bf16(weights) => plain(StoredFormat::Bf16, bytemuck::cast_slice(weights)),
            PackedWeights::Ggml { format, bytes } => plain(StoredFormat::Ggml(*format), bytes),
            PackedWeights::Fp8(matrix) => lent(fp8(matrix, shape), matrix.codes()),
            PackedWeights::Int(matrix) if IntFormat::PACKED_BITS.contains(&matrix.format().bits) => {
                lent(int(matrix, shape, activations), matrix.codes())
            }
            PackedWeights::Sparse(matrix) => {
                let owned = |layout, codes: &[u8]| (layout, Codes::Bytes(Cow::Owned(codes.to_vec())));
                let (dense, codes) = match (matrix.to_int(), matrix.halves()) {
                    (Some(codes), _) => owned(int(&codes, shape, activations), codes.codes()),
                    (None, Some(halves)) => owned(Self::plain(StoredFormat::F16, shape), bytemuck::cast_slice(&halves)),
                    (None, None) => widened(matrix.dequantize()),
                };
                (Self { is_expanded: true, ..dense }, codes)
            }
            other => widened(other.dequantize()),
        }
    }

    /// Weights (rows, inputs) as a checkpoint stores them.
    pub(super) fn plain(format: StoredFormat, [n, inputs]: [usize; 2]) -> Self {
        let (name, order) = match format {
            StoredFormat::F32 => ("f32", Order::Same),
            StoredFormat::F16 => ("f16", Order::Same),
            StoredFormat::Bf16 => ("bf16", Order::Same),
            StoredFormat::Ggml(format) => (block_type(format).name(), Order::Fields(block_type(format))),
        };
        Self::of(name, Rows::new(n, inputs / format.block_len() * format.block_bytes(), order))
    }

    fn of(format: &'static str, rows: Rows) -> Self {
        let (scales, zeros) = (Vec::new(), Vec::new());
        Self { format, takes_tokens: false, is_expanded: false, rows, scales, zeros, group: 1 }
    }
}

impl Rows {
    fn new(n: usize, packed: usize, order: Order) -> Self {
        let stride = match order {
            Order::Same | Order::Signed => packed.next_multiple_of(16),
            Order::Nibbles => packed.div_ceil(32) * 16,
            Order::Fields(kind) => {
                let n_blocks = packed / kind.block_bytes();
                fields(kind).iter().map(|(_, len)| (len * n_blocks).next_multiple_of(16)).sum()
            }
        };
        Self { n, packed, stride, order }
    }

    /// Whether a card has the very bytes.
    pub(super) fn are_same(&self) -> bool {
        self.order == Order::Same && self.packed == self.stride
    }

    /// Bytes of all on the card.
    pub(super) fn bytes(&self) -> usize {
        self.n * self.stride
    }

    /// Lays packed rows out in `laid`, which has room for as many.
    pub(super) fn lay(&self, packed: &[u8], laid: &mut [u8]) {
        if self.are_same() {
            laid.copy_from_slice(packed);
            return;
        }
        for (packed, laid) in packed.chunks_exact(self.packed.max(1)).zip(laid.chunks_exact_mut(self.stride.max(1))) {
            match self.order {
                Order::Same => pad(packed, laid),
                Order::Fields(kind) => lay_fields(kind, packed, laid),
                // Codes around zero, as the card multiplies them.
                Order::Signed => {
                    laid.iter_mut().zip(packed).for_each(|(laid, code)| *laid = code.wrapping_sub(128));
                    laid[packed.len()..].fill(0);
                }
                Order::Nibbles => {
                    laid.chunks_exact_mut(16).zip(packed.chunks(32)).for_each(|(laid, codes)| lay_nibbles(codes, laid));
                }
            }
        }
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

/// Copies bytes and fills what is behind them.
fn pad(bytes: &[u8], laid: &mut [u8]) {
    let (own, rest) = laid.split_at_mut(bytes.len());
    own.copy_from_slice(bytes);
    rest.fill(0);
}

fn lay_fields(kind: BlockType, packed: &[u8], mut laid: &mut [u8]) {
    let n_blocks = packed.len() / kind.block_bytes();
    for &(first, len) in fields(kind) {
        let (field, rest) = laid.split_at_mut((len * n_blocks).next_multiple_of(16));
        laid = rest;
        let (own, padding) = field.split_at_mut(len * n_blocks);
        padding.fill(0);
        // A copy of a length that the compiler knows is a few instructions.
        let gather = match len {
            2 => gather::<2>,
            4 => gather::<4>,
            12 => gather::<12>,
            16 => gather::<16>,
            32 => gather::<32>,
            64 => gather::<64>,
            128 => gather::<128>,
            _ => unreachable!("a field of {len} bytes"),
        };
        gather(&packed[first..], kind.block_bytes(), own);
    }
}

/// The first bytes of each block, side by side.
fn gather<const LEN: usize>(blocks: &[u8], block_bytes: usize, field: &mut [u8]) {
    for (own, block) in field.as_chunks_mut::<LEN>().0.iter_mut().zip(blocks.chunks(block_bytes)) {
        own.copy_from_slice(&block[..LEN]);
    }
}

fn fp8(matrix: &Fp8Matrix, [n, inputs]: [usize; 2]) -> Layout {
    let group = match matrix.scale() {
        Fp8Scale::Tensor => 0,
        Fp8Scale::Row => 1,
        Fp8Scale::Block => Fp8Scale::BLOCK,
    };
    Layout { scales: matrix.scales().to_vec(), group, ..Layout::of("fp8", Rows::new(n, inputs, Order::Same)) }
}

fn int(matrix: &IntMatrix, [n, inputs]: [usize; 2], activations: ActivationGrid) -> Layout {
    let format = matrix.format();
    let group = format.group.len(inputs);
    let scales = matrix.scales().iter().map(|scale| scale.to_f32()).collect();
    if activations != ActivationGrid::Float && format.bits == 8 && format.symmetric && group == inputs {
        let layout = Layout::of("tokens", Rows::new(n, inputs, Order::Signed));
        return Layout { takes_tokens: true, scales, group, ..layout };
    }
    let zeros = match matrix.zeros() {
        ZeroPoints::Codes(zeros) => zeros.iter().map(|zero| f32::from(*zero)).collect(),
        ZeroPoints::Floats(zeros) => zeros.iter().map(|zero| zero.to_f32()).collect(),
    };
    let (name, order) = if format.bits == 8 { ("int8", Order::Same) } else { ("int4", Order::Nibbles) };
    Layout { scales, zeros, group, ..Layout::of(name, Rows::new(n, inputs, order)) }
}

/// Up to 32 codes of 4 bits: the first 16 in the low halves.
fn lay_nibbles(codes: &[u8], laid: &mut [u8]) {
    let code = |at: usize| codes.get(at).copied().unwrap_or(0);
    laid.iter_mut().enumerate().for_each(|(at, laid)| *laid = code(at) | code(at + 16) << 4);
}
