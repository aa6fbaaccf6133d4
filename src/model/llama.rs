//! The configuration of the Llama family.

use serde::{Deserialize, Serialize};

use crate::model::LayerRole;

/// How the two halves of a rotated pair lie in a query or key row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RopeOrder {
    /// Element `i` pairs with `i + head_dim / 2` (Hugging Face).
    Halves,
    /// Element `2 i` pairs with `2 i + 1` (GGUF's Llama, Meta's original).
    Interleaved,
}

/// A change of the rotary frequencies for longer contexts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RopeScaling {
    /// Llama 3.1: low frequencies divided by `factor`, high ones kept, a smooth ramp between.
    Llama3 {
        /// Division of the low frequencies.
        factor: f64,
        /// Wavelengths above `original_context / low_freq_factor` are divided.
        low_freq_factor: f64,
        /// Wavelengths below `original_context / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// Context length of the training before the extension, in tokens.
        original_context: usize,
    },
    /// All positions divided by `factor`.
    Linear {
        /// Division of the positions.
        factor: f64,
    },
}

/// The nonlinearity of the gated MLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HiddenAct {
    /// x · sigmoid(x).
    Silu,
    /// The tanh approximation of GELU.
    GeluTanh,
    /// Exact GELU.
    Gelu,
}

/// Everything that the Llama family's forward pass needs beside weights. Sizes are in elements, contexts in tokens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LlamaConfig {
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the MLP.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub n_blocks: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads; divides `n_heads`.
    pub n_kv_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Longest context of the checkpoint.
    pub max_context: usize,
    /// Epsilon of the RMS norms.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Extension of the context, if any.
    pub rope_scaling: Option<RopeScaling>,
    /// Layout of query and key rows.
    pub rope_order: RopeOrder,
    /// Nonlinearity of the MLP.
    pub hidden_act: HiddenAct,
    /// The head shares the embedding's weights.
    pub tied_head: bool,
    /// Bias on q, k, v (and o where the file has one).
    pub attention_bias: bool,
    /// Bias on gate, up, down.
    pub mlp_bias: bool,
    /// First token of a text, if the model wants one.
    pub bos_token: Option<u32>,
    /// Tokens that end a text.
    pub eos_tokens: Vec<u32>,
    /// Widths of each block where blocks differ from the fields above or from each other; empty when all are alike.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub block_shapes: Vec<BlockShape>,
}

/// Widths of one block. What was removed has width 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockShape {
    /// Query heads; 0 without attention.
    pub n_heads: usize,
    /// Key and value heads; divides `n_heads`.
    pub n_kv_heads: usize,
    /// Width of the MLP; 0 without one.
    pub intermediate_size: usize,
}

impl BlockShape {
    /// Whether attention and MLP are both gone.
    pub fn is_empty(self) -> bool {
        self.n_heads == 0 && self.intermediate_size == 0
    }

    /// (`out_features`, `in_features`) of a layer of this block; `None` where it is gone, or is in no block.
    pub fn layer_shape(self, config: &LlamaConfig, role: LayerRole) -> Option<[usize; 2]> {
        let (hidden, inner) = (config.hidden_size, self.intermediate_size);
        let (queries, keys) = (self.n_heads * config.head_dim, self.n_kv_heads * config.head_dim);
        let shape = match role {
            LayerRole::QProj => [queries, hidden],
            LayerRole::KProj | LayerRole::VProj => [keys, hidden],
            LayerRole::OProj => [hidden, queries],
            LayerRole::GateProj | LayerRole::UpProj => [inner, hidden],
            LayerRole::DownProj => [hidden, inner],
            LayerRole::Embedding | LayerRole::Head => return None,
        };
        shape.iter().all(|&len| len > 0).then_some(shape)
    }
}

impl LlamaConfig {
    /// Widths of `block`.
    pub fn block_shape(&self, block: usize) -> BlockShape {
        let alike = BlockShape {
            n_heads: self.n_heads,
            n_kv_heads: self.n_kv_heads,
            intermediate_size: self.intermediate_size,
        };
        self.block_shapes.get(block).copied().unwrap_or(alike)
    }

    /// This configuration with `shapes`: in the plain fields where all blocks are alike, a block each where they are not.
    #[must_use]
    pub fn with_block_shapes(&self, shapes: &[BlockShape]) -> Self {
        let mut config = Self { n_blocks: shapes.len(), block_shapes: Vec::new(), ..self.clone() };
        match shapes {
            [first, rest @ ..]
                if first.n_heads > 0 && first.intermediate_size > 0 && rest.iter().all(|x| x == first) =>
            {
                config.n_heads = first.n_heads;
                config.n_kv_heads = first.n_kv_heads;
                config.intermediate_size = first.intermediate_size;
            }
            _ => config.block_shapes = shapes.to_vec(),
        }
        config
    }
}
