//! The identity of a model's contents.

use crate::checkpoint::file::SourceFile;
use crate::checkpoint::own::OwnLayout;
use crate::checkpoint::sparse::Parts;
use crate::checkpoint::{CheckpointError, RefusedTensor, TensorEntry};
use crate::model::{Fingerprint, ModelFamily};

/// Tensors up to this size are hashed whole.
const WHOLE: u64 = 64 << 10;
const EDGE: u64 = 24 << 10;
const MIDDLE: u64 = 16 << 10;

/// BLAKE3 over the configuration, the manifest, and of every tensor its whole bytes up to 64 KiB, or 24 KiB from its
/// start, 16 KiB from its middle and 24 KiB from its end.
///
/// A model of any size is known within a second or two; the price is that a change only between the samples of a large
/// tensor is not seen. Independent of the order of the tensors and of how they are spread over files.
pub(super) fn fingerprint(
    (family, own): (&ModelFamily, &OwnLayout),
    (entries, parts): (&[TensorEntry], &Parts),
    refused: &[RefusedTensor],
    files: &[SourceFile],
) -> Result<Fingerprint, CheckpointError> {
    let mut hasher = blake3::Hasher::new();
    let text = serde_json::to_vec(family).expect("a configuration is made of numbers");
    hasher.update(&(text.len() as u64).to_le_bytes()).update(&text);
    if !own.is_plain() {
        let text = serde_json::to_vec(own).expect("a layout is made of names and numbers");
        hasher.update(&(text.len() as u64).to_le_bytes()).update(&text);
    }
    let mut by_name: Vec<&TensorEntry> = entries.iter().collect();
    by_name.sort_by(|a, b| a.name.cmp(&b.name));
    for entry in by_name {
        let manifest = serde_json::to_vec(&(&entry.name, entry.format, &entry.shape)).expect("names and numbers");
        hasher.update(&(manifest.len() as u64).to_le_bytes()).update(&manifest);
        for (offset, len) in samples(entry.len) {
            hasher.update(&files[entry.file].read(entry.offset + offset, len)?);
        }
    }
    for (name, part) in parts {
        let manifest = serde_json::to_vec(&(name, part.kind.dtype(), &part.shape)).expect("names and numbers");
        hasher.update(&(manifest.len() as u64).to_le_bytes()).update(&manifest);
        for (offset, len) in samples(part.len) {
            hasher.update(&files[part.file].read(part.offset + offset, len)?);
        }
    }
    let mut refused: Vec<&str> = refused.iter().map(|tensor| tensor.name.as_str()).collect();
    refused.sort_unstable();
    for name in refused {
        hasher.update(&(name.len() as u64).to_le_bytes()).update(name.as_bytes());
    }
    let hash = hasher.finalize();
    Ok(Fingerprint(hash.to_hex().as_str()[..32].to_owned()))
}

fn samples(len: u64) -> Vec<(u64, u64)> {
    if len <= WHOLE {
        return vec![(0, len)];
    }
    vec![(0, EDGE), (len / 2 - MIDDLE / 2, MIDDLE), (len - EDGE, EDGE)]
}
