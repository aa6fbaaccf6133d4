//! Row-major matrices into panels.

use half::f16;

use super::Zeros;
use super::format::{Grid, Pair, PanelZeros};
use super::simd::LANES;

/// A (rows, `row_len`) matrix in panels of [`LANES`] rows: of each panel its columns in order, the last panel filled up
/// with the default.
pub(super) fn columns<T: Copy + Default>(values: &[T], row_len: usize) -> Vec<[T; LANES]> {
    if row_len == 0 {
        return Vec::new();
    }
    let mut packed = vec![[T::default(); LANES]; values.len().div_ceil(LANES * row_len) * row_len];
    for (panel, rows) in packed.chunks_mut(row_len).zip(values.chunks(LANES * row_len)) {
        for (lane, row) in rows.chunks(row_len).enumerate() {
            for (column, value) in panel.iter_mut().zip(row) {
                column[lane] = *value;
            }
        }
    }
    packed
}

/// The same in pairs of columns, the last pair of a panel filled up too: `make` makes one of two columns.
pub(super) fn pairs<T: Copy + Default, P: Clone>(
    values: &[T],
    row_len: usize,
    make: impl Fn([[T; LANES]; 2]) -> P,
) -> Vec<P> {
    let mut packed = Vec::with_capacity(values.len().div_ceil(LANES * row_len.max(1)) * row_len.div_ceil(2));
    // A panel at a time: nothing else of the matrix is held twice.
    for rows in values.chunks(LANES * row_len.max(1)) {
        let columns = columns(rows, row_len);
        packed.extend(columns.chunks(2).map(|pair| make([pair[0], *pair.get(1).unwrap_or(&[T::default(); LANES])])));
    }
    packed
}

/// Aligned pairs.
pub(super) fn aligned_pairs<T: Copy + Default>(values: &[T], row_len: usize) -> Vec<Pair<T>> {
    pairs(values, row_len, Pair)
}

/// Two codes below 16 in a byte, the first in the low bits.
pub(super) fn nibbles([low, high]: [[u8; LANES]; 2]) -> [u8; LANES] {
    std::array::from_fn(|lane| (low[lane] & 0xf) | (high[lane] << 4))
}

/// The scales and zero points of groups, given row by row.
pub(super) fn grid(bits: u8, group_len: usize, n_groups: usize, scales: &[f16], zeros: Zeros<'_>) -> Grid {
    let half_bits = |values: &[f16]| columns(&values.iter().map(|value| value.to_bits()).collect::<Vec<_>>(), n_groups);
    let zeros = match zeros {
        Zeros::Middle => PanelZeros::All(f32::from(1_u8 << (bits - 1))),
        Zeros::Codes(codes) if bits == 4 => {
            let halves = |codes: [u8; LANES]| std::array::from_fn(|lane| (codes[lane] & 0xf) | (codes[lane + 8] << 4));
            PanelZeros::Nibbles(columns(codes, n_groups).into_iter().map(halves).collect())
        }
        Zeros::Codes(codes) => PanelZeros::Bytes(columns(codes, n_groups)),
        Zeros::Floats(values) => PanelZeros::Floats(half_bits(values)),
    };
    Grid { group_len, n_groups, scales: half_bits(scales), zeros }
}
