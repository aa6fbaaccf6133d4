//! The Llama family's forward pass.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{Device, Tensor};

use crate::kernels::HeadShape;
use crate::model::{HiddenAct, LayerPath, LlamaConfig};
use crate::nn::attention::Attending;
use crate::nn::rotary::Angles;
use crate::nn::{Attention, Block, KvCache, Linear, Mlp, NnError, Rotary};
use crate::recipe::{AttentionSettings, KvCacheSettings};

/// Sees the input of every linear layer of the blocks, (seq, `in_features`) f32: calibration reads activations here.
pub trait Observer {
    /// Called before the product of `layer`.
    fn input(&mut self, layer: &LayerPath, x: &Tensor);
}

/// What a Llama is put together from.
#[derive(Debug, Clone)]
pub struct LlamaParts {
    /// Configuration.
    pub config: LlamaConfig,
    /// Embedding; also the head when tied.
    pub embedding: Arc<Linear>,
    /// The blocks, with the widths of [`LlamaConfig::block_shape`].
    pub blocks: Vec<Block>,
    /// Weight (hidden) f32 of the last norm.
    pub final_norm: Tensor,
    /// The head; `None` when tied.
    pub head: Option<Arc<Linear>>,
    /// Rotary frequencies.
    pub rotary: Arc<Rotary>,
    /// How attention is computed, and what it sees.
    pub attention: AttentionSettings,
    /// Formats of cached keys and values.
    pub kv_cache: KvCacheSettings,
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
    /// [`NnError::Missing`] when the blocks are not those of the configuration, [`NnError::Shape`] when a window sees
    /// no token.
    pub fn new(parts: LlamaParts, device: Device) -> Result<Self, NnError> {
        let n_blocks = parts.config.n_blocks;
        if parts.blocks.len() != n_blocks {
            return Err(NnError::Missing(format!("a block of {n_blocks}")));
        }
        if parts.attention.window == Some(0) {
            return Err(NnError::Shape("a window of 0 tokens".to_owned()));
        }
        for (index, block) in parts.blocks.iter().enumerate() {
            let shape = parts.config.block_shape(index);
            if block.shape() != shape {
                return Err(NnError::Missing(format!("block {index} in the widths {shape:?}")));
            }
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
        let blocks = self.parts.blocks.iter().flat_map(Block::layers);
        std::iter::once(&self.parts.embedding).chain(blocks).chain(self.parts.head.as_ref())
    }

    /// An empty cache for `capacity` tokens.
    ///
    /// # Errors
    /// When the capacity exceeds the context, or keys are not whole blocks of their format.
    pub fn new_cache(&self, capacity: usize) -> Result<KvCache, NnError> {
        let config = self.config();
        if capacity > config.max_context {
            return Err(NnError::Context { needed: capacity, context: config.max_context });
        }
        let widths = self.parts.blocks.iter().map(|block| block.shape().n_kv_heads * config.head_dim);
        KvCache::new(widths, capacity, self.parts.kv_cache)
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

    /// Runs the blocks of `range`: hidden (seq, hidden) → (seq, hidden), which the last block gives to the last norm.
    ///
    /// Without a cache the tokens are a whole text from position 0; with one they follow what it holds. The cache
    /// counts them once the last block has run, so the ranges of one pass see the same tokens.
    ///
    /// # Errors
    /// When the tokens do not fit the context.
    ///
    /// # Panics
    /// If the range names a block that the model has not.
    pub fn run_blocks(
        &self,
        range: Range<usize>,
        hidden: Tensor,
        mut cache: Option<&mut KvCache>,
        mut observer: Option<&mut dyn Observer>,
    ) -> Result<Tensor, NnError> {
        if cache.as_ref().is_some_and(|cache| cache.settings() != self.parts.kv_cache) {
            return Err(NnError::Shape("the cache was made for another model".to_owned()));
        }
        let seq = hidden.dim(0)?;
        let position = cache.as_ref().map_or(0, |cache| cache.len());
        let angles = self.parts.rotary.angles(position, seq)?;
        let is_last = range.end == self.parts.blocks.len();
        let mut hidden = hidden;
        for (index, block) in range.clone().zip(&self.parts.blocks[range]) {
            if let Some(attention) = &block.attention {
                let normed = self.norm(&hidden, &attention.norm)?;
                let step = Step { block: index, angles: &angles, cache: cache.as_deref_mut() };
                hidden = (hidden + self.attention(attention, &normed, step, &mut observer)?)?;
            }
            if let Some(mlp) = &block.mlp {
                let normed = self.norm(&hidden, &mlp.norm)?;
                hidden = (hidden + self.mlp(mlp, &normed, &mut observer)?)?;
            }
        }
        if let Some(cache) = cache.filter(|_| is_last) {
            cache.advance(seq);
        }
        Ok(hidden)
    }

    /// Every block in order: [`Self::run_blocks`] over all.
    ///
    /// # Errors
    /// As [`Self::run_blocks`].
    pub fn run_all(&self, hidden: Tensor, cache: Option<&mut KvCache>) -> Result<Tensor, NnError> {
        self.run_blocks(0..self.parts.blocks.len(), hidden, cache, None)
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
        let hidden = self.run_all(self.embed(tokens)?, Some(cache))?;
        let last = hidden.narrow(0, tokens.len() - 1, 1)?;
        Ok(self.head(&self.final_norm(&last)?)?.squeeze(0)?)
    }

    fn norm(&self, hidden: &Tensor, weight: &Tensor) -> Result<Tensor, NnError> {
        Ok(candle_nn::ops::rms_norm(hidden, weight, self.config().rms_norm_eps as f32)?)
    }

    fn mlp(&self, mlp: &Mlp, x: &Tensor, observer: &mut Option<&mut dyn Observer>) -> Result<Tensor, NnError> {
        let gated = observed(&mlp.gate, x, observer)?;
        let gated = match self.config().hidden_act {
            HiddenAct::Silu => gated.silu()?,
            HiddenAct::GeluTanh => gated.gelu()?,
            HiddenAct::Gelu => gated.gelu_erf()?,
        };
        let inner = (gated * observed(&mlp.up, x, observer)?)?;
        observed(&mlp.down, &inner, observer)
    }

    fn attention(
        &self,
        part: &Attention,
        x: &Tensor,
        step: Step<'_>,
        observer: &mut Option<&mut dyn Observer>,
    ) -> Result<Tensor, NnError> {
        let heads = HeadShape { n_heads: part.n_heads, n_kv_heads: part.n_kv_heads, head_dim: self.config().head_dim };
        let attending = Attending { heads, settings: self.parts.attention, kv_cache: self.parts.kv_cache };
        let query = step.angles.rotate(&observed(&part.q, x, observer)?)?;
        let key = step.angles.rotate(&observed(&part.k, x, observer)?)?;
        let value = observed(&part.v, x, observer)?;
        let mixed = attending.mix(&query, &key, &value, step.cache.map(|cache| (cache, step.block)))?;
        observed(&part.o, &mixed, observer)
    }
}

/// Where a block stands in the pass.
struct Step<'a> {
    block: usize,
    angles: &'a Angles,
    cache: Option<&'a mut KvCache>,
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
