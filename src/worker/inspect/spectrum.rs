//! The singular values of a layer.

use faer::linalg::matmul::triangular::{BlockStructure, matmul};
use faer::{Accum, Mat, MatRef, Par, Side};

use crate::worker::inspection::Spectrum;

/// The largest smaller side: its Gram matrix takes 128 MiB.
pub(super) const MAX_SIDE: usize = 4096;
/// Rows or columns whose products are summed at a time.
const TILE: usize = 256;

/// The singular values of `dense` (rows, columns), in f64: square roots of the eigenvalues of the smaller Gram matrix, so
/// that values below 1e-7 of the first are rounding. The text says why there are none.
pub(super) fn spectrum(dense: &[f32], shape: [usize; 2]) -> Result<Spectrum, String> {
    let side = shape[0].min(shape[1]);
    if side > MAX_SIDE {
        return Err(format!(
            "singular values take time with the third power of the smaller side, and memory with its square: it is {side} \
             here, at most {MAX_SIDE} are computed"
        ));
    }
    let gram = gram(dense, shape);
    let eigenvalues = gram
        .self_adjoint_eigenvalues(Side::Lower)
        .map_err(|error| format!("the eigenvalues do not converge: {error:?}"))?;
    // They come in rising order, and rounding may leave one of them below zero.
    Ok(Spectrum { singular_values: eigenvalues.into_iter().rev().map(|value| value.max(0.0).sqrt()).collect() })
}

/// W Wᵀ or Wᵀ W, whichever is smaller; the lower half.
fn gram(dense: &[f32], [rows, row_len]: [usize; 2]) -> Mat<f64> {
    let side = rows.min(row_len);
    let mut gram = Mat::<f64>::zeros(side, side);
    let (lower, whole) = (BlockStructure::TriangularLower, BlockStructure::Rectangular);
    let mut add = |tile: MatRef<'_, f64>| {
        matmul(gram.as_mut(), lower, Accum::Add, tile.transpose(), whole, tile, whole, 1.0, Par::rayon(0));
    };
    let mut wide: Vec<f64> = Vec::new();
    if row_len <= rows {
        for tile in dense.chunks(TILE * row_len) {
            wide.clear();
            wide.extend(tile.iter().map(|weight| f64::from(*weight)));
            add(MatRef::from_row_major_slice(&wide, wide.len() / row_len, row_len));
        }
    } else {
        for first in (0..row_len).step_by(TILE) {
            let width = TILE.min(row_len - first);
            wide.clear();
            let runs = dense.chunks(row_len).flat_map(|row| &row[first..first + width]);
            wide.extend(runs.map(|weight| f64::from(*weight)));
            add(MatRef::from_row_major_slice(&wide, rows, width).transpose());
        }
    }
    gram
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_those_of_the_decomposition() {
        for shape in [[1, 1], [7, 5], [5, 7], [40, 300], [300, 40]] {
            let dense: Vec<f32> =
                (0..shape[0] * shape[1]).map(|i| ((i * i * 31 + i * 17) % 211) as f32 / 100.0 - 1.0).collect();
            let found = spectrum(&dense, shape).unwrap().singular_values;
            let matrix = Mat::from_fn(shape[0], shape[1], |row, column| f64::from(dense[row * shape[1] + column]));
            let expected = matrix.singular_values().unwrap();
            assert_eq!(found.len(), expected.len());
            for (found, expected_value) in found.iter().zip(&expected) {
                assert!((found - expected_value).abs() < 1e-6 * expected[0], "{shape:?}: {found} {expected_value}");
            }
        }
    }

    #[test]
    fn all_energy_is_the_norm_and_rank_one_has_one_value() {
        let dense: Vec<f32> = (0..12).map(|i| (i / 4 + 1) as f32 * (i % 4 + 1) as f32).collect();
        let found = spectrum(&dense, [3, 4]).unwrap();
        let norm: f64 = dense.iter().map(|weight| f64::from(*weight).powi(2)).sum();
        assert!((found.discarded(0) - norm).abs() < 1e-9 * norm);
        assert_eq!(found.rank_for(0.999), 1);
        assert!(found.discarded(1) < 1e-12 * norm && found.energy(3) == 1.0);
        assert!(found.singular_values.iter().all(|value| value.is_finite() && *value >= 0.0));
    }

    #[test]
    fn too_large_a_side_says_so() {
        let why = spectrum(&[], [MAX_SIDE + 1, MAX_SIDE + 1]).unwrap_err();
        assert!(why.contains("4097") && why.contains("4096"), "{why}");
    }
}
