//! Gradients of the loss with respect to gates on heads and channels.
//!
//! candle's fused norm, softmax and rotation return tensors without a past, so everything before them silently gets no
//! gradient: here they are spelled out in plain operations.

use candle_core::{D, Device, Tensor, Var};

use crate::kernels::Sight;
use crate::model::HiddenAct;
use crate::nn::rotary::Angles;
use crate::nn::{Attention, Block, Linear, Llama, Mlp, NnError};

/// Positions whose logits exist at the same time.
const CHUNK: usize = 64;

/// |∂ loss / ∂ gate| of one window, for gates of 1 on attention heads and channels of the MLP.
///
/// A gate multiplies a head's output, or a channel before `down`; to first order, the loss changes by so much when it
/// goes. Empty where a block has no such part.
///
/// Paper: Molchanov et al., 2019, arXiv:1906.10771; heads: Michel et al., 2019, arXiv:1905.10650.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct GateGradients {
    /// Of each query head, block by block.
    pub heads: Vec<Vec<f64>>,
    /// Of each channel of the MLP, block by block.
    pub channels: Vec<Vec<f64>>,
}

/// The gradients of the mean negative log likelihood of `tokens` after the first.
///
/// The blocks are differentiated one at a time, each from the hidden state that the forward pass leaves before it, so
/// the graph of one block and its dense weights exist at a time. Activations and cached keys are taken in floating
/// point.
///
/// # Errors
/// When there are fewer than two tokens, they do not fit the context, or a gate got no gradient.
pub fn gate_gradients(model: &Llama, tokens: &[u32]) -> Result<GateGradients, NnError> {
    if tokens.len() < 2 {
        return Err(NnError::Shape("a loss needs a token and the one after it".to_owned()));
    }
    let blocks = &model.parts().blocks;
    let mut inputs = Vec::with_capacity(blocks.len());
    let mut hidden = model.embed(tokens)?;
    for index in 0..blocks.len() {
        inputs.push(hidden.clone());
        hidden = model.run_blocks(index..index + 1, &hidden, None, None)?;
    }
    let pass = Pass {
        model,
        angles: model.parts().rotary.angles(0, tokens.len())?,
        mask: mask(model, tokens.len(), hidden.device())?,
    };
    let mut upstream = pass.loss_gradient(&hidden, tokens)?;
    let mut found = GateGradients::default();
    for (block, input) in blocks.iter().zip(inputs).rev() {
        let (below, heads, channels) = pass.block_gradients(block, &input, &upstream)?;
        upstream = below;
        found.heads.push(heads);
        found.channels.push(channels);
    }
    found.heads.reverse();
    found.channels.reverse();
    Ok(found)
}

/// (seq, seq) with −∞ where a query does not see a key.
fn mask(model: &Llama, seq: usize, device: &Device) -> Result<Tensor, NnError> {
    let settings = model.parts().attention;
    let sight = Sight { window: settings.window, sinks: settings.sinks };
    let row = |query| (0..seq).map(move |key| if sight.sees(query, key) { 0.0 } else { f32::NEG_INFINITY });
    Ok(Tensor::from_vec((0..seq).flat_map(row).collect::<Vec<f32>>(), (seq, seq), device)?)
}

struct Pass<'a> {
    model: &'a Llama,
    angles: Angles<'a>,
    mask: Tensor,
}

impl Pass<'_> {
    /// ∂ loss / ∂ hidden of the hidden state (seq, hidden) after the last block.
    fn loss_gradient(&self, hidden: &Tensor, tokens: &[u32]) -> Result<Tensor, NnError> {
        let parts = self.model.parts();
        let head = dense(parts.head.as_ref().unwrap_or(&parts.embedding), hidden.device())?;
        let (seq, width) = hidden.dims2()?;
        let mut gradients = Vec::new();
        for first in (0..seq - 1).step_by(CHUNK) {
            let len = CHUNK.min(seq - 1 - first);
            let chunk = Var::from_tensor(&hidden.narrow(0, first, len)?.contiguous()?)?;
            let normed = self.norm(chunk.as_tensor(), &parts.final_norm)?;
            // ∂ loss / ∂ logits is softmax − target over the count. Written out, so that no gradient of the head's weights,
            // the largest matrix of the model, is made on the way.
            let logits = normed.detach().matmul(&head.t()?)?;
            let mut rows: Vec<Vec<f32>> = candle_nn::ops::softmax(&logits, D::Minus1)?.to_vec2()?;
            drop(logits);
            for (row, target) in rows.iter_mut().zip(&tokens[first + 1..=first + len]) {
                row[*target as usize] -= 1.0;
            }
            let upstream = (Tensor::new(rows, hidden.device())?.matmul(&head)? * (1.0 / (seq - 1) as f64))?;
            let found = (normed * upstream)?.sum_all()?.backward()?;
            gradients.push(gradient(&found, &chunk)?);
        }
        // The last token predicts nothing.
        gradients.push(Tensor::zeros((1, width), hidden.dtype(), hidden.device())?);
        Ok(Tensor::cat(&gradients, 0)?)
    }

    /// From ∂ loss / ∂ output of a block to ∂ loss / ∂ input, and the magnitudes at its gates.
    fn block_gradients(
        &self,
        block: &Block,
        input: &Tensor,
        upstream: &Tensor,
    ) -> Result<(Tensor, Vec<f64>, Vec<f64>), NnError> {
        let shape = block.shape();
        let gates = |n: usize| Var::ones(n.max(1), input.dtype(), input.device());
        let (head_gates, channel_gates) = (gates(shape.n_heads)?, gates(shape.intermediate_size)?);
        let input = Var::from_tensor(input)?;
        let mut hidden = input.as_tensor().clone();
        if let Some(part) = &block.attention {
            hidden = (&hidden + self.attention(part, &hidden, &head_gates)?)?;
        }
        if let Some(part) = &block.mlp {
            hidden = (&hidden + self.mlp(part, &hidden, &channel_gates)?)?;
        }
        // Its gradients are those of the loss.
        let surrogate = (hidden * upstream)?.sum_all()?;
        let found = surrogate.backward()?;
        let magnitudes = |gates: &Var, is_there: bool| {
            if !is_there {
                return Ok(Vec::new());
            }
            let values: Vec<f32> = gradient(&found, gates)?.to_vec1()?;
            Ok::<_, NnError>(values.into_iter().map(|value| f64::from(value).abs()).collect())
        };
        let heads = magnitudes(&head_gates, block.attention.is_some())?;
        let channels = magnitudes(&channel_gates, block.mlp.is_some())?;
        Ok((gradient(&found, &input)?, heads, channels))
    }

    fn attention(&self, part: &Attention, hidden: &Tensor, gates: &Var) -> Result<Tensor, NnError> {
        let head_dim = self.model.config().head_dim;
        let (n_heads, n_kv_heads) = (part.n_heads, part.n_kv_heads);
        let seq = hidden.dim(0)?;
        let x = self.norm(hidden, &part.norm)?;
        let heads = |layer: &Linear, n: usize| {
            let y = product(layer, &x)?.reshape((seq, n, head_dim))?;
            Ok::<_, NnError>(y.transpose(0, 1)?.contiguous()?)
        };
        let query = self.angles.rotate_plainly(&heads(&part.q, n_heads)?)?;
        let key = self.angles.rotate_plainly(&heads(&part.k, n_kv_heads)?)?;
        let value = heads(&part.v, n_kv_heads)?;
        let grouped = (n_kv_heads, n_heads / n_kv_heads * seq, head_dim);
        let query = (query * (1.0 / (head_dim as f64).sqrt()))?.reshape(grouped)?;
        let scores = query.matmul(&key.transpose(1, 2)?.contiguous()?)?.reshape((n_heads, seq, seq))?;
        let weights = candle_nn::ops::softmax(&scores.broadcast_add(&self.mask)?, D::Minus1)?;
        let weights = weights.reshape((n_kv_heads, n_heads / n_kv_heads * seq, seq))?;
        let mixed = weights.matmul(&value)?.reshape((n_heads, seq, head_dim))?;
        let mixed = mixed.broadcast_mul(&gates.reshape((n_heads, 1, 1))?)?;
        let mixed = mixed.transpose(0, 1)?.contiguous()?.reshape((seq, n_heads * head_dim))?;
        product(&part.o, &mixed)
    }

    fn mlp(&self, part: &Mlp, hidden: &Tensor, gates: &Var) -> Result<Tensor, NnError> {
        let x = self.norm(hidden, &part.norm)?;
        let gated = product(&part.gate, &x)?;
        let gated = match self.model.config().hidden_act {
            HiddenAct::Silu => gated.silu()?,
            HiddenAct::GeluTanh => gated.gelu()?,
            HiddenAct::Gelu => gated.gelu_erf()?,
        };
        let inner = (gated * product(&part.up, &x)?)?.broadcast_mul(gates)?;
        product(&part.down, &inner)
    }

    fn norm(&self, x: &Tensor, weight: &Tensor) -> Result<Tensor, NnError> {
        Ok(candle_nn::ops::rms_norm_slow(x, weight, self.model.config().rms_norm_eps as f32)?)
    }
}

/// The weights (`out_features`, `in_features`) f32.
fn dense(layer: &Linear, device: &Device) -> Result<Tensor, NnError> {
    let [rows, row_len] = layer.shape();
    Ok(Tensor::from_vec(layer.dequantize()?, (rows, row_len), device)?)
}

fn product(layer: &Linear, x: &Tensor) -> Result<Tensor, NnError> {
    let y = x.matmul(&dense(layer, x.device())?.t()?)?;
    Ok(match layer.bias() {
        None => y,
        Some(bias) => y.broadcast_add(bias)?,
    })
}

fn gradient(found: &candle_core::backprop::GradStore, of: &Var) -> Result<Tensor, NnError> {
    found.get(of).cloned().ok_or_else(|| NnError::Missing("the gradient of a gate".to_owned()))
}

#[cfg(test)]
#[path = "gradient_tests.rs"]
mod tests;
