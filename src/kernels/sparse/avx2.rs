//! Spreading by shuffles over 128 bits, whose orders are in tables.

#![expect(clippy::inline_always, reason = "vector code must become part of the function that has the instructions")]

use std::arch::x86_64::{
    __m128i, __m256, __m256i, _MM_HINT_T0, _mm_and_si128, _mm_loadu_si128, _mm_or_si128, _mm_prefetch, _mm_set_epi64x,
    _mm_set1_epi8, _mm_shuffle_epi8, _mm_storeu_si128, _mm256_cvtepi32_ps, _mm256_cvtph_ps, _mm256_set_m128i,
    _mm256_set1_epi8, _mm256_setzero_ps, _mm256_slli_epi32, _mm256_srai_epi32, _mm256_xor_si256,
};

use half::f16;

use super::super::ints::STEP;
use super::super::isa::Isa;
use super::super::vector::Pair;
use super::ints::Raised;
use super::spread::Spread;
use super::tables::{HALVES, before, sixteen};
use super::{PADDING, STEP_INPUTS};

/// AVX2, FMA, F16C and POPCNT.
#[derive(Debug, Clone, Copy)]
pub(super) struct Avx2(());

impl Avx2 {
    /// The token, where `isa` has the instructions.
    pub(super) fn of(isa: Isa) -> Option<Self> {
        (isa >= Isa::Avx2).then_some(Self(()))
    }
}

/// Instructions that a token proves.
macro_rules! proven {
    ($token:expr, $instructions:expr) => {{
        let _proof: Self = $token;
        // SAFETY: the token is made only for sets that a processor has, which include these instructions.
        unsafe { $instructions }
    }};
}

impl Spread for Avx2 {
    type Vector = Pair;

    #[inline]
    fn run(self, work: impl FnOnce()) {
        #[target_feature(enable = "avx2,fma,f16c,popcnt")]
        fn compiled(work: impl FnOnce()) {
            work();
        }
        proven!(self, compiled(work));
    }

    #[inline(always)]
    fn fetch<T>(self, place: *const T) {
        proven!(self, _mm_prefetch::<_MM_HINT_T0>(place.cast()));
    }

    #[inline(always)]
    fn halves(self, values: &[f16; PADDING], mask: u64) -> [Pair; STEP_INPUTS] {
        proven!(self, halves(values, mask))
    }

    #[inline(always)]
    fn numbers(self, values: &[Raised; PADDING], mask: u64) -> [Pair; STEP_INPUTS] {
        proven!(self, numbers(values, mask))
    }

    #[inline(always)]
    fn codes(self, values: &[Raised; PADDING], mask: u64, step: &mut [u8; STEP]) {
        proven!(self, {
            for (place, codes) in step.as_chunks_mut::<16>().0.iter_mut().zip(codes(values, mask)) {
                _mm_storeu_si128(place.as_mut_ptr().cast(), codes);
            }
        });
    }
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn halves(values: &[f16; PADDING], mask: u64) -> [Pair; STEP_INPUTS] {
    let (bits, before) = (mask.to_le_bytes(), before(mask));
    let mut weights = [Pair([_mm256_setzero_ps(); 2]); STEP_INPUTS];
    for (input, weights) in weights.iter_mut().enumerate() {
        for (half, weights) in weights.0.iter_mut().enumerate() {
            let byte = 2 * input + half;
            let order = HALVES[usize::from(bits[byte])].as_ptr();
            // SAFETY: 16 bytes of an order, and of 8 of the 64 values: at most 56 come before.
            let (values, order) = unsafe {
                let values = values.as_ptr().add(usize::from(before[byte]));
                (_mm_loadu_si128(values.cast()), _mm_loadu_si128(order.cast()))
            };
            *weights = _mm256_cvtph_ps(_mm_shuffle_epi8(values, order));
        }
    }
    weights
}

#[inline]
#[target_feature(enable = "avx2")]
fn numbers(values: &[Raised; PADDING], mask: u64) -> [Pair; STEP_INPUTS] {
    let codes = codes(values, mask);
    let (raise, mut weights) = (_mm256_set1_epi8(i8::MIN), [Pair([_mm256_setzero_ps(); 2]); STEP_INPUTS]);
    for half in 0..2 {
        let centered = _mm256_xor_si256(_mm256_set_m128i(codes[2 * half + 1], codes[2 * half]), raise);
        weights[0].0[half] = number(_mm256_slli_epi32::<24>(centered));
        weights[1].0[half] = number(_mm256_slli_epi32::<16>(centered));
        weights[2].0[half] = number(_mm256_slli_epi32::<8>(centered));
        weights[3].0[half] = number(centered);
    }
    weights
}

/// The codes in the bytes whose bit is set, raised by 128 as they are held; 128 for zero elsewhere.
#[inline]
#[target_feature(enable = "avx2")]
fn codes(values: &[Raised; PADDING], mask: u64) -> [__m128i; 4] {
    let (bits, before) = (mask.to_le_bytes(), before(mask));
    let mut codes = [_mm_set1_epi8(i8::MIN); 4];
    for (part, codes) in codes.iter_mut().enumerate() {
        let [first, second] = [before[2 * part], before[2 * part + 1]];
        let [low, high] = sixteen([bits[2 * part], bits[2 * part + 1]], second - first);
        let order = _mm_set_epi64x(high.cast_signed(), low.cast_signed());
        // SAFETY: 16 bytes of as many of the 64 values: at most 48 come before.
        let values = unsafe { _mm_loadu_si128(values.as_ptr().add(usize::from(first)).cast()) };
        *codes = _mm_or_si128(_mm_shuffle_epi8(values, order), _mm_and_si128(order, _mm_set1_epi8(i8::MIN)));
    }
    codes
}

/// The last bytes of the lanes, with their signs.
#[inline]
#[target_feature(enable = "avx2")]
fn number(codes: __m256i) -> __m256 {
    _mm256_cvtepi32_ps(_mm256_srai_epi32::<24>(codes))
}
