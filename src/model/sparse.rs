//! Matrices whose zeros a file leaves out.

use serde::{Deserialize, Serialize};

use crate::model::StoredFormat;

/// How the nonzero weights of a sparse layer lie in a file, beside one bit a weight that says which ones they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SparseValues {
    /// IEEE half precision.
    F16,
    /// Signed codes of 8 bits times an f16 scale a row.
    Int8,
}

impl SparseValues {
    /// The format of dense weights that holds the same numbers exactly.
    pub const fn dense(self) -> StoredFormat {
        match self {
            Self::F16 => StoredFormat::F16,
            Self::Int8 => StoredFormat::F32,
        }
    }

    /// Bytes of a value.
    pub const fn value_bytes(self) -> usize {
        match self {
            Self::F16 => 2,
            Self::Int8 => 1,
        }
    }

    /// Bytes of a matrix of which `n_values` weights are stored: the values, the bits of each row padded to whole bytes,
    /// 4 bytes a row for where its values begin, and the scale of each row where there is one.
    pub const fn matrix_bytes(self, [rows, row_len]: [usize; 2], n_values: u64) -> u64 {
        let scale_bytes = match self {
            Self::F16 => 0,
            Self::Int8 => 2,
        };
        n_values * self.value_bytes() as u64 + rows as u64 * (row_len.div_ceil(8) as u64 + 4 + scale_bytes)
    }

    /// The name that tables use: `sparse f16`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F16 => "sparse f16",
            Self::Int8 => "sparse int8",
        }
    }
}

/// What a file has in the place of a matrix whose zeros it leaves out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredSparse {
    /// How the weights that are there lie.
    pub values: SparseValues,
    /// How many they are.
    pub n_values: u64,
}

/// What is wrong with the bits of an `n_values` matrix, if something is. Allocates nothing.
pub(crate) fn check_bits([rows, row_len]: [usize; 2], bitmask: &[u8], n_values: usize) -> Result<(), &'static str> {
    let row_bytes = row_len.div_ceil(8);
    if row_bytes == 0 || rows == 0 || rows.checked_mul(row_bytes) != Some(bitmask.len()) {
        return Err("a bitmask of another shape");
    }
    // The last byte of a row may have bits that belong to no weight.
    let padding = if row_len.is_multiple_of(8) { 0 } else { 0xff_u8 << (row_len % 8) };
    if bitmask.chunks(row_bytes).any(|row| row[row_bytes - 1] & padding != 0) {
        return Err("a bitmask with bits beyond its rows");
    }
    let n_set: usize = bitmask.iter().map(|byte| byte.count_ones() as usize).sum();
    if n_set == n_values { Ok(()) } else { Err("a bitmask that counts another number of values") }
}

/// Where the values of each row begin, by a bitmask of a matrix of this shape.
pub(crate) fn row_starts([_, row_len]: [usize; 2], bitmask: &[u8]) -> impl Iterator<Item = u32> {
    let rows = bitmask.chunks(row_len.div_ceil(8).max(1));
    let counts = rows.map(|row| row.iter().map(|byte| byte.count_ones()).sum::<u32>());
    counts.scan(0, |start, count| {
        let own = *start;
        *start += count;
        Some(own)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sparse_sizes_are_values_bits_rows_and_scales() {
        assert_eq!(SparseValues::F16.matrix_bytes([3, 9], 13), 13 * 2 + 3 * (2 + 4));
        assert_eq!(SparseValues::Int8.matrix_bytes([3, 16], 13), 13 + 3 * (2 + 4 + 2));
    }

    #[test]
    fn bits_must_fit_their_values_and_rows() {
        let check = |bitmask: &[u8], n_values: usize, expected: Result<(), &str>| {
            let found = check_bits([2, 9], bitmask, n_values);
            assert_eq!(found.is_ok(), expected.is_ok(), "{bitmask:?}");
            if let (Err(found), Err(part)) = (found, expected) {
                assert!(found.contains(part), "{found}");
            }
        };
        check(&[0b101, 1, 0xff, 0], 11, Ok(()));
        check(&[0b101, 1, 0xff, 0], 10, Err("another number"));
        check(&[0b101, 1, 0xff, 0], 12, Err("another number"));
        check(&[0b101, 3, 0xff, 0], 12, Err("beyond its rows"));
        check(&[0b101, 1, 0xff], 11, Err("another shape"));
        assert_eq!(check_bits([0, 9], &[], 0), Err("a bitmask of another shape"));
        assert_eq!(row_starts([2, 9], &[0b101, 1, 0xff, 0]).collect::<Vec<_>>(), [0, 3]);
    }
}
