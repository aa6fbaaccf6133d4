//! The dense model without the parts that a plan removes: tensors are smaller, not masked.

use std::sync::Arc;

use candle_core::Tensor;

use crate::compress::Moments;
use crate::compress::structured::{
    Survivors, activation_norms, features_of_units, highest, least_squares_update, select_columns, select_rows,
    sum_units, weight_norms,
};
use crate::model::BlockShape;
use crate::nn::{Attention, Block, GateGradients, Linear, Llama, LlamaParts, Mlp, gate_gradients};
use crate::recipe::{ChannelScore, Policy, SurvivorUpdate, WidthCut};
use crate::runtime::calibrate::{BlockMoments, Input};
use crate::runtime::choose::reshaped;
use crate::runtime::keys::{self, CURRENT, Hash};
use crate::runtime::work::{BlockInputs, Work};
use crate::runtime::{RuntimeError, layers, lists};

/// Windows of the calibration text that gradients are taken over.
const TAYLOR_WINDOWS: usize = 16;
/// The first tokens of each: the graph of a backward pass holds the logits of all of them several times over.
const TAYLOR_TOKENS: usize = 128;

/// The dense model in the widths of a plan.
pub(super) struct Cut {
    pub(super) model: Arc<Llama>,
    /// Of everything that decides its weights.
    pub(super) hash: Hash,
    /// What did not go as asked, in words.
    pub(super) notes: Vec<String>,
}

/// Removes what the plan removes.
pub(super) fn cut(work: Work<'_>, reference: &Arc<Llama>) -> Result<Cut, RuntimeError> {
    let fingerprint = keys::hash("model", &work.plan.model);
    let chosen = work.plan.structure.blocks.as_ref().is_none_or(|cut| cut.count == 0 || !cut.drop.is_empty());
    debug_assert!(chosen, "a score chooses the blocks before the variant is made");
    let before: Vec<BlockShape> = reference.parts().blocks.iter().map(Block::shape).collect();
    let after = &work.plan.blocks;
    if before == *after {
        return Ok(Cut { model: reference.clone(), hash: fingerprint, notes: Vec::new() });
    }
    let mut dropped = reference.parts().clone();
    for (block, shape) in dropped.blocks.iter_mut().zip(after) {
        block.attention = block.attention.take().filter(|_| shape.n_heads > 0);
        block.mlp = block.mlp.take().filter(|_| shape.intermediate_size > 0);
    }
    let dropped = reshaped(work, dropped)?;
    let shapes: Vec<[usize; 3]> = after.iter().map(|x| [x.n_heads, x.n_kv_heads, x.intermediate_size]).collect();
    let text = work.text_hash().filter(|_| work.plan.structure.needs_calibration());
    let seen = text.map(|text| (text, work.plan.calibration.policy, CURRENT.moments));
    let hash = keys::hash("cut", &(CURRENT.structure, fingerprint, &work.plan.structure, shapes, seen));
    let gone = keys::hash("dropped", &(CURRENT.structure, fingerprint, dropped_parts(&dropped)));
    let mut cutter =
        Cutter { work, hash, dense: dropped.clone(), base: gone, inputs: None, taylor: None, notes: Vec::new() };
    let mut parts = dropped.parts().clone();
    for (index, shape) in after.iter().enumerate() {
        if parts.blocks[index].shape() != *shape {
            parts.blocks[index] = cutter.block(index, *shape, &parts)?;
        }
    }
    Ok(Cut { model: reshaped(work, parts)?, hash, notes: cutter.notes })
}

/// Which parts of which blocks are left.
fn dropped_parts(model: &Llama) -> Vec<[bool; 2]> {
    model.parts().blocks.iter().map(|block| [block.attention.is_some(), block.mlp.is_some()]).collect()
}

/// What stays of the parts of a block that become narrower: positions, rising, of key and value heads (with their queries)
/// or of channels, and the layer that reads them, (hidden, kept inputs), after the update.
#[derive(Debug, Default, PartialEq)]
struct KeptParts {
    attention: Option<(Vec<usize>, Vec<f32>)>,
    mlp: Option<(Vec<usize>, Vec<f32>)>,
    /// What did not go as asked, in words.
    notes: Vec<String>,
}

struct Cutter<'a> {
    work: Work<'a>,
    /// Of everything that decides the cut.
    hash: Hash,
    /// The model without the parts that go whole.
    dense: Arc<Llama>,
    /// Its hash.
    base: Hash,
    inputs: Option<BlockInputs<'a>>,
    taylor: Option<GateGradients>,
    notes: Vec<String>,
}

impl Cutter<'_> {
    /// The block `index` in its new widths; `made` has the blocks before it in theirs.
    fn block(&mut self, index: usize, shape: BlockShape, made: &LlamaParts) -> Result<Block, RuntimeError> {
        let dense = self.dense.clone();
        let block = &dense.parts().blocks[index];
        let key = keys::hash("cut_block", &(self.hash, index));
        let stored = self.work.stored(key).and_then(|bytes| from_bytes(&bytes, block, shape));
        let kept = if let Some(kept) = stored {
            kept
        } else {
            let kept = self.choose(index, shape, made)?;
            self.work.store(key, &[&to_bytes(&kept)]);
            kept
        };
        self.notes.extend(kept.notes.iter().cloned());
        let attention = match (&block.attention, &kept.attention) {
            (Some(attention), Some((groups, out))) => Some(self.narrow_attention(attention, groups, out)?),
            (attention, _) => attention.clone(),
        };
        let mlp = match (&block.mlp, &kept.mlp) {
            (Some(mlp), Some((channels, out))) => Some(self.narrow_mlp(mlp, channels, out)?),
            (mlp, _) => mlp.clone(),
        };
        Ok(Block { attention, mlp })
    }

    /// Ranks heads and channels of a block, and updates what reads the survivors.
    fn choose(&mut self, index: usize, shape: BlockShape, made: &LlamaParts) -> Result<KeptParts, RuntimeError> {
        let dense = self.dense.clone();
        let block = &dense.parts().blocks[index];
        let before = block.shape();
        let structure = &self.work.plan.structure;
        let updates = structure.update == SurvivorUpdate::LeastSquares;
        let cuts = [
            (Input::Heads, structure.heads.filter(|_| before.n_kv_heads != shape.n_kv_heads)),
            (Input::Channels, structure.ffn.filter(|_| before.intermediate_size != shape.intermediate_size)),
        ];
        let reads = |cut: &WidthCut| updates || cut.score == ChannelScore::ActivationNorm;
        let wanted = cuts.iter().filter(|(_, cut)| cut.as_ref().is_some_and(reads)).map(|(input, _)| *input);
        let moments = self.moments(index, &wanted.collect::<Vec<_>>(), made)?;
        let mut kept = KeptParts::default();
        if let (Some(attention), Some(cut)) = (&block.attention, cuts[0].1) {
            let (moments, n_groups) = (moments.get(&Input::Heads), attention.n_kv_heads);
            let scores = match cut.score {
                ChannelScore::WeightNorm => norms(&[&attention.q, &attention.k, &attention.v], &attention.o, n_groups)?,
                ChannelScore::ActivationNorm => activation_norms(moments.ok_or(RuntimeError::NoText)?, n_groups),
                ChannelScore::Taylor => sum_units(&self.taylor()?.heads[index], n_groups),
            };
            let groups = highest(&scores, shape.n_kv_heads);
            let columns = features_of_units(&groups, attention.o.shape()[1] / n_groups);
            let out = kept.survivors(&attention.o, &columns, moments.filter(|_| updates))?;
            kept.attention = Some((groups, out));
        }
        if let (Some(mlp), Some(cut)) = (&block.mlp, cuts[1].1) {
            let (moments, n_channels) = (moments.get(&Input::Channels), before.intermediate_size);
            let scores = match cut.score {
                ChannelScore::WeightNorm => norms(&[&mlp.gate, &mlp.up], &mlp.down, n_channels)?,
                ChannelScore::ActivationNorm => activation_norms(moments.ok_or(RuntimeError::NoText)?, n_channels),
                ChannelScore::Taylor => self.taylor()?.channels[index].clone(),
            };
            let channels = highest(&scores, shape.intermediate_size);
            let out = kept.survivors(&mlp.down, &channels, moments.filter(|_| updates))?;
            kept.mlp = Some((channels, out));
        }
        Ok(kept)
    }

    /// The inputs of a block: from the blocks before as they are now, or from the model before the cut.
    fn moments(&mut self, index: usize, wanted: &[Input], made: &LlamaParts) -> Result<BlockMoments, RuntimeError> {
        if wanted.is_empty() {
            return Ok(BlockMoments::new());
        }
        let policy = self.work.plan.calibration.policy;
        let inputs = match &mut self.inputs {
            Some(inputs) => inputs,
            none => none.insert(self.work.inputs(self.base, policy)?),
        };
        let made = match policy {
            Policy::Sequential => reshaped(self.work, made.clone())?,
            Policy::Dense => self.dense.clone(),
        };
        inputs.of_block(index, wanted, &self.dense, &made, self.hash)
    }

    /// Gradients of the gates, summed over some windows.
    fn taylor(&mut self) -> Result<&GateGradients, RuntimeError> {
        if self.taylor.is_none() {
            let windows = self.work.text()?.first(TAYLOR_WINDOWS);
            let mut sum: Option<GateGradients> = None;
            for (window, done) in windows.iter().zip(0..) {
                if !self.work.watch.calibrating(done, windows.len() as u32) {
                    return Err(RuntimeError::Cancelled);
                }
                let found = gate_gradients(&self.dense, &window[..window.len().min(TAYLOR_TOKENS)])?;
                match &mut sum {
                    None => sum = Some(found),
                    Some(sum) => {
                        add(&mut sum.heads, &found.heads);
                        add(&mut sum.channels, &found.channels);
                    }
                }
            }
            self.taylor = sum;
        }
        self.taylor.as_ref().ok_or(RuntimeError::NoText)
    }

    fn narrow_attention(&self, part: &Attention, groups: &[usize], out: &[f32]) -> Result<Attention, RuntimeError> {
        let head_dim = part.k.shape()[0] / part.n_kv_heads;
        let queries = part.n_heads / part.n_kv_heads;
        let (keys, heads) = (features_of_units(groups, head_dim), features_of_units(groups, queries * head_dim));
        let hidden = part.o.shape()[0];
        Ok(Attention {
            norm: part.norm.clone(),
            q: self.rows(&part.q, &heads)?,
            k: self.rows(&part.k, &keys)?,
            v: self.rows(&part.v, &keys)?,
            o: dense_layer(&part.o, out.to_vec(), [hidden, heads.len()], part.o.bias().cloned())?,
            n_heads: groups.len() * queries,
            n_kv_heads: groups.len(),
        })
    }

    fn narrow_mlp(&self, part: &Mlp, channels: &[usize], out: &[f32]) -> Result<Mlp, RuntimeError> {
        let hidden = part.down.shape()[0];
        Ok(Mlp {
            norm: part.norm.clone(),
            gate: self.rows(&part.gate, channels)?,
            up: self.rows(&part.up, channels)?,
            down: dense_layer(&part.down, out.to_vec(), [hidden, channels.len()], part.down.bias().cloned())?,
        })
    }

    /// A layer with these of its outputs, and its bias with them.
    fn rows(&self, layer: &Linear, kept: &[usize]) -> Result<Arc<Linear>, RuntimeError> {
        let row_len = layer.shape()[1];
        let weights = select_rows(&layer.dequantize()?, row_len, kept);
        let bias = layer.bias().map(|bias| layers::select(bias, kept, self.work.device)).transpose()?;
        dense_layer(layer, weights, [kept.len(), row_len], bias)
    }
}

fn dense_layer(
    layer: &Linear,
    weights: Vec<f32>,
    shape: [usize; 2],
    bias: Option<Tensor>,
) -> Result<Arc<Linear>, RuntimeError> {
    Ok(layers::dense(layer.path(), weights, shape, bias)?)
}

/// Adds lists of scores.
fn add(sum: &mut [Vec<f64>], found: &[Vec<f64>]) {
    for (sum, found) in sum.iter_mut().zip(found) {
        sum.iter_mut().zip(found).for_each(|(sum, found)| *sum += found);
    }
}

/// The norms of the weights that make and read each of `n_units`.
fn norms(makers: &[&Arc<Linear>], reader: &Linear, n_units: usize) -> Result<Vec<f64>, RuntimeError> {
    let makers = makers.iter().map(|maker| maker.dequantize()).collect::<Result<Vec<_>, _>>()?;
    let makers: Vec<&[f32]> = makers.iter().map(Vec::as_slice).collect();
    Ok(weight_norms(&makers, &reader.dequantize()?, reader.shape()[0], n_units))
}

impl KeptParts {
    /// The columns `kept` of a layer: the least-squares solution over its inputs, or as they were without moments.
    fn survivors(
        &mut self,
        layer: &Linear,
        kept: &[usize],
        moments: Option<&Moments>,
    ) -> Result<Vec<f32>, RuntimeError> {
        let dense = layer.dequantize()?;
        let Some(moments) = moments else { return Ok(select_columns(&dense, layer.shape()[1], kept)) };
        let found = least_squares_update(&dense, layer.shape(), moments, kept);
        let Survivors { weights, notes } = found.map_err(keys::of_layer(layer.path()))?;
        self.notes.extend(notes.into_iter().map(|note| format!("{}: {note}", layer.path())));
        Ok(weights)
    }
}

fn to_bytes(kept: &KeptParts) -> Vec<u8> {
    let indices = |part: &Option<(Vec<usize>, Vec<f32>)>| part.as_ref().map(|(kept, _)| lists::of_indices(kept));
    let floats = |part: &Option<(Vec<usize>, Vec<f32>)>| part.as_ref().map(|(_, out)| lists::of_floats(out));
    let KeptParts { attention, mlp, notes } = kept;
    let notes = notes.join("\n").bytes().map(u32::from).collect();
    lists::to_bytes(&[indices(attention), floats(attention), indices(mlp), floats(mlp), Some(notes)])
}

/// What stays of `block`, from [`to_bytes`]; `None` when the bytes are not those of these widths.
fn from_bytes(bytes: &[u8], block: &Block, shape: BlockShape) -> Option<KeptParts> {
    let [groups, heads_out, channels, channels_out, notes] = lists::from_bytes::<5>(bytes)?;
    let notes: Vec<u8> = notes?.into_iter().map(u8::try_from).collect::<Result<_, _>>().ok()?;
    let before = block.shape();
    let part = |kept: Option<Vec<u32>>, out: Option<Vec<u32>>, layer: Option<&Linear>, widths: [usize; 2]| {
        let [before, after] = widths;
        if before == after || after == 0 {
            return Some(None);
        }
        let kept = lists::indices(&kept?, before)?;
        let out = lists::floats(&out?)?;
        let [hidden, inputs] = layer?.shape();
        let fits = kept.len() == after && out.len() == hidden * (inputs / before * after);
        fits.then_some(Some((kept, out)))
    };
    let (o, down) = (block.attention.as_ref().map(|x| &*x.o), block.mlp.as_ref().map(|x| &*x.down));
    Some(KeptParts {
        attention: part(groups, heads_out, o, [before.n_kv_heads, shape.n_kv_heads])?,
        mlp: part(channels, channels_out, down, [before.intermediate_size, shape.intermediate_size])?,
        notes: std::str::from_utf8(&notes).ok()?.lines().map(str::to_owned).collect(),
    })
}
