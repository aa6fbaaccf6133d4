//! Why a model cannot be exported.

use std::io;
use std::path::PathBuf;

use crate::cache::VariantError;
use crate::checkpoint::CheckpointError;
use crate::compress::CompressError;
use crate::units;

/// Why a model cannot be exported. Nothing is left behind in any case.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The source cannot be read, or the copy cannot be read back.
    #[error("export the model: {0}")]
    Checkpoint(#[from] CheckpointError),
    /// What the worker made cannot be read.
    #[error("export the model: {0}")]
    Variant(#[source] Box<VariantError>),
    /// A layer cannot be made.
    #[error("export layer {layer}: {source}")]
    Compress {
        /// Its path.
        layer: String,
        /// Why.
        source: CompressError,
    },
    /// The layout has no word for something in the model or recipe.
    #[error("export the model: {0}")]
    Unsupported(String),
    /// The target is the source or a part of it, lies inside it, holds it, or leads to it.
    #[error("export to {path:?}: it belongs to the model that is being exported; choose another place")]
    OverSource {
        /// The target.
        path: PathBuf,
    },
    /// The target cannot be taken.
    #[error("export to {path:?}: {reason}")]
    Target {
        /// Why.
        reason: String,
        /// The target.
        path: PathBuf,
    },
    /// Not enough room.
    #[error("export to {path:?}: needs {}, {} are free", units::bytes(*need), units::bytes(*free))]
    Space {
        /// Bytes needed, reserve included.
        need: u64,
        /// Bytes free.
        free: u64,
        /// The target.
        path: PathBuf,
    },
    /// The system refused.
    #[error("{action} {path:?}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The system's word.
        source: io::Error,
        /// The file or folder.
        path: PathBuf,
    },
    /// What was read back is not what was written.
    #[error("read back {what:?} of {path:?}: not what was written")]
    Verify {
        /// The tensor or file.
        what: String,
        /// The unfinished copy.
        path: PathBuf,
    },
    /// The caller broke it off.
    #[error("export cancelled")]
    Cancelled,
}

impl From<VariantError> for ExportError {
    fn from(error: VariantError) -> Self {
        Self::Variant(Box::new(error))
    }
}
