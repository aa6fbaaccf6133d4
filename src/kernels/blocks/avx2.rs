//! 256 bits at a time.

#![expect(clippy::inline_always, reason = "the instructions of the caller are used only where it is inlined")]

use std::arch::x86_64::{
    __m256, __m256i, _MM_HINT_T0, _mm_cvtsi32_si128, _mm_loadl_epi64, _mm_loadu_si128, _mm_prefetch, _mm256_abs_epi8,
    _mm256_add_epi32, _mm256_and_si256, _mm256_cvtepi8_epi32, _mm256_cvtepi32_ps, _mm256_cvtph_ps,
    _mm256_dpbusd_avx_epi32, _mm256_fmadd_ps, _mm256_loadu_si256, _mm256_madd_epi16, _mm256_maddubs_epi16,
    _mm256_mul_ps, _mm256_or_si256, _mm256_set1_epi8, _mm256_set1_epi16, _mm256_set1_epi32, _mm256_set1_ps,
    _mm256_sign_epi8, _mm256_sll_epi16, _mm256_srl_epi16, _mm256_storeu_ps, _mm256_xor_si256,
};

use half::f16;

use super::super::pool::Share;
use super::format::Format;
use super::lanes::{LINE, Lanes, OUTPUTS};
use super::run::{self, Job};

/// A share of a product.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn run<F: Format>(job: &Job<'_>, share: Share) {
    run::run::<Avx2<false>, F>(Avx2(()), job, share);
}

/// A share of a product, with the 8-bit dot product.
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
pub(super) fn run_vnni<F: Format>(job: &Job<'_>, share: Share) {
    run::run::<Avx2<true>, F>(Avx2(()), job, share);
}

/// Invariant: made only by [`run`] and, with the dot product, by [`run_vnni`]: on a processor that has the
/// instructions.
#[derive(Debug, Clone, Copy)]
pub(super) struct Avx2<const HAS_DOT: bool>(());

impl<const HAS_DOT: bool> Lanes for Avx2<HAS_DOT> {
    type Bytes = __m256i;
    type Ints = __m256i;
    type Floats = __m256;
    const PARTS: usize = 2;
    const CENTERS: bool = !HAS_DOT;
    const MAX_ROWS: usize = 4;

    #[inline(always)]
    fn prefetch(self, line: *const u8) {
        // SAFETY: a hint, which reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.cast()) }
    }

    #[inline(always)]
    fn bytes(self, line: &[u8; LINE], part: usize) -> __m256i {
        let half = &line.as_chunks::<32>().0[part];
        // SAFETY: the type's invariant; 32 bytes are read.
        unsafe { _mm256_loadu_si256(half.as_ptr().cast()) }
    }

    #[inline(always)]
    fn field(self, bytes: __m256i, from: u32, mask: u8, to: u32) -> __m256i {
        // SAFETY: the type's invariant.
        unsafe {
            let mask = _mm256_set1_epi8((mask << to).cast_signed());
            let shifted = if from > to {
                _mm256_srl_epi16(bytes, _mm_cvtsi32_si128((from - to).cast_signed()))
            } else {
                _mm256_sll_epi16(bytes, _mm_cvtsi32_si128((to - from).cast_signed()))
            };
            _mm256_and_si256(shifted, mask)
        }
    }

    #[inline(always)]
    fn or(self, a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: the type's invariant.
        unsafe { _mm256_or_si256(a, b) }
    }

    #[inline(always)]
    fn int(self, value: i32) -> __m256i {
        // SAFETY: the type's invariant.
        unsafe { _mm256_set1_epi32(value) }
    }

    /// Without the instruction, pairs of products are added in 16 bits: two of at most 127 * 128 fit. Codes that may be
    /// larger are centered first, and their sign moved to the inputs.
    #[inline(always)]
    fn dot<const IS_WIDE: bool>(self, sum: __m256i, bytes: __m256i, inputs: [i8; 4]) -> __m256i {
        let inputs = i32::from_ne_bytes(inputs.map(i8::cast_unsigned));
        // SAFETY: the type's invariant.
        unsafe {
            let inputs = _mm256_set1_epi32(inputs);
            if HAS_DOT {
                return _mm256_dpbusd_avx_epi32(sum, bytes, inputs);
            }
            let pairs = if IS_WIDE {
                let centered = _mm256_xor_si256(bytes, _mm256_set1_epi8(-128));
                _mm256_maddubs_epi16(_mm256_abs_epi8(centered), _mm256_sign_epi8(inputs, centered))
            } else {
                _mm256_maddubs_epi16(bytes, inputs)
            };
            _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
        }
    }

    #[inline(always)]
    fn floats(self, values: __m256i) -> __m256 {
        // SAFETY: the type's invariant.
        unsafe { _mm256_cvtepi32_ps(values) }
    }

    #[inline(always)]
    fn float(self, value: f32) -> __m256 {
        // SAFETY: the type's invariant.
        unsafe { _mm256_set1_ps(value) }
    }

    #[inline(always)]
    fn halves(self, values: &[f16; OUTPUTS], part: usize) -> __m256 {
        let half = &values.as_chunks::<8>().0[part];
        // SAFETY: the type's invariant; 16 bytes are read.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(half.as_ptr().cast())) }
    }

    #[inline(always)]
    fn small(self, values: &[u8; OUTPUTS], part: usize) -> __m256 {
        let half = &values.as_chunks::<8>().0[part];
        // SAFETY: the type's invariant; 8 bytes are read.
        unsafe { _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(half.as_ptr().cast()))) }
    }

    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: the type's invariant.
        unsafe { _mm256_mul_ps(a, b) }
    }

    #[inline(always)]
    fn fma(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        // SAFETY: the type's invariant.
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn store(self, values: __m256, into: &mut [f32; OUTPUTS], part: usize) {
        let half = &mut into.as_chunks_mut::<8>().0[part];
        // SAFETY: the type's invariant; 32 bytes are written.
        unsafe { _mm256_storeu_ps(half.as_mut_ptr(), values) }
    }
}
