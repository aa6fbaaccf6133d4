//! The loops around what spreads a step's weights over registers.

#![expect(clippy::inline_always, reason = "vector code must become part of the function that has the instructions")]

use std::ops::Range;

use half::f16;

use super::super::ints::{PANEL, STEP, Store};
use super::super::vector::Register;
use super::ints::Raised;
use super::{PADDING, Packed, STEP_INPUTS, Value};

/// Panels that one row passes at a time: enough chains of sums.
const ALONE: usize = 4;
/// Rows up to which weights are spread in registers, at every pass.
const DIRECT: usize = 4;
/// Rows of a tile of many rows.
const ROWS: usize = 6;
/// Steps that are spread into a buffer at once: 16 KiB.
const DEPTH: usize = 64;
/// Rows whose sums wait for the next stretch.
const WAITING: usize = 96;

/// A set of instructions. Its value is the proof that the processor has them.
pub(super) trait Spread: Copy {
    /// The outputs of a panel.
    type Vector: Register;

    /// Runs a loop compiled for these instructions: it has to be `#[inline(always)]`, and so what it calls.
    fn run(self, work: impl FnOnce());

    /// Asks for what will be read later on. Any address will do.
    fn fetch<T>(self, place: *const T);

    /// The weights of a step by inputs, of the values from the step's first on.
    fn halves(self, values: &[f16; PADDING], mask: u64) -> [Self::Vector; STEP_INPUTS];

    /// The same of codes.
    fn numbers(self, values: &[Raised; PADDING], mask: u64) -> [Self::Vector; STEP_INPUTS];

    /// The codes of a step, raised by 128, as a step of a dense panel.
    fn codes(self, values: &[Raised; PADDING], mask: u64, step: &mut [u8; STEP]);
}

/// A kind of weight that is multiplied as a number.
pub(super) trait Number: Value {
    fn spread<S: Spread>(set: S, values: &[Self; PADDING], mask: u64) -> [S::Vector; STEP_INPUTS];
}

impl Number for f16 {
    #[inline(always)]
    fn spread<S: Spread>(set: S, values: &[Self; PADDING], mask: u64) -> [S::Vector; STEP_INPUTS] {
        set.halves(values, mask)
    }
}

impl Number for Raised {
    #[inline(always)]
    fn spread<S: Spread>(set: S, values: &[Self; PADDING], mask: u64) -> [S::Vector; STEP_INPUTS] {
        set.numbers(values, mask)
    }
}

/// A matrix, and what each of its weights is multiplied with in the end.
pub(super) struct Scaled<'a, V, F> {
    pub(super) packed: &'a Packed<V>,
    /// Of a panel.
    pub(super) scales: F,
}

/// Products of some panels.
pub(super) fn multiply<S: Spread, V: Number, F: Fn(usize) -> [f16; PANEL]>(
    set: S,
    weights: &Scaled<'_, V, F>,
    x: &[f32],
    panels: Range<usize>,
    store: &Store<'_>,
) {
    let n_rows = x.len() / weights.packed.n_inputs;
    let mut panel = panels.start;
    while panel < panels.end {
        let is_wide = n_rows == 1 && panels.end - panel >= ALONE;
        set.run(
            #[inline(always)]
            || match n_rows {
                0 => {}
                1 if is_wide => direct::<S, V, F, ALONE, 1>(set, weights, x, panel, store),
                1 => direct::<S, V, F, 1, 1>(set, weights, x, panel, store),
                2 => direct::<S, V, F, 1, 2>(set, weights, x, panel, store),
                3 => direct::<S, V, F, 1, 3>(set, weights, x, panel, store),
                DIRECT => direct::<S, V, F, 1, DIRECT>(set, weights, x, panel, store),
                _ => buffered(set, weights, x, panel, store),
            },
        );
        panel += if is_wide { ALONE } else { 1 };
    }
}

/// `R` rows with `P` panels, spread in registers.
#[inline(always)]
fn direct<S: Spread, V: Number, F: Fn(usize) -> [f16; PANEL], const P: usize, const R: usize>(
    set: S,
    weights: &Scaled<'_, V, F>,
    x: &[f32],
    panel: usize,
    store: &Store<'_>,
) {
    let packed = weights.packed;
    let (mut masks, mut next) = ([&packed.masks[..]; P], [0; P]);
    for (p, (masks, next)) in masks.iter_mut().zip(&mut next).enumerate() {
        (*masks, *next) = (packed.masks(panel + p), packed.start(panel + p));
    }
    let ahead = packed.start(panel + P) - packed.start(panel);
    // The inputs of a step that is not whole, filled up with zeros: weights are filled up too.
    let (mut rows, mut rest) = ([&[[0.0; STEP_INPUTS]][..]; R], [[0.0; STEP_INPUTS]; R]);
    for ((row, rest), x) in rows.iter_mut().zip(&mut rest).zip(x.chunks_exact(packed.n_inputs)) {
        let (steps, last) = x.as_chunks();
        *row = steps;
        rest[..last.len()].copy_from_slice(last);
    }
    let mut sums = [[S::Vector::splat(0.0); P]; R];
    for k in 0..packed.n_steps() {
        let mut inputs = rest;
        if k < rows[0].len() {
            for (inputs, row) in inputs.iter_mut().zip(rows) {
                *inputs = row[k];
            }
        }
        for p in 0..P {
            let spread = step(set, packed, masks[p][k], &mut next[p], ahead);
            for (sums, inputs) in sums.iter_mut().zip(&inputs) {
                for (weights, input) in spread.iter().zip(inputs) {
                    sums[p] = weights.multiply_add(S::Vector::splat(*input), sums[p]);
                }
            }
        }
    }
    for (row, sums) in sums.iter().enumerate() {
        for (p, sum) in sums.iter().enumerate() {
            finish(weights, row, panel + p, *sum, store);
        }
    }
}

/// The weights of a step; `next`: where its values begin, and then where the next step's do. What is `ahead` is fetched
/// from memory meanwhile: the next panels.
#[inline(always)]
fn step<S: Spread, V: Number>(
    set: S,
    packed: &Packed<V>,
    mask: u64,
    next: &mut usize,
    ahead: usize,
) -> [S::Vector; STEP_INPUTS] {
    let values = packed.values_from(*next);
    set.fetch(values.as_ptr().wrapping_add(ahead));
    *next += mask.count_ones() as usize;
    V::spread(set, values, mask)
}

/// Scales the sums of a row with a panel and stores them.
#[inline(always)]
fn finish<R: Register, V: Number, F: Fn(usize) -> [f16; PANEL]>(
    weights: &Scaled<'_, V, F>,
    row: usize,
    panel: usize,
    sums: R,
    store: &Store<'_>,
) {
    let mut values = [0.0; PANEL];
    R::of_halves(&(weights.scales)(panel)).mul(sums).write(&mut values);
    store.put(row, panel, &values);
}

/// All rows with a panel, a stretch of inputs after the other.
#[inline(always)]
fn buffered<S: Spread, V: Number, F: Fn(usize) -> [f16; PANEL]>(
    set: S,
    weights: &Scaled<'_, V, F>,
    x: &[f32],
    panel: usize,
    store: &Store<'_>,
) {
    let (packed, n_inputs) = (weights.packed, weights.packed.n_inputs);
    let ahead = packed.start(panel + 1) - packed.start(panel);
    let mut dense = [[0.0; PANEL]; DEPTH * STEP_INPUTS];
    for (chunk, x) in x.chunks(WAITING * n_inputs).enumerate() {
        let mut sums = [[0.0; PANEL]; WAITING];
        let mut next = packed.start(panel);
        for (stretch, masks) in packed.masks(panel).chunks(DEPTH).enumerate() {
            for (mask, dense) in masks.iter().zip(dense.as_chunks_mut::<STEP_INPUTS>().0) {
                for (dense, weights) in dense.iter_mut().zip(step(set, packed, *mask, &mut next, ahead)) {
                    weights.write(dense);
                }
            }
            let first = stretch * DEPTH * STEP_INPUTS;
            let depth = (masks.len() * STEP_INPUTS).min(n_inputs - first);
            for (x, sums) in x.chunks(ROWS * n_inputs).zip(sums.as_chunks_mut().0) {
                tiles(set, &dense[..depth], x, [first, n_inputs], sums);
            }
        }
        for (row, sums) in (0..x.len() / n_inputs).zip(&sums) {
            finish(weights, chunk * WAITING + row, panel, S::Vector::of(sums), store);
        }
    }
}

/// Adds the products of at most [`ROWS`] rows with a stretch of a panel.
#[inline(always)]
fn tiles<S: Spread>(
    set: S,
    dense: &[[f32; PANEL]],
    x: &[f32],
    [first, n_inputs]: [usize; 2],
    sums: &mut [[f32; PANEL]; ROWS],
) {
    // A function of its own keeps the sums in registers.
    if x.len() == ROWS * n_inputs {
        set.run(
            #[inline(always)]
            || tile::<S::Vector, ROWS>(dense, &x[first..], n_inputs, sums),
        );
    } else {
        for (x, sums) in x.chunks(n_inputs).zip(sums) {
            set.run(
                #[inline(always)]
                || tile::<S::Vector, 1>(dense, &x[first..], n_inputs, std::array::from_mut(sums)),
            );
        }
    }
}

#[inline(always)]
fn tile<V: Register, const R: usize>(dense: &[[f32; PANEL]], x: &[f32], stride: usize, sums: &mut [[f32; PANEL]; R]) {
    let (mut rows, mut own) = ([x; R], [V::splat(0.0); R]);
    for (r, (row, (own, sums))) in rows.iter_mut().zip(own.iter_mut().zip(&*sums)).enumerate() {
        (*row, *own) = (&x[r * stride..][..dense.len()], V::of(sums));
    }
    for (k, weights) in dense.iter().enumerate() {
        let weights = V::of(weights);
        let mut r = 0;
        while r < R {
            own[r] = weights.multiply_add(V::splat(rows[r][k]), own[r]);
            r += 1;
        }
    }
    for (sums, own) in sums.iter_mut().zip(own) {
        own.write(sums);
    }
}

/// The codes of some panels, raised by 128, as the steps of dense panels.
pub(super) fn spread<S: Spread>(set: S, packed: &Packed<Raised>, panels: Range<usize>, dense: &mut [[u8; STEP]]) {
    set.run(
        #[inline(always)]
        || {
            for (panel, dense) in panels.zip(dense.chunks_exact_mut(packed.n_steps())) {
                let mut next = packed.start(panel);
                let ahead = packed.start(panel + 1) - next;
                for (mask, step) in packed.masks(panel).iter().zip(dense) {
                    let values = packed.values_from(next);
                    set.fetch(values.as_ptr().wrapping_add(ahead));
                    set.fetch(std::ptr::from_ref(mask).wrapping_add(packed.n_steps()));
                    set.codes(values, *mask, step);
                    next += mask.count_ones() as usize;
                }
            }
        },
    );
}
