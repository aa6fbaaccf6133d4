//! 128 bits on ARM.

#![expect(clippy::inline_always, reason = "vector code must become part of the function that has the instructions")]

use std::arch::aarch64::{
    float32x4_t, uint16x8_t, vandq_u16, vcvt_f32_f16, vcvtq_f32_u32, vdupq_n_f32, vdupq_n_u16, vfmaq_f32,
    vget_high_u16, vget_low_u16, vld1_s8, vld1_u8, vld1q_f32, vld1q_u16, vmovl_s8, vmovl_u8, vmovl_u16, vmulq_f32,
    vreinterpret_f16_u16, vreinterpretq_f32_u32, vreinterpretq_u16_s16, vshlq_n_u16, vshlq_n_u32, vst1q_f32,
};

use super::simd::{LANES, NARROW_PANELS, ROWS, Simd, Task};
use crate::kernels::isa::Isa;

/// Any processor of the architecture.
#[derive(Debug, Clone, Copy)]
pub(super) struct Neon(());

/// Four registers.
type Quad = [float32x4_t; 4];

/// Instructions of every processor of the architecture.
macro_rules! always {
    ($instructions:expr) => {
        // SAFETY: the instructions are part of the architecture. Addresses come from references to arrays of the length
        // that is read or written.
        unsafe { $instructions }
    };
}

impl Neon {
    /// The token, where `isa` has the instructions.
    pub(super) fn of(isa: Isa) -> Option<Self> {
        matches!(isa, Isa::Neon | Isa::NeonDotprod | Isa::NeonI8mm).then_some(Self(()))
    }
}

impl Simd for Neon {
    type Vector = Quad;

    /// 32 registers with 4 numbers each hold as many.
    const PANELS: [usize; ROWS] = NARROW_PANELS;

    #[inline(never)]
    fn run(self, task: impl Task) {
        task.run(self);
    }

    #[inline(always)]
    fn fetch<T>(self, _value: &T) {}

    #[inline(always)]
    fn splat(self, value: f32) -> Quad {
        always!([vdupq_n_f32(value); 4])
    }

    #[inline(always)]
    fn load(self, values: &[f32; LANES]) -> Quad {
        let place = values.as_ptr();
        always!([vld1q_f32(place), vld1q_f32(place.add(4)), vld1q_f32(place.add(8)), vld1q_f32(place.add(12))])
    }

    #[inline(always)]
    fn store(self, vector: Quad, values: &mut [f32; LANES]) {
        for (values, quarter) in values.as_chunks_mut::<4>().0.iter_mut().zip(vector) {
            always!(vst1q_f32(values.as_mut_ptr(), quarter));
        }
    }

    #[inline(always)]
    fn multiply(self, a: Quad, b: Quad) -> Quad {
        always!([vmulq_f32(a[0], b[0]), vmulq_f32(a[1], b[1]), vmulq_f32(a[2], b[2]), vmulq_f32(a[3], b[3])])
    }

    #[inline(always)]
    fn multiply_add(self, a: Quad, b: Quad, c: Quad) -> Quad {
        always!([
            vfmaq_f32(c[0], a[0], b[0]),
            vfmaq_f32(c[1], a[1], b[1]),
            vfmaq_f32(c[2], a[2], b[2]),
            vfmaq_f32(c[3], a[3], b[3]),
        ])
    }

    #[inline(always)]
    fn f16(self, bits: &[u16; LANES]) -> Quad {
        always!(halves([vld1q_u16(bits.as_ptr()), vld1q_u16(bits.as_ptr().add(8))]))
    }

    #[inline(always)]
    fn bf16(self, bits: &[u16; LANES]) -> Quad {
        always!({
            let wide = words([vld1q_u16(bits.as_ptr()), vld1q_u16(bits.as_ptr().add(8))]);
            wide.map(|bits| vreinterpretq_f32_u32(vshlq_n_u32::<16>(bits)))
        })
    }

    #[inline(always)]
    fn fp8(self, codes: &[u8; LANES]) -> Quad {
        // The sign is in bit 14 too, where an exponent of 16 or more would be.
        always!(halves([0, 8].map(|first| {
            let wide = vreinterpretq_u16_s16(vmovl_s8(vld1_s8(codes.as_ptr().add(first).cast())));
            vandq_u16(vshlq_n_u16::<7>(wide), vdupq_n_u16(0xbfff))
        })))
    }

    #[inline(always)]
    fn bytes(self, codes: &[u8; LANES]) -> Quad {
        always!({
            let wide = words([vmovl_u8(vld1_u8(codes.as_ptr())), vmovl_u8(vld1_u8(codes.as_ptr().add(8)))]);
            wide.map(|code| vcvtq_f32_u32(code))
        })
    }

    #[inline(always)]
    fn nibbles<const HIGH: bool>(self, codes: &[u8; LANES]) -> Quad {
        self.bytes(&codes.map(|code| code & if HIGH { 0xf0 } else { 0xf }))
    }
}

/// Half precision.
#[inline]
#[target_feature(enable = "neon")]
fn halves([first, second]: [uint16x8_t; 2]) -> Quad {
    [vget_low_u16(first), vget_high_u16(first), vget_low_u16(second), vget_high_u16(second)]
        .map(|bits| vcvt_f32_f16(vreinterpret_f16_u16(bits)))
}

/// Zeros in the upper halves.
#[inline]
#[target_feature(enable = "neon")]
fn words([first, second]: [uint16x8_t; 2]) -> [std::arch::aarch64::uint32x4_t; 4] {
    [vget_low_u16(first), vget_high_u16(first), vget_low_u16(second), vget_high_u16(second)].map(|bits| vmovl_u16(bits))
}
