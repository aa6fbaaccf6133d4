//! Rows of numbers in the formats of a key-value cache.

use half::f16;
use half::slice::HalfFloatSliceExt as _;

/// Values of a GGML block.
const BLOCK: usize = 32;
/// Bytes of a block: an f16 scale, then the codes.
const Q8_0_BYTES: usize = 2 + BLOCK;
const Q4_0_BYTES: usize = 2 + BLOCK / 2;

/// Rows of equal length, one after the other, lent for reading.
#[derive(Debug, Clone, Copy)]
pub enum Rows<'a> {
    /// Single precision.
    F32(&'a [f32]),
    /// Half precision.
    F16(&'a [f16]),
    /// GGML `q8_0`: whole blocks of 32 a row.
    Q8_0(&'a [u8]),
    /// GGML `q4_0`: whole blocks of 32 a row.
    Q4_0(&'a [u8]),
}

impl Rows<'_> {
    /// Number of values.
    pub fn n_values(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::F16(values) => values.len(),
            Self::Q8_0(bytes) => bytes.len() / Q8_0_BYTES * BLOCK,
            Self::Q4_0(bytes) => bytes.len() / Q4_0_BYTES * BLOCK,
        }
    }

    /// Values that [`Self::read`] may write for `len` of them: the blocks that they lie in.
    pub const fn scratch_len(len: usize) -> usize {
        len + 2 * BLOCK
    }

    /// Values `first..first + len` in f32: lent where they are f32, otherwise dequantized into `scratch`.
    ///
    /// # Panics
    /// If there are no such values, or `scratch` is shorter than [`Self::scratch_len`].
    #[inline]
    pub fn read<'s>(&'s self, first: usize, len: usize, scratch: &'s mut [f32]) -> &'s [f32] {
        let blocks = first / BLOCK..(first + len).div_ceil(BLOCK);
        match self {
            Self::F32(values) => return &values[first..first + len],
            Self::F16(values) => {
                values[first..first + len].convert_to_f32_slice(&mut scratch[..len]);
                return &scratch[..len];
            }
            Self::Q8_0(bytes) => {
                let bytes = &bytes[blocks.start * Q8_0_BYTES..blocks.end * Q8_0_BYTES];
                dequantize_q8_0(bytes, &mut scratch[..blocks.len() * BLOCK]);
            }
            Self::Q4_0(bytes) => {
                let bytes = &bytes[blocks.start * Q4_0_BYTES..blocks.end * Q4_0_BYTES];
                dequantize_q4_0(bytes, &mut scratch[..blocks.len() * BLOCK]);
            }
        }
        &scratch[first % BLOCK..][..len]
    }
}

/// Rounds whole blocks of values to GGML `q8_0`: scale = largest magnitude / 127, halves away from zero.
///
/// # Panics
/// If the lengths are not those of whole blocks.
pub fn quantize_q8_0(values: &[f32], bytes: &mut [u8]) {
    assert!(values.len().is_multiple_of(BLOCK), "whole blocks");
    assert_eq!(values.len() / BLOCK * Q8_0_BYTES, bytes.len(), "a block of bytes for each block of values");
    let blocks = values.as_chunks::<BLOCK>().0.iter().zip(bytes.as_chunks_mut::<Q8_0_BYTES>().0);
    for (values, block) in blocks {
        let largest = values.iter().fold(0.0_f32, |max, value| max.max(value.abs()));
        let scale = largest / 127.0;
        let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
        let (head, codes) = block.split_at_mut(2);
        head.copy_from_slice(&stored_scale(scale, values).to_le_bytes());
        for (code, value) in codes.iter_mut().zip(values) {
            *code = ((value * inverse).round() as i8).cast_unsigned();
        }
    }
}

/// Rounds whole blocks of values to GGML `q4_0`: the value of largest magnitude becomes code −8.
///
/// # Panics
/// If the lengths are not those of whole blocks.
pub fn quantize_q4_0(values: &[f32], bytes: &mut [u8]) {
    assert!(values.len().is_multiple_of(BLOCK), "whole blocks");
    assert_eq!(values.len() / BLOCK * Q4_0_BYTES, bytes.len(), "a block of bytes for each block of values");
    let blocks = values.as_chunks::<BLOCK>().0.iter().zip(bytes.as_chunks_mut::<Q4_0_BYTES>().0);
    for (values, block) in blocks {
        let largest = values.iter().fold(0.0_f32, |max, value| if value.abs() > max.abs() { *value } else { max });
        let scale = largest / -8.0;
        let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
        let (head, codes) = block.split_at_mut(2);
        head.copy_from_slice(&stored_scale(scale, values).to_le_bytes());
        let (low, high) = values.split_at(BLOCK / 2);
        for ((code, low), high) in codes.iter_mut().zip(low).zip(high) {
            let round = |value: f32| ((value * inverse + 8.5) as u8).min(15);
            *code = round(*low) | round(*high) << 4;
        }
    }
}

/// The scale as stored; not a number when a value is not finite, so that it shows in what is read back.
fn stored_scale(scale: f32, values: &[f32; BLOCK]) -> f16 {
    let finite = values.iter().fold(0.0_f32, |sum, value| sum + value * 0.0);
    f16::from_f32(scale + finite)
}

fn dequantize_q8_0(bytes: &[u8], values: &mut [f32]) {
    let blocks = bytes.as_chunks::<Q8_0_BYTES>().0.iter().zip(values.as_chunks_mut::<BLOCK>().0);
    for (block, values) in blocks {
        let scale = f16::from_le_bytes([block[0], block[1]]).to_f32();
        for (value, code) in values.iter_mut().zip(&block[2..]) {
            *value = f32::from(code.cast_signed()) * scale;
        }
    }
}

fn dequantize_q4_0(bytes: &[u8], values: &mut [f32]) {
    let blocks = bytes.as_chunks::<Q4_0_BYTES>().0.iter().zip(values.as_chunks_mut::<BLOCK>().0);
    for (block, values) in blocks {
        let scale = f16::from_le_bytes([block[0], block[1]]).to_f32();
        let (low, high) = values.split_at_mut(BLOCK / 2);
        for ((low, high), code) in low.iter_mut().zip(high).zip(&block[2..]) {
            *low = (f32::from(code & 15) - 8.0) * scale;
            *high = (f32::from(code >> 4) - 8.0) * scale;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(n: usize) -> Vec<f32> {
        (0..n).map(|i| ((i as f32 * 12.9898).sin() * 43_758.547).fract() * 3.0).collect()
    }

    #[test]
    fn blocks_err_by_half_a_step_at_most() {
        let values = values(4 * BLOCK);
        let (mut q8, mut q4) = (vec![0; 4 * Q8_0_BYTES], vec![0; 4 * Q4_0_BYTES]);
        quantize_q8_0(&values, &mut q8);
        quantize_q4_0(&values, &mut q4);
        // The scale is an f16, and q4_0's grid ends at +7: the far side of a block errs by a whole step.
        for (rows, step) in [(Rows::Q8_0(&q8), 0.51 / 127.0), (Rows::Q4_0(&q4), 1.01 / 8.0)] {
            assert_eq!(rows.n_values(), values.len());
            for (number, values) in values.chunks(BLOCK).enumerate() {
                let largest = values.iter().fold(0.0_f32, |max, value| max.max(value.abs()));
                let mut scratch = vec![0.0; Rows::scratch_len(BLOCK)];
                let found = rows.read(number * BLOCK, BLOCK, &mut scratch);
                for (found, value) in found.iter().zip(values) {
                    assert!((found - value).abs() <= largest * (step + 0.001), "{found} {value}");
                }
            }
        }
    }

    #[test]
    fn any_run_of_values_is_the_part_of_the_whole() {
        let values = values(5 * BLOCK);
        let halves: Vec<f16> = values.iter().map(|value| f16::from_f32(*value)).collect();
        let (mut q8, mut q4) = (vec![0; 5 * Q8_0_BYTES], vec![0; 5 * Q4_0_BYTES]);
        quantize_q8_0(&values, &mut q8);
        quantize_q4_0(&values, &mut q4);
        for rows in [Rows::F32(&values), Rows::F16(&halves), Rows::Q8_0(&q8), Rows::Q4_0(&q4)] {
            let mut scratch = vec![0.0; Rows::scratch_len(values.len())];
            let whole = rows.read(0, values.len(), &mut scratch).to_vec();
            for (first, len) in [(0, 1), (31, 2), (48, 48), (33, 95), (159, 1)] {
                let mut scratch = vec![f32::NAN; Rows::scratch_len(len)];
                assert_eq!(rows.read(first, len, &mut scratch), &whole[first..first + len], "{first} {len}");
            }
        }
    }

    #[test]
    fn what_is_not_finite_shows_and_zeros_stay() {
        for bad in [f32::NAN, f32::INFINITY] {
            let mut values = values(BLOCK);
            values[9] = bad;
            let (mut q8, mut q4) = ([0; Q8_0_BYTES], [0; Q4_0_BYTES]);
            quantize_q8_0(&values, &mut q8);
            quantize_q4_0(&values, &mut q4);
            let mut scratch = vec![0.0; Rows::scratch_len(BLOCK)];
            assert!(Rows::Q8_0(&q8).read(0, BLOCK, &mut scratch).iter().any(|value| !value.is_finite()));
            assert!(Rows::Q4_0(&q4).read(0, BLOCK, &mut scratch).iter().any(|value| !value.is_finite()));
        }
        let mut q4 = [0; Q4_0_BYTES];
        quantize_q4_0(&[0.0; BLOCK], &mut q4);
        assert_eq!(Rows::Q4_0(&q4).read(0, BLOCK, &mut [0.0; 96]), [0.0; BLOCK]);
    }
}
