//! Synthetic layers for the tests of calibrated methods: correlated inputs with a few outlier channels.

use std::sync::OnceLock;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use rayon::prelude::*;

use crate::compress::Moments;

/// Channels whose inputs are [`OUTLIER_GAIN`] times as large as the spectrum has them.
const OUTLIERS: usize = 4;
const OUTLIER_GAIN: f64 = 8.0;
/// The standard deviations of the inputs' principal directions fall from 1 to e^(-DECAY), geometrically.
const DECAY: f64 = 3.0;

/// A layer, its inputs, and other inputs of the same distribution.
pub(super) struct Synthetic {
    /// (`out_features`, `in_features`), row-major, standard deviation 1 / √`in_features`.
    pub(super) dense: Vec<f32>,
    /// (`out_features`, `in_features`).
    pub(super) shape: [usize; 2],
    /// (tokens, `in_features`).
    pub(super) inputs: Vec<f32>,
    /// The moments of `inputs`.
    pub(super) calibration: Moments,
    /// The moments of inputs drawn apart from `inputs`.
    pub(super) held_out: Moments,
}

/// Thirty layers of 96 outputs and 128 inputs, made once.
pub(super) fn layers() -> &'static [Synthetic] {
    static LAYERS: OnceLock<Vec<Synthetic>> = OnceLock::new();
    LAYERS.get_or_init(|| (0..30).into_par_iter().map(Synthetic::layer).collect())
}

/// The mean over [`layers`].
pub(super) fn layer_mean(of_layer: impl Fn(&Synthetic) -> f64 + Send + Sync) -> f64 {
    let values: Vec<f64> = layers().par_iter().map(of_layer).collect();
    values.iter().sum::<f64>() / values.len() as f64
}

impl Synthetic {
    /// 96 outputs, 128 inputs, 1024 tokens.
    pub(super) fn layer(seed: u64) -> Self {
        Self::new([96, 128], 1024, seed)
    }

    /// The layer number `seed` of this shape.
    pub(super) fn new([rows, width]: [usize; 2], n_tokens: usize, seed: u64) -> Self {
        let mut normal = Normal(StdRng::seed_from_u64(seed));
        let deviation = 1.0 / (width as f64).sqrt();
        let dense = (0..rows * width).map(|_| (normal.next() * deviation) as f32).collect();
        let mut mixing = orthogonal(width, &mut normal);
        for (direction, row) in mixing.chunks_mut(width).enumerate() {
            let gain = (-DECAY * direction as f64 / (width - 1).max(1) as f64).exp();
            for value in row {
                *value *= gain;
            }
        }
        for outlier in 0..OUTLIERS.min(width) {
            let channel = (outlier * width / OUTLIERS + normal.0.random_range(0..width / OUTLIERS.min(width))) % width;
            mixing.iter_mut().skip(channel).step_by(width).for_each(|value| *value *= OUTLIER_GAIN);
        }
        let inputs = draw(&mixing, n_tokens, &mut normal);
        let others = draw(&mixing, n_tokens, &mut normal);
        let [calibration, held_out] = [&inputs, &others].map(|x| {
            let mut moments = Moments::new(width);
            moments.observe(x, n_tokens.div_ceil(crate::compress::SAMPLE_TOKENS));
            moments.finish()
        });
        Self { dense, shape: [rows, width], inputs, calibration, held_out }
    }

    /// ‖X (W − Ŵ)ᵀ‖² / ‖X Wᵀ‖² over inputs that calibration has not seen.
    pub(super) fn held_out_error(&self, restored: &[f32]) -> f64 {
        relative_output_error(&self.dense, restored, &self.held_out)
    }
}

/// `tr(ΔW G ΔWᵀ)` / `tr(W G Wᵀ)`, by the plain sums.
pub(super) fn relative_output_error(dense: &[f32], restored: &[f32], moments: &Moments) -> f64 {
    let error: Vec<f64> = dense.iter().zip(restored).map(|(a, b)| f64::from(*a) - f64::from(*b)).collect();
    let dense: Vec<f64> = dense.iter().map(|weight| f64::from(*weight)).collect();
    trace(&error, moments.gram()) / trace(&dense, moments.gram())
}

/// `tr(D G Dᵀ)` of D (rows, n) and a symmetric G (n, n), by the plain sums.
pub(super) fn trace(matrix: &[f64], gram: &[f64]) -> f64 {
    let width = (gram.len() as f64).sqrt().round() as usize;
    let of_row = |row: &[f64]| -> f64 {
        let product = gram.chunks(width).map(|line| line.iter().zip(row).map(|(a, b)| a * b).sum::<f64>());
        product.zip(row).map(|(a, b)| a * b).sum()
    };
    matrix.chunks(width).map(of_row).sum()
}

/// Standard normal numbers, by the polar method.
pub(super) struct Normal(pub(super) StdRng);

impl Normal {
    pub(super) fn next(&mut self) -> f64 {
        loop {
            let (x, y) = (self.0.random_range(-1.0..1.0_f64), self.0.random_range(-1.0..1.0_f64));
            let square = x * x + y * y;
            if square > 0.0 && square < 1.0 {
                return x * (-2.0 * square.ln() / square).sqrt();
            }
        }
    }
}

/// A random orthogonal matrix, by Gram and Schmidt.
fn orthogonal(width: usize, normal: &mut Normal) -> Vec<f64> {
    let mut rows: Vec<Vec<f64>> = Vec::with_capacity(width);
    for _ in 0..width {
        let mut row: Vec<f64> = (0..width).map(|_| normal.next()).collect();
        // Twice, so that rounding does not spoil the angles.
        for other in rows.iter().chain(&rows) {
            let shadow: f64 = row.iter().zip(other).map(|(a, b)| a * b).sum();
            row.iter_mut().zip(other).for_each(|(value, other)| *value -= shadow * other);
        }
        let length = row.iter().map(|value| value * value).sum::<f64>().sqrt();
        for value in &mut row {
            *value /= length;
        }
        rows.push(row);
    }
    rows.concat()
}

fn draw(mixing: &[f64], n_tokens: usize, normal: &mut Normal) -> Vec<f32> {
    let width = (mixing.len() as f64).sqrt().round() as usize;
    let mut inputs = Vec::with_capacity(n_tokens * width);
    for _ in 0..n_tokens {
        let mut token = vec![0.0; width];
        for row in mixing.chunks(width) {
            let strength = normal.next();
            token.iter_mut().zip(row).for_each(|(sum, value)| *sum += strength * value);
        }
        inputs.extend(token.iter().map(|value| *value as f32));
    }
    inputs
}
