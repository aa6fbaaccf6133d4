//! A square root of the inputs' second moment.

use faer::{Mat, MatRef, Side};

use crate::compress::{CompressError, Moments};

/// A pivot below this share of its diagonal entry is rounding error: the feature is a sum of earlier ones.
const SMALLEST_PIVOT: f64 = 1e-11;

/// The first damping that is tried, a share of the mean diagonal; then ten times as much.
const FIRST_DAMPING: f64 = 1e-6;

/// L of `XᵀX` + δI = L Lᵀ, so that ‖X Aᵀ‖ = ‖A L‖ where δ is 0.
pub(super) struct Whitening {
    lower: Mat<f64>,
    /// What had to be added to the diagonal, in words.
    pub(super) note: Option<String>,
}

impl Whitening {
    /// Of inputs of `row_len` features.
    ///
    /// # Errors
    /// [`CompressError::NotCalibrated`] without tokens, [`CompressError::Inputs`] with those of other features,
    /// [`CompressError::NonFiniteMoments`], [`CompressError::Factorization`] when no damping helps.
    pub(super) fn new(moments: &Moments, row_len: usize) -> Result<Self, CompressError> {
        moments.check(row_len)?;
        Self::of_gram(moments.gram(), row_len)
    }

    /// Of `XᵀX`, (`row_len`, `row_len`) row-major and symmetric.
    ///
    /// # Errors
    /// [`CompressError::NonFiniteMoments`], [`CompressError::Factorization`] when no damping helps.
    pub(super) fn of_gram(gram: &[f64], row_len: usize) -> Result<Self, CompressError> {
        if gram.iter().any(|value| !value.is_finite()) {
            return Err(CompressError::NonFiniteMoments);
        }
        let gram = MatRef::from_row_major_slice(gram, row_len, row_len);
        let mean = (0..row_len).map(|at| gram[(at, at)]).sum::<f64>() / row_len.max(1) as f64;
        if mean <= 0.0 {
            let note = "every calibrated input is zero: the weights alone decide".to_owned();
            return Ok(Self { lower: Mat::identity(row_len, row_len), note: Some(note) });
        }
        if let Some(lower) = cholesky(gram, 0.0) {
            return Ok(Self { lower, note: None });
        }
        let mut damping = FIRST_DAMPING;
        while damping <= 1.0 {
            if let Some(lower) = cholesky(gram, damping * mean) {
                let note = format!(
                    "the calibrated inputs do not span every direction: {damping:e} of their mean square was added"
                );
                return Ok(Self { lower, note: Some(note) });
            }
            damping *= 10.0;
        }
        Err(CompressError::Factorization("the inputs' second moment is not positive definite"))
    }

    /// L, (`in_features`, `in_features`), lower triangular.
    pub(super) fn lower(&self) -> MatRef<'_, f64> {
        self.lower.as_ref()
    }

    /// B ↦ (L Lᵀ)⁻¹ B for B (`in_features`, n).
    pub(super) fn solve(&self, right: &mut Mat<f64>) {
        self.lower.as_ref().solve_lower_triangular_in_place(right.as_mut());
        self.undo(right);
    }

    /// A L⁻¹ for A (n, `in_features`), given and returned transposed.
    pub(super) fn undo(&self, transposed: &mut Mat<f64>) {
        self.lower.as_ref().transpose().solve_upper_triangular_in_place(transposed.as_mut());
    }
}

/// The factor of `gram` + `ridge` · I, unless a pivot is lost in rounding.
fn cholesky(gram: MatRef<'_, f64>, ridge: f64) -> Option<Mat<f64>> {
    let mut damped = gram.to_owned();
    (0..gram.nrows()).for_each(|at| damped[(at, at)] += ridge);
    let lower = damped.llt(Side::Lower).ok()?.L().to_owned();
    let is_sound = (0..gram.nrows()).all(|at| {
        let pivot = lower[(at, at)];
        pivot.is_finite() && pivot * pivot > SMALLEST_PIVOT * damped[(at, at)]
    });
    is_sound.then_some(lower)
}
