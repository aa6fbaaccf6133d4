//! The linear layer: one small interface over packed weights.

use std::sync::Arc;

use candle_core::{Device, Tensor};

use crate::compress::{ActivationGrid, LowRankMatrix, PackedWeights};
use crate::model::LayerPath;
use crate::nn::NnError;
use crate::nn::matrix::{Matrix, with_values};
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

/// Products over factors that several layers have in common, while those layers are made: a `down` in the same `Arc` is
/// prepared and held once.
#[derive(Debug, Default)]
pub struct SharedFactors {
    made: Vec<(Arc<PackedWeights>, Execution, Arc<Matrix>)>,
}

impl SharedFactors {
    fn get(
        &mut self,
        packed: &Arc<PackedWeights>,
        shape: [usize; 2],
        execution: Execution,
        device: &Device,
    ) -> Result<Arc<Matrix>, NnError> {
        let is_same =
            |(made, how, _): &&(Arc<PackedWeights>, Execution, _)| Arc::ptr_eq(made, packed) && *how == execution;
        if let Some((.., matrix)) = self.made.iter().find(is_same) {
            return Ok(matrix.clone());
        }
        let matrix = Arc::new(Matrix::new(PackedWeights::clone(packed), shape, execution, device)?);
        self.made.push((packed.clone(), execution, matrix.clone()));
        Ok(matrix)
    }
}

/// W = up · down.
#[derive(Debug, Clone)]
struct Factors {
    up: Arc<Matrix>,
    down: Arc<Matrix>,
}

impl Factors {
    fn new(
        packed: LowRankMatrix,
        shape: [usize; 2],
        execution: Execution,
        shared: &mut SharedFactors,
        device: &Device,
    ) -> Result<Self, NnError> {
        let [rows, rank, row_len] = packed.shape;
        if [rows, row_len] != shape {
            let text = format!("factors of {rows} × {row_len} for a layer of {} × {}", shape[0], shape[1]);
            return Err(NnError::Shape(text));
        }
        let up = Arc::new(Matrix::new(*packed.up, [rows, rank], execution, device)?);
        let down = shared.get(&packed.down, [rank, row_len], execution, device)?;
        Ok(Self { up, down })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor, NnError> {
        self.up.forward(&self.down.forward(x)?)
    }

    /// The values of `down` (rank, `in_features`).
    fn basis(&self) -> Result<Tensor, NnError> {
        let [rank, row_len] = self.down.shape();
        Ok(Tensor::from_vec(self.down.dequantize()?, (rank, row_len), &Device::Cpu)?)
    }

    fn rows(&self, ids: &Tensor) -> Result<Tensor, NnError> {
        Ok(self.up.rows(ids)?.matmul(&self.basis()?)?)
    }

    fn dequantize(&self) -> Result<Vec<f32>, NnError> {
        let [rows, rank] = self.up.shape();
        let up = Tensor::from_vec(self.up.dequantize()?, (rows, rank), &Device::Cpu)?;
        Ok(up.matmul(&self.basis()?)?.flatten_all()?.to_vec1()?)
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
    /// Puts a layer onto `device`.
    ///
    /// # Errors
    /// When candle refuses the weights, or factors do not fit the shape.
    pub fn new(parts: LinearParts, device: &Device) -> Result<Self, NnError> {
        Self::sharing(parts, &mut SharedFactors::default(), device)
    }

    /// [`Self::new`] for layers that have factors in common.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn sharing(parts: LinearParts, shared: &mut SharedFactors, device: &Device) -> Result<Self, NnError> {
        let LinearParts { path, packed, shape, execution, bias, activations } = parts;
        let weights = match packed {
            PackedWeights::LowRank(factors) => {
                Weights::LowRank(Factors::new(factors, shape, execution, shared, device)?)
            }
            PackedWeights::Corrected { base, term } => {
                let base = Arc::new(Matrix::new(*base, shape, execution, device)?);
                Weights::Corrected(base, Factors::new(term, shape, execution, shared, device)?)
            }
            whole => Weights::Whole(Arc::new(Matrix::new(whole, shape, execution, device)?)),
        };
        Ok(Self { path, weights, shape, bias, activations })
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

    /// Bytes of the weights as held; those shared with other layers count too.
    pub fn held_bytes(&self) -> u64 {
        self.parts().map(|(_, bytes)| bytes).sum()
    }

    /// How the product runs, for tables: `candle q8_0`, `low rank trimtab f32`, `simulated int8 dynamic, trimtab f32`.
    pub fn product(&self) -> String {
        let product = match &self.weights {
            Weights::Whole(matrix) => matrix.label(),
            Weights::LowRank(factors) => factors.label(),
            Weights::Corrected(base, factors) => format!("{} + {}", base.label(), factors.label()),
        };
        match self.activations {
            ActivationGrid::Float => product,
            ActivationGrid::Int8PerToken => format!("simulated int8 dynamic, {product}"),
            ActivationGrid::Int8Static { .. } => format!("simulated int8 static, {product}"),
        }
    }

    /// x (seq, `in_features`) f32 → (seq, `out_features`) f32.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor, NnError> {
        let rounded = match self.activations {
            ActivationGrid::Float => None,
            grid => Some(round_activations(x, grid)?),
        };
        let x = rounded.as_ref().unwrap_or(x);
        let y = match &self.weights {
            Weights::Whole(matrix) => matrix.forward(x)?,
            Weights::LowRank(factors) => factors.forward(x)?,
            Weights::Corrected(base, factors) => (base.forward(x)? + factors.forward(x)?)?,
        };
        Ok(match &self.bias {
            None => y,
            Some(bias) => y.broadcast_add(bias)?,
        })
    }

    /// Rows of the weights by number: ids (seq) u32 → (seq, `in_features`) f32. What an embedding does.
    ///
    /// # Errors
    /// When an id is not below the number of rows.
    pub fn rows(&self, ids: &Tensor) -> Result<Tensor, NnError> {
        match &self.weights {
            Weights::Whole(matrix) => matrix.rows(ids),
            Weights::LowRank(factors) => factors.rows(ids),
            Weights::Corrected(base, factors) => Ok((base.rows(ids)? + factors.rows(ids)?)?),
        }
    }

    /// The f32 values of the weights, row by row: what the checkpoint holds, widened, and factors multiplied out.
    ///
    /// # Errors
    /// When candle cannot read its own storage.
    pub fn dequantize(&self) -> Result<Vec<f32>, NnError> {
        match &self.weights {
            Weights::Whole(matrix) => matrix.dequantize(),
            Weights::LowRank(factors) => factors.dequantize(),
            Weights::Corrected(base, factors) => {
                let mut weights = base.dequantize()?;
                weights.iter_mut().zip(factors.dequantize()?).for_each(|(weight, term)| *weight += term);
                Ok(weights)
            }
        }
    }
}

/// x (seq, features) rounded to a symmetric grid of 8 bits, halves to even, as f32 values. A token of zeros stays one;
/// what is not finite stays so.
fn round_activations(x: &Tensor, grid: ActivationGrid) -> Result<Tensor, NnError> {
    const CODES: std::ops::RangeInclusive<f32> = -128.0..=127.0;
    // The symmetric grid of 255 steps that the weights have too, and compressed-tensors.
    const HALF_RANGE: f32 = 127.5;
    let (_, features) = x.dims2()?;
    let mut rounded = with_values(x, <[f32]>::to_vec)?;
    for token in rounded.chunks_mut(features.max(1)) {
        let scale = match grid {
            ActivationGrid::Float => continue,
            ActivationGrid::Int8PerToken => token.iter().fold(0.0_f32, |max, value| max.max(value.abs())) / HALF_RANGE,
            ActivationGrid::Int8Static { scale } => scale,
        };
        if scale > 0.0 {
            for value in token {
                *value = (*value / scale).round_ties_even().clamp(*CODES.start(), *CODES.end()) * scale;
            }
        }
    }
    Ok(Tensor::from_vec(rounded, x.shape(), x.device())?)
}

#[cfg(test)]
#[path = "linear_tests.rs"]
mod tests;
