//! The loops that run in registers: some rows with some panels over some inputs.

#![expect(clippy::inline_always, reason = "vector code must become part of the function that has the instructions")]

use std::array;
use std::ops::Range;

use super::format::{Format, Pair};
use super::simd::{Line, Simd, Task};

/// Pairs that pass without a check of lengths.
const RUN: usize = 4;

/// What a tile reads: rows of activations and panels, over the same inputs.
#[derive(Clone, Copy)]
pub(super) struct Operands<'a, F> {
    /// The panels.
    pub(super) format: F,
    /// Whole rows from the first of the tile on.
    pub(super) x: &'a [f32],
    /// Length of a row.
    pub(super) n_inputs: usize,
    /// The first panel.
    pub(super) panel: usize,
    /// The first input, even.
    pub(super) first: usize,
    /// The inputs; even, if others follow.
    pub(super) depth: usize,
    /// The pairs of one panel in `format`, and the input of the first: a copy holds some inputs only.
    pub(super) panel_pairs: usize,
    /// Pairs of a panel that are not in `format`.
    pub(super) skipped: usize,
}

impl<F: Format> Operands<'_, F> {
    /// The pairs of a panel over the inputs.
    #[inline(always)]
    fn strip(&self, panel: usize) -> &[F::Pair] {
        &self.format.pairs()[panel * self.panel_pairs + self.first / 2 - self.skipped..][..self.depth.div_ceil(2)]
    }

    /// The groups of the inputs, each with its inputs counted from the first.
    #[inline(always)]
    fn groups(&self) -> impl Iterator<Item = (usize, Range<usize>)> + use<F> {
        let (first, depth, len) = (self.first, self.depth, self.format.group_len());
        let mut start = 0;
        std::iter::from_fn(move || {
            let group = (first + start) / len;
            let end = (len - (first + start) % len).saturating_add(start).min(depth);
            let inputs = start..end;
            start = end;
            (!inputs.is_empty()).then_some((group, inputs))
        })
    }
}

/// Adds the products of R rows with N panels to `sums` (R, N), or puts them there.
pub(super) struct Tile<'a, F, const R: usize, const N: usize> {
    pub(super) operands: &'a Operands<'a, F>,
    pub(super) sums: &'a mut [Line],
    pub(super) is_added: bool,
}

impl<F: Format, const R: usize, const N: usize> Task for Tile<'_, F, R, N> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { operands, sums: places, is_added } = self;
        let places = &mut places.as_chunks_mut::<N>().0[..R];
        let mut sums = [[simd.splat(0.0); N]; R];
        if is_added {
            for (sums, places) in sums.iter_mut().zip(&*places) {
                for (sum, place) in sums.iter_mut().zip(places) {
                    *sum = simd.load(&place.0);
                }
            }
        }
        let rows: [&[f32]; R] =
            array::from_fn(|row| &operands.x[row * operands.n_inputs + operands.first..][..operands.depth]);
        let strips: [&[F::Pair]; N] = array::from_fn(|panel| operands.strip(operands.panel + panel));
        for (group, inputs) in operands.groups() {
            let mut groups = [operands.format.group(simd, operands.panel, group); N];
            for (panel, place) in groups.iter_mut().enumerate().skip(1) {
                *place = operands.format.group(simd, operands.panel + panel, group);
            }
            let n_runs = inputs.len() / (2 * RUN);
            // Loops, because `array::map` is not always inlined.
            let (mut runs, mut row_runs) = ([&[][..]; N], [&[][..]; R]);
            let (mut pairs, mut values) = (strips, rows);
            for panel in 0..N {
                pairs[panel] = &strips[panel][inputs.start / 2..inputs.end.div_ceil(2)];
                runs[panel] = &pairs[panel].as_chunks::<RUN>().0[..n_runs];
            }
            for row in 0..R {
                values[row] = &rows[row][inputs.clone()];
                row_runs[row] = &values[row].as_chunks::<{ 2 * RUN }>().0[..n_runs];
            }
            let (strips, rows) = (pairs, values);
            let mut run = 0;
            while run < n_runs {
                let (runs, rows) = (|panel: usize| &runs[panel][run], |row: usize| &row_runs[row][run]);
                let mut pair = 0;
                while pair < RUN {
                    step::<S, F, R, N, false>(
                        simd,
                        groups,
                        |panel| &runs(panel)[pair],
                        |row| rows(row)[2 * pair],
                        &mut sums,
                    );
                    step::<S, F, R, N, true>(
                        simd,
                        groups,
                        |panel| &runs(panel)[pair],
                        |row| rows(row)[2 * pair + 1],
                        &mut sums,
                    );
                    pair += 1;
                }
                run += 1;
            }
            for pair in n_runs * RUN..inputs.len() / 2 {
                step::<S, F, R, N, false>(
                    simd,
                    groups,
                    |panel| &strips[panel][pair],
                    |row| rows[row][2 * pair],
                    &mut sums,
                );
                step::<S, F, R, N, true>(
                    simd,
                    groups,
                    |panel| &strips[panel][pair],
                    |row| rows[row][2 * pair + 1],
                    &mut sums,
                );
            }
            if inputs.len() % 2 == 1 {
                let x = |row: usize| rows[row][inputs.len() - 1];
                step::<S, F, R, N, false>(simd, groups, |panel| &strips[panel][inputs.len() / 2], x, &mut sums);
            }
        }
        for (places, sums) in places.iter_mut().zip(sums) {
            for (place, sum) in places.iter_mut().zip(sums) {
                simd.store(sum, &mut place.0);
            }
        }
    }
}

/// One input of all rows with all panels.
#[inline(always)]
fn step<'a, S: Simd, F: Format<Pair: 'a>, const R: usize, const N: usize, const SECOND: bool>(
    simd: S,
    groups: [F::Group<S::Vector>; N],
    pair: impl Fn(usize) -> &'a F::Pair,
    x: impl Fn(usize) -> f32,
    sums: &mut [[S::Vector; N]; R],
) {
    let mut weights = [simd.splat(0.0); N];
    let mut panel = 0;
    while panel < N {
        weights[panel] = F::weights::<S, SECOND>(simd, groups[panel], pair(panel));
        panel += 1;
    }
    let mut row = 0;
    while row < R {
        let x = simd.splat(x(row));
        let mut panel = 0;
        while panel < N {
            sums[row][panel] = simd.multiply_add(x, weights[panel], sums[row][panel]);
            panel += 1;
        }
        row += 1;
    }
}

/// Writes the weights of some panels over the operands' inputs as numbers: of each panel its pairs.
pub(super) struct Widen<'a, F> {
    pub(super) operands: Operands<'a, F>,
    pub(super) wide: &'a mut [Pair<f32>],
}

impl<F: Format> Task for Widen<'_, F> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { operands, wide } = self;
        for (panel, wide) in wide.chunks_mut(operands.depth.div_ceil(2)).enumerate() {
            let panel = operands.panel + panel;
            let strip = operands.strip(panel);
            for (number, inputs) in operands.groups() {
                let group = operands.format.group(simd, panel, number);
                let pairs = inputs.start / 2..inputs.end.div_ceil(2);
                for (pair, wide) in strip[pairs.clone()].iter().zip(&mut wide[pairs]) {
                    let [first, second] = &mut wide.0;
                    simd.store(F::weights::<S, false>(simd, group, pair), first);
                    simd.store(F::weights::<S, true>(simd, group, pair), second);
                }
            }
        }
    }
}
