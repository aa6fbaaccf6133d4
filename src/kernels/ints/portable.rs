//! The loops in plain code: what every other form must equal.

use std::array::from_fn;
use std::ops::Range;

use super::super::tokens::Tokens;
use super::{Ints, PANEL, STEP, Store};

/// Rows of activations that share one pass over a panel.
const ROWS: usize = 4;

/// Exact sums of products: what the sets of instructions differ in.
pub(super) trait Dots {
    /// Taken off each code of 8 bits.
    const BIAS: i32 = 0;

    /// The sums of `R` rows over some steps of `N` inputs, one code a row and input.
    fn dots<const N: usize, const R: usize>(steps: &[[u8; STEP]], codes: [&[[i8; N]]; R]) -> [[i32; PANEL]; R];
}

/// The outputs of some panels.
pub(super) fn multiply<const N: usize, D: Dots>(ints: &Ints, x: &Tokens, panels: Range<usize>, store: &Store<'_>) {
    for panel in panels {
        for row in (0..x.n_rows()).step_by(ROWS) {
            match x.n_rows() - row {
                1 => tile::<N, 1, D>(ints, x, panel, row, store),
                2 => tile::<N, 2, D>(ints, x, panel, row, store),
                3 => tile::<N, 3, D>(ints, x, panel, row, store),
                _ => tile::<N, ROWS, D>(ints, x, panel, row, store),
            }
        }
    }
}

fn tile<const N: usize, const R: usize, D: Dots>(ints: &Ints, x: &Tokens, panel: usize, row: usize, store: &Store<'_>) {
    let mut sums = [[0.0_f32; PANEL]; R];
    let bias = if N == 4 { D::BIAS } else { 0 };
    for section in ints.sections() {
        let codes: [&[[i8; N]]; R] = from_fn(|r| &x.codes(row + r).as_chunks().0[section.steps.clone()]);
        let dots = D::dots(&ints.panel(panel)[section.steps.clone()], codes);
        let place = panel * ints.n_groups() + section.group;
        let scales = ints.scales[place].map(half::f16::to_f32);
        let zeros = ints.zeros.get(place);
        for (r, (sums, dots)) in sums.iter_mut().zip(&dots).enumerate() {
            let total: i32 = x.sum(row + r, &section.runs);
            for lane in 0..PANEL {
                // The whole part is a code: it multiplies exactly, and the difference too is exact.
                let whole = if ints.is_long() { zeros[lane].round_ties_even().clamp(0.0, 255.0) } else { 0.0 };
                let dot = (dots[lane] - (whole as i32 - bias) * total) as f32;
                let dot = (-(zeros[lane] - whole)).mul_add(total as f32, dot);
                sums[lane] = scales[lane].mul_add(dot, sums[lane]);
            }
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        let scale = x.scale(row + r);
        store.put(row + r, panel, &sums.map(|sum| scale * sum));
    }
}

/// Plain code.
pub(super) struct Plain;

impl Dots for Plain {
    fn dots<const N: usize, const R: usize>(steps: &[[u8; STEP]], codes: [&[[i8; N]]; R]) -> [[i32; PANEL]; R] {
        let mut sums = [[0; PANEL]; R];
        for (k, step) in steps.iter().enumerate() {
            for (sums, codes) in sums.iter_mut().zip(codes) {
                let codes = codes[k].as_chunks().0;
                if N == 4 {
                    add(sums, step, codes[0]);
                } else {
                    add(sums, &step.map(|byte| byte & 15), codes[0]);
                    add(sums, &step.map(|byte| byte >> 4), codes[1]);
                }
            }
        }
        sums
    }
}

#[inline]
fn add(sums: &mut [i32; PANEL], weights: &[u8; STEP], codes: [i8; 4]) {
    let codes = codes.map(i32::from);
    for (sum, weights) in sums.iter_mut().zip(weights.as_chunks::<4>().0) {
        for (weight, code) in weights.iter().zip(codes) {
            *sum += i32::from(*weight) * code;
        }
    }
}
