//! 128 bits at a time on ARM, twice.

#![expect(clippy::inline_always, reason = "the instructions of the caller are used only where it is inlined")]

use std::arch::aarch64::{
    float32x4_t, int8x16_t, int32x4_t, uint8x16_t, vandq_u8, vcvt_f32_f16, vcvtq_f32_s32, vdupq_n_f32, vdupq_n_s8,
    vdupq_n_s32, vdupq_n_u8, veorq_u8, vfmaq_f32, vget_high_s16, vget_low_s8, vget_low_s16, vld1_s8, vld1_u16,
    vld1q_u8, vmovl_s8, vmovl_s16, vmull_high_s8, vmull_s8, vmulq_f32, vorrq_u8, vpadalq_s16, vpaddq_s16,
    vreinterpret_f16_u16, vreinterpretq_s8_s32, vreinterpretq_s8_u8, vshlq_u8, vst1q_f32,
};

use half::f16;

use super::super::neon::{dot, mixed_dot};
use super::super::pool::Share;
use super::format::Format;
use super::lanes::{LINE, Lanes, OUTPUTS};
use super::run::{self, Job};

/// A share of a product.
#[target_feature(enable = "neon")]
pub(super) fn run<F: Format>(job: &Job<'_>, share: Share) {
    run::run::<Neon<PLAIN>, F>(Neon(()), job, share);
}

/// A share of a product, with the 8-bit dot product.
#[target_feature(enable = "neon,dotprod")]
pub(super) fn run_dotprod<F: Format>(job: &Job<'_>, share: Share) {
    run::run::<Neon<DOT>, F>(Neon(()), job, share);
}

/// A share of a product, with that of bytes with and without a sign.
#[target_feature(enable = "neon,dotprod,i8mm")]
pub(super) fn run_i8mm<F: Format>(job: &Job<'_>, share: Share) {
    run::run::<Neon<MIXED>, F>(Neon(()), job, share);
}

/// How four products of bytes are added: by multiplications, by dot products, by those of bytes that need no sign.
const PLAIN: u8 = 0;
const DOT: u8 = 1;
const MIXED: u8 = 2;

/// Invariant: made only by the functions above, on a processor that has the instructions.
#[derive(Debug, Clone, Copy)]
pub(super) struct Neon<const DOTS: u8>(());

/// Both registers of a part.
macro_rules! both {
    ($index:ident => $step:expr) => {
        [both!(@ $index, 0, $step), both!(@ $index, 1, $step)]
    };
    (@ $index:ident, $number:literal, $step:expr) => {{
        let $index: usize = $number;
        // SAFETY: the type's invariant; memory is accessed through references to arrays of both registers' size.
        unsafe { $step }
    }};
}

impl<const DOTS: u8> Lanes for Neon<DOTS> {
    type Bytes = [uint8x16_t; 2];
    type Ints = [int32x4_t; 2];
    type Floats = [float32x4_t; 2];
    const PARTS: usize = 2;
    const CENTERS: bool = DOTS != MIXED;
    const MAX_ROWS: usize = 4;

    #[inline(always)]
    fn prefetch(self, _line: *const u8) {}

    #[inline(always)]
    fn bytes(self, line: &[u8; LINE], part: usize) -> Self::Bytes {
        let half = &line.as_chunks::<32>().0[part];
        both!(i => vld1q_u8(half.as_ptr().add(i * 16)))
    }

    #[inline(always)]
    fn field(self, bytes: Self::Bytes, from: u32, mask: u8, to: u32) -> Self::Bytes {
        let shift = to.cast_signed() as i8 - from.cast_signed() as i8;
        both!(i => vandq_u8(vshlq_u8(bytes[i], vdupq_n_s8(shift)), vdupq_n_u8(mask << to)))
    }

    #[inline(always)]
    fn or(self, a: Self::Bytes, b: Self::Bytes) -> Self::Bytes {
        both!(i => vorrq_u8(a[i], b[i]))
    }

    #[inline(always)]
    fn int(self, value: i32) -> Self::Ints {
        both!(_i => vdupq_n_s32(value))
    }

    #[inline(always)]
    fn dot<const IS_WIDE: bool>(self, sum: Self::Ints, bytes: Self::Bytes, inputs: [i8; 4]) -> Self::Ints {
        let inputs = i32::from_ne_bytes(inputs.map(i8::cast_unsigned));
        both!(i => {
            let inputs = vreinterpretq_s8_s32(vdupq_n_s32(inputs));
            if DOTS == MIXED {
                mixed_dot(sum[i], bytes[i], inputs)
            } else {
                let centered = if IS_WIDE { veorq_u8(bytes[i], vdupq_n_u8(128)) } else { bytes[i] };
                let weights = vreinterpretq_s8_u8(centered);
                if DOTS == DOT { dot(sum[i], weights, inputs) } else { add(sum[i], weights, inputs) }
            }
        })
    }

    #[inline(always)]
    fn floats(self, values: Self::Ints) -> Self::Floats {
        both!(i => vcvtq_f32_s32(values[i]))
    }

    #[inline(always)]
    fn float(self, value: f32) -> Self::Floats {
        both!(_i => vdupq_n_f32(value))
    }

    #[inline(always)]
    fn halves(self, values: &[f16; OUTPUTS], part: usize) -> Self::Floats {
        let half = &values.as_chunks::<8>().0[part];
        both!(i => vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(half.as_ptr().add(i * 4).cast()))))
    }

    #[inline(always)]
    fn small(self, values: &[u8; OUTPUTS], part: usize) -> Self::Floats {
        let half = &values.as_chunks::<8>().0[part];
        both!(i => {
            let wide = vmovl_s8(vld1_s8(half.as_ptr().cast()));
            vcvtq_f32_s32(vmovl_s16(if i == 0 { vget_low_s16(wide) } else { vget_high_s16(wide) }))
        })
    }

    #[inline(always)]
    fn mul(self, a: Self::Floats, b: Self::Floats) -> Self::Floats {
        both!(i => vmulq_f32(a[i], b[i]))
    }

    #[inline(always)]
    fn fma(self, a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats {
        both!(i => vfmaq_f32(c[i], a[i], b[i]))
    }

    #[inline(always)]
    fn store(self, values: Self::Floats, into: &mut [f32; OUTPUTS], part: usize) {
        let half = &mut into.as_chunks_mut::<8>().0[part];
        for (place, values) in half.as_chunks_mut::<4>().0.iter_mut().zip(values) {
            // SAFETY: the type's invariant; 16 bytes are written.
            unsafe { vst1q_f32(place.as_mut_ptr(), values) }
        }
    }
}

/// Adds products of 4 bytes. Two of them fit 16 bits: inputs are not below -127.
#[inline]
#[target_feature(enable = "neon")]
fn add(sums: int32x4_t, weights: int8x16_t, inputs: int8x16_t) -> int32x4_t {
    let low = vmull_s8(vget_low_s8(weights), vget_low_s8(inputs));
    vpadalq_s16(sums, vpaddq_s16(low, vmull_high_s8(weights, inputs)))
}
