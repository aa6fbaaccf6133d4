//! One made variant as one file: what the worker made and the exporter writes out.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::compress::{ActivationGrid, CompressError};
use crate::model::{LayerPath, LlamaConfig};
use crate::recipe::LayerSettings;

mod reader;
mod writer;

pub use reader::VariantFile;
pub use writer::VariantWriter;

const MAGIC: &[u8; 8] = b"TRIMVAR\n";
const FORMAT_VERSION: u32 = 1;
/// Magic, version, offset and length of the header, BLAKE3 of the header.
const PRELUDE_LEN: usize = 8 + 4 + 8 + 8 + 32;
/// The longest header that is believed: a million layers need less.
const MAX_HEADER_LEN: u64 = 256 << 20;

/// A layer of a variant, without its weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VariantLayer {
    /// Its module path.
    pub path: LayerPath,
    /// (`out_features`, `in_features`).
    pub shape: [usize; 2],
    /// What was asked for.
    pub settings: LayerSettings,
    /// How its product takes activations.
    pub activations: ActivationGrid,
    /// The first layer of the group that it shares a tensor with: all of its weights, or the factor `down`.
    pub shared_with: Option<LayerPath>,
}

/// A variant's file that cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum VariantError {
    /// The system refused.
    #[error("variant file: {source}: {}", path.display())]
    Io {
        /// What the system says.
        source: io::Error,
        /// The file.
        path: PathBuf,
    },
    /// The bytes are not a variant of this version.
    #[error("variant file: {what}: {}", path.display())]
    Damaged {
        /// What is wrong with them.
        what: String,
        /// The file.
        path: PathBuf,
    },
    /// A layer's bytes are whole, and no weights.
    #[error("variant file, layer {layer}: {source}: {}", path.display())]
    Layer {
        /// What is wrong with them.
        source: Box<CompressError>,
        /// The layer.
        layer: LayerPath,
        /// The file.
        path: PathBuf,
    },
}

/// Everything but the tensors; JSON at the end of the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Header {
    config: LlamaConfig,
    layers: Vec<StoredLayer>,
    /// By Hugging Face name.
    vectors: BTreeMap<String, Extent>,
    notes: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct StoredLayer {
    layer: VariantLayer,
    weights: StoredWeights,
    bias: Option<Extent>,
}

/// Where a layer's matrices lie; layers that share one have the same extent.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StoredWeights {
    Whole(Extent),
    LowRank(StoredFactors),
    Corrected { base: Extent, term: StoredFactors },
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct StoredFactors {
    rank: usize,
    up: Extent,
    down: Extent,
}

/// A run of bytes of the file and their BLAKE3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Extent {
    offset: u64,
    len: u64,
    hash: [u8; 32],
}

#[cfg(test)]
#[path = "variant_tests.rs"]
mod tests;
