//! Which tensors an export has and where their bytes come from: the one place, for all layouts.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::checkpoint::{self, Checkpoint, TensorEntry};
use crate::export::atomic::io_error;
use crate::export::bands::{self, Banded};
use crate::export::compressed_tensors::{self, Part};
use crate::export::digest::{self, Digest, Place};
use crate::export::layers::{Made, dense_bytes};
use crate::export::model::{OutLayer, OutModel, norm_before};
use crate::export::rows::Rows;
use crate::export::{ExportError, Progress};
use crate::model::{ModelSource, RopeOrder, StoredFormat};

/// One tensor of an export.
pub(super) struct OutTensor {
    /// Its name in the export.
    pub(super) name: String,
    /// Rows first.
    pub(super) shape: Vec<usize>,
    pub(super) element: Element,
    pub(super) len: u64,
    pub(super) content: Content,
}

/// How the elements of a tensor lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Element {
    /// A format of models.
    Stored(StoredFormat),
    /// Unsigned integers of 8 bits.
    U8,
    /// Signed integers of 8 bits.
    I8,
    /// Unsigned integers of 32 bits.
    U32,
    /// Signed integers of 32 bits.
    I32,
    /// Signed integers of 64 bits.
    I64,
    /// E4M3 without infinities.
    F8,
}

impl Element {
    /// The format of models, if it is one.
    pub(super) const fn stored(self) -> Option<StoredFormat> {
        match self {
            Self::Stored(format) => Some(format),
            Self::U8 | Self::I8 | Self::U32 | Self::I32 | Self::I64 | Self::F8 => None,
        }
    }

    /// The name in a safetensors header.
    pub(super) const fn dtype(self) -> &'static str {
        match self {
            Self::Stored(StoredFormat::F32) => "F32",
            Self::Stored(StoredFormat::Bf16) => "BF16",
            Self::Stored(StoredFormat::F16 | StoredFormat::Ggml(_)) => "F16",
            Self::U8 => "U8",
            Self::I8 => "I8",
            Self::U32 => "U32",
            Self::I32 => "I32",
            Self::I64 => "I64",
            Self::F8 => "F8_E4M3",
        }
    }

    /// Bytes of a tensor of this shape; `None` when its rows are not whole blocks.
    fn bytes(self, shape: &[usize]) -> Option<u64> {
        let (row_len, rows) = shape.split_last().map_or((1, 1), |(&last, rest)| (last, rest.iter().product::<usize>()));
        let bytes = match self {
            Self::Stored(format) => format.tensor_bytes(rows as u128, row_len as u128)?,
            Self::U8 | Self::I8 | Self::F8 => rows as u128 * row_len as u128,
            Self::U32 | Self::I32 => rows as u128 * row_len as u128 * 4,
            Self::I64 => rows as u128 * row_len as u128 * 8,
        };
        u64::try_from(bytes).ok()
    }
}

/// Where the bytes come from.
pub(super) enum Content {
    /// All weights of the layer with this position, in the tensor's format.
    Weights(usize),
    /// Its factor `up` (`out_features`, rank).
    Up(usize),
    /// Its factor `down` (rank, `in_features`).
    Down(usize),
    /// A part of its codes and scales.
    Part(usize, Part),
    /// A part of its weights without the zeros.
    Sparse(usize, SparsePart),
    /// A norm, bias or table: ready bytes.
    Bytes(Vec<u8>),
}

/// A part of weights whose zeros are left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SparsePart {
    /// A bit a weight.
    Bitmask,
    /// Where the values of each row begin.
    RowStarts,
    /// The weights whose bits are set.
    Values,
    /// The scale of each row.
    Scales,
}

/// A named tensor; rows must be whole blocks of its format.
pub(super) fn tensor(
    name: String,
    shape: Vec<usize>,
    element: Element,
    content: Content,
) -> Result<OutTensor, ExportError> {
    let len = element.bytes(&shape).ok_or_else(|| {
        let format = match element {
            Element::Stored(format) => format.name(),
            other => other.dtype(),
        };
        let row_len = shape.last().copied().unwrap_or(1);
        ExportError::Unsupported(format!("{name}: rows of {row_len} are not made of whole {format} blocks"))
    })?;
    Ok(OutTensor { name, shape, element, len, content })
}

/// The tensors of the layer with a position.
pub(super) type LayerTensors<'a> = &'a dyn Fn(usize, &OutLayer) -> Result<Vec<OutTensor>, ExportError>;

/// How a layout names and stores tensors.
pub(super) struct Naming<'a> {
    /// The name for a Hugging Face name.
    pub(super) name: &'a dyn Fn(&str) -> Option<String>,
    /// The tensors that hold the weights of a layer, names still Hugging Face's.
    pub(super) weights: LayerTensors<'a>,
    /// The format of a norm or bias that the checkpoint stores so.
    pub(super) vector_format: &'a dyn Fn(StoredFormat) -> StoredFormat,
    /// The order of query and key rows.
    pub(super) rope_order: RopeOrder,
}

impl Naming<'_> {
    /// Every tensor of the model, in the order of execution; rotary factors are the layout's own matter.
    pub(super) fn tensors(&self, model: &OutModel<'_>) -> Result<Vec<OutTensor>, ExportError> {
        let mut tensors = Vec::new();
        for (index, layer) in model.layers.iter().enumerate() {
            // Norms stand before the layers that read them; the order is for people only.
            if let Some(norm) = norm_before(layer.role, layer.block) {
                tensors.extend(self.vector(model, &norm)?);
            }
            for mut tensor in (self.weights)(index, layer)? {
                tensor.name = self.named(&tensor.name)?;
                tensors.push(tensor);
            }
            tensors.extend(self.vector(model, &format!("{}.bias", layer.path))?);
        }
        tensors.extend(self.vector(model, "model.norm.weight")?);
        Ok(tensors)
    }

    fn named(&self, canonical: &str) -> Result<String, ExportError> {
        (self.name)(canonical)
            .ok_or_else(|| ExportError::Unsupported(format!("the layout has no name for {canonical}")))
    }

    /// A norm or bias, if there is one of this name.
    fn vector(&self, model: &OutModel<'_>, name: &str) -> Result<Option<OutTensor>, ExportError> {
        let Some(vector) = model.vector(name) else { return Ok(None) };
        let format = (self.vector_format)(vector.format);
        let mut bytes = dense_bytes(name, &vector.values, format)?;
        let n_outputs = vector.values.len();
        if let Some(role) = vector.role {
            bytes = Rows { role, n_outputs, model: &model.config }.reorder(bytes, self.rope_order);
        }
        tensor(self.named(name)?, vec![n_outputs], Element::Stored(format), Content::Bytes(bytes)).map(Some)
    }
}

/// A file that can be written at any place.
pub(super) trait Output: Sync {
    /// Writes all bytes, the first one at `offset`.
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
}

impl Output for File {
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        FileExt::write_all_at(self, bytes, offset)
    }
}

/// Where tensors are written.
pub(super) struct Target<'a> {
    pub(super) out: &'a dyn Output,
    /// The file's name in errors.
    pub(super) path: &'a Path,
    /// The place of the first tensor.
    pub(super) begin: u64,
    /// Tensors begin at multiples of it.
    pub(super) alignment: u64,
}

impl Target<'_> {
    /// Writes all bytes, the first one at `offset`.
    fn write(&self, bytes: &[u8], offset: u64) -> Result<(), ExportError> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.out.write_all_at(bytes, offset).map_err(io_error("write", self.path))
    }
}

/// A model that is being written, and who wants to know how far it is.
pub(super) struct Job<'a, 'p> {
    pub(super) model: &'a OutModel<'a>,
    pub(super) rope_order: RopeOrder,
    pub(super) progress: Progress<'p>,
    /// The layer that was made last: its parts follow one another.
    last: Option<(usize, Made)>,
}

impl<'a, 'p> Job<'a, 'p> {
    pub(super) fn new(model: &'a OutModel<'a>, rope_order: RopeOrder, progress: Progress<'p>) -> Self {
        Self { model, rope_order, progress, last: None }
    }

    /// Writes the tensors, each padded to the target's alignment; gives their digests.
    ///
    /// Layers that can be made by bands come first, all others after them: only the places in the file have an order.
    pub(super) fn write(&mut self, target: &Target<'_>, tensors: &[OutTensor]) -> Result<Vec<Digest>, ExportError> {
        let total: u64 = tensors.iter().map(|tensor| tensor.len).sum();
        let mut end = target.begin;
        let mut offsets = Vec::with_capacity(tensors.len());
        for tensor in tensors {
            offsets.push(end);
            end = (end + tensor.len).next_multiple_of(target.alignment);
        }
        let mut done = 0;
        self.tell(done, total)?;
        let banded: Vec<_> = tensors.iter().map(|tensor| self.banded(tensor)).collect();
        let mut told = |n_bytes| {
            done += n_bytes;
            self.tell(done, total)
        };
        let mut digests = bands::write(target, tensors, &offsets, &banded, &mut told)?;
        // Of a layer that turned out to need a judgement as a whole, some bands were told.
        done = tensors.iter().zip(&digests).map(|(tensor, digest)| digest.as_ref().map_or(0, |_| tensor.len)).sum();
        for ((tensor, digest), offset) in tensors.iter().zip(&mut digests).zip(offsets) {
            let padding = tensor.len.next_multiple_of(target.alignment) - tensor.len;
            if digest.is_none() {
                self.tell(done, total)?;
                let bytes = self.bytes_of(tensor)?;
                if bytes.len() as u64 != tensor.len {
                    return Err(ExportError::Unsupported(format!("{} has another size than planned", tensor.name)));
                }
                *digest = Some(Digest::of(&bytes));
                target.write(&bytes, offset)?;
                done += tensor.len;
            }
            target.write(&vec![0; padding as usize], offset + tensor.len)?;
        }
        self.tell(total, total)?;
        // Bands are read in any order, and told when they are written: only at the end every read has been.
        self.model.source.check_unchanged()?;
        Ok(digests.into_iter().flatten().collect())
    }

    fn tell(&mut self, done: u64, total: u64) -> Result<(), ExportError> {
        match (self.progress)(done, total) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(ExportError::Cancelled),
        }
    }

    /// How the tensor is made by bands, if it can be.
    fn banded(&self, tensor: &OutTensor) -> Option<Banded<'a>> {
        let Content::Weights(index) = tensor.content else { return None };
        let (entry, settings) = self.model.origin(index)?;
        let order = self.rows(index).order(self.rope_order);
        Banded::new((self.model.source, entry), &settings, tensor.element.stored()?, order)
    }

    /// The rows of the layer at `index`.
    fn rows(&self, index: usize) -> Rows<'a> {
        let layer = &self.model.layers[index];
        Rows { role: layer.role, n_outputs: layer.shape[0], model: &self.model.config }
    }

    /// The bytes of a tensor in its format and order.
    fn bytes_of(&mut self, tensor: &OutTensor) -> Result<Vec<u8>, ExportError> {
        let index = match &tensor.content {
            Content::Bytes(bytes) => return Ok(bytes.clone()),
            Content::Weights(index)
            | Content::Up(index)
            | Content::Down(index)
            | Content::Part(index, _)
            | Content::Sparse(index, _) => *index,
        };
        let layer = &self.model.layers[index];
        let rows = self.rows(index);
        let reorder = |bytes| rows.reorder(bytes, self.rope_order);
        let made = match self.last.take() {
            Some((last, made)) if last == index => made,
            _ => self.model.make(index)?,
        };
        let not_dense = || ExportError::Unsupported(format!("{} is not dense", tensor.name));
        let dense = tensor.element.stored().ok_or_else(not_dense);
        let factors =
            || made.factors().ok_or_else(|| ExportError::Unsupported(format!("{} has no factors", layer.path)));
        let bytes = match &tensor.content {
            Content::Bytes(_) | Content::Weights(_) => return Ok(reorder(made.into_bytes(&tensor.name, dense?)?)),
            Content::Up(_) => reorder(Made::packed_bytes(&factors()?.up, &tensor.name, dense?)?),
            Content::Down(_) => Made::packed_bytes(&factors()?.down, &tensor.name, dense?)?,
            Content::Part(_, part) => compressed_tensors::part_bytes(*part, &made, layer, &reorder)?,
            Content::Sparse(_, part) => {
                let unfit = || ExportError::Unsupported(format!("{} has no bitmask", layer.path));
                made.sparse_bytes(*part, &rows.order(self.rope_order)).ok_or_else(unfit)?
            }
        };
        self.last = Some((index, made));
        Ok(bytes)
    }
}

/// Opens the copy with our own reader and compares every tensor with the digest of what was written.
pub(super) fn verify(copy: &ModelSource, tensors: &[OutTensor], digests: &[Digest]) -> Result<(), ExportError> {
    let opened = checkpoint::open(copy)?;
    let refuse = |what: &str| ExportError::Verify { what: what.to_owned(), path: copy.path().to_owned() };
    if opened.n_readable() != tensors.len() || digests.len() != tensors.len() {
        return Err(refuse("the list of tensors"));
    }
    let entries: BTreeMap<&str, &TensorEntry> =
        opened.entries().iter().map(|entry| (entry.name.as_str(), entry)).collect();
    let mut places = Vec::with_capacity(tensors.len());
    for (tensor, digest) in tensors.iter().zip(digests) {
        let name = tensor.name.as_str();
        let part = opened.parts().find(|(name, _)| **name == tensor.name).map(|(_, part)| part);
        let found = match part {
            Some(part) if part.shape == tensor.shape && part.kind.dtype() == tensor.element.dtype() => {
                Some((part.file, part.offset, part.len))
            }
            Some(_) => None,
            None => entries.get(name).and_then(|entry| {
                let is_it = entry.shape == tensor.shape && Element::Stored(entry.format) == tensor.element;
                is_it.then_some((entry.file, entry.offset, entry.len))
            }),
        };
        let found = found.filter(|(_, _, len)| *len == tensor.len);
        let (file, offset, len) = found.ok_or_else(|| refuse(name))?;
        places.push(Place { name, file: &opened.files()[file], offset, len, digest });
    }
    digest::check(&places, copy.path())
}

/// Notes on what an export leaves out.
pub(super) fn omissions(source: &Checkpoint) -> Vec<String> {
    let unused = source.entries().iter().filter(|entry| !source.is_used(entry)).map(|entry| entry.name.as_str());
    let refused = source.refused().iter().map(|tensor| tensor.name.as_str());
    let left_out: Vec<&str> = unused.chain(refused).collect();
    match left_out.len() {
        0 => Vec::new(),
        n => vec![format!("{n} tensors that the model does not use were left out: {}", left_out.join(", "))],
    }
}

#[cfg(test)]
#[path = "tensors_tests.rs"]
mod tests;
