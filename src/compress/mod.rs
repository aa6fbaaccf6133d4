//! From a dense matrix to a smaller one: pruning, rounding, packing.
//!
//! May import `kernels`, `recipe`, `model` and `units`. No I/O.
//!
//! **Invariants.** What [`compress`] returns is what a file would hold: exporters write these bytes, products run on them
//! or on their [`PackedWeights::dequantize`]d values. Every result is finite; a non-finite weight is an error.

mod awq;
mod columns;
mod fp8;
mod ggml;
mod ggml_blocks;
mod gptq;
mod hessian;
mod hqq;
mod imatrix;
mod job;
mod line;
mod low_rank;
mod magnitude;
mod moments;
mod moments_bytes;
mod output_error;
pub mod owl;
mod packed;
mod prune;
mod rank_allocation;
mod round_to_nearest;
pub mod serial;
mod sharing;
mod smoothing;
mod solver;
mod sparse;
pub mod structured;
#[cfg(test)]
mod synthetic;
mod whitening;

pub use awq::{Member, awq_scales};
#[cfg(feature = "cuda")]
pub(crate) use columns::{Columns, MASK_COLUMNS, Mask, Target, fitted, lowest};
pub use fp8::FP8_MAX;
#[cfg(all(test, feature = "cuda"))]
pub(crate) use fp8::quantize_fp8;
pub(crate) use ggml::{block_type, restore_rows, round_rows};
pub use ggml::{dequantize_ggml, quantize_ggml};
#[cfg(feature = "cuda")]
pub(crate) use hessian::{Factor, Hessian, is_sound, shares};
pub(crate) use job::compress_with;
pub use job::{Compressed, Job, compress};
#[cfg(feature = "cuda")]
pub(crate) use line::Line;
pub(crate) use low_rank::singular_values_with;
pub use low_rank::{Factors, factorize, low_rank_of_rank, singular_values};
pub use moments::{MomentParts, Moments, SAMPLE_TOKENS};
#[cfg(feature = "cuda")]
pub(crate) use output_error::share;
pub use packed::{ActivationGrid, Fp8Matrix, IntMatrix, LowRankMatrix, PackedWeights, ZeroPoints};
pub use prune::{keep_mask, wanda_scores};
pub use rank_allocation::{Spectrum, allocate_ranks, fixed_rank};
pub use round_to_nearest::round_to_nearest;
pub(crate) use sharing::shared_basis_with;
pub use sharing::{SharedBasis, shared_basis, tie};
pub use smoothing::smoothing_scales;
pub(crate) use solver::{Host, Solver};
#[cfg(feature = "cuda")]
pub(crate) use solver::{NO_CONVERGENCE, ThinSvd};
pub use sparse::{SparseMatrix, StoredValues};

/// A matrix that cannot be compressed as asked.
#[derive(Debug, thiserror::Error)]
pub enum CompressError {
    /// A weight is infinite or not a number.
    #[error("compress: weight {index} of {len} is not finite")]
    NonFinite {
        /// Position in the row-major matrix.
        index: usize,
        /// Weights in the matrix.
        len: usize,
    },
    /// A row is not made of whole blocks or groups.
    #[error("compress to {format}: rows of {row_len} are not a multiple of {block_len}")]
    RowLength {
        /// The format's name.
        format: String,
        /// Elements of a row.
        row_len: usize,
        /// Elements of a block or group.
        block_len: usize,
    },
    /// The number of elements is not that of the shape.
    #[error("compress: {len} weights for a shape of {rows} × {row_len}")]
    Shape {
        /// Elements given.
        len: usize,
        /// Rows of the shape.
        rows: usize,
        /// Elements of a row.
        row_len: usize,
    },
    /// A magnitude that the format cannot hold.
    #[error("compress to {format}: weights up to {largest} do not fit")]
    Range {
        /// The format's name.
        format: &'static str,
        /// The largest magnitude.
        largest: f32,
    },
    /// A method that reads activations without any.
    #[error("compress: this method needs calibrated inputs, and there are none")]
    NotCalibrated,
    /// Calibrated inputs of another layer.
    #[error("compress: calibrated inputs of {n_inputs} features for rows of {row_len}")]
    Inputs {
        /// Features of the inputs.
        n_inputs: usize,
        /// Elements of a row.
        row_len: usize,
    },
    /// Sums over calibrated inputs that overflowed, or inputs that were no numbers.
    #[error("compress: the calibrated inputs are not finite")]
    NonFiniteMoments,
    /// Settings that do not go together.
    #[error("compress: {0}")]
    Unsupported(&'static str),
    /// A decomposition that has no result.
    #[error("compress: {0}")]
    Factorization(&'static str),
    /// The device that did the heavy part failed.
    #[error("compress: {0}")]
    Device(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Bytes that are no compressed layer of ours.
    #[error("read a compressed layer: {0}")]
    Stored(&'static str),
}

impl CompressError {
    /// Whether `moments` are of inputs of `row_len` features.
    fn check_inputs(moments: &Moments, row_len: usize) -> Result<(), Self> {
        let n_inputs = moments.n_inputs();
        if n_inputs == row_len { Ok(()) } else { Err(Self::Inputs { n_inputs, row_len }) }
    }
}
