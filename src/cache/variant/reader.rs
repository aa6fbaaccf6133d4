//! Reads a variant: the header at once, tensors when they are asked for.

use std::collections::BTreeSet;
use std::fs::File;

use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::cache::variant::{
    Extent, FORMAT_VERSION, Header, MAGIC, MAX_HEADER_LEN, PRELUDE_LEN, StoredFactors, StoredLayer, StoredWeights,
    VariantError, VariantLayer,
};
use crate::compress::{LowRankMatrix, PackedWeights, serial};
use crate::model::{LayerPath, LlamaConfig};

/// A variant's file, open. The header was checked; each tensor is checked when it is read.
#[derive(Debug)]
pub struct VariantFile {
    path: PathBuf,
    file: File,
    len: u64,
    header: Header,
}

impl VariantFile {
    /// Opens a file that [`crate::cache::VariantWriter`] wrote.
    ///
    /// # Errors
    /// [`VariantError::Io`] when it cannot be read, [`VariantError::Damaged`] when it is no variant of this version.
    pub fn open(path: &Path) -> Result<Self, VariantError> {
        let failed = |source| VariantError::Io { source, path: path.to_owned() };
        let damaged = |what: &str| VariantError::Damaged { what: what.to_owned(), path: path.to_owned() };
        let file = File::open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        let len = metadata.len();
        if !metadata.is_file() || len < PRELUDE_LEN as u64 {
            return Err(damaged("not a variant"));
        }
        let mut prelude = [0; PRELUDE_LEN];
        file.read_exact_at(&mut prelude, 0).map_err(failed)?;
        let number = |at: usize| u64::from_le_bytes(prelude[at..at + 8].try_into().expect("eight bytes"));
        let version = u32::from_le_bytes(prelude[8..12].try_into().expect("four bytes"));
        if prelude[..8] != *MAGIC {
            return Err(damaged("not a variant"));
        }
        if version != FORMAT_VERSION {
            return Err(damaged(&format!("version {version}, where {FORMAT_VERSION} is read")));
        }
        let (offset, header_len) = (number(12), number(20));
        if header_len > MAX_HEADER_LEN || offset.checked_add(header_len) != Some(len) {
            return Err(damaged("the header is not where it is said to be"));
        }
        let mut bytes = vec![0; header_len as usize];
        file.read_exact_at(&mut bytes, offset).map_err(failed)?;
        if blake3::hash(&bytes).as_bytes()[..] != prelude[28..] {
            return Err(damaged("the checksum of the header does not fit"));
        }
        let header: Header = serde_json::from_slice(&bytes).map_err(|error| damaged(&format!("header: {error}")))?;
        check(&header, offset).map_err(|what| damaged(&what))?;
        Ok(Self { path: path.to_owned(), file, len, header })
    }

    /// The model's configuration, with the widths of each block.
    pub fn config(&self) -> &LlamaConfig {
        &self.header.config
    }

    /// The layers, in the order in which they were written.
    pub fn layers(&self) -> impl ExactSizeIterator<Item = &VariantLayer> {
        self.header.layers.iter().map(|stored| &stored.layer)
    }

    /// The layer with this path.
    pub fn layer(&self, path: &LayerPath) -> Option<&VariantLayer> {
        self.stored(path).map(|stored| &stored.layer)
    }

    /// Reads the weights of a layer; `None` when there is no such layer. Shared factors are read for each layer anew.
    ///
    /// # Errors
    /// [`VariantError`] when the bytes cannot be read or are not what was written.
    pub fn weights(&self, path: &LayerPath) -> Result<Option<PackedWeights>, VariantError> {
        let Some(stored) = self.stored(path) else { return Ok(None) };
        let shape = stored.layer.shape;
        Ok(Some(match &stored.weights {
            StoredWeights::Whole(extent) => self.matrix(path, extent, shape)?,
            StoredWeights::LowRank(factors) => PackedWeights::LowRank(self.factors(path, factors, shape)?),
            StoredWeights::Corrected { base, term } => PackedWeights::Corrected {
                base: Box::new(self.matrix(path, base, shape)?),
                term: self.factors(path, term, shape)?,
            },
        }))
    }

    /// Reads the bias of a layer; `None` when it has none.
    ///
    /// # Errors
    /// As [`Self::weights`].
    pub fn bias(&self, path: &LayerPath) -> Result<Option<Vec<f32>>, VariantError> {
        self.stored(path).and_then(|stored| stored.bias).map(|extent| self.values(&extent)).transpose()
    }

    /// Names of the vectors that belong to no layer, sorted.
    pub fn vector_names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.header.vectors.keys().map(String::as_str)
    }

    /// Reads a vector; `None` when there is none of this name.
    ///
    /// # Errors
    /// As [`Self::weights`].
    pub fn vector(&self, name: &str) -> Result<Option<Vec<f32>>, VariantError> {
        self.header.vectors.get(name).map(|extent| self.values(extent)).transpose()
    }

    /// What did not go as asked, in words.
    pub fn notes(&self) -> &[String] {
        &self.header.notes
    }

    /// Bytes of the file.
    pub fn file_bytes(&self) -> u64 {
        self.len
    }

    fn stored(&self, path: &LayerPath) -> Option<&StoredLayer> {
        self.header.layers.iter().find(|stored| &stored.layer.path == path)
    }

    fn matrix(&self, layer: &LayerPath, extent: &Extent, shape: [usize; 2]) -> Result<PackedWeights, VariantError> {
        serial::decode_weights(&self.bytes(extent)?, shape).map_err(|source| VariantError::Layer {
            source: Box::new(source),
            layer: layer.clone(),
            path: self.path.clone(),
        })
    }

    fn factors(
        &self,
        layer: &LayerPath,
        factors: &StoredFactors,
        [rows, row_len]: [usize; 2],
    ) -> Result<LowRankMatrix, VariantError> {
        let up = Box::new(self.matrix(layer, &factors.up, [rows, factors.rank])?);
        let down = Arc::new(self.matrix(layer, &factors.down, [factors.rank, row_len])?);
        Ok(LowRankMatrix { up, down, shape: [rows, factors.rank, row_len] })
    }

    fn values(&self, extent: &Extent) -> Result<Vec<f32>, VariantError> {
        let bytes = self.bytes(extent)?;
        let (values, rest) = bytes.as_chunks::<4>();
        let values: Vec<f32> = values.iter().map(|value| f32::from_le_bytes(*value)).collect();
        if !rest.is_empty() || values.iter().any(|value| !value.is_finite()) {
            let what = "a vector of other values than finite ones".to_owned();
            return Err(VariantError::Damaged { what, path: self.path.clone() });
        }
        Ok(values)
    }

    /// The bytes of an extent, which lies in the file: [`check`] saw to that.
    fn bytes(&self, extent: &Extent) -> Result<Vec<u8>, VariantError> {
        let mut bytes = vec![0; extent.len as usize];
        let read = self.file.read_exact_at(&mut bytes, extent.offset);
        read.map_err(|source| VariantError::Io { source, path: self.path.clone() })?;
        if *blake3::hash(&bytes).as_bytes() != extent.hash {
            let what = format!("the checksum of {} bytes at {} does not fit", extent.len, extent.offset);
            return Err(VariantError::Damaged { what, path: self.path.clone() });
        }
        Ok(bytes)
    }
}

/// What is wrong with a header whose tensors end before `end`.
fn check(header: &Header, end: u64) -> Result<(), String> {
    let n_shapes = header.config.block_shapes.len();
    if n_shapes != 0 && n_shapes != header.config.n_blocks {
        return Err(format!("widths of {n_shapes} blocks for {} blocks", header.config.n_blocks));
    }
    let mut names: BTreeSet<&str> = header.vectors.keys().map(String::as_str).collect();
    for stored in &header.layers {
        let path = &stored.layer.path;
        if !names.insert(&path.0) {
            return Err(format!("{path} is there twice"));
        }
        let [rows, row_len] = stored.layer.shape;
        if rows.checked_mul(row_len).is_none_or(|n| n == 0) {
            return Err(format!("{path} has the shape {rows} × {row_len}"));
        }
        if stored.bias.is_some_and(|bias| bias.len != rows as u64 * 4) {
            return Err(format!("{path} has {rows} outputs and another bias"));
        }
    }
    for extent in extents(header) {
        let is_inside = extent.offset.checked_add(extent.len).is_some_and(|last| last <= end);
        if !is_inside || extent.offset < PRELUDE_LEN as u64 {
            return Err(format!("{} bytes at {} are not in the file", extent.len, extent.offset));
        }
    }
    Ok(())
}

fn extents(header: &Header) -> impl Iterator<Item = Extent> {
    let of_layer = |stored: &StoredLayer| {
        let weights = match stored.weights {
            StoredWeights::Whole(extent) => vec![extent],
            StoredWeights::LowRank(factors) => vec![factors.up, factors.down],
            StoredWeights::Corrected { base, term } => vec![base, term.up, term.down],
        };
        weights.into_iter().chain(stored.bias)
    };
    header.layers.iter().flat_map(of_layer).chain(header.vectors.values().copied())
}
