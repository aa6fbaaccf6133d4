//! 512 and 256 bits on x86-64.

#![expect(clippy::inline_always, reason = "vector code must become part of the function that has the instructions")]

use std::arch::x86_64::{
    __m128i, __m256, __m256i, __m512, _MM_HINT_T1, _mm_and_si128, _mm_loadu_si128, _mm_prefetch, _mm_set1_epi8,
    _mm_srli_si128, _mm256_and_si256, _mm256_castsi256_ps, _mm256_castsi256_si128, _mm256_cvtepi8_epi16,
    _mm256_cvtepi32_ps, _mm256_cvtepu8_epi32, _mm256_cvtepu16_epi32, _mm256_cvtph_ps, _mm256_extracti128_si256,
    _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_loadu_si256, _mm256_mul_ps, _mm256_set1_epi16, _mm256_set1_ps,
    _mm256_slli_epi16, _mm256_slli_epi32, _mm256_storeu_ps, _mm512_and_si512, _mm512_castsi512_ps, _mm512_cvtepi32_ps,
    _mm512_cvtepu8_epi32, _mm512_cvtepu16_epi32, _mm512_cvtph_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_mul_ps,
    _mm512_set1_epi32, _mm512_set1_ps, _mm512_slli_epi32, _mm512_storeu_ps,
};

use super::simd::{LANES, NARROW_PANELS, ROWS, Simd, Task};
use crate::kernels::isa::Isa;

/// Instructions that a token proves.
macro_rules! proven {
    ($token:expr, $instructions:expr) => {{
        let _proof: Self = $token;
        // SAFETY: the token is made only where the processor has the instructions that its methods use. Addresses come
        // from references to arrays of the length that is read or written.
        unsafe { $instructions }
    }};
}

/// AVX-512 F, BW, DQ and VL.
#[derive(Debug, Clone, Copy)]
pub(super) struct Avx512(());

impl Avx512 {
    /// The token, where `isa` is available and has the instructions.
    pub(super) fn of(isa: Isa) -> Option<Self> {
        (isa >= Isa::Avx512 && Isa::available().any(|available| available == isa)).then_some(Self(()))
    }
}

impl Simd for Avx512 {
    type Vector = __m512;

    const PANELS: [usize; ROWS] = [6, 4, 4, 4, 4, 4];

    fn run(self, task: impl Task) {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
        fn compiled(task: impl Task, simd: Avx512) {
            task.run(simd);
        }
        proven!(self, compiled(task, self));
    }

    #[inline(always)]
    fn fetch<T>(self, value: &T) {
        proven!(self, _mm_prefetch::<_MM_HINT_T1>(std::ptr::from_ref(value).cast::<i8>()));
    }

    #[inline(always)]
    fn splat(self, value: f32) -> __m512 {
        proven!(self, _mm512_set1_ps(value))
    }

    #[inline(always)]
    fn load(self, values: &[f32; LANES]) -> __m512 {
        proven!(self, _mm512_loadu_ps(values.as_ptr()))
    }

    #[inline(always)]
    fn store(self, vector: __m512, values: &mut [f32; LANES]) {
        proven!(self, _mm512_storeu_ps(values.as_mut_ptr(), vector));
    }

    #[inline(always)]
    fn multiply(self, a: __m512, b: __m512) -> __m512 {
        proven!(self, _mm512_mul_ps(a, b))
    }

    #[inline(always)]
    fn multiply_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        proven!(self, _mm512_fmadd_ps(a, b, c))
    }

    #[inline(always)]
    fn f16(self, bits: &[u16; LANES]) -> __m512 {
        proven!(self, _mm512_cvtph_ps(_mm256_loadu_si256(bits.as_ptr().cast())))
    }

    #[inline(always)]
    fn bf16(self, bits: &[u16; LANES]) -> __m512 {
        proven!(self, {
            let bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256(bits.as_ptr().cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits))
        })
    }

    #[inline(always)]
    fn fp8(self, codes: &[u8; LANES]) -> __m512 {
        proven!(self, _mm512_cvtph_ps(fp8_as_f16(codes)))
    }

    #[inline(always)]
    fn bytes(self, codes: &[u8; LANES]) -> __m512 {
        proven!(self, _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(codes.as_ptr().cast()))))
    }

    #[inline(always)]
    fn nibbles<const HIGH: bool>(self, codes: &[u8; LANES]) -> __m512 {
        proven!(self, {
            let codes = _mm512_cvtepu8_epi32(_mm_loadu_si128(codes.as_ptr().cast()));
            _mm512_cvtepi32_ps(_mm512_and_si512(codes, _mm512_set1_epi32(if HIGH { 0xf0 } else { 0xf })))
        })
    }
}

/// AVX2, FMA and F16C.
#[derive(Debug, Clone, Copy)]
pub(super) struct Avx2(());

impl Avx2 {
    /// The token, where `isa` is available and has the instructions.
    pub(super) fn of(isa: Isa) -> Option<Self> {
        (isa >= Isa::Avx2 && Isa::available().any(|available| available == isa)).then_some(Self(()))
    }
}

impl Simd for Avx2 {
    type Vector = [__m256; 2];

    const PANELS: [usize; ROWS] = NARROW_PANELS;

    fn run(self, task: impl Task) {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn compiled(task: impl Task, simd: Avx2) {
            task.run(simd);
        }
        proven!(self, compiled(task, self));
    }

    #[inline(always)]
    fn fetch<T>(self, value: &T) {
        proven!(self, _mm_prefetch::<_MM_HINT_T1>(std::ptr::from_ref(value).cast::<i8>()));
    }

    #[inline(always)]
    fn splat(self, value: f32) -> [__m256; 2] {
        proven!(self, [_mm256_set1_ps(value); 2])
    }

    #[inline(always)]
    fn load(self, values: &[f32; LANES]) -> [__m256; 2] {
        let [low, high] = halves(values);
        proven!(self, [_mm256_loadu_ps(low.as_ptr()), _mm256_loadu_ps(high.as_ptr())])
    }

    #[inline(always)]
    fn store(self, [low, high]: [__m256; 2], values: &mut [f32; LANES]) {
        let (first, second) = values.split_at_mut(LANES / 2);
        proven!(self, {
            _mm256_storeu_ps(first.as_mut_ptr(), low);
            _mm256_storeu_ps(second.as_mut_ptr(), high);
        });
    }

    #[inline(always)]
    fn multiply(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        proven!(self, [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])])
    }

    #[inline(always)]
    fn multiply_add(self, a: [__m256; 2], b: [__m256; 2], c: [__m256; 2]) -> [__m256; 2] {
        proven!(self, [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])])
    }

    #[inline(always)]
    fn f16(self, bits: &[u16; LANES]) -> [__m256; 2] {
        let [low, high] = halves(bits);
        proven!(self, {
            let (low, high) = (_mm_loadu_si128(low.as_ptr().cast()), _mm_loadu_si128(high.as_ptr().cast()));
            [_mm256_cvtph_ps(low), _mm256_cvtph_ps(high)]
        })
    }

    #[inline(always)]
    fn bf16(self, bits: &[u16; LANES]) -> [__m256; 2] {
        let [low, high] = halves(bits);
        proven!(self, {
            let low = _mm256_cvtepu16_epi32(_mm_loadu_si128(low.as_ptr().cast()));
            let high = _mm256_cvtepu16_epi32(_mm_loadu_si128(high.as_ptr().cast()));
            [_mm256_castsi256_ps(_mm256_slli_epi32::<16>(low)), _mm256_castsi256_ps(_mm256_slli_epi32::<16>(high))]
        })
    }

    #[inline(always)]
    fn fp8(self, codes: &[u8; LANES]) -> [__m256; 2] {
        proven!(self, {
            let bits = fp8_as_f16(codes);
            [_mm256_cvtph_ps(_mm256_castsi256_si128(bits)), _mm256_cvtph_ps(_mm256_extracti128_si256::<1>(bits))]
        })
    }

    #[inline(always)]
    fn bytes(self, codes: &[u8; LANES]) -> [__m256; 2] {
        proven!(self, numbers(_mm_loadu_si128(codes.as_ptr().cast())))
    }

    #[inline(always)]
    fn nibbles<const HIGH: bool>(self, codes: &[u8; LANES]) -> [__m256; 2] {
        proven!(self, {
            let codes = _mm_loadu_si128(codes.as_ptr().cast());
            numbers(_mm_and_si128(codes, _mm_set1_epi8(if HIGH { 0xf0_u8.cast_signed() } else { 0xf })))
        })
    }
}

/// E4M3 codes where half precision has the same fields: with a bias that is greater by 8.
#[inline]
#[target_feature(enable = "avx2")]
fn fp8_as_f16(codes: &[u8; LANES]) -> __m256i {
    // SAFETY: an array of 16 bytes.
    let codes = unsafe { _mm_loadu_si128(codes.as_ptr().cast()) };
    // The sign is in bit 14 too, where an exponent of 16 or more would be.
    let shifted = _mm256_slli_epi16::<7>(_mm256_cvtepi8_epi16(codes));
    _mm256_and_si256(shifted, _mm256_set1_epi16(0xbfff_u16.cast_signed()))
}

/// Bytes as numbers.
#[inline]
#[target_feature(enable = "avx2")]
fn numbers(codes: __m128i) -> [__m256; 2] {
    let low = _mm256_cvtepu8_epi32(codes);
    let high = _mm256_cvtepu8_epi32(_mm_srli_si128::<8>(codes));
    [_mm256_cvtepi32_ps(low), _mm256_cvtepi32_ps(high)]
}

#[inline(always)]
fn halves<T>(values: &[T; LANES]) -> [&[T; LANES / 2]; 2] {
    let (halves, _) = values.as_chunks();
    [&halves[0], &halves[1]]
}
