//! 512 bits at a time.

#![expect(clippy::inline_always, reason = "the instructions of the caller are used only where it is inlined")]

use std::arch::x86_64::{
    __m512, __m512i, _MM_HINT_T0, _mm_cvtsi32_si128, _mm_cvtsi128_si32, _mm_extract_epi16, _mm_loadu_si128,
    _mm_prefetch, _mm_sad_epu8, _mm_set1_epi8, _mm_setzero_si128, _mm_storeu_si128, _mm_xor_si128, _mm256_loadu_si256,
    _mm512_abs_ps, _mm512_add_epi32, _mm512_and_si512, _mm512_castps_si512, _mm512_cvtepi8_epi32, _mm512_cvtepi32_epi8,
    _mm512_cvtepi32_ps, _mm512_cvtph_ps, _mm512_cvtps_epi32, _mm512_dpbusd_epi32, _mm512_fmadd_ps, _mm512_loadu_ps,
    _mm512_loadu_si512, _mm512_madd_epi16, _mm512_maddubs_epi16, _mm512_max_epu32, _mm512_mul_ps, _mm512_or_si512,
    _mm512_reduce_max_epu32, _mm512_set1_epi8, _mm512_set1_epi16, _mm512_set1_epi32, _mm512_set1_ps, _mm512_sll_epi16,
    _mm512_srl_epi16, _mm512_storeu_ps,
};

use half::f16;

use super::super::pool::Share;
use super::format::Format;
use super::lanes::{LINE, Lanes, OUTPUTS};
use super::rounding::{self, RoundedTile, RoundedUnit, UNIT};
use super::run::{self, Job};

/// A share of a product.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn run<F: Format>(job: &Job<'_>, share: Share) {
    run::run::<Avx512<false>, F>(Avx512(()), job, share);
}

/// A share of a product, with the 8-bit dot product.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn run_vnni<F: Format>(job: &Job<'_>, share: Share) {
    run::run::<Avx512<true>, F>(Avx512(()), job, share);
}

/// Rounds the rows of a tile.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn round(values: &[f32], n_inputs: usize, tile: RoundedTile<'_>) {
    rounding::round_tile(values, n_inputs, tile, |values| round_unit(values));
}

/// As [`rounding::round_unit`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
#[inline]
fn round_unit(values: &[f32; UNIT]) -> RoundedUnit {
    let (first, second) = values.split_at(UNIT / 2);
    // SAFETY: 64 bytes are read from either half.
    let (first, second) = unsafe { (_mm512_loadu_ps(first.as_ptr()), _mm512_loadu_ps(second.as_ptr())) };
    let magnitude = |values| _mm512_castps_si512(_mm512_abs_ps(values));
    let largest = _mm512_reduce_max_epu32(_mm512_max_epu32(magnitude(first), magnitude(second)));
    let (scale, inverse) = rounding::scale(largest);
    let code = |values| _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(values, _mm512_set1_ps(inverse))));
    let codes = [code(first), code(second)];
    let sum = |codes| {
        let sums = _mm_sad_epu8(_mm_xor_si128(codes, _mm_set1_epi8(-128)), _mm_setzero_si128());
        _mm_cvtsi128_si32(sums) + _mm_extract_epi16::<4>(sums) - 16 * 128
    };
    let mut bytes = [0; UNIT];
    for (bytes, codes) in bytes.as_chunks_mut::<16>().0.iter_mut().zip(codes) {
        // SAFETY: 16 bytes are written.
        unsafe { _mm_storeu_si128(bytes.as_mut_ptr().cast(), codes) }
    }
    (bytes, scale, codes.map(sum))
}

/// Invariant: made only by [`run`] and, with the dot product, by [`run_vnni`]: on a processor that has the
/// instructions.
#[derive(Debug, Clone, Copy)]
pub(super) struct Avx512<const HAS_DOT: bool>(());

impl<const HAS_DOT: bool> Lanes for Avx512<HAS_DOT> {
    type Bytes = __m512i;
    type Ints = __m512i;
    type Floats = __m512;
    const PARTS: usize = 1;
    const CENTERS: bool = false;
    const MAX_ROWS: usize = 8;

    #[inline(always)]
    fn prefetch(self, line: *const u8) {
        // SAFETY: a hint, which reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.cast()) }
    }

    #[inline(always)]
    fn bytes(self, line: &[u8; LINE], _part: usize) -> __m512i {
        // SAFETY: the type's invariant; 64 bytes are read.
        unsafe { _mm512_loadu_si512(line.as_ptr().cast()) }
    }

    #[inline(always)]
    fn field(self, bytes: __m512i, from: u32, mask: u8, to: u32) -> __m512i {
        // SAFETY: the type's invariant.
        unsafe {
            let mask = _mm512_set1_epi8((mask << to).cast_signed());
            let shifted = if from > to {
                _mm512_srl_epi16(bytes, _mm_cvtsi32_si128((from - to).cast_signed()))
            } else {
                _mm512_sll_epi16(bytes, _mm_cvtsi32_si128((to - from).cast_signed()))
            };
            _mm512_and_si512(shifted, mask)
        }
    }

    #[inline(always)]
    fn or(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: the type's invariant.
        unsafe { _mm512_or_si512(a, b) }
    }

    #[inline(always)]
    fn int(self, value: i32) -> __m512i {
        // SAFETY: the type's invariant.
        unsafe { _mm512_set1_epi32(value) }
    }

    /// Without the instruction as in [`super::avx2`], but for codes of 8 bits: those run there.
    #[inline(always)]
    fn dot<const IS_WIDE: bool>(self, sum: __m512i, bytes: __m512i, inputs: [i8; 4]) -> __m512i {
        let inputs = i32::from_ne_bytes(inputs.map(i8::cast_unsigned));
        // SAFETY: the type's invariant.
        unsafe {
            let inputs = _mm512_set1_epi32(inputs);
            debug_assert!(HAS_DOT || !IS_WIDE, "codes below 128");
            if HAS_DOT {
                return _mm512_dpbusd_epi32(sum, bytes, inputs);
            }
            let pairs = _mm512_maddubs_epi16(bytes, inputs);
            _mm512_add_epi32(sum, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)))
        }
    }

    #[inline(always)]
    fn floats(self, values: __m512i) -> __m512 {
        // SAFETY: the type's invariant.
        unsafe { _mm512_cvtepi32_ps(values) }
    }

    #[inline(always)]
    fn float(self, value: f32) -> __m512 {
        // SAFETY: the type's invariant.
        unsafe { _mm512_set1_ps(value) }
    }

    #[inline(always)]
    fn halves(self, values: &[f16; OUTPUTS], _part: usize) -> __m512 {
        // SAFETY: the type's invariant; 32 bytes are read.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(values.as_ptr().cast())) }
    }

    #[inline(always)]
    fn small(self, values: &[u8; OUTPUTS], _part: usize) -> __m512 {
        // SAFETY: the type's invariant; 16 bytes are read.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(values.as_ptr().cast()))) }
    }

    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the type's invariant.
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: the type's invariant.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn store(self, values: __m512, into: &mut [f32; OUTPUTS], _part: usize) {
        // SAFETY: the type's invariant; 64 bytes are written.
        unsafe { _mm512_storeu_ps(into.as_mut_ptr(), values) }
    }
}
