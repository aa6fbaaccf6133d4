//! The loops in plain code: what every other form must equal.

use std::ops::Range;

use half::f16;

use super::super::ints::{PANEL, STEP, Store};
use super::ints::Raised;
use super::{Packed, STEP_INPUTS, Value};

/// Steps that are spread out at once: 16 KiB of f32.
const DEPTH: usize = 64;
/// Rows of activations of a tile.
const ROWS: usize = 6;
/// Rows whose sums wait for the next stretch.
const WAITING: usize = 96;

/// Products of some panels, each weight times `scales` of its panel in the end.
pub(super) fn multiply<V: Value>(
    packed: &Packed<V>,
    scales: impl Fn(usize) -> [f16; PANEL],
    x: &[f32],
    panels: Range<usize>,
    store: &Store<'_>,
) {
    let n_inputs = packed.n_inputs;
    let mut dense = [[0.0; PANEL]; DEPTH * STEP_INPUTS];
    for panel in panels {
        let scales = scales(panel).map(f16::to_f32);
        for (chunk, x) in x.chunks(WAITING * n_inputs).enumerate() {
            let mut sums = [[0.0; PANEL]; WAITING];
            let mut next = packed.start(panel);
            for (stretch, masks) in packed.masks(panel).chunks(DEPTH).enumerate() {
                for (mask, dense) in masks.iter().zip(dense.as_chunks_mut().0) {
                    next = spread_step(packed, *mask, next, dense);
                }
                let first = stretch * DEPTH * STEP_INPUTS;
                let depth = (masks.len() * STEP_INPUTS).min(n_inputs - first);
                let dense = &dense[..depth];
                for (x, sums) in x.chunks(ROWS * n_inputs).zip(sums.as_chunks_mut().0) {
                    tile(dense, x, first, n_inputs, sums);
                }
            }
            for (row, sums) in (0..x.len() / n_inputs).zip(&sums) {
                let values = std::array::from_fn(|lane| scales[lane] * sums[lane]);
                store.put(chunk * WAITING + row, panel, &values);
            }
        }
    }
}

/// The weights of a step by inputs; returns where the next values begin.
fn spread_step<V: Value>(
    packed: &Packed<V>,
    mask: u64,
    mut next: usize,
    dense: &mut [[f32; PANEL]; STEP_INPUTS],
) -> usize {
    *dense = [[0.0; PANEL]; STEP_INPUTS];
    // The bits of a step are in one of two orders; both are found in a table of constants by the compiler.
    for lane in 0..PANEL {
        for (within, weights) in dense.iter_mut().enumerate() {
            let bit = V::bit(lane, within);
            let before = (mask & ((1 << bit) - 1)).count_ones() as usize;
            weights[lane] = if mask >> bit & 1 == 1 { packed.values[next + before].to_f32() } else { 0.0 };
        }
    }
    next += mask.count_ones() as usize;
    next
}

/// Adds the products of at most [`ROWS`] rows with a stretch of a panel.
fn tile(dense: &[[f32; PANEL]], x: &[f32], first: usize, n_inputs: usize, sums: &mut [[f32; PANEL]; ROWS]) {
    if x.len() == ROWS * n_inputs {
        rows::<ROWS>(dense, std::array::from_fn(|r| &x[r * n_inputs + first..]), sums);
    } else {
        for (x, sums) in x.chunks(n_inputs).zip(sums) {
            rows::<1>(dense, [&x[first..]], std::array::from_mut(sums));
        }
    }
}

fn rows<const R: usize>(dense: &[[f32; PANEL]], x: [&[f32]; R], sums: &mut [[f32; PANEL]; R]) {
    let x = x.map(|x| &x[..dense.len()]);
    let mut own = *sums;
    for (k, weights) in dense.iter().enumerate() {
        for r in 0..R {
            let x = x[r][k];
            for lane in 0..PANEL {
                own[r][lane] = weights[lane].mul_add(x, own[r][lane]);
            }
        }
    }
    *sums = own;
}

/// The codes of some panels, raised by 128, as the steps of dense panels.
pub(super) fn spread(packed: &Packed<Raised>, panels: Range<usize>, dense: &mut [[u8; STEP]]) {
    for (panel, dense) in panels.zip(dense.chunks_exact_mut(packed.n_steps())) {
        let mut next = packed.start(panel);
        for (mask, step) in packed.masks(panel).iter().zip(dense) {
            for (bit, code) in step.iter_mut().enumerate() {
                let is_there = mask >> bit & 1 == 1;
                *code = if is_there { packed.values[next].0 } else { 128 };
                next += usize::from(is_there);
            }
        }
    }
}
