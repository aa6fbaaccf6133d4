//! From a checkpoint's tensors to the reference model.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use half::{bf16, f16};

use crate::checkpoint::Checkpoint;
use crate::compress::{ActivationGrid, LowRankMatrix, PackedWeights, SparseMatrix};
use crate::model::{BlockShape, Layer, LayerRole, LlamaConfig, ModelFamily, StoredFormat};
use crate::nn::{Attention, Block, Linear, LinearParts, Llama, LlamaParts, Mlp, NnError, Rotary};
use crate::recipe::{AttentionSettings, Execution, KvCacheSettings};
use crate::runtime::{Place, RuntimeError, keys};

/// Reads every tensor of the model, but for a card the weights that can be read when they are used. `progress` hears of
/// layers read and in all, and ends the load by returning `false`.
pub(super) fn reference(
    checkpoint: &Arc<Checkpoint>,
    place: &Place,
    device: &Device,
    progress: &dyn Fn(u32, u32) -> bool,
) -> Result<Llama, RuntimeError> {
    let graph = checkpoint.graph();
    let ModelFamily::Llama(config) = &graph.family;
    let total = graph.layers.len() as u32;
    let mut layers = Layers::new();
    for (done, layer) in graph.layers.iter().enumerate() {
        // Where zeros are left out, a card has the weights in another order than the file.
        let linear = if let Some(card) = place.card().filter(|_| layer.sparse.is_none()) {
            card.layer(checkpoint, layer, bias(checkpoint, layer, device)?)?
        } else if progress(done as u32, total) {
            linear(checkpoint, layer, device)?
        } else {
            return Err(RuntimeError::Cancelled);
        };
        layers.insert((layer.block, layer.role), Arc::new(linear));
    }
    let blocks = (0..config.n_blocks).map(|index| block(checkpoint, config, index, &layers, device));
    let parts = LlamaParts {
        config: config.clone(),
        embedding: one(&layers, None, LayerRole::Embedding)?,
        blocks: blocks.collect::<Result<_, _>>()?,
        final_norm: vector(checkpoint, "model.norm.weight", device)?,
        head: layers.get(&(None, LayerRole::Head)).cloned(),
        rotary: Arc::new(Rotary::new(config, checkpoint.rope_factors())),
        attention: AttentionSettings::default(),
        kv_cache: KvCacheSettings::default(),
    };
    Ok(Llama::new(parts, device.clone())?)
}

type Layers = BTreeMap<(Option<u16>, LayerRole), Arc<Linear>>;

fn one(layers: &Layers, block: Option<u16>, role: LayerRole) -> Result<Arc<Linear>, NnError> {
    let missing = || match block {
        Some(block) => NnError::Missing(format!("{} of block {block}", role.name())),
        None => NnError::Missing(role.name().to_owned()),
    };
    layers.get(&(block, role)).cloned().ok_or_else(missing)
}

/// The parts of a block that the configuration gives a width.
fn block(
    checkpoint: &Checkpoint,
    config: &LlamaConfig,
    index: usize,
    layers: &Layers,
    device: &Device,
) -> Result<Block, RuntimeError> {
    let BlockShape { n_heads, n_kv_heads, intermediate_size } = config.block_shape(index);
    let norm = |name: &str| vector(checkpoint, &format!("model.layers.{index}.{name}.weight"), device);
    let layer = |role| one(layers, u16::try_from(index).ok(), role);
    let mut block = Block { attention: None, mlp: None };
    if n_heads > 0 {
        block.attention = Some(Attention {
            norm: norm("input_layernorm")?,
            q: layer(LayerRole::QProj)?,
            k: layer(LayerRole::KProj)?,
            v: layer(LayerRole::VProj)?,
            o: layer(LayerRole::OProj)?,
            n_heads,
            n_kv_heads,
        });
    }
    if intermediate_size > 0 {
        block.mlp = Some(Mlp {
            norm: norm("post_attention_layernorm")?,
            gate: layer(LayerRole::GateProj)?,
            up: layer(LayerRole::UpProj)?,
            down: layer(LayerRole::DownProj)?,
        });
    }
    Ok(block)
}

fn linear(checkpoint: &Checkpoint, layer: &Layer, device: &Device) -> Result<Linear, RuntimeError> {
    let dense = |name: &str| dense(checkpoint, name);
    let tensors = layer.tensors();
    let packed = match (&tensors[..], layer.stored) {
        _ if layer.sparse.is_some() => PackedWeights::Sparse(sparse(checkpoint, layer)?),
        ([(name, _)], StoredFormat::Ggml(format)) => {
            let entry = checkpoint.entry(name).ok_or_else(|| NnError::Missing(name.clone()))?;
            PackedWeights::Ggml { format, bytes: checkpoint.read(entry)? }
        }
        ([(up, up_shape), (down, _)], _) => {
            let shape = [layer.shape[0], up_shape[1], layer.shape[1]];
            let factors = LowRankMatrix { up: Box::new(dense(up)?), down: Arc::new(dense(down)?), shape };
            PackedWeights::LowRank(factors)
        }
        (whole, _) => dense(&whole[0].0)?,
    };
    let (bias, activations) = (bias(checkpoint, layer, device)?, ActivationGrid::Float);
    let (path, shape, execution) = (layer.path.clone(), layer.shape, Execution::Packed);
    let parts = LinearParts { path, packed, shape, execution, bias, activations };
    Ok(Linear::new(parts)?)
}

fn bias(checkpoint: &Checkpoint, layer: &Layer, device: &Device) -> Result<Option<Tensor>, RuntimeError> {
    match layer.bias_len {
        0 => Ok(None),
        _ => Ok(Some(vector(checkpoint, &format!("{}.bias", layer.path), device)?)),
    }
}

/// The weights of a dense tensor as the file holds them.
fn dense(checkpoint: &Checkpoint, name: &str) -> Result<PackedWeights, RuntimeError> {
    let missing = || NnError::Missing(name.to_owned());
    let entry = checkpoint.entry(name).ok_or_else(missing)?;
    let finite = |broken: Option<usize>, weights: PackedWeights| match broken {
        Some(index) => Err(RuntimeError::BrokenWeight { what: format!("weight {index} of {name}") }),
        None => Ok(weights),
    };
    match entry.format {
        StoredFormat::F16 => {
            let weights: Vec<f16> = pairs(&checkpoint.read(entry)?).map(f16::from_le_bytes).collect();
            finite(weights.iter().position(|weight| !weight.is_finite()), PackedWeights::F16(weights))
        }
        StoredFormat::Bf16 => {
            let weights: Vec<bf16> = pairs(&checkpoint.read(entry)?).map(bf16::from_le_bytes).collect();
            finite(weights.iter().position(|weight| !weight.is_finite()), PackedWeights::Bf16(weights))
        }
        StoredFormat::F32 | StoredFormat::Ggml(_) => {
            let weights = checkpoint.read_f32(name)?.ok_or_else(missing)?;
            finite(weights.iter().position(|weight| !weight.is_finite()), PackedWeights::F32(weights))
        }
    }
}

fn pairs(bytes: &[u8]) -> impl Iterator<Item = [u8; 2]> {
    bytes.as_chunks::<2>().0.iter().copied()
}

/// The matrix of a layer whose zeros the files leave out.
pub(super) fn sparse(checkpoint: &Checkpoint, layer: &Layer) -> Result<SparseMatrix, RuntimeError> {
    let parts = checkpoint.read_sparse(layer)?.zip(layer.sparse);
    let (parts, stored) = parts.ok_or_else(|| NnError::Missing(layer.path.0.clone()))?;
    let matrix = SparseMatrix::from_bytes(layer.shape, stored.values, &parts.values, &parts.scales, parts.bitmask);
    matrix.map_err(keys::of_layer(&layer.path))
}

fn vector(checkpoint: &Checkpoint, name: &str, device: &Device) -> Result<Tensor, RuntimeError> {
    let values = checkpoint.read_f32(name)?.ok_or_else(|| NnError::Missing(name.to_owned()))?;
    let len = values.len();
    Ok(Tensor::from_vec(values, len, device)?)
}
