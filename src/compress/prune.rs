//! Masks of unstructured pruning: magnitude, Wanda and patterns.

use std::cmp::Ordering;

use rayon::prelude::*;

use crate::compress::{CompressError, Moments};
use crate::recipe::{Pattern, Sparsity, SparsityMethod, SparsityScope, count};

/// Which weights of `dense` stay, by magnitude or by Wanda; true is kept.
///
/// - `dense`: (rows, `row_len`), row-major, finite
/// - `moments`: of the inputs, (tokens, `row_len`); Wanda reads them
///
/// Scores are |w|, or |w| · root mean square of the input, in f64. Of n weights that compete (the matrix, or each row)
/// exactly ⌊n · fraction⌋ go; with a pattern exactly its zeros in each run of consecutive inputs. Of equal scores the
/// earlier weight goes first: a threshold comparison would prune above the target wherever scores repeat.
///
/// # Errors
/// [`CompressError::NotCalibrated`] when Wanda has no inputs, [`CompressError::Inputs`] when they are not those of these
/// rows, [`CompressError::RowLength`] when rows are not made of whole runs, [`CompressError::Unsupported`] for `SparseGPT`,
/// which chooses its mask while it updates the weights.
///
/// Papers: Han et al., `NeurIPS` 2015, arXiv:1506.02626; Sun et al., ICLR 2024, arXiv:2306.11695.
pub fn keep_mask(
    dense: &[f32],
    row_len: usize,
    sparsity: &Sparsity,
    moments: Option<&Moments>,
) -> Result<Vec<bool>, CompressError> {
    let norms = match sparsity.method {
        SparsityMethod::Magnitude => vec![1.0; row_len],
        SparsityMethod::Wanda => input_norms(row_len, moments)?,
        SparsityMethod::SparseGpt => {
            return Err(CompressError::Unsupported("sparsegpt chooses its mask while it updates the weights"));
        }
    };
    let mut kept = vec![true; dense.len()];
    if dense.is_empty() || row_len == 0 {
        return Ok(kept);
    }
    let rows = || dense.par_chunks(row_len);
    match (sparsity.pattern, sparsity.scope) {
        (Some(pattern), _) => {
            let len = usize::from(pattern.len);
            if !row_len.is_multiple_of(len) {
                return Err(CompressError::RowLength { format: pattern.to_string(), row_len, block_len: len });
            }
            rows().zip(kept.par_chunks_mut(row_len)).for_each(|(row, kept)| cut_runs(row, &norms, pattern, kept));
        }
        (None, SparsityScope::Row) => {
            let n_cut = count(row_len, sparsity.fraction);
            rows().zip(kept.par_chunks_mut(row_len)).for_each(|(row, kept)| cut_lowest(row, &norms, n_cut, kept));
        }
        (None, SparsityScope::Matrix) => {
            cut_lowest(dense, &norms, count(dense.len(), sparsity.fraction), &mut kept);
        }
    }
    Ok(kept)
}

/// The Wanda scores |w| · root mean square of the input, row by row.
///
/// # Errors
/// As [`keep_mask`] with Wanda.
pub fn wanda_scores<'a>(
    dense: &'a [f32],
    row_len: usize,
    moments: &Moments,
) -> Result<impl Iterator<Item = f64> + Clone + use<'a>, CompressError> {
    let norms = input_norms(row_len, Some(moments))?;
    Ok(dense.iter().enumerate().map(move |(index, weight)| f64::from(weight.abs()) * norms[index % row_len]))
}

/// Root mean square of each input feature.
fn input_norms(row_len: usize, moments: Option<&Moments>) -> Result<Vec<f64>, CompressError> {
    let moments = moments.ok_or(CompressError::NotCalibrated)?;
    moments.check(row_len)?;
    let n = moments.n_tokens() as f64;
    Ok(moments.sum_squares().into_iter().map(|sum| (sum / n).sqrt()).collect())
}

/// Unmarks the `n_cut` weights of lowest score in whole rows.
fn cut_lowest(weights: &[f32], norms: &[f64], n_cut: usize, kept: &mut [bool]) {
    if n_cut == 0 {
        return;
    }
    let scores = |visit: &mut dyn FnMut(usize, f64)| {
        for (row, weights) in weights.chunks(norms.len()).enumerate() {
            for (column, (weight, norm)) in weights.iter().zip(norms).enumerate() {
                visit(row * norms.len() + column, f64::from(weight.abs()) * norm);
            }
        }
    };
    let mut sorted = Vec::with_capacity(weights.len());
    scores(&mut |_, score| sorted.push(score));
    let (below, threshold, _) = sorted.select_nth_unstable_by(n_cut - 1, f64::total_cmp);
    let threshold = *threshold;
    let mut n_ties = n_cut - below.iter().filter(|score| score.total_cmp(&threshold) == Ordering::Less).count();
    scores(&mut |index, score| match score.total_cmp(&threshold) {
        Ordering::Less => kept[index] = false,
        Ordering::Equal if n_ties > 0 => {
            kept[index] = false;
            n_ties -= 1;
        }
        Ordering::Equal | Ordering::Greater => {}
    });
}

/// Unmarks the lowest scores of each run in one row.
fn cut_runs(row: &[f32], norms: &[f64], pattern: Pattern, kept: &mut [bool]) {
    let len = usize::from(pattern.len);
    let mut run: Vec<(f64, usize)> = Vec::with_capacity(len);
    for ((weights, norms), kept) in row.chunks(len).zip(norms.chunks(len)).zip(kept.chunks_mut(len)) {
        run.clear();
        run.extend(weights.iter().zip(norms).zip(0..).map(|((w, norm), at)| (f64::from(w.abs()) * norm, at)));
        // Stable: of equal scores the earlier stays in front.
        run.sort_by(|a, b| a.0.total_cmp(&b.0));
        run.iter().take(usize::from(pattern.zeros)).for_each(|(_, at)| kept[*at] = false);
    }
}

#[cfg(test)]
#[path = "prune_tests.rs"]
mod tests;
