//! f16 weights without their zeros.

use half::f16;

use super::{Isa, Packed, Value};

impl Value for f16 {
    const ZERO: Self = Self::ZERO;

    /// An input's 16 outputs follow each other.
    fn bit(lane: usize, input: usize) -> usize {
        input * super::PANEL + lane
    }

    /// −0 too: a sum that it is added to stays as it is.
    fn is_zero(self) -> bool {
        self == Self::ZERO
    }

    fn to_f32(self) -> f32 {
        Self::to_f32(self)
    }
}

/// Weights (`out_features`, `in_features`) in f16, without their zeros.
///
/// Holds 2 bytes for each weight that is not zero, one bit for each weight (the rows filled up to a multiple of 16, their
/// length to a multiple of 4), 4 bytes for each 16 rows, and 132 bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct SparseHalf {
    packed: Packed<f16>,
}

impl SparseHalf {
    /// Repacks a row-major matrix.
    ///
    /// # Panics
    /// If `weights` is not `n_outputs` × `n_inputs`, or has no inputs, or 2³² weights that are not zero.
    pub fn pack(weights: &[f16], n_outputs: usize, n_inputs: usize) -> Self {
        Self { packed: Packed::new(weights, n_outputs, n_inputs) }
    }

    /// Output features.
    pub fn n_outputs(&self) -> usize {
        self.packed.n_outputs
    }

    /// Input features.
    pub fn n_inputs(&self) -> usize {
        self.packed.n_inputs
    }

    /// Weights that are not zero.
    pub fn n_nonzero(&self) -> usize {
        self.packed.n_nonzero()
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.packed.bytes()
    }

    /// Writes the weights of one output feature to `values` (`in_features`).
    ///
    /// # Panics
    /// If there is no such output, or the length is not the number of inputs.
    pub fn row(&self, output: usize, values: &mut [f32]) {
        self.packed.row(output, values);
    }

    /// y = x Wᵀ for rows of activations, on all threads.
    ///
    /// - `x`: (rows, `in_features`), `y`: (rows, `out_features`), overwritten
    ///
    /// # Panics
    /// If the lengths do not fit.
    pub fn multiply(&self, x: &[f32], y: &mut [f32]) {
        self.multiply_with(Isa::current(), x, y);
    }

    pub(super) fn multiply_with(&self, isa: Isa, x: &[f32], y: &mut [f32]) {
        self.packed.multiply(isa, |_| [f16::ONE; super::PANEL], x, y);
    }
}
