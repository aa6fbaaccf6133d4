//! Channels and heads that are really removed.
//!
//! A unit is what goes or stays as a whole: a channel of the MLP, or a key-value head with all queries that share it. The
//! units of a matrix are equal runs of its rows (where it makes them) or of its columns (where it reads them).

use faer::{Mat, MatRef};

use crate::compress::whitening::Whitening;
use crate::compress::{CompressError, Moments};

/// The norm of all weights that make and read each unit.
///
/// - `makers`: (units · any, `in_features`) each, row-major: gate and up, or q, k and v
/// - `reader`: (`reader_rows`, units · any): down, or o
pub fn weight_norms(makers: &[&[f32]], reader: &[f32], reader_rows: usize, n_units: usize) -> Vec<f64> {
    let square = |values: &[f32]| values.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>();
    let mut sums = vec![0.0; n_units];
    for maker in makers {
        let run = (maker.len() / n_units.max(1)).max(1);
        sums.iter_mut().zip(maker.chunks_exact(run)).for_each(|(sum, rows)| *sum += square(rows));
    }
    let row_len = reader.len() / reader_rows.max(1);
    let run = (row_len / n_units.max(1)).max(1);
    for row in reader.chunks(row_len.max(1)) {
        sums.iter_mut().zip(row.chunks_exact(run)).for_each(|(sum, columns)| *sum += square(columns));
    }
    sums.into_iter().map(f64::sqrt).collect()
}

/// The norm of each unit's values over the calibrated inputs of the layer that reads it.
pub fn activation_norms(moments: &Moments, n_units: usize) -> Vec<f64> {
    sum_units(&moments.sum_squares(), n_units).into_iter().map(f64::sqrt).collect()
}

/// Sums the scores of the parts of each unit: those of the query heads that share a key-value head.
pub fn sum_units(scores: &[f64], n_units: usize) -> Vec<f64> {
    let run = (scores.len() / n_units.max(1)).max(1);
    scores.chunks(run).map(|scores| scores.iter().sum()).collect()
}

/// The `n_kept` units of highest score, in their order; of equal ones the earlier goes first.
pub fn highest(scores: &[f64], n_kept: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]).then(b.cmp(a)));
    order.truncate(n_kept);
    order.sort_unstable();
    order
}

/// The rows or columns of units of `run` each.
pub fn features_of_units(kept: &[usize], run: usize) -> Vec<usize> {
    kept.iter().flat_map(|unit| unit * run..(unit + 1) * run).collect()
}

/// The rows `kept` of a matrix (rows, `row_len`); a bias is one with rows of 1.
pub fn select_rows(matrix: &[f32], row_len: usize, kept: &[usize]) -> Vec<f32> {
    kept.iter().flat_map(|row| &matrix[row * row_len..(row + 1) * row_len]).copied().collect()
}

/// The columns `kept` of a matrix (rows, `row_len`).
pub fn select_columns(matrix: &[f32], row_len: usize, kept: &[usize]) -> Vec<f32> {
    matrix.chunks(row_len.max(1)).flat_map(|row| kept.iter().map(move |column| row[*column])).collect()
}

/// The columns that stay, changed so that they make up for those that went.
#[derive(Debug, Clone, PartialEq)]
pub struct Survivors {
    /// (`out_features`, kept), row-major.
    pub weights: Vec<f32>,
    /// What did not go as asked, in words.
    pub notes: Vec<String>,
}

/// The least-squares solution `W_S = W H_{:,S} H_{S,S}⁻¹` over the calibrated inputs, where S are the features `kept`.
///
/// - `dense`: (`out_features`, `in_features`), row-major, finite
/// - `kept`: rising, below `in_features`
///
/// Computed as `W_S + W_P H_{P,S} H_{S,S}⁻¹` with P what went: keeping everything changes nothing, and where `H_{S,S}` had to
/// be damped the solution stays near the weights as they were.
///
/// # Errors
/// [`CompressError::NotCalibrated`] without inputs, [`CompressError::Inputs`] with another layer's,
/// [`CompressError::Shape`] when `dense` has another shape, [`CompressError::Factorization`] when `H_{S,S}` has no factor.
pub fn least_squares_update(
    dense: &[f32],
    [rows, row_len]: [usize; 2],
    moments: &Moments,
    kept: &[usize],
) -> Result<Survivors, CompressError> {
    moments.check(row_len)?;
    if Some(dense.len()) != rows.checked_mul(row_len) {
        return Err(CompressError::Shape { len: dense.len(), rows, row_len });
    }
    let mut weights = select_columns(dense, row_len, kept);
    let mut is_kept = vec![false; row_len];
    for &feature in kept {
        is_kept[feature] = true;
    }
    let gone: Vec<usize> = (0..row_len).filter(|&feature| !is_kept[feature]).collect();
    if gone.is_empty() || kept.is_empty() {
        return Ok(Survivors { weights, notes: Vec::new() });
    }
    let gram = MatRef::from_row_major_slice(moments.gram(), row_len, row_len);
    let among: Vec<f64> = kept.iter().flat_map(|&a| kept.iter().map(move |&b| gram[(a, b)])).collect();
    let whitening = Whitening::of_gram(&among, kept.len())?;
    let across = Mat::from_fn(kept.len(), gone.len(), |a, b| gram[(kept[a], gone[b])]);
    let lost = Mat::from_fn(gone.len(), rows, |a, row| f64::from(dense[row * row_len + gone[a]]));
    let mut change = across * lost;
    whitening.solve(&mut change);
    for (row, weights) in weights.chunks_mut(kept.len()).enumerate() {
        for (at, weight) in weights.iter_mut().enumerate() {
            *weight = (f64::from(*weight) + change[(at, row)]) as f32;
        }
    }
    Ok(Survivors { weights, notes: whitening.note.into_iter().collect() })
}

#[cfg(test)]
#[path = "structured_tests.rs"]
mod tests;
