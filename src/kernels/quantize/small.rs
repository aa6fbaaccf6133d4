//! The types of 32 weights, rounded as GGML's reference does.
#![expect(clippy::inline_always, reason = "the instructions of the caller are used only where it is inlined")]

use half::f16;

use super::layout::put_nibbles;

const LEN: usize = 32;
type Block = [f32; LEN];

#[inline(always)]
pub(super) fn quantize_q4_0(weights: &[f32], bytes: &mut [u8]) {
    let (blocks, _) = bytes.as_chunks_mut::<18>();
    for (weights, block) in weights.as_chunks::<LEN>().0.iter().zip(blocks) {
        let (step, codes) = offset_codes::<8>(weights);
        block[..2].copy_from_slice(&step.to_le_bytes());
        put_nibbles(&mut block[2..], &codes);
    }
}

#[inline(always)]
pub(super) fn quantize_q5_0(weights: &[f32], bytes: &mut [u8]) {
    let (blocks, _) = bytes.as_chunks_mut::<22>();
    for (weights, block) in weights.as_chunks::<LEN>().0.iter().zip(blocks) {
        let (step, codes) = offset_codes::<16>(weights);
        block[..2].copy_from_slice(&step.to_le_bytes());
        block[2..6].copy_from_slice(&fifth_bits(&codes).to_le_bytes());
        put_nibbles(&mut block[6..], &codes);
    }
}

#[inline(always)]
pub(super) fn quantize_q4_1(weights: &[f32], bytes: &mut [u8]) {
    let (blocks, _) = bytes.as_chunks_mut::<20>();
    for (weights, block) in weights.as_chunks::<LEN>().0.iter().zip(blocks) {
        let (step, min, codes) = line_codes::<15>(weights);
        block[..2].copy_from_slice(&step.to_le_bytes());
        block[2..4].copy_from_slice(&min.to_le_bytes());
        put_nibbles(&mut block[4..], &codes);
    }
}

#[inline(always)]
pub(super) fn quantize_q5_1(weights: &[f32], bytes: &mut [u8]) {
    let (blocks, _) = bytes.as_chunks_mut::<24>();
    for (weights, block) in weights.as_chunks::<LEN>().0.iter().zip(blocks) {
        let (step, min, codes) = line_codes::<31>(weights);
        block[..2].copy_from_slice(&step.to_le_bytes());
        block[2..4].copy_from_slice(&min.to_le_bytes());
        block[4..8].copy_from_slice(&fifth_bits(&codes).to_le_bytes());
        put_nibbles(&mut block[8..], &codes);
    }
}

#[inline(always)]
pub(super) fn quantize_q8_0(weights: &[f32], bytes: &mut [u8]) {
    let (blocks, _) = bytes.as_chunks_mut::<34>();
    for (weights, block) in weights.as_chunks::<LEN>().0.iter().zip(blocks) {
        let (low, high) = ends(weights);
        let largest = if -low > high { -low } else { high };
        let step = largest / 127.0;
        let inverse = if step == 0.0 { 0.0 } else { 1.0 / step };
        let (scale, codes) = block.split_at_mut(2);
        scale.copy_from_slice(&f16::from_f32(step).to_le_bytes());
        for (code, weight) in codes.iter_mut().zip(weights) {
            *code = ((weight * inverse).round() as i8).cast_unsigned();
        }
    }
}

/// The step and the codes of a type whose code `ZERO` stands for 0 and code 0 for the weight of largest magnitude.
#[inline(always)]
fn offset_codes<const ZERO: u8>(weights: &Block) -> (f16, [u8; LEN]) {
    let zero = f32::from(ZERO);
    let (low, high) = ends(weights);
    let largest = if high > -low {
        high
    } else if high < -low {
        low
    } else {
        // The first of both signs decides; all zeros are +0.
        let first = weights.iter().find(|weight| weight.abs() == high && high > 0.0);
        first.copied().unwrap_or(0.0)
    };
    let step = largest / -zero;
    let inverse = if step == 0.0 { 0.0 } else { 1.0 / step };
    let mut codes = [0; LEN];
    for (code, weight) in codes.iter_mut().zip(weights) {
        *code = whole(weight * inverse + (zero + 0.5), 2.0 * zero - 1.0);
    }
    (f16::from_f32(step), codes)
}

/// The step, the minimum and the codes of a type whose code 0 stands for the minimum.
#[inline(always)]
fn line_codes<const HIGH: u8>(weights: &Block) -> (f16, f16, [u8; LEN]) {
    let (mut low, mut high) = extremes(weights);
    if low == 0.0 {
        // Zeros of both signs are equal; the reference keeps the first.
        low = weights.iter().copied().find(|weight| *weight == 0.0).unwrap_or(low);
        high = if high == 0.0 { low } else { high };
    }
    let step = (high - low) / f32::from(HIGH);
    let inverse = if step == 0.0 { 0.0 } else { 1.0 / step };
    let mut codes = [0; LEN];
    for (code, weight) in codes.iter_mut().zip(weights) {
        *code = whole((weight - low) * inverse + 0.5, f32::from(HIGH));
    }
    (f16::from_f32(step), f16::from_f32(low), codes)
}

/// `x` without its fraction, from 0 to `high`; 0 for what is no number.
#[inline(always)]
fn whole(x: f32, high: f32) -> u8 {
    let x = if x > high { high } else { x };
    x as i32 as u8
}

/// Lowest and highest, with 0 among them.
#[inline(always)]
fn ends(weights: &Block) -> (f32, f32) {
    let (low, high) = reduced(weights, 0.0, 0.0);
    (low, high)
}

/// Lowest and highest; the largest and smallest finite number where none is a number.
#[inline(always)]
fn extremes(weights: &Block) -> (f32, f32) {
    reduced(weights, f32::MAX, f32::MIN)
}

#[inline(always)]
fn reduced(weights: &Block, low: f32, high: f32) -> (f32, f32) {
    let (mut lows, mut highs) = ([low; 16], [high; 16]);
    for half in weights.as_chunks::<16>().0 {
        for (place, weight) in half.iter().enumerate() {
            lows[place] = if *weight < lows[place] { *weight } else { lows[place] };
            highs[place] = if *weight > highs[place] { *weight } else { highs[place] };
        }
    }
    let mut width = 8;
    while width > 0 {
        for place in 0..width {
            let (low, high) = (lows[place + width], highs[place + width]);
            lows[place] = if low < lows[place] { low } else { lows[place] };
            highs[place] = if high > highs[place] { high } else { highs[place] };
        }
        width /= 2;
    }
    (lows[0], highs[0])
}

/// Bit 4 of each code, in the order of the codes.
#[inline(always)]
fn fifth_bits(codes: &[u8; LEN]) -> u32 {
    let mut bits = 0;
    for (place, code) in codes.iter().enumerate() {
        bits |= u32::from(code >> 4 & 1) << place;
    }
    bits
}
