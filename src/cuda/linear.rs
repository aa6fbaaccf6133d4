//! A linear layer on a card, and the matrices that variants share there.

use std::cell::RefCell;
use std::rc::{Rc, Weak};
use std::sync;

use crate::compress::{ActivationGrid, PackedWeights};
use crate::cuda::CudaError;
use crate::cuda::card::{Buffer, Card, GemmType};
use crate::cuda::gemm::Written;
use crate::cuda::matrix::{Matrix, Onto, address};
use crate::cuda::rounding::Activations;
use crate::model::Arithmetic;
use crate::nn::{self, MatrixSource, ProductWork, with_values};

/// Matrices on a card by the weights that they were made from: a variant shares those that it has in common with others.
#[derive(Debug, Default)]
pub(super) struct Uploaded {
    known: RefCell<Vec<Known>>,
    /// Where their weights are written out, as long as a matrix needs it.
    place: RefCell<Weak<Written>>,
}

/// A matrix and what it was made from: a weak reference keeps the address of the weights from being used again.
#[derive(Debug)]
struct Known {
    packed: sync::Weak<PackedWeights>,
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
        let mut known = self.known.borrow_mut();
        known.retain(|known| known.matrix.strong_count() > 0);
        let is_same = |known: &&Known| {
            std::ptr::eq(known.packed.as_ptr(), &raw const *source.packed) && known.activations == activations
        };
        if let Some(matrix) = known.iter().find(is_same).and_then(|known| known.matrix.upgrade()) {
            return Ok(matrix);
        }
        let place = self.place.borrow().upgrade().unwrap_or_default();
        *self.place.borrow_mut() = Rc::downgrade(&place);
        let matrix = Matrix::new(card, &place, &source.packed, source.shape, source.execution, activations)?;
        let matrix = Rc::new(matrix);
        let packed = sync::Arc::downgrade(&source.packed);
        known.push(Known { packed, activations, matrix: Rc::downgrade(&matrix) });
        Ok(matrix)
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

    fn with(
        card: &Rc<dyn Card>,
        uploaded: &Uploaded,
        layer: &nn::Linear,
        grid: ActivationGrid,
    ) -> Result<Self, CudaError> {
        let sources = layer.sources();
        let base = sources.base.map(|base| uploaded.matrix(card, &base, grid)).transpose()?;
        let factors = match sources.factors {
            None => None,
            Some([down, up]) => {
                Some([uploaded.matrix(card, &down, grid)?, uploaded.matrix(card, &up, ActivationGrid::Float)?])
            }
        };
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
