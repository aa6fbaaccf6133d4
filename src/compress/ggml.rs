//! GGML block formats, through candle's quantizers.

use std::borrow::Cow;

use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use candle_core::{Device, Tensor};
use rayon::prelude::*;

use crate::compress::{CompressError, PackedWeights};
use crate::model::GgmlType;

/// candle's name of a block format.
pub(crate) const fn candle_type(format: GgmlType) -> GgmlDType {
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

/// Packs `weights` into GGML blocks.
///
/// - `weights`: (rows, `row_len`), row-major, finite
///
/// Rows are independent, so both cores work on bands of them; candle alone uses one.
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
    let largest = weights.iter().fold(0.0_f32, |largest, weight| largest.max(weight.abs()));
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
    let rows = weights.len() / row_len;
    let band = rows.div_ceil(4 * rayon::current_num_threads()).max(1) * row_len;
    let bands: Vec<Vec<u8>> = weights
        .par_chunks(band)
        .map(|band| {
            let tensor = Tensor::from_slice(band, (band.len() / row_len, row_len), &Device::Cpu)?;
            let packed = QTensor::quantize(&tensor, candle_type(format))?;
            Ok(packed.data()?.into_owned())
        })
        .collect::<Result<_, candle_core::Error>>()?;
    Ok(bands.concat())
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
    let n = bytes.len() / format.block_bytes() * format.block_len();
    // Owned: candle reinterprets the bytes as blocks, and a borrowed slice may not be aligned for them.
    let storage = QStorage::from_data(Cow::Owned(bytes.to_vec()), &Device::Cpu, candle_type(format))?;
    let tensor = QTensor::new(storage, (1, n))?;
    Ok(tensor.dequantize(&Device::Cpu)?.flatten_all()?.to_vec1()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_sizes_are_candles() {
        for format in GgmlType::ALL {
            assert_eq!(candle_type(format).block_size(), format.block_len(), "{}", format.name());
            assert_eq!(candle_type(format).type_size(), format.block_bytes(), "{}", format.name());
        }
    }

    #[test]
    fn bands_give_the_bytes_of_one_pass() {
        let weights: Vec<f32> = (0..7 * 512).map(|i| (i as f32 * 0.37).sin()).collect();
        for format in GgmlType::ALL {
            let whole = Tensor::from_slice(&weights, (7, 512), &Device::Cpu).unwrap();
            let whole = QTensor::quantize(&whole, candle_type(format)).unwrap().data().unwrap().into_owned();
            let PackedWeights::Ggml { bytes, .. } = quantize_ggml(&weights, 512, format).unwrap() else {
                panic!("ggml in, ggml out")
            };
            assert_eq!(bytes, whole, "{}", format.name());
            let restored = dequantize_ggml(format, &bytes).unwrap();
            let worst = weights.iter().zip(&restored).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            let bits = format.block_bytes() as f32 * 8.0 / format.block_len() as f32;
            assert!(worst < 2.2 / (bits - 0.6).exp2(), "{}: {worst}", format.name());
        }
    }

    #[test]
    fn partial_blocks_are_refused() {
        assert!(quantize_ggml(&[0.0; 288], 288, GgmlType::Q4k).is_err());
        assert!(dequantize_ggml(GgmlType::Q8_0, &[0; 33]).is_err());
    }
}
