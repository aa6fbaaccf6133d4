//! The factored inverse Hessian of a layer's output error.

use faer::linalg::triangular_inverse::invert_lower_triangular;
use faer::{Mat, MatMut, Par, Side};

use crate::compress::{CompressError, Moments};

/// H = 2 `XᵀX` / tokens, with 1 on the diagonal of dead inputs.
pub(crate) struct Hessian<'a> {
    pub(crate) gram: &'a [f64],
    width: usize,
    /// 2 / tokens.
    pub(crate) scale: f64,
    pub(crate) diagonal: Vec<f64>,
    /// Of the diagonal.
    pub(crate) mean: f64,
    is_dead: Vec<bool>,
}

impl<'a> Hessian<'a> {
    /// The Hessian of a layer with `width` inputs.
    ///
    /// # Errors
    /// [`CompressError::Inputs`], [`CompressError::NotCalibrated`] without tokens, [`CompressError::NonFiniteMoments`].
    pub(crate) fn new(moments: &'a Moments, width: usize) -> Result<Self, CompressError> {
        moments.check(width)?;
        let scale = 2.0 / moments.n_tokens() as f64;
        let mut diagonal: Vec<f64> = moments.sum_squares().iter().map(|sum| sum * scale).collect();
        let is_dead: Vec<bool> = diagonal.iter().map(|value| *value == 0.0).collect();
        diagonal.iter_mut().zip(&is_dead).filter(|(_, dead)| **dead).for_each(|(value, _)| *value = 1.0);
        let mean = diagonal.iter().sum::<f64>() / width as f64;
        Ok(Self { gram: moments.gram(), width, scale, diagonal, mean, is_dead })
    }

    /// Whether an input was zero in every token.
    pub(crate) fn is_dead(&self) -> &[bool] {
        &self.is_dead
    }

    /// Inputs by falling diagonal, equal ones in their own order.
    pub(crate) fn act_order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.width).collect();
        order.sort_by(|a, b| self.diagonal[*b].total_cmp(&self.diagonal[*a]));
        order
    }

    /// Factors H⁻¹ = `UᵀU` with columns in `order`. The damping is raised tenfold, up to 1, until H is positive definite;
    /// `None` if it never is.
    pub(super) fn factor(&self, order: Vec<usize>, damping: f64) -> Option<Factor> {
        let found = shares(damping).find_map(|share| Some((self.inverse_factor(&order, share)?, share)));
        found.map(|(upper, damping)| Factor { upper, order, damping })
    }

    /// H + share · mean(diag H) · I.
    pub(super) fn damped(&self, row: usize, column: usize, share: f64) -> f64 {
        if row == column {
            return self.diagonal[row] + share * self.mean;
        }
        self.gram[row * self.width + column] * self.scale
    }

    /// U, row-major, upper triangular.
    ///
    /// With rows and columns reversed, H = L Lᵀ; then R = L reversed again is upper triangular, H = R Rᵀ, and U = R⁻¹: one
    /// factorization and one triangular inverse, without forming H⁻¹.
    fn inverse_factor(&self, order: &[usize], share: f64) -> Option<Vec<f64>> {
        let width = self.width;
        let reversed: Vec<usize> = order.iter().rev().copied().collect();
        let matrix = Mat::from_fn(width, width, |row, column| self.damped(reversed[row], reversed[column], share));
        let lower = matrix.llt(Side::Lower).ok()?;
        drop(matrix);
        let mut upper = vec![0.0; width * width];
        let view = MatMut::from_row_major_slice_mut(&mut upper, width, width);
        invert_lower_triangular(view, lower.L(), Par::rayon(0));
        // Reversing a row-major matrix as a whole reverses its rows and its columns.
        upper.reverse();
        is_sound(&upper, width).then_some(upper)
    }
}

/// The shares of the mean diagonal that are tried in turn, from `damping` on.
pub(crate) fn shares(damping: f64) -> impl Iterator<Item = f64> {
    std::iter::successors(Some(damping), |share| (*share < 1.0).then(|| (share * 10.0).min(1.0)))
}

/// Whether U (width, width) is finite, and positive on the diagonal.
pub(crate) fn is_sound(upper: &[f64], width: usize) -> bool {
    upper.iter().all(|value| value.is_finite()) && (0..width).all(|i| upper[i * (width + 1)] > 0.0)
}

/// H⁻¹ = `UᵀU` of a damped Hessian whose columns were put in order.
#[derive(Debug)]
pub(crate) struct Factor {
    /// U, (width, width) row-major, upper triangular, positive on the diagonal.
    pub(crate) upper: Vec<f64>,
    /// The input of each column.
    pub(crate) order: Vec<usize>,
    /// The share of the mean diagonal that was added.
    pub(crate) damping: f64,
}

impl Factor {
    /// Columns.
    pub(crate) fn width(&self) -> usize {
        self.order.len()
    }

    /// Row `column` of U, from its diagonal on.
    pub(super) fn row(&self, column: usize) -> &[f64] {
        &self.upper[column * self.width() + column..(column + 1) * self.width()]
    }

    /// What to tell the user when the damping is not the one asked for.
    pub(super) fn note(&self, asked: f64) -> Option<String> {
        let is_raised = self.damping > asked;
        is_raised.then(|| format!("the Hessian was not positive definite: damping was raised to {}", self.damping))
    }
}
