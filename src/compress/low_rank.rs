//! Thin factors of a matrix, by plain and by whitened singular value decomposition.

use faer::{Mat, MatRef};

use crate::compress::solver::{Host, Solver, ThinSvd};
use crate::compress::whitening::Whitening;
use crate::compress::{CompressError, Moments};
use crate::recipe::{Correction, LowRank, LowRankMethod, RankRule, rank_of_ratio};

/// Two thin factors: the weights are near `up` · `down`.
#[derive(Debug, Clone, PartialEq)]
pub struct Factors {
    /// (`out_features`, rank), row-major. Column k is as long as row k of `down`.
    pub up: Vec<f32>,
    /// (rank, `in_features`), row-major.
    pub down: Vec<f32>,
    /// Columns of `up`, rows of `down`.
    pub rank: usize,
    /// All of them, falling: of W, or of W L when whitened.
    pub singular_values: Vec<f64>,
    /// Sum of the squares of the singular values that went: ‖W − up · down‖², or when whitened
    /// ‖X (W − up · down)ᵀ‖² over the calibrated inputs.
    pub discarded: f64,
    /// What did not go as asked, in words.
    pub notes: Vec<String>,
}

/// Factors `dense` with the rank that the rule of `low_rank` gives.
///
/// - `dense`: (`out_features`, `in_features`), row-major, finite
/// - `moments`: of its inputs; the whitened method reads them
///
/// An error budget is read as this layer's own: the smallest rank that discards no more than that share.
///
/// # Errors
/// [`CompressError::NotCalibrated`] or [`CompressError::Inputs`] when the whitened method lacks the layer's inputs,
/// [`CompressError::Shape`] when `dense` has another shape, [`CompressError::Factorization`] when a decomposition fails.
///
/// Papers: Eckart and Young, 1936; whitened: Wang et al., 2024 (SVD-LLM), arXiv:2403.07378.
pub fn factorize(
    dense: &[f32],
    shape: [usize; 2],
    low_rank: &LowRank,
    moments: Option<&Moments>,
) -> Result<Factors, CompressError> {
    factorize_with(dense, shape, low_rank, moments, &Host)
}

/// [`factorize`] by another solver.
pub(super) fn factorize_with(
    dense: &[f32],
    shape: [usize; 2],
    low_rank: &LowRank,
    moments: Option<&Moments>,
    solver: &dyn Solver,
) -> Result<Factors, CompressError> {
    let parts = Decomposition::new(dense, shape, low_rank.method, moments, solver)?;
    let rank = match low_rank.rank {
        RankRule::Ratio(ratio) => rank_of_ratio(shape[0], shape[1], ratio, low_rank.align),
        RankRule::Energy(energy) => rank_of_discard(parts.singular_values(), 1.0 - energy, low_rank.align),
        RankRule::ErrorBudget(budget) => rank_of_discard(parts.singular_values(), budget, low_rank.align),
    };
    Ok(parts.factors(rank))
}

/// Factors `dense` with `rank`, which is cut to the full one and at least 1.
///
/// # Errors
/// As [`factorize`].
pub fn low_rank_of_rank(
    dense: &[f32],
    shape: [usize; 2],
    rank: usize,
    method: LowRankMethod,
    moments: Option<&Moments>,
) -> Result<Factors, CompressError> {
    Ok(Decomposition::new(dense, shape, method, moments, &Host)?.factors(rank))
}

/// [`low_rank_of_rank`] with the rank and the method of `correction`, by another solver.
pub(super) fn lack_of_rank(
    lack: &[f32],
    shape: [usize; 2],
    correction: Correction,
    moments: Option<&Moments>,
    solver: &dyn Solver,
) -> Result<Factors, CompressError> {
    Ok(Decomposition::new(lack, shape, correction.method, moments, solver)?.factors(usize::from(correction.rank)))
}

/// The singular values of `dense`, or of its whitened form, falling.
///
/// # Errors
/// As [`factorize`].
pub fn singular_values(
    dense: &[f32],
    shape: [usize; 2],
    method: LowRankMethod,
    moments: Option<&Moments>,
) -> Result<Vec<f64>, CompressError> {
    singular_values_with(dense, shape, method, moments, &Host)
}

/// [`singular_values`] by another solver.
pub(crate) fn singular_values_with(
    dense: &[f32],
    shape: [usize; 2],
    method: LowRankMethod,
    moments: Option<&Moments>,
    solver: &dyn Solver,
) -> Result<Vec<f64>, CompressError> {
    let whitening = whitening(shape, method, moments)?;
    solver.singular_values(&whitened(dense, shape, whitening.as_ref())?)
}

/// The smallest rank, rounded up to a multiple of `align`, that discards at most `share` of the squares.
pub(super) fn rank_of_discard(singular_values: &[f64], share: f64, align: u16) -> usize {
    let total: f64 = singular_values.iter().rev().map(|value| value * value).sum();
    let mut discarded = 0.0;
    let mut rank = singular_values.len();
    for value in singular_values.iter().rev() {
        discarded += value * value;
        if discarded > share.max(NOISE) * total {
            break;
        }
        rank -= 1;
    }
    rank.max(1).next_multiple_of(usize::from(align.max(1))).min(singular_values.len())
}

/// A share of the squares that rounding alone may leave behind.
const NOISE: f64 = 1e-28;

fn whitening(
    [_, row_len]: [usize; 2],
    method: LowRankMethod,
    moments: Option<&Moments>,
) -> Result<Option<Whitening>, CompressError> {
    match method {
        LowRankMethod::Svd => Ok(None),
        LowRankMethod::Whitened => Whitening::new(moments.ok_or(CompressError::NotCalibrated)?, row_len).map(Some),
    }
}

/// W L in f64, or W.
pub(super) fn whitened(
    dense: &[f32],
    [rows, row_len]: [usize; 2],
    whitening: Option<&Whitening>,
) -> Result<Mat<f64>, CompressError> {
    if Some(dense.len()) != rows.checked_mul(row_len) || dense.is_empty() {
        return Err(CompressError::Shape { len: dense.len(), rows, row_len });
    }
    let weights = MatRef::from_row_major_slice(dense, rows, row_len);
    let weights = Mat::from_fn(rows, row_len, |row, column| f64::from(weights[(row, column)]));
    Ok(match whitening {
        None => weights,
        Some(whitening) => &weights * whitening.lower(),
    })
}

/// U, S and V of one matrix, with what whitened it.
pub(super) struct Decomposition {
    svd: ThinSvd,
    whitening: Option<Whitening>,
    shape: [usize; 2],
}

impl Decomposition {
    fn new(
        dense: &[f32],
        shape: [usize; 2],
        method: LowRankMethod,
        moments: Option<&Moments>,
        solver: &dyn Solver,
    ) -> Result<Self, CompressError> {
        let whitening = whitening(shape, method, moments)?;
        Self::of(&whitened(dense, shape, whitening.as_ref())?, whitening, solver)
    }

    /// Of a matrix that `whitening` already went into.
    pub(super) fn of(
        matrix: &Mat<f64>,
        whitening: Option<Whitening>,
        solver: &dyn Solver,
    ) -> Result<Self, CompressError> {
        Ok(Self { svd: solver.thin_svd(matrix)?, whitening, shape: [matrix.nrows(), matrix.ncols()] })
    }

    pub(super) fn singular_values(&self) -> &[f64] {
        &self.svd.values
    }

    /// The factors of the `rank` largest singular values.
    pub(super) fn factors(self, rank: usize) -> Factors {
        let [rows, row_len] = self.shape;
        let rank = rank.clamp(1, self.svd.values.len());
        let mut up = self.svd.u.subcols(0, rank).to_owned();
        let mut down = self.svd.v.subcols(0, rank).to_owned();
        for (column, value) in down.col_iter_mut().zip(&self.svd.values) {
            column.iter_mut().for_each(|entry| *entry *= value);
        }
        if let Some(whitening) = &self.whitening {
            whitening.undo(&mut down);
        }
        // A column of U has length 1. Sharing the length keeps both factors in the range of small formats.
        for (up, down) in up.col_iter_mut().zip(down.col_iter_mut()) {
            let length = down.as_ref().norm_l2().sqrt();
            if length > 0.0 {
                up.iter_mut().for_each(|entry| *entry *= length);
                down.iter_mut().for_each(|entry| *entry /= length);
            }
        }
        let discarded = self.svd.values[rank..].iter().rev().map(|value| value * value).sum();
        let mut notes: Vec<String> = self.whitening.and_then(|whitening| whitening.note).into_iter().collect();
        if rank * (rows + row_len) >= rows * row_len {
            notes.push(format!("factors of rank {rank} are not smaller than the {rows} × {row_len} matrix"));
        }
        Factors {
            up: (0..rows).flat_map(|row| (0..rank).map(move |k| (row, k))).map(|at| up[at] as f32).collect(),
            down: down.col_iter().flat_map(|column| column.iter().map(|entry| *entry as f32)).collect(),
            rank,
            singular_values: self.svd.values,
            discarded,
            notes,
        }
    }
}

#[cfg(test)]
#[path = "low_rank_tests.rs"]
mod tests;
