//! The linear layer: one small interface over packed weights.

use std::borrow::Cow;
use std::sync::Arc;

use candle_core::quantized::{QMatMul, QStorage, QTensor};
use candle_core::{DType, Device, Module as _, Storage, Tensor};
use rayon::prelude::*;

use crate::compress::{PackedWeights, candle_type};
use crate::kernels::Panels;
use crate::model::{GgmlType, LayerPath};
use crate::nn::NnError;
use crate::recipe::Execution;

/// How a layer's product runs; named beside every speed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProductPath {
    /// f32 weights and activations, by our own kernel.
    F32,
    /// f16 weights and activations.
    F16,
    /// GGML blocks; activations are quantized a row at a time too.
    Ggml(GgmlType),
}

impl ProductPath {
    /// Name for tables: `candle q8_0`.
    pub fn label(self) -> String {
        match self {
            Self::F32 => "trimtab f32".to_owned(),
            Self::F16 => "candle f16".to_owned(),
            Self::Ggml(format) => format!("candle {}", format.name()),
        }
    }
}

#[derive(Debug)]
enum Weights {
    Panels(Panels),
    Half(Tensor),
    Packed(QMatMul, Arc<QTensor>),
}

/// y = x Wᵀ + b over weights (`out_features`, `in_features`) in any format.
#[derive(Debug)]
pub struct Linear {
    path: LayerPath,
    weights: Weights,
    bias: Option<Tensor>,
    held_bytes: u64,
    product: ProductPath,
}

impl Linear {
    /// Puts `packed` weights of `shape` onto `device`, as `execution` says.
    ///
    /// # Errors
    /// When candle refuses the weights.
    pub fn new(
        path: LayerPath,
        packed: PackedWeights,
        shape: [usize; 2],
        execution: Execution,
        bias: Option<Tensor>,
        device: &Device,
    ) -> Result<Self, NnError> {
        let dims = (shape[0], shape[1]);
        let (weights, product) = match (packed, execution) {
            (PackedWeights::Ggml { format, bytes }, Execution::Packed) => {
                let storage = QStorage::from_data(Cow::Owned(bytes), device, candle_type(format))?;
                let tensor = Arc::new(QTensor::new(storage, dims)?);
                (Weights::Packed(QMatMul::from_arc(tensor.clone())?, tensor), ProductPath::Ggml(format))
            }
            (PackedWeights::F16(weights), Execution::Packed) => {
                (Weights::Half(Tensor::from_vec(weights, dims, device)?), ProductPath::F16)
            }
            (PackedWeights::F32(weights), _) => {
                (Weights::Panels(Panels::pack(&weights, dims.0, dims.1)), ProductPath::F32)
            }
            (other, _) => (Weights::Panels(Panels::pack(&other.dequantize(), dims.0, dims.1)), ProductPath::F32),
        };
        let held_bytes = match &weights {
            Weights::Panels(panels) => panels.bytes() as u64,
            Weights::Half(tensor) => (tensor.elem_count() * tensor.dtype().size_in_bytes()) as u64,
            Weights::Packed(_, tensor) => tensor.storage_size_in_bytes() as u64,
        };
        Ok(Self { path, weights, bias, held_bytes, product })
    }

    /// The layer's key.
    pub fn path(&self) -> &LayerPath {
        &self.path
    }

    /// The bias (`out_features`) f32, if there is one.
    pub fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref()
    }

    /// Bytes of the weights as held.
    pub fn held_bytes(&self) -> u64 {
        self.held_bytes
    }

    /// How the product runs.
    pub fn product(&self) -> ProductPath {
        self.product
    }

    /// x (seq, `in_features`) f32 → (seq, `out_features`) f32.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor, NnError> {
        let y = match &self.weights {
            Weights::Panels(panels) => multiply(panels, x)?,
            Weights::Packed(product, _) => product.forward(x)?,
            Weights::Half(weights) => x.to_dtype(weights.dtype())?.matmul(&weights.t()?)?.to_dtype(DType::F32)?,
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
        Ok(match &self.weights {
            Weights::Panels(panels) => {
                let ids: Vec<u32> = ids.to_vec1()?;
                let mut rows = vec![0.0; ids.len() * panels.n_inputs()];
                for (id, row) in ids.iter().zip(rows.chunks_mut(panels.n_inputs())) {
                    panels.row(*id as usize, row);
                }
                Tensor::from_vec(rows, (ids.len(), panels.n_inputs()), &Device::Cpu)?
            }
            Weights::Packed(_, tensor) => tensor.embedding(ids)?,
            Weights::Half(weights) => weights.index_select(ids, 0)?.to_dtype(DType::F32)?,
        })
    }

    /// The f32 values of the weights, row by row: what the checkpoint holds, widened.
    ///
    /// # Errors
    /// When candle cannot read its own storage.
    pub fn dequantize(&self) -> Result<Vec<f32>, NnError> {
        let tensor = match &self.weights {
            Weights::Panels(panels) => {
                let mut weights = vec![0.0; panels.n_outputs() * panels.n_inputs()];
                for (output, row) in weights.chunks_mut(panels.n_inputs()).enumerate() {
                    panels.row(output, row);
                }
                return Ok(weights);
            }
            Weights::Packed(_, tensor) => tensor.dequantize(&tensor.device())?,
            Weights::Half(weights) => weights.to_dtype(DType::F32)?,
        };
        Ok(tensor.flatten_all()?.to_vec1()?)
    }
}

/// x (seq, `in_features`) f32 → (seq, `out_features`), on all threads: by rows of activations, a single row by outputs.
fn multiply(panels: &Panels, x: &Tensor) -> Result<Tensor, NnError> {
    let (seq, n_inputs) = x.dims2()?;
    if n_inputs != panels.n_inputs() {
        let shapes = format!("{n_inputs} activations for {} input features", panels.n_inputs());
        return Err(candle_core::Error::Msg(shapes).into());
    }
    let n_outputs = panels.n_outputs();
    let mut y = vec![0.0; seq * n_outputs];
    with_values(x, |x| {
        let threads = rayon::current_num_threads();
        if seq < 2 * threads {
            let share = n_outputs.div_ceil(threads).next_multiple_of(Panels::GRAIN);
            for (x, y) in x.chunks(n_inputs).zip(y.chunks_mut(n_outputs)) {
                let parts = y.par_chunks_mut(share).enumerate();
                parts.for_each(|(number, y)| panels.multiply_row(x, number * share, y));
            }
        } else {
            let share = seq.div_ceil(threads);
            let parts = x.par_chunks(share * n_inputs).zip(y.par_chunks_mut(share * n_outputs));
            parts.for_each(|(x, y)| panels.multiply(x, y));
        }
    })?;
    Ok(Tensor::from_vec(y, (seq, n_outputs), x.device())?)
}

/// Lends the values of an f32 tensor, without a copy where they lie contiguous in host memory.
///
/// # Errors
/// When the tensor is not f32.
pub fn with_values<T>(tensor: &Tensor, read: impl FnOnce(&[f32]) -> T) -> Result<T, NnError> {
    let tensor = tensor.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    if let (Storage::Cpu(storage), Some((start, end))) = (&*storage, layout.contiguous_offsets()) {
        return Ok(read(&storage.as_slice::<f32>()?[start..end]));
    }
    drop(storage);
    Ok(read(&tensor.flatten_all()?.to_vec1::<f32>()?))
}
