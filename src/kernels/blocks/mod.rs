//! Integer products over GGML blocks.
//!
//! Weights stay as long as their format: the layout is a permutation of the blocks' bytes. Inputs are rounded to 8 bits
//! in blocks of 32 ([`Activations`]). Products of codes are exact integers, and every output is one chain of float
//! operations in the order of inputs: the same bits on every set of instructions, for any number of threads, and
//! whatever rows are beside it.
//!
//! With S the sum of the magnitudes of `scale * code * x` and `min * x` over rounded inputs `x`, an output is within
//! `(n_inputs / 8 + 8) * 2^-24 * S` of the exact sum of rounded inputs times weights.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod format;
mod ggml;
mod kernel;
mod lanes;
#[cfg(target_arch = "aarch64")]
mod neon;
mod pack;
mod rounding;
mod run;
#[cfg(test)]
mod tests;

pub(super) use rounding::BlockRounding;

use half::f16;

use super::activations::Activations;
use super::block_type::BlockType;
use super::isa::Isa;
use format::Shape;
use lanes::{LINE, OUTPUTS};

/// Weights `(n_outputs, n_inputs)` in blocks of GGML, rearranged for products.
///
/// 16 outputs make a panel, the last one padded with zeros. A panel is block after block: scales of groups, then for
/// each 32 inputs lines of 64 bytes, in which 4 inputs of 16 outputs lie side by side.
#[derive(Debug, Clone, PartialEq)]
pub struct Blocks {
    kind: BlockType,
    n_outputs: usize,
    n_inputs: usize,
    lines: Vec<Line>,
    /// Of each panel and block: steps of 16 outputs, then those of their minimums where the format has them.
    steps: Vec<[f16; OUTPUTS]>,
}

/// A cache line of codes or scales.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(align(64))]
struct Line([u8; LINE]);

impl Blocks {
    /// Rearranges `bytes`: GGML blocks of one output after another.
    ///
    /// # Panics
    /// If `n_inputs` is not a multiple of the block length, or the bytes are not those of the shape.
    pub fn pack(kind: BlockType, bytes: &[u8], n_outputs: usize, n_inputs: usize) -> Self {
        assert!(n_inputs.is_multiple_of(kind.block_len()), "{n_inputs} inputs are not whole blocks of {}", kind.name());
        let row_bytes = n_inputs / kind.block_len() * kind.block_bytes();
        assert_eq!(bytes.len(), n_outputs * row_bytes, "bytes of {n_outputs} rows");
        pack::pack(kind, bytes, n_outputs, n_inputs)
    }

    /// The format.
    pub fn kind(&self) -> BlockType {
        self.kind
    }

    /// Rows.
    pub fn n_outputs(&self) -> usize {
        self.n_outputs
    }

    /// Values of a row.
    pub fn n_inputs(&self) -> usize {
        self.n_inputs
    }

    /// Bytes held: those of the format, for outputs rounded up to a multiple of 16.
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.lines) + size_of_val(&*self.steps)
    }

    /// Writes row `output` as GGML dequantizes it.
    ///
    /// # Panics
    /// If there is no such row, or `values` are not `n_inputs`.
    pub fn row(&self, output: usize, values: &mut [f32]) {
        assert!(output < self.n_outputs, "row {output} of {}", self.n_outputs);
        assert_eq!(values.len(), self.n_inputs, "values of a row");
        pack::read_row(self, output, values);
    }

    /// Writes the products of every row of `x` with every output: `y` is `(n_rows, n_outputs)`.
    ///
    /// Inputs are rounded to 8 bits in blocks of 32. A row with a value that is not finite gives NaN in every output.
    ///
    /// # Panics
    /// If the lengths do not fit.
    pub fn multiply(&self, x: &mut Activations, y: &mut [f32]) {
        run::multiply(self, x, y, Isa::current());
    }

    fn shape(&self) -> Shape {
        Shape::of(self.kind)
    }

    fn n_blocks(&self) -> usize {
        self.n_inputs / self.kind.block_len()
    }

    fn n_panels(&self) -> usize {
        self.n_outputs.div_ceil(OUTPUTS)
    }
}
