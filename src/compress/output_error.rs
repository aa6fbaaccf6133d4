//! What a change of the weights does to a layer's outputs.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

use crate::compress::Moments;

/// Rows of one product.
const BAND: usize = 32;

/// ‖X (W − Ŵ)ᵀ‖² / ‖X Wᵀ‖² over the calibrated inputs X; `None` where all outputs are zero.
///
/// As `tr(ΔW G ΔWᵀ)` / `tr(W G Wᵀ)` with G = `XᵀX`, in f64.
///
/// - `dense`, `restored`: (rows, `in_features`) of the moments
pub(super) fn output_error(dense: &[f32], restored: &[f32], moments: &Moments) -> Option<f64> {
    let error = quadratic_form(moments.gram(), moments.n_inputs(), dense.len(), |place| {
        f64::from(dense[place]) - f64::from(restored[place])
    });
    let whole = quadratic_form(moments.gram(), moments.n_inputs(), dense.len(), |place| f64::from(dense[place]));
    share(error, whole)
}

/// The part of the outputs' squares that are errors, of both sums.
pub(crate) fn share(error: f64, whole: f64) -> Option<f64> {
    // Rounding may leave a sum of squares a hair below zero.
    (whole > 0.0).then(|| error.max(0.0) / whole)
}

/// `tr(D G Dᵀ)` of D (len / width, width), whose entries `entry` gives by place, and a symmetric G (width, width).
pub(super) fn quadratic_form(gram: &[f64], width: usize, len: usize, entry: impl Fn(usize) -> f64 + Sync) -> f64 {
    if width == 0 {
        return 0.0;
    }
    let gram = MatRef::from_row_major_slice(gram, width, width);
    let starts: Vec<usize> = (0..len).step_by(BAND * width).collect();
    let sums: Vec<f64> = starts
        .into_par_iter()
        .map(|start| {
            let band: Vec<f64> = (start..len.min(start + BAND * width)).map(&entry).collect();
            let rows = band.len() / width;
            let mut product = vec![0.0; band.len()];
            let target = MatMut::from_row_major_slice_mut(&mut product, rows, width);
            let band_matrix = MatRef::from_row_major_slice(&band, rows, width);
            matmul(target, Accum::Replace, band_matrix, gram, 1.0, Par::Seq);
            product.iter().zip(&band).map(|(a, b)| a * b).sum()
        })
        .collect();
    // In the order of the bands, so that the sum does not depend on the threads.
    sums.iter().sum()
}
