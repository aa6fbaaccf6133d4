//! Byte dot products over 512 bits: one register is a step of a panel, and its 16 sums.

use std::arch::x86_64::{
    __m512, __m512i, _MM_FROUND_NO_EXC, _MM_FROUND_TO_NEAREST_INT, _MM_HINT_T1, _mm_and_si128, _mm_prefetch,
    _mm_set_epi64x, _mm_set1_epi8, _mm_set1_epi64x, _mm_srli_epi16, _mm_unpacklo_epi64, _mm256_loadu_si256,
    _mm512_add_epi32, _mm512_and_si512, _mm512_andnot_si512, _mm512_cvtepi32_ps, _mm512_cvtepu8_epi32, _mm512_cvtph_ps,
    _mm512_cvtps_epi32, _mm512_dpbusd_epi32, _mm512_fmadd_ps, _mm512_fnmadd_ps, _mm512_loadu_si512, _mm512_madd_epi16,
    _mm512_maddubs_epi16, _mm512_max_ps, _mm512_min_ps, _mm512_mul_ps, _mm512_mullo_epi32, _mm512_roundscale_ps,
    _mm512_set1_epi8, _mm512_set1_epi16, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps, _mm512_setzero_si512,
    _mm512_srli_epi16, _mm512_storeu_ps, _mm512_storeu_si512, _mm512_sub_epi32, _mm512_sub_ps,
};
use std::ops::Range;

use super::super::tokens::{RUN, Tokens};
use super::portable::Dots;
use super::{Ints, PANEL, PanelZeros, STEP, Store};

/// Rows and panels of a tile where a row is one group: 24 sums, 3 steps and the codes fill 28 of 32 registers.
const LONG: (usize, usize) = (8, 3);
/// The same for groups: 12 sums of integers, 12 of floats, 2 steps and the codes.
const SHORT: (usize, usize) = (4, 3);
/// Rows whose sums wait in the first-level cache, 12 KiB, for the next block of inputs.
const ROWS: usize = 64;
/// Steps of a block: those of a tile's panels stay in the first-level cache, 24 KiB, while all rows pass.
const BLOCK: usize = 128;

/// The outputs of some panels, `N` inputs a step.
///
/// # Safety
/// The processor has AVX-512 F, BW, DQ, VL and VNNI.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) unsafe fn multiply<const N: usize>(ints: &Ints, x: &Tokens, panels: Range<usize>, store: &Store<'_>) {
    let width = if ints.is_long() { LONG.1 } else { SHORT.1 };
    let mut panel = panels.start;
    while panel < panels.end {
        let is_wide = panels.end - panel >= width;
        match (ints.is_long(), is_wide) {
            (true, true) => long_rows::<N, { LONG.1 }>(ints, x, panel, store),
            (true, false) => long_rows::<N, 1>(ints, x, panel, store),
            (false, true) => short_rows::<N, { SHORT.1 }>(ints, x, panel, store),
            (false, false) => short_rows::<N, 1>(ints, x, panel, store),
        }
        panel += if is_wide { width } else { 1 };
    }
}

/// All rows with `P` panels, a row being one group.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn long_rows<const N: usize, const P: usize>(ints: &Ints, x: &Tokens, panel: usize, store: &Store<'_>) {
    for row in (0..x.n_rows()).step_by(LONG.0) {
        match x.n_rows() - row {
            1 => long_tile::<N, P, 1>(ints, x, panel, row, store),
            2 => long_tile::<N, P, 2>(ints, x, panel, row, store),
            3 => long_tile::<N, P, 3>(ints, x, panel, row, store),
            4 => long_tile::<N, P, 4>(ints, x, panel, row, store),
            5 => long_tile::<N, P, 5>(ints, x, panel, row, store),
            6 => long_tile::<N, P, 6>(ints, x, panel, row, store),
            7 => long_tile::<N, P, 7>(ints, x, panel, row, store),
            _ => long_tile::<N, P, { LONG.0 }>(ints, x, panel, row, store),
        }
    }
}

/// All rows with `P` panels in groups, a block of inputs after the other.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn short_rows<const N: usize, const P: usize>(ints: &Ints, x: &Tokens, panel: usize, store: &Store<'_>) {
    let block = (BLOCK * N / ints.group_len).max(1);
    for first_row in (0..x.n_rows()).step_by(ROWS) {
        let rows = first_row..(first_row + ROWS).min(x.n_rows());
        let mut sums = [[[_mm512_setzero_ps(); P]; SHORT.0]; ROWS / SHORT.0];
        for first in (0..ints.n_groups()).step_by(block) {
            let groups = first..(first + block).min(ints.n_groups());
            for (row, sums) in rows.clone().step_by(SHORT.0).zip(&mut sums) {
                let groups = groups.clone();
                match rows.end - row {
                    1 => short_tile::<N, P, 1>(ints, x, panel, row, groups, sums),
                    2 => short_tile::<N, P, 2>(ints, x, panel, row, groups, sums),
                    3 => short_tile::<N, P, 3>(ints, x, panel, row, groups, sums),
                    _ => short_tile::<N, P, { SHORT.0 }>(ints, x, panel, row, groups, sums),
                }
            }
        }
        for (row, sums) in rows.clone().zip(sums.as_flattened()) {
            finish(x, panel, row, sums, store);
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn long_tile<const N: usize, const P: usize, const R: usize>(
    ints: &Ints,
    x: &Tokens,
    panel: usize,
    row: usize,
    store: &Store<'_>,
) {
    let mut sums = [[_mm512_setzero_ps(); P]; R];
    let mut steps = [&ints.codes[..]; P];
    let mut codes = [&[[0; N]][..]; R];
    for section in ints.sections() {
        for (p, steps) in steps.iter_mut().enumerate() {
            *steps = &ints.panel(panel + p)[section.steps.clone()];
        }
        for (r, codes) in codes.iter_mut().enumerate() {
            *codes = &x.codes(row + r).as_chunks().0[section.steps.clone()];
        }
        let dots = dots(steps, codes, P * ints.n_steps());
        let mut totals = [0; R];
        for (r, total) in totals.iter_mut().enumerate() {
            *total = x.sum(row + r, &section.runs);
        }
        for p in 0..P {
            let (scales, zeros) = grid(ints, (panel + p) * ints.n_groups() + section.group);
            // The whole part is a code, so that it multiplies exactly.
            let whole = _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(zeros);
            let whole = _mm512_min_ps(_mm512_max_ps(whole, _mm512_setzero_ps()), _mm512_set1_ps(255.0));
            let (broken, whole) = (_mm512_sub_ps(zeros, whole), _mm512_cvtps_epi32(whole));
            for r in 0..R {
                let dot = _mm512_sub_epi32(dots[r][p], _mm512_mullo_epi32(whole, _mm512_set1_epi32(totals[r])));
                let dot = _mm512_fnmadd_ps(broken, _mm512_set1_ps(totals[r] as f32), _mm512_cvtepi32_ps(dot));
                sums[r][p] = _mm512_fmadd_ps(scales, dot, sums[r][p]);
            }
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        finish(x, panel, row + r, sums, store);
    }
}

/// The sums of a tile over steps that follow each other. They stay in registers here only while nothing else is in this
/// function.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn dots<const N: usize, const P: usize, const R: usize>(
    steps: [&[[u8; STEP]]; P],
    codes: [&[[i8; N]]; R],
    ahead: usize,
) -> [[__m512i; P]; R] {
    let n_steps = steps[0].len();
    let (steps, codes) = (run_of(steps, 0, n_steps), run_of(codes, 0, n_steps));
    let mut dots = [[_mm512_setzero_si512(); P]; R];
    for k in 0..n_steps {
        step(&mut dots, steps, codes, k, ahead);
    }
    dots
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn short_tile<const N: usize, const P: usize, const R: usize>(
    ints: &Ints,
    x: &Tokens,
    panel: usize,
    row: usize,
    groups: Range<usize>,
    all_sums: &mut [[__m512; P]; SHORT.0],
) {
    let (n_groups, runs_a_group) = (ints.n_groups(), ints.group_len / RUN);
    let ahead = P * ints.n_steps();
    let mut steps = [&ints.codes[..]; P];
    for (p, steps) in steps.iter_mut().enumerate() {
        *steps = ints.panel(panel + p);
    }
    let mut codes = [&[[0; N]][..]; R];
    let mut totals = [&[0][..]; R];
    for (r, (codes, totals)) in codes.iter_mut().zip(&mut totals).enumerate() {
        (*codes, *totals) = (x.codes(row + r).as_chunks().0, x.sums(row + r));
    }
    let mut sums = [[_mm512_setzero_ps(); P]; R];
    sums.copy_from_slice(&all_sums[..R]);
    for group in groups {
        let mut dots = [[_mm512_setzero_si512(); P]; R];
        let mut total = [0; R];
        for run in group * runs_a_group..(group + 1) * runs_a_group {
            let (steps, codes) = (run_of(steps, run, RUN / N), run_of(codes, run, RUN / N));
            for k in 0..RUN / N {
                step::<N, P, R>(&mut dots, steps, codes, k, ahead);
            }
            for (total, totals) in total.iter_mut().zip(totals) {
                *total += totals[run];
            }
        }
        for p in 0..P {
            let (scales, zeros) = grid(ints, (panel + p) * n_groups + group);
            for r in 0..R {
                let dot = _mm512_cvtepi32_ps(dots[r][p]);
                let dot = _mm512_fnmadd_ps(zeros, _mm512_set1_ps(total[r] as f32), dot);
                sums[r][p] = _mm512_fmadd_ps(scales, dot, sums[r][p]);
            }
        }
    }
    all_sums[..R].copy_from_slice(&sums);
}

/// Adds the products of one step. What is `ahead` is fetched from memory meanwhile: the next panels.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn step<const N: usize, const P: usize, const R: usize>(
    sums: &mut [[__m512i; P]; R],
    steps: [&[[u8; STEP]]; P],
    codes: [&[[i8; N]]; R],
    k: usize,
    ahead: usize,
) {
    let mut weights = [_mm512_setzero_si512(); P];
    for (weights, steps) in weights.iter_mut().zip(steps) {
        *weights = bytes(&steps[k]);
        fetch(std::ptr::from_ref(&steps[k]).wrapping_add(ahead));
    }
    for part in 0..N / 4 {
        for (r, sums) in sums.iter_mut().enumerate() {
            let code = four(codes[r][k].as_chunks().0[part]);
            for (sum, weights) in sums.iter_mut().zip(weights) {
                *sum = _mm512_dpbusd_epi32(*sum, part_of::<N>(weights, part), code);
            }
        }
    }
}

/// The codes of a step for 4 of its inputs.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn part_of<const N: usize>(weights: __m512i, part: usize) -> __m512i {
    match (N, part) {
        (4, _) => weights,
        (_, 0) => _mm512_and_si512(weights, _mm512_set1_epi8(15)),
        _ => _mm512_and_si512(_mm512_srli_epi16::<4>(weights), _mm512_set1_epi8(15)),
    }
}

/// Processors without byte dot products: the plain loops around these sums.
pub(super) struct Avx512;

impl Dots for Avx512 {
    fn dots<const N: usize, const R: usize>(steps: &[[u8; STEP]], codes: [&[[i8; N]]; R]) -> [[i32; PANEL]; R] {
        #[target_feature(enable = "avx512f,avx512bw")]
        fn dots<const N: usize, const R: usize>(steps: &[[u8; STEP]], mut codes: [&[[i8; N]]; R]) -> [[i32; PANEL]; R] {
            for codes in &mut codes {
                *codes = &codes[..steps.len()];
            }
            let mut sums = [_mm512_setzero_si512(); R];
            for (k, step) in steps.iter().enumerate() {
                let step = bytes(step);
                for part in 0..N / 4 {
                    let weights = part_of::<N>(step, part);
                    for r in 0..R {
                        sums[r] = add(sums[r], weights, four(codes[r][k].as_chunks().0[part]), N == 4);
                    }
                }
            }
            let mut values = [[0; PANEL]; R];
            for (values, sums) in values.iter_mut().zip(sums) {
                // SAFETY: 64 bytes, of any alignment.
                unsafe { _mm512_storeu_si512(values.as_mut_ptr().cast(), sums) };
            }
            values
        }
        // SAFETY: this set is chosen where the processor has it, as `Isa` says.
        unsafe { dots(steps, codes) }
    }
}

/// Adds products of 4 bytes. Products of two bytes must fit 16 bits, so the highest bits of wide weights go alone.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn add(sum: __m512i, weights: __m512i, codes: __m512i, is_wide: bool) -> __m512i {
    let (high, one) = (_mm512_set1_epi8(i8::MIN), _mm512_set1_epi16(1));
    if !is_wide {
        return _mm512_add_epi32(sum, _mm512_madd_epi16(_mm512_maddubs_epi16(weights, codes), one));
    }
    let lows = _mm512_madd_epi16(_mm512_maddubs_epi16(_mm512_andnot_si512(high, weights), codes), one);
    let highs = _mm512_madd_epi16(_mm512_maddubs_epi16(_mm512_and_si512(high, weights), codes), one);
    _mm512_add_epi32(sum, _mm512_add_epi32(lows, highs))
}

// A loop: `map` over arrays of slices is not always inlined.
#[inline]
fn run_of<T, const M: usize>(mut slices: [&[T]; M], run: usize, len: usize) -> [&[T]; M] {
    for slice in &mut slices {
        *slice = &slice[run * len..][..len];
    }
    slices
}

/// Scales the sums of one row by its token and stores them.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn finish<const P: usize>(x: &Tokens, panel: usize, row: usize, sums: &[__m512; P], store: &Store<'_>) {
    let scale = _mm512_set1_ps(x.scale(row));
    for (p, sums) in sums.iter().enumerate() {
        store.put(row, panel + p, &values(_mm512_mul_ps(scale, *sums)));
    }
}

/// The scales and zero points of a panel's group.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn grid(ints: &Ints, place: usize) -> (__m512, __m512) {
    let zeros = match &ints.zeros {
        PanelZeros::Middle(code) => _mm512_set1_ps(f32::from(*code)),
        PanelZeros::Bytes(codes) => {
            let codes = u128::from_le_bytes(codes[place]).cast_signed();
            let codes = _mm_set_epi64x((codes >> 64) as i64, codes as i64);
            _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(codes))
        }
        PanelZeros::Halves(codes) => {
            let codes = _mm_set1_epi64x(i64::from_le_bytes(codes[place]));
            let codes = _mm_unpacklo_epi64(codes, _mm_srli_epi16::<4>(codes));
            _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_and_si128(codes, _mm_set1_epi8(15))))
        }
        PanelZeros::Floats(zeros) => floats(&zeros[place]),
    };
    (floats(&ints.scales[place]), zeros)
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(in crate::kernels) fn four(codes: [i8; 4]) -> __m512i {
    _mm512_set1_epi32(i32::from_ne_bytes(codes.map(i8::cast_unsigned)))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn fetch(place: *const [u8; STEP]) {
    _mm_prefetch::<_MM_HINT_T1>(place.cast());
}

#[inline]
#[target_feature(enable = "avx512f")]
fn bytes(bytes: &[u8; STEP]) -> __m512i {
    // SAFETY: 64 bytes, of any alignment.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(in crate::kernels) fn floats(values: &[half::f16; PANEL]) -> __m512 {
    // SAFETY: 32 bytes, of any alignment.
    _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(values.as_ptr().cast()) })
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(in crate::kernels) fn values(register: __m512) -> [f32; PANEL] {
    let mut values = [0.0; PANEL];
    // SAFETY: 64 bytes, of any alignment.
    unsafe { _mm512_storeu_ps(values.as_mut_ptr(), register) };
    values
}
