//! Activations rounded to 8 bits, one scale a token.

use std::ops::Range;

use super::pool::{Parts, share_out_if};

/// Inputs whose codes are summed: no group of weights is shorter.
pub(super) const RUN: usize = 32;
/// Rows of codes are filled up with zeros to a multiple of this: a whole vector.
const ALIGN: usize = 64;
/// Below so many values a hand-over to other threads costs more than it saves.
const LARGE: usize = 1 << 15;
/// The symmetric grid of 255 steps.
const HALF_RANGE: f32 = 127.5;
/// 1.5 · 2²³: a small number added to it is rounded to an integer, halves to even, whose two's complement is in the
/// low bits of the sum.
const ROUNDER: f32 = 12_582_912.0;

/// The grid that tokens are rounded to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum TokenGrid {
    /// Each token spans ±max|x| of its own.
    Dynamic,
    /// One grid for all tokens; what lies outside is clamped.
    Static {
        /// The step, positive.
        scale: f32,
    },
}

/// Rows of activations as 8-bit codes: x ≈ scale · code, code in −128..=127.
///
/// Made once and used by every product that takes the same input. Keeps its buffers from one use to the next.
#[derive(Debug, Clone, Default)]
pub struct Tokens {
    /// (rows, stride); zeros after the inputs.
    codes: Vec<i8>,
    /// (rows).
    scales: Vec<f32>,
    /// (rows, stride / [`RUN`]): the sum of each run of codes.
    sums: Vec<i32>,
    /// (rows): the sum of all codes.
    totals: Vec<i32>,
    n_inputs: usize,
    stride: usize,
}

impl Tokens {
    /// Rounds rows of activations, halves to even, on all threads.
    ///
    /// - `x`: (rows, `n_inputs`)
    ///
    /// A token of zeros keeps only zeros. A token with a value that is not finite gets the scale NaN, so that all its
    /// products are NaN.
    ///
    /// # Panics
    /// If `x` is not whole rows, or the static scale is not positive.
    pub fn round(&mut self, x: &[f32], n_inputs: usize, grid: TokenGrid) {
        assert!(n_inputs > 0 && x.len().is_multiple_of(n_inputs), "whole rows of activations");
        if let TokenGrid::Static { scale } = grid {
            assert!(scale > 0.0, "a static scale is positive");
        }
        let n_rows = x.len() / n_inputs;
        let stride = n_inputs.next_multiple_of(ALIGN);
        let n_runs = stride / RUN;
        (self.n_inputs, self.stride) = (n_inputs, stride);
        self.codes.resize(n_rows * stride, 0);
        self.scales.resize(n_rows, 0.0);
        self.sums.resize(n_rows * n_runs, 0);
        self.totals.resize(n_rows, 0);
        let (codes, scales, sums) =
            (Parts::new(&mut self.codes), Parts::new(&mut self.scales), Parts::new(&mut self.sums));
        share_out_if(n_rows > 1 && x.len() >= LARGE, |share| {
            let rows = share.of(n_rows, 1);
            // SAFETY: shares are different rows.
            let codes = unsafe { codes.range(rows.start * stride..rows.end * stride) };
            // SAFETY: as above.
            let scales = unsafe { scales.range(rows.clone()) };
            // SAFETY: as above.
            let sums = unsafe { sums.range(rows.start * n_runs..rows.end * n_runs) };
            let tokens = x[rows.start * n_inputs..rows.end * n_inputs].chunks_exact(n_inputs);
            let places = codes.chunks_exact_mut(stride).zip(sums.chunks_exact_mut(n_runs)).zip(scales);
            for (token, ((codes, sums), scale)) in tokens.zip(places) {
                *scale = round_token(token, grid, codes);
                for (sum, run) in sums.iter_mut().zip(codes.as_chunks::<RUN>().0) {
                    *sum = run.iter().map(|code| i32::from(*code)).sum();
                }
            }
        });
        for (total, sums) in self.totals.iter_mut().zip(self.sums.chunks_exact(n_runs)) {
            *total = sums.iter().sum();
        }
    }

    /// Rows of activations.
    pub fn n_rows(&self) -> usize {
        self.scales.len()
    }

    /// Activations of a row.
    pub fn n_inputs(&self) -> usize {
        self.n_inputs
    }

    /// The codes of a row, with zeros up to a multiple of 64.
    pub(super) fn codes(&self, row: usize) -> &[i8] {
        &self.codes[row * self.stride..][..self.stride]
    }

    /// The sums of each 32 codes of a row.
    pub(super) fn sums(&self, row: usize) -> &[i32] {
        let n_runs = self.stride / RUN;
        &self.sums[row * n_runs..][..n_runs]
    }

    /// The sum of some runs of a row.
    #[inline]
    pub(super) fn sum(&self, row: usize, runs: &Range<usize>) -> i32 {
        if runs.len() == self.n_inputs.div_ceil(RUN) {
            self.totals[row]
        } else {
            self.sums(row)[runs.clone()].iter().sum()
        }
    }

    /// The step of a row's grid.
    pub(super) fn scale(&self, row: usize) -> f32 {
        self.scales[row]
    }
}

/// Codes of one token, zeros after them; returns its scale.
fn round_token(token: &[f32], grid: TokenGrid, codes: &mut [i8]) -> f32 {
    let (codes, rest) = codes.split_at_mut(token.len());
    rest.fill(0);
    // Magnitudes of floats are ordered as their bits are; what is not finite is above all others.
    let most = f32::from_bits(token.iter().map(|value| value.to_bits() & (u32::MAX >> 1)).fold(0, u32::max));
    let scale = match grid {
        _ if !most.is_finite() => f32::NAN,
        TokenGrid::Dynamic => most / HALF_RANGE,
        TokenGrid::Static { scale } => scale,
    };
    if scale > 0.0 {
        for (code, value) in codes.iter_mut().zip(token) {
            *code = ((value / scale).clamp(-128.0, 127.0) + ROUNDER).to_bits().cast_signed() as i8;
        }
    } else {
        codes.fill(0);
    }
    scale
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the simulated form does, as codes.
    fn reference(token: &[f32], grid: TokenGrid) -> (Vec<i8>, f32) {
        let scale = match grid {
            TokenGrid::Dynamic => token.iter().fold(0.0_f32, |max, value| max.max(value.abs())) / 127.5,
            TokenGrid::Static { scale } => scale,
        };
        let code = |value: &f32| (value / scale).round_ties_even().clamp(-128.0, 127.0) as i8;
        (token.iter().map(|value| if scale > 0.0 { code(value) } else { 0 }).collect(), scale)
    }

    #[test]
    fn codes_are_those_of_the_simulated_form() {
        let mut tokens = Tokens::default();
        for n_inputs in [1, 31, 64, 100, 1000] {
            let x: Vec<f32> = (0..40 * n_inputs)
                .map(|place| {
                    let value = ((place * 2_654_435_761) % 2001) as f32 / 4.0 - 250.0;
                    match place / n_inputs % 8 {
                        5 => value * 1e36,
                        6 => value * 1e-40,
                        7 => 0.0,
                        _ => value,
                    }
                })
                .collect();
            for grid in [TokenGrid::Dynamic, TokenGrid::Static { scale: 0.5 }] {
                tokens.round(&x, n_inputs, grid);
                assert_eq!((tokens.n_rows(), tokens.n_inputs()), (40, n_inputs));
                for (row, token) in x.chunks(n_inputs).enumerate() {
                    let (codes, scale) = reference(token, grid);
                    assert_eq!(tokens.codes(row)[..n_inputs], codes, "row {row} of {n_inputs}, {grid:?}");
                    assert!(tokens.codes(row)[n_inputs..].iter().all(|code| *code == 0));
                    assert_eq!(tokens.scale(row), scale);
                    let sum: i32 = tokens.sums(row).iter().sum();
                    assert_eq!(sum, codes.iter().map(|code| i32::from(*code)).sum::<i32>());
                    assert_eq!(tokens.sums(row)[0], codes.iter().take(32).map(|code| i32::from(*code)).sum::<i32>());
                }
            }
        }
    }

    #[test]
    fn what_is_not_finite_makes_its_own_token_nan() {
        let mut tokens = Tokens::default();
        for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for grid in [TokenGrid::Dynamic, TokenGrid::Static { scale: 1.0 }] {
                tokens.round(&[1.0, 2.0, bad, 0.0, 1.0, -2.0], 2, grid);
                let scales = [0, 1, 2].map(|row| tokens.scale(row).is_nan());
                assert_eq!(scales, [false, true, false], "{bad} {grid:?}");
            }
        }
    }
}
