//! Registers of x86-64.

use std::arch::x86_64::{
    __m256, __m512, _CMP_NLT_UQ, _mm_add_ps, _mm_add_ss, _mm_cvtss_f32, _mm_loadu_si128, _mm_max_ps, _mm_max_ss,
    _mm_movehdup_ps, _mm_movehl_ps, _mm256_add_epi32, _mm256_add_ps, _mm256_and_ps, _mm256_castps_si256,
    _mm256_castps256_ps128, _mm256_castsi256_ps, _mm256_cmp_ps, _mm256_cvtph_ps, _mm256_extractf128_ps,
    _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_loadu_si256, _mm256_max_ps, _mm256_mul_ps, _mm256_set1_epi32,
    _mm256_set1_ps, _mm256_slli_epi32, _mm256_storeu_ps, _mm512_add_ps, _mm512_cmp_ps_mask, _mm512_cvtph_ps,
    _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_maskz_scalef_ps, _mm512_max_ps, _mm512_mul_ps, _mm512_reduce_add_ps,
    _mm512_reduce_max_ps, _mm512_set1_ps, _mm512_storeu_ps,
};

use half::f16;

use crate::kernels::vector::functions::ROUND;
use crate::kernels::vector::register::reduced;
use crate::kernels::vector::{LANES, Register};

/// One register of AVX-512.
///
/// Invariant: exists only in functions compiled for AVX-512, on processors that have it.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Wide(pub(in crate::kernels) __m512);

/// A step on registers.
macro_rules! step {
    ($step:expr) => {
        // SAFETY: the processor has AVX-512 F, by the type's invariant; memory is accessed through references to
        // arrays of the register's size.
        Self(unsafe { $step })
    };
}

impl Register for Wide {
    #[inline(always)]
    fn splat(value: f32) -> Self {
        step!(_mm512_set1_ps(value))
    }

    #[inline(always)]
    fn of(values: &[f32; LANES]) -> Self {
        step!(_mm512_loadu_ps(values.as_ptr()))
    }

    #[inline(always)]
    fn of_halves(values: &[f16; LANES]) -> Self {
        step!(_mm512_cvtph_ps(_mm256_loadu_si256(values.as_ptr().cast())))
    }

    #[inline(always)]
    fn write(self, values: &mut [f32; LANES]) {
        // SAFETY: as in `step`.
        unsafe { _mm512_storeu_ps(values.as_mut_ptr(), self.0) }
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        step!(_mm512_add_ps(self.0, other.0))
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        step!(_mm512_mul_ps(self.0, other.0))
    }

    #[inline(always)]
    fn multiply_add(self, b: Self, c: Self) -> Self {
        step!(_mm512_fmadd_ps(self.0, b.0, c.0))
    }

    #[inline(always)]
    fn larger(self, other: Self) -> Self {
        step!(_mm512_max_ps(self.0, other.0))
    }

    #[inline(always)]
    fn decay(self) -> Self {
        // The bound first: NaN then stays.
        let (p, shifted) = reduced(Self::splat(-87.0).larger(self));
        let n = shifted.add(Self::splat(-ROUND));
        step!({
            let is_kept = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(self.0, _mm512_set1_ps(-87.0));
            _mm512_maskz_scalef_ps(is_kept, p.0, n.0)
        })
    }

    #[inline(always)]
    fn sum(self) -> f32 {
        // SAFETY: as in `step`.
        unsafe { _mm512_reduce_add_ps(self.0) }
    }

    #[inline(always)]
    fn largest(self) -> f32 {
        // SAFETY: as in `step`.
        unsafe { _mm512_reduce_max_ps(self.0) }
    }
}

/// Two registers of AVX2.
///
/// Invariant: exists only in functions compiled for AVX2, FMA and F16C, on processors that have them.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Pair(pub(in crate::kernels) [__m256; 2]);

/// A step on pairs of registers, half by half.
macro_rules! halves {
    ($half:ident => $step:expr) => {
        Self([halves!(@ $half, 0, $step), halves!(@ $half, 1, $step)])
    };
    (@ $half:ident, $number:literal, $step:expr) => {{
        let $half: usize = $number;
        // SAFETY: the processor has AVX2, FMA and F16C, by the type's invariant; memory is accessed through references
        // to arrays of sixteen values, of which each register is half.
        unsafe { $step }
    }};
}

impl Register for Pair {
    #[inline(always)]
    fn splat(value: f32) -> Self {
        halves!(_half => _mm256_set1_ps(value))
    }

    #[inline(always)]
    fn of(values: &[f32; LANES]) -> Self {
        halves!(half => _mm256_loadu_ps(values.as_ptr().add(half * 8)))
    }

    #[inline(always)]
    fn of_halves(values: &[f16; LANES]) -> Self {
        halves!(half => _mm256_cvtph_ps(_mm_loadu_si128(values.as_ptr().add(half * 8).cast())))
    }

    #[inline(always)]
    fn write(self, values: &mut [f32; LANES]) {
        // SAFETY: as in `halves`.
        unsafe {
            _mm256_storeu_ps(values.as_mut_ptr(), self.0[0]);
            _mm256_storeu_ps(values.as_mut_ptr().add(8), self.0[1]);
        }
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        halves!(half => _mm256_add_ps(self.0[half], other.0[half]))
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        halves!(half => _mm256_mul_ps(self.0[half], other.0[half]))
    }

    #[inline(always)]
    fn multiply_add(self, b: Self, c: Self) -> Self {
        halves!(half => _mm256_fmadd_ps(self.0[half], b.0[half], c.0[half]))
    }

    #[inline(always)]
    fn larger(self, other: Self) -> Self {
        halves!(half => _mm256_max_ps(self.0[half], other.0[half]))
    }

    #[inline(always)]
    fn decay(self) -> Self {
        let (p, shifted) = reduced(Self::splat(-87.0).larger(self));
        halves!(half => {
            let power = _mm256_slli_epi32::<23>(_mm256_castps_si256(shifted.0[half]));
            let power = _mm256_castsi256_ps(_mm256_add_epi32(power, _mm256_set1_epi32(0x3f80_0000)));
            let is_kept = _mm256_cmp_ps::<_CMP_NLT_UQ>(self.0[half], _mm256_set1_ps(-87.0));
            _mm256_and_ps(is_kept, _mm256_mul_ps(p.0[half], power))
        })
    }

    #[inline(always)]
    fn sum(self) -> f32 {
        // SAFETY: as in `halves`.
        unsafe {
            let eight = _mm256_add_ps(self.0[0], self.0[1]);
            let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        }
    }

    #[inline(always)]
    fn largest(self) -> f32 {
        // SAFETY: as in `halves`.
        unsafe {
            let eight = _mm256_max_ps(self.0[0], self.0[1]);
            let four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
        }
    }
}
