//! GGML block formats.

use crate::compress::magnitude::{are_within, largest_magnitude};
use crate::compress::{CompressError, PackedWeights};
use crate::kernels::{BlockType, dequantize, dequantize_here, quantize, quantize_here};
use crate::model::GgmlType;

/// The kernels' name of a block format.
pub(crate) const fn block_type(format: GgmlType) -> BlockType {
    match format {
        GgmlType::Q4_0 => BlockType::Q4_0,
        GgmlType::Q4_1 => BlockType::Q4_1,
        GgmlType::Q5_0 => BlockType::Q5_0,
        GgmlType::Q5_1 => BlockType::Q5_1,
        GgmlType::Q8_0 => BlockType::Q8_0,
        GgmlType::Q2k => BlockType::Q2k,
        GgmlType::Q3k => BlockType::Q3k,
        GgmlType::Q4k => BlockType::Q4k,
        GgmlType::Q5k => BlockType::Q5k,
        GgmlType::Q6k => BlockType::Q6k,
    }
}

/// Packs `weights` into GGML blocks.
///
/// - `weights`: (rows, `row_len`), row-major, finite
///
/// # Errors
/// [`CompressError::RowLength`] if a row is not made of whole blocks, [`CompressError::Range`] beyond f16 scales.
pub fn quantize_ggml(weights: &[f32], row_len: usize, format: GgmlType) -> Result<PackedWeights, CompressError> {
    let bytes = plain_blocks(weights, row_len, format)?;
    check_range(weights, format, &bytes)?;
    Ok(PackedWeights::Ggml { format, bytes })
}

/// Whether f16 scales hold `weights`, which `bytes` are the blocks of.
///
/// # Errors
/// [`CompressError::Range`] if not.
pub(super) fn check_range(weights: &[f32], format: GgmlType, bytes: &[u8]) -> Result<(), CompressError> {
    let limit = half::f16::MAX.to_f32();
    let largest = largest_magnitude(weights);
    // Up to the limit no scale of a block leaves f16, and far beyond it every one does.
    let is_out = largest > 128.0 * limit
        || largest > limit && dequantize_ggml(format, bytes)?.iter().any(|weight| !weight.is_finite());
    if is_out { Err(CompressError::Range { format: format.name(), largest }) } else { Ok(()) }
}

/// The blocks of [`quantize_ggml`].
pub(super) fn plain_blocks(weights: &[f32], row_len: usize, format: GgmlType) -> Result<Vec<u8>, CompressError> {
    if row_len == 0 || !row_len.is_multiple_of(format.block_len()) {
        let name = format.name().to_owned();
        return Err(CompressError::RowLength { format: name, row_len, block_len: format.block_len() });
    }
    if !weights.len().is_multiple_of(row_len) {
        return Err(CompressError::Shape { len: weights.len(), rows: weights.len() / row_len, row_len });
    }
    let mut bytes = vec![0; weights.len() / format.block_len() * format.block_bytes()];
    quantize(block_type(format), weights, row_len, &mut bytes);
    Ok(bytes)
}

/// Rounds whole rows to the blocks that [`quantize_ggml`] makes of them among others, on this thread alone; says whether
/// every weight is finite and within f16. Of others [`quantize_ggml`] must judge.
///
/// # Panics
/// If `bytes` is not as long as the blocks.
pub(crate) fn round_rows(weights: &[f32], format: GgmlType, bytes: &mut [u8]) -> bool {
    quantize_here(block_type(format), weights, bytes);
    are_within(weights, half::f16::MAX.to_f32())
}

/// The f32 values of whole GGML blocks, on this thread alone.
///
/// # Panics
/// If `bytes` is not whole blocks, or `values` is not as long as they are.
pub(crate) fn restore_rows(format: GgmlType, bytes: &[u8], values: &mut [f32]) {
    dequantize_here(block_type(format), bytes, values);
}

/// The f32 values of whole GGML blocks.
///
/// # Errors
/// [`CompressError::RowLength`] if `bytes` is not a number of whole blocks.
pub fn dequantize_ggml(format: GgmlType, bytes: &[u8]) -> Result<Vec<f32>, CompressError> {
    if bytes.is_empty() || !bytes.len().is_multiple_of(format.block_bytes()) {
        let name = format.name().to_owned();
        return Err(CompressError::RowLength { format: name, row_len: bytes.len(), block_len: format.block_bytes() });
    }
    let mut values = vec![0.0; bytes.len() / format.block_bytes() * format.block_len()];
    dequantize(block_type(format), bytes, &mut values);
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    use candle_core::quantized::{GgmlDType, QTensor};
    use candle_core::{Device, Tensor};

    /// candle's name of a block format: an outside implementation of them.
    const fn candle_type(format: GgmlType) -> GgmlDType {
        match format {
            GgmlType::Q4_0 => GgmlDType::Q4_0,
            GgmlType::Q4_1 => GgmlDType::Q4_1,
            GgmlType::Q5_0 => GgmlDType::Q5_0,
            GgmlType::Q5_1 => GgmlDType::Q5_1,
            GgmlType::Q8_0 => GgmlDType::Q8_0,
            GgmlType::Q2k => GgmlDType::Q2K,
            GgmlType::Q3k => GgmlDType::Q3K,
            GgmlType::Q4k => GgmlDType::Q4K,
            GgmlType::Q5k => GgmlDType::Q5K,
            GgmlType::Q6k => GgmlDType::Q6K,
        }
    }

    #[test]
    fn block_sizes_are_the_same_everywhere() {
        for format in GgmlType::ALL {
            let kind = block_type(format);
            let size = (kind.block_len(), kind.block_bytes());
            assert_eq!(size, (format.block_len(), format.block_bytes()), "{}", format.name());
            let candle = candle_type(format);
            assert_eq!(size, (candle.block_size(), candle.type_size()), "{}", format.name());
        }
    }

    #[test]
    fn blocks_agree_with_candle() {
        let weights: Vec<f32> =
            (0..7 * 512).map(|i| (i as f32 * 0.37).sin() * (1.0 + (i as f32 * 0.011).cos())).collect();
        let whole = Tensor::from_slice(&weights, (7, 512), &Device::Cpu).unwrap();
        for format in GgmlType::ALL {
            let theirs = QTensor::quantize(&whole, candle_type(format)).unwrap();
            let bytes = plain_blocks(&weights, 512, format).unwrap();
            let error = |restored: &[f32]| -> f64 {
                weights.iter().zip(restored).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt()
            };
            let restored = dequantize_ggml(format, theirs.data().unwrap().as_ref()).unwrap();
            let expected: Vec<f32> = theirs.dequantize(&Device::Cpu).unwrap().flatten_all().unwrap().to_vec1().unwrap();
            assert_eq!(restored, expected, "{} reads candle's blocks", format.name());
            if format.block_len() == 32 {
                assert_eq!(bytes, theirs.data().unwrap().as_ref(), "{}", format.name());
            } else {
                let ours = error(&dequantize_ggml(format, &bytes).unwrap());
                assert!(ours <= error(&expected), "{}: {ours} {}", format.name(), error(&expected));
            }
        }
    }

    #[test]
    fn partial_blocks_are_refused() {
        assert!(quantize_ggml(&[0.0; 288], 288, GgmlType::Q4k).is_err());
        assert!(dequantize_ggml(GgmlType::Q8_0, &[0; 33]).is_err());
    }
}
