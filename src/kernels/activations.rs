//! Inputs of a product and their roundings.

use super::blocks::BlockRounding;
use super::isa::Isa;

/// Rows of inputs of a product, and their rounding to 8 bits, made once however many products ask for it.
///
/// Buffers are kept: once grown, nothing is allocated.
#[derive(Debug, Default, Clone)]
pub struct Activations {
    values: Vec<f32>,
    n_rows: usize,
    n_inputs: usize,
    blocks: BlockRounding,
}

impl Activations {
    /// Lends the values `(n_rows, n_inputs)` for writing and forgets the roundings.
    ///
    /// Values that are not written are those of an earlier use.
    pub fn start(&mut self, n_rows: usize, n_inputs: usize) -> &mut [f32] {
        self.blocks.forget();
        (self.n_rows, self.n_inputs) = (n_rows, n_inputs);
        let n = n_rows * n_inputs;
        if self.values.len() < n {
            self.values.resize(n, 0.0);
        }
        &mut self.values[..n]
    }

    /// The values, `(n_rows, n_inputs)`.
    pub fn values(&self) -> &[f32] {
        &self.values[..self.n_rows * self.n_inputs]
    }

    /// Rows.
    pub fn n_rows(&self) -> usize {
        self.n_rows
    }

    /// Values of a row.
    pub fn n_inputs(&self) -> usize {
        self.n_inputs
    }

    /// The values rounded in blocks of 32: made by the first call after [`Self::start`].
    pub(super) fn in_blocks(&mut self, isa: Isa) -> &mut BlockRounding {
        self.blocks.make(&self.values[..self.n_rows * self.n_inputs], self.n_rows, self.n_inputs, isa);
        &mut self.blocks
    }
}
