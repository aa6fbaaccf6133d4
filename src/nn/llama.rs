//! The Llama family's forward pass.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

use candle_core::{Device, Tensor};

use crate::kernels::rms_norm;
use crate::model::{LayerPath, LlamaConfig, Operation};
use crate::nn::inputs::Inputs;
use crate::nn::linear::Scratch;
use crate::nn::pass::{Hooks, Pass, Workspace};
use crate::nn::{Block, KvCache, Linear, NnError, Probe, Rotary, with_values};
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
        let mut hidden = Vec::new();
        self.embed_into(tokens, &mut hidden)?;
        Ok(Tensor::from_vec(hidden, (tokens.len(), self.config().hidden_size), &self.device)?)
    }

    fn embed_into(&self, tokens: &[u32], hidden: &mut Vec<f32>) -> Result<(), NnError> {
        let vocab_size = self.config().vocab_size;
        if let Some(&token) = tokens.iter().find(|token| **token as usize >= vocab_size) {
            return Err(NnError::Token { token, vocab_size });
        }
        hidden.resize(tokens.len() * self.config().hidden_size, 0.0);
        self.parts.embedding.rows(tokens, hidden)
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
        hidden: &Tensor,
        cache: Option<&mut KvCache>,
        observer: Option<&mut dyn Observer>,
    ) -> Result<Tensor, NnError> {
        let shape = hidden.dims2()?;
        if shape.1 != self.config().hidden_size {
            return Err(NnError::Shape(format!("hidden states of {} for {}", shape.1, self.config().hidden_size)));
        }
        Workspace::with(|space| {
            with_values(hidden, |values| {
                space.hidden.clear();
                space.hidden.extend_from_slice(values);
            })?;
            self.pass(range, shape.0, cache, Hooks { observer, probe: None }, space)?;
            Ok(Tensor::from_slice(&space.hidden, shape, &self.device)?)
        })
    }

    /// Runs blocks over the residual stream in `space`, and lets the cache count the tokens behind the last.
    fn pass(
        &self,
        range: Range<usize>,
        seq: usize,
        mut cache: Option<&mut KvCache>,
        hooks: Hooks<'_, '_>,
        space: &mut Workspace,
    ) -> Result<(), NnError> {
        if cache.as_ref().is_some_and(|cache| cache.settings() != self.parts.kv_cache) {
            return Err(NnError::Shape("the cache was made for another model".to_owned()));
        }
        let position = cache.as_ref().map_or(0, |cache| cache.len());
        let angles = self.parts.rotary.angles(position, seq)?;
        let is_last = range.end == self.parts.blocks.len();
        Pass { parts: &self.parts, angles, seq, cache: cache.as_deref_mut(), hooks }.run(range, space)?;
        if let Some(cache) = cache.filter(|_| is_last) {
            cache.advance(seq);
        }
        Ok(())
    }

    /// Every block in order: [`Self::run_blocks`] over all.
    ///
    /// # Errors
    /// As [`Self::run_blocks`].
    pub fn run_all(&self, hidden: &Tensor, cache: Option<&mut KvCache>) -> Result<Tensor, NnError> {
        self.run_blocks(0..self.parts.blocks.len(), hidden, cache, None)
    }

    /// The last norm: (seq, hidden) → (seq, hidden).
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn final_norm(&self, hidden: &Tensor) -> Result<Tensor, NnError> {
        let mut normed = vec![0.0; hidden.elem_count()];
        with_values(hidden, |hidden| self.final_norm_of(hidden, &mut normed))??;
        Ok(Tensor::from_vec(normed, hidden.shape(), &self.device)?)
    }

    fn final_norm_of(&self, hidden: &[f32], normed: &mut [f32]) -> Result<(), NnError> {
        let eps = self.config().rms_norm_eps as f32;
        with_values(&self.parts.final_norm, |weight| rms_norm(hidden, weight, eps, normed))
    }

    /// The head: normed (seq, hidden) → `logits` (seq, vocabulary), which are given that length.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn head(&self, normed: &[f32], logits: &mut Vec<f32>) -> Result<(), NnError> {
        let width = self.config().hidden_size;
        HEAD.with_borrow_mut(|(inputs, scratch)| {
            inputs.start(normed.len() / width, width).copy_from_slice(normed);
            self.head_layer().multiply(inputs, logits, scratch)
        })
    }

    fn head_layer(&self) -> &Linear {
        self.parts.head.as_ref().unwrap_or(&self.parts.embedding)
    }

    /// Runs tokens behind what `cache` holds; `logits` become those (vocabulary) behind the last. With one token, and
    /// buffers that have seen one before, nothing is allocated.
    ///
    /// # Errors
    /// When the tokens do not fit the context.
    pub fn next_logits(&self, tokens: &[u32], cache: &mut KvCache, logits: &mut Vec<f32>) -> Result<(), NnError> {
        self.probed_logits(tokens, cache, logits, None)
    }

    /// [`Self::next_logits`], bit for bit, while `probe` sees when each operation ends: those of [`Self::work`], in its
    /// order.
    ///
    /// # Errors
    /// As [`Self::next_logits`].
    pub fn probed_logits(
        &self,
        tokens: &[u32],
        cache: &mut KvCache,
        logits: &mut Vec<f32>,
        mut probe: Option<&mut Probe>,
    ) -> Result<(), NnError> {
        let end = |probe: &mut Option<&mut Probe>, operation| {
            if let Some(probe) = probe {
                probe.end(None, operation);
            }
        };
        let width = self.config().hidden_size;
        Workspace::with(|space| {
            self.embed_into(tokens, &mut space.hidden)?;
            end(&mut probe, Operation::Embedding);
            let hooks = Hooks { observer: None, probe: probe.as_deref_mut() };
            self.pass(0..self.parts.blocks.len(), tokens.len(), Some(cache), hooks, space)?;
            let last = &space.hidden[(tokens.len() - 1) * width..];
            HEAD.with_borrow_mut(|(inputs, scratch)| {
                self.final_norm_of(last, inputs.start(1, width))?;
                end(&mut probe, Operation::FinalNorm);
                self.head_layer().multiply(inputs, logits, scratch)?;
                end(&mut probe, Operation::Head);
                Ok(())
            })
        })
    }
}

thread_local! {
    /// Inputs of the head.
    static HEAD: RefCell<(Inputs, Scratch)> = RefCell::default();
}

#[cfg(test)]
#[path = "llama_tests.rs"]
mod tests;
