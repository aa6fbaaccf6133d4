//! One product over one packed matrix.

use std::borrow::Cow;
use std::sync::Arc;

use candle_core::quantized::{QMatMul, QStorage, QTensor};
use candle_core::{DType, Device, Module as _, Storage, Tensor};
use rayon::prelude::*;

use crate::compress::{PackedWeights, candle_type};
use crate::kernels::Panels;
use crate::model::GgmlType;
use crate::nn::NnError;
use crate::recipe::Execution;

/// y = x Wᵀ over weights (`out_features`, `in_features`).
#[derive(Debug)]
pub(super) struct Matrix {
    form: Form,
    shape: [usize; 2],
}

#[derive(Debug)]
enum Form {
    /// f32 weights and activations, by our own kernel.
    Panels(Panels),
    /// f16 weights and activations.
    Half(Tensor),
    /// GGML blocks; activations are quantized a row at a time too.
    Blocks(QMatMul, Arc<QTensor>, GgmlType),
}

impl Matrix {
    /// Formats that have no product, and all when `execution` is not packed, are widened to f32.
    pub(super) fn new(
        packed: PackedWeights,
        shape: [usize; 2],
        execution: Execution,
        device: &Device,
    ) -> Result<Self, NnError> {
        let dims = (shape[0], shape[1]);
        if dims.0 == 0 || dims.1 == 0 {
            let text = format!("a matrix of {} × {} has no weights", dims.0, dims.1);
            return Err(NnError::Shape(text));
        }
        let form = match (packed, execution) {
            (PackedWeights::Ggml { format, bytes }, Execution::Packed) => {
                let storage = QStorage::from_data(Cow::Owned(bytes), device, candle_type(format))?;
                let tensor = Arc::new(QTensor::new(storage, dims)?);
                Form::Blocks(QMatMul::from_arc(tensor.clone())?, tensor, format)
            }
            (PackedWeights::F16(weights), Execution::Packed) => Form::Half(Tensor::from_vec(weights, dims, device)?),
            (PackedWeights::F32(weights), _) => Form::Panels(Panels::pack(&weights, dims.0, dims.1)),
            (other, _) => Form::Panels(Panels::pack(&other.dequantize(), dims.0, dims.1)),
        };
        Ok(Self { form, shape })
    }

    pub(super) fn shape(&self) -> [usize; 2] {
        self.shape
    }

    pub(super) fn held_bytes(&self) -> u64 {
        match &self.form {
            Form::Panels(panels) => panels.bytes() as u64,
            Form::Half(tensor) => (tensor.elem_count() * tensor.dtype().size_in_bytes()) as u64,
            Form::Blocks(_, tensor, _) => tensor.storage_size_in_bytes() as u64,
        }
    }

    /// Name of the product for tables: `candle q8_0`.
    pub(super) fn label(&self) -> String {
        match &self.form {
            Form::Panels(_) => "trimtab f32".to_owned(),
            Form::Half(_) => "candle f16".to_owned(),
            Form::Blocks(.., format) => format!("candle {}", format.name()),
        }
    }

    /// x (seq, `in_features`) f32 → (seq, `out_features`) f32.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor, NnError> {
        Ok(match &self.form {
            Form::Panels(panels) => multiply(panels, x)?,
            Form::Blocks(product, ..) => product.forward(x)?,
            Form::Half(weights) => x.to_dtype(weights.dtype())?.matmul(&weights.t()?)?.to_dtype(DType::F32)?,
        })
    }

    /// Rows by number: ids (seq) u32 → (seq, `in_features`) f32.
    pub(super) fn rows(&self, ids: &Tensor) -> Result<Tensor, NnError> {
        Ok(match &self.form {
            Form::Panels(panels) => {
                let ids: Vec<u32> = ids.to_vec1()?;
                let mut rows = vec![0.0; ids.len() * panels.n_inputs()];
                for (id, row) in ids.iter().zip(rows.chunks_mut(panels.n_inputs())) {
                    panels.row(*id as usize, row);
                }
                Tensor::from_vec(rows, (ids.len(), panels.n_inputs()), &Device::Cpu)?
            }
            Form::Blocks(_, tensor, _) => tensor.embedding(ids)?,
            Form::Half(weights) => weights.index_select(ids, 0)?.to_dtype(DType::F32)?,
        })
    }

    /// The f32 values, row by row.
    pub(super) fn dequantize(&self) -> Result<Vec<f32>, NnError> {
        let tensor = match &self.form {
            Form::Panels(panels) => {
                let mut weights = vec![0.0; panels.n_outputs() * panels.n_inputs()];
                for (output, row) in weights.chunks_mut(panels.n_inputs()).enumerate() {
                    panels.row(output, row);
                }
                return Ok(weights);
            }
            Form::Blocks(_, tensor, _) => tensor.dequantize(&tensor.device())?,
            Form::Half(weights) => weights.to_dtype(DType::F32)?,
        };
        Ok(tensor.flatten_all()?.to_vec1()?)
    }
}

/// x (seq, `in_features`) f32 → (seq, `out_features`), on all threads: by rows of activations, a single row by outputs.
fn multiply(panels: &Panels, x: &Tensor) -> Result<Tensor, NnError> {
    let (seq, n_inputs) = x.dims2()?;
    if n_inputs != panels.n_inputs() {
        let shapes = format!("{n_inputs} activations for {} input features", panels.n_inputs());
        return Err(NnError::Shape(shapes));
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
