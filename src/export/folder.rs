//! How a Hugging Face folder comes to be: configuration, tokenizer files and `model.safetensors`.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::checkpoint::own::OwnLayout;
use crate::checkpoint::tensor_places;
use crate::export::atomic::{Kind, Staging, io_error};
use crate::export::digest::{self, Digest, Place};
use crate::export::model::OutModel;
use crate::export::tensors::{Element, Job, OutTensor, Target, omissions, verify};
use crate::export::{Existing, ExportError, ExportSummary, Progress, hf_config};
use crate::model::{ModelSource, RopeOrder, StoredFormat};

const WEIGHTS: &str = "model.safetensors";

/// The files that an exported folder can have.
pub(super) const OWN_FILES: [&str; 7] = [
    WEIGHTS,
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "generation_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
];

/// What a folder has beside what its source has.
pub(super) struct Folder {
    pub(super) tensors: Vec<OutTensor>,
    /// What is said under our own key.
    pub(super) own: OwnLayout,
    /// The value of `quantization_config`: other programs' matter, which our reader does not open.
    pub(super) quantization: Option<Value>,
}

/// Writes the folder and reads it back; `notes` are said with those of this layout.
pub(super) fn write(
    model: &OutModel<'_>,
    folder: &Folder,
    (out_dir, existing): (&Path, Existing),
    progress: Progress<'_>,
    mut notes: Vec<String>,
) -> Result<ExportSummary, ExportError> {
    let Folder { tensors, own, quantization } = folder;
    let mut texts =
        vec![("config.json", hf_config::config_json(model, own, quantization.as_ref(), main_format(tensors))?)];
    texts.extend(hf_config::companions(model.source)?);
    let header = header(tensors);
    let data_len: u64 = tensors.iter().map(|tensor| tensor.len).sum();
    let texts_len: u64 = texts.iter().map(|(_, text)| text.len() as u64).sum();

    let need = data_len + texts_len + header.len() as u64;
    let staging = Staging::create(out_dir, Kind::Folder(&OWN_FILES), existing, model.source, need)?;
    for (name, text) in &texts {
        let path = staging.path().join(name);
        std::fs::write(&path, text).map_err(io_error("write", &path))?;
    }
    let path = staging.path().join(WEIGHTS);
    let file = File::create_new(&path).map_err(io_error("write", &path))?;
    file.write_all_at(&header, 0).map_err(io_error("write", &path))?;
    let target = Target { out: &file, path: &path, begin: header.len() as u64, alignment: 1 };
    let digests = Job::new(model, RopeOrder::Halves, progress).write(&target, tensors)?;
    drop(file);
    let copy = ModelSource::Safetensors { dir: staging.path().to_owned() };
    staging.sync_while(|| match quantization {
        None => verify(&copy, tensors, &digests),
        Some(_) => verify_codes(&path, tensors, &digests),
    })?;
    notes.extend(omissions(model.source));
    let (path, bytes) = staging.publish()?;
    Ok(ExportSummary { path, bytes, notes })
}

/// Compares the tensors of a file whose codes our reader has no formats for.
fn verify_codes(path: &Path, tensors: &[OutTensor], digests: &[Digest]) -> Result<(), ExportError> {
    let refuse = |what: &str| ExportError::Verify { what: what.to_owned(), path: path.to_owned() };
    let (file, found) = tensor_places(path)?;
    if found.len() != tensors.len() || digests.len() != tensors.len() {
        return Err(refuse("the list of tensors"));
    }
    let mut places = Vec::with_capacity(tensors.len());
    for (tensor, digest) in tensors.iter().zip(digests) {
        let found = found.get(&tensor.name).filter(|(_, len)| *len == tensor.len);
        let &(offset, len) = found.ok_or_else(|| refuse(&tensor.name))?;
        places.push(Place { name: &tensor.name, file: &file, offset, len, digest });
    }
    digest::check(&places, path)
}

/// The dense format of most bytes.
fn main_format(tensors: &[OutTensor]) -> StoredFormat {
    let bytes = |format: StoredFormat| {
        let same = tensors.iter().filter(|tensor| tensor.element == Element::Stored(format));
        same.map(|tensor| tensor.len).sum::<u64>()
    };
    let dense = [StoredFormat::F32, StoredFormat::F16, StoredFormat::Bf16];
    dense.into_iter().max_by_key(|&format| bytes(format)).unwrap_or(StoredFormat::F16)
}

fn header(tensors: &[OutTensor]) -> Vec<u8> {
    let mut table = Map::new();
    table.insert("__metadata__".to_owned(), json!({"format": "pt"}));
    let mut offset = 0;
    for tensor in tensors {
        let end = offset + tensor.len;
        let dtype = tensor.element.dtype();
        table
            .insert(tensor.name.clone(), json!({"dtype": dtype, "shape": tensor.shape, "data_offsets": [offset, end]}));
        offset = end;
    }
    let mut text = Value::Object(table).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    [&(text.len() as u64).to_le_bytes()[..], &text].concat()
}
