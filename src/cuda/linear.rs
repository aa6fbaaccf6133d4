//! A linear layer on a card, and the matrices that variants share there.

use std::cell::RefCell;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use crate::compress::ActivationGrid;
use crate::cuda::CudaError;
use crate::cuda::card::{Buffer, Card, GemmType};
use crate::cuda::gemm::Written;
use crate::cuda::layout::Layout;
use crate::cuda::matrix::{Matrix, Onto, address};
use crate::cuda::rounding::Activations;
use crate::cuda::upload::{Job, upload};
use crate::model::Arithmetic;
use crate::nn::{self, LinearSources, MatrixSource, ProductWork, Weights, WeightsIdentity, with_values};

/// Matrices on a card by the weights that they were made from: a variant shares those that it has in common with others.
#[derive(Debug, Default)]
pub(super) struct Uploaded {
    known: RefCell<Vec<Known>>,
    /// Where their weights are written out, as long as a matrix needs it.
    place: RefCell<Weak<Written>>,
}

/// A matrix and what it was made from.
#[derive(Debug)]
struct Known {
    weights: WeightsIdentity,
    activations: ActivationGrid,
    matrix: Weak<Matrix>,
}

impl Uploaded {
    fn matrix(
        &self,
        card: &Rc<dyn Card>,
        source: &MatrixSource,
        activations: ActivationGrid,
    ) -> Result<Rc<Matrix>, CudaError> {
        if let Some(matrix) = self.find(&source.weights, activations) {
            return Ok(matrix);
        }
        if let Weights::Held(packed) = &source.weights {
            let place = self.place();
            let matrix = Matrix::new(card, &place, packed, source.shape, source.execution, activations)?;
            return Ok(self.keep(&source.weights, activations, matrix));
        }
        let wanted = [(source.clone(), activations)];
        let made = self.upload(card, &wanted, &|_, _| true)?.pop();
        made.ok_or_else(|| CudaError::Unsupported("stored weights without rows".to_owned()))
    }

    /// Copies the stored weights among `wanted` that are not there yet, for products over inputs on these grids; they are
    /// known as long as what is returned, or who shares it. `watch` is [`upload`]'s.
    pub(super) fn upload(
        &self,
        card: &Rc<dyn Card>,
        wanted: &[(MatrixSource, ActivationGrid)],
        watch: &dyn Fn(u32, u32) -> bool,
    ) -> Result<Vec<Rc<Matrix>>, CudaError> {
        let (mut sources, mut jobs): (Vec<(&MatrixSource, ActivationGrid, Layout)>, Vec<Job>) = Default::default();
        for (source, grid) in wanted {
            let Weights::Stored(stored) = &source.weights else { continue };
            let is_same = |(other, other_grid, _): &(&MatrixSource, ActivationGrid, Layout)| {
                other.weights.identity().is_of(&source.weights) && other_grid == grid
            };
            if sources.iter().any(is_same) || self.find(&source.weights, *grid).is_some() {
                continue;
            }
            let layout = Layout::plain(stored.format(), source.shape);
            jobs.push(Job { weights: Arc::clone(stored), rows: layout.rows });
            sources.push((source, *grid, layout));
        }
        let buffers = upload(card, &jobs, watch)?;
        let place = self.place();
        let made = |((source, grid, layout), codes): ((&MatrixSource, ActivationGrid, Layout), Buffer)| {
            Ok(self.keep(&source.weights, grid, Matrix::with(card, &place, source.shape, layout, codes)?))
        };
        sources.into_iter().zip(buffers).map(made).collect()
    }

    fn place(&self) -> Rc<Written> {
        let place = self.place.borrow().upgrade().unwrap_or_default();
        *self.place.borrow_mut() = Rc::downgrade(&place);
        place
    }

    fn find(&self, weights: &Weights, activations: ActivationGrid) -> Option<Rc<Matrix>> {
        let mut known = self.known.borrow_mut();
        known.retain(|known| known.matrix.strong_count() > 0);
        let is_same = |known: &&Known| known.weights.is_of(weights) && known.activations == activations;
        known.iter().find(is_same)?.matrix.upgrade()
    }

    fn keep(&self, weights: &Weights, activations: ActivationGrid, matrix: Matrix) -> Rc<Matrix> {
        let matrix = Rc::new(matrix);
        let known = Known { weights: weights.identity(), activations, matrix: Rc::downgrade(&matrix) };
        self.known.borrow_mut().push(known);
        matrix
    }
}

/// y = x Wᵀ + b on a card: W is a matrix, the product of two factors, or the sum of both.
#[derive(Debug)]
pub(super) struct Linear {
    base: Option<Rc<Matrix>>,
    /// `down` and `up`.
    factors: Option<[Rc<Matrix>; 2]>,
    bias: Option<Buffer>,
    activations: ActivationGrid,
    shape: [usize; 2],
}

impl Linear {
    /// Copies a layer to the card, but for matrices that are there.
    pub(super) fn new(card: &Rc<dyn Card>, uploaded: &Uploaded, layer: &nn::Linear) -> Result<Self, CudaError> {
        Self::with(card, uploaded, layer, layer.activations())
    }

    /// An embedding: its rows are read by number, so its codes are not those of a product with rounded activations.
    pub(super) fn embedding(card: &Rc<dyn Card>, uploaded: &Uploaded, layer: &nn::Linear) -> Result<Self, CudaError> {
        if layer.sources().factors.is_some() {
            return Err(CudaError::Unsupported("an embedding of two factors has no kernel on a card".to_owned()));
        }
        Self::with(card, uploaded, layer, ActivationGrid::Float)
    }

    /// What the matrices of a layer are made from, and the grids of their inputs: base, `down`, `up`.
    pub(super) fn sources_of(
        layer: &nn::Linear,
        grid: ActivationGrid,
    ) -> impl Iterator<Item = (MatrixSource, ActivationGrid)> {
        let LinearSources { base, factors } = layer.sources();
        let factors = factors.into_iter().flat_map(move |[down, up]| [(down, grid), (up, ActivationGrid::Float)]);
        base.map(|base| (base, grid)).into_iter().chain(factors)
    }

    fn with(
        card: &Rc<dyn Card>,
        uploaded: &Uploaded,
        layer: &nn::Linear,
        grid: ActivationGrid,
    ) -> Result<Self, CudaError> {
        let has_base = layer.sources().base.is_some();
        let matrices = Self::sources_of(layer, grid).map(|(source, grid)| uploaded.matrix(card, &source, grid));
        let mut matrices = matrices.collect::<Result<Vec<_>, _>>()?.into_iter();
        let base = if has_base { matrices.next() } else { None };
        let factors = matrices.next().zip(matrices.next()).map(|(down, up)| [down, up]);
        let bias = layer.bias().map(|bias| vector(card, bias)).transpose()?;
        Ok(Self { base, factors, bias, activations: layer.activations(), shape: layer.shape() })
    }

    /// (outputs, inputs).
    pub(super) fn shape(&self) -> [usize; 2] {
        self.shape
    }

    /// Width of what is between the factors; 0 where there are none.
    pub(super) fn rank(&self) -> usize {
        self.factors.as_ref().map_or(0, |[down, _]| down.shape()[0])
    }

    /// The matrices with their identities.
    pub(super) fn matrices(&self) -> impl Iterator<Item = &Rc<Matrix>> {
        self.base.iter().chain(self.factors.iter().flatten())
    }

    /// Bytes on the card, its bias too.
    pub(super) fn held_bytes(&self) -> u64 {
        self.matrices().map(|matrix| matrix.held_bytes()).sum::<u64>()
            + self.bias.as_ref().map_or(0, Buffer::bytes) as u64
    }

    /// The product of so many rows.
    pub(super) fn product_work(&self, rows: usize) -> ProductWork {
        let products: usize = self.matrices().map(|matrix| 2 * matrix.shape().iter().product::<usize>()).sum();
        let a_row = products + if self.bias.is_some() { self.shape[0] } else { 0 };
        let (bytes, product) = (self.held_bytes(), self.label());
        ProductWork { flops: (rows * a_row) as u64, bytes, arithmetic: self.arithmetic(rows), product }
    }

    /// What its products of so many rows are done in: that of most of its work.
    fn arithmetic(&self, rows: usize) -> Arithmetic {
        let largest = self.matrices().max_by_key(|matrix| matrix.shape().iter().product::<usize>());
        let is_integer = self.matrices().all(|matrix| matrix.takes_tokens());
        match largest.and_then(|matrix| matrix.library_type(rows)) {
            Some(GemmType::F16 | GemmType::Bf16) => Arithmetic::TensorFloat,
            Some(GemmType::Int8) => Arithmetic::TensorInt8,
            None if is_integer => Arithmetic::Int8,
            Some(GemmType::F32) | None => Arithmetic::Float,
        }
    }

    /// How the product runs, for tables.
    pub(super) fn label(&self) -> String {
        let parts: Vec<String> = self.matrices().map(|matrix| matrix.label()).collect();
        let product = if self.base.is_none() { format!("low rank {}", parts.join(", ")) } else { parts.join(" + ") };
        let takes_tokens = self.matrices().next().is_some_and(|matrix| matrix.takes_tokens());
        let simulated = if takes_tokens { "" } else { "simulated " };
        match self.activations {
            ActivationGrid::Float => product,
            ActivationGrid::Int8PerToken => format!("{simulated}int8 dynamic, {product}"),
            ActivationGrid::Int8Static { .. } => format!("{simulated}int8 static, {product}"),
        }
    }

    /// y (rows, outputs) of x; `middle` has room for (rows, rank).
    pub(super) fn multiply(&self, x: Activations<'_>, y: u64, middle: u64) -> Result<(), CudaError> {
        let bias = address(self.bias.as_ref());
        if let Some(base) = &self.base {
            base.multiply(x, self.activations, y, bias, Onto::Nothing)?;
        }
        let Some([down, up]) = &self.factors else { return Ok(()) };
        down.multiply(x, self.activations, middle, 0, Onto::Nothing)?;
        let onto = if self.base.is_some() { Onto::Output } else { Onto::Nothing };
        let bias = if self.base.is_some() { 0 } else { bias };
        up.multiply(x.others(middle), ActivationGrid::Float, y, bias, onto)
    }

    /// hidden (n, inputs) = the rows that `ids` (n u32) number.
    pub(super) fn gather(&self, ids: u64, n: usize, hidden: u64) -> Result<(), CudaError> {
        self.base.as_ref().map_or(Ok(()), |base| base.gather(ids, n, hidden))
    }
}

/// The values of an f32 tensor on a card.
pub(super) fn vector(card: &Rc<dyn Card>, values: &candle_core::Tensor) -> Result<Buffer, CudaError> {
    with_values(values, |values| Buffer::of(card, values))?
}
