//! The heavy linear algebra of compression, on the processor or where a trial runs.

use std::fmt::Debug;

use faer::Mat;

use crate::compress::columns::Columns;
use crate::compress::hessian::{Factor, Hessian};
use crate::compress::output_error::output_error;
use crate::compress::{CompressError, Moments};

/// Who does the operations that take most of the time. All numbers are f64; results of two solvers differ in the order of
/// sums alone.
pub(crate) trait Solver: Debug {
    /// Factors H⁻¹ = `UᵀU` with columns in `order`. The damping is raised tenfold, up to 1, until H is positive definite;
    /// `None` if it never is.
    ///
    /// # Errors
    /// [`CompressError::Device`].
    fn factor(&self, hessian: &Hessian<'_>, order: Vec<usize>, damping: f64) -> Result<Option<Factor>, CompressError>;

    /// Works through all columns, as [`Columns::run`].
    ///
    /// # Errors
    /// As [`Columns::run`], and [`CompressError::Device`].
    fn run_columns(&self, columns: &mut Columns<'_>) -> Result<f64, CompressError>;

    /// ‖X (W − Ŵ)ᵀ‖² / ‖X Wᵀ‖² over the calibrated inputs X; `None` where all outputs are zero.
    ///
    /// - `dense`, `restored`: (rows, `in_features`) of the moments
    ///
    /// # Errors
    /// [`CompressError::Device`].
    fn output_error(&self, dense: &[f32], restored: &[f32], moments: &Moments) -> Result<Option<f64>, CompressError>;

    /// U, S and V of a finite matrix, as many as it has rows or columns.
    ///
    /// # Errors
    /// [`CompressError::Factorization`] when it does not converge, and [`CompressError::Device`].
    fn thin_svd(&self, matrix: &Mat<f64>) -> Result<ThinSvd, CompressError>;

    /// The singular values of a finite matrix, falling.
    ///
    /// # Errors
    /// As [`Self::thin_svd`].
    fn singular_values(&self, matrix: &Mat<f64>) -> Result<Vec<f64>, CompressError>;
}

/// U, S and V of one matrix. Vectors of singular values that are zero to rounding need not be perpendicular.
#[derive(Debug)]
pub(crate) struct ThinSvd {
    /// (rows, n), whose columns have length 1.
    pub(crate) u: Mat<f64>,
    /// (columns, n), the same.
    pub(crate) v: Mat<f64>,
    /// n of them, falling.
    pub(crate) values: Vec<f64>,
}

pub(crate) const NO_CONVERGENCE: CompressError = CompressError::Factorization("the singular values did not converge");

/// The processor.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Host;

impl Solver for Host {
    fn factor(&self, hessian: &Hessian<'_>, order: Vec<usize>, damping: f64) -> Result<Option<Factor>, CompressError> {
        Ok(hessian.factor(order, damping))
    }

    fn run_columns(&self, columns: &mut Columns<'_>) -> Result<f64, CompressError> {
        columns.run()
    }

    fn output_error(&self, dense: &[f32], restored: &[f32], moments: &Moments) -> Result<Option<f64>, CompressError> {
        Ok(output_error(dense, restored, moments))
    }

    fn thin_svd(&self, matrix: &Mat<f64>) -> Result<ThinSvd, CompressError> {
        let svd = matrix.thin_svd().map_err(|_no_convergence| NO_CONVERGENCE)?;
        let values = svd.S().column_vector().iter().copied().collect();
        Ok(ThinSvd { u: svd.U().to_owned(), v: svd.V().to_owned(), values })
    }

    fn singular_values(&self, matrix: &Mat<f64>) -> Result<Vec<f64>, CompressError> {
        matrix.singular_values().map_err(|_no_convergence| NO_CONVERGENCE)
    }
}
