//! Files and the manifest and tensors in them: Hugging Face folders with safetensors, and GGUF.
//!
//! Imports `model` and `units`. Our own header readers make a manifest; tensor bytes are read by position from that
//! manifest. No file reader of another library is called on a model's files, and nothing is mapped into memory.
//!
//! **Invariants.** Every size in a file is checked in one function, in 128 bits, against the length of the file before
//! anything is allocated. Nothing is dropped silently: tensors that can be read plus tensors refused are those in the files.
//! Opening reads headers and samples only, never writes, and never leaves the folder that the user chose (links of a
//! model cache into its own `blobs` folder are followed; hard links are files like any other).

mod bounds;
mod config;
mod error;
mod extent;
mod file;
mod fingerprint;
mod folder;
pub(crate) mod gguf;
mod limits;
mod manifest;
mod open;
pub(crate) mod own;
mod random;
mod safetensors;
mod shape;
mod sparse;
pub(crate) mod tokenizer;

use std::collections::BTreeMap;
use std::path::Path;

use half::slice::HalfFloatSliceExt as _;
use half::{bf16, f16};
use tokenizers::Tokenizer;

use crate::model::{LlamaConfig, ModelFamily, ModelGraph, ModelSource, StoredFormat};

pub use error::CheckpointError;
pub(crate) use file::SourceFile;
pub use open::{detect, open};
pub use shape::{Shape, shapes};
pub use sparse::SparseTensors;
pub(crate) use sparse::{PartEntry, PartType};

use crate::checkpoint::gguf::Metadata;
use crate::checkpoint::manifest::{Names, ROPE_FACTORS};
use crate::checkpoint::sparse::Parts;

/// A tensor that can be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorEntry {
    /// Its name in the file.
    pub name: String,
    /// How its elements lie.
    pub format: StoredFormat,
    /// Rows first; the last entry is the length of a row.
    pub shape: Vec<usize>,
    /// The file, by its position among the model's files.
    pub file: usize,
    /// Its first byte in that file.
    pub offset: u64,
    /// Its bytes.
    pub len: u64,
}

/// A tensor that is in the files and cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedTensor {
    /// Its name in the file.
    pub name: String,
    /// Why.
    pub reason: String,
    /// The Hugging Face name where the family knows the tensor, its own otherwise.
    canonical: String,
    /// What it could be beside other tensors.
    part: Option<PartEntry>,
}

/// A tensor as a header describes it, before anything is known of the family.
struct RawTensor {
    name: String,
    /// Format and shape, or why there is none.
    format: Result<(StoredFormat, Vec<usize>), String>,
    /// What it could be beside other tensors, if it has no format.
    part: Option<(PartType, Vec<usize>)>,
    offset: u64,
    len: u64,
}

/// An open model: its graph, and its files ready to be read. Holds the files open, no tensor.
#[derive(Debug)]
pub struct Checkpoint {
    source: ModelSource,
    graph: ModelGraph,
    files: Vec<SourceFile>,
    entries: Vec<TensorEntry>,
    names: Names,
    parts: Parts,
    refused: Vec<RefusedTensor>,
    rope_factors: Option<Vec<f32>>,
    words: Words,
}

/// Where the tokenizer comes from.
#[derive(Debug)]
enum Words {
    /// The files of a Hugging Face folder.
    Folder(Box<folder::Texts>),
    /// The metadata of a GGUF file.
    Gguf(Metadata),
    /// A shape has none.
    None,
}

impl Checkpoint {
    /// Where the model lies.
    pub fn source(&self) -> &ModelSource {
        &self.source
    }

    /// The linear layers.
    pub fn graph(&self) -> &ModelGraph {
        &self.graph
    }

    /// The configuration of the family.
    pub fn config(&self) -> &LlamaConfig {
        let ModelFamily::Llama(config) = &self.graph.family;
        config
    }

    /// The tensors that can be read, in the order of the files; also those that the family does not use.
    pub fn entries(&self) -> &[TensorEntry] {
        &self.entries
    }

    /// How many tensors can be read: [`Self::entries`] and the parts of layers whose zeros are left out.
    pub fn n_readable(&self) -> usize {
        self.entries.len() + self.parts.len()
    }

    /// The tensors that cannot be used; none of them is needed.
    pub fn refused(&self) -> &[RefusedTensor] {
        &self.refused
    }

    /// The tensor with this Hugging Face name, whatever the layout of the files:
    /// `model.layers.0.mlp.down_proj.weight`, `model.norm.weight`, `lm_head.weight`.
    ///
    /// Rows of query and key tensors have the order that the configuration's `rope_order` says.
    pub fn entry(&self, canonical: &str) -> Option<&TensorEntry> {
        self.names.get(canonical).map(|&index| &self.entries[index])
    }

    /// Whether the family uses a tensor.
    pub fn is_used(&self, entry: &TensorEntry) -> bool {
        let needed = |name: &str| self.entry(name).is_some_and(|found| found == entry);
        let config = self.config();
        let of_layer = |layer: &crate::model::Layer| {
            layer.tensors().iter().any(|(name, _)| needed(name))
                || layer.bias_len > 0 && needed(&format!("{}.bias", layer.path))
        };
        let of_block = |block: usize| {
            ["input_layernorm", "post_attention_layernorm"]
                .iter()
                .any(|norm| needed(&format!("model.layers.{block}.{norm}.weight")))
        };
        needed("model.norm.weight")
            || needed(ROPE_FACTORS)
            || self.graph.layers.iter().any(of_layer)
            || (0..config.n_blocks).any(of_block)
    }

    /// The bytes of a tensor as they lie in its file.
    ///
    /// # Errors
    /// [`CheckpointError::Changed`] if the file is no longer the one that was opened; [`CheckpointError::Io`] if the
    /// system cannot read it.
    pub fn read(&self, entry: &TensorEntry) -> Result<Vec<u8>, CheckpointError> {
        self.files[entry.file].read(entry.offset, entry.len)
    }

    /// Bytes of a tensor from its byte `begin` on, into memory of the caller's.
    ///
    /// # Errors
    /// As [`Self::read`]; [`CheckpointError::Tensor`] for bytes that are not the tensor's.
    pub(crate) fn read_into(&self, entry: &TensorEntry, begin: u64, bytes: &mut [u8]) -> Result<(), CheckpointError> {
        let file = &self.files[entry.file];
        if begin.checked_add(bytes.len() as u64).is_none_or(|end| end > entry.len) {
            let reason = format!("{} bytes from byte {begin} on are not within it", bytes.len());
            return Err(file.tensor(&entry.name, entry.offset, reason));
        }
        file.read_into(entry.offset + begin, bytes)
    }

    /// The elements of a dense tensor, widened exactly to f32; `None` when there is no such tensor.
    ///
    /// # Errors
    /// As [`Self::read`]; [`CheckpointError::Tensor`] for a tensor in a GGML block format.
    pub fn read_f32(&self, canonical: &str) -> Result<Option<Vec<f32>>, CheckpointError> {
        let Some(entry) = self.entry(canonical) else { return Ok(None) };
        let widened = widen(entry.format, &self.read(entry)?);
        widened.map(Some).ok_or_else(|| {
            let reason = format!("{} is not a dense format", entry.format.name());
            self.files[entry.file].tensor(&entry.name, entry.offset, reason)
        })
    }

    /// Divisors of the rotary frequencies (`head_dim` / 2) that a GGUF file has for Llama 3.1, if any.
    pub fn rope_factors(&self) -> Option<&[f32]> {
        self.rope_factors.as_deref()
    }

    /// The tokenizer: `tokenizer.json` of a folder, or one that is built from the metadata of a GGUF file.
    ///
    /// # Errors
    /// [`CheckpointError::Tokenizer`] when there is none, or when it is damaged or of a kind that is not supported.
    pub fn tokenizer(&self) -> Result<Tokenizer, CheckpointError> {
        tokenizer::from_json(&self.tokenizer_json()?, self.source.path())
    }

    /// The ids of `text`, after the first token that the model wants, if it wants one.
    ///
    /// # Errors
    /// [`CheckpointError::Tokenizer`] when the text cannot be encoded.
    pub fn encode(&self, tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>, CheckpointError> {
        let encoding = tokenizer.encode_fast(text, false).map_err(|error| CheckpointError::Tokenizer {
            reason: format!("encode a text: {error}"),
            path: self.source.path().to_owned(),
        })?;
        Ok(self.config().bos_token.into_iter().chain(encoding.get_ids().iter().copied()).collect())
    }

    /// The text of the tokenizer in the form of `tokenizer.json`.
    pub(crate) fn tokenizer_json(&self) -> Result<Vec<u8>, CheckpointError> {
        match &self.words {
            Words::Folder(texts) => match &texts.tokenizer {
                Some(file) => file.read_all(&limits::TOKENIZER),
                None => Err(CheckpointError::Tokenizer {
                    reason: "the folder has no tokenizer.json".to_owned(),
                    path: self.source.path().to_owned(),
                }),
            },
            Words::Gguf(metadata) => tokenizer::json_from_gguf(metadata)
                .map_err(|reason| CheckpointError::Tokenizer { reason, path: self.source.path().to_owned() }),
            Words::None => Err(CheckpointError::Tokenizer {
                reason: "a shape has no tokenizer: only speed and memory can be measured".to_owned(),
                path: self.source.path().to_owned(),
            }),
        }
    }

    /// The files beside the weights of a Hugging Face folder.
    pub(crate) fn texts(&self) -> Option<&folder::Texts> {
        match &self.words {
            Words::Folder(texts) => Some(texts),
            Words::Gguf(_) | Words::None => None,
        }
    }

    /// The metadata of a GGUF file.
    pub(crate) fn metadata(&self) -> Option<&Metadata> {
        match &self.words {
            Words::Folder(_) | Words::None => None,
            Words::Gguf(metadata) => Some(metadata),
        }
    }

    /// Fails when a file is no longer what it was when it was opened.
    ///
    /// # Errors
    /// [`CheckpointError::Changed`] with its path.
    pub(crate) fn check_unchanged(&self) -> Result<(), CheckpointError> {
        self.files.iter().try_for_each(SourceFile::check_unchanged)
    }

    /// The open files of the model's weights.
    pub(crate) fn files(&self) -> &[SourceFile] {
        &self.files
    }
}

/// Offset and length of tensors by their names.
pub(crate) type TensorPlaces = BTreeMap<String, (u64, u64)>;

/// A safetensors file, and where every tensor in it lies, whatever its dtype: for who reads back what it wrote.
pub(crate) fn tensor_places(path: &Path) -> Result<(SourceFile, TensorPlaces), CheckpointError> {
    let file = SourceFile::open(path)?;
    let place = |tensor: RawTensor| (tensor.name, (tensor.offset, tensor.len));
    let places = safetensors::read_header(&file)?.into_iter().map(place).collect();
    Ok((file, places))
}

/// [`widen`] into memory of the caller's, of as many elements; says whether the format is a dense one.
pub(crate) fn widen_into(format: StoredFormat, bytes: &[u8], values: &mut [f32]) -> bool {
    /// Elements that are converted with one look at the processor's abilities.
    const PIECE: usize = 256;
    let (pairs, pieces) = (bytes.as_chunks::<2>().0.chunks(PIECE), values.chunks_mut(PIECE));
    match format {
        StoredFormat::F32 => {
            values
                .iter_mut()
                .zip(bytes.as_chunks::<4>().0)
                .for_each(|(value, four)| *value = f32::from_le_bytes(*four));
        }
        StoredFormat::F16 => pieces.zip(pairs).for_each(|(values, pairs)| {
            let mut halves = [f16::ZERO; PIECE];
            halves.iter_mut().zip(pairs).for_each(|(half, pair)| *half = f16::from_le_bytes(*pair));
            halves[..values.len()].convert_to_f32_slice(values);
        }),
        StoredFormat::Bf16 => pieces.zip(pairs).for_each(|(values, pairs)| {
            values.iter_mut().zip(pairs).for_each(|(value, pair)| *value = bf16::from_le_bytes(*pair).to_f32());
        }),
        StoredFormat::Ggml(_) => return false,
    }
    true
}

/// Little-endian dense elements as f32; `None` for a GGML block format.
pub(crate) fn widen(format: StoredFormat, bytes: &[u8]) -> Option<Vec<f32>> {
    let mut values = vec![0.0; bytes.len() / format.block_bytes()];
    widen_into(format, bytes, &mut values).then_some(values)
}
