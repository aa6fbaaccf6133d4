//! Spreading by lookups over 128 bits on ARM, whose orders are in tables.

#![expect(clippy::inline_always, reason = "vector code must become part of the function that has the instructions")]

use std::arch::aarch64::{
    float32x4_t, int32x4_t, uint8x16_t, vandq_u8, vcombine_u8, vcreate_u8, vcvt_f32_f16, vcvtq_f32_s32, vdupq_n_f32,
    vdupq_n_u8, veorq_u8, vget_high_u16, vget_low_u16, vld1q_u8, vorrq_u8, vqtbl1q_u8, vreinterpret_f16_u16,
    vreinterpretq_s32_u8, vreinterpretq_u16_u8, vshlq_n_s32, vshrq_n_s32, vst1q_u8,
};

use half::f16;

use super::super::ints::STEP;
use super::super::isa::Isa;
use super::super::vector::Quad;
use super::ints::Raised;
use super::spread::Spread;
use super::tables::{HALVES, before, sixteen};
use super::{PADDING, STEP_INPUTS};

/// Any processor of the architecture.
#[derive(Debug, Clone, Copy)]
pub(super) struct Neon(());

impl Neon {
    /// The token, where `isa` has the instructions.
    pub(super) fn of(isa: Isa) -> Option<Self> {
        matches!(isa, Isa::Neon | Isa::NeonDotprod | Isa::NeonI8mm).then_some(Self(()))
    }
}

/// Instructions of every processor of the architecture.
macro_rules! always {
    ($instructions:expr) => {
        // SAFETY: the instructions are part of the architecture. Addresses come from references to arrays of the length
        // that is written.
        unsafe { $instructions }
    };
}

impl Spread for Neon {
    type Vector = Quad;

    #[inline(never)]
    fn run(self, work: impl FnOnce()) {
        work();
    }

    #[inline(always)]
    fn fetch<T>(self, _place: *const T) {}

    #[inline(always)]
    fn halves(self, values: &[f16; PADDING], mask: u64) -> [Quad; STEP_INPUTS] {
        always!(halves(values, mask))
    }

    #[inline(always)]
    fn numbers(self, values: &[Raised; PADDING], mask: u64) -> [Quad; STEP_INPUTS] {
        always!(numbers(values, mask))
    }

    #[inline(always)]
    fn codes(self, values: &[Raised; PADDING], mask: u64, step: &mut [u8; STEP]) {
        for (place, codes) in step.as_chunks_mut::<16>().0.iter_mut().zip(always!(codes(values, mask))) {
            always!(vst1q_u8(place.as_mut_ptr(), codes));
        }
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn halves(values: &[f16; PADDING], mask: u64) -> [Quad; STEP_INPUTS] {
    let (bits, before) = (mask.to_le_bytes(), before(mask));
    let mut weights = [Quad([vdupq_n_f32(0.0); 4]); STEP_INPUTS];
    for (input, weights) in weights.iter_mut().enumerate() {
        for (half, weights) in weights.0.as_chunks_mut::<2>().0.iter_mut().enumerate() {
            let byte = 2 * input + half;
            // SAFETY: 16 bytes of an order, and of 8 of the 64 values: at most 56 come before.
            let (values, order) = unsafe {
                let values = values.as_ptr().add(usize::from(before[byte]));
                (vld1q_u8(values.cast()), vld1q_u8(HALVES[usize::from(bits[byte])].as_ptr()))
            };
            let spread = vreinterpretq_u16_u8(vqtbl1q_u8(values, order));
            weights[0] = vcvt_f32_f16(vreinterpret_f16_u16(vget_low_u16(spread)));
            weights[1] = vcvt_f32_f16(vreinterpret_f16_u16(vget_high_u16(spread)));
        }
    }
    weights
}

#[inline]
#[target_feature(enable = "neon")]
fn numbers(values: &[Raised; PADDING], mask: u64) -> [Quad; STEP_INPUTS] {
    let mut weights = [Quad([vdupq_n_f32(0.0); 4]); STEP_INPUTS];
    for (quarter, codes) in codes(values, mask).into_iter().enumerate() {
        let centered = vreinterpretq_s32_u8(veorq_u8(codes, vdupq_n_u8(128)));
        weights[0].0[quarter] = number(vshlq_n_s32::<24>(centered));
        weights[1].0[quarter] = number(vshlq_n_s32::<16>(centered));
        weights[2].0[quarter] = number(vshlq_n_s32::<8>(centered));
        weights[3].0[quarter] = number(centered);
    }
    weights
}

/// The codes in the bytes whose bit is set, raised by 128 as they are held; 128 for zero elsewhere.
#[inline]
#[target_feature(enable = "neon")]
fn codes(values: &[Raised; PADDING], mask: u64) -> [uint8x16_t; 4] {
    let (bits, before) = (mask.to_le_bytes(), before(mask));
    let mut codes = [vdupq_n_u8(128); 4];
    for (part, codes) in codes.iter_mut().enumerate() {
        let [first, second] = [before[2 * part], before[2 * part + 1]];
        let [low, high] = sixteen([bits[2 * part], bits[2 * part + 1]], second - first);
        let order = vcombine_u8(vcreate_u8(low), vcreate_u8(high));
        // SAFETY: 16 bytes of as many of the 64 values: at most 48 come before.
        let values = unsafe { vld1q_u8(values.as_ptr().add(usize::from(first)).cast()) };
        *codes = vorrq_u8(vqtbl1q_u8(values, order), vandq_u8(order, vdupq_n_u8(128)));
    }
    codes
}

/// The last bytes of the lanes, with their signs.
#[inline]
#[target_feature(enable = "neon")]
fn number(codes: int32x4_t) -> float32x4_t {
    vcvtq_f32_s32(vshrq_n_s32::<24>(codes))
}
