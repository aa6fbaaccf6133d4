//! Writes a variant, tensor by tensor.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::{self, BufWriter, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use crate::cache::variant::{
    Extent, FORMAT_VERSION, Header, MAGIC, PRELUDE_LEN, StoredFactors, StoredLayer, StoredWeights, VariantError,
    VariantLayer,
};
use crate::compress::{LowRankMatrix, PackedWeights, serial};
use crate::model::LlamaConfig;

/// Writes a variant to a temporary file beside `path`, which appears under its name when it is complete.
///
/// Equal tensors are stored once, so layers that share one take its bytes once. Dropped before [`Self::finish`], nothing is
/// left behind.
#[derive(Debug)]
pub struct VariantWriter {
    path: PathBuf,
    file: BufWriter<tempfile::NamedTempFile>,
    offset: u64,
    header: Header,
    names: BTreeSet<String>,
    written: HashMap<[u8; 32], Extent>,
}

impl VariantWriter {
    /// Begins a file for a model of `config`, whose folder is made if absent.
    ///
    /// # Errors
    /// [`VariantError::Io`] when the folder cannot be written.
    pub fn create(path: &Path, config: LlamaConfig) -> Result<Self, VariantError> {
        let failed = |source| VariantError::Io { source, path: path.to_owned() };
        let folder = folder_of(path);
        fs::create_dir_all(folder).map_err(failed)?;
        let temporary = tempfile::Builder::new().prefix(".trimtab-").tempfile_in(folder).map_err(failed)?;
        let mut file = BufWriter::with_capacity(1 << 20, temporary);
        file.write_all(&[0; PRELUDE_LEN]).map_err(failed)?;
        let header = Header { config, layers: Vec::new(), vectors: BTreeMap::new(), notes: Vec::new() };
        let (names, written) = (BTreeSet::new(), HashMap::new());
        Ok(Self { path: path.to_owned(), file, offset: PRELUDE_LEN as u64, header, names, written })
    }

    /// Adds a layer with its weights and its bias (`out_features`).
    ///
    /// # Errors
    /// [`VariantError::Io`] when the disk is full, [`VariantError::Damaged`] when there already is a layer of this path.
    pub fn layer(
        &mut self,
        layer: VariantLayer,
        weights: &PackedWeights,
        bias: Option<&[f32]>,
    ) -> Result<(), VariantError> {
        self.claim(&layer.path.0)?;
        let weights = match weights {
            PackedWeights::LowRank(factors) => StoredWeights::LowRank(self.factors(factors)?),
            PackedWeights::Corrected { base, term } => {
                StoredWeights::Corrected { base: self.matrix(base)?, term: self.factors(term)? }
            }
            whole => StoredWeights::Whole(self.matrix(whole)?),
        };
        let bias = bias.map(|bias| self.values(bias)).transpose()?;
        self.header.layers.push(StoredLayer { layer, weights, bias });
        Ok(())
    }

    /// Adds a vector that belongs to no layer, such as a norm, under its Hugging Face name.
    ///
    /// # Errors
    /// As [`Self::layer`].
    pub fn vector(&mut self, name: &str, values: &[f32]) -> Result<(), VariantError> {
        self.claim(name)?;
        let extent = self.values(values)?;
        self.header.vectors.insert(name.to_owned(), extent);
        Ok(())
    }

    /// Completes the file, on the disk and under its name; its length in bytes.
    ///
    /// # Errors
    /// [`VariantError::Io`] when the disk is full; nothing is left behind then.
    pub fn finish(mut self, notes: Vec<String>) -> Result<u64, VariantError> {
        self.header.notes = notes;
        let header = serde_json::to_vec(&self.header).map_err(|error| self.failed(error.into()))?;
        let path = self.path.clone();
        self.seal(&header).map_err(|source| VariantError::Io { source, path })
    }

    #[cfg(test)]
    pub(super) fn change(&mut self, change: fn(&mut Header)) {
        change(&mut self.header);
    }

    fn seal(mut self, header: &[u8]) -> io::Result<u64> {
        self.file.write_all(header)?;
        let mut prelude = Vec::with_capacity(PRELUDE_LEN);
        prelude.extend_from_slice(MAGIC);
        prelude.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        prelude.extend_from_slice(&self.offset.to_le_bytes());
        prelude.extend_from_slice(&(header.len() as u64).to_le_bytes());
        prelude.extend_from_slice(blake3::hash(header).as_bytes());
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(&prelude)?;
        let file = self.file.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.as_file().sync_all()?;
        file.persist(&self.path).map_err(|error| error.error)?;
        File::open(folder_of(&self.path))?.sync_all()?;
        Ok(self.offset + header.len() as u64)
    }

    fn factors(&mut self, factors: &LowRankMatrix) -> Result<StoredFactors, VariantError> {
        Ok(StoredFactors { rank: factors.shape[1], up: self.matrix(&factors.up)?, down: self.matrix(&factors.down)? })
    }

    fn matrix(&mut self, weights: &PackedWeights) -> Result<Extent, VariantError> {
        self.bytes(&serial::encode_weights(weights))
    }

    fn values(&mut self, values: &[f32]) -> Result<Extent, VariantError> {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.bytes(&bytes)
    }

    /// Where `bytes` lie, written now unless they already were.
    fn bytes(&mut self, bytes: &[u8]) -> Result<Extent, VariantError> {
        let hash = *blake3::hash(bytes).as_bytes();
        if let Some(known) = self.written.get(&hash) {
            return Ok(*known);
        }
        self.file.write_all(bytes).map_err(|error| self.failed(error))?;
        let extent = Extent { offset: self.offset, len: bytes.len() as u64, hash };
        self.offset += extent.len;
        self.written.insert(hash, extent);
        Ok(extent)
    }

    fn claim(&mut self, name: &str) -> Result<(), VariantError> {
        if self.names.insert(name.to_owned()) {
            return Ok(());
        }
        Err(VariantError::Damaged { what: format!("{name} is there twice"), path: self.path.clone() })
    }

    fn failed(&self, source: io::Error) -> VariantError {
        VariantError::Io { source, path: self.path.clone() }
    }
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
