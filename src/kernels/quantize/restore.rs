//! The values of blocks, exactly those of GGML.
#![expect(clippy::inline_always, reason = "the instructions of the caller are used only where it is inlined")]

use half::f16;

use super::super::block_type::BlockType;
use super::layout::{pairs, sixths};

const SUPER: usize = 256;

#[inline(always)]
pub(super) fn dequantize_blocks(kind: BlockType, bytes: &[u8], values: &mut [f32]) {
    match kind {
        BlockType::Q4_0 => small::<18>(bytes, values, |block, values| nibbles(block, values, 2, -8, None)),
        BlockType::Q4_1 => small::<20>(bytes, values, |block, values| nibbles(block, values, 4, 0, None)),
        BlockType::Q5_0 => small::<22>(bytes, values, |block, values| nibbles(block, values, 6, -16, Some(2))),
        BlockType::Q5_1 => small::<24>(bytes, values, |block, values| nibbles(block, values, 8, 0, Some(4))),
        BlockType::Q8_0 => small::<34>(bytes, values, |block, values| {
            let step = half_at(block, 0);
            for (value, code) in values.iter_mut().zip(&block[2..]) {
                *value = step * f32::from(code.cast_signed());
            }
        }),
        BlockType::Q2k => large::<84>(bytes, values, restore_q2k),
        BlockType::Q3k => large::<110>(bytes, values, restore_q3k),
        BlockType::Q4k => large::<144>(bytes, values, restore_q4k),
        BlockType::Q5k => large::<176>(bytes, values, restore_q5k),
        BlockType::Q6k => large::<210>(bytes, values, restore_q6k),
    }
}

#[inline(always)]
fn small<const SIZE: usize>(bytes: &[u8], values: &mut [f32], restore: impl Fn(&[u8; SIZE], &mut [f32; 32])) {
    for (block, values) in bytes.as_chunks::<SIZE>().0.iter().zip(values.as_chunks_mut::<32>().0) {
        restore(block, values);
    }
}

#[inline(always)]
fn large<const SIZE: usize>(bytes: &[u8], values: &mut [f32], restore: impl Fn(&[u8; SIZE], &mut [f32; SUPER])) {
    for (block, values) in bytes.as_chunks::<SIZE>().0.iter().zip(values.as_chunks_mut::<SUPER>().0) {
        restore(block, values);
    }
}

#[inline(always)]
fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// Four or five bits a code: nibbles from `at`, fifth bits at `fifth`; with a minimum where the lowest code is 0.
#[inline(always)]
fn nibbles<const SIZE: usize>(
    block: &[u8; SIZE],
    values: &mut [f32; 32],
    at: usize,
    lowest: i32,
    fifth: Option<usize>,
) {
    let step = half_at(block, 0);
    let mut bits = 0;
    if let Some(at) = fifth {
        bits = u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]);
    }
    let mut codes = [0_i32; 32];
    for (place, byte) in block[at..].iter().enumerate() {
        codes[place] = i32::from(byte & 15);
        codes[place + 16] = i32::from(byte >> 4);
    }
    if fifth.is_some() {
        for (place, code) in codes.iter_mut().enumerate() {
            *code |= ((bits >> place & 1) << 4).cast_signed();
        }
    }
    if lowest == 0 {
        let min = half_at(block, 2);
        for (value, code) in values.iter_mut().zip(codes) {
            *value = code as f32 * step + min;
        }
    } else {
        for (value, code) in values.iter_mut().zip(codes) {
            *value = (code + lowest) as f32 * step;
        }
    }
}

#[inline(always)]
fn restore_q2k(block: &[u8; 84], values: &mut [f32; SUPER]) {
    let (step, min) = (half_at(block, 80), half_at(block, 82));
    for (run, values) in values.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let scale = block[run];
        let (step, min) = (step * f32::from(scale & 15), min * f32::from(scale >> 4));
        let at = 16 + run / 8 * 32 + run % 2 * 16;
        let shift = run % 8 / 2 * 2;
        for (value, byte) in values.iter_mut().zip(&block[at..at + 16]) {
            *value = step * f32::from(byte >> shift & 3) - min;
        }
    }
}

#[inline(always)]
fn restore_q3k(block: &[u8; 110], values: &mut [f32; SUPER]) {
    let step = half_at(block, 108);
    let (high, rest) = block.split_at(32);
    let (low, rest) = rest.split_at(64);
    let mut packed = [0; 12];
    packed.copy_from_slice(&rest[..12]);
    let scales = sixths(&packed);
    for (run, values) in values.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let step = step * (f32::from(scales[run]) - 32.0);
        let (side, bit) = (run % 2 * 16, run / 2);
        let low = &low[run / 8 * 32 + side..][..16];
        let shift = run % 8 / 2 * 2;
        for ((value, low), high) in values.iter_mut().zip(low).zip(&high[side..side + 16]) {
            let code = low >> shift & 3 | (high >> bit & 1) << 2;
            *value = step * f32::from(code.cast_signed() - 4);
        }
    }
}

#[inline(always)]
fn restore_q4k(block: &[u8; 144], values: &mut [f32; SUPER]) {
    let (head, codes) = block.split_at(16);
    let lines = k_lines(head);
    let pairs = values.as_chunks_mut::<64>().0.iter_mut().zip(codes.as_chunks::<32>().0);
    for (pair, (values, codes)) in pairs.enumerate() {
        let [first, second] = [lines[2 * pair], lines[2 * pair + 1]];
        for (place, byte) in codes.iter().enumerate() {
            values[place] = first.0 * f32::from(byte & 15) - first.1;
            values[place + 32] = second.0 * f32::from(byte >> 4) - second.1;
        }
    }
}

#[inline(always)]
fn restore_q5k(block: &[u8; 176], values: &mut [f32; SUPER]) {
    let (head, codes) = block.split_at(16);
    let (high, codes) = codes.split_at(32);
    let lines = k_lines(head);
    let pairs = values.as_chunks_mut::<64>().0.iter_mut().zip(codes.as_chunks::<32>().0);
    for (pair, (values, codes)) in pairs.enumerate() {
        let [first, second] = [lines[2 * pair], lines[2 * pair + 1]];
        for (place, (byte, high)) in codes.iter().zip(high).enumerate() {
            let high = high >> (2 * pair);
            values[place] = first.0 * f32::from(byte & 15 | (high & 1) << 4) - first.1;
            values[place + 32] = second.0 * f32::from(byte >> 4 | (high & 2) << 3) - second.1;
        }
    }
}

/// Step and minimum of the eight runs of a block of `q4_k` or `q5_k`.
#[inline(always)]
fn k_lines(head: &[u8]) -> [(f32, f32); 8] {
    let (step, min) = (half_at(head, 0), half_at(head, 2));
    let mut packed = [0; 12];
    packed.copy_from_slice(&head[4..16]);
    let (scales, mins) = pairs(&packed);
    let mut lines = [(0.0, 0.0); 8];
    for (run, line) in lines.iter_mut().enumerate() {
        *line = (step * f32::from(scales[run]), min * f32::from(mins[run]));
    }
    lines
}

#[inline(always)]
fn restore_q6k(block: &[u8; 210], values: &mut [f32; SUPER]) {
    let step = half_at(block, 208);
    let (low, rest) = block.split_at(128);
    let (high, scales) = rest.split_at(64);
    for (run, values) in values.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let step = step * f32::from(scales[run].cast_signed());
        let (half, quarter, side) = (run / 8, run % 8 / 2, run % 2 * 16);
        let low = &low[half * 64 + quarter % 2 * 32 + side..][..16];
        let high = &high[half * 32 + side..][..16];
        let (low_shift, high_shift) = (quarter / 2 * 4, quarter * 2);
        for ((value, low), high) in values.iter_mut().zip(low).zip(high) {
            let code = low >> low_shift & 15 | (high >> high_shift & 3) << 4;
            *value = step * f32::from(code.cast_signed() - 32);
        }
    }
}
