//! Layers whose rows become what they are each by itself: made band by band on all cores, from file to file.
//!
//! A band fits the cache of a core from its reading to its hash, so weights cross the memory once, and no more of a model
//! is in memory than a band for each thread.

use std::sync::atomic::{AtomicBool, Ordering};

use bytemuck::cast_slice_mut;

use crate::checkpoint::{Checkpoint, TensorEntry, widen_into};
use crate::compress::{restore_rows, round_rows};
use crate::export::ExportError;
use crate::export::atomic::io_error;
use crate::export::crew::share_out;
use crate::export::digest::Digest;
use crate::export::tensors::{OutTensor, Target};
use crate::model::{GgmlType, StoredFormat};
use crate::recipe::LayerSettings;

/// Weights of a band, but that it has a whole row at least: 512 KiB of f32.
const BAND_WEIGHTS: usize = 1 << 17;

/// A tensor of an export, each row of which is made of one row of the checkpoint.
pub(super) struct Banded<'a> {
    source: &'a Checkpoint,
    entry: &'a TensorEntry,
    becomes: Becomes,
    rows: usize,
    row_len: usize,
    /// Bytes of a row in the checkpoint and in the export.
    row_bytes: [usize; 2],
    /// For each row, which of the checkpoint it is; empty where they stay as they are.
    order: Vec<usize>,
}

#[derive(Debug, Clone, Copy)]
enum Becomes {
    /// The same bytes.
    Same,
    /// The nearest blocks.
    Blocks(GgmlType),
}

/// A thread's own memory.
#[derive(Default)]
pub(super) struct Memory {
    /// Bytes of the checkpoint; of words, so that they can be seen as numbers.
    read: Vec<f32>,
    values: Vec<f32>,
    made: Vec<u8>,
}

impl<'a> Banded<'a> {
    /// `None` where rows do not stand for themselves: by what is asked of the layer, or by how it is stored.
    ///
    /// - `format`: of the export
    pub(super) fn new(
        (source, entry): (&'a Checkpoint, &'a TensorEntry),
        settings: &LayerSettings,
        format: StoredFormat,
        order: Vec<usize>,
    ) -> Option<Self> {
        let becomes = match format {
            _ if settings.is_reference() => (entry.format == format).then_some(Becomes::Same)?,
            StoredFormat::Ggml(ggml) if *settings == LayerSettings::of(settings.weights) => {
                (settings.weights.ggml() == Some(ggml)).then_some(Becomes::Blocks(ggml))?
            }
            _ => return None,
        };
        let [rows, row_len] = entry.shape[..] else { return None };
        let bytes_of = |format: StoredFormat, rows: usize| format.tensor_bytes(rows as u128, row_len as u128);
        if rows == 0 || row_len == 0 || bytes_of(entry.format, rows) != Some(u128::from(entry.len)) {
            return None;
        }
        let row_bytes = |format| bytes_of(format, 1).and_then(|bytes| usize::try_from(bytes).ok());
        let row_bytes = [row_bytes(entry.format)?, row_bytes(format)?];
        Some(Self { source, entry, becomes, rows, row_len, row_bytes, order })
    }

    fn band_rows(&self) -> usize {
        (BAND_WEIGHTS / self.row_len).clamp(1, self.rows)
    }

    fn band_bytes(&self) -> usize {
        self.band_rows() * self.row_bytes[1]
    }

    /// Makes a band; `false` where a weight is not finite or may not fit, which is to be judged with all others.
    fn make(&self, band: usize, memory: &mut Memory) -> Result<bool, ExportError> {
        let first = band * self.band_rows();
        let rows = first..(first + self.band_rows()).min(self.rows);
        let n_values = rows.len() * self.row_len;
        let [n_read, n_made] = self.row_bytes.map(|bytes| bytes * rows.len());
        let Memory { read, values, made } = memory;
        made.resize(n_made, 0);
        let Becomes::Blocks(ggml) = self.becomes else {
            self.read(rows.start, made)?;
            return Ok(true);
        };
        values.resize(n_values, 0.0);
        if self.entry.format == StoredFormat::F32 {
            self.read(rows.start, cast_slice_mut(values))?;
            // Nothing on processors that have the bytes in the order of files.
            for value in values.iter_mut() {
                *value = f32::from_bits(u32::from_le(value.to_bits()));
            }
        } else {
            read.resize(n_read.div_ceil(4), 0.0);
            let bytes = &mut cast_slice_mut(read)[..n_read];
            self.read(rows.start, bytes)?;
            match self.entry.format {
                StoredFormat::Ggml(stored) => restore_rows(stored, bytes, values),
                dense => assert!(widen_into(dense, bytes, values), "every other format is dense"),
            }
        }
        Ok(round_rows(values, ggml, made))
    }

    /// Whole rows from row `first` of the export on.
    fn read(&self, first: usize, bytes: &mut [u8]) -> Result<(), ExportError> {
        let row_bytes = self.row_bytes[0];
        let place = |row: usize| (row * row_bytes) as u64;
        if self.order.is_empty() {
            return Ok(self.source.read_into(self.entry, place(first), bytes)?);
        }
        for (row, bytes) in self.order[first..].iter().zip(bytes.chunks_exact_mut(row_bytes)) {
            self.source.read_into(self.entry, place(*row), bytes)?;
        }
        Ok(())
    }
}

/// Writes those of `tensors` that have a way to be made by bands; gives a digest of each that is written.
///
/// - `offsets`: where each tensor begins in the file
/// - `tell`: called with the bytes that were written since the last time
pub(super) fn write(
    target: &Target<'_>,
    tensors: &[OutTensor],
    offsets: &[u64],
    banded: &[Option<Banded<'_>>],
    tell: &mut dyn FnMut(u64) -> Result<(), ExportError>,
) -> Result<Vec<Option<Digest>>, ExportError> {
    let mut digests: Vec<Option<Digest>> = banded
        .iter()
        .zip(tensors)
        .map(|(banded, tensor)| Some(Digest::empty(tensor.len, banded.as_ref()?.band_bytes())))
        .collect();
    let is_unfit: Vec<AtomicBool> = tensors.iter().map(|_| AtomicBool::new(false)).collect();
    let numbered = banded.iter().enumerate().filter_map(|(index, banded)| Some((index, banded.as_ref()?)));
    let jobs: Vec<(usize, &Banded<'_>, usize)> = numbered
        .flat_map(|(index, banded)| {
            (0..banded.rows.div_ceil(banded.band_rows())).map(move |band| (index, banded, band))
        })
        .collect();
    let work = |job: usize, memory: &mut Memory| {
        let (index, banded, band) = jobs[job];
        if is_unfit[index].load(Ordering::Relaxed) || !banded.make(band, memory)? {
            return Ok(None);
        }
        let place = offsets[index] + (band * banded.band_bytes()) as u64;
        target.out.write_all_at(&memory.made, place).map_err(io_error("write", target.path))?;
        Ok(Some((blake3::hash(&memory.made), memory.made.len() as u64)))
    };
    share_out(jobs.len(), target.path, work, |job, made: Result<_, ExportError>| {
        let (index, _, band) = jobs[job];
        let Some((hash, n_bytes)) = made? else {
            is_unfit[index].store(true, Ordering::Relaxed);
            return Ok(());
        };
        if let Some(digest) = &mut digests[index] {
            digest.set(band, hash);
        }
        tell(n_bytes)
    })?;
    for (digest, is_unfit) in digests.iter_mut().zip(is_unfit) {
        digest.take_if(|_| is_unfit.into_inner());
    }
    Ok(digests)
}

#[cfg(test)]
#[path = "bands_tests.rs"]
mod tests;
