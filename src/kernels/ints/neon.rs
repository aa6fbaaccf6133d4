//! Byte dot products over 128 bits: four registers are a step of a panel.

use std::arch::aarch64::{
    int8x16_t, int32x4_t, uint8x16_t, vaddq_s32, vandq_u8, vdupq_n_s32, vdupq_n_u8, veorq_u8, vget_low_s8, vld1q_u8,
    vmull_high_s8, vmull_s8, vpadalq_s16, vpaddlq_s16, vpaddq_s16, vpaddq_s32, vreinterpretq_s8_s32,
    vreinterpretq_s8_u8, vshrq_n_u8, vst1q_s32,
};

use super::super::neon::{dot, mixed_dot};
use super::portable::Dots;
use super::{PANEL, STEP};

/// Any processor of the architecture.
pub(super) struct Neon;

/// Those with byte dot products.
pub(super) struct NeonDotprod;

/// Those with byte dot products of weights without a sign.
pub(super) struct NeonI8mm;

/// The loops of one set of instructions; `$bias` is taken off wide codes, and then they have a sign.
macro_rules! dots {
    ($set:ty, $features:literal, $bias:literal, $add:path) => {
        impl Dots for $set {
            const BIAS: i32 = $bias;

            fn dots<const N: usize, const R: usize>(steps: &[[u8; STEP]], codes: [&[[i8; N]]; R]) -> [[i32; PANEL]; R] {
                #[target_feature(enable = $features)]
                fn dots<const N: usize, const R: usize>(
                    steps: &[[u8; STEP]],
                    mut codes: [&[[i8; N]]; R],
                ) -> [[i32; PANEL]; R] {
                    for codes in &mut codes {
                        *codes = &codes[..steps.len()];
                    }
                    let mut sums = [[vdupq_n_s32(0); 4]; R];
                    for (k, step) in steps.iter().enumerate() {
                        let step = quarters(step);
                        for part in 0..N / 4 {
                            let mut weights = step;
                            for weights in &mut weights {
                                *weights = match (N, part) {
                                    (8, 0) => vandq_u8(*weights, vdupq_n_u8(15)),
                                    (8, _) => vshrq_n_u8::<4>(*weights),
                                    _ => veorq_u8(*weights, vdupq_n_u8($bias)),
                                };
                            }
                            for r in 0..R {
                                let codes = codes[r][k].as_chunks().0[part].map(i8::cast_unsigned);
                                let codes = vreinterpretq_s8_s32(vdupq_n_s32(i32::from_ne_bytes(codes)));
                                for quarter in 0..4 {
                                    sums[r][quarter] = $add(sums[r][quarter], weights[quarter], codes, N == 4);
                                }
                            }
                        }
                    }
                    let mut values = [[0; PANEL]; R];
                    for (values, sums) in values.iter_mut().zip(sums) {
                        store(values, sums);
                    }
                    values
                }
                // SAFETY: this set is chosen where the processor has it, as `Isa` says.
                unsafe { dots(steps, codes) }
            }
        }
    };
}

dots!(Neon, "neon", 128, add);
dots!(NeonDotprod, "neon,dotprod", 128, add_dot);
dots!(NeonI8mm, "neon,dotprod,i8mm", 0, add_mixed);

/// Adds products of 4 bytes. Two products of wide codes may exceed 16 bits.
#[inline]
#[target_feature(enable = "neon")]
fn add(sums: int32x4_t, weights: uint8x16_t, codes: int8x16_t, is_wide: bool) -> int32x4_t {
    let weights = vreinterpretq_s8_u8(weights);
    let (low, high) = (vmull_s8(vget_low_s8(weights), vget_low_s8(codes)), vmull_high_s8(weights, codes));
    if is_wide {
        vaddq_s32(sums, vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high)))
    } else {
        vpadalq_s16(sums, vpaddq_s16(low, high))
    }
}

#[inline]
#[target_feature(enable = "neon,dotprod")]
fn add_dot(sums: int32x4_t, weights: uint8x16_t, codes: int8x16_t, _is_wide: bool) -> int32x4_t {
    dot(sums, vreinterpretq_s8_u8(weights), codes)
}

#[inline]
#[target_feature(enable = "neon,i8mm")]
fn add_mixed(sums: int32x4_t, weights: uint8x16_t, codes: int8x16_t, _is_wide: bool) -> int32x4_t {
    mixed_dot(sums, weights, codes)
}

#[inline]
#[target_feature(enable = "neon")]
fn quarters(step: &[u8; STEP]) -> [uint8x16_t; 4] {
    let place = step.as_ptr();
    // SAFETY: 64 bytes, of any alignment.
    unsafe { [vld1q_u8(place), vld1q_u8(place.add(16)), vld1q_u8(place.add(32)), vld1q_u8(place.add(48))] }
}

#[inline]
#[target_feature(enable = "neon")]
fn store(values: &mut [i32; PANEL], sums: [int32x4_t; 4]) {
    for (values, sums) in values.as_chunks_mut::<4>().0.iter_mut().zip(sums) {
        // SAFETY: 16 bytes, of any alignment.
        unsafe { vst1q_s32(values.as_mut_ptr(), sums) };
    }
}
