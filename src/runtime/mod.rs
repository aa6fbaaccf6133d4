//! Opens a device, builds variants of a model on it, generates text and times it. Runs in worker processes only.
//!
//! May import `nn`, `cuda` (where that feature is on), `kernels`, `cache`, `compress`, `checkpoint`, `recipe`, `model`, `device` and `units`.
//!
//! A variant is made in this order: parts are removed from the dense model (`structure`), layers share tensors (`shared`),
//! fractions and ranks are spread over blocks (`allocate`), every result gets a key (`outline`, `keys`), and then block
//! after block is calibrated, scaled, compressed and run (`build`).
//!
//! **Invariants.** Only `device.rs` and `card.rs` open devices. The reference's layers are loaded once; a variant shares every layer
//! whose settings did not change with the reference or with the variants before it. A result that was kept, in memory or on
//! the disk, is bit for bit the one that would be made.

mod allocate;
mod build;
mod calibrate;
#[cfg_attr(not(feature = "cuda"), path = "no_card.rs")]
mod card;
mod choose;
mod database;
mod device;
mod generate;
mod keys;
mod layer_cache;
mod layers;
mod lists;
mod load;
mod made_file;
mod outline;
mod place;
mod scales;
mod shared;
mod store;
mod structure;
mod timing;
mod variant;
mod work;

pub use calibrate::CalibrationText;
pub use device::devices;
pub use generate::{Sampling, generate};
pub use place::{Place, Placed, Scorer, Steps, Timed};
pub use store::ModelStore;
pub use timing::{Repetition, repetition, token_trace};
pub use variant::Variant;
pub use work::{Calibrated, MadeLayer, Watch};

use crate::cache::VariantError;
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
    /// A card cannot be used, or failed.
    #[cfg(feature = "cuda")]
    #[error(transparent)]
    Cuda(crate::cuda::CudaError),
    /// The device does not exist in this build.
    #[error("open {device}: {reason}")]
    Device {
        /// The device's label.
        device: String,
        /// Why not.
        reason: &'static str,
    },
    /// The checkpoint itself has a weight that is infinite or not a number.
    #[error("{what} is not finite; the checkpoint is damaged, or overflowed when it was trained or saved")]
    BrokenWeight {
        /// Which one.
        what: String,
    },
    /// Logits are infinite or not a number.
    #[error("{what} is not finite")]
    NonFinite {
        /// Which number.
        what: String,
    },
    /// The variant's file cannot be written.
    #[error(transparent)]
    File(Box<VariantError>),
    /// Methods that read a calibration text without one.
    #[error("the recipe reads a calibration text; name one in its [calibration] data")]
    NoText,
    /// The user asked to stop.
    #[error("cancelled")]
    Cancelled,
}

impl From<VariantError> for RuntimeError {
    fn from(error: VariantError) -> Self {
        Self::File(Box::new(error))
    }
}
