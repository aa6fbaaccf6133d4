//! Opens a device, builds variants of a model on it, generates text and times it. Runs in worker processes only.
//!
//! May import `nn`, `compress`, `checkpoint`, `recipe`, `model`, `device` and `units`.
//!
//! **Invariants.** Only `device.rs` opens a device. The reference's layers are loaded once; a variant shares every layer
//! whose settings did not change with the reference or with the variants before it.

mod device;
mod generate;
mod layer_cache;
mod load;
mod store;
mod timing;

pub use generate::{Sampling, generate};
pub use store::{ModelStore, Variant};
pub use timing::{Repetition, repetition, token_trace};

use crate::checkpoint::CheckpointError;
use crate::compress::CompressError;
use crate::model::LayerPath;
use crate::nn::NnError;

/// Work on a device that failed.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The checkpoint cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A layer cannot be compressed.
    #[error("{layer}: {source}")]
    Compress {
        /// The reason.
        source: CompressError,
        /// The layer.
        layer: LayerPath,
    },
    /// The forward pass failed.
    #[error(transparent)]
    Nn(#[from] NnError),
    /// candle refused.
    #[error("compute: {0}")]
    Candle(#[from] candle_core::Error),
    /// The device does not exist in this build.
    #[error("open {device}: {reason}")]
    Device {
        /// The device's label.
        device: String,
        /// Why not.
        reason: &'static str,
    },
    /// Logits are infinite or not a number.
    #[error("{what} is not finite")]
    NonFinite {
        /// Which number.
        what: String,
    },
    /// The user asked to stop.
    #[error("cancelled")]
    Cancelled,
}
