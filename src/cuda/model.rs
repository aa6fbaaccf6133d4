//! A Llama on a card: its weights and norms, uploaded from the host's.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use crate::compress::ActivationGrid;
use crate::cuda::CudaError;
use crate::cuda::card::{Buffer, Card};
use crate::cuda::linear::{Linear, Uploaded, vector};
use crate::cuda::pass::Frame;
use crate::model::{HiddenAct, LlamaConfig, RopeOrder};
use crate::nn::{self, MatrixSource};
use crate::recipe::{KvCacheSettings, KvFormat};

/// The widest head that the kernels of attention have room for.
const MAX_HEAD: usize = 256;

/// A Llama on a card.
#[derive(Debug)]
pub struct Model {
    pub(super) card: Rc<dyn Card>,
    pub(super) config: LlamaConfig,
    pub(super) embedding: Linear,
    pub(super) head: Option<Linear>,
    pub(super) blocks: Vec<Block>,
    pub(super) final_norm: Buffer,
    pub(super) rotary: Arc<nn::Rotary>,
    pub(super) settings: Settings,
}

/// What kernels are told of a model.
#[derive(Debug, Clone, Copy)]
pub(super) struct Settings {
    pub(super) cache: KvFormat,
    pub(super) window: u64,
    pub(super) sinks: u64,
    /// The kind of the gate's kernel.
    pub(super) act: u64,
    pub(super) is_interleaved: bool,
}

#[derive(Debug)]
pub(super) struct Block {
    pub(super) attention: Option<Attention>,
    pub(super) mlp: Option<Mlp>,
}

#[derive(Debug)]
pub(super) struct Attention {
    pub(super) norm: Buffer,
    pub(super) q: Linear,
    pub(super) k: Linear,
    pub(super) v: Linear,
    pub(super) o: Linear,
    pub(super) n_heads: usize,
    pub(super) n_kv_heads: usize,
}

#[derive(Debug)]
pub(super) struct Mlp {
    pub(super) norm: Buffer,
    pub(super) gate: Linear,
    pub(super) up: Linear,
    pub(super) down: Linear,
}

impl Model {
    /// Copies what is not there yet: stored weights first, of which `watch` hears.
    pub(super) fn new(
        card: &Rc<dyn Card>,
        uploaded: &Uploaded,
        host: &nn::Llama,
        watch: &dyn Fn(u32, u32) -> bool,
    ) -> Result<Self, CudaError> {
        let parts = host.parts();
        let settings = Settings::new(host)?;
        // Known until the layers below share them.
        let _stored = uploaded.upload(card, &sources(host), watch)?;
        let blocks = parts.blocks.iter().map(|block| Block::new(card, uploaded, block));
        Ok(Self {
            card: Rc::clone(card),
            config: parts.config.clone(),
            embedding: Linear::embedding(card, uploaded, &parts.embedding)?,
            head: parts.head.as_ref().map(|head| Linear::new(card, uploaded, head)).transpose()?,
            blocks: blocks.collect::<Result<_, _>>()?,
            final_norm: vector(card, &parts.final_norm)?,
            rotary: Arc::clone(&parts.rotary),
            settings,
        })
    }

    /// Configuration.
    pub fn config(&self) -> &LlamaConfig {
        &self.config
    }

    pub(super) fn frame(&self) -> Frame<'_> {
        let Self { card, config, rotary, settings, .. } = self;
        Frame { card, config, rotary, settings: *settings }
    }

    pub(super) fn head(&self) -> &Linear {
        self.head.as_ref().unwrap_or(&self.embedding)
    }

    fn layers(&self) -> impl Iterator<Item = &Linear> {
        let blocks = self.blocks.iter().flat_map(Block::layers);
        std::iter::once(&self.embedding).chain(blocks).chain(&self.head)
    }

    /// Which products run, each with its number of layers; a tied head runs the embedding's.
    pub fn products(&self) -> BTreeMap<String, u32> {
        let mut products = BTreeMap::new();
        for layer in self.layers() {
            *products.entry(layer.label()).or_insert(0) += 1;
        }
        products
    }

    /// Bytes of the linear layers on the card, each matrix once.
    pub fn held_bytes(&self) -> u64 {
        let mut seen = std::collections::BTreeSet::new();
        let matrices = self.layers().flat_map(Linear::matrices);
        matrices.filter(|matrix| seen.insert(Rc::as_ptr(matrix).addr())).map(|matrix| matrix.held_bytes()).sum()
    }
}

impl Block {
    /// Copies what is not there yet.
    pub(super) fn new(card: &Rc<dyn Card>, uploaded: &Uploaded, host: &nn::Block) -> Result<Self, CudaError> {
        let layer = |layer: &nn::Linear| Linear::new(card, uploaded, layer);
        let attention = host.attention.as_ref().map(|part| {
            Ok::<_, CudaError>(Attention {
                norm: vector(card, &part.norm)?,
                q: layer(&part.q)?,
                k: layer(&part.k)?,
                v: layer(&part.v)?,
                o: layer(&part.o)?,
                n_heads: part.n_heads,
                n_kv_heads: part.n_kv_heads,
            })
        });
        let mlp = host.mlp.as_ref().map(|part| {
            Ok::<_, CudaError>(Mlp {
                norm: vector(card, &part.norm)?,
                gate: layer(&part.gate)?,
                up: layer(&part.up)?,
                down: layer(&part.down)?,
            })
        });
        Ok(Self { attention: attention.transpose()?, mlp: mlp.transpose()? })
    }

    /// The linear layers in the order of execution.
    pub(super) fn layers(&self) -> impl Iterator<Item = &Linear> {
        let attention = self.attention.iter().flat_map(|part| [&part.q, &part.k, &part.v, &part.o]);
        attention.chain(self.mlp.iter().flat_map(|part| [&part.gate, &part.up, &part.down]))
    }
}

/// What the layers of a model are made from, with the grids that their products have on a card.
fn sources(host: &nn::Llama) -> Vec<(MatrixSource, ActivationGrid)> {
    let embedding = Linear::sources_of(&host.parts().embedding, ActivationGrid::Float);
    let others = host.layers().skip(1);
    embedding.chain(others.flat_map(|layer| Linear::sources_of(layer, layer.activations()))).collect()
}

impl Settings {
    /// Bytes of the keys or values of a token, so many numbers: rows of blocks begin at multiples of 16.
    pub(super) fn cache_row_bytes(&self, width: usize) -> usize {
        let bytes = width / self.cache.block_len() * self.cache.block_bytes();
        if self.cache.block_len() == 1 { bytes } else { bytes.next_multiple_of(16) }
    }

    pub(super) fn new(host: &nn::Llama) -> Result<Self, CudaError> {
        let parts = host.parts();
        if parts.config.head_dim > MAX_HEAD {
            let text = format!("heads of {} have no kernel on a card; {MAX_HEAD} is the most", parts.config.head_dim);
            return Err(CudaError::Unsupported(text));
        }
        let KvCacheSettings { keys, values } = parts.kv_cache;
        if keys != values {
            let text = format!(
                "a cache of {} keys and {} values has no kernel on a card; take one format for both",
                keys.name(),
                values.name()
            );
            return Err(CudaError::Unsupported(text));
        }
        Ok(Self {
            cache: keys,
            window: parts.attention.window.unwrap_or(0) as u64,
            sinks: parts.attention.sinks as u64,
            act: match parts.config.hidden_act {
                HiddenAct::Silu => 0,
                HiddenAct::GeluTanh => 1,
                HiddenAct::Gelu => 2,
            },
            is_interleaved: parts.config.rope_order == RopeOrder::Interleaved,
        })
    }
}
