use super::*;
use crate::compress::quantize_ggml;
use crate::compress::synthetic::Synthetic;

fn loss(weights: &[f32], packed: &PackedWeights, importance: &[f32]) -> f64 {
    let restored = packed.dequantize();
    let terms = weights.iter().zip(&restored).zip(importance.iter().cycle());
    terms.map(|((a, b), weight)| f64::from(*weight) * f64::from(a - b).powi(2)).sum()
}

#[test]
fn weighted_errors_are_never_worse_than_plain_ones() {
    let layer = Synthetic::new([70, 256], 512, 23);
    let weighted = importance(Some(&layer.calibration), 256);
    for format in GgmlType::ALL {
        let plain = quantize_ggml(&layer.dense, 256, format).unwrap();
        for importance in [&weighted, &vec![1.0; 256]] {
            let found = quantize_weighted(&layer.dense, 256, format, importance).unwrap();
            let ratio = loss(&layer.dense, &found, importance) / loss(&layer.dense, &plain, importance);
            // Six and eight bits leave little to search, and superblocks are searched without importance too.
            let is_searched = format.block_len() == 256 && importance[..] == [1.0; 256];
            let bound = if is_searched || matches!(format, GgmlType::Q6k | GgmlType::Q8_0) { 1.0 } else { 0.99 };
            assert!(ratio <= bound, "{}: {ratio}", format.name());
        }
        let found = quantize_weighted(&layer.dense, 256, format, &weighted).unwrap();
        let uniform = quantize_weighted(&layer.dense, 256, format, &[1.0; 256]).unwrap();
        assert!(loss(&layer.dense, &found, &weighted) <= loss(&layer.dense, &uniform, &weighted), "{}", format.name());
    }
}

/// Blocks written code by code are those that are dequantized: every line and every code of a block is read back.
#[test]
fn lines_and_codes_are_those_that_are_dequantized() {
    let mut state = 1_u32;
    let mut random = move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    for format in GgmlType::ALL {
        let len = format.block_len();
        let mut block: Vec<u8> = (0..format.block_bytes()).map(|_| random()).collect();
        put_steps(format, &mut block, f16::from_f32(-0.37), f16::from_f32(0.21));
        let (_, low, high) = codes(format);
        let written: Vec<u8> = (0..len).map(|_| low + random() % (high - low + u8::from(high < 255))).collect();
        put_codes(format, &mut block, &written);
        let mut of_runs = vec![Line::default(); len / run_len(format)];
        lines(format, &block, &mut of_runs);
        let expected: Vec<f32> =
            written.iter().enumerate().map(|(place, code)| of_runs[place / run_len(format)].value(*code)).collect();
        assert_eq!(dequantize_ggml(format, &block).unwrap(), expected, "{}", format.name());
        let steps: Vec<i8> = match format {
            GgmlType::Q6k => (0..16_i16).map(|run| (run * 15 - 121) as i8).collect(),
            GgmlType::Q3k => (0..16).map(|run| run * 4 - 32).collect(),
            GgmlType::Q2k => (0..16).collect(),
            _ => (0..8).map(|run| 9 * run).collect(),
        };
        let mins: Vec<i8> = steps.iter().rev().copied().collect();
        put_scales(format, &mut block, &steps, &mins);
        lines(format, &block, &mut of_runs);
        if format.block_len() == 256 {
            let step = f16::from_f32(-0.37).to_f32();
            let read: Vec<f32> = of_runs.iter().map(|line| line.step).collect();
            assert_eq!(read, steps.iter().map(|s| step * f32::from(*s)).collect::<Vec<f32>>(), "{}", format.name());
        }
        if matches!(format, GgmlType::Q2k | GgmlType::Q4k | GgmlType::Q5k) {
            let min = f16::from_f32(0.21).to_f32();
            let read: Vec<f32> = of_runs.iter().map(|line| line.min).collect();
            assert_eq!(read, mins.iter().map(|m| min * f32::from(*m)).collect::<Vec<f32>>(), "{}", format.name());
        }
    }
}

#[test]
fn extremes_are_packed_or_refused() {
    for format in GgmlType::ALL {
        for value in [0.0, 1e-30, -1e-7, 3.0, 6e4] {
            let mut weights = vec![value; 256];
            weights[7] = -value / 3.0;
            let packed = quantize_weighted(&weights, 256, format, &[1.0; 256]).unwrap().dequantize();
            assert!(packed.iter().all(|weight| weight.is_finite()), "{} {value}", format.name());
        }
        assert!(quantize_weighted(&[1e30; 256], 256, format, &[1.0; 256]).is_err(), "{}", format.name());
        assert!(quantize_weighted(&[1.0; 40], 40, format, &[1.0; 40]).is_err());
    }
}
