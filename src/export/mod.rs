//! The chosen variant as a model file, and the study as report and tables.
//!
//! May import `cache`, `compress`, `checkpoint`, `study`, `recipe`, `model` and `units`.
//!
//! **Invariants.** A target is complete and verified, or absent: everything is written to a hidden sibling, flushed, read
//! back with our own reader and renamed. The source is known by its identity, not by its path, and never written to. The
//! bytes of a layer are those of [`crate::compress::compress`], whether of whole layers or of bands of their rows, so a
//! file holds what was measured.

mod atomic;
mod bands;
pub mod compressed_tensors;
mod crew;
mod digest;
mod error;
mod expressible;
mod folder;
pub mod gguf;
mod gguf_metadata;
mod hf_config;
mod kind;
mod layers;
mod model;
pub mod profile;
pub mod report;
mod rows;
pub mod safetensors;
pub mod tables;
mod tensors;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

pub use error::ExportError;
pub use expressible::{Expressible, expressible, needs_worker, unsaid};

use crate::cache::VariantFile;
use crate::checkpoint::Checkpoint;
use crate::export::kind::Kind;
use crate::recipe::LayerSettings;

/// The layouts that models are written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelLayout {
    /// A Hugging Face folder of dense tensors: [`safetensors::write`].
    Safetensors,
    /// A Hugging Face folder whose quantized layers keep their codes: [`compressed_tensors::write`].
    CompressedTensors,
    /// One GGUF file: [`gguf::write`].
    Gguf,
}

/// What a model is written from.
#[derive(Debug, Clone, Copy)]
pub enum Weights<'a> {
    /// The checkpoint, with one setting a layer in the order of its graph; layers are compressed on the way. For settings
    /// that no worker is needed for: [`needs_worker`].
    Settings(&'a [LayerSettings]),
    /// What a worker made of the checkpoint.
    Variant(&'a VariantFile),
}

/// Fails when `target` cannot be taken by a model of `source` in `layout`: found before the work of making one.
///
/// # Errors
/// [`ExportError`] in the words of the export itself.
pub fn check_target(
    source: &Checkpoint,
    layout: ModelLayout,
    target: &Path,
    existing: Existing,
) -> Result<(), ExportError> {
    let kind = match layout {
        ModelLayout::Gguf => atomic::Kind::File,
        ModelLayout::Safetensors | ModelLayout::CompressedTensors => atomic::Kind::Folder(&folder::OWN_FILES),
    };
    atomic::Staging::create(target, kind, existing, source, 0).map(drop)
}

/// Called with bytes done and bytes in total; a break cancels the export and leaves nothing behind.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64) -> ControlFlow<()>;

/// What to do with a target that exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// Leave it and fail.
    Refuse,
    /// Put the new model in its place, when it is complete.
    Replace,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportSummary {
    /// The file or folder.
    pub path: PathBuf,
    /// Bytes of all its files.
    pub bytes: u64,
    /// What a reader should know: layers that are not smaller, tensors that were left out.
    pub notes: Vec<String>,
}
