//! A Hugging Face folder of dense tensors.

use std::path::Path;

use crate::checkpoint::Checkpoint;
use crate::checkpoint::own::OwnLayout;
use crate::export::folder::{self, Folder};
use crate::export::model::{OutLayer, OutModel};
use crate::export::tensors::{Content, Element, Naming, OutTensor, SparsePart, tensor};
use crate::export::{Existing, ExportError, ExportSummary, Kind, ModelLayout, Progress, Weights, hf_config};
use crate::model::{RopeOrder, SparseValues, StoredFormat, StoredSparse};

/// Writes the model as a folder at `out_dir`.
///
/// `dtype` is the dense format of all tensors; with `None` each keeps its own, or the dense one that its setting names.
/// The layout has no packed formats: packed and integer layers are written with the values that they stand for, in f32,
/// because f16 and bf16 would round them once more. Low-rank layers are two tensors, `PATH.up.weight` and
/// `PATH.down.weight`; sparse layers without a `dtype` are their bits and values, `PATH.weight.bitmask` and so on; shared
/// tensors are written once; blocks may differ in width. Plain Hugging Face words have no such things: they are described under the key `trimtab` of `config.json`, which our reader knows. Notes say all this.
///
/// # Errors
/// [`ExportError`]; nothing is left behind then.
pub fn write(
    source: &Checkpoint,
    weights: Weights<'_>,
    dtype: Option<StoredFormat>,
    out_dir: &Path,
    existing: Existing,
    progress: Progress<'_>,
) -> Result<ExportSummary, ExportError> {
    if let Some(StoredFormat::Ggml(ggml)) = dtype {
        let reason = format!("safetensors has no {}; choose f32, f16 or bf16, or export as GGUF", ggml.name());
        return Err(ExportError::Unsupported(reason));
    }
    let model = OutModel::new(source, weights)?;
    let notes = model.judge(ModelLayout::Safetensors, dtype)?;
    let naming = Naming {
        name: &|canonical| Some(canonical.to_owned()),
        weights: &|index, layer| layer_tensors(index, layer, dtype),
        vector_format: &|stored| dtype.unwrap_or(stored),
        rope_order: RopeOrder::Halves,
    };
    let folder = Folder { tensors: naming.tensors(&model)?, own: own_layout(&model, dtype), quantization: None };
    folder::write(&model, &folder, (out_dir, existing), progress, notes)
}

fn layer_tensors(index: usize, layer: &OutLayer, dtype: Option<StoredFormat>) -> Result<Vec<OutTensor>, ExportError> {
    let element = Element::Stored(dtype.unwrap_or(layer.kind.dense()));
    let [rows, row_len] = layer.shape;
    let named = |part: &str, shape: [usize; 2], content| {
        tensor(format!("{}.{part}", layer.path), shape.to_vec(), element, content)
    };
    let mut tensors = match layer.kind {
        Kind::Sparse(sparse) if dtype.is_none() => {
            let is_shared = layer.shared_with.is_some();
            return if is_shared { Ok(Vec::new()) } else { sparse_tensors(index, layer, sparse) };
        }
        Kind::LowRank { rank, .. } => vec![
            named("up.weight", [rows, rank], Content::Up(index))?,
            named("down.weight", [rank, row_len], Content::Down(index))?,
        ],
        _ => vec![named("weight", layer.shape, Content::Weights(index))?],
    };
    if layer.shared_with.is_some() {
        tensors.pop();
    }
    Ok(tensors)
}

/// Bits, beginnings of rows, values, and scales where there are some.
fn sparse_tensors(index: usize, layer: &OutLayer, sparse: StoredSparse) -> Result<Vec<OutTensor>, ExportError> {
    let [rows, row_len] = layer.shape;
    let n_values = usize::try_from(sparse.n_values).unwrap_or(usize::MAX);
    let halves = Element::Stored(StoredFormat::F16);
    let (values, has_scales) = match sparse.values {
        SparseValues::F16 => (halves, false),
        SparseValues::Int8 => (Element::I8, true),
    };
    let parts = [
        Some(("bitmask", vec![rows, row_len.div_ceil(8)], Element::U8, SparsePart::Bitmask)),
        Some(("row_starts", vec![rows], Element::U32, SparsePart::RowStarts)),
        Some(("values", vec![n_values], values, SparsePart::Values)),
        has_scales.then_some(("scales", vec![rows], halves, SparsePart::Scales)),
    ];
    let named = |(name, shape, element, part)| {
        tensor(format!("{}.weight.{name}", layer.path), shape, element, Content::Sparse(index, part))
    };
    parts.into_iter().flatten().map(named).collect()
}

/// What plain Hugging Face words cannot say of the model when each layer has its own format, or all have `dtype`.
fn own_layout(model: &OutModel<'_>, dtype: Option<StoredFormat>) -> OwnLayout {
    let sparse = model.layers.iter().filter_map(|layer| match layer.kind {
        Kind::Sparse(sparse) if dtype.is_none() && layer.shared_with.is_none() => {
            Some((layer.path.clone(), sparse.values))
        }
        _ => None,
    });
    let low_rank = model.layers.iter().filter_map(|layer| match layer.kind {
        Kind::LowRank { rank, .. } => Some((layer.path.clone(), rank)),
        _ => None,
    });
    let shared = model.layers.iter().filter_map(|layer| {
        let owner = &model.layers[layer.shared_with?];
        Some((layer.path.clone(), owner.path.clone()))
    });
    let config = &model.config;
    let plain = hf_config::has_plain_widths(config) || !model.has_other_widths() && config.block_shapes.is_empty();
    let n_listed = if plain { 0 } else { config.n_blocks };
    OwnLayout {
        format_version: OwnLayout::VERSION,
        blocks: (0..n_listed).map(|block| config.block_shape(block)).collect(),
        low_rank: low_rank.collect(),
        sparse: sparse.collect(),
        shared: shared.collect(),
    }
}
