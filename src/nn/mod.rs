//! Forward passes over packed layers, one file per family.
//!
//! May import `kernels`, `compress`, `recipe`, `model` and `units`; tensors are candle's. No I/O.
//!
//! **Invariants.** A layer's product is reached through [`Linear`] alone: other kernels replace it without touching the
//! families. A forward pass can be entered at any block boundary, and every input of a linear layer can be observed.

mod attention;
mod block;
mod cache;
mod gradient;
mod inputs;
mod linear;
mod llama;
mod matrix;
mod pass;
mod probe;
mod rotary;
#[cfg(feature = "cuda")]
mod source;
#[cfg(test)]
pub(crate) mod toy;
mod work;

pub use attention::Attending;
pub use block::{Attention, Block, Mlp};
pub use cache::KvCache;
pub use gradient::{GateGradients, gate_gradients};
#[cfg(feature = "cuda")]
pub use linear::StoredParts;
pub use linear::{Linear, LinearParts, SharedFactors};
pub use llama::{Llama, LlamaParts, Observer};
pub use matrix::with_values;
pub use probe::{Mark, Probe};
pub use rotary::Rotary;
#[cfg(feature = "cuda")]
pub use source::{LinearSources, MatrixSource, StoredWeights, Weights, WeightsIdentity};
pub use work::{OfProduct, ProductWork, Work};

/// A forward pass that failed.
#[derive(Debug, thiserror::Error)]
pub enum NnError {
    /// candle refused.
    #[error("run the forward pass: {0}")]
    Candle(#[from] candle_core::Error),
    /// More tokens than the model's or cache's context.
    #[error("run the forward pass: {needed} tokens do not fit a context of {context}")]
    Context {
        /// Tokens in all.
        needed: usize,
        /// Tokens that fit.
        context: usize,
    },
    /// A token that the embedding does not have.
    #[error("run the forward pass: token {token} is not below the vocabulary of {vocab_size}")]
    Token {
        /// The token.
        token: u32,
        /// Rows of the embedding.
        vocab_size: usize,
    },
    /// Parts that do not fit each other.
    #[error("run the forward pass: {0}")]
    Shape(String),
    /// A part of the model is missing.
    #[error("build the model: {0} is missing")]
    Missing(String),
    /// Weights that are read when they are used cannot be read.
    #[error(transparent)]
    Stored(Box<dyn std::error::Error + Send + Sync>),
}
