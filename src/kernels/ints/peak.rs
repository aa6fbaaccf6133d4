//! The most that loops of this machine reach in products of 8-bit integers: from registers alone.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{
    _mm256_add_epi32, _mm256_dpbusd_avx_epi32, _mm256_madd_epi16, _mm256_maddubs_epi16, _mm256_set1_epi8,
    _mm256_set1_epi16, _mm256_setzero_si256, _mm512_add_epi32, _mm512_dpbusd_epi32, _mm512_madd_epi16,
    _mm512_maddubs_epi16, _mm512_set1_epi8, _mm512_set1_epi16, _mm512_setzero_si512,
};
#[cfg(target_arch = "x86_64")]
use std::hint::black_box;

use crate::kernels::isa::Isa;

/// Sums side by side: more than an instruction's latency covers, and few enough for 16 registers.
#[cfg(target_arch = "x86_64")]
const SUMS: usize = 12;

/// So many turns of byte products that are added to sums of 32 bits; gives the multiplications and additions of a turn.
/// `None` where the set has no such product, or none that is measured.
pub(in crate::kernels) fn dot_products(isa: Isa, turns: u64) -> Option<u64> {
    #[cfg(target_arch = "x86_64")]
    {
        let sums = SUMS as u64;
        // SAFETY: sets come from `Isa::current` or `Isa::available`, which ask the processor for these features.
        unsafe {
            match isa {
                Isa::Portable | Isa::Neon | Isa::NeonDotprod | Isa::NeonI8mm => None,
                Isa::Avx2 => {
                    avx2(turns);
                    Some(sums * 32 * 2)
                }
                Isa::Avx2Vnni => {
                    avx2_vnni(turns);
                    Some(sums * 32 * 2)
                }
                Isa::Avx512 => {
                    avx512(turns);
                    Some(sums * 64 * 2)
                }
                Isa::Avx512Vnni => {
                    avx512_vnni(turns);
                    Some(sums * 64 * 2)
                }
            }
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = (isa, turns);
        None
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn avx2(turns: u64) {
    let (b, one) = (_mm256_set1_epi8(black_box(-5)), _mm256_set1_epi16(black_box(1)));
    let mut sums = [_mm256_setzero_si256(); SUMS];
    for _ in 0..turns {
        for sum in &mut sums {
            // The sum stands for the weights too: a product of constants would be made once for all turns.
            *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(_mm256_maddubs_epi16(*sum, b), one));
        }
    }
    black_box(sums);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,avxvnni")]
fn avx2_vnni(turns: u64) {
    let (a, b) = (_mm256_set1_epi8(black_box(3)), _mm256_set1_epi8(black_box(-5)));
    let mut sums = [_mm256_setzero_si256(); SUMS];
    for _ in 0..turns {
        for sum in &mut sums {
            *sum = _mm256_dpbusd_avx_epi32(*sum, a, b);
        }
    }
    black_box(sums);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw")]
fn avx512(turns: u64) {
    let (b, one) = (_mm512_set1_epi8(black_box(-5)), _mm512_set1_epi16(black_box(1)));
    let mut sums = [_mm512_setzero_si512(); SUMS];
    for _ in 0..turns {
        for sum in &mut sums {
            *sum = _mm512_add_epi32(*sum, _mm512_madd_epi16(_mm512_maddubs_epi16(*sum, b), one));
        }
    }
    black_box(sums);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vnni")]
fn avx512_vnni(turns: u64) {
    let (a, b) = (_mm512_set1_epi8(black_box(3)), _mm512_set1_epi8(black_box(-5)));
    let mut sums = [_mm512_setzero_si512(); SUMS];
    for _ in 0..turns {
        for sum in &mut sums {
            *sum = _mm512_dpbusd_epi32(*sum, a, b);
        }
    }
    black_box(sums);
}
