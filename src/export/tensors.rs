//! Which tensors an export has and where their bytes come from: the one place, for both layouts.

use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;

use crate::checkpoint::{self, Checkpoint, widen};
use crate::compress::{CompressError, PackedWeights, compress, dequantize_ggml};
use crate::export::rows::reorder;
use crate::export::{ExportError, Progress};
use crate::model::{LayerRole, ModelSource, RopeOrder, StoredFormat};
use crate::recipe::{LayerSettings, WeightFormat};

/// One tensor of an export.
pub(super) struct OutTensor {
    /// Its name in the export.
    pub(super) name: String,
    /// Rows first.
    pub(super) shape: Vec<usize>,
    pub(super) format: StoredFormat,
    pub(super) len: u64,
    pub(super) content: Content,
}

/// Where the bytes come from.
pub(super) enum Content {
    /// Weights of the layer with this position in the graph.
    Layer(usize),
    /// A norm or bias, by its Hugging Face name, with the role of its layer.
    Vector(String, Option<LayerRole>),
    /// Ready bytes.
    Bytes(Vec<u8>),
}

/// How a layout names and stores tensors.
pub(super) struct Layout<'a> {
    /// The name for a Hugging Face name.
    pub(super) name: &'a dyn Fn(&str) -> Option<String>,
    /// The format of the layer with these settings that the checkpoint stores so.
    pub(super) layer_format: &'a dyn Fn(&LayerSettings, StoredFormat) -> StoredFormat,
    /// The format of a norm or bias that the checkpoint stores so.
    pub(super) vector_format: &'a dyn Fn(StoredFormat) -> StoredFormat,
}

impl Layout<'_> {
    /// Every tensor that the family uses, in the order of execution; rotary factors are the layout's own matter.
    pub(super) fn tensors(
        &self,
        source: &Checkpoint,
        settings: &[LayerSettings],
    ) -> Result<Vec<OutTensor>, ExportError> {
        let graph = source.graph();
        if settings.len() != graph.layers.len() {
            let reason = format!("{} settings for {} layers", settings.len(), graph.layers.len());
            return Err(ExportError::Unsupported(reason));
        }
        let mut tensors = Vec::new();
        for (index, (layer, settings)) in graph.layers.iter().zip(settings).enumerate() {
            // Norms stand before the layers that read them; the order is for people only.
            let norm = match (layer.role, layer.block) {
                (LayerRole::QProj, Some(block)) => Some(format!("model.layers.{block}.input_layernorm.weight")),
                (LayerRole::GateProj, Some(block)) => {
                    Some(format!("model.layers.{block}.post_attention_layernorm.weight"))
                }
                _ => None,
            };
            if let Some(norm) = norm {
                tensors.push(self.vector(source, norm, None)?);
            }
            let format = (self.layer_format)(settings, layer.stored);
            let content = Content::Layer(index);
            tensors.push(self.tensor(&format!("{}.weight", layer.path), &layer.shape, format, content)?);
            if layer.bias_len > 0 {
                tensors.push(self.vector(source, format!("{}.bias", layer.path), Some(layer.role))?);
            }
        }
        tensors.push(self.vector(source, "model.norm.weight".to_owned(), None)?);
        Ok(tensors)
    }

    fn vector(&self, source: &Checkpoint, name: String, role: Option<LayerRole>) -> Result<OutTensor, ExportError> {
        let entry = source.entry(&name).ok_or_else(|| ExportError::Unsupported(format!("{name} is gone")))?;
        let format = (self.vector_format)(entry.format);
        self.tensor(&name.clone(), &entry.shape, format, Content::Vector(name, role))
    }

    fn tensor(
        &self,
        canonical: &str,
        shape: &[usize],
        format: StoredFormat,
        content: Content,
    ) -> Result<OutTensor, ExportError> {
        let name = (self.name)(canonical)
            .ok_or_else(|| ExportError::Unsupported(format!("the layout has no name for {canonical}")))?;
        let (row_len, rows) = shape.split_last().map_or((1, 1), |(&last, rest)| (last, rest.iter().product::<usize>()));
        let len = format.tensor_bytes(rows as u128, row_len as u128).and_then(|len| u64::try_from(len).ok());
        let len = len.ok_or_else(|| {
            let name = format.name();
            ExportError::Unsupported(format!("{canonical}: rows of {row_len} are not made of whole {name} blocks"))
        })?;
        Ok(OutTensor { name, shape: shape.to_vec(), format, len, content })
    }
}

/// The bytes of a tensor in its format and order.
pub(super) fn bytes_of(
    source: &Checkpoint,
    settings: &[LayerSettings],
    tensor: &OutTensor,
    rope_order: RopeOrder,
) -> Result<Vec<u8>, ExportError> {
    let (bytes, role) = match &tensor.content {
        Content::Bytes(bytes) => return Ok(bytes.clone()),
        Content::Vector(name, role) => {
            let values = source.read_f32(name)?;
            let values = values.ok_or_else(|| ExportError::Unsupported(format!("{name} is gone")))?;
            (dense_bytes(&tensor.name, &values, tensor.format)?, *role)
        }
        Content::Layer(index) => {
            let layer = &source.graph().layers[*index];
            (layer_bytes(source, *index, &settings[*index], tensor.format)?, Some(layer.role))
        }
    };
    Ok(match role {
        Some(role) => reorder(bytes, role, source.config(), rope_order),
        None => bytes,
    })
}

/// The weights of a layer in `format`, rows in the source's order: its own bytes when nothing changes, otherwise what
/// the compressor makes of them, and that widened when `format` is not the compressor's.
fn layer_bytes(
    source: &Checkpoint,
    index: usize,
    settings: &LayerSettings,
    format: StoredFormat,
) -> Result<Vec<u8>, ExportError> {
    let layer = &source.graph().layers[index];
    let compress_error = |source| ExportError::Compress { layer: layer.path.to_string(), source };
    let entry = source.entry(&format!("{}.weight", layer.path));
    let entry = entry.ok_or_else(|| ExportError::Unsupported(format!("{} is gone", layer.path)))?;
    let stored = source.read(entry)?;
    if settings.is_reference() && layer.stored == format {
        return Ok(stored);
    }
    let dense = match layer.stored {
        StoredFormat::Ggml(ggml) => dequantize_ggml(ggml, &stored).map_err(compress_error)?,
        dense => widen(dense, &stored).expect("every other format is dense"),
    };
    drop(stored);
    if settings.is_reference() {
        return dense_bytes(layer.path.as_str(), &dense, format);
    }
    let packed = compress(&dense, layer.shape, settings, layer.stored).map_err(compress_error)?;
    drop(dense);
    match packed {
        PackedWeights::Ggml { format: made, bytes } if format == StoredFormat::Ggml(made) => Ok(bytes),
        packed => dense_bytes(layer.path.as_str(), &packed.dequantize(), format),
    }
}

/// Little-endian bytes of dense values; values that the format cannot hold are an error.
fn dense_bytes(name: &str, values: &[f32], format: StoredFormat) -> Result<Vec<u8>, ExportError> {
    let weights = match format {
        StoredFormat::F32 => return Ok(values.iter().flat_map(|value| value.to_le_bytes()).collect()),
        StoredFormat::F16 => WeightFormat::F16,
        StoredFormat::Bf16 => WeightFormat::Bf16,
        StoredFormat::Ggml(_) => return Err(ExportError::Unsupported(format!("{name} cannot be packed here"))),
    };
    let settings = LayerSettings { weights, sparsity: None };
    let packed = compress(values, [1, values.len()], &settings, format);
    let packed = packed.map_err(|source: CompressError| ExportError::Compress { layer: name.to_owned(), source })?;
    Ok(match packed {
        PackedWeights::F16(values) => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        PackedWeights::Bf16(values) => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        _ => return Err(ExportError::Unsupported(format!("{name} was packed in another format"))),
    })
}

/// A model that is being written: where from, and who wants to know how far it is.
pub(super) struct Job<'a, 'p> {
    pub(super) source: &'a Checkpoint,
    pub(super) settings: &'a [LayerSettings],
    pub(super) rope_order: RopeOrder,
    pub(super) progress: Progress<'p>,
}

impl Job<'_, '_> {
    /// Writes the tensors one after another, each padded to `alignment`; gives their hashes.
    pub(super) fn write(
        &mut self,
        out: &mut dyn Write,
        path: &Path,
        tensors: &[OutTensor],
        alignment: u64,
    ) -> Result<Vec<blake3::Hash>, ExportError> {
        let total: u64 = tensors.iter().map(|tensor| tensor.len).sum();
        let mut done = 0;
        let mut hashes = Vec::with_capacity(tensors.len());
        for tensor in tensors {
            if let ControlFlow::Break(()) = (self.progress)(done, total) {
                return Err(ExportError::Cancelled);
            }
            let mut bytes = bytes_of(self.source, self.settings, tensor, self.rope_order)?;
            if bytes.len() as u64 != tensor.len {
                return Err(ExportError::Unsupported(format!("{} has another size than planned", tensor.name)));
            }
            hashes.push(blake3::hash(&bytes));
            bytes.resize(bytes.len().next_multiple_of(alignment as usize), 0);
            let written = out.write_all(&bytes);
            written.map_err(|source| ExportError::Io { action: "write", source, path: path.to_owned() })?;
            done += tensor.len;
        }
        if let ControlFlow::Break(()) = (self.progress)(total, total) {
            return Err(ExportError::Cancelled);
        }
        Ok(hashes)
    }
}

/// Opens the copy with our own reader and compares every tensor with the hash of what was written.
pub(super) fn verify(copy: &ModelSource, tensors: &[OutTensor], hashes: &[blake3::Hash]) -> Result<(), ExportError> {
    let opened = checkpoint::open(copy)?;
    let refuse = |what: &str| ExportError::Verify { what: what.to_owned(), path: copy.path().to_owned() };
    if opened.entries().len() != tensors.len() {
        return Err(refuse("the list of tensors"));
    }
    for (tensor, hash) in tensors.iter().zip(hashes) {
        let entry = opened.entries().iter().find(|entry| entry.name == tensor.name);
        let entry = entry.filter(|entry| entry.shape == tensor.shape && entry.format == tensor.format);
        let entry = entry.ok_or_else(|| refuse(&tensor.name))?;
        if blake3::hash(&opened.read(entry)?) != *hash {
            return Err(refuse(&tensor.name));
        }
    }
    Ok(())
}

/// Notes on what an export leaves out.
pub(super) fn omissions(source: &Checkpoint) -> Vec<String> {
    let unused = source.entries().iter().filter(|entry| !source.is_used(entry)).map(|entry| entry.name.as_str());
    let refused = source.refused().iter().map(|tensor| tensor.name.as_str());
    let left_out: Vec<&str> = unused.chain(refused).collect();
    match left_out.len() {
        0 => Vec::new(),
        n => vec![format!("{n} tensors that the model does not use were left out: {}", left_out.join(", "))],
    }
}

#[cfg(test)]
#[path = "tensors_tests.rs"]
mod tests;
