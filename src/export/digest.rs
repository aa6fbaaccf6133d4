//! What was written, known again by its hashes when it is read back.

use std::path::Path;

use rayon::iter::ParallelIterator as _;
use rayon::slice::ParallelSlice as _;

use crate::checkpoint::SourceFile;
use crate::export::ExportError;
use crate::export::crew::share_out;

/// Bytes of a band of what is written in one piece.
const BAND_BYTES: usize = 1 << 20;

/// Hashes of the bands of a tensor, so that many threads can make and compare them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Digest {
    /// Bytes of each band but the last, which may be shorter.
    band_bytes: usize,
    bands: Vec<blake3::Hash>,
}

impl Digest {
    /// Of bands that are hashed by the one who makes them.
    ///
    /// - `len`: bytes of the tensor
    pub(super) fn empty(len: u64, band_bytes: usize) -> Self {
        let n_bands = len.div_ceil(band_bytes.max(1) as u64) as usize;
        Self { band_bytes, bands: vec![blake3::Hash::from_bytes([0; 32]); n_bands] }
    }

    /// Sets the hash of a band.
    pub(super) fn set(&mut self, band: usize, hash: blake3::Hash) {
        self.bands[band] = hash;
    }

    /// Of a tensor that is in memory.
    pub(super) fn of(bytes: &[u8]) -> Self {
        let bands = match bytes.len() {
            // Many tensors are small: no thread is woken for them.
            0..=BAND_BYTES => bytes.chunks(BAND_BYTES).map(blake3::hash).collect(),
            _ => bytes.par_chunks(BAND_BYTES).map(blake3::hash).collect(),
        };
        Self { band_bytes: BAND_BYTES, bands }
    }
}

/// Where a tensor lies that was written, and what it must be.
pub(super) struct Place<'a> {
    pub(super) name: &'a str,
    pub(super) file: &'a SourceFile,
    pub(super) offset: u64,
    pub(super) len: u64,
    pub(super) digest: &'a Digest,
}

/// Reads every tensor back and compares it.
pub(super) fn check(places: &[Place<'_>], path: &Path) -> Result<(), ExportError> {
    let bands = |place: &Place<'_>| place.digest.bands.len();
    let jobs: Vec<(usize, usize)> =
        places.iter().enumerate().flat_map(|(index, place)| (0..bands(place)).map(move |band| (index, band))).collect();
    let compare = |job: usize, memory: &mut Vec<u8>| {
        let (index, band) = jobs[job];
        let Place { file, offset, len, digest, .. } = places[index];
        let begin = (band * digest.band_bytes) as u64;
        let size = (len.saturating_sub(begin)).min(digest.band_bytes as u64) as usize;
        if memory.len() < size {
            memory.resize(size, 0);
        }
        file.read_into(offset + begin, &mut memory[..size])?;
        Ok(blake3::hash(&memory[..size]) == digest.bands[band])
    };
    share_out(jobs.len(), path, compare, |job, is_same: Result<bool, ExportError>| {
        let what = || places[jobs[job].0].name.to_owned();
        if is_same? { Ok(()) } else { Err(ExportError::Verify { what: what(), path: path.to_owned() }) }
    })
}
