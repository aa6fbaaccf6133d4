//! Byte dot products over 256 bits: two registers are a step of a panel.

use std::arch::x86_64::{
    __m256i, _mm256_add_epi32, _mm256_and_si256, _mm256_andnot_si256, _mm256_dpbusd_avx_epi32, _mm256_loadu_si256,
    _mm256_madd_epi16, _mm256_maddubs_epi16, _mm256_set1_epi8, _mm256_set1_epi16, _mm256_set1_epi32,
    _mm256_setzero_si256, _mm256_srli_epi16, _mm256_storeu_si256,
};

use super::portable::Dots;
use super::{PANEL, STEP};

/// Processors with AVX2.
pub(super) struct Avx2;

/// Those with byte dot products too.
pub(super) struct Avx2Vnni;

/// The loops of one set of instructions.
macro_rules! dots {
    ($set:ty, $features:literal, $add:expr) => {
        impl Dots for $set {
            fn dots<const N: usize, const R: usize>(steps: &[[u8; STEP]], codes: [&[[i8; N]]; R]) -> [[i32; PANEL]; R] {
                #[target_feature(enable = $features)]
                fn dots<const N: usize, const R: usize>(
                    steps: &[[u8; STEP]],
                    mut codes: [&[[i8; N]]; R],
                ) -> [[i32; PANEL]; R] {
                    for codes in &mut codes {
                        *codes = &codes[..steps.len()];
                    }
                    let mut sums = [[_mm256_setzero_si256(); 2]; R];
                    for (k, step) in steps.iter().enumerate() {
                        let step = halves(step);
                        for part in 0..N / 4 {
                            let mut weights = step;
                            if N == 8 {
                                for weights in &mut weights {
                                    let shifted = if part == 0 { *weights } else { _mm256_srli_epi16::<4>(*weights) };
                                    *weights = _mm256_and_si256(shifted, _mm256_set1_epi8(15));
                                }
                            }
                            for r in 0..R {
                                let codes = codes[r][k].as_chunks().0[part].map(i8::cast_unsigned);
                                let codes = _mm256_set1_epi32(i32::from_ne_bytes(codes));
                                for half in 0..2 {
                                    sums[r][half] = $add(sums[r][half], weights[half], codes);
                                }
                            }
                        }
                    }
                    let mut values = [[0; PANEL]; R];
                    for (values, sums) in values.iter_mut().zip(sums) {
                        store(values, sums);
                    }
                    values
                }
                // SAFETY: this set is chosen where the processor has it, as `Isa` says.
                unsafe { dots(steps, codes) }
            }
        }
    };
}

dots!(Avx2, "avx2", add);
dots!(Avx2Vnni, "avx2,avxvnni", _mm256_dpbusd_avx_epi32);

/// Adds products of 4 bytes. Products of two bytes must fit 16 bits, so the highest bits of the weights go alone.
#[inline]
#[target_feature(enable = "avx2")]
fn add(sum: __m256i, weights: __m256i, codes: __m256i) -> __m256i {
    let high = _mm256_set1_epi8(i8::MIN);
    let one = _mm256_set1_epi16(1);
    let lows = _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_andnot_si256(high, weights), codes), one);
    let highs = _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_and_si256(high, weights), codes), one);
    _mm256_add_epi32(sum, _mm256_add_epi32(lows, highs))
}

#[inline]
#[target_feature(enable = "avx2")]
fn halves(step: &[u8; STEP]) -> [__m256i; 2] {
    let place: *const __m256i = step.as_ptr().cast();
    // SAFETY: 64 bytes, of any alignment.
    unsafe { [_mm256_loadu_si256(place), _mm256_loadu_si256(place.add(1))] }
}

#[inline]
#[target_feature(enable = "avx2")]
fn store(values: &mut [i32; PANEL], sums: [__m256i; 2]) {
    let place: *mut __m256i = values.as_mut_ptr().cast();
    // SAFETY: 64 bytes, of any alignment.
    unsafe {
        _mm256_storeu_si256(place, sums[0]);
        _mm256_storeu_si256(place.add(1), sums[1]);
    }
}
