//! One GGUF file that llama.cpp loads: metadata with a working tokenizer, and every tensor in its chosen type.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use crate::checkpoint::Checkpoint;
use crate::checkpoint::gguf::{Array, Value, gguf_name};
use crate::export::atomic::{Kind as Staged, Staging, io_error};
use crate::export::gguf_metadata::{llama3_factors, metadata};
use crate::export::model::{OutLayer, OutModel};
use crate::export::tensors::{Content, Element, Job, Naming, OutTensor, Target, omissions, tensor, verify};
use crate::export::{Existing, ExportError, ExportSummary, Kind, ModelLayout, Progress, Weights};
use crate::model::{ModelSource, RopeOrder, StoredFormat};

const ALIGNMENT: u32 = 32;

/// Writes the model as one file at `out_file`.
///
/// Norms and biases are written in f32, as llama.cpp wants them. Blocks are of one width. GGUF has no uniform integer grids,
/// no FP8 and no low-rank factors: such layers are refused before anything is written. Each layer that shares a tensor
/// gets a copy.
///
/// # Errors
/// [`ExportError`]; nothing is left behind then.
pub fn write(
    source: &Checkpoint,
    weights: Weights<'_>,
    out_file: &Path,
    existing: Existing,
    progress: Progress<'_>,
) -> Result<ExportSummary, ExportError> {
    let model = OutModel::new(source, weights)?;
    let mut notes = model.judge(ModelLayout::Gguf, None)?;
    let naming = Naming {
        name: &gguf_name,
        weights: &layer_tensors,
        vector_format: &|_| StoredFormat::F32,
        rope_order: RopeOrder::Interleaved,
    };
    let mut tensors = naming.tensors(&model)?;
    tensors.extend(rope_factors(source));
    let entries = metadata(&model, main_format(&tensors), ALIGNMENT)?;
    let header = header(&entries, &tensors);
    let data_len: u64 = tensors.iter().map(|tensor| padded(tensor.len)).sum();

    let staging = Staging::create(out_file, Staged::File, existing, source, data_len + header.len() as u64)?;
    let file = OpenOptions::new().write(true).open(staging.path()).map_err(io_error("write", staging.path()))?;
    file.write_all_at(&header, 0).map_err(io_error("write", staging.path()))?;
    let (begin, alignment) = (header.len() as u64, u64::from(ALIGNMENT));
    let target = Target { out: &file, path: staging.path(), begin, alignment };
    let digests = Job::new(&model, RopeOrder::Interleaved, progress).write(&target, &tensors)?;
    drop(file);
    let copy = ModelSource::Gguf { file: staging.path().to_owned() };
    staging.sync_while(|| verify(&copy, &tensors, &digests))?;
    notes.extend(omissions(source));
    let (path, bytes) = staging.publish()?;
    Ok(ExportSummary { path, bytes, notes })
}

fn layer_tensors(index: usize, layer: &OutLayer) -> Result<Vec<OutTensor>, ExportError> {
    let format = match layer.kind.with_zeros() {
        Kind::Stored(format) => format,
        other => other.dense(),
    };
    let name = format!("{}.weight", layer.path);
    Ok(vec![tensor(name, layer.shape.to_vec(), Element::Stored(format), Content::Weights(index))?])
}

fn rope_factors(source: &Checkpoint) -> Option<OutTensor> {
    let config = source.config();
    let made = config.rope_scaling.and_then(|scaling| llama3_factors(config, scaling));
    let factors = source.rope_factors().map(<[f32]>::to_vec).or(made)?;
    let bytes: Vec<u8> = factors.iter().flat_map(|factor| factor.to_le_bytes()).collect();
    Some(OutTensor {
        name: "rope_freqs.weight".to_owned(),
        shape: vec![factors.len()],
        element: Element::Stored(StoredFormat::F32),
        len: bytes.len() as u64,
        content: Content::Bytes(bytes),
    })
}

/// The format of most layers of the blocks.
fn main_format(tensors: &[OutTensor]) -> StoredFormat {
    let mut counts: Vec<(StoredFormat, usize)> = Vec::new();
    for tensor in tensors.iter().filter(|tensor| tensor.shape.len() == 2) {
        let Some(stored) = tensor.element.stored() else { continue };
        match counts.iter_mut().find(|(format, _)| *format == stored) {
            Some((_, count)) => *count += 1,
            None => counts.push((stored, 1)),
        }
    }
    counts.into_iter().max_by_key(|(_, count)| *count).map_or(StoredFormat::F32, |(format, _)| format)
}

fn padded(len: u64) -> u64 {
    len.next_multiple_of(u64::from(ALIGNMENT))
}

/// The header, padded to where the data begins.
fn header(entries: &[(String, Value)], tensors: &[OutTensor]) -> Vec<u8> {
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(3_u32.to_le_bytes());
    bytes.extend((tensors.len() as u64).to_le_bytes());
    bytes.extend((entries.len() as u64).to_le_bytes());
    for (key, value) in entries {
        put_text(&mut bytes, key);
        bytes.extend(value.type_code().to_le_bytes());
        put_value(&mut bytes, value);
    }
    let mut offset = 0_u64;
    for tensor in tensors {
        put_text(&mut bytes, &tensor.name);
        bytes.extend((tensor.shape.len() as u32).to_le_bytes());
        tensor.shape.iter().rev().for_each(|&dim| bytes.extend((dim as u64).to_le_bytes()));
        let format = tensor.element.stored().expect("this layout has formats of models only");
        bytes.extend(format.gguf_code().to_le_bytes());
        bytes.extend(offset.to_le_bytes());
        offset += padded(tensor.len);
    }
    bytes.resize(bytes.len().next_multiple_of(ALIGNMENT as usize), 0);
    bytes
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

fn put_value(bytes: &mut Vec<u8>, value: &Value) {
    match value {
        Value::U8(number) => bytes.push(*number),
        Value::I8(number) => bytes.extend(number.to_le_bytes()),
        Value::U16(number) => bytes.extend(number.to_le_bytes()),
        Value::I16(number) => bytes.extend(number.to_le_bytes()),
        Value::U32(number) => bytes.extend(number.to_le_bytes()),
        Value::I32(number) => bytes.extend(number.to_le_bytes()),
        Value::F32(number) => bytes.extend(number.to_le_bytes()),
        Value::Bool(switch) => bytes.push(u8::from(*switch)),
        Value::String(text) => put_text(bytes, text),
        Value::Array(array) => put_array(bytes, array),
        Value::U64(number) => bytes.extend(number.to_le_bytes()),
        Value::I64(number) => bytes.extend(number.to_le_bytes()),
        Value::F64(number) => bytes.extend(number.to_le_bytes()),
    }
}

/// Type, count, elements.
fn put_array(bytes: &mut Vec<u8>, array: &Array) {
    fn put<T>(bytes: &mut Vec<u8>, code: u32, items: &[T], one: impl Fn(&mut Vec<u8>, &T)) {
        bytes.extend(code.to_le_bytes());
        bytes.extend((items.len() as u64).to_le_bytes());
        for item in items {
            one(bytes, item);
        }
    }
    match array {
        Array::U8(items) => put(bytes, 0, items, |bytes, item| bytes.push(*item)),
        Array::I8(items) => put(bytes, 1, items, |bytes, item| bytes.extend(item.to_le_bytes())),
        Array::U16(items) => put(bytes, 2, items, |bytes, item| bytes.extend(item.to_le_bytes())),
        Array::I16(items) => put(bytes, 3, items, |bytes, item| bytes.extend(item.to_le_bytes())),
        Array::U32(items) => put(bytes, 4, items, |bytes, item| bytes.extend(item.to_le_bytes())),
        Array::I32(items) => put(bytes, 5, items, |bytes, item| bytes.extend(item.to_le_bytes())),
        Array::F32(items) => put(bytes, 6, items, |bytes, item| bytes.extend(item.to_le_bytes())),
        Array::Bool(items) => put(bytes, 7, items, |bytes, item| bytes.push(u8::from(*item))),
        Array::String(items) => put(bytes, 8, items, |bytes, item| put_text(bytes, item)),
        Array::Nested(items) => put(bytes, 9, items, put_array),
        Array::U64(items) => put(bytes, 10, items, |bytes, item| bytes.extend(item.to_le_bytes())),
        Array::I64(items) => put(bytes, 11, items, |bytes, item| bytes.extend(item.to_le_bytes())),
        Array::F64(items) => put(bytes, 12, items, |bytes, item| bytes.extend(item.to_le_bytes())),
    }
}
