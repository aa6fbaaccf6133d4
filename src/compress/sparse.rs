//! A matrix whose zeros are left out: the other weights, and one bit a weight that says which ones they are.

use half::f16;

use crate::compress::packed::IntMatrix;
use crate::compress::{CompressError, ZeroPoints};
use crate::model::{SparseValues, check_bits, row_starts};
use crate::recipe::{Group, IntFormat};

/// The code of zero in a symmetric grid of 8 bits.
const MIDDLE: u8 = 128;
/// The grid behind [`SparseValues::Int8`].
const INT8: IntFormat = IntFormat { bits: 8, group: Group::Row, symmetric: true };

/// A matrix (`out_features`, `in_features`) of which only the weights that are not zero are stored.
///
/// Invariant: as many values as bits that are set, fewer than 2^32; the bits that fill up a row are zero; values and
/// scales are finite, scales are positive.
#[derive(Debug, Clone, PartialEq)]
pub struct SparseMatrix {
    shape: [usize; 2],
    values: StoredValues,
    /// A bit a weight, the lowest bit first, each row padded to whole bytes.
    bitmask: Vec<u8>,
}

/// The weights that are stored, row by row.
#[derive(Debug, Clone, PartialEq)]
pub enum StoredValues {
    /// Half precision.
    F16(Vec<f16>),
    /// weight = scale of its row · code.
    Int8 {
        /// The codes.
        codes: Vec<i8>,
        /// One a row.
        scales: Vec<f16>,
    },
}

impl SparseMatrix {
    /// The weights of `dense` (`shape`) that are not zero.
    ///
    /// # Errors
    /// [`CompressError::Shape`] when the shape is another one, [`CompressError::Unsupported`] with 2^32 weights or more.
    pub fn of_halves(dense: &[f16], shape: [usize; 2]) -> Result<Self, CompressError> {
        let [rows, row_len] = shape;
        if rows.checked_mul(row_len) != Some(dense.len()) {
            return Err(CompressError::Shape { len: dense.len(), rows, row_len });
        }
        let is_there = |weight: &f16| *weight != f16::ZERO;
        let bitmask = bits(dense, row_len, is_there);
        let values = StoredValues::F16(dense.iter().copied().filter(is_there).collect());
        Self { shape, values, bitmask }.checked()
    }

    /// The weights of a grid of 8 bits whose codes are not that of zero.
    ///
    /// # Errors
    /// [`CompressError::Unsupported`] when the grid is not symmetric, of 8 bits and of a row, or has 2^32 weights or more.
    pub fn of_int(matrix: &IntMatrix) -> Result<Self, CompressError> {
        let is_middle = matches!(matrix.zeros(), ZeroPoints::Codes(zeros) if zeros.iter().all(|zero| *zero == MIDDLE));
        if matrix.format() != INT8 || !is_middle {
            return Err(CompressError::Unsupported("zeros are left out of symmetric int of 8 bits a row only"));
        }
        let is_there = |code: &u8| *code != MIDDLE;
        let bitmask = bits(matrix.codes(), matrix.row_len(), is_there);
        let codes = matrix.codes().iter().copied().filter(is_there).map(signed).collect();
        let shape = [matrix.scales().len(), matrix.row_len()];
        Self { shape, values: StoredValues::Int8 { codes, scales: matrix.scales().to_vec() }, bitmask }.checked()
    }

    /// A matrix from what a file holds.
    ///
    /// # Errors
    /// [`CompressError::Stored`] when the parts contradict each other or are not finite.
    pub fn from_parts(shape: [usize; 2], values: StoredValues, bitmask: Vec<u8>) -> Result<Self, CompressError> {
        Self { shape, values, bitmask }.checked()
    }

    /// The matrix of `shape` in little-endian `values` and, of int8, `scales`.
    ///
    /// # Errors
    /// As [`Self::from_parts`].
    pub fn from_bytes(
        shape: [usize; 2],
        kind: SparseValues,
        values: &[u8],
        scales: &[u8],
        bitmask: Vec<u8>,
    ) -> Result<Self, CompressError> {
        let halves = |bytes: &[u8]| bytes.as_chunks::<2>().0.iter().map(|pair| f16::from_le_bytes(*pair)).collect();
        let values = match kind {
            SparseValues::F16 => StoredValues::F16(halves(values)),
            SparseValues::Int8 => StoredValues::Int8 {
                codes: values.iter().map(|code| code.cast_signed()).collect(),
                scales: halves(scales),
            },
        };
        Self::from_parts(shape, values, bitmask)
    }

    fn checked(self) -> Result<Self, CompressError> {
        let [rows, row_len] = self.shape;
        if u32::try_from(rows.saturating_mul(row_len)).is_err() {
            return Err(CompressError::Unsupported("zeros are left out of matrices of fewer than 2^32 weights only"));
        }
        check_bits(self.shape, &self.bitmask, self.n_values()).map_err(CompressError::Stored)?;
        let is_finite = match &self.values {
            StoredValues::F16(values) => values.iter().all(|value| value.is_finite()),
            StoredValues::Int8 { scales, .. } => {
                scales.len() == rows && scales.iter().all(|scale| scale.is_finite() && *scale > f16::ZERO)
            }
        };
        if is_finite { Ok(self) } else { Err(CompressError::Stored("a value or scale that is not finite")) }
    }

    /// (`out_features`, `in_features`).
    pub fn shape(&self) -> [usize; 2] {
        self.shape
    }

    /// The weights that are stored, row by row.
    pub fn values(&self) -> &StoredValues {
        &self.values
    }

    /// How they lie in a file.
    pub fn kind(&self) -> SparseValues {
        match self.values {
            StoredValues::F16(_) => SparseValues::F16,
            StoredValues::Int8 { .. } => SparseValues::Int8,
        }
    }

    /// How many weights are stored.
    pub fn n_values(&self) -> usize {
        match &self.values {
            StoredValues::F16(values) => values.len(),
            StoredValues::Int8 { codes, .. } => codes.len(),
        }
    }

    /// A bit a weight, set where one is stored: the lowest bit first, each row padded to whole bytes.
    pub fn bitmask(&self) -> &[u8] {
        &self.bitmask
    }

    /// Where the values of each row begin.
    pub fn row_starts(&self) -> Vec<u32> {
        row_starts(self.shape, &self.bitmask).collect()
    }

    /// All weights, zeros too; `None` of int8.
    pub fn halves(&self) -> Option<Vec<f16>> {
        match &self.values {
            StoredValues::F16(values) => Some(self.spread(values, f16::ZERO)),
            StoredValues::Int8 { .. } => None,
        }
    }

    /// The codes of all weights, zeros too, and the scale of each row; `None` of f16.
    pub fn codes(&self) -> Option<(Vec<i8>, &[f16])> {
        match &self.values {
            StoredValues::F16(_) => None,
            StoredValues::Int8 { codes, scales } => Some((self.spread(codes, 0), scales)),
        }
    }

    /// The grid with all its codes; `None` of f16.
    pub fn to_int(&self) -> Option<IntMatrix> {
        let (codes, scales) = self.codes()?;
        let [rows, row_len] = self.shape;
        Some(IntMatrix {
            format: INT8,
            row_len,
            codes: codes.into_iter().map(|code| code.cast_unsigned() ^ MIDDLE).collect(),
            scales: scales.to_vec(),
            zeros: ZeroPoints::Codes(vec![MIDDLE; rows]),
        })
    }

    /// The values that these weights stand for, in f32.
    pub fn dequantize(&self) -> Vec<f32> {
        match &self.values {
            StoredValues::F16(values) => {
                let values: Vec<f32> = values.iter().map(|value| value.to_f32()).collect();
                self.spread(&values, 0.0)
            }
            StoredValues::Int8 { codes, scales } => {
                let mut weights = self.spread(codes, 0).into_iter().map(f32::from).collect::<Vec<f32>>();
                for (row, scale) in weights.chunks_mut(self.shape[1]).zip(scales) {
                    for weight in row {
                        *weight *= scale.to_f32();
                    }
                }
                weights
            }
        }
    }

    /// Bytes in a file and in memory.
    pub fn packed_bytes(&self) -> u64 {
        self.kind().matrix_bytes(self.shape, self.n_values() as u64)
    }

    /// The matrix whose row i is row `order[i]` of this one.
    #[must_use]
    pub fn with_rows(&self, order: &[usize]) -> Self {
        let starts = self.row_starts();
        let end = |row: usize| starts.get(row + 1).map_or(self.n_values(), |start| *start as usize);
        let range = |row: &usize| starts[*row] as usize..end(*row);
        let row_bytes = self.shape[1].div_ceil(8);
        let bitmask = order.iter().flat_map(|row| &self.bitmask[row * row_bytes..(row + 1) * row_bytes]);
        let values = match &self.values {
            StoredValues::F16(values) => {
                StoredValues::F16(order.iter().flat_map(|row| &values[range(row)]).copied().collect())
            }
            StoredValues::Int8 { codes, scales } => StoredValues::Int8 {
                codes: order.iter().flat_map(|row| &codes[range(row)]).copied().collect(),
                scales: order.iter().map(|row| scales[*row]).collect(),
            },
        };
        Self { shape: [order.len(), self.shape[1]], values, bitmask: bitmask.copied().collect() }
    }

    /// `values` at the places of the bits that are set, `zero` elsewhere.
    fn spread<T: Copy>(&self, values: &[T], zero: T) -> Vec<T> {
        let [rows, row_len] = self.shape;
        let mut dense = Vec::with_capacity(rows * row_len);
        let mut values = values.iter().copied();
        for row in self.bitmask.chunks(row_len.div_ceil(8).max(1)) {
            let is_set = |column: &usize| row[column / 8] >> (column % 8) & 1 == 1;
            dense.extend((0..row_len).map(|column| if is_set(&column) { values.next().unwrap_or(zero) } else { zero }));
        }
        dense
    }
}

fn signed(code: u8) -> i8 {
    (code ^ MIDDLE).cast_signed()
}

fn bits<T>(dense: &[T], row_len: usize, is_set: impl Fn(&T) -> bool) -> Vec<u8> {
    let byte = |weights: &[T]| weights.iter().rev().fold(0_u8, |byte, weight| byte << 1 | u8::from(is_set(weight)));
    dense.chunks(row_len.max(1)).flat_map(|row| row.chunks(8)).map(byte).collect()
}

#[cfg(test)]
#[path = "sparse_tests.rs"]
mod tests;
