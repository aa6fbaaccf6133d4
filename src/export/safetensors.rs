//! A Hugging Face folder: configuration, tokenizer files and `model.safetensors`.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::checkpoint::Checkpoint;
use crate::export::atomic::{Kind, Staging, io_error};
use crate::export::tensors::{Job, Layout, OutTensor, omissions, verify};
use crate::export::{Existing, ExportError, ExportSummary, Progress, hf_config};
use crate::model::{ModelSource, RopeOrder, StoredFormat};
use crate::recipe::{LayerSettings, WeightFormat};

const WEIGHTS: &str = "model.safetensors";

/// The files that an exported folder can have.
const OWN_FILES: [&str; 7] = [
    WEIGHTS,
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "generation_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
];

/// Writes the model with one setting a layer (in the order of the graph) as a folder at `out_dir`.
///
/// `dtype` is the dense format of all tensors; with `None` each keeps its own, or the dense one that its setting names.
/// The layout has no packed formats: packed and integer layers are written with the values that they stand for, in f32,
/// because f16 and bf16 would round them once more. A note says so, and that the folder is not smaller.
///
/// # Errors
/// [`ExportError`]; nothing is left behind then.
pub fn write(
    source: &Checkpoint,
    settings: &[LayerSettings],
    dtype: Option<StoredFormat>,
    out_dir: &Path,
    existing: Existing,
    progress: Progress<'_>,
) -> Result<ExportSummary, ExportError> {
    if let Some(StoredFormat::Ggml(ggml)) = dtype {
        let reason = format!("safetensors has no {}; choose f32, f16 or bf16, or export as GGUF", ggml.name());
        return Err(ExportError::Unsupported(reason));
    }
    let layout = Layout {
        name: &|canonical| Some(canonical.to_owned()),
        layer_format: &|settings, stored| dtype.unwrap_or_else(|| dense_format(settings, stored)),
        vector_format: &|stored| dtype.unwrap_or(stored),
    };
    let tensors = layout.tensors(source, settings)?;
    let main_format = main_format(&tensors);
    let mut texts = vec![("config.json", hf_config::config_json(source, main_format)?)];
    texts.extend(hf_config::companions(source)?);
    let header = header(&tensors);
    let data_len: u64 = tensors.iter().map(|tensor| tensor.len).sum();
    let texts_len: u64 = texts.iter().map(|(_, text)| text.len() as u64).sum();

    let need = data_len + texts_len + header.len() as u64;
    let staging = Staging::create(out_dir, Kind::Folder(&OWN_FILES), existing, source, need)?;
    for (name, text) in &texts {
        let path = staging.path().join(name);
        std::fs::write(&path, text).map_err(io_error("write", &path))?;
    }
    let path = staging.path().join(WEIGHTS);
    let mut out = BufWriter::new(File::create_new(&path).map_err(io_error("write", &path))?);
    out.write_all(&header).map_err(io_error("write", &path))?;
    let mut job = Job { source, settings, rope_order: RopeOrder::Halves, progress };
    let hashes = job.write(&mut out, &path, &tensors, 1)?;
    out.flush().map_err(io_error("write", &path))?;
    drop(out);
    staging.sync()?;
    verify(&ModelSource::Safetensors { dir: staging.path().to_owned() }, &tensors, &hashes)?;
    let mut notes = dequantized(source, settings, dtype);
    notes.extend(omissions(source));
    let (path, bytes) = staging.publish()?;
    Ok(ExportSummary { path, bytes, notes })
}

fn dense_format(settings: &LayerSettings, stored: StoredFormat) -> StoredFormat {
    match (settings.weights, stored) {
        (WeightFormat::F32, _) => StoredFormat::F32,
        (WeightFormat::Bf16, _) => StoredFormat::Bf16,
        (WeightFormat::F16, _) => StoredFormat::F16,
        _ if is_packed(settings, stored) => StoredFormat::F32,
        (_, dense) => dense,
    }
}

/// Whether the layer's values are those of a packed format.
fn is_packed(settings: &LayerSettings, stored: StoredFormat) -> bool {
    let kept = settings.weights == WeightFormat::Native && matches!(stored, StoredFormat::Ggml(_));
    kept || settings.weights.ggml().is_some() || matches!(settings.weights, WeightFormat::Int(_))
}

/// The format of most bytes.
fn main_format(tensors: &[OutTensor]) -> StoredFormat {
    let bytes =
        |format: StoredFormat| tensors.iter().filter(|tensor| tensor.format == format).map(|t| t.len).sum::<u64>();
    let dense = [StoredFormat::F32, StoredFormat::F16, StoredFormat::Bf16];
    dense.into_iter().max_by_key(|&format| bytes(format)).unwrap_or(StoredFormat::F16)
}

fn header(tensors: &[OutTensor]) -> Vec<u8> {
    let mut table = Map::new();
    table.insert("__metadata__".to_owned(), json!({"format": "pt"}));
    let mut offset = 0;
    for tensor in tensors {
        let end = offset + tensor.len;
        let dtype = hf_config::dtype_name(tensor.format).to_ascii_uppercase();
        table
            .insert(tensor.name.clone(), json!({"dtype": dtype, "shape": tensor.shape, "data_offsets": [offset, end]}));
        offset = end;
    }
    let mut text = Value::Object(table).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    [&(text.len() as u64).to_le_bytes()[..], &text].concat()
}

/// Says what became of packed layers: they take more room here than in the variant that was measured, and a chosen
/// half precision rounds them.
fn dequantized(source: &Checkpoint, settings: &[LayerSettings], dtype: Option<StoredFormat>) -> Vec<String> {
    let layers = source.graph().layers.iter().zip(settings);
    let n = layers.filter(|(layer, settings)| is_packed(settings, layer.stored)).count();
    let written = match dtype {
        _ if n == 0 => return Vec::new(),
        None | Some(StoredFormat::F32) => "f32 with exactly the values that were measured".to_owned(),
        Some(dtype) => format!("{}, which rounds the values that were measured once more", dtype.name()),
    };
    vec![format!("{n} packed layers were written as {written}; the folder is not smaller")]
}
