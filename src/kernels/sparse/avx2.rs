//! Spreading by shuffles over 128 bits, whose orders are in tables.

#![expect(clippy::inline_always, reason = "vector code must become part of the function that has the instructions")]

use std::arch::x86_64::{
    __m128i, __m256, __m256i, _mm_and_si128, _mm_cvtsi32_si128, _mm_loadu_si128, _mm_or_si128, _mm_set_epi64x,
    _mm_set1_epi8, _mm_shuffle_epi8, _mm_storeu_si128, _mm256_cvtepi32_ps, _mm256_cvtph_ps, _mm256_set_m128i,
    _mm256_set1_epi8, _mm256_sll_epi32, _mm256_srai_epi32, _mm256_xor_si256,
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
    fn halves(self, values: &[f16; PADDING], mask: u64) -> [Pair; STEP_INPUTS] {
        let (bits, before) = (mask.to_le_bytes(), before(mask));
        let eight = |index: usize| proven!(self, halves(values, bits[index], before[index]));
        [0, 2, 4, 6].map(
            #[inline(always)]
            |index| Pair([eight(index), eight(index + 1)]),
        )
    }

    #[inline(always)]
    fn numbers(self, values: &[Raised; PADDING], mask: u64) -> [Pair; STEP_INPUTS] {
        proven!(self, {
            let codes = codes(values, mask);
            let halves = [_mm256_set_m128i(codes[1], codes[0]), _mm256_set_m128i(codes[3], codes[2])];
            let centered = halves.map(
                #[inline(always)]
                |half| _mm256_xor_si256(half, _mm256_set1_epi8(i8::MIN)),
            );
            [24, 16, 8, 0].map(
                #[inline(always)]
                |shift| Pair([number(centered[0], shift), number(centered[1], shift)]),
            )
        })
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

/// 8 weights whose bits are a byte of a mask, which values `before` come before.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn halves(values: &[f16; PADDING], bits: u8, before: u8) -> __m256 {
    let values = &values[usize::from(before).min(PADDING - 8)..];
    // SAFETY: 16 bytes of 8 values, and of an order.
    let (values, order) = unsafe {
        (_mm_loadu_si128(values.as_ptr().cast()), _mm_loadu_si128(HALVES[usize::from(bits)].as_ptr().cast()))
    };
    _mm256_cvtph_ps(_mm_shuffle_epi8(values, order))
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
        let values = &values[usize::from(first).min(PADDING - 16)..];
        // SAFETY: 16 bytes of as many values.
        let values = unsafe { _mm_loadu_si128(values.as_ptr().cast()) };
        *codes = _mm_or_si128(_mm_shuffle_epi8(values, order), _mm_and_si128(order, _mm_set1_epi8(i8::MIN)));
    }
    codes
}

/// The bytes with a sign that `shift` bits to the left are the first of their lanes.
#[inline]
#[target_feature(enable = "avx2")]
fn number(codes: __m256i, shift: i32) -> __m256 {
    _mm256_cvtepi32_ps(_mm256_srai_epi32::<24>(_mm256_sll_epi32(codes, _mm_cvtsi32_si128(shift))))
}
