//! The linear layer: one small interface over packed weights.

use std::sync::Arc;

use candle_core::Tensor;

use crate::compress::{ActivationGrid, LowRankMatrix, PackedWeights};
use crate::kernels::{add_bias, add_in_place};
use crate::model::{Arithmetic, LayerPath};
use crate::nn::NnError;
use crate::nn::inputs::Inputs;
use crate::nn::matrix::{Matrix, with_values};
#[cfg(feature = "cuda")]
use crate::nn::source::StoredWeights;
use crate::recipe::Execution;

/// What a linear layer is made from.
#[derive(Debug)]
pub struct LinearParts {
    /// The layer's key.
    pub path: LayerPath,
    /// Its weights.
    pub packed: PackedWeights,
    /// (`out_features`, `in_features`).
    pub shape: [usize; 2],
    /// How the products run.
    pub execution: Execution,
    /// (`out_features`) f32.
    pub bias: Option<Tensor>,
    /// How the inputs enter the product: 8 bits are rounded to their grid and multiplied in f32.
    pub activations: ActivationGrid,
}

/// What a linear layer is made from whose weights are read when they are used.
#[cfg(feature = "cuda")]
#[derive(Debug)]
pub enum StoredParts {
    /// The whole matrix.
    Whole(Arc<dyn StoredWeights>),
    /// W = up · down.
    LowRank {
        /// (`out_features`, rank).
        up: Arc<dyn StoredWeights>,
        /// (rank, `in_features`).
        down: Arc<dyn StoredWeights>,
        /// Outputs of `down`.
        rank: usize,
    },
}

/// How the products of a layer run.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Run {
    execution: Execution,
    activations: ActivationGrid,
}

impl Run {
    /// The same with inputs as they come.
    const fn floating(self) -> Self {
        Self { activations: ActivationGrid::Float, ..self }
    }

    fn matrix(self, packed: PackedWeights, shape: [usize; 2]) -> Result<Arc<Matrix>, NnError> {
        Ok(Arc::new(Matrix::new(packed, shape, self.execution, self.activations)?))
    }
}

/// Products over factors that several layers have in common, while those layers are made: a `down` in the same `Arc` is
/// prepared and held once.
#[derive(Debug, Default)]
pub struct SharedFactors {
    made: Vec<(Arc<PackedWeights>, Run, Arc<Matrix>)>,
}

impl SharedFactors {
    fn get(&mut self, packed: &Arc<PackedWeights>, shape: [usize; 2], run: Run) -> Result<Arc<Matrix>, NnError> {
        let is_same = |(made, how, _): &&(Arc<PackedWeights>, Run, _)| Arc::ptr_eq(made, packed) && *how == run;
        if let Some((.., matrix)) = self.made.iter().find(is_same) {
            return Ok(matrix.clone());
        }
        let matrix = run.matrix(PackedWeights::clone(packed), shape)?;
        self.made.push((packed.clone(), run, matrix.clone()));
        Ok(matrix)
    }
}

/// What a product over factors needs beside its output; kept between products.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    /// Inputs times `down`.
    middle: Inputs,
    /// The term that is added to the base.
    term: Vec<f32>,
}

/// W = up · down.
#[derive(Debug, Clone)]
struct Factors {
    up: Arc<Matrix>,
    down: Arc<Matrix>,
}

impl Factors {
    fn new(packed: LowRankMatrix, shape: [usize; 2], run: Run, shared: &mut SharedFactors) -> Result<Self, NnError> {
        let [rows, rank, row_len] = packed.shape;
        if [rows, row_len] != shape {
            let text = format!("factors of {rows} × {row_len} for a layer of {} × {}", shape[0], shape[1]);
            return Err(NnError::Shape(text));
        }
        let up = run.floating().matrix(*packed.up, [rows, rank])?;
        let down = shared.get(&packed.down, [rank, row_len], run)?;
        Ok(Self { up, down })
    }

    fn multiply(
        &self,
        x: &mut Inputs,
        grid: ActivationGrid,
        middle: &mut Inputs,
        y: &mut [f32],
    ) -> Result<(), NnError> {
        let n_rows = x.n_rows();
        self.down.multiply(x, grid, middle.start(n_rows, self.down.shape()[0]))?;
        self.up.multiply(middle, ActivationGrid::Float, y)
    }

    /// Adds rows of the product by number.
    fn add_rows(&self, ids: &[u32], rows: &mut [f32]) -> Result<(), NnError> {
        let [rank, row_len] = self.down.shape();
        let mut coefficients = vec![0.0; ids.len() * rank];
        self.up.rows(ids, &mut coefficients)?;
        let mut basis = vec![0.0; row_len];
        for component in 0..rank {
            self.down.rows(&[component as u32], &mut basis)?;
            for (row, coefficients) in rows.chunks_mut(row_len).zip(coefficients.chunks(rank)) {
                let coefficient = coefficients[component];
                row.iter_mut().zip(&basis).for_each(|(sum, value)| *sum += coefficient * value);
            }
        }
        Ok(())
    }

    fn label(&self) -> String {
        let (down, up) = (self.down.label(), self.up.label());
        if down == up { format!("low rank {up}") } else { format!("low rank {down}, {up}") }
    }
}

#[derive(Debug, Clone)]
enum Weights {
    Whole(Arc<Matrix>),
    LowRank(Factors),
    Corrected(Arc<Matrix>, Factors),
}

/// y = x Wᵀ + b over weights (`out_features`, `in_features`) in any format.
#[derive(Debug)]
pub struct Linear {
    path: LayerPath,
    weights: Weights,
    shape: [usize; 2],
    bias: Option<Tensor>,
    activations: ActivationGrid,
}

impl Linear {
    /// Prepares a layer for its product.
    ///
    /// # Errors
    /// When there are no weights, or factors do not fit the shape.
    pub fn new(parts: LinearParts) -> Result<Self, NnError> {
        Self::sharing(parts, &mut SharedFactors::default())
    }

    /// [`Self::new`] for layers that have factors in common.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn sharing(parts: LinearParts, shared: &mut SharedFactors) -> Result<Self, NnError> {
        let LinearParts { path, packed, shape, execution, bias, activations } = parts;
        let run = Run { execution, activations };
        let weights = match packed {
            PackedWeights::LowRank(factors) => Weights::LowRank(Factors::new(factors, shape, run, shared)?),
            PackedWeights::Corrected { base, term } => {
                Weights::Corrected(run.matrix(*base, shape)?, Factors::new(term, shape, run, shared)?)
            }
            whole => Weights::Whole(run.matrix(whole, shape)?),
        };
        Ok(Self { path, weights, shape, bias, activations })
    }

    /// A layer (`out_features`, `in_features`) of a checkpoint, as it has it: its weights stay there.
    ///
    /// # Errors
    /// When there are no weights, or not as many as the shape has.
    #[cfg(feature = "cuda")]
    pub fn stored(
        path: LayerPath,
        parts: StoredParts,
        shape: [usize; 2],
        bias: Option<Tensor>,
    ) -> Result<Self, NnError> {
        let matrix = |stored, shape| Matrix::stored(stored, shape).map(Arc::new);
        let weights = match parts {
            StoredParts::Whole(stored) => Weights::Whole(matrix(stored, shape)?),
            StoredParts::LowRank { up, down, rank } => {
                let (up, down) = (matrix(up, [shape[0], rank])?, matrix(down, [rank, shape[1]])?);
                Weights::LowRank(Factors { up, down })
            }
        };
        Ok(Self { path, weights, shape, bias, activations: ActivationGrid::Float })
    }

    /// Another layer with these very weights: what hard tying makes. Its bias is its own.
    #[must_use]
    pub fn tied(&self, path: LayerPath, bias: Option<Tensor>) -> Self {
        Self { path, weights: self.weights.clone(), shape: self.shape, bias, activations: self.activations }
    }

    /// The layer's key.
    pub fn path(&self) -> &LayerPath {
        &self.path
    }

    /// (`out_features`, `in_features`).
    pub fn shape(&self) -> [usize; 2] {
        self.shape
    }

    /// The bias (`out_features`) f32, if there is one.
    pub fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref()
    }

    /// How inputs enter the product.
    pub fn activations(&self) -> ActivationGrid {
        self.activations
    }

    /// What the layer's products were made from.
    #[cfg(feature = "cuda")]
    pub fn sources(&self) -> crate::nn::LinearSources {
        let factors = |factors: &Factors| [factors.down.source().clone(), factors.up.source().clone()];
        let (base, factors) = match &self.weights {
            Weights::Whole(matrix) => (Some(matrix.source().clone()), None),
            Weights::LowRank(both) => (None, Some(factors(both))),
            Weights::Corrected(base, both) => (Some(base.source().clone()), Some(factors(both))),
        };
        crate::nn::LinearSources { base, factors }
    }

    /// Whether the processor multiplied with it.
    #[cfg(all(test, feature = "cuda"))]
    pub(crate) fn is_made(&self) -> bool {
        self.matrices().any(|matrix| matrix.is_made())
    }

    /// Bytes of its weights in the memory of the host.
    #[cfg(all(test, feature = "cuda"))]
    pub(crate) fn host_bytes(&self) -> u64 {
        let is_stored = |matrix: &Matrix| matches!(matrix.source().weights, crate::nn::Weights::Stored(_));
        self.matrices().filter(|matrix| matrix.is_made() || !is_stored(matrix)).map(|matrix| matrix.held_bytes()).sum()
    }

    fn matrices(&self) -> impl Iterator<Item = &Arc<Matrix>> {
        let (base, factors) = match &self.weights {
            Weights::Whole(matrix) => (Some(matrix), None),
            Weights::LowRank(factors) => (None, Some(factors)),
            Weights::Corrected(base, factors) => (Some(base), Some(factors)),
        };
        base.into_iter().chain(factors.into_iter().flat_map(|factors| [&factors.down, &factors.up]))
    }

    /// The matrices behind the product, each with an identity and its bytes as held. Layers that share one name the
    /// same identity while they live, so that a sum over layers can count it once.
    pub fn parts(&self) -> impl Iterator<Item = (usize, u64)> {
        self.matrices().map(|matrix| (Arc::as_ptr(matrix).addr(), matrix.held_bytes()))
    }

    /// Bytes of the weights as held, or as stored where they are read when they are used; those shared with other layers
    /// count too.
    pub fn held_bytes(&self) -> u64 {
        self.parts().map(|(_, bytes)| bytes).sum()
    }

    /// Weights that one row of inputs is multiplied with: those of all matrices, without what is left out.
    pub fn n_multiplied(&self) -> u64 {
        self.matrices().map(|matrix| matrix.n_multiplied()).sum()
    }

    /// What the product is done in; integers only where every matrix is.
    pub fn arithmetic(&self) -> Arithmetic {
        let is_integer = |matrix: &Arc<Matrix>| matrix.arithmetic(self.activations) == Arithmetic::Int8;
        if self.matrices().all(is_integer) { Arithmetic::Int8 } else { Arithmetic::Float }
    }

    /// How the product runs, for tables: `trimtab q8_0 (avx2)`, `int8 dynamic, trimtab int8 × int8 (avx512-vnni)`,
    /// `simulated int8 dynamic, trimtab f32 (avx2)`.
    pub fn product(&self) -> String {
        let (product, is_integer) = match &self.weights {
            Weights::Whole(matrix) => (matrix.label(), matrix.is_integer()),
            Weights::LowRank(factors) => (factors.label(), factors.down.is_integer()),
            Weights::Corrected(base, factors) => {
                (format!("{} + {}", base.label(), factors.label()), base.is_integer() && factors.down.is_integer())
            }
        };
        let simulated = if is_integer { "" } else { "simulated " };
        match self.activations {
            ActivationGrid::Float => product,
            ActivationGrid::Int8PerToken => format!("{simulated}int8 dynamic, {product}"),
            ActivationGrid::Int8Static { .. } => format!("{simulated}int8 static, {product}"),
        }
    }

    /// x (seq, `in_features`) f32 → y (seq, `out_features`) f32, which is given that length.
    ///
    /// # Errors
    /// When x has another width, or weights that are read now cannot be read.
    pub(super) fn multiply(&self, x: &mut Inputs, y: &mut Vec<f32>, scratch: &mut Scratch) -> Result<(), NnError> {
        let [n_outputs, n_inputs] = self.shape;
        if x.n_inputs() != n_inputs {
            let text = format!("{} activations for {n_inputs} input features of {}", x.n_inputs(), self.path);
            return Err(NnError::Shape(text));
        }
        let grid = self.activations;
        y.resize(x.n_rows() * n_outputs, 0.0);
        match &self.weights {
            Weights::Whole(matrix) => matrix.multiply(x, grid, y)?,
            Weights::LowRank(factors) => factors.multiply(x, grid, &mut scratch.middle, y)?,
            Weights::Corrected(base, factors) => {
                base.multiply(x, grid, y)?;
                scratch.term.resize(y.len(), 0.0);
                factors.multiply(x, grid, &mut scratch.middle, &mut scratch.term)?;
                add_in_place(y, &scratch.term);
            }
        }
        match &self.bias {
            None => Ok(()),
            Some(bias) => with_values(bias, |bias| add_bias(y, bias)),
        }
    }

    /// Rows of the weights by number: (ids, `in_features`) f32 in `rows`. What an embedding does.
    ///
    /// # Errors
    /// When weights that are read now cannot be read.
    ///
    /// # Panics
    /// If an id is not below the number of rows, or `rows` has another length.
    pub fn rows(&self, ids: &[u32], rows: &mut [f32]) -> Result<(), NnError> {
        assert_eq!(rows.len(), ids.len() * self.shape[1], "a row for each id");
        match &self.weights {
            Weights::Whole(matrix) => matrix.rows(ids, rows),
            Weights::LowRank(factors) => {
                rows.fill(0.0);
                factors.add_rows(ids, rows)
            }
            Weights::Corrected(base, factors) => {
                base.rows(ids, rows)?;
                factors.add_rows(ids, rows)
            }
        }
    }

    /// The f32 values of the weights, row by row: what the checkpoint holds, widened, and factors multiplied out.
    ///
    /// # Errors
    /// When weights that are read now cannot be read.
    pub fn dequantize(&self) -> Result<Vec<f32>, NnError> {
        if let Weights::Whole(matrix) = &self.weights {
            return matrix.dequantize();
        }
        let mut weights = vec![0.0; self.shape[0] * self.shape[1]];
        let ids: Vec<u32> = (0..self.shape[0] as u32).collect();
        self.rows(&ids, &mut weights)?;
        Ok(weights)
    }
}

#[cfg(test)]
#[path = "linear_tests.rs"]
mod tests;
