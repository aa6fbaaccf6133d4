//! f32 products over weights that were repacked once.

/// Outputs of one panel: two AVX2 registers.
pub(super) const PANEL: usize = 16;
/// Rows of activations that share one pass over a panel: 6 × 2 accumulators, 2 weights and 1 activation fill 15 of the
/// 16 AVX2 registers.
pub(super) const ROWS: usize = 6;
/// Panels that one row of activations passes over together: enough independent chains to hide the latency of a
/// multiply-add.
const WIDE: usize = 4;
/// Input features of one pass: a panel's share (32 KiB) stays in the first-level cache while all rows pass.
const DEPTH: usize = 512;

/// Weights (`out_features`, `in_features`) in panels of 16 outputs, input features outermost within a panel.
///
/// The last panel is filled up with zeros: as many bytes as the matrix, plus at most 15 rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Panels {
    values: Vec<f32>,
    n_outputs: usize,
    n_inputs: usize,
}

impl Panels {
    /// Repacks a row-major matrix.
    ///
    /// # Panics
    /// If `weights` is not `n_outputs` × `n_inputs`.
    pub fn pack(weights: &[f32], n_outputs: usize, n_inputs: usize) -> Self {
        assert_eq!(Some(weights.len()), n_outputs.checked_mul(n_inputs), "a matrix of this shape");
        let n_panels = n_outputs.div_ceil(PANEL);
        let mut values = vec![0.0; n_panels * PANEL * n_inputs];
        if n_inputs > 0 {
            for (panel, rows) in values.chunks_mut(PANEL * n_inputs).zip(weights.chunks(PANEL * n_inputs)) {
                for (lane, row) in rows.chunks(n_inputs).enumerate() {
                    for (slot, weight) in panel.iter_mut().skip(lane).step_by(PANEL).zip(row) {
                        *slot = *weight;
                    }
                }
            }
        }
        Self { values, n_outputs, n_inputs }
    }

    /// Output features.
    pub fn n_outputs(&self) -> usize {
        self.n_outputs
    }

    /// Input features.
    pub fn n_inputs(&self) -> usize {
        self.n_inputs
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.values.len() * size_of::<f32>()
    }

    /// Copies the weights of one output feature to `row` (`in_features`).
    ///
    /// # Panics
    /// If there is no such output, or the length is not the number of inputs.
    pub fn row(&self, output: usize, row: &mut [f32]) {
        assert!(output < self.n_outputs && row.len() == self.n_inputs, "a row of the matrix");
        let panel = &self.values[output / PANEL * PANEL * self.n_inputs..][..PANEL * self.n_inputs];
        for (weight, slot) in row.iter_mut().zip(panel.iter().skip(output % PANEL).step_by(PANEL)) {
            *weight = *slot;
        }
    }

    /// y = x Wᵀ for rows of activations.
    ///
    /// - `x`: (rows, `in_features`), `y`: (rows, `out_features`), overwritten
    ///
    /// Each output is one chain of multiply-adds over the inputs in order, so a row's result does not depend on the
    /// rows beside it.
    ///
    /// # Panics
    /// If the lengths do not fit.
    pub fn multiply(&self, x: &[f32], y: &mut [f32]) {
        let (n_inputs, n_outputs) = (self.n_inputs, self.n_outputs);
        assert!(n_inputs > 0 && n_outputs > 0 && x.len().is_multiple_of(n_inputs), "whole rows of activations");
        assert_eq!(x.len() / n_inputs * n_outputs, y.len(), "one output row for each row of activations");
        for first in (0..n_inputs).step_by(DEPTH) {
            let depth = DEPTH.min(n_inputs - first);
            for (number, panel) in self.values.chunks_exact(PANEL * n_inputs).enumerate() {
                let panel = panel[first * PANEL..][..depth * PANEL].as_chunks::<PANEL>().0;
                let column = number * PANEL;
                let width = PANEL.min(n_outputs - column);
                let rows = x.chunks(ROWS * n_inputs).zip(y.chunks_mut(ROWS * n_outputs));
                for (x, y) in rows {
                    let place = Place { first, column, width, n_inputs, n_outputs };
                    product(panel, x, y, &place, first > 0);
                }
            }
        }
    }

    /// Some outputs of one row of activations: `y` gets the outputs from `first_output` on, which is a multiple of
    /// [`Self::GRAIN`]. Threads share a row by outputs.
    ///
    /// # Panics
    /// If the lengths do not fit.
    pub fn multiply_row(&self, x: &[f32], first_output: usize, y: &mut [f32]) {
        assert!(x.len() == self.n_inputs && first_output.is_multiple_of(PANEL), "one row, from a panel's start");
        assert!(first_output + y.len() <= self.n_outputs, "outputs of the matrix");
        let panel_len = PANEL * self.n_inputs;
        let values = &self.values[first_output / PANEL * panel_len..];
        for (group, y) in values.chunks(WIDE * panel_len).zip(y.chunks_mut(WIDE * PANEL)) {
            if group.len() == WIDE * panel_len {
                let (a, rest) = group.split_at(2 * panel_len);
                let (a, b) = a.split_at(panel_len);
                let (c, d) = rest.split_at(panel_len);
                let sums = row_by_panels([a, b, c, d].map(|panel| panel.as_chunks::<PANEL>().0), x);
                y.copy_from_slice(&sums.as_flattened()[..y.len()]);
            } else {
                for (panel, y) in group.chunks_exact(panel_len).zip(y.chunks_mut(PANEL)) {
                    let [sums] = row_by_panels([panel.as_chunks::<PANEL>().0], x);
                    y.copy_from_slice(&sums[..y.len()]);
                }
            }
        }
    }

    /// Outputs that threads may share a row by.
    pub const GRAIN: usize = WIDE * PANEL;
}

/// Where a tile lies.
pub(super) struct Place {
    /// First input feature of the pass.
    pub(super) first: usize,
    /// First output of the panel.
    pub(super) column: usize,
    /// Outputs of the panel that exist.
    pub(super) width: usize,
    /// Length of a row of activations.
    pub(super) n_inputs: usize,
    /// Length of a row of outputs.
    pub(super) n_outputs: usize,
}

/// The product of at most [`ROWS`] rows with a panel: added to the outputs, or in their place.
#[inline]
pub(super) fn product(panel: &[[f32; PANEL]], x: &[f32], y: &mut [f32], place: &Place, is_added: bool) {
    match x.len() / place.n_inputs {
        ROWS => tile::<ROWS>(panel, x, y, place, is_added),
        5 => tile::<5>(panel, x, y, place, is_added),
        4 => tile::<4>(panel, x, y, place, is_added),
        3 => tile::<3>(panel, x, y, place, is_added),
        2 => tile::<2>(panel, x, y, place, is_added),
        _ => tile::<1>(panel, x, y, place, is_added),
    }
}

#[inline]
fn tile<const R: usize>(panel: &[[f32; PANEL]], x: &[f32], y: &mut [f32], place: &Place, is_added: bool) {
    let mut sums = [[0.0_f32; PANEL]; R];
    if is_added {
        for (row, sums) in sums.iter_mut().enumerate() {
            let y = &y[row * place.n_outputs + place.column..][..place.width];
            sums[..place.width].copy_from_slice(y);
        }
    }
    let rows: [&[f32]; R] = std::array::from_fn(|row| &x[row * place.n_inputs + place.first..][..panel.len()]);
    for (input, weights) in panel.iter().enumerate() {
        for (x, sums) in rows.iter().zip(&mut sums) {
            accumulate(x[input], weights, sums);
        }
    }
    for (row, sums) in sums.iter().enumerate() {
        let y = &mut y[row * place.n_outputs + place.column..][..place.width];
        y.copy_from_slice(&sums[..place.width]);
    }
}

/// One row with several panels: N × 2 independent chains.
#[inline]
fn row_by_panels<const N: usize>(panels: [&[[f32; PANEL]]; N], x: &[f32]) -> [[f32; PANEL]; N] {
    let mut sums = [[0.0_f32; PANEL]; N];
    let panels = panels.map(|panel| &panel[..x.len()]);
    for (input, x) in x.iter().enumerate() {
        for (panel, sums) in panels.iter().zip(&mut sums) {
            accumulate(*x, &panel[input], sums);
        }
    }
    sums
}

/// Adds x · weights to the sums. A plain counter: iterators keep their checks in builds with assertions, at four times
/// the time.
#[inline]
fn accumulate(x: f32, weights: &[f32; PANEL], sums: &mut [f32; PANEL]) {
    let mut lane = 0;
    while lane < PANEL {
        sums[lane] = multiply_add(x, weights[lane], sums[lane]);
        lane += 1;
    }
}

/// a · b + c, fused where the processor has the instruction: elsewhere `mul_add` would call a function.
#[inline]
pub(super) fn multiply_add(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(any(target_feature = "fma", target_arch = "aarch64")) { a.mul_add(b, c) } else { a * b + c }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(n: usize, seed: f32) -> Vec<f32> {
        (0..n).map(|i| ((i as f32 * 12.9898 + seed).sin() * 43_758.547).fract()).collect()
    }

    #[test]
    fn products_agree_with_f64_over_odd_shapes() {
        for (rows, n_outputs, n_inputs) in [
            (1, 1, 1),
            (1, 17, 3),
            (2, 64, 288),
            (5, 63, 511),
            (6, 16, 512),
            (7, 130, 513),
            (13, 33, 1100),
            (33, 80, 96),
        ] {
            let weights = values(n_outputs * n_inputs, 1.0);
            let x = values(rows * n_inputs, 2.0);
            let panels = Panels::pack(&weights, n_outputs, n_inputs);
            let mut y = vec![f32::NAN; rows * n_outputs];
            panels.multiply(&x, &mut y);
            for (row, x) in x.chunks(n_inputs).enumerate() {
                let mut alone = vec![f32::NAN; n_outputs];
                panels.multiply_row(x, 0, &mut alone);
                for (output, weights) in weights.chunks(n_inputs).enumerate() {
                    let exact: f64 = x.iter().zip(weights).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
                    let size: f64 = x.iter().zip(weights).map(|(x, w)| f64::from((x * w).abs())).sum();
                    // A chain of n rounded additions errs by at most n/2 ulp of the sum of magnitudes.
                    let bound = size * n_inputs as f64 * f64::from(f32::EPSILON);
                    let found = y[row * n_outputs + output];
                    assert!(
                        (f64::from(found) - exact).abs() <= bound,
                        "{rows} {n_outputs} {n_inputs}: {found} {exact}"
                    );
                    assert_eq!(found.to_bits(), alone[output].to_bits(), "a row alone gives the same bits");
                }
            }
        }
    }

    #[test]
    fn a_row_shared_by_outputs_is_the_row() {
        let (n_outputs, n_inputs) = (200, 70);
        let panels = Panels::pack(&values(n_outputs * n_inputs, 3.0), n_outputs, n_inputs);
        let x = values(n_inputs, 4.0);
        let (mut whole, mut parts) = (vec![0.0; n_outputs], vec![0.0; n_outputs]);
        panels.multiply_row(&x, 0, &mut whole);
        for (number, part) in parts.chunks_mut(Panels::GRAIN).enumerate() {
            panels.multiply_row(&x, number * Panels::GRAIN, part);
        }
        assert_eq!(whole, parts);
    }

    #[test]
    fn rows_come_back_as_packed() {
        let weights = values(35 * 9, 5.0);
        let panels = Panels::pack(&weights, 35, 9);
        for (output, expected) in weights.chunks(9).enumerate() {
            let mut row = [0.0; 9];
            panels.row(output, &mut row);
            assert_eq!(row, expected);
        }
    }

    #[test]
    fn non_finite_activations_reach_the_outputs() {
        let panels = Panels::pack(&values(40 * 8, 6.0), 40, 8);
        let mut x = values(8, 7.0);
        x[3] = f32::INFINITY;
        let mut y = [0.0; 40];
        panels.multiply(&x, &mut y);
        assert!(y.iter().all(|value| !value.is_finite()));
    }
}
