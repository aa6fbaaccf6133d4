//! The parts of layers whose zeros a folder leaves out: bits, beginnings of rows, values and scales.

use std::collections::BTreeMap;

use crate::checkpoint::own::OwnLayout;
use crate::checkpoint::{Checkpoint, CheckpointError, RefusedTensor};
use crate::model::{Layer, SparseValues, StoredSparse, check_bits, row_starts};

/// How the elements of a part lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PartType {
    /// Unsigned integers of 8 bits.
    U8,
    /// Signed integers of 8 bits.
    I8,
    /// Unsigned integers of 32 bits.
    U32,
}

impl PartType {
    /// The type with this name in a safetensors header.
    pub(super) fn of_dtype(dtype: &str) -> Option<Self> {
        [Self::U8, Self::I8, Self::U32].into_iter().find(|kind| kind.dtype() == dtype)
    }

    /// The name in a safetensors header.
    pub(crate) const fn dtype(self) -> &'static str {
        match self {
            Self::U8 => "U8",
            Self::I8 => "I8",
            Self::U32 => "U32",
        }
    }
}

/// A tensor that says something together with others only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PartEntry {
    pub(crate) kind: PartType,
    /// Rows first.
    pub(crate) shape: Vec<usize>,
    /// The file, by its position among the model's files.
    pub(crate) file: usize,
    /// Its first byte in that file.
    pub(crate) offset: u64,
    pub(crate) len: u64,
}

/// The parts of a model by their names.
pub(super) type Parts = BTreeMap<String, PartEntry>;

/// Takes the parts of the layers that `own` names out of the tensors that mean nothing by themselves.
pub(super) fn claim(own: &OwnLayout, refused: &mut Vec<RefusedTensor>) -> Parts {
    let wanted = own.sparse.iter().flat_map(|(path, values)| {
        let codes = (*values == SparseValues::Int8).then_some(("values", PartType::I8));
        let parts = [("bitmask", PartType::U8), ("row_starts", PartType::U32)].into_iter().chain(codes);
        parts.map(move |(part, kind)| (format!("{path}.weight.{part}"), kind))
    });
    let wanted: BTreeMap<String, PartType> = wanted.collect();
    let mut parts = Parts::new();
    refused.retain_mut(|tensor| {
        let is_it = tensor.part.as_ref().is_some_and(|part| wanted.get(&tensor.name) == Some(&part.kind));
        match tensor.part.take_if(|_| is_it) {
            Some(part) => parts.insert(std::mem::take(&mut tensor.name), part).is_some(),
            None => true,
        }
    });
    parts
}

/// The parts of a sparse layer, little-endian; they fit each other, and what is a number is finite.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SparseTensors {
    /// A bit a weight, the lowest first, each row padded to whole bytes.
    pub bitmask: Vec<u8>,
    /// The weights whose bits are set, row by row.
    pub values: Vec<u8>,
    /// Of int8: an f16 a row.
    pub scales: Vec<u8>,
}

/// Where a tensor lies.
struct Place {
    name: String,
    file: usize,
    offset: u64,
    len: u64,
}

impl Checkpoint {
    /// The parts of a layer whose zeros the files leave out; `None` for any other layer.
    ///
    /// What is known of a part is checked before the next one is read: nothing is allocated for values that the bits do not
    /// ask for.
    ///
    /// # Errors
    /// As [`Self::read`]; [`CheckpointError::Tensor`] with the place where parts contradict each other.
    pub fn read_sparse(&self, layer: &Layer) -> Result<Option<SparseTensors>, CheckpointError> {
        let Some(StoredSparse { values, n_values }) = layer.sparse else { return Ok(None) };
        let owner = layer.shared_with.as_ref().unwrap_or(&layer.path);
        let place = |part: &str| self.place(format!("{owner}.weight.{part}"));

        let at = place("bitmask")?;
        let bitmask = self.bytes(&at)?;
        let n_values = usize::try_from(n_values).unwrap_or(usize::MAX);
        check_bits(layer.shape, &bitmask, n_values)
            .map_err(|reason| self.damaged(&at, 0, format!("{reason}; {owner}.weight.values has {n_values}")))?;

        let at = place("row_starts")?;
        let starts = self.bytes(&at)?;
        for (row, (found, expected)) in
            starts.as_chunks::<4>().0.iter().zip(row_starts(layer.shape, &bitmask)).enumerate()
        {
            let found = u32::from_le_bytes(*found);
            if found != expected {
                let reason = format!("row {row} begins at value {found}, by its bits at {expected}");
                return Err(self.damaged(&at, row as u64 * 4, reason));
            }
        }
        let scales = match values {
            SparseValues::F16 => Vec::new(),
            SparseValues::Int8 => self.finite_halves(&place("scales")?, |scale| scale > 0.0, "positive and finite")?,
        };
        let at = place("values")?;
        let values = match values {
            SparseValues::F16 => self.finite_halves(&at, |_| true, "finite")?,
            SparseValues::Int8 => self.bytes(&at)?,
        };
        Ok(Some(SparseTensors { bitmask, values, scales }))
    }

    /// The parts of sparse layers with their names, in the order of the names.
    pub(crate) fn parts(&self) -> impl ExactSizeIterator<Item = (&String, &PartEntry)> {
        self.parts.iter()
    }

    fn place(&self, name: String) -> Result<Place, CheckpointError> {
        let of_entry = || self.entry(&name).map(|entry| (entry.file, entry.offset, entry.len));
        let found = self.parts.get(&name).map(|part| (part.file, part.offset, part.len)).or_else(of_entry);
        match found {
            Some((file, offset, len)) => Ok(Place { name, file, offset, len }),
            None => Err(CheckpointError::Missing { names: vec![name], path: self.source.path().to_owned() }),
        }
    }

    fn bytes(&self, at: &Place) -> Result<Vec<u8>, CheckpointError> {
        self.files[at.file].read(at.offset, at.len)
    }

    fn damaged(&self, at: &Place, offset: u64, reason: String) -> CheckpointError {
        self.files[at.file].tensor(&at.name, at.offset + offset, reason)
    }

    /// The bytes of f16 numbers, each finite and as `is_good` wants it.
    fn finite_halves(&self, at: &Place, is_good: fn(f32) -> bool, words: &str) -> Result<Vec<u8>, CheckpointError> {
        let bytes = self.bytes(at)?;
        let mut numbers = bytes.as_chunks::<2>().0.iter().map(|pair| half::f16::from_le_bytes(*pair).to_f32());
        match numbers.position(|number| !number.is_finite() || !is_good(number)) {
            Some(index) => Err(self.damaged(at, index as u64 * 2, format!("number {index} is not {words}"))),
            None => Ok(bytes),
        }
    }
}
