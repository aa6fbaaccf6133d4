//! Scales and codes inside GGML blocks.
//!
//! Every type of ours is runs of codes on a line: [`lines`] reads the lines that a block's scales describe, [`put_codes`]
//! writes codes beside the scales that are there. The layouts are those of `ggml-common.h` in llama.cpp.

use half::f16;

use crate::compress::line::Line;
use crate::model::GgmlType;

/// Codes that share a line.
pub(super) const fn run_len(format: GgmlType) -> usize {
    match format {
        GgmlType::Q2k | GgmlType::Q3k | GgmlType::Q6k => 16,
        GgmlType::Q4_0
        | GgmlType::Q4_1
        | GgmlType::Q5_0
        | GgmlType::Q5_1
        | GgmlType::Q8_0
        | GgmlType::Q4k
        | GgmlType::Q5k => 32,
    }
}

/// Bias, lowest and highest code. The lowest of `q8_0` is left out: some products of int8 cannot negate it.
pub(super) const fn codes(format: GgmlType) -> (u8, u8, u8) {
    match format {
        GgmlType::Q4_0 => (8, 0, 15),
        GgmlType::Q5_0 => (16, 0, 31),
        GgmlType::Q8_0 => (128, 1, 255),
        GgmlType::Q4_1 | GgmlType::Q4k => (0, 0, 15),
        GgmlType::Q5_1 | GgmlType::Q5k => (0, 0, 31),
        GgmlType::Q2k => (0, 0, 3),
        GgmlType::Q3k => (4, 0, 7),
        GgmlType::Q6k => (32, 0, 63),
    }
}

/// The lines of one block, in the order of its weights.
pub(super) fn lines(format: GgmlType, block: &[u8], lines: &mut [Line]) {
    let (bias, low, high) = codes(format);
    for (run, line) in lines.iter_mut().enumerate() {
        let (step, min) = match format {
            GgmlType::Q4_0 | GgmlType::Q5_0 | GgmlType::Q8_0 => (half_at(block, 0), 0.0),
            GgmlType::Q4_1 | GgmlType::Q5_1 => (half_at(block, 0), -half_at(block, 2)),
            GgmlType::Q2k => {
                let scale = block[run];
                (half_at(block, 80) * f32::from(scale & 15), half_at(block, 82) * f32::from(scale >> 4))
            }
            GgmlType::Q3k => {
                let scales = &block[96..108];
                let low = scales[run % 8] >> (4 * (run / 8)) & 15;
                let scale = low | (scales[8 + run % 4] >> (2 * (run / 4)) & 3) << 4;
                (half_at(block, 108) * (f32::from(scale) - 32.0), 0.0)
            }
            GgmlType::Q4k | GgmlType::Q5k => {
                let (scale, min) = six_bit_pair(&block[4..16], run);
                (half_at(block, 0) * f32::from(scale), half_at(block, 2) * f32::from(min))
            }
            GgmlType::Q6k => (half_at(block, 208) * f32::from(block[192 + run].cast_signed()), 0.0),
        };
        *line = Line { step, min, bias, low, high };
    }
}

/// Scale and minimum number `run` of the twelve bytes that `q4_k` and `q5_k` keep eight of each in.
fn six_bit_pair(scales: &[u8], run: usize) -> (u8, u8) {
    if run < 4 {
        return (scales[run] & 63, scales[run + 4] & 63);
    }
    let (low, high) = (scales[run + 4], run - 4);
    (low & 15 | scales[high] >> 6 << 4, low >> 4 | scales[run] >> 6 << 4)
}

/// Writes the quantized scales and minimums of a superblock.
///
/// - `scales`: one a run; of `q3_k` and `q6_k` with the sign, as two's complement, the others from 0
/// - `mins`: one a run where the type has them
pub(super) fn put_scales(format: GgmlType, block: &mut [u8], scales: &[i8], mins: &[i8]) {
    let unsigned = |value: i8| value.cast_unsigned();
    match format {
        GgmlType::Q2k => {
            for (byte, (scale, min)) in block.iter_mut().zip(scales.iter().zip(mins)) {
                *byte = unsigned(*scale) | unsigned(*min) << 4;
            }
        }
        GgmlType::Q3k => {
            let packed = &mut block[96..108];
            packed.fill(0);
            for (run, scale) in scales.iter().enumerate() {
                let scale = unsigned(scale + 32);
                packed[run % 8] |= (scale & 15) << (4 * (run / 8));
                packed[8 + run % 4] |= (scale >> 4) << (2 * (run / 4));
            }
        }
        GgmlType::Q4k | GgmlType::Q5k => {
            let packed = &mut block[4..16];
            packed.fill(0);
            for (run, (scale, min)) in scales.iter().zip(mins).enumerate() {
                let (scale, min) = (unsigned(*scale), unsigned(*min));
                if run < 4 {
                    packed[run] |= scale;
                    packed[run + 4] |= min;
                } else {
                    packed[run + 4] |= scale & 15 | (min & 15) << 4;
                    packed[run - 4] |= scale >> 4 << 6;
                    packed[run] |= min >> 4 << 6;
                }
            }
        }
        GgmlType::Q6k => {
            block[192..208].iter_mut().zip(scales).for_each(|(byte, scale)| *byte = unsigned(*scale));
        }
        GgmlType::Q4_0 | GgmlType::Q4_1 | GgmlType::Q5_0 | GgmlType::Q5_1 | GgmlType::Q8_0 => {}
    }
}

/// Writes the block's steps: `d`, and `m` or `dmin` where the type has one.
pub(super) fn put_steps(format: GgmlType, block: &mut [u8], step: f16, min: f16) {
    let (at_step, at_min) = match format {
        GgmlType::Q4_0 | GgmlType::Q5_0 | GgmlType::Q8_0 => (0, None),
        GgmlType::Q4_1 | GgmlType::Q5_1 | GgmlType::Q4k | GgmlType::Q5k => (0, Some(2)),
        GgmlType::Q2k => (80, Some(82)),
        GgmlType::Q3k => (108, None),
        GgmlType::Q6k => (208, None),
    };
    block[at_step..at_step + 2].copy_from_slice(&step.to_le_bytes());
    if let Some(at) = at_min {
        block[at..at + 2].copy_from_slice(&min.to_le_bytes());
    }
}

/// Writes the codes of one block; scales stay.
pub(super) fn put_codes(format: GgmlType, block: &mut [u8], codes: &[u8]) {
    match format {
        GgmlType::Q8_0 => {
            block[2..].iter_mut().zip(codes).for_each(|(byte, code)| *byte = code.wrapping_sub(128));
        }
        GgmlType::Q4_0 => put_nibbles(&mut block[2..], codes),
        GgmlType::Q4_1 => put_nibbles(&mut block[4..], codes),
        GgmlType::Q5_0 => put_five_bits(&mut block[2..], codes),
        GgmlType::Q5_1 => put_five_bits(&mut block[4..], codes),
        GgmlType::Q2k => put_crumbs(&mut block[16..80], codes),
        GgmlType::Q3k => {
            let (high, rest) = block.split_at_mut(32);
            high.fill(0);
            put_crumbs(&mut rest[..64], codes);
            for (place, code) in codes.iter().enumerate() {
                high[place % 32] |= (code >> 2 & 1) << (place / 32);
            }
        }
        GgmlType::Q4k => {
            block[16..].chunks_mut(32).zip(codes.chunks(64)).for_each(|(bytes, codes)| put_nibbles(bytes, codes));
        }
        GgmlType::Q5k => {
            let (high, low) = block[16..].split_at_mut(32);
            high.fill(0);
            low.chunks_mut(32).zip(codes.chunks(64)).for_each(|(bytes, codes)| put_nibbles(bytes, codes));
            for (place, code) in codes.iter().enumerate() {
                high[place % 32] |= (code >> 4) << (place / 32);
            }
        }
        GgmlType::Q6k => {
            let (low, high) = block[..192].split_at_mut(128);
            for ((low, high), codes) in low.chunks_mut(64).zip(high.chunks_mut(32)).zip(codes.chunks(128)) {
                for place in 0..32 {
                    let [a, b, c, d] = [0, 32, 64, 96].map(|quarter| codes[place + quarter]);
                    low[place] = a & 15 | (c & 15) << 4;
                    low[place + 32] = b & 15 | (d & 15) << 4;
                    high[place] = a >> 4 | b >> 4 << 2 | c >> 4 << 4 | d >> 4 << 6;
                }
            }
        }
    }
}

/// The low four bits of the first half of `codes` in the low nibbles, of the second in the high ones.
fn put_nibbles(bytes: &mut [u8], codes: &[u8]) {
    let (first, second) = codes.split_at(codes.len() / 2);
    bytes.iter_mut().zip(first.iter().zip(second)).for_each(|(byte, (a, b))| *byte = a & 15 | (b & 15) << 4);
}

fn put_five_bits(bytes: &mut [u8], codes: &[u8]) {
    let high = codes.iter().rev().fold(0_u32, |bits, code| bits << 1 | u32::from(code >> 4));
    let (top, low) = bytes.split_at_mut(4);
    top.copy_from_slice(&high.to_le_bytes());
    put_nibbles(low, codes);
}

/// The low two bits of codes, four quarters of 128 a byte.
fn put_crumbs(bytes: &mut [u8], codes: &[u8]) {
    for (bytes, codes) in bytes.chunks_mut(32).zip(codes.chunks(128)) {
        for (place, byte) in bytes.iter_mut().enumerate() {
            *byte = [96, 64, 32, 0].iter().fold(0, |byte, quarter| byte << 2 | codes[place + quarter] & 3);
        }
    }
}

fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}
