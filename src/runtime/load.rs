//! From a checkpoint's tensors to the reference model.

use std::sync::Arc;

use candle_core::{Device, Tensor};

use crate::checkpoint::Checkpoint;
use crate::compress::PackedWeights;
use crate::model::{Layer, LayerRole, LlamaConfig, ModelFamily, StoredFormat};
use crate::nn::{Linear, Llama, LlamaParts, NnError, Rotary};
use crate::recipe::Execution;
use crate::runtime::RuntimeError;

/// Reads every tensor of the model. `progress` hears of layers done and in all, and ends the load by returning `false`.
pub(super) fn reference(
    checkpoint: &Checkpoint,
    device: &Device,
    progress: &dyn Fn(u32, u32) -> bool,
) -> Result<Llama, RuntimeError> {
    let graph = checkpoint.graph();
    let ModelFamily::Llama(config) = &graph.family;
    let total = graph.layers.len() as u32;
    let mut layers = Vec::with_capacity(graph.layers.len());
    for (done, layer) in graph.layers.iter().enumerate() {
        if !progress(done as u32, total) {
            return Err(RuntimeError::Cancelled);
        }
        layers.push((layer.role, Arc::new(linear(checkpoint, layer, device)?)));
    }
    let one = |role: LayerRole| layers.iter().find(|(found, _)| *found == role).map(|(_, layer)| layer.clone());
    let embedding = one(LayerRole::Embedding).ok_or_else(|| NnError::Missing("the embedding".to_owned()))?;
    let in_blocks: Vec<Arc<Linear>> = layers
        .iter()
        .filter(|(role, _)| !matches!(role, LayerRole::Embedding | LayerRole::Head))
        .map(|(_, layer)| layer.clone())
        .collect();
    let (blocks, rest) = in_blocks.as_chunks::<7>();
    if !rest.is_empty() {
        return Err(NnError::Missing("a linear layer of the last block".to_owned()).into());
    }
    let parts = LlamaParts {
        config: config.clone(),
        embedding,
        blocks: blocks.to_vec(),
        norms: norms(checkpoint, config, device)?,
        final_norm: vector(checkpoint, "model.norm.weight", device)?,
        head: one(LayerRole::Head),
        rotary: Arc::new(Rotary::new(config, checkpoint.rope_factors())),
    };
    Ok(Llama::new(parts, device.clone())?)
}

fn linear(checkpoint: &Checkpoint, layer: &Layer, device: &Device) -> Result<Linear, RuntimeError> {
    let name = format!("{}.weight", layer.path);
    let entry = checkpoint.entry(&name).ok_or_else(|| NnError::Missing(name.clone()))?;
    let (packed, execution) = if let StoredFormat::Ggml(format) = layer.stored {
        (PackedWeights::Ggml { format, bytes: checkpoint.read(entry)? }, Execution::Packed)
    } else {
        let weights = checkpoint.read_f32(&name)?.ok_or(NnError::Missing(name))?;
        if let Some(index) = weights.iter().position(|weight| !weight.is_finite()) {
            let what = format!("weight {index} of {}", layer.path);
            return Err(RuntimeError::NonFinite { what });
        }
        (PackedWeights::F32(weights), Execution::Widened)
    };
    let bias = match layer.bias_len {
        0 => None,
        _ => Some(vector(checkpoint, &format!("{}.bias", layer.path), device)?),
    };
    Ok(Linear::new(layer.path.clone(), packed, layer.shape, execution, bias, device)?)
}

fn norms(checkpoint: &Checkpoint, config: &LlamaConfig, device: &Device) -> Result<Vec<[Tensor; 2]>, RuntimeError> {
    (0..config.n_blocks)
        .map(|block| {
            let norm = |name: &str| vector(checkpoint, &format!("model.layers.{block}.{name}.weight"), device);
            Ok([norm("input_layernorm")?, norm("post_attention_layernorm")?])
        })
        .collect()
}

fn vector(checkpoint: &Checkpoint, name: &str, device: &Device) -> Result<Tensor, RuntimeError> {
    let values = checkpoint.read_f32(name)?.ok_or_else(|| NnError::Missing(name.to_owned()))?;
    let len = values.len();
    Ok(Tensor::from_vec(values, len, device)?)
}
