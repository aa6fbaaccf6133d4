//! The chosen variant as a model file, and the study as report and tables.
//!
//! May import `compress`, `checkpoint`, `study`, `recipe`, `model` and `units`.
//!
//! **Invariants.** A target is complete and verified, or absent: everything is written to a hidden sibling, flushed, read
//! back with our own reader and renamed. The source is known by its identity, not by its path, and never written to. The
//! bytes of a layer come from [`crate::compress::compress`] alone, so a file holds what was measured.

mod atomic;
mod error;
pub mod gguf;
mod gguf_metadata;
mod hf_config;
pub mod report;
mod rows;
pub mod safetensors;
pub mod tables;
mod tensors;

use std::ops::ControlFlow;
use std::path::PathBuf;

pub use error::ExportError;

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
