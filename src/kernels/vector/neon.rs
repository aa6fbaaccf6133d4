//! Registers of ARM.

use std::arch::aarch64::{
    float32x4_t, vaddq_f32, vaddq_u32, vandq_u32, vbslq_f32, vcgtq_f32, vcltq_f32, vcvt_f32_f16, vdupq_n_f32,
    vdupq_n_u32, vfmaq_f32, vld1_u16, vld1q_f32, vmulq_f32, vmvnq_u32, vreinterpret_f16_u16, vreinterpretq_f32_u32,
    vreinterpretq_u32_f32, vshlq_n_u32, vst1q_f32,
};

use half::f16;

use crate::kernels::vector::register::reduced;
use crate::kernels::vector::{LANES, Register};

/// Four registers.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Quad(pub(in crate::kernels) [float32x4_t; 4]);

/// A step on four registers, one after the other.
macro_rules! quarters {
    ($quarter:ident => $step:expr) => {
        Self([quarters!(@ $quarter, 0, $step), quarters!(@ $quarter, 1, $step),
            quarters!(@ $quarter, 2, $step), quarters!(@ $quarter, 3, $step)])
    };
    (@ $quarter:ident, $number:literal, $step:expr) => {{
        let $quarter: usize = $number;
        // SAFETY: every processor of the architecture has these instructions; memory is accessed through references to
        // arrays of sixteen values, of which each register is a quarter.
        unsafe { $step }
    }};
}

impl Quad {
    /// Lanes folded in halves, as in the plain code.
    #[inline(always)]
    fn folded(self, f: impl Fn(f32, f32) -> f32, of: impl Fn(float32x4_t, float32x4_t) -> float32x4_t) -> f32 {
        let [first, second, third, fourth] = self.0;
        let mut lanes = [0.0; 4];
        // SAFETY: four values, as in `quarters`.
        unsafe { vst1q_f32(lanes.as_mut_ptr(), of(of(first, third), of(second, fourth))) };
        f(f(lanes[0], lanes[2]), f(lanes[1], lanes[3]))
    }
}

impl Register for Quad {
    #[inline(always)]
    fn splat(value: f32) -> Self {
        quarters!(_quarter => vdupq_n_f32(value))
    }

    #[inline(always)]
    fn of(values: &[f32; LANES]) -> Self {
        quarters!(quarter => vld1q_f32(values.as_ptr().add(quarter * 4)))
    }

    #[inline(always)]
    fn of_halves(values: &[f16; LANES]) -> Self {
        quarters!(quarter => vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(values.as_ptr().add(quarter * 4).cast()))))
    }

    #[inline(always)]
    fn write(self, values: &mut [f32; LANES]) {
        for (values, quarter) in values.as_chunks_mut::<4>().0.iter_mut().zip(self.0) {
            // SAFETY: as in `quarters`.
            unsafe { vst1q_f32(values.as_mut_ptr(), quarter) }
        }
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        quarters!(quarter => vaddq_f32(self.0[quarter], other.0[quarter]))
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        quarters!(quarter => vmulq_f32(self.0[quarter], other.0[quarter]))
    }

    #[inline(always)]
    fn multiply_add(self, b: Self, c: Self) -> Self {
        quarters!(quarter => vfmaq_f32(c.0[quarter], self.0[quarter], b.0[quarter]))
    }

    #[inline(always)]
    fn larger(self, other: Self) -> Self {
        quarters!(quarter => {
            vbslq_f32(vcgtq_f32(self.0[quarter], other.0[quarter]), self.0[quarter], other.0[quarter])
        })
    }

    #[inline(always)]
    fn decay(self) -> Self {
        // The bound first: NaN then stays.
        let (p, shifted) = reduced(Self::splat(-87.0).larger(self));
        quarters!(quarter => {
            let power = vshlq_n_u32::<23>(vreinterpretq_u32_f32(shifted.0[quarter]));
            let power = vreinterpretq_f32_u32(vaddq_u32(power, vdupq_n_u32(1.0_f32.to_bits())));
            let is_kept = vmvnq_u32(vcltq_f32(self.0[quarter], vdupq_n_f32(-87.0)));
            vreinterpretq_f32_u32(vandq_u32(is_kept, vreinterpretq_u32_f32(vmulq_f32(p.0[quarter], power))))
        })
    }

    #[inline(always)]
    fn sum(self) -> f32 {
        // SAFETY: as in `quarters`.
        self.folded(|a, b| a + b, |a, b| unsafe { vaddq_f32(a, b) })
    }

    #[inline(always)]
    fn largest(self) -> f32 {
        // SAFETY: as in `quarters`.
        self.folded(|a, b| if a > b { a } else { b }, |a, b| unsafe { vbslq_f32(vcgtq_f32(a, b), a, b) })
    }
}
