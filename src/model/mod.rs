//! What a checkpoint contains: its family, its configuration and its linear layers with their roles.
//!
//! Pure vocabulary: no weights, no I/O, nothing here can touch a device. Imports `units` only.
//!
//! **Invariants.** A [`ModelGraph`] lists every linear layer once, in the order of execution; a layer is known to files
//! and processes by its [`LayerPath`], never by its index.

#[cfg(test)]
pub(crate) mod fixtures;
mod format;
mod graph;
mod llama;
mod operation;
mod source;
mod sparse;

pub use format::{GgmlType, StoredFormat};
pub(crate) use graph::stored_layer_bytes;
pub use graph::{Fingerprint, Layer, LayerPath, LayerRole, ModelFamily, ModelGraph};
pub use llama::{BlockShape, HiddenAct, LlamaConfig, RopeOrder, RopeScaling};
pub use operation::{Arithmetic, Operation, OperationGroup};
pub use source::ModelSource;
pub use sparse::{SparseValues, StoredSparse};
pub(crate) use sparse::{check_bits, row_starts};
