//! FP8 E4M3 with scales.
//!
//! Paper: Micikevicius et al., 2022, arXiv:2209.05433; the variant without infinities.

use rayon::prelude::*;

use crate::compress::CompressError;
use crate::compress::packed::Fp8Matrix;
use crate::recipe::Fp8Scale;

/// Largest finite value of E4M3 without infinities.
pub const FP8_MAX: f32 = 448.0;

/// The least exponent of a normal number.
const MIN_EXPONENT: i32 = -6;
/// Bits of the fraction.
const FRACTION: i32 = 3;

/// One E4M3 number: sign, four bits of exponent with bias 7, three of fraction; all ones is no number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fp8Code(pub(super) u8);

impl Fp8Code {
    /// The nearest code, ties to even; magnitudes above [`FP8_MAX`] become it. Only what is not a number stays none.
    pub(super) fn nearest(value: f32) -> Self {
        let sign = u8::from(value.is_sign_negative()) << 7;
        let magnitude = value.abs();
        if magnitude.is_nan() {
            return Self(sign | 0x7f);
        }
        if magnitude >= FP8_MAX {
            return Self(sign | 0x7e);
        }
        let exponent = (magnitude.to_bits() >> 23).cast_signed() - 127;
        let exponent = exponent.max(MIN_EXPONENT);
        // A power of two: the quotient is exact, and below 16 units of the last place.
        let unit = f32::from_bits((exponent - FRACTION + 127).cast_unsigned() << 23);
        let units = (magnitude / unit).round_ties_even() as u8;
        // Eight units are the next binade's first code, so a carry needs no care.
        let code = units + 8 * (exponent - MIN_EXPONENT) as u8;
        Self(sign | code.min(0x7e))
    }

    /// What the code stands for.
    pub(super) fn value(self) -> f32 {
        let magnitude = self.0 & 0x7f;
        let (exponent, fraction) = (i32::from(magnitude >> 3), f32::from(magnitude & 7));
        let unit = f32::from_bits((exponent.max(1) - 7 - FRACTION + 127).cast_unsigned() << 23);
        let value = match (magnitude, exponent) {
            (0x7f, _) => f32::NAN,
            (_, 0) => fraction * unit,
            (_, _) => (fraction + 8.0) * unit,
        };
        if self.0 & 0x80 == 0 { value } else { -value }
    }
}

/// Rounds `weights` (rows, `row_len`) to E4M3 codes with scales of max|w| / 448, so that nothing saturates.
///
/// # Errors
/// [`CompressError::RowLength`] if `row_len` is 0 or does not divide the number of weights.
pub(crate) fn quantize_fp8(weights: &[f32], row_len: usize, scale: Fp8Scale) -> Result<Fp8Matrix, CompressError> {
    if row_len == 0 || !weights.len().is_multiple_of(row_len) {
        let format = crate::recipe::WeightFormat::Fp8(scale).label();
        return Err(CompressError::RowLength { format, row_len: weights.len(), block_len: row_len });
    }
    let rows = weights.len() / row_len;
    let mut scales = vec![0.0_f32; scale.count(rows, row_len)];
    let place = Place { scale, row_len };
    for (row, weights) in weights.chunks(row_len).enumerate() {
        for (run, weights) in weights.chunks(place.run()).enumerate() {
            let largest = &mut scales[place.of(row, run)];
            *largest = weights.iter().fold(*largest, |largest, weight| largest.max(weight.abs()));
        }
    }
    // Zeros take any scale, and the smallest denormals one that f32 can divide by.
    let of_largest = |largest: f32| {
        let scale = if largest == 0.0 { 1.0 } else { (largest / FP8_MAX).max(f32::MIN_POSITIVE) };
        // The quotient may be rounded up, and the largest code times it beyond the largest number.
        if (scale * FP8_MAX).is_finite() { scale } else { scale.next_down() }
    };
    for scale in &mut scales {
        *scale = of_largest(*scale);
    }
    let mut codes = vec![0; weights.len()];
    codes.par_chunks_mut(row_len).zip(weights.par_chunks(row_len)).enumerate().for_each(|(row, (codes, weights))| {
        let runs = codes.chunks_mut(place.run()).zip(weights.chunks(place.run()));
        for (run, (codes, weights)) in runs.enumerate() {
            let scale = scales[place.of(row, run)];
            codes.iter_mut().zip(weights).for_each(|(code, weight)| *code = Fp8Code::nearest(weight / scale).0);
        }
    });
    Ok(Fp8Matrix { scale, row_len, codes, scales })
}

/// Where the scale of a weight is.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) scale: Fp8Scale,
    pub(super) row_len: usize,
}

impl Place {
    /// Weights of a row that share a scale.
    pub(super) fn run(self) -> usize {
        match self.scale {
            Fp8Scale::Tensor | Fp8Scale::Row => self.row_len,
            Fp8Scale::Block => Fp8Scale::BLOCK,
        }
    }

    /// The number of the scale of a row's run.
    pub(super) fn of(self, row: usize, run: usize) -> usize {
        match self.scale {
            Fp8Scale::Tensor => 0,
            Fp8Scale::Row => row,
            Fp8Scale::Block => row / Fp8Scale::BLOCK * self.row_len.div_ceil(Fp8Scale::BLOCK) + run,
        }
    }
}

impl Fp8Matrix {
    /// The weights that share a scale.
    pub fn scale(&self) -> Fp8Scale {
        self.scale
    }

    /// The codes, row by row.
    pub fn codes(&self) -> &[u8] {
        &self.codes
    }

    /// The scales, blocks row by row.
    pub fn scales(&self) -> &[f32] {
        &self.scales
    }

    pub(super) fn dequantize(&self) -> Vec<f32> {
        let place = Place { scale: self.scale, row_len: self.row_len };
        let values: Vec<f32> = (0..=u8::MAX).map(|code| Fp8Code(code).value()).collect();
        let mut weights = Vec::with_capacity(self.codes.len());
        for (row, codes) in self.codes.chunks(self.row_len).enumerate() {
            for (run, codes) in codes.chunks(place.run()).enumerate() {
                let scale = self.scales[place.of(row, run)];
                weights.extend(codes.iter().map(|code| values[usize::from(*code)] * scale));
            }
        }
        weights
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Tensor};

    use super::*;

    #[test]
    fn every_code_round_trips_and_is_candles() {
        let values: Vec<f32> = (0..=u8::MAX).map(|code| Fp8Code(code).value()).collect();
        for (code, value) in (0..=u8::MAX).zip(&values) {
            assert_eq!(Fp8Code::nearest(*value), Fp8Code(code), "{value}");
        }
        // Codes, halves between neighbours, numbers a little beside those, and beyond the ends.
        let mut samples: Vec<f32> = values.iter().copied().filter(|value| value.is_finite()).collect();
        samples.sort_by(f32::total_cmp);
        let halves: Vec<f32> = samples.windows(2).map(|pair| f32::midpoint(pair[0], pair[1])).collect();
        samples.extend(halves.iter().flat_map(|half| [*half, half * 1.0001, half * 0.9999]));
        samples.extend([1e-9, -1e-9, 447.9, 1e-40]);
        let tensor = Tensor::from_slice(&samples, samples.len(), &Device::Cpu).unwrap();
        let outside = tensor.to_dtype(DType::F8E4M3).unwrap().to_dtype(DType::F32).unwrap().to_vec1::<f32>().unwrap();
        for (sample, outside) in samples.iter().zip(outside) {
            assert_eq!(Fp8Code::nearest(*sample).value(), outside, "{sample}");
        }
        for huge in [448.1, 464.0, 500.0, 1e30, f32::INFINITY] {
            assert_eq!((Fp8Code::nearest(huge).value(), Fp8Code::nearest(-huge).value()), (FP8_MAX, -FP8_MAX));
        }
    }

    #[test]
    fn errors_stay_within_half_a_unit_for_every_scale() {
        let (rows, row_len) = (131, 160);
        let weights: Vec<f32> = (0..rows * row_len).map(|i| ((i * 37 % 1009) as f32 - 504.0) * 1e-3).collect();
        for scale in Fp8Scale::ALL {
            let matrix = quantize_fp8(&weights, row_len, scale).unwrap();
            assert_eq!(matrix.scales().len(), scale.count(rows, row_len));
            let place = Place { scale, row_len };
            for (index, (weight, restored)) in weights.iter().zip(matrix.dequantize()).enumerate() {
                let step = matrix.scales()[place.of(index / row_len, index % row_len / place.run())];
                let bound = (weight.abs() / 16.0).max(step / 1024.0) * 1.000_01;
                assert!((weight - restored).abs() <= bound, "{scale:?} at {index}: {weight} {restored}");
            }
        }
    }

    #[test]
    fn extremes_stay_finite() {
        for weights in [[0.0, 0.0], [1e-45, -1e-45], [f32::MAX, -f32::MAX], [f32::MAX, 1e-38]] {
            let restored = quantize_fp8(&weights, 2, Fp8Scale::Row).unwrap().dequantize();
            assert!(restored.iter().all(|weight| weight.is_finite()), "{weights:?} {restored:?}");
        }
    }
}
