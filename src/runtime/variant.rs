//! A model whose layers follow a plan, and what is known of its making.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::checkpoint::Checkpoint;
use crate::model::{Layer, ModelFamily};
use crate::nn::Llama;
use crate::recipe::{Plan, WeightFormat};
use crate::runtime::MadeLayer;
use crate::runtime::build::Made;
use crate::runtime::work::Calibrated;

/// A model whose layers follow a plan.
#[derive(Debug)]
pub struct Variant {
    /// The model.
    pub model: Arc<Llama>,
    /// The layers made for it, in the order of the model; the others are the checkpoint's own.
    pub layers: Vec<MadeLayer>,
    /// What did not go as asked beside the layers' own notes, in words.
    pub notes: Vec<String>,
    /// How it was calibrated, where its plan asks for it.
    pub calibrated: Option<Calibrated>,
    /// Bytes of all tensors as packed: shared ones once, removed ones not at all.
    pub weight_bytes: u64,
    /// Effective bits per weight over the linear layers of the blocks, and over embedding and head where a rule changed
    /// them; scales and minimums count.
    pub bits_per_weight: f64,
    /// Time of making it, in seconds.
    pub compress_secs: f64,
}

impl Variant {
    /// Layers compressed for it; the others were there.
    pub fn compressed_layers(&self) -> u32 {
        self.layers.iter().filter(|layer| !layer.was_kept).count() as u32
    }

    /// Bytes of the linear layers as held, each tensor once; those shared with the reference count too.
    pub fn held_bytes(&self) -> u64 {
        let mut seen = BTreeSet::new();
        let parts = self.model.layers().flat_map(|layer| layer.parts());
        parts.filter(|(identity, _)| seen.insert(*identity)).map(|(_, bytes)| bytes).sum()
    }

    /// Which products run, each with its number of layers; a tied head runs the embedding's.
    pub fn products(&self) -> BTreeMap<String, u32> {
        let mut products = BTreeMap::new();
        for layer in self.model.layers() {
            *products.entry(layer.product()).or_insert(0) += 1;
        }
        products
    }
}

/// Bytes of the variant's tensors as packed, and its bits per weight.
pub(super) fn bytes_and_bits(checkpoint: &Checkpoint, plan: &Plan, made: &BTreeMap<usize, Made>) -> (u64, f64) {
    let graph = checkpoint.graph();
    let (mut bytes, mut block_bytes, mut block_weights) = (0, 0, 0);
    for (index, (layer, wanted)) in graph.layers.iter().zip(&plan.layers).enumerate() {
        let Some([rows, row_len]) = wanted.shape else { continue };
        let packed = made.get(&index).map_or(wanted.packed_bytes, |made| made.kept.told.packed_bytes);
        bytes += packed;
        if layer.block.is_some() || wanted.settings.weights != WeightFormat::Native {
            block_bytes += packed;
            block_weights += (rows * row_len) as u64;
        }
    }
    let other = graph.other_bytes - removed_bytes(checkpoint, plan).min(graph.other_bytes);
    (bytes + other, (block_bytes * 8) as f64 / block_weights.max(1) as f64)
}

/// Bytes in the checkpoint of norms and biases that the plan removes.
fn removed_bytes(checkpoint: &Checkpoint, plan: &Plan) -> u64 {
    let ModelFamily::Llama(config) = &checkpoint.graph().family;
    let len = |name: &str| checkpoint.entry(name).map_or(0, |entry| entry.len);
    let mut removed = 0;
    for (block, shape) in plan.blocks.iter().enumerate() {
        let before = config.block_shape(block);
        if shape.n_heads == 0 && before.n_heads > 0 {
            removed += len(&format!("model.layers.{block}.input_layernorm.weight"));
        }
        if shape.intermediate_size == 0 && before.intermediate_size > 0 {
            removed += len(&format!("model.layers.{block}.post_attention_layernorm.weight"));
        }
    }
    let biases = checkpoint.graph().layers.iter().zip(&plan.layers).filter(|(layer, _)| layer.bias_len > 0);
    let gone = |(layer, wanted): (&Layer, &crate::recipe::LayerPlan)| {
        let kept = wanted.shape.map_or(0, |[rows, _]| rows.min(layer.bias_len));
        len(&format!("{}.bias", layer.path)) / layer.bias_len as u64 * (layer.bias_len - kept) as u64
    };
    removed + biases.map(gone).sum::<u64>()
}
