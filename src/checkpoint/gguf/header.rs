//! The GGUF header: counts, metadata, tensor entries; then the aligned data section.

use std::collections::BTreeSet;

use crate::checkpoint::extent::{Unit, checked_len, find_overlap};
use crate::checkpoint::file::SourceFile;
use crate::checkpoint::gguf::cursor::Cursor;
use crate::checkpoint::gguf::value::Metadata;
use crate::checkpoint::safetensors::shape_of;
use crate::checkpoint::{CheckpointError, RawTensor, limits};
use crate::model::StoredFormat;

/// The first four bytes of a GGUF file.
pub(crate) const MAGIC: [u8; 4] = *b"GGUF";

const DEFAULT_ALIGNMENT: u64 = 32;
const SMALLEST_KEY: u64 = 8 + 4 + 1;
const SMALLEST_TENSOR: u64 = 8 + 4 + 8 + 4 + 8;

/// Reads the header of `file`; every extent lies within the file and none share a byte.
pub(in crate::checkpoint) fn read_header(file: &SourceFile) -> Result<(Metadata, Vec<RawTensor>), CheckpointError> {
    let mut cursor = Cursor::new(file);
    if cursor.u32("magic")? != u32::from_le_bytes(MAGIC) {
        return Err(file.header("magic", 0, "not a GGUF file"));
    }
    match cursor.u32("version")? {
        2 | 3 => {}
        version if version.swap_bytes() <= 3 => {
            return Err(file.header("version", 4, "a big-endian file is not supported"));
        }
        version => return Err(file.header("version", 4, format!("version {version} is not 2 or 3"))),
    }
    let n_tensors = cursor.u64("tensor count")?;
    let n_keys = cursor.u64("metadata count")?;
    limits::TENSORS.check(n_tensors).map_err(|reason| file.header("tensor count", 8, reason))?;
    limits::GGUF_KEYS.check(n_keys).map_err(|reason| file.header("metadata count", 16, reason))?;
    cursor.check_room("metadata count", n_keys, SMALLEST_KEY)?;
    cursor.check_room("tensor count", n_tensors, SMALLEST_TENSOR)?;

    let metadata = read_metadata(&mut cursor, n_keys)?;
    let alignment = alignment(file, &metadata)?;
    let entries = read_entries(&mut cursor, n_tensors)?;
    let data_start = cursor.position().next_multiple_of(alignment);
    let tensors = check_extents(file, entries, alignment, data_start)?;
    Ok((metadata, tensors))
}

fn read_metadata(cursor: &mut Cursor<'_>, n_keys: u64) -> Result<Metadata, CheckpointError> {
    let mut metadata = Metadata::default();
    let mut seen = BTreeSet::new();
    for _ in 0..n_keys {
        let key = cursor.string("metadata key")?;
        if !seen.insert(key.clone()) {
            return Err(cursor.error("metadata key", format!("key {key:?} stands twice")));
        }
        let offset = cursor.position();
        let value = cursor.value(&key)?;
        metadata.entries.push((key, offset, value));
    }
    Ok(metadata)
}

fn alignment(file: &SourceFile, metadata: &Metadata) -> Result<u64, CheckpointError> {
    const KEY: &str = "general.alignment";
    let refuse = |reason: String| file.header(KEY, metadata.offset(KEY), reason);
    let alignment = metadata.unsigned(KEY).map_err(refuse)?.unwrap_or(DEFAULT_ALIGNMENT);
    limits::GGUF_ALIGNMENT.check(alignment).map_err(refuse)?;
    if alignment < 8 || !alignment.is_power_of_two() {
        return Err(refuse(format!("{alignment} is not a power of two from 8")));
    }
    Ok(alignment)
}

struct Entry {
    name: String,
    /// Where the entry stands in the header.
    at: u64,
    /// Rows first.
    dims: Vec<u64>,
    code: u32,
    offset: u64,
}

fn read_entries(cursor: &mut Cursor<'_>, n_tensors: u64) -> Result<Vec<Entry>, CheckpointError> {
    let mut entries: Vec<Entry> = Vec::with_capacity(n_tensors as usize);
    let mut seen = BTreeSet::new();
    for _ in 0..n_tensors {
        let at = cursor.position();
        let name = cursor.string("tensor name")?;
        if !seen.insert(name.clone()) {
            return Err(cursor.error("tensor name", format!("name {name:?} stands twice")));
        }
        let field = format!("dimensions of {name:?}");
        let n_dims = u64::from(cursor.u32(&field)?);
        if n_dims == 0 {
            return Err(cursor.error(&field, "a tensor without dimensions"));
        }
        limits::GGUF_DIMS.check(n_dims).map_err(|reason| cursor.error(&field, reason))?;
        let mut dims = Vec::new();
        for _ in 0..n_dims {
            let dim = cursor.u64(&field)?;
            if dim == 0 {
                return Err(cursor.error(&field, "a dimension of 0"));
            }
            dims.push(dim);
        }
        dims.reverse();
        let code = cursor.u32(&format!("type of {name:?}"))?;
        let offset = cursor.u64(&format!("offset of {name:?}"))?;
        entries.push(Entry { name, at, dims, code, offset });
    }
    Ok(entries)
}

fn check_extents(
    file: &SourceFile,
    entries: Vec<Entry>,
    alignment: u64,
    data_start: u64,
) -> Result<Vec<RawTensor>, CheckpointError> {
    let data_len = file.len().saturating_sub(data_start);
    let mut tensors = Vec::with_capacity(entries.len());
    let mut extents = Vec::with_capacity(entries.len());
    for Entry { name, at, dims, code, offset } in entries {
        if !offset.is_multiple_of(alignment) {
            return Err(file.tensor(&name, at, format!("offset {offset} is not a multiple of {alignment}")));
        }
        let supported = StoredFormat::from_gguf_code(code);
        let len = match supported.map(unit_of).or_else(|| foreign_type(code).map(|(_, unit)| unit)) {
            Some(unit) => {
                checked_len(&dims, unit, offset, data_len).map_err(|reason| file.tensor(&name, at, reason))?
            }
            // The size of an unknown type cannot be checked: nothing of it is ever read.
            None if offset > data_len => return Err(file.tensor(&name, at, "begins after the end of the file")),
            None => 0,
        };
        let format = supported.ok_or_else(|| match foreign_type(code) {
            Some((name, _)) => format!("type {name} is not supported"),
            None => format!("type {code} is not known"),
        });
        let format = format.and_then(|format| shape_of(&dims).map(|shape| (format, shape)));
        extents.push((offset, len));
        tensors.push(RawTensor { name, format, part: None, offset: data_start.saturating_add(offset), len });
    }
    if let Some((first, second)) = find_overlap(&extents) {
        let reason = format!("shares bytes with tensor {:?}", tensors[first].name);
        return Err(file.tensor(&tensors[second].name, tensors[second].offset, reason));
    }
    Ok(tensors)
}

fn unit_of(format: StoredFormat) -> Unit {
    Unit { elements: format.block_len() as u64, bits: format.block_bytes() as u64 * 8 }
}

/// Types that GGUF files have and that this program cannot compute with.
///
/// Source: the type table of ggml (`ggml.h`, `ggml-common.h`).
fn foreign_type(code: u32) -> Option<(&'static str, Unit)> {
    let (name, elements, bytes) = match code {
        9 => ("q8_1", 32, 36),
        15 => ("q8_k", 256, 292),
        16 => ("iq2_xxs", 256, 66),
        17 => ("iq2_xs", 256, 74),
        18 => ("iq3_xxs", 256, 98),
        19 => ("iq1_s", 256, 50),
        20 => ("iq4_nl", 32, 18),
        21 => ("iq3_s", 256, 110),
        22 => ("iq2_s", 256, 82),
        23 => ("iq4_xs", 256, 136),
        24 => ("i8", 1, 1),
        25 => ("i16", 1, 2),
        26 => ("i32", 1, 4),
        27 => ("i64", 1, 8),
        28 => ("f64", 1, 8),
        29 => ("iq1_m", 256, 56),
        34 => ("tq1_0", 256, 54),
        35 => ("tq2_0", 256, 66),
        39 => ("mxfp4", 32, 17),
        _ => return None,
    };
    Some((name, Unit { elements, bits: bytes * 8 }))
}
