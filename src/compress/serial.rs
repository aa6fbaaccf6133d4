//! Compressed layers as bytes, little-endian, and back.
//!
//! Bytes are untrusted: lengths are checked against what is there before anything is allocated, and what is read keeps
//! every invariant that the types promise, so that dequantizing it cannot fail.

use std::sync::Arc;

use half::{bf16, f16};

use crate::compress::packed::{Fp8Matrix, IntMatrix};
use crate::compress::{
    ActivationGrid, CompressError, Compressed, LowRankMatrix, PackedWeights, SparseMatrix, StoredValues, ZeroPoints,
};
use crate::model::{GgmlType, check_bits};
use crate::recipe::{Fp8Scale, Group, IntFormat};

/// Changes with the layout of the bytes.
pub const SERIAL_VERSION: u32 = 1;

/// Notes of one layer, and letters of one note, that are believed.
const MAX_NOTES: usize = 1 << 12;
/// Weights inside of weights: a term beside factors beside a matrix.
const MAX_DEPTH: usize = 3;
/// In the place of the number of shared factors: they follow.
const NEW: u64 = u64::MAX;

/// The layers of a list; factors that they share are stored once.
pub fn encode(layers: &[&Compressed]) -> Vec<u8> {
    let mut out = Writer::default();
    out.count(layers.len());
    for layer in layers {
        out.weights(&layer.weights);
        match layer.activations {
            ActivationGrid::Float => out.bytes.push(0),
            ActivationGrid::Int8PerToken => out.bytes.push(1),
            ActivationGrid::Int8Static { scale } => {
                out.bytes.push(2);
                out.bytes.extend_from_slice(&scale.to_le_bytes());
            }
        }
        out.bytes.push(u8::from(layer.output_error.is_some()));
        out.bytes.extend_from_slice(&layer.output_error.unwrap_or(0.0).to_le_bytes());
        out.count(layer.notes.len());
        for note in &layer.notes {
            out.count(note.len());
            out.bytes.extend_from_slice(note.as_bytes());
        }
    }
    out.bytes
}

/// The layers that [`encode`] wrote, of these shapes (`out_features`, `in_features`); shared factors are shared again.
///
/// # Errors
/// [`CompressError::Stored`] when the bytes are not such a list.
pub fn decode(bytes: &[u8], shapes: &[[usize; 2]]) -> Result<Vec<Compressed>, CompressError> {
    let mut reader = Reader { rest: bytes, shared: Vec::new() };
    if reader.len()? != shapes.len() {
        return Err(CompressError::Stored("another number of layers"));
    }
    let layers = shapes.iter().map(|shape| reader.layer(*shape)).collect::<Result<_, _>>()?;
    reader.end(layers)
}

/// One matrix alone.
pub fn encode_weights(weights: &PackedWeights) -> Vec<u8> {
    let mut out = Writer::default();
    out.weights(weights);
    out.bytes
}

/// The matrix of `shape` that [`encode_weights`] wrote.
///
/// # Errors
/// [`CompressError::Stored`] when the bytes are not such a matrix.
pub fn decode_weights(bytes: &[u8], shape: [usize; 2]) -> Result<PackedWeights, CompressError> {
    let mut reader = Reader { rest: bytes, shared: Vec::new() };
    let weights = reader.weights(shape, MAX_DEPTH)?;
    reader.end(weights)
}

#[derive(Default)]
struct Writer {
    bytes: Vec<u8>,
    shared: Vec<Arc<PackedWeights>>,
}

impl Writer {
    fn count(&mut self, n: usize) {
        self.bytes.extend_from_slice(&(n as u64).to_le_bytes());
    }

    fn list<const N: usize>(&mut self, values: impl ExactSizeIterator<Item = [u8; N]>) {
        self.count(values.len());
        self.bytes.reserve(values.len() * N);
        values.for_each(|value| self.bytes.extend_from_slice(&value));
    }

    fn weights(&mut self, weights: &PackedWeights) {
        match weights {
            PackedWeights::F32(values) => {
                self.bytes.push(0);
                self.list(values.iter().map(|value| value.to_le_bytes()));
            }
            PackedWeights::F16(values) => {
                self.bytes.push(1);
                self.list(values.iter().map(|value| value.to_le_bytes()));
            }
            PackedWeights::Bf16(values) => {
                self.bytes.push(2);
                self.list(values.iter().map(|value| value.to_le_bytes()));
            }
            PackedWeights::Ggml { format, bytes } => {
                self.bytes.extend_from_slice(&[3, format.gguf_code() as u8]);
                self.count(bytes.len());
                self.bytes.extend_from_slice(bytes);
            }
            PackedWeights::Fp8(matrix) => {
                let scale = Fp8Scale::ALL.iter().position(|scale| *scale == matrix.scale).unwrap_or_default();
                self.bytes.extend_from_slice(&[4, scale as u8]);
                self.count(matrix.codes.len());
                self.bytes.extend_from_slice(&matrix.codes);
                self.list(matrix.scales.iter().map(|scale| scale.to_le_bytes()));
            }
            PackedWeights::Int(matrix) => self.int(matrix),
            PackedWeights::LowRank(factors) => {
                self.bytes.push(6);
                self.factors(factors);
            }
            PackedWeights::Corrected { base, term } => {
                self.bytes.push(7);
                self.weights(base);
                self.factors(term);
            }
            PackedWeights::Sparse(matrix) => self.sparse(matrix),
        }
    }

    fn sparse(&mut self, matrix: &SparseMatrix) {
        let is_int = matches!(matrix.values(), StoredValues::Int8 { .. });
        self.bytes.extend_from_slice(&[8, u8::from(is_int)]);
        self.count(matrix.n_values());
        self.bytes.extend_from_slice(matrix.bitmask());
        match matrix.values() {
            StoredValues::F16(values) => self.list(values.iter().map(|value| value.to_le_bytes())),
            StoredValues::Int8 { codes, scales } => {
                self.list(codes.iter().map(|code| code.to_le_bytes()));
                self.list(scales.iter().map(|scale| scale.to_le_bytes()));
            }
        }
    }

    fn int(&mut self, matrix: &IntMatrix) {
        let IntFormat { bits, group, symmetric } = matrix.format;
        let group = if let Group::Size(size) = group { size } else { 0 };
        let is_float = matches!(matrix.zeros, ZeroPoints::Floats(_));
        self.bytes.extend_from_slice(&[5, bits, u8::from(symmetric), u8::from(is_float)]);
        self.bytes.extend_from_slice(&group.to_le_bytes());
        self.count(matrix.codes.len());
        pack_bits(&matrix.codes, bits, &mut self.bytes);
        self.list(matrix.scales.iter().map(|scale| scale.to_le_bytes()));
        match &matrix.zeros {
            ZeroPoints::Codes(zeros) => self.bytes.extend_from_slice(zeros),
            ZeroPoints::Floats(zeros) => {
                for zero in zeros {
                    self.bytes.extend_from_slice(&zero.to_le_bytes());
                }
            }
        }
    }

    fn factors(&mut self, factors: &LowRankMatrix) {
        self.count(factors.shape[1]);
        self.weights(&factors.up);
        if let Some(known) = self.shared.iter().position(|known| Arc::ptr_eq(known, &factors.down)) {
            self.count(known);
        } else {
            self.bytes.extend_from_slice(&NEW.to_le_bytes());
            self.weights(&factors.down);
            self.shared.push(Arc::clone(&factors.down));
        }
    }
}

/// Codes below 2^`bits` one after the other, the lowest bit first.
fn pack_bits(codes: &[u8], bits: u8, out: &mut Vec<u8>) {
    let (mut held, mut n_held) = (0_u32, 0);
    out.reserve(packed_len(codes.len(), bits).unwrap_or_default());
    for code in codes {
        held |= u32::from(*code) << n_held;
        n_held += bits;
        while n_held >= 8 {
            out.push(held as u8);
            held >>= 8;
            n_held -= 8;
        }
    }
    if n_held > 0 {
        out.push(held as u8);
    }
}

fn unpack_bits(packed: &[u8], bits: u8, n: usize) -> Vec<u8> {
    let mask = (1_u32 << bits) - 1;
    let mut codes = Vec::with_capacity(n);
    let (mut held, mut n_held) = (0_u32, 0);
    let mut bytes = packed.iter();
    for _ in 0..n {
        if n_held < bits {
            held |= u32::from(*bytes.next().expect("the length was checked")) << n_held;
            n_held += 8;
        }
        codes.push((held & mask) as u8);
        held >>= bits;
        n_held -= bits;
    }
    codes
}

fn packed_len(n: usize, bits: u8) -> Option<usize> {
    Some(n.checked_mul(usize::from(bits))?.div_ceil(8))
}

struct Reader<'a> {
    rest: &'a [u8],
    shared: Vec<(Arc<PackedWeights>, [usize; 2])>,
}

impl<'a> Reader<'a> {
    fn end<T>(&self, result: T) -> Result<T, CompressError> {
        if self.rest.is_empty() { Ok(result) } else { Err(CompressError::Stored("more bytes than layers")) }
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8], CompressError> {
        let (taken, rest) = self.rest.split_at_checked(n).ok_or(CompressError::Stored("it ends too early"))?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], CompressError> {
        Ok(self.take(N)?.try_into().expect("taken so long"))
    }

    fn byte(&mut self) -> Result<u8, CompressError> {
        Ok(self.array::<1>()?[0])
    }

    fn len(&mut self) -> Result<usize, CompressError> {
        let len = u64::from_le_bytes(self.array()?);
        usize::try_from(len).map_err(|_too_large| CompressError::Stored("it ends too early"))
    }

    /// `n` values of `N` bytes each.
    fn values<const N: usize, T>(&mut self, n: usize, value: fn([u8; N]) -> T) -> Result<Vec<T>, CompressError> {
        let len = n.checked_mul(N).ok_or(CompressError::Stored("it ends too early"))?;
        let (values, _) = self.take(len)?.as_chunks::<N>();
        Ok(values.iter().map(|bytes| value(*bytes)).collect())
    }

    /// A list that must have `n` values.
    fn list<const N: usize, T>(&mut self, n: usize, value: fn([u8; N]) -> T) -> Result<Vec<T>, CompressError> {
        if self.len()? != n {
            return Err(CompressError::Stored("another number of values than its shape"));
        }
        self.values(n, value)
    }

    fn layer(&mut self, shape: [usize; 2]) -> Result<Compressed, CompressError> {
        let weights = self.weights(shape, MAX_DEPTH)?;
        let activations = match self.byte()? {
            0 => ActivationGrid::Float,
            1 => ActivationGrid::Int8PerToken,
            2 => {
                let scale = f32::from_le_bytes(self.array()?);
                positive(scale.is_finite() && scale > 0.0)?;
                ActivationGrid::Int8Static { scale }
            }
            _ => return Err(CompressError::Stored("an unknown grid of activations")),
        };
        let has_error = self.byte()? != 0;
        let error = f64::from_le_bytes(self.array()?);
        if !error.is_finite() {
            return Err(CompressError::Stored("an error that is not finite"));
        }
        let n_notes = self.len()?;
        if n_notes > MAX_NOTES {
            return Err(CompressError::Stored("too many notes"));
        }
        let mut notes = Vec::with_capacity(n_notes);
        for _ in 0..n_notes {
            let len = self.len()?;
            let text = std::str::from_utf8(self.take(len)?)
                .map_err(|_no_text| CompressError::Stored("a note without text"))?;
            notes.push(text.to_owned());
        }
        Ok(Compressed { weights, activations, output_error: has_error.then_some(error), notes })
    }

    fn weights(&mut self, [rows, row_len]: [usize; 2], depth: usize) -> Result<PackedWeights, CompressError> {
        let n = rows.checked_mul(row_len).filter(|n| *n > 0 && depth > 0);
        let n = n.ok_or(CompressError::Stored("a shape that no matrix has"))?;
        Ok(match self.byte()? {
            0 => PackedWeights::F32(finite(self.list(n, f32::from_le_bytes)?, |value| value.is_finite())?),
            1 => PackedWeights::F16(finite(self.list(n, f16::from_le_bytes)?, |value| value.is_finite())?),
            2 => PackedWeights::Bf16(finite(self.list(n, bf16::from_le_bytes)?, |value| value.is_finite())?),
            3 => self.ggml(rows, row_len)?,
            4 => PackedWeights::Fp8(self.fp8(rows, row_len)?),
            5 => PackedWeights::Int(self.int(n, row_len)?),
            6 => PackedWeights::LowRank(self.factors([rows, row_len], depth - 1)?),
            7 => {
                let base = Box::new(self.weights([rows, row_len], depth - 1)?);
                PackedWeights::Corrected { base, term: self.factors([rows, row_len], depth - 1)? }
            }
            8 => PackedWeights::Sparse(self.sparse([rows, row_len])?),
            _ => return Err(CompressError::Stored("an unknown format")),
        })
    }

    fn sparse(&mut self, shape @ [rows, row_len]: [usize; 2]) -> Result<SparseMatrix, CompressError> {
        let is_int = self.byte()?;
        let n_values = self.len()?;
        let n_bytes = rows.checked_mul(row_len.div_ceil(8)).ok_or(CompressError::Stored("it ends too early"))?;
        let bitmask = self.take(n_bytes)?;
        check_bits(shape, bitmask, n_values).map_err(CompressError::Stored)?;
        let values = match is_int {
            0 => StoredValues::F16(self.list(n_values, f16::from_le_bytes)?),
            1 => {
                let codes = self.list(n_values, i8::from_le_bytes)?;
                StoredValues::Int8 { codes, scales: self.list(rows, f16::from_le_bytes)? }
            }
            _ => return Err(CompressError::Stored("an unknown format")),
        };
        SparseMatrix::from_parts(shape, values, bitmask.to_vec())
    }

    fn ggml(&mut self, rows: usize, row_len: usize) -> Result<PackedWeights, CompressError> {
        let code = u32::from(self.byte()?);
        let format = GgmlType::ALL.into_iter().find(|format| format.gguf_code() == code);
        let format = format.ok_or(CompressError::Stored("an unknown format"))?;
        if !row_len.is_multiple_of(format.block_len()) {
            return Err(CompressError::Stored("rows that are not made of whole blocks"));
        }
        let len = (row_len / format.block_len() * rows).checked_mul(format.block_bytes());
        let len = len.ok_or(CompressError::Stored("it ends too early"))?;
        if self.len()? != len {
            return Err(CompressError::Stored("another number of values than its shape"));
        }
        Ok(PackedWeights::Ggml { format, bytes: self.take(len)?.to_vec() })
    }

    fn fp8(&mut self, rows: usize, row_len: usize) -> Result<Fp8Matrix, CompressError> {
        let scale = Fp8Scale::ALL.get(usize::from(self.byte()?)).ok_or(CompressError::Stored("an unknown scale"))?;
        // All bits but the sign set is not a number.
        let codes = finite(self.list(rows * row_len, |[code]: [u8; 1]| code)?, |code| code & 0x7f != 0x7f)?;
        let scales = self.list(scale.count(rows, row_len), f32::from_le_bytes)?;
        positive(scales.iter().all(|scale| scale.is_finite() && *scale > 0.0))?;
        Ok(Fp8Matrix { scale: *scale, row_len, codes, scales })
    }

    fn int(&mut self, n: usize, row_len: usize) -> Result<IntMatrix, CompressError> {
        let [bits, symmetric, is_float] = self.array()?;
        let group = match u16::from_le_bytes(self.array()?) {
            0 => Group::Row,
            size => Group::Size(size),
        };
        let group_len = group.len(row_len);
        if !IntFormat::BITS.contains(&bits) || symmetric > 1 || !row_len.is_multiple_of(group_len) || self.len()? != n {
            return Err(CompressError::Stored("an integer grid that does not fit its shape"));
        }
        let len = packed_len(n, bits).ok_or(CompressError::Stored("it ends too early"))?;
        let codes = unpack_bits(self.take(len)?, bits, n);
        let n_groups = n / group_len;
        let scales = self.list(n_groups, f16::from_le_bytes)?;
        positive(scales.iter().all(|scale| scale.is_finite() && *scale > f16::ZERO))?;
        let zeros = if is_float == 0 {
            let zeros = self.take(n_groups)?.to_vec();
            ZeroPoints::Codes(finite(zeros, |zero| u16::from(*zero) < 1 << bits)?)
        } else {
            ZeroPoints::Floats(finite(self.values(n_groups, f16::from_le_bytes)?, |zero| zero.is_finite())?)
        };
        Ok(IntMatrix { format: IntFormat { bits, group, symmetric: symmetric == 1 }, row_len, codes, scales, zeros })
    }

    fn factors(&mut self, [rows, row_len]: [usize; 2], depth: usize) -> Result<LowRankMatrix, CompressError> {
        let rank = self.len()?;
        let up = Box::new(self.weights([rows, rank], depth)?);
        let number = u64::from_le_bytes(self.array()?);
        let shape = [rank, row_len];
        let down = if number == NEW {
            let down = Arc::new(self.weights(shape, depth)?);
            self.shared.push((Arc::clone(&down), shape));
            down
        } else {
            let known = usize::try_from(number).ok().and_then(|number| self.shared.get(number));
            let known = known.filter(|(_, known)| *known == shape);
            Arc::clone(&known.ok_or(CompressError::Stored("shared factors that were not there"))?.0)
        };
        Ok(LowRankMatrix { up, down, shape: [rows, rank, row_len] })
    }
}

fn finite<T>(values: Vec<T>, is_finite: impl Fn(&T) -> bool) -> Result<Vec<T>, CompressError> {
    if values.iter().all(is_finite) { Ok(values) } else { Err(CompressError::Stored("a value that no layer has")) }
}

fn positive(is_positive: bool) -> Result<(), CompressError> {
    if is_positive { Ok(()) } else { Err(CompressError::Stored("a scale that is not positive and finite")) }
}

#[cfg(test)]
#[path = "serial_tests.rs"]
mod tests;
