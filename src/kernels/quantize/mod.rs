//! Rounding rows to the block formats of GGML, and reading them back.
//!
//! The types of 32 weights are rounded as GGML's reference does, bit for bit. For those of 256 only the layout is given;
//! here the scales minimise the squared error of the block. Every sum has a fixed order and nothing is fused, so bytes
//! are the same on every processor and for any number of threads.

mod layout;
mod restore;
mod runs;
mod search;
mod small;
mod superblock;

use super::block_type::BlockType;
use super::isa::Isa;
use super::pool::{Parts, Share, share_out_if};
use super::vector::compiled_for;

/// Weights from which a hand-over to other threads pays: some 15 microseconds of the fastest type.
const MANY: usize = 1 << 14;
/// Blocks of a share come in such numbers, so that no two threads write one cache line and superblocks are in pairs.
const GRAIN: usize = 32;

/// Rounds `weights` to blocks of `kind`.
///
/// - `weights`: (rows, `row_len`), row-major
/// - `bytes`: (rows, `row_len` / block length · block bytes)
///
/// A block depends on its own weights alone. Where a scale leaves f16 or a weight is not finite, the values that the
/// block stands for are not finite or not near the weights; nothing panics.
///
/// # Panics
/// If a row is not made of whole blocks, or `bytes` does not hold exactly the blocks.
pub fn quantize(kind: BlockType, weights: &[f32], row_len: usize, bytes: &mut [u8]) {
    assert!(row_len > 0 && row_len.is_multiple_of(kind.block_len()), "rows of whole blocks");
    assert!(weights.len().is_multiple_of(row_len), "whole rows");
    quantize_on(Isa::current(), kind, weights, bytes);
}

/// [`quantize`] of rows that follow one another, on this thread alone: for who shares out rows itself.
///
/// # Panics
/// If `bytes` does not hold exactly the blocks.
pub fn quantize_here(kind: BlockType, weights: &[f32], bytes: &mut [u8]) {
    n_blocks(kind, weights.len(), bytes.len());
    quantize_share(Isa::current(), kind, weights, bytes);
}

/// The values of whole blocks of `kind`, exactly those of GGML.
///
/// # Panics
/// If `bytes` is not whole blocks, or `values` is not as long as they are.
pub fn dequantize(kind: BlockType, bytes: &[u8], values: &mut [f32]) {
    dequantize_on(Isa::current(), kind, bytes, values);
}

/// [`dequantize`] on this thread alone.
///
/// # Panics
/// As [`dequantize`].
pub fn dequantize_here(kind: BlockType, bytes: &[u8], values: &mut [f32]) {
    n_blocks(kind, values.len(), bytes.len());
    dequantize_share(Isa::current(), kind, bytes, values);
}

fn quantize_on(isa: Isa, kind: BlockType, weights: &[f32], bytes: &mut [u8]) {
    let (len, size) = (kind.block_len(), kind.block_bytes());
    let blocks = n_blocks(kind, weights.len(), bytes.len());
    let is_large = weights.len() >= MANY;
    let parts = Parts::new(bytes);
    share_out_if(is_large, |share: Share| {
        let range = share.of(blocks, GRAIN);
        // SAFETY: shares do not overlap.
        let bytes = unsafe { parts.range(range.start * size..range.end * size) };
        quantize_share(isa, kind, &weights[range.start * len..range.end * len], bytes);
    });
}

fn dequantize_on(isa: Isa, kind: BlockType, bytes: &[u8], values: &mut [f32]) {
    let (len, size) = (kind.block_len(), kind.block_bytes());
    let blocks = n_blocks(kind, values.len(), bytes.len());
    let is_large = values.len() >= MANY;
    let parts = Parts::new(values);
    share_out_if(is_large, |share: Share| {
        let range = share.of(blocks, GRAIN);
        // SAFETY: shares do not overlap.
        let values = unsafe { parts.range(range.start * len..range.end * len) };
        dequantize_share(isa, kind, &bytes[range.start * size..range.end * size], values);
    });
}

/// The number of blocks that `values` values and `bytes` bytes are.
fn n_blocks(kind: BlockType, values: usize, bytes: usize) -> usize {
    let blocks = values / kind.block_len();
    assert!(
        blocks * kind.block_len() == values && blocks * kind.block_bytes() == bytes,
        "as many bytes as blocks have"
    );
    blocks
}

fn quantize_share(isa: Isa, kind: BlockType, weights: &[f32], bytes: &mut [u8]) {
    compiled_for(
        isa,
        #[inline(always)]
        || quantize_blocks(kind, weights, bytes),
    );
}

fn dequantize_share(isa: Isa, kind: BlockType, bytes: &[u8], values: &mut [f32]) {
    compiled_for(
        isa,
        #[inline(always)]
        || restore::dequantize_blocks(kind, bytes, values),
    );
}

#[inline(always)]
fn quantize_blocks(kind: BlockType, weights: &[f32], bytes: &mut [u8]) {
    match kind {
        BlockType::Q4_0 => small::quantize_q4_0(weights, bytes),
        BlockType::Q4_1 => small::quantize_q4_1(weights, bytes),
        BlockType::Q5_0 => small::quantize_q5_0(weights, bytes),
        BlockType::Q5_1 => small::quantize_q5_1(weights, bytes),
        BlockType::Q8_0 => small::quantize_q8_0(weights, bytes),
        BlockType::Q2k => superblock::quantize_q2k(weights, bytes),
        BlockType::Q3k => superblock::quantize_q3k(weights, bytes),
        BlockType::Q4k => superblock::quantize_q4k(weights, bytes),
        BlockType::Q5k => superblock::quantize_q5k(weights, bytes),
        BlockType::Q6k => superblock::quantize_q6k(weights, bytes),
    }
}

#[cfg(test)]
pub(super) mod tests;
