//! From a path to an open checkpoint.

use std::fs::OpenOptions;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::OFlags;

use crate::checkpoint::file::{Folder, SourceFile};
use crate::checkpoint::fingerprint::fingerprint;
use crate::checkpoint::manifest::{Found, Names, ROPE_FACTORS};
use crate::checkpoint::own::OwnLayout;
use crate::checkpoint::sparse::claim;
use crate::checkpoint::{
    Checkpoint, CheckpointError, PartEntry, RawTensor, RefusedTensor, TensorEntry, Words, config, folder, gguf, limits,
    shape, tokenizer,
};
use crate::model::{LlamaConfig, ModelSource};

/// Tells what lies at `path`: a folder with a `config.json`, a `config.json` or safetensors file inside one, or a GGUF
/// file, which is known by its first bytes whatever its name is.
///
/// # Errors
/// [`CheckpointError::NotAModel`] with what was found instead; [`CheckpointError::Io`] when the path cannot be looked at.
pub fn detect(path: &Path) -> Result<ModelSource, CheckpointError> {
    let io_error = |source| CheckpointError::Io { action: "open", source, path: path.to_owned() };
    let refuse = |reason: &str| Err(CheckpointError::NotAModel { reason: reason.to_owned(), path: path.to_owned() });
    let meta = std::fs::metadata(path).map_err(io_error)?;
    if meta.is_dir() {
        if path.join("config.json").is_file() {
            return Ok(ModelSource::Safetensors { dir: path.to_owned() });
        }
        return refuse("a folder without config.json");
    }
    if !meta.is_file() {
        return refuse("neither a folder nor a regular file");
    }
    if meta.len() == 0 {
        return refuse("an empty file");
    }
    let mut magic = Vec::new();
    let file = OpenOptions::new().read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(path);
    file.map_err(io_error)?.take(4).read_to_end(&mut magic).map_err(io_error)?;
    if magic == gguf::MAGIC {
        return Ok(ModelSource::Gguf { file: path.to_owned() });
    }
    if let Some(dir) = folder::folder_of(path) {
        if dir.join("config.json").is_file() {
            return Ok(ModelSource::Safetensors { dir: dir.to_owned() });
        }
        return refuse("there is no config.json beside it");
    }
    if magic.starts_with(b"PK") || magic.starts_with(&[0x80]) {
        return refuse("a PyTorch pickle, which can carry code; convert it to safetensors");
    }
    if magic.starts_with(b"GG") {
        return refuse("the beginning of a GGUF file is damaged");
    }
    refuse("not a Hugging Face folder, safetensors or GGUF file")
}

/// Opens a model: reads headers, checks every tensor against the configuration, builds the graph. Reads no whole tensor.
///
/// # Errors
/// [`CheckpointError`] with the file, the field or tensor, and the reason.
pub fn open(source: &ModelSource) -> Result<Checkpoint, CheckpointError> {
    match source {
        ModelSource::Safetensors { dir } => open_folder(source, dir),
        ModelSource::Gguf { file } => open_gguf(source, file),
        ModelSource::Shape { config } => open_shape(source, config),
    }
}

fn open_shape(source: &ModelSource, path: &Path) -> Result<Checkpoint, CheckpointError> {
    let (config, own, weights, tensors) = shape::read(path)?;
    let file = SourceFile::random(weights, path);
    let tensors = tensors.into_iter().map(|tensor| (0, tensor)).collect();
    finish(source, (config, own), vec![file], sort(tensors, |name| Some(name.to_owned())), Words::None)
}

fn open_folder(source: &ModelSource, dir: &Path) -> Result<Checkpoint, CheckpointError> {
    let folder = Folder::open(dir)?;
    let texts = folder::open_texts(&folder)?;
    let read = |file: &Option<SourceFile>, limit: &limits::Limit| match file {
        Some(file) if file.len() <= limit.max => file.read_all(limit).map(Some),
        _ => Ok(None),
    };
    let first_token = tokenizer::first_token(
        read(&texts.tokenizer, &limits::TOKENIZER)?.as_deref(),
        read(&texts.tokenizer_config, &limits::JSON)?.as_deref(),
    );
    let (config, own) = config::llama_config(&texts.config.read_all(&limits::JSON)?, texts.config.path(), first_token)?;
    let (files, tensors) = folder::open_weights(&folder)?;
    let sorted = sort(tensors, |name| Some(name.to_owned()));
    finish(source, (config, own), files, sorted, Words::Folder(Box::new(texts)))
}

fn open_gguf(source: &ModelSource, path: &Path) -> Result<Checkpoint, CheckpointError> {
    let file = SourceFile::open(path)?;
    let (metadata, tensors) = gguf::read_header(&file)?;
    let has = |name: &str| tensors.iter().any(|tensor| tensor.name == name);
    let embedding = tensors.iter().find(|tensor| tensor.name == "token_embd.weight");
    let shape = embedding.and_then(|tensor| tensor.format.as_ref().ok()).map(|(_, shape)| shape.as_slice());
    let Some(&[vocab_rows, _]) = shape else {
        let reason = match embedding.map(|tensor| &tensor.format) {
            None => "absent".to_owned(),
            Some(Err(reason)) => reason.clone(),
            Some(Ok((_, shape))) => format!("shape {shape:?} has not two dimensions"),
        };
        return Err(file.tensor("token_embd.weight", embedding.map_or(0, |tensor| tensor.offset), reason));
    };
    let config = gguf::llama_config(&file, &metadata, &has, vocab_rows)?;
    let tensors = tensors.into_iter().map(|tensor| (0, tensor)).collect();
    let sorted = sort(tensors, |name| match name {
        ROPE_FACTORS => Some(name.to_owned()),
        _ => gguf::canonical_name(name),
    });
    finish(source, (config, OwnLayout::default()), vec![file], sorted, Words::Gguf(metadata))
}

/// Tensors that can be used, their names, and the others.
type Sorted = (Vec<TensorEntry>, Names, Vec<RefusedTensor>);

fn sort(tensors: Vec<(usize, RawTensor)>, canonical: impl Fn(&str) -> Option<String>) -> Sorted {
    let (mut entries, mut names, mut refused) = (Vec::new(), Names::new(), Vec::new());
    for (file, RawTensor { name, format, part, offset, len }) in tensors {
        match format {
            Ok((format, shape)) => {
                names.extend(canonical(&name).map(|canonical| (canonical, entries.len())));
                entries.push(TensorEntry { name, format, shape, file, offset, len });
            }
            Err(reason) => {
                let canonical = canonical(&name).unwrap_or_else(|| name.clone());
                let part = part.map(|(kind, shape)| PartEntry { kind, shape, file, offset, len });
                refused.push(RefusedTensor { name, reason, canonical, part });
            }
        }
    }
    (entries, names, refused)
}

fn finish(
    source: &ModelSource,
    (config, own): (LlamaConfig, OwnLayout),
    files: Vec<SourceFile>,
    (entries, mut names, mut refused): Sorted,
    words: Words,
) -> Result<Checkpoint, CheckpointError> {
    let parts = claim(&own, &mut refused);
    let found = Found {
        name: source.name(),
        config,
        own: &own,
        entries: &entries,
        names: &mut names,
        parts: &parts,
        refused: &refused,
        path: source.path(),
    };
    let mut graph = found.into_graph()?;
    graph.fingerprint = fingerprint((&graph.family, &own), (&entries, &parts), &refused, &files)?;
    let mut checkpoint =
        Checkpoint { source: source.clone(), graph, files, entries, names, parts, refused, rope_factors: None, words };
    checkpoint.rope_factors = checkpoint.read_f32(ROPE_FACTORS)?;
    let bad = checkpoint.rope_factors.iter().flatten().find(|factor| !factor.is_finite() || **factor <= 0.0);
    if let (Some(factor), Some(entry)) = (bad, checkpoint.entry(ROPE_FACTORS)) {
        let reason = format!("{factor} cannot divide a frequency");
        return Err(checkpoint.files[entry.file].tensor(&entry.name, entry.offset, reason));
    }
    Ok(checkpoint)
}
