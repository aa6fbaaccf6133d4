//! The configuration of the Llama family.

use serde::{Deserialize, Serialize};

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
}
