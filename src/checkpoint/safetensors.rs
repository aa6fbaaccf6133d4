//! The safetensors header: eight bytes of length, then JSON, then the tensors without hole or overlap.

use std::collections::BTreeSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, Visitor};

use crate::checkpoint::extent::{Unit, checked_len, find_hole, find_overlap};
use crate::checkpoint::file::SourceFile;
use crate::checkpoint::{CheckpointError, PartType, RawTensor, limits};
use crate::model::StoredFormat;

const LENGTH_BYTES: u64 = 8;

/// Reads the header of `file`; every extent lies within the file, all of them cover it, none share a byte.
pub(super) fn read_header(file: &SourceFile) -> Result<Vec<RawTensor>, CheckpointError> {
    if file.len() < LENGTH_BYTES + 2 {
        return Err(file.header("the header's length", 0, format!("a file of {} bytes has no header", file.len())));
    }
    let length_bytes = file.read(0, LENGTH_BYTES)?;
    let header_len = length_bytes.iter().rev().fold(0_u64, |value, &byte| value << 8 | u64::from(byte));
    if header_len > file.len() - LENGTH_BYTES {
        let reason = format!("a header of {header_len} bytes does not fit into a file of {} bytes", file.len());
        return Err(file.header("the header's length", 0, reason));
    }
    limits::SAFETENSORS_HEADER.check(header_len).map_err(|reason| file.header("the header's length", 0, reason))?;
    let json = file.read(LENGTH_BYTES, header_len)?;
    if json.first() != Some(&b'{') {
        return Err(file.header("the header", LENGTH_BYTES, "does not begin with {"));
    }
    let entries = parse(&json).map_err(|error| {
        // The header may span lines; columns restart there.
        let line_start: usize =
            json.split(|&byte| byte == b'\n').take(error.line().saturating_sub(1)).map(|line| line.len() + 1).sum();
        let offset = LENGTH_BYTES + (line_start + error.column().saturating_sub(1)) as u64;
        file.header("the header", offset, error.to_string())
    })?;
    check_extents(file, entries, LENGTH_BYTES + header_len)
}

fn check_extents(file: &SourceFile, entries: Vec<Entry>, data_start: u64) -> Result<Vec<RawTensor>, CheckpointError> {
    let data_len = file.len() - data_start;
    let mut tensors = Vec::with_capacity(entries.len());
    let mut extents = Vec::with_capacity(entries.len());
    for Entry { name, info } in entries {
        let [begin, end] = info.data_offsets;
        let at = data_start.saturating_add(begin);
        if begin > end || end > data_len {
            let reason = format!("data_offsets [{begin}, {end}] do not lie in a data section of {data_len} bytes");
            return Err(file.tensor(&name, at, reason));
        }
        let format = match element(&info.dtype) {
            Some((format, bits)) => {
                let unit = Unit { elements: 1, bits };
                let len = checked_len(&info.shape, unit, begin, data_len);
                let len = len.map_err(|reason| file.tensor(&name, at, format!("{}: {reason}", info.dtype)))?;
                if len != end - begin {
                    let reason = format!(
                        "{} of shape {:?} takes {len} bytes, data_offsets have {}",
                        info.dtype,
                        info.shape,
                        end - begin
                    );
                    return Err(file.tensor(&name, at, reason));
                }
                format.ok_or_else(|| format!("dtype {} is not supported", info.dtype))
            }
            None => Err(format!("dtype {:?} is not known", info.dtype)),
        };
        extents.push((begin, end - begin));
        let format = format.and_then(|format| shape_of(&info.shape).map(|shape| (format, shape)));
        let part = PartType::of_dtype(&info.dtype).filter(|_| format.is_err());
        let part = part.and_then(|kind| Some((kind, shape_of(&info.shape).ok()?)));
        tensors.push(RawTensor { name, format, part, offset: at, len: end - begin });
    }
    if let Some((first, second)) = find_overlap(&extents) {
        let reason = format!("shares bytes with tensor {:?}", tensors[first].name);
        return Err(file.tensor(&tensors[second].name, tensors[second].offset, reason));
    }
    if let Some(hole) = find_hole(&extents, data_len) {
        let reason = format!("no tensor covers byte {hole} of a data section of {data_len} bytes");
        return Err(file.header("the data section", data_start.saturating_add(hole), reason));
    }
    Ok(tensors)
}

pub(super) fn shape_of(dims: &[u64]) -> Result<Vec<usize>, String> {
    let fits = |&dim: &u64| usize::try_from(dim).ok();
    dims.iter().map(fits).collect::<Option<_>>().ok_or_else(|| format!("shape {dims:?} is too large for this machine"))
}

/// The format behind a dtype, if it is supported, and the bits of one element; `None` for an unknown dtype.
fn element(dtype: &str) -> Option<(Option<StoredFormat>, u64)> {
    Some(match dtype {
        "F32" => (Some(StoredFormat::F32), 32),
        "F16" => (Some(StoredFormat::F16), 16),
        "BF16" => (Some(StoredFormat::Bf16), 16),
        "F4" => (None, 4),
        "F6_E2M3" | "F6_E3M2" => (None, 6),
        "BOOL" | "U8" | "I8" | "F8_E5M2" | "F8_E4M3" | "F8_E8M0" => (None, 8),
        "I16" | "U16" => (None, 16),
        "I32" | "U32" => (None, 32),
        "I64" | "U64" | "F64" | "C64" => (None, 64),
        _ => return None,
    })
}

struct Entry {
    name: String,
    info: Info,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Info {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

fn parse(json: &[u8]) -> serde_json::Result<Vec<Entry>> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let entries = HeaderSeed.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(entries)
}

/// Sees every key of the header, so that a name that stands twice is not lost.
struct HeaderSeed;

impl<'de> DeserializeSeed<'de> for HeaderSeed {
    type Value = Vec<Entry>;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for HeaderSeed {
    type Value = Vec<Entry>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut seen = BTreeSet::new();
        let mut entries = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            if !seen.insert(name.clone()) {
                return Err(A::Error::custom(format!("name {name:?} stands twice")));
            }
            if name == "__metadata__" {
                map.next_value::<Texts>()?;
                continue;
            }
            limits::TENSORS.check(entries.len() as u64 + 1).map_err(A::Error::custom)?;
            entries.push(Entry { name, info: map.next_value()? });
        }
        Ok(entries)
    }
}

/// A table of texts whose contents nobody needs.
struct Texts;

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextsVisitor;
        impl<'de> Visitor<'de> for TextsVisitor {
            type Value = Texts;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table of texts")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Texts, A::Error> {
                while map.next_entry::<IgnoredAny, String>()?.is_some() {}
                Ok(Texts)
            }
        }
        deserializer.deserialize_map(TextsVisitor)
    }
}
