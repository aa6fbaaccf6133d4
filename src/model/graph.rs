//! The graph of linear layers.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::model::{LlamaConfig, SparseValues, StoredFormat, StoredSparse};

/// The module path of a layer as the checkpoint's Hugging Face layout names it, without `.weight`:
/// `model.layers.3.mlp.down_proj`. The key of a layer on disk and between processes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LayerPath(pub String);

impl LayerPath {
    /// The text of the path.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LayerPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<&str> for LayerPath {
    fn from(path: &str) -> Self {
        Self(path.to_owned())
    }
}

/// What a linear layer does in its block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names are Hugging Face's module names")]
pub enum LayerRole {
    #[serde(alias = "embed_tokens")]
    Embedding,
    QProj,
    KProj,
    VProj,
    OProj,
    GateProj,
    UpProj,
    DownProj,
    #[serde(alias = "lm_head")]
    Head,
}

impl LayerRole {
    /// Every role, in the order of execution.
    pub const ALL: [Self; 9] = [
        Self::Embedding,
        Self::QProj,
        Self::KProj,
        Self::VProj,
        Self::OProj,
        Self::GateProj,
        Self::UpProj,
        Self::DownProj,
        Self::Head,
    ];

    /// The name in recipes: `down_proj`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Embedding => "embedding",
            Self::QProj => "q_proj",
            Self::KProj => "k_proj",
            Self::VProj => "v_proj",
            Self::OProj => "o_proj",
            Self::GateProj => "gate_proj",
            Self::UpProj => "up_proj",
            Self::DownProj => "down_proj",
            Self::Head => "head",
        }
    }
}

/// A linear layer (or the embedding, which is one read by rows).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// Its key.
    pub path: LayerPath,
    /// Its block, counted from 0; `None` for embedding and head.
    pub block: Option<u16>,
    /// What it does.
    pub role: LayerRole,
    /// (`out_features`, `in_features`).
    pub shape: [usize; 2],
    /// How its weights lie in the file; of sparse ones the dense format that holds the same numbers.
    pub stored: StoredFormat,
    /// Elements of its bias; 0 without one.
    pub bias_len: usize,
    /// Rank of the two thin factors, `up` and `down`, that the file has in the place of the weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rank: Option<usize>,
    /// Values, and a bit for each weight, that the file has in the place of the weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sparse: Option<StoredSparse>,
    /// The layer whose tensor in the file it reads: all of its weights, or of thin factors their `down`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared_with: Option<LayerPath>,
}

impl Layer {
    /// Weights in the file without bias, zeros that are left out included; what it shares counts with the other layer.
    pub fn n_weights(&self) -> u64 {
        self.own_matrices().map(|[rows, row_len]| rows as u64 * row_len as u64).sum()
    }

    /// Names and shapes of the tensors in the file that hold its weights: one matrix, the factors `up` and `down`, or the
    /// parts of a sparse matrix.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let [rows, row_len] = self.shape;
        match (self.rank, self.sparse) {
            (Some(rank), _) => vec![
                (format!("{}.up.weight", self.path), vec![rows, rank]),
                (format!("{}.down.weight", self.path), vec![rank, row_len]),
            ],
            (None, Some(sparse)) => self.sparse_tensors(sparse),
            (None, None) => vec![(format!("{}.weight", self.path), vec![rows, row_len])],
        }
    }

    /// Bits, beginnings of rows, values, and scales where there are some; of the layer that owns them.
    fn sparse_tensors(&self, StoredSparse { values, n_values }: StoredSparse) -> Vec<(String, Vec<usize>)> {
        let [rows, row_len] = self.shape;
        let owner = self.shared_with.as_ref().unwrap_or(&self.path);
        let mut tensors = vec![
            (format!("{owner}.weight.bitmask"), vec![rows, row_len.div_ceil(8)]),
            (format!("{owner}.weight.row_starts"), vec![rows]),
            (format!("{owner}.weight.values"), vec![usize::try_from(n_values).unwrap_or(usize::MAX)]),
        ];
        if values == SparseValues::Int8 {
            tensors.push((format!("{owner}.weight.scales"), vec![rows]));
        }
        tensors
    }

    /// The name that tables use for how its weights lie in the file: `f16`, `q4_0`, `sparse int8`.
    pub fn stored_name(&self) -> &'static str {
        self.sparse.map_or(self.stored.name(), |sparse| sparse.values.name())
    }

    /// Shapes of the matrices that no other layer has in the file.
    fn own_matrices(&self) -> impl Iterator<Item = [usize; 2]> {
        let [rows, row_len] = self.shape;
        let is_shared = self.shared_with.is_some();
        let of_factors = self.rank.map(|rank| [Some([rows, rank]), (!is_shared).then_some([rank, row_len])]);
        of_factors.unwrap_or([(!is_shared).then_some(self.shape), None]).into_iter().flatten()
    }

    /// The last component of the path: `down_proj`.
    pub fn short_name(&self) -> &str {
        self.path.0.rsplit('.').next().unwrap_or(&self.path.0)
    }
}

/// Identity of a model's contents: the first 16 bytes of BLAKE3 over configuration, manifest and tensor bytes, in hex.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fingerprint(pub String);

/// A family and its configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelFamily {
    /// `LlamaForCausalLM` and those that share its forward pass (Mistral without sliding window, `SmolLM2`, `TinyLlama`).
    Llama(LlamaConfig),
}

impl ModelFamily {
    /// Short name for people.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Llama(_) => "Llama",
        }
    }

    /// Number of blocks.
    pub fn n_blocks(&self) -> usize {
        match self {
            Self::Llama(config) => config.n_blocks,
        }
    }

    /// Longest context, in tokens.
    pub fn max_context(&self) -> usize {
        match self {
            Self::Llama(config) => config.max_context,
        }
    }
}

/// The linear layers of one checkpoint, in the order of execution.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelGraph {
    /// Name for people, from the file or folder.
    pub name: String,
    /// Identity of the contents.
    pub fingerprint: Fingerprint,
    /// Family and configuration.
    pub family: ModelFamily,
    /// Embedding, then the layers of each block, then the head. A tied head is not listed: its weights are the embedding's.
    pub layers: Vec<Layer>,
    /// Bytes in the file of everything that is not in `layers` (norms, biases, rotary tables).
    pub other_bytes: u64,
    /// Elements behind `other_bytes`.
    pub other_weights: u64,
}

impl ModelGraph {
    /// The layer with this path.
    pub fn layer(&self, path: &LayerPath) -> Option<&Layer> {
        self.layers.iter().find(|layer| &layer.path == path)
    }

    /// Parameters of the whole model; tied weights count once.
    pub fn n_parameters(&self) -> u64 {
        self.layers.iter().map(Layer::n_weights).sum::<u64>() + self.other_weights
    }

    /// Bytes of the tensors as stored.
    pub fn stored_bytes(&self) -> u64 {
        let layers: u64 = self.layers.iter().map(stored_layer_bytes).sum();
        layers + self.other_bytes
    }
}

/// Bytes of a layer's own weights in its file. The reader has checked that rows are whole blocks.
pub(crate) fn stored_layer_bytes(layer: &Layer) -> u64 {
    if let Some(StoredSparse { values, n_values }) = layer.sparse {
        return if layer.shared_with.is_some() { 0 } else { values.matrix_bytes(layer.shape, n_values) };
    }
    let bytes = |[rows, row_len]: [usize; 2]| {
        let bytes = layer.stored.tensor_bytes(rows as u128, row_len as u128);
        bytes.and_then(|bytes| u64::try_from(bytes).ok()).expect("a listed layer was checked against its file")
    };
    layer.own_matrices().map(bytes).sum()
}
