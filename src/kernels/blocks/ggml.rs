//! Blocks as GGML lays them out.

use std::ops::Range;

use super::super::block_type::BlockType;

/// Where a block keeps its steps: of weights, and of minimums.
pub(super) const fn steps(kind: BlockType) -> (usize, Option<usize>) {
    match kind {
        BlockType::Q4_0 | BlockType::Q5_0 | BlockType::Q8_0 => (0, None),
        BlockType::Q4_1 | BlockType::Q5_1 | BlockType::Q4k | BlockType::Q5k => (0, Some(2)),
        BlockType::Q2k => (80, Some(82)),
        BlockType::Q3k => (108, None),
        BlockType::Q6k => (208, None),
    }
}

/// Where a block keeps the scales of its groups.
pub(super) const fn scales(kind: BlockType) -> Range<usize> {
    match kind {
        BlockType::Q4_0 | BlockType::Q4_1 | BlockType::Q5_0 | BlockType::Q5_1 | BlockType::Q8_0 => 0..0,
        BlockType::Q2k => 0..16,
        BlockType::Q3k => 96..108,
        BlockType::Q4k | BlockType::Q5k => 4..16,
        BlockType::Q6k => 192..208,
    }
}

/// Reads the codes of a block, from 0: a weight is its code less the bias of the format.
pub(super) fn read_codes(kind: BlockType, block: &[u8], codes: &mut [u8]) {
    match kind {
        BlockType::Q8_0 => codes.iter_mut().zip(&block[2..]).for_each(|(code, byte)| *code = byte ^ 128),
        BlockType::Q4_0 => read_nibbles(&block[2..], codes),
        BlockType::Q4_1 => read_nibbles(&block[4..], codes),
        BlockType::Q5_0 => read_five_bits(&block[2..], codes),
        BlockType::Q5_1 => read_five_bits(&block[4..], codes),
        BlockType::Q2k => read_pairs(&block[16..80], codes),
        BlockType::Q3k => {
            read_pairs(&block[32..96], codes);
            add_bits(&block[..32], 2, codes);
        }
        BlockType::Q4k => read_runs(&block[16..], codes),
        BlockType::Q5k => {
            read_runs(&block[48..], codes);
            add_bits(&block[16..48], 4, codes);
        }
        BlockType::Q6k => {
            let (low, high) = block[..192].split_at(128);
            for ((low, high), codes) in low.chunks(64).zip(high.chunks(32)).zip(codes.chunks_mut(128)) {
                for i in 0..32 {
                    codes[i] = low[i] & 15 | (high[i] & 3) << 4;
                    codes[i + 32] = low[i + 32] & 15 | (high[i] >> 2 & 3) << 4;
                    codes[i + 64] = low[i] >> 4 | (high[i] >> 4 & 3) << 4;
                    codes[i + 96] = low[i + 32] >> 4 | (high[i] >> 6) << 4;
                }
            }
        }
    }
}

/// The first half from low nibbles, the second from high ones.
fn read_nibbles(bytes: &[u8], codes: &mut [u8]) {
    let (first, second) = codes.split_at_mut(codes.len() / 2);
    for ((first, second), byte) in first.iter_mut().zip(second).zip(bytes) {
        (*first, *second) = (byte & 15, byte >> 4);
    }
}

fn read_runs(bytes: &[u8], codes: &mut [u8]) {
    bytes.chunks(32).zip(codes.chunks_mut(64)).for_each(|(bytes, codes)| read_nibbles(bytes, codes));
}

fn read_five_bits(bytes: &[u8], codes: &mut [u8]) {
    let (high, low) = bytes.split_at(4);
    read_nibbles(low, codes);
    for (i, code) in codes.iter_mut().enumerate() {
        *code |= (high[i / 8] >> (i % 8) & 1) << 4;
    }
}

/// Two bits, four quarters of 128 codes a byte.
fn read_pairs(bytes: &[u8], codes: &mut [u8]) {
    for (bytes, codes) in bytes.chunks(32).zip(codes.chunks_mut(128)) {
        for (i, code) in codes.iter_mut().enumerate() {
            *code = bytes[i % 32] >> (2 * (i / 32)) & 3;
        }
    }
}

/// Adds bit `place`: eight runs of 32 codes a byte.
fn add_bits(bytes: &[u8], place: usize, codes: &mut [u8]) {
    for (i, code) in codes.iter_mut().enumerate() {
        *code |= (bytes[i % 32] >> (i / 32) & 1) << place;
    }
}
