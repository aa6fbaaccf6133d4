//! The Llama family's forward pass.

use std::sync::Arc;

use candle_core::{Device, Tensor};

use crate::model::{HiddenAct, LayerPath, LlamaConfig};
use crate::nn::rotary::Angles;
use crate::nn::{KvCache, Linear, NnError, Rotary};

/// Sees the input of every linear layer of the blocks, (seq, `in_features`) f32: calibration reads activations here.
pub trait Observer {
    /// Called before the product of `layer`.
    fn input(&mut self, layer: &LayerPath, x: &Tensor);
}

/// What a Llama is put together from.
#[derive(Debug)]
pub struct LlamaParts {
    /// Configuration.
    pub config: LlamaConfig,
    /// Embedding; also the head when tied.
    pub embedding: Arc<Linear>,
    /// In order: q, k, v, o, gate, up, down of each block.
    pub blocks: Vec<[Arc<Linear>; 7]>,
    /// Weights (hidden) f32 of the norms before attention and before the MLP of each block.
    pub norms: Vec<[Tensor; 2]>,
    /// Weight (hidden) f32 of the last norm.
    pub final_norm: Tensor,
    /// The head; `None` when tied.
    pub head: Option<Arc<Linear>>,
    /// Rotary frequencies.
    pub rotary: Arc<Rotary>,
}

/// A Llama whose layers may each be packed in another way. Cloning shares all weights.
///
/// Paper: Touvron et al., 2023, arXiv:2302.13971; grouped-query attention: Ainslie et al., 2023, arXiv:2305.13245.
#[derive(Debug)]
pub struct Llama {
    parts: LlamaParts,
    device: Device,
}

impl Llama {
    /// A model from its parts.
    ///
    /// # Errors
    /// [`NnError::Missing`] when the parts are not those of the configuration.
    pub fn new(parts: LlamaParts, device: Device) -> Result<Self, NnError> {
        let n_blocks = parts.config.n_blocks;
        if parts.blocks.len() != n_blocks || parts.norms.len() != n_blocks {
            return Err(NnError::Missing(format!("a block of {n_blocks}")));
        }
        Ok(Self { parts, device })
    }

    /// Configuration.
    pub fn config(&self) -> &LlamaConfig {
        &self.parts.config
    }

    /// The parts, to make a variant that shares most of them.
    pub fn parts(&self) -> &LlamaParts {
        &self.parts
    }

    /// Every linear layer in the order of execution; a tied head is not repeated.
    pub fn layers(&self) -> impl Iterator<Item = &Arc<Linear>> {
        let blocks = self.parts.blocks.iter().flatten();
        std::iter::once(&self.parts.embedding).chain(blocks).chain(self.parts.head.as_ref())
    }

    /// An empty cache for `capacity` tokens.
    ///
    /// # Errors
    /// When the capacity exceeds the context or the device's memory.
    pub fn new_cache(&self, capacity: usize) -> Result<KvCache, NnError> {
        let config = self.config();
        if capacity > config.max_context {
            return Err(NnError::Context { needed: capacity, context: config.max_context });
        }
        KvCache::new(config.n_blocks, config.n_kv_heads, capacity, config.head_dim, &self.device)
    }

    /// Embeds tokens: (seq) → (seq, hidden).
    ///
    /// # Errors
    /// [`NnError::Token`] for a token outside the vocabulary.
    pub fn embed(&self, tokens: &[u32]) -> Result<Tensor, NnError> {
        let vocab_size = self.config().vocab_size;
        if let Some(&token) = tokens.iter().find(|token| **token as usize >= vocab_size) {
            return Err(NnError::Token { token, vocab_size });
        }
        self.parts.embedding.rows(&Tensor::new(tokens, &self.device)?)
    }

    /// Runs the blocks from `first_block` on: hidden (seq, hidden) → (seq, hidden) before the last norm.
    ///
    /// Without a cache the tokens are a whole text from position 0; with one they follow what it holds.
    ///
    /// # Errors
    /// When the tokens do not fit the context.
    pub fn run_blocks(
        &self,
        first_block: usize,
        hidden: Tensor,
        mut cache: Option<&mut KvCache>,
        mut observer: Option<&mut dyn Observer>,
    ) -> Result<Tensor, NnError> {
        let seq = hidden.dim(0)?;
        let position = cache.as_ref().map_or(0, |cache| cache.len());
        let angles = self.parts.rotary.angles(position, seq, &self.device)?;
        let masks = self.causal_masks(seq, position)?;
        let mut hidden = hidden;
        for block in first_block..self.config().n_blocks {
            let step = Step { block, position, angles: &angles, masks: &masks, cache: cache.as_deref() };
            hidden = self.run_block(hidden, &step, &mut observer)?;
        }
        if let Some(cache) = &mut cache {
            cache.advance(seq);
        }
        Ok(hidden)
    }

    /// The last norm: (seq, hidden) → (seq, hidden).
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn final_norm(&self, hidden: &Tensor) -> Result<Tensor, NnError> {
        self.norm(hidden, &self.parts.final_norm)
    }

    /// The head: normed (seq, hidden) → logits (seq, vocabulary).
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn head(&self, normed: &Tensor) -> Result<Tensor, NnError> {
        self.parts.head.as_ref().unwrap_or(&self.parts.embedding).forward(normed)
    }

    /// Runs tokens behind what `cache` holds and returns the logits (vocabulary) of the last.
    ///
    /// # Errors
    /// When the tokens do not fit the context.
    pub fn next_logits(&self, tokens: &[u32], cache: &mut KvCache) -> Result<Tensor, NnError> {
        let hidden = self.run_blocks(0, self.embed(tokens)?, Some(cache), None)?;
        let last = hidden.narrow(0, tokens.len() - 1, 1)?;
        Ok(self.head(&self.final_norm(&last)?)?.squeeze(0)?)
    }

    fn norm(&self, hidden: &Tensor, weight: &Tensor) -> Result<Tensor, NnError> {
        Ok(candle_nn::ops::rms_norm(hidden, weight, self.config().rms_norm_eps as f32)?)
    }

    /// A mask for each run of [`QUERIES`] tokens: (run, position + end of the run) with −∞ where a query may not look.
    /// Empty for a single token, which may look everywhere.
    fn causal_masks(&self, seq: usize, position: usize) -> Result<Vec<Tensor>, NnError> {
        if seq == 1 {
            return Ok(Vec::new());
        }
        (0..seq)
            .step_by(QUERIES)
            .map(|first| {
                let last = (first + QUERIES).min(seq);
                let visible = position + last;
                let row =
                    |query| (0..visible).map(move |key| if key > position + query { f32::NEG_INFINITY } else { 0.0 });
                let mask: Vec<f32> = (first..last).flat_map(row).collect();
                Ok(Tensor::from_vec(mask, (last - first, visible), &self.device)?)
            })
            .collect()
    }

    fn run_block(
        &self,
        hidden: Tensor,
        step: &Step<'_>,
        observer: &mut Option<&mut dyn Observer>,
    ) -> Result<Tensor, NnError> {
        let [attention_norm, mlp_norm] = &self.parts.norms[step.block];
        let normed = self.norm(&hidden, attention_norm)?;
        let hidden = (hidden + self.attention(&normed, step, observer)?)?;
        let normed = self.norm(&hidden, mlp_norm)?;
        let [.., gate, up, down] = &self.parts.blocks[step.block];
        let gated = observed(gate, &normed, observer)?;
        let gated = match self.config().hidden_act {
            HiddenAct::Silu => gated.silu()?,
            HiddenAct::GeluTanh => gated.gelu()?,
            HiddenAct::Gelu => gated.gelu_erf()?,
        };
        let inner = (gated * observed(up, &normed, observer)?)?;
        Ok((hidden + observed(down, &inner, observer)?)?)
    }

    /// Grouped-query attention of a block, causal.
    fn attention(
        &self,
        x: &Tensor,
        step: &Step<'_>,
        observer: &mut Option<&mut dyn Observer>,
    ) -> Result<Tensor, NnError> {
        let LlamaConfig { n_heads, n_kv_heads, head_dim, .. } = *self.config();
        let [q, k, v, o, ..] = &self.parts.blocks[step.block];
        let seq = x.dim(0)?;
        let heads = |y: Tensor, n: usize| y.reshape((seq, n, head_dim))?.transpose(0, 1)?.contiguous();
        let query = heads(observed(q, x, observer)?, n_heads)?;
        let key = heads(observed(k, x, observer)?, n_kv_heads)?;
        let value = heads(observed(v, x, observer)?, n_kv_heads)?;
        let (query, key) = (step.angles.rotate(&query)?, step.angles.rotate(&key)?);
        let (keys, values) = match step.cache {
            Some(cache) => cache.append(step.block, &key, &value)?,
            None => (key, value),
        };
        let query = (query * (1.0 / (head_dim as f64).sqrt()))?;
        // Scores exist for a run of queries and the keys that it can see, so memory is linear in the context.
        let runs: Vec<Tensor> = (0..seq)
            .step_by(QUERIES)
            .enumerate()
            .map(|(run, first)| {
                let len = QUERIES.min(seq - first);
                let visible = step.position + first + len;
                let queries = query.narrow(1, first, len)?.contiguous()?;
                attend(&queries, &keys.narrow(1, 0, visible)?, &values.narrow(1, 0, visible)?, step.masks.get(run))
            })
            .collect::<Result<_, _>>()?;
        let mixed = if runs.len() == 1 { runs[0].clone() } else { Tensor::cat(&runs, 1)? };
        let mixed = mixed.transpose(0, 1)?.contiguous()?;
        observed(o, &mixed.reshape((seq, n_heads * head_dim))?, observer)
    }
}

/// Tokens whose attention scores exist at the same time.
const QUERIES: usize = 128;

/// Softmax(q kᵀ + mask) v for queries (`n_heads`, run, `head_dim`) over keys and values (`n_kv_heads`, visible,
/// `head_dim`): the queries of a group are rows of one product with its keys, so no head is copied.
fn attend(queries: &Tensor, keys: &Tensor, values: &Tensor, mask: Option<&Tensor>) -> Result<Tensor, NnError> {
    let (n_heads, run, head_dim) = queries.dims3()?;
    let (n_kv_heads, visible, _) = keys.dims3()?;
    let grouped = (n_kv_heads, n_heads / n_kv_heads * run, visible);
    let queries = queries.reshape((n_kv_heads, n_heads / n_kv_heads * run, head_dim))?;
    let mut scores = queries.matmul(&keys.transpose(1, 2)?)?;
    if let Some(mask) = mask {
        scores = scores.reshape((n_heads, run, visible))?.broadcast_add(mask)?.reshape(grouped)?;
    }
    let weights = candle_nn::ops::softmax_last_dim(&scores)?;
    drop(scores);
    Ok(weights.matmul(&values.contiguous()?)?.reshape((n_heads, run, head_dim))?)
}

/// Where a block stands in the pass.
struct Step<'a> {
    block: usize,
    position: usize,
    angles: &'a Angles,
    masks: &'a [Tensor],
    cache: Option<&'a KvCache>,
}

fn observed(layer: &Linear, x: &Tensor, observer: &mut Option<&mut dyn Observer>) -> Result<Tensor, NnError> {
    if let Some(observer) = observer {
        observer.input(layer.path(), x);
    }
    layer.forward(x)
}

#[cfg(test)]
#[path = "llama_tests.rs"]
mod tests;
