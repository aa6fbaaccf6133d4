//! A made variant as a file.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::cache::{VariantLayer, VariantWriter};
use crate::compress::{Job, PackedWeights, compress};
use crate::model::{LayerPath, StoredFormat};
use crate::nn::{Linear, LlamaParts, NnError};
use crate::runtime::build::Made;
use crate::runtime::outline::{How, Outline, Target};
use crate::runtime::shared::Base;
use crate::runtime::work::Work;
use crate::runtime::{RuntimeError, keys, layers, load};

/// Writes the layers of `made`, and the others as the checkpoint or the cut model has them, to `out`.
pub(super) fn write(
    work: Work<'_>,
    (base, outline): (&Base, &Outline<'_>),
    made: &BTreeMap<usize, Made>,
    parts: &LlamaParts,
    out: &Path,
) -> Result<(), RuntimeError> {
    let mut writer = VariantWriter::create(out, parts.config.clone())?;
    let mut targets: Vec<&Target<'_>> = outline.targets().collect();
    targets.sort_unstable_by_key(|target| target.index);
    let graph = work.checkpoint.graph();
    let path_of = |index: usize| graph.layers[index].path.clone();
    let mut first_of: BTreeMap<*const PackedWeights, LayerPath> = BTreeMap::new();
    let mut notes = Vec::new();
    for target in targets {
        let linear = layers::find(parts, target.layer).ok_or_else(|| NnError::Missing(target.layer.path.0.clone()))?;
        let tied = base.ties.get(&target.index).filter(|first| **first != target.index);
        let holder = if let How::Tied(first) = target.how { first } else { target.index };
        let held = made.get(&holder).and_then(|made| made.packed.as_ref());
        let read;
        let weights = if let Some(held) = held {
            &held.weights
        } else {
            read = unchanged(work, target, linear)?;
            &read
        };
        let mut shared_with = tied.map(|first| path_of(*first));
        if let (PackedWeights::LowRank(factors), How::Shared) = (weights, target.how) {
            let first = first_of.entry(Arc::as_ptr(&factors.down)).or_insert_with(|| target.layer.path.clone());
            shared_with = Some(first.clone()).filter(|first| *first != target.layer.path);
        }
        let layer = VariantLayer {
            path: target.layer.path.clone(),
            shape: target.shape,
            settings: work.plan.layers[target.index].settings,
            activations: linear.activations(),
            shared_with,
        };
        let bias = linear.bias().map(layers::values).transpose()?;
        writer.layer(layer, weights, bias.as_deref())?;
        let told = made.get(&target.index).map_or(&[][..], |made| &made.kept.told.notes);
        notes.extend(told.iter().map(|note| format!("{}: {note}", target.layer.path)));
    }
    for (index, block) in parts.blocks.iter().enumerate() {
        if let Some(attention) = &block.attention {
            let name = format!("model.layers.{index}.input_layernorm.weight");
            writer.vector(&name, &layers::values(&attention.norm)?)?;
        }
        if let Some(mlp) = &block.mlp {
            let name = format!("model.layers.{index}.post_attention_layernorm.weight");
            writer.vector(&name, &layers::values(&mlp.norm)?)?;
        }
    }
    writer.vector("model.norm.weight", &layers::values(&parts.final_norm)?)?;
    writer.finish(notes)?;
    Ok(())
}

/// The weights of a layer that was not compressed: the checkpoint's own blocks, or its numbers in the named format.
fn unchanged(work: Work<'_>, target: &Target<'_>, linear: &Linear) -> Result<PackedWeights, RuntimeError> {
    let layer = target.layer;
    // What was cut from blocks, or is a mean of some, is no longer in that format and is compressed to it.
    if let (StoredFormat::Ggml(format), true) = (layer.stored, target.settings.is_reference()) {
        let name = format!("{}.weight", layer.path);
        let entry = work.checkpoint.entry(&name).ok_or(NnError::Missing(name))?;
        return Ok(PackedWeights::Ggml { format, bytes: work.checkpoint.read(entry)? });
    }
    let dense = linear.dequantize()?;
    if layer.sparse.is_some() && target.settings.is_reference() {
        let sparse = load::sparse(work.checkpoint, layer)?;
        // What was cut, or is a mean of some, is no longer what the files have.
        if sparse.dequantize() == dense {
            return Ok(PackedWeights::Sparse(sparse));
        }
    }
    // A product of factors has no format of its own that would hold it.
    let native = if layer.rank.is_some() { StoredFormat::F32 } else { layer.stored };
    let settings = &target.settings;
    let job = Job { dense: &dense, shape: target.shape, settings, native, moments: None };
    Ok(compress(&job).map_err(keys::of_layer(&layer.path))?.weights)
}
