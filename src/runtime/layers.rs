//! Layers of a model by what the graph says of them.

use std::sync::Arc;

use candle_core::{Device, Tensor};

use crate::compress::{ActivationGrid, PackedWeights};
use crate::model::{Layer, LayerPath, LayerRole};
use crate::nn::{Block, Linear, LinearParts, LlamaParts, NnError};
use crate::recipe::Execution;

/// The layer's product in `parts`; `None` where it was removed.
pub(super) fn find<'a>(parts: &'a LlamaParts, layer: &Layer) -> Option<&'a Arc<Linear>> {
    let Some(block) = layer.block else {
        return if layer.role == LayerRole::Head { parts.head.as_ref() } else { Some(&parts.embedding) };
    };
    let Block { attention, mlp } = parts.blocks.get(usize::from(block))?;
    let (attention, mlp) = (attention.as_ref(), mlp.as_ref());
    match layer.role {
        LayerRole::QProj => attention.map(|part| &part.q),
        LayerRole::KProj => attention.map(|part| &part.k),
        LayerRole::VProj => attention.map(|part| &part.v),
        LayerRole::OProj => attention.map(|part| &part.o),
        LayerRole::GateProj => mlp.map(|part| &part.gate),
        LayerRole::UpProj => mlp.map(|part| &part.up),
        LayerRole::DownProj => mlp.map(|part| &part.down),
        LayerRole::Embedding | LayerRole::Head => None,
    }
}

/// Puts `linear` in the place of the layer; nothing happens where that was removed.
pub(super) fn replace(parts: &mut LlamaParts, layer: &Layer, linear: Arc<Linear>) {
    let slot = match layer.block {
        None if layer.role == LayerRole::Head => parts.head.as_mut(),
        None => Some(&mut parts.embedding),
        Some(block) => parts.blocks.get_mut(usize::from(block)).and_then(|block| slot(block, layer.role)),
    };
    if let Some(slot) = slot {
        *slot = linear;
    }
}

fn slot(block: &mut Block, role: LayerRole) -> Option<&mut Arc<Linear>> {
    let (attention, mlp) = (block.attention.as_mut(), block.mlp.as_mut());
    match role {
        LayerRole::QProj => attention.map(|part| &mut part.q),
        LayerRole::KProj => attention.map(|part| &mut part.k),
        LayerRole::VProj => attention.map(|part| &mut part.v),
        LayerRole::OProj => attention.map(|part| &mut part.o),
        LayerRole::GateProj => mlp.map(|part| &mut part.gate),
        LayerRole::UpProj => mlp.map(|part| &mut part.up),
        LayerRole::DownProj => mlp.map(|part| &mut part.down),
        LayerRole::Embedding | LayerRole::Head => None,
    }
}

/// A dense layer in f32.
pub(super) fn dense(
    path: &LayerPath,
    weights: Vec<f32>,
    shape: [usize; 2],
    bias: Option<Tensor>,
) -> Result<Arc<Linear>, NnError> {
    let parts = LinearParts {
        path: path.clone(),
        packed: PackedWeights::F32(weights),
        shape,
        execution: Execution::Packed,
        bias,
        activations: ActivationGrid::Float,
    };
    Ok(Arc::new(Linear::new(parts)?))
}

/// The values of an f32 vector.
pub(super) fn values(vector: &Tensor) -> Result<Vec<f32>, NnError> {
    Ok(vector.to_vec1()?)
}

/// The elements `kept` of a vector.
pub(super) fn select(vector: &Tensor, kept: &[usize], device: &Device) -> Result<Tensor, NnError> {
    let values = values(vector)?;
    let kept: Vec<f32> = kept.iter().map(|&index| values[index]).collect();
    let len = kept.len();
    Ok(Tensor::from_vec(kept, len, device)?)
}

/// A vector whose element j is divided by `scales[j]`.
pub(super) fn divided(vector: &Tensor, scales: &[f32], device: &Device) -> Result<Tensor, NnError> {
    let mut values = values(vector)?;
    values.iter_mut().zip(scales).for_each(|(value, scale)| *value /= scale);
    let len = values.len();
    Ok(Tensor::from_vec(values, len, device)?)
}
