//! GGUF files: typed metadata, tensor entries, and the names and rules of the Llama architecture in them.

mod config;
mod cursor;
mod header;
mod names;
mod value;

pub(crate) use config::llama_config;
pub(crate) use header::MAGIC;
pub(super) use header::read_header;
pub(crate) use names::{canonical_name, gguf_name};
pub(crate) use value::{Array, Metadata, Value};
