//! What calibration knows of a layer's inputs.

use faer::linalg::matmul::triangular::{BlockStructure, matmul};
use faer::{Accum, MatMut, MatRef, Par};

use crate::compress::CompressError;

/// Tokens whose inputs are kept as they are.
pub const SAMPLE_TOKENS: usize = 512;

/// Tokens whose products are summed at a time.
const TILE: usize = 256;

/// Rows and columns that are mirrored at a time.
const MIRRORED: usize = 64;

/// Sums over the calibrated inputs X (tokens, `in_features`) of a layer; layers that read the same input share one.
#[derive(Debug, Clone, PartialEq)]
pub struct Moments {
    pub(super) n_inputs: usize,
    pub(super) n_tokens: u64,
    /// `XᵀX`, (`in_features`, `in_features`) row-major, symmetric.
    pub(super) gram: Vec<f64>,
    pub(super) sum_abs: Vec<f64>,
    pub(super) max_abs: Vec<f32>,
    pub(super) sample: Vec<f32>,
}

/// Finished sums that were made elsewhere: on a card, or before.
#[derive(Debug, Clone, PartialEq)]
pub struct MomentParts {
    /// Tokens seen.
    pub n_tokens: u64,
    /// The lower half of `XᵀX`, row behind row.
    pub lower: Vec<f64>,
    /// Sum of magnitudes of each feature.
    pub sum_abs: Vec<f64>,
    /// Largest magnitude of each feature.
    pub max_abs: Vec<f32>,
    /// Up to [`SAMPLE_TOKENS`] inputs as they were, (tokens, `in_features`).
    pub sample: Vec<f32>,
}

impl Moments {
    /// The moments of inputs with `n_inputs` features; `None` where a length is not that of so many.
    pub fn from_parts(n_inputs: usize, parts: MomentParts) -> Option<Self> {
        let MomentParts { n_tokens, lower, sum_abs, max_abs, sample } = parts;
        let fits = lower.len() == n_lower(n_inputs)? && sum_abs.len() == n_inputs && max_abs.len() == n_inputs;
        let is_sample = sample.len() <= SAMPLE_TOKENS * n_inputs && sample.len().is_multiple_of(n_inputs.max(1));
        if !fits || !is_sample {
            return None;
        }
        let mut gram = vec![0.0; n_inputs * n_inputs];
        let mut rest = lower.as_slice();
        for row in 0..n_inputs {
            let (own, behind) = rest.split_at(row + 1);
            gram[row * n_inputs..][..=row].copy_from_slice(own);
            rest = behind;
        }
        Some(Self { n_inputs, n_tokens, gram, sum_abs, max_abs, sample }.finish())
    }

    /// No tokens yet.
    pub fn new(n_inputs: usize) -> Self {
        Self {
            n_inputs,
            n_tokens: 0,
            gram: vec![0.0; n_inputs * n_inputs],
            sum_abs: vec![0.0; n_inputs],
            max_abs: vec![0.0; n_inputs],
            sample: Vec::new(),
        }
    }

    /// Adds inputs x (tokens, `in_features`). Products and sums are in f64; every `sample_every`-th token is kept until
    /// [`SAMPLE_TOKENS`] are.
    pub fn observe(&mut self, x: &[f32], sample_every: usize) {
        let width = self.n_inputs;
        let mut wide = Vec::with_capacity(TILE.min(x.len() / width.max(1)) * width);
        for tile in x.chunks(TILE * width) {
            wide.clear();
            wide.extend(tile.iter().map(|value| f64::from(*value)));
            let tokens = MatRef::from_row_major_slice(&wide, wide.len() / width, width);
            let gram = MatMut::from_row_major_slice_mut(&mut self.gram, width, width);
            let rectangular = BlockStructure::Rectangular;
            let lower = BlockStructure::TriangularLower;
            matmul(gram, lower, Accum::Add, tokens.transpose(), rectangular, tokens, rectangular, 1.0, Par::rayon(0));
        }
        for token in x.chunks(width) {
            for ((value, sum), max) in token.iter().zip(&mut self.sum_abs).zip(&mut self.max_abs) {
                *sum += f64::from(value.abs());
                *max = max.max(value.abs());
            }
            let is_picked = self.n_tokens.is_multiple_of(sample_every.max(1) as u64);
            if is_picked && self.sample.len() < SAMPLE_TOKENS * width {
                self.sample.extend_from_slice(token);
            }
            self.n_tokens += 1;
        }
    }

    /// Completes the sums after the last token: the upper half of `XᵀX` mirrors the lower.
    #[must_use]
    pub fn finish(mut self) -> Self {
        let width = self.n_inputs;
        // In tiles: the rows of a wide matrix are pages apart.
        for first_row in (0..width).step_by(MIRRORED) {
            for first_column in (first_row..width).step_by(MIRRORED) {
                for row in first_row..width.min(first_row + MIRRORED) {
                    for column in first_column.max(row + 1)..width.min(first_column + MIRRORED) {
                        self.gram[row * width + column] = self.gram[column * width + row];
                    }
                }
            }
        }
        self
    }

    /// Whether these are the moments of inputs with `width` features.
    ///
    /// # Errors
    /// [`CompressError::Inputs`] if not, [`CompressError::NotCalibrated`] before the first token,
    /// [`CompressError::NonFiniteMoments`] if a sum overflowed or an input was not finite.
    pub fn check(&self, width: usize) -> Result<(), CompressError> {
        CompressError::check_inputs(self, width)?;
        if self.n_tokens == 0 {
            return Err(CompressError::NotCalibrated);
        }
        let is_finite = |values: &[f64]| values.iter().all(|value| value.is_finite());
        if !is_finite(&self.gram) || !is_finite(&self.sum_abs) {
            return Err(CompressError::NonFiniteMoments);
        }
        Ok(())
    }

    /// Features of an input.
    pub fn n_inputs(&self) -> usize {
        self.n_inputs
    }

    /// Tokens seen.
    pub fn n_tokens(&self) -> u64 {
        self.n_tokens
    }

    /// `XᵀX`, (`in_features`, `in_features`), row-major and symmetric.
    pub fn gram(&self) -> &[f64] {
        &self.gram
    }

    /// Sum of squares of each feature: the diagonal of `XᵀX`.
    pub fn sum_squares(&self) -> Vec<f64> {
        (0..self.n_inputs).map(|feature| self.gram[feature * (self.n_inputs + 1)]).collect()
    }

    /// Mean magnitude of each feature.
    pub fn mean_abs(&self) -> Vec<f64> {
        let n = self.n_tokens.max(1) as f64;
        self.sum_abs.iter().map(|sum| sum / n).collect()
    }

    /// Largest magnitude of each feature.
    pub fn max_abs(&self) -> &[f32] {
        &self.max_abs
    }

    /// Up to [`SAMPLE_TOKENS`] inputs as they were, (tokens, `in_features`).
    pub fn sample(&self) -> &[f32] {
        &self.sample
    }

    /// Features that were zero in every token.
    pub fn n_dead(&self) -> usize {
        self.max_abs.iter().filter(|max| **max == 0.0).count()
    }

    /// The moments of inputs whose feature j is divided by `scales[j]`.
    #[must_use]
    pub fn divided(&self, scales: &[f32]) -> Self {
        let mut divided = self.clone();
        let inverse: Vec<f64> = scales.iter().map(|scale| 1.0 / f64::from(*scale)).collect();
        for (row, inverse_row) in divided.gram.chunks_mut(self.n_inputs.max(1)).zip(&inverse) {
            row.iter_mut().zip(&inverse).for_each(|(value, inverse)| *value *= inverse_row * inverse);
        }
        divided.sum_abs.iter_mut().zip(&inverse).for_each(|(sum, inverse)| *sum *= inverse);
        divided.max_abs.iter_mut().zip(scales).for_each(|(max, scale)| *max /= scale);
        let tokens = divided.sample.chunks_mut(self.n_inputs.max(1));
        tokens.for_each(|token| token.iter_mut().zip(scales).for_each(|(value, scale)| *value /= scale));
        divided
    }

    /// The moments of inputs of which only the features `kept` are left.
    #[must_use]
    pub fn select(&self, kept: &[usize]) -> Self {
        let width = self.n_inputs;
        let pick = |row: &[f32]| -> Vec<f32> { kept.iter().map(|&feature| row[feature]).collect() };
        Self {
            n_inputs: kept.len(),
            n_tokens: self.n_tokens,
            gram: kept
                .iter()
                .flat_map(|&row| kept.iter().map(move |&column| (row, column)))
                .map(|(r, c)| self.gram[r * width + c])
                .collect(),
            sum_abs: kept.iter().map(|&feature| self.sum_abs[feature]).collect(),
            max_abs: pick(&self.max_abs),
            sample: self.sample.chunks(width.max(1)).flat_map(pick).collect(),
        }
    }
}

/// Numbers in the lower half of a matrix of this width; `None` where they cannot be counted.
pub(super) fn n_lower(width: usize) -> Option<usize> {
    Some(width.checked_mul(width.checked_add(1)?)? / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_of_every_token() {
        let width = 3;
        let x: Vec<f32> = (0..600 * width).map(|i| ((i * 37 % 101) as f32 - 50.0) / 16.0).collect();
        let mut moments = Moments::new(width);
        x.chunks(100 * width).for_each(|part| moments.observe(part, 2));
        let moments = moments.finish();
        for row in 0..width {
            for column in 0..width {
                let expected: f64 = x.chunks(width).map(|token| f64::from(token[row]) * f64::from(token[column])).sum();
                assert!((moments.gram()[row * width + column] - expected).abs() < 1e-9 * expected.abs());
            }
        }
        assert_eq!((moments.n_tokens(), moments.sample().len(), moments.n_dead()), (600, 300 * width, 0));
        assert_eq!(moments.sample()[width..2 * width], x[2 * width..3 * width]);
        let chosen = moments.select(&[2, 0]);
        assert_eq!(chosen.gram()[1], moments.gram()[2 * width]);
        let halved = moments.divided(&[2.0, 1.0, 1.0]);
        assert_eq!((halved.gram()[0], halved.gram()[1]), (moments.gram()[0] / 4.0, moments.gram()[1] / 2.0));
    }
    #[test]
    fn finished_sums_are_symmetric() {
        // Not whole tiles of what is mirrored at a time.
        let width = 2 * MIRRORED + 3;
        let x: Vec<f32> = (0..5 * width).map(|i| ((i * 37 % 101) as f32 - 50.0) / 16.0).collect();
        let mut moments = Moments::new(width);
        moments.observe(&x, 1);
        let moments = moments.finish();
        for row in 0..width {
            for column in 0..width {
                let expected: f64 = x.chunks(width).map(|token| f64::from(token[row]) * f64::from(token[column])).sum();
                let found = moments.gram()[row * width + column];
                assert!((found - expected).abs() < 1e-9 * (1.0 + expected.abs()), "{row} {column}");
            }
        }
    }
}
