//! Why a model cannot be opened or read.

use std::io;
use std::path::PathBuf;

use crate::checkpoint::RefusedTensor;

/// Why a model cannot be opened or read. Every variant names the file, and where in it the cause lies.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
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
    /// Neither a Hugging Face folder nor a GGUF file.
    #[error("open {path:?}: {reason}")]
    NotAModel {
        /// What was found instead.
        reason: String,
        /// The file or folder.
        path: PathBuf,
    },
    /// A header field is damaged, hostile or over a limit.
    #[error("read {field} at byte {offset} of {path:?}: {reason}")]
    Header {
        /// The field.
        field: String,
        /// Where in the file.
        offset: u64,
        /// What is wrong with it.
        reason: String,
        /// The file.
        path: PathBuf,
    },
    /// A tensor's entry contradicts its file.
    #[error("read tensor {tensor:?} at byte {offset} of {path:?}: {reason}")]
    Tensor {
        /// The tensor.
        tensor: String,
        /// Where in the file its entry or its data lies.
        offset: u64,
        /// What is wrong with it.
        reason: String,
        /// The file.
        path: PathBuf,
    },
    /// The configuration is absent, absurd or of a kind that is not supported.
    #[error("read {field:?} of {path:?}: {reason}")]
    Config {
        /// The key.
        field: String,
        /// What is wrong with it.
        reason: String,
        /// The file.
        path: PathBuf,
    },
    /// A shape is not the one that the configuration asks for.
    #[error("tensor {tensor:?} of {path:?} has shape {found:?}, the configuration asks for {expected:?}")]
    Shape {
        /// The tensor.
        tensor: String,
        /// By the configuration, rows first.
        expected: Vec<usize>,
        /// In the file, rows first.
        found: Vec<usize>,
        /// The file or folder.
        path: PathBuf,
    },
    /// Tensors that the model needs are not in its files.
    #[error("{path:?} lacks {} that the configuration asks for: {}", tensor_count(names.len()), listed(names))]
    Missing {
        /// Their names.
        names: Vec<String>,
        /// The file or folder.
        path: PathBuf,
    },
    /// Tensors that the model needs cannot be used.
    #[error("{path:?} has {} that cannot be used: {}", tensor_count(tensors.len()), listed_refusals(tensors))]
    NeededRefused {
        /// Each with its reason.
        tensors: Vec<RefusedTensor>,
        /// The file or folder.
        path: PathBuf,
    },
    /// The file is not the one that was opened.
    #[error("file changed while being read: {path:?}; open the model again")]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// The tokenizer is absent, damaged or of a kind that is not supported.
    #[error("read the tokenizer of {path:?}: {reason}")]
    Tokenizer {
        /// What is wrong with it.
        reason: String,
        /// The file or folder.
        path: PathBuf,
    },
}

fn tensor_count(n: usize) -> String {
    if n == 1 { "1 tensor".to_owned() } else { format!("{n} tensors") }
}

fn listed(names: &[String]) -> String {
    const SHOWN: usize = 12;
    let mut text = names.iter().take(SHOWN).map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        text.push_str(", …");
    }
    text
}

fn listed_refusals(tensors: &[RefusedTensor]) -> String {
    listed(&tensors.iter().map(|tensor| format!("{}: {}", tensor.name, tensor.reason)).collect::<Vec<_>>())
}
