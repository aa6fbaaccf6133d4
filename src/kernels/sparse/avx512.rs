//! Expansion of bytes and halves over 512 bits: the values that follow each other in memory go to the lanes whose bit
//! is set.

use std::arch::x86_64::{
    __m512, __m512i, _MM_HINT_T0, _mm_add_epi32, _mm_prefetch, _mm_set1_epi32, _mm_setr_epi32, _mm512_broadcast_i32x4,
    _mm512_castsi512_ps, _mm512_castsi512_si256, _mm512_cvtepi32_ps, _mm512_cvtph_ps, _mm512_dpbusd_epi32,
    _mm512_extracti64x4_epi64, _mm512_fmadd_ps, _mm512_loadu_si512, _mm512_mask_blend_epi8, _mm512_mask_expand_epi8,
    _mm512_mask_shuffle_epi8, _mm512_maskz_expand_epi16, _mm512_mul_ps, _mm512_or_si512, _mm512_set1_epi8,
    _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps, _mm512_setzero_si512, _mm512_srli_epi32, _mm512_storeu_si512,
    _mm512_sub_epi32, _mm512_sub_ps,
};
use std::ops::Range;

use half::f16;

use super::super::ints::avx512::{floats, four, values};
use super::super::ints::{PANEL, STEP, Store};
use super::super::isa::Isa;
use super::super::tokens::Tokens;
use super::super::vector::Wide;
use super::ints::Raised;
use super::spread::{Number, Scaled, Spread};
use super::{FEW, PADDING, Packed, STEP_INPUTS, Value};

/// Panels of a pass of one row: enough chains of sums, and streams from memory.
const ALONE: usize = 4;
/// Panels of a pass of a few rows.
const BESIDE: usize = 2;
/// Rows and panels of a tile of many rows: 24 sums, 4 registers of weights and an activation are 29 of 32.
const TILE: (usize, usize) = (6, 4);
/// Steps that are spread out at once: with 4 panels 32 KiB, which stay in the first-level cache.
const DEPTH: usize = 32;
/// Rows whose sums wait for the next stretch: 24 KiB.
const WAITING: usize = 96;

/// AVX-512 F, BW, DQ, VL, VNNI, VBMI and VBMI2.
#[derive(Debug, Clone, Copy)]
pub(super) struct Avx512(());

impl Avx512 {
    /// The token, where `isa` has the instructions.
    pub(super) fn of(isa: Isa) -> Option<Self> {
        (isa == Isa::Avx512Vnni).then_some(Self(()))
    }
}

/// Instructions that a token proves.
macro_rules! proven {
    ($token:expr, $instructions:expr) => {{
        let _proof: Avx512 = $token;
        // SAFETY: the token is made only for a set that a processor has, which includes these instructions.
        unsafe { $instructions }
    }};
}

impl Spread for Avx512 {
    type Vector = Wide;

    #[inline]
    fn run(self, work: impl FnOnce()) {
        #[target_feature(
            enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx512vbmi2,avx2,fma,f16c,popcnt"
        )]
        fn compiled(work: impl FnOnce()) {
            work();
        }
        proven!(self, compiled(work));
    }

    #[inline(always)]
    fn fetch<T>(self, place: *const T) {
        proven!(self, fetch(place));
    }

    #[inline(always)]
    fn halves(self, values: &[f16; PADDING], mask: u64) -> [Wide; STEP_INPUTS] {
        proven!(self, halves(values, mask))
    }

    #[inline(always)]
    fn numbers(self, values: &[Raised; PADDING], mask: u64) -> [Wide; STEP_INPUTS] {
        proven!(self, numbers(values, mask))
    }

    #[inline(always)]
    fn codes(self, values: &[Raised; PADDING], mask: u64, step: &mut [u8; STEP]) {
        proven!(self, _mm512_storeu_si512(step.as_mut_ptr().cast(), codes(values, mask)));
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx512vbmi2,avx2,fma,f16c,popcnt")]
fn halves(values: &[f16; PADDING], mask: u64) -> [Wide; STEP_INPUTS] {
    // SAFETY: 64 bytes each, of any alignment: at most 32 of the 64 values come before the rest.
    let (values, rest) = unsafe {
        let rest = values.as_ptr().add((mask as u32).count_ones() as usize);
        (_mm512_loadu_si512(values.as_ptr().cast()), _mm512_loadu_si512(rest.cast()))
    };
    let low = _mm512_maskz_expand_epi16(mask as u32, values);
    let high = _mm512_maskz_expand_epi16((mask >> 32) as u32, rest);
    [
        Wide(_mm512_cvtph_ps(_mm512_castsi512_si256(low))),
        Wide(_mm512_cvtph_ps(_mm512_extracti64x4_epi64::<1>(low))),
        Wide(_mm512_cvtph_ps(_mm512_castsi512_si256(high))),
        Wide(_mm512_cvtph_ps(_mm512_extracti64x4_epi64::<1>(high))),
    ]
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx512vbmi2,avx2,fma,f16c,popcnt")]
fn numbers(values: &[Raised; PADDING], mask: u64) -> [Wide; STEP_INPUTS] {
    // 2²³ with a small integer as its last bits is the sum of both.
    let (base, raised) = (_mm512_set1_epi32(0x4B00_0000), _mm512_set1_ps(8_388_608.0 + 128.0));
    let codes = codes(values, mask);
    let first = _mm512_mask_blend_epi8(LAST_BYTES, base, codes);
    let second = _mm512_mask_shuffle_epi8(base, LAST_BYTES, codes, places(1));
    let third = _mm512_mask_shuffle_epi8(base, LAST_BYTES, codes, places(2));
    let fourth = _mm512_or_si512(base, _mm512_srli_epi32::<24>(codes));
    let mut weights = [Wide(_mm512_setzero_ps()); STEP_INPUTS];
    for (weights, codes) in weights.iter_mut().zip([first, second, third, fourth]) {
        *weights = Wide(_mm512_sub_ps(_mm512_castsi512_ps(codes), raised));
    }
    weights
}

/// The lowest byte of each lane.
const LAST_BYTES: u64 = 0x1111_1111_1111_1111;

/// For the lowest byte of each of 4 lanes, byte `input` of that lane.
#[inline]
#[target_feature(enable = "avx512f")]
fn places(input: i32) -> __m512i {
    _mm512_broadcast_i32x4(_mm_add_epi32(_mm_setr_epi32(0, 4, 8, 12), _mm_set1_epi32(input)))
}

/// Products of some panels, each weight times `scales` of its panel in the end.
pub(super) fn multiply<V: Number, F: Fn(usize) -> [f16; PANEL]>(
    set: Avx512,
    weights: &Scaled<'_, V, F>,
    x: &[f32],
    panels: Range<usize>,
    store: &Store<'_>,
) {
    proven!(set, all_panels(weights, x, panels, store));
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx512vbmi2,avx2,fma,f16c,popcnt")]
fn all_panels<V: Number, F: Fn(usize) -> [f16; PANEL]>(
    weights: &Scaled<'_, V, F>,
    x: &[f32],
    panels: Range<usize>,
    store: &Store<'_>,
) {
    let Scaled { packed, scales } = weights;
    let n_rows = x.len() / packed.n_inputs;
    let width = if n_rows == 1 {
        ALONE
    } else if n_rows <= FEW {
        BESIDE
    } else {
        TILE.1
    };
    let mut panel = panels.start;
    while panel < panels.end {
        let is_wide = panels.end - panel >= width;
        match (n_rows, is_wide) {
            (0, _) => {}
            (1, true) => few::<V, ALONE, 1>(packed, scales, x, panel, store),
            (2..=FEW, true) => of_rows::<V, BESIDE>(packed, scales, x, panel, store),
            (..=FEW, false) => of_rows::<V, 1>(packed, scales, x, panel, store),
            (_, true) => many::<V, { TILE.1 }>(packed, scales, x, panel, store),
            (_, false) => many::<V, 1>(packed, scales, x, panel, store),
        }
        panel += if is_wide { width } else { 1 };
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx512vbmi2,avx2,fma,f16c,popcnt")]
fn of_rows<V: Number, const P: usize>(
    packed: &Packed<V>,
    scales: &impl Fn(usize) -> [f16; PANEL],
    x: &[f32],
    panel: usize,
    store: &Store<'_>,
) {
    match x.len() / packed.n_inputs {
        1 => few::<V, P, 1>(packed, scales, x, panel, store),
        2 => few::<V, P, 2>(packed, scales, x, panel, store),
        3 => few::<V, P, 3>(packed, scales, x, panel, store),
        4 => few::<V, P, 4>(packed, scales, x, panel, store),
        5 => few::<V, P, 5>(packed, scales, x, panel, store),
        6 => few::<V, P, 6>(packed, scales, x, panel, store),
        7 => few::<V, P, 7>(packed, scales, x, panel, store),
        _ => few::<V, P, FEW>(packed, scales, x, panel, store),
    }
}

/// `R` rows with `P` panels, spread out in registers.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx512vbmi2,avx2,fma,f16c,popcnt")]
fn few<V: Number, const P: usize, const R: usize>(
    packed: &Packed<V>,
    scales: &impl Fn(usize) -> [f16; PANEL],
    x: &[f32],
    panel: usize,
    store: &Store<'_>,
) {
    let mut sources = Sources::<V, P>::new(packed, panel);
    let (steps, rest) = (packed.n_inputs / STEP_INPUTS, packed.n_inputs % STEP_INPUTS);
    let mut rows = [&[[0.0; STEP_INPUTS]][..]; R];
    for (row, x) in rows.iter_mut().zip(x.chunks_exact(packed.n_inputs)) {
        *row = &x.as_chunks().0[..steps];
    }
    let mut sums = [[_mm512_setzero_ps(); P]; R];
    for k in 0..steps {
        for p in 0..P {
            let weights = sources.next(p, k);
            for (row, sums) in rows.iter().zip(&mut sums) {
                for (weights, x) in weights.iter().zip(row[k]) {
                    sums[p] = _mm512_fmadd_ps(*weights, _mm512_set1_ps(x), sums[p]);
                }
            }
        }
    }
    if rest > 0 {
        for p in 0..P {
            let weights = sources.next(p, steps);
            for (x, sums) in x.chunks_exact(packed.n_inputs).zip(&mut sums) {
                for (weights, x) in weights.iter().zip(&x[steps * STEP_INPUTS..]) {
                    sums[p] = _mm512_fmadd_ps(*weights, _mm512_set1_ps(*x), sums[p]);
                }
            }
        }
    }
    for (row, sums) in sums.iter().enumerate() {
        for (p, sum) in sums.iter().enumerate() {
            store.put(row, panel + p, &values(_mm512_mul_ps(floats(&scales(panel + p)), *sum)));
        }
    }
}

/// The masks and values of panels, read from the beginning to the end.
struct Sources<'a, V, const P: usize> {
    packed: &'a Packed<V>,
    masks: [&'a [u64]; P],
    next: [usize; P],
    /// From a value to one of the panels after these: what is fetched from memory meanwhile.
    ahead: usize,
}

impl<'a, V: Value, const P: usize> Sources<'a, V, P> {
    fn new(packed: &'a Packed<V>, panel: usize) -> Self {
        let (mut masks, mut next) = ([&packed.masks[..]; P], [0; P]);
        for (p, (masks, next)) in masks.iter_mut().zip(&mut next).enumerate() {
            (*masks, *next) = (packed.masks(panel + p), packed.start(panel + p));
        }
        let ahead = packed.start(panel + P) - packed.start(panel);
        Self { packed, masks, next, ahead }
    }
}

impl<V: Number, const P: usize> Sources<'_, V, P> {
    /// The weights of step `k` of panel `p`, which follow those of the step before.
    #[inline]
    #[target_feature(
        enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx512vbmi2,avx2,fma,f16c,popcnt"
    )]
    fn next(&mut self, p: usize, k: usize) -> [__m512; STEP_INPUTS] {
        let mask = self.masks[p][k];
        let values = self.packed.values_from(self.next[p]);
        fetch(values.as_ptr().wrapping_add(self.ahead));
        fetch((&raw const self.masks[p][k]).wrapping_add(P * self.masks[p].len()));
        self.next[p] += mask.count_ones() as usize;
        let mut weights = [_mm512_setzero_ps(); STEP_INPUTS];
        for (weights, spread) in weights.iter_mut().zip(V::spread(Avx512(()), values, mask)) {
            *weights = spread.0;
        }
        weights
    }
}

/// All rows with `P` panels, a stretch of inputs after the other.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx512vbmi2,avx2,fma,f16c,popcnt")]
fn many<V: Number, const P: usize>(
    packed: &Packed<V>,
    scales: &impl Fn(usize) -> [f16; PANEL],
    x: &[f32],
    panel: usize,
    store: &Store<'_>,
) {
    let n_inputs = packed.n_inputs;
    let mut dense = [[_mm512_setzero_ps(); P]; DEPTH * STEP_INPUTS];
    for (chunk, x) in x.chunks(WAITING * n_inputs).enumerate() {
        let mut sums = [[[_mm512_setzero_ps(); P]; TILE.0]; WAITING / TILE.0];
        let mut sources = Sources::<V, P>::new(packed, panel);
        for first in (0..n_inputs).step_by(DEPTH * STEP_INPUTS) {
            let depth = (DEPTH * STEP_INPUTS).min(n_inputs - first);
            for (k, dense) in dense.as_chunks_mut::<STEP_INPUTS>().0.iter_mut().enumerate() {
                if k * STEP_INPUTS < depth {
                    for p in 0..P {
                        let weights = sources.next(p, first / STEP_INPUTS + k);
                        for (dense, weights) in dense.iter_mut().zip(weights) {
                            dense[p] = weights;
                        }
                    }
                }
            }
            for (x, sums) in x.chunks(TILE.0 * n_inputs).zip(&mut sums) {
                tiles(&dense[..depth], x, first, n_inputs, sums);
            }
        }
        for (row, sums) in (0..x.len() / n_inputs).zip(sums.as_flattened()) {
            for (p, sum) in sums.iter().enumerate() {
                let sum = _mm512_mul_ps(floats(&scales(panel + p)), *sum);
                store.put(chunk * WAITING + row, panel + p, &values(sum));
            }
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx512vbmi2,avx2,fma,f16c,popcnt")]
fn tiles<const P: usize>(
    dense: &[[__m512; P]],
    x: &[f32],
    first: usize,
    n_inputs: usize,
    sums: &mut [[__m512; P]; TILE.0],
) {
    if x.len() == TILE.0 * n_inputs {
        tile(dense, x, first, n_inputs, sums);
    } else {
        for (x, sums) in x.chunks_exact(n_inputs).zip(sums) {
            tile(dense, x, first, n_inputs, std::array::from_mut(sums));
        }
    }
}

/// The sums stay in registers here only while nothing else is in this function.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx512vbmi2,avx2,fma,f16c,popcnt")]
fn tile<const P: usize, const R: usize>(
    dense: &[[__m512; P]],
    x: &[f32],
    first: usize,
    n_inputs: usize,
    sums: &mut [[__m512; P]; R],
) {
    let mut rows = [x; R];
    for (r, row) in rows.iter_mut().enumerate() {
        *row = &x[r * n_inputs + first..][..dense.len()];
    }
    let mut own = *sums;
    for (k, weights) in dense.iter().enumerate() {
        for r in 0..R {
            let x = _mm512_set1_ps(rows[r][k]);
            for p in 0..P {
                own[r][p] = _mm512_fmadd_ps(weights[p], x, own[r][p]);
            }
        }
    }
    *sums = own;
}

/// Products of a few tokens with some panels.
pub(super) fn multiply_tokens(
    set: Avx512,
    packed: &Packed<Raised>,
    scales: &[[f16; PANEL]],
    x: &Tokens,
    (panels, store): (Range<usize>, &Store<'_>),
) {
    proven!(set, tokens_of_panels(packed, scales, x, panels, store));
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx512vbmi2,avx2,fma,f16c,popcnt")]
fn tokens_of_panels(
    packed: &Packed<Raised>,
    scales: &[[f16; PANEL]],
    x: &Tokens,
    panels: Range<usize>,
    store: &Store<'_>,
) {
    let width = if x.n_rows() == 1 { ALONE } else { BESIDE };
    let mut panel = panels.start;
    while panel < panels.end {
        let is_wide = panels.end - panel >= width;
        match (x.n_rows(), is_wide) {
            (0, _) => {}
            (1, true) => few_tokens::<ALONE, 1>(packed, scales, x, panel, store),
            (_, true) => of_tokens::<BESIDE>(packed, scales, x, panel, store),
            (_, false) => of_tokens::<1>(packed, scales, x, panel, store),
        }
        panel += if is_wide { width } else { 1 };
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx512vbmi2,avx2,fma,f16c,popcnt")]
fn of_tokens<const P: usize>(
    packed: &Packed<Raised>,
    scales: &[[f16; PANEL]],
    x: &Tokens,
    panel: usize,
    store: &Store<'_>,
) {
    match x.n_rows() {
        1 => few_tokens::<P, 1>(packed, scales, x, panel, store),
        2 => few_tokens::<P, 2>(packed, scales, x, panel, store),
        3 => few_tokens::<P, 3>(packed, scales, x, panel, store),
        4 => few_tokens::<P, 4>(packed, scales, x, panel, store),
        5 => few_tokens::<P, 5>(packed, scales, x, panel, store),
        6 => few_tokens::<P, 6>(packed, scales, x, panel, store),
        7 => few_tokens::<P, 7>(packed, scales, x, panel, store),
        _ => few_tokens::<P, FEW>(packed, scales, x, panel, store),
    }
}

/// `R` tokens with `P` panels: codes are raised by 128, since one operand of a byte dot product has no sign.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx512vbmi2,avx2,fma,f16c,popcnt")]
fn few_tokens<const P: usize, const R: usize>(
    packed: &Packed<Raised>,
    scales: &[[f16; PANEL]],
    x: &Tokens,
    panel: usize,
    store: &Store<'_>,
) {
    let n_steps = packed.n_steps();
    let mut sources = Sources::<Raised, P>::new(packed, panel);
    let mut rows = [&[[0; 4]][..]; R];
    for (r, row) in rows.iter_mut().enumerate() {
        *row = &x.codes(r).as_chunks().0[..n_steps];
    }
    let mut dots = [[_mm512_setzero_si512(); P]; R];
    for k in 0..n_steps {
        for p in 0..P {
            let weights = sources.next_raised(p, k);
            for (row, dots) in rows.iter().zip(&mut dots) {
                let x = four(row[k]);
                dots[p] = _mm512_dpbusd_epi32(dots[p], weights, x);
            }
        }
    }
    for (r, dots) in dots.iter().enumerate() {
        let total = x.sum(r, &(0..packed.n_inputs.div_ceil(32)));
        for (p, dot) in dots.iter().enumerate() {
            let dot = _mm512_sub_epi32(*dot, _mm512_set1_epi32(128 * total));
            let sum = _mm512_mul_ps(floats(&scales[panel + p]), _mm512_cvtepi32_ps(dot));
            store.put(r, panel + p, &values(_mm512_mul_ps(_mm512_set1_ps(x.scale(r)), sum)));
        }
    }
}

impl<const P: usize> Sources<'_, Raised, P> {
    /// The codes of step `k` of panel `p`, raised by 128.
    #[inline]
    #[target_feature(
        enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx512vbmi2,avx2,fma,f16c,popcnt"
    )]
    fn next_raised(&mut self, p: usize, k: usize) -> __m512i {
        let mask = self.masks[p][k];
        let values = self.packed.values_from(self.next[p]);
        fetch(values.as_ptr().wrapping_add(self.ahead));
        fetch((&raw const self.masks[p][k]).wrapping_add(P * self.masks[p].len()));
        self.next[p] += mask.count_ones() as usize;
        codes(values, mask)
    }
}

/// The codes from the first on in the bytes whose bit is set, raised by 128 as they are held; 128 for zero elsewhere.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx512vbmi2,avx2,fma,f16c,popcnt")]
fn codes(values: &[Raised; PADDING], mask: u64) -> __m512i {
    // SAFETY: 64 bytes, of any alignment.
    _mm512_mask_expand_epi8(_mm512_set1_epi8(i8::MIN), mask, unsafe { _mm512_loadu_si512(values.as_ptr().cast()) })
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx512vbmi2,avx2,fma,f16c,popcnt")]
fn fetch<T>(place: *const T) {
    _mm_prefetch::<_MM_HINT_T0>(place.cast());
}
