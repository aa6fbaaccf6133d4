//! A Hugging Face folder of dense tensors.

use std::path::Path;

use crate::checkpoint::Checkpoint;
use crate::checkpoint::own::OwnLayout;
use crate::export::folder::{self, Folder};
use crate::export::model::{OutLayer, OutModel};
use crate::export::tensors::{Content, Element, Naming, OutTensor, tensor};
use crate::export::{Existing, ExportError, ExportSummary, Kind, ModelLayout, Progress, Weights, hf_config};
use crate::model::{RopeOrder, StoredFormat};

/// Writes the model as a folder at `out_dir`.
///
/// `dtype` is the dense format of all tensors; with `None` each keeps its own, or the dense one that its setting names.
/// The layout has no packed formats: packed and integer layers are written with the values that they stand for, in f32,
/// because f16 and bf16 would round them once more. Low-rank layers are two tensors, `PATH.up.weight` and
/// `PATH.down.weight`; shared tensors are written once; blocks may differ in width. Plain Hugging Face words have no such
/// things: they are described under the key `trimtab` of `config.json`, which our reader knows. Notes say all this.
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
    let folder = Folder { tensors: naming.tensors(&model)?, own: own_layout(&model), quantization: None };
    folder::write(&model, &folder, (out_dir, existing), progress, notes)
}

fn layer_tensors(index: usize, layer: &OutLayer, dtype: Option<StoredFormat>) -> Result<Vec<OutTensor>, ExportError> {
    let element = Element::Stored(dtype.unwrap_or(layer.kind.dense()));
    let [rows, row_len] = layer.shape;
    let named = |part: &str, shape: [usize; 2], content| {
        tensor(format!("{}.{part}", layer.path), shape.to_vec(), element, content)
    };
    let mut tensors = match layer.kind {
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

/// What plain Hugging Face words cannot say of the model.
fn own_layout(model: &OutModel<'_>) -> OwnLayout {
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
        shared: shared.collect(),
    }
}
