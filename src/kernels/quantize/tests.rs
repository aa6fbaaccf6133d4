use std::panic::catch_unwind;

use half::f16;

use super::*;

/// Uniform numbers from 0 to 1.
struct Random(u64);

impl Random {
    fn uniform(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1 << 24) as f32
    }

    /// A Gaussian number of variance 1.
    fn normal(&mut self) -> f32 {
        let radius = (-2.0 * (self.uniform() + 1e-8).ln()).sqrt();
        radius * (std::f32::consts::TAU * self.uniform()).cos()
    }

    fn byte(&mut self) -> u8 {
        (self.uniform() * 256.0) as u8
    }
}

/// Blocks of `len` of each kind of trouble, one kind after the other, eight times.
fn odd_weights(len: usize) -> Vec<f32> {
    let mut random = Random(7);
    let mut weights = Vec::new();
    for kind in (0..8).flat_map(|_| 0..20) {
        for place in 0..len {
            let sign = if random.uniform() < 0.5 { -1.0 } else { 1.0 };
            weights.push(match kind {
                // Zeros of both signs are the lowest.
                10 if random.uniform() < 0.75 => random.uniform(),
                1 | 10 => 0.0 * sign,
                2 => 0.75 * sign,
                3 => -3.0,
                4 => 5.0,
                5 if place == 17 => 1e4,
                6 if place == 17 => -1e4,
                5 | 6 => random.normal() * 1e-3,
                7 if place == 31 => 1e-3,
                0 | 7 => 0.0,
                8 => (random.uniform() * 9.0).floor() - 4.0,
                9 => (random.uniform() * 255.0).floor() - 127.0,
                11 => random.uniform() * -16.0,
                12 => random.uniform() * 16.0 + 100.0,
                13 => random.normal() * 1e-7,
                14 => random.normal() * 1e-20,
                15 => f32::from_bits(u32::from(random.byte())) * sign,
                16 => random.normal() * 1e4,
                17 => random.normal() - 50.0,
                18 => 2.0_f32.powi((random.uniform() * 30.0) as i32 - 20) * sign,
                _ => random.normal().powi(5),
            });
        }
    }
    weights
}

fn normal_weights(len: usize) -> Vec<f32> {
    let mut random = Random(42);
    (0..len).map(|_| random.normal() * 0.05).collect()
}

fn quantized(isa: Isa, kind: BlockType, weights: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0xA5; weights.len() / kind.block_len() * kind.block_bytes()];
    quantize_on(isa, kind, weights, &mut bytes);
    bytes
}

fn restored(isa: Isa, kind: BlockType, bytes: &[u8]) -> Vec<f32> {
    let mut values = vec![f32::NAN; bytes.len() / kind.block_bytes() * kind.block_len()];
    dequantize_on(isa, kind, bytes, &mut values);
    values
}

fn root_mean_square_error(kind: BlockType, weights: &[f32]) -> f64 {
    let values = restored(Isa::Portable, kind, &quantized(Isa::Portable, kind, weights));
    let squares = weights.iter().zip(&values).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2));
    (squares.sum::<f64>() / weights.len() as f64).sqrt()
}

/// The rule of the types of 32, weight by weight: step, minimum and codes.
fn reference(kind: BlockType, weights: &[f32]) -> (f16, Option<f16>, Vec<u8>) {
    let inverse_of = |step: f32| if step == 0.0 { 0.0 } else { 1.0 / step };
    match kind {
        BlockType::Q4_0 | BlockType::Q5_0 => {
            let zero = if kind == BlockType::Q4_0 { 8_u8 } else { 16 };
            let largest = weights.iter().fold(0.0_f32, |most, x| if x.abs() > most.abs() { *x } else { most });
            let step = largest / -f32::from(zero);
            let code = |x: &f32| ((x * inverse_of(step) + f32::from(zero) + 0.5) as u8).min(2 * zero - 1);
            (f16::from_f32(step), None, weights.iter().map(code).collect())
        }
        BlockType::Q4_1 | BlockType::Q5_1 => {
            let top = if kind == BlockType::Q4_1 { 15_u8 } else { 31 };
            let low = weights.iter().fold(f32::MAX, |low, x| if *x < low { *x } else { low });
            let high = weights.iter().fold(f32::MIN, |high, x| if *x > high { *x } else { high });
            let step = (high - low) / f32::from(top);
            let code = |x: &f32| (((x - low) * inverse_of(step) + 0.5) as u8).min(top);
            (f16::from_f32(step), Some(f16::from_f32(low)), weights.iter().map(code).collect())
        }
        _ => {
            let largest = weights.iter().fold(0.0_f32, |most, x| x.abs().max(most));
            let step = largest / 127.0;
            let code = |x: &f32| ((x * inverse_of(step)).round() as i8).cast_unsigned();
            (f16::from_f32(step), None, weights.iter().map(code).collect())
        }
    }
}

/// Code `place` of a block and, where codes have scales of their own, its step and minimum before the block's.
fn entry(kind: BlockType, block: &[u8], place: usize) -> (i32, Option<(i32, i32)>) {
    let nibble = |at: usize, half: usize| i32::from(block[at + place % half] >> (place / half % 2 * 4) & 15);
    let (run, quarter) = (place / 16, place % 128 / 32);
    let crumb = |at: usize| i32::from(block[at + place / 128 * 32 + place % 32] >> (2 * quarter) & 3);
    match kind {
        BlockType::Q4_0 => (nibble(2, 16) - 8, None),
        BlockType::Q4_1 => (nibble(4, 16), None),
        BlockType::Q5_0 => (nibble(6, 16) + 16 * i32::from(block[2 + place / 8] >> (place % 8) & 1) - 16, None),
        BlockType::Q5_1 => (nibble(8, 16) + 16 * i32::from(block[4 + place / 8] >> (place % 8) & 1), None),
        BlockType::Q8_0 => (i32::from(block[2 + place].cast_signed()), None),
        BlockType::Q2k => (crumb(16), Some((i32::from(block[run] & 15), i32::from(block[run] >> 4)))),
        BlockType::Q3k => {
            let high = i32::from(block[place % 32] >> (place / 32) & 1);
            let packed = &block[96..108];
            let low_scale = if run < 8 { packed[run] & 15 } else { packed[run - 8] >> 4 };
            let scale = low_scale | (packed[8 + run % 4] >> (run / 4 * 2) & 3) << 4;
            (crumb(32) + 4 * high - 4, Some((i32::from(scale) - 32, 0)))
        }
        BlockType::Q4k | BlockType::Q5k => {
            let packed = &block[4..16];
            let run = place / 32;
            let (scale, min) = if run < 4 {
                (packed[run] & 63, packed[run + 4] & 63)
            } else {
                (packed[run + 4] & 15 | packed[run - 4] >> 6 << 4, packed[run + 4] >> 4 | packed[run] >> 6 << 4)
            };
            let at = if kind == BlockType::Q4k { 16 } else { 48 };
            let high = if kind == BlockType::Q4k { 0 } else { block[16 + place % 32] >> run & 1 };
            let low = block[at + place / 64 * 32 + place % 32] >> (run % 2 * 4) & 15;
            (i32::from(low) + 16 * i32::from(high), Some((i32::from(scale), i32::from(min))))
        }
        BlockType::Q6k => {
            let low = block[place / 128 * 64 + place % 64] >> (place % 128 / 64 * 4) & 15;
            let high = block[128 + place / 128 * 32 + place % 32] >> (2 * quarter) & 3;
            (i32::from(low | high << 4) - 32, Some((i32::from(block[192 + run].cast_signed()), 0)))
        }
    }
}

/// Where the block's step lies, and its minimum.
fn places(kind: BlockType) -> (usize, Option<usize>) {
    match kind {
        BlockType::Q4_0 | BlockType::Q5_0 | BlockType::Q8_0 => (0, None),
        BlockType::Q4_1 | BlockType::Q5_1 | BlockType::Q4k | BlockType::Q5k => (0, Some(2)),
        BlockType::Q2k => (80, Some(82)),
        BlockType::Q3k => (108, None),
        BlockType::Q6k => (208, None),
    }
}

fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// The value of weight `place` of a block, by the definition of its type.
pub(in crate::kernels) fn value(kind: BlockType, block: &[u8], place: usize) -> f32 {
    let (at_step, at_min) = places(kind);
    let step = half_at(block, at_step);
    match (entry(kind, block, place), at_min) {
        ((code, None), None) => code as f32 * step,
        ((code, None), Some(at)) => code as f32 * step + half_at(block, at),
        ((code, Some((scale, _))), None) => step * scale as f32 * code as f32,
        ((code, Some((scale, min))), Some(at)) => step * scale as f32 * code as f32 - half_at(block, at) * min as f32,
    }
}

const SMALL: [BlockType; 5] = [BlockType::Q4_0, BlockType::Q4_1, BlockType::Q5_0, BlockType::Q5_1, BlockType::Q8_0];

#[test]
fn types_of_32_follow_the_reference_bit_for_bit() {
    let weights: Vec<f32> = [odd_weights(32), normal_weights(32 * 500)].concat();
    for kind in SMALL {
        let bytes = quantized(Isa::Portable, kind, &weights);
        let (at_step, at_min) = places(kind);
        for (block, weights) in bytes.chunks(kind.block_bytes()).zip(weights.chunks(32)) {
            let (step, min, codes) = reference(kind, weights);
            assert_eq!(block[at_step..at_step + 2], step.to_le_bytes(), "{} {weights:?}", kind.name());
            if let (Some(at), Some(min)) = (at_min, min) {
                assert_eq!(block[at..at + 2], min.to_le_bytes(), "{} {weights:?}", kind.name());
            }
            let zero = match kind {
                BlockType::Q4_0 => 8,
                BlockType::Q5_0 => 16,
                _ => 0,
            };
            let found: Vec<u8> = (0..32).map(|place| (entry(kind, block, place).0 + zero) as u8).collect();
            assert_eq!(found, codes, "{} {weights:?}", kind.name());
        }
    }
}

#[test]
fn every_instruction_set_and_any_split_gives_the_same_bytes() {
    for kind in BlockType::ALL {
        let len = kind.block_len();
        let weights = [odd_weights(len), normal_weights(len * 43), not_finite(len)].concat();
        let whole = quantized(Isa::Portable, kind, &weights);
        for isa in Isa::available() {
            assert_eq!(quantized(isa, kind, &weights), whole, "{} {}", kind.name(), isa.name());
            for blocks in [1, 2, 3, 33] {
                let parts = weights.chunks(blocks * len).flat_map(|part| quantized(isa, kind, part));
                assert!(parts.eq(whole.iter().copied()), "{} {} {blocks}", kind.name(), isa.name());
            }
        }
    }
}

#[test]
fn large_inputs_are_shared_without_a_difference() {
    let weights = normal_weights(2 * MANY + 256);
    for kind in BlockType::ALL {
        let mut bytes = vec![0; weights.len() / kind.block_len() * kind.block_bytes()];
        quantize(kind, &weights, weights.len(), &mut bytes);
        let mut alone = vec![0; bytes.len()];
        quantize_share(Isa::current(), kind, &weights, &mut alone);
        assert!(bytes == alone, "{}", kind.name());
        let mut values = vec![f32::NAN; weights.len()];
        dequantize(kind, &bytes, &mut values);
        assert!(values == restored(Isa::Portable, kind, &bytes), "{}", kind.name());
    }
}

#[test]
fn values_are_those_of_the_layout() {
    let mut random = Random(3);
    for kind in BlockType::ALL {
        let mut bytes: Vec<u8> = (0..kind.block_bytes() * 37).map(|_| random.byte()).collect();
        let (at_step, at_min) = places(kind);
        for block in bytes.chunks_mut(kind.block_bytes()) {
            for at in [Some(at_step), at_min].into_iter().flatten() {
                let exponent = (random.uniform() * 30.0) as i32 - 20;
                let step = f16::from_f32(random.normal() * 2.0_f32.powi(exponent));
                block[at..at + 2].copy_from_slice(&step.to_le_bytes());
            }
        }
        for isa in Isa::available() {
            let values = restored(isa, kind, &bytes);
            let blocks = bytes.chunks(kind.block_bytes()).zip(values.chunks(kind.block_len()));
            for (block, values) in blocks {
                for (place, found) in values.iter().enumerate() {
                    let expected = value(kind, block, place);
                    assert_eq!(found.to_bits(), expected.to_bits(), "{} {} {place}", kind.name(), isa.name());
                }
            }
        }
    }
}

/// The limits are what the reference of llama.cpp leaves on Gaussian weights, relative to their standard deviation.
#[test]
fn searched_types_leave_less_error_than_the_reference() {
    let weights = normal_weights(256 * 400);
    let limits = [
        (BlockType::Q2k, 0.2963),
        (BlockType::Q3k, 0.1508),
        (BlockType::Q4k, 0.0714),
        (BlockType::Q5k, 0.0361),
        (BlockType::Q6k, 0.0177),
    ];
    for (kind, limit) in limits {
        let ratio = root_mean_square_error(kind, &weights) / 0.05;
        assert!(ratio < limit, "{}: {ratio}", kind.name());
    }
}

#[test]
fn odd_blocks_stay_near_their_weights() {
    for kind in BlockType::ALL {
        let len = kind.block_len();
        let weights = odd_weights(len);
        let values = restored(Isa::Portable, kind, &quantized(Isa::Portable, kind, &weights));
        let bits = kind.block_bytes() as f32 * 8.0 / len as f32;
        for (number, (weights, values)) in weights.chunks(len).zip(values.chunks(len)).enumerate() {
            let largest = weights.iter().fold(0.0_f32, |most, x| x.abs().max(most));
            let worst = weights.iter().zip(values).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            // Half a unit of the smallest f16 comes on top for the smallest.
            let limit = largest * 2.2 / (bits - 0.7).exp2() + 1e-6;
            assert!(worst <= limit, "{} {number}: {worst} > {limit}", kind.name());
        }
        assert!(values[..2 * len].iter().all(|value| *value == 0.0), "{}: zeros", kind.name());
    }
}

fn not_finite(len: usize) -> Vec<f32> {
    let mut weights = Vec::new();
    for (block, odd) in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN].into_iter().enumerate() {
        weights.extend((0..len).map(|place| if place % 19 == block { odd } else { place as f32 - 11.0 }));
        weights.extend((0..len).map(|_| odd));
    }
    weights
}

#[test]
fn nothing_panics_and_overflow_shows() {
    for kind in BlockType::ALL {
        let bytes = quantized(Isa::Portable, kind, &not_finite(kind.block_len()));
        restored(Isa::Portable, kind, &bytes);
        let mut random = Random(11);
        let noise: Vec<u8> = (0..kind.block_bytes() * 64).map(|_| random.byte()).collect();
        restored(Isa::Portable, kind, &noise);
        // Scales beyond f16 give values that are not finite, so that a caller sees them.
        for size in [8.5e6, 1e7, 1e12, 1e18] {
            let weights: Vec<f32> = (0..kind.block_len()).map(|_| random.normal() * size).collect();
            let values = restored(Isa::Portable, kind, &quantized(Isa::Portable, kind, &weights));
            let is_beyond = size > 1e7 || !matches!(kind, BlockType::Q6k);
            assert!(!is_beyond || values.iter().any(|value| !value.is_finite()), "{} {size}", kind.name());
        }
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the panic is what is tested")]
fn lengths_that_do_not_fit_are_refused() {
    for kind in BlockType::ALL {
        let (len, size) = (kind.block_len(), kind.block_bytes());
        let refused = |weights: usize, row_len: usize, bytes: usize| {
            catch_unwind(|| quantize(kind, &vec![0.0; weights], row_len, &mut vec![0; bytes])).is_err()
        };
        assert!(!refused(2 * len, len, 2 * size));
        assert!(!refused(0, len, 0));
        assert!(refused(2 * len, len / 2, 2 * size));
        assert!(refused(2 * len, 0, 2 * size));
        assert!(refused(len, 2 * len, size));
        assert!(refused(2 * len, len, 2 * size - 1));
        assert!(catch_unwind(|| dequantize(kind, &vec![0; size + 1], &mut vec![0.0; len])).is_err());
        assert!(catch_unwind(|| dequantize(kind, &vec![0; size], &mut vec![0.0; 2 * len])).is_err());
    }
}
