//! Rows against the formulas of GGML; products against f64, against each other on every set of instructions, and alone
//! against in a batch.

use half::f16;

use super::super::activations::Activations;
use super::super::block_type::BlockType;
use super::super::isa::Isa;
use super::super::quantize::tests::value;
use super::{Blocks, run};

/// A plain generator of test data.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as u32
    }

    /// In -1..1.
    fn float(&mut self) -> f32 {
        self.next() as f32 / (1_u32 << 30) as f32 - 1.0
    }

    /// Any bytes make codes and scales; steps are made small and finite.
    fn blocks(&mut self, kind: BlockType, n: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..n * kind.block_bytes()).map(|_| self.next() as u8).collect();
        let (step, min) = super::ggml::steps(kind);
        for block in bytes.chunks_exact_mut(kind.block_bytes()) {
            for at in [Some(step), min].into_iter().flatten() {
                block[at..at + 2].copy_from_slice(&f16::from_f32(self.float() * 0.01).to_le_bytes());
            }
        }
        bytes
    }
}

/// Weights `(n_outputs, n_inputs)`.
fn weights(kind: BlockType, bytes: &[u8]) -> Vec<f32> {
    let blocks = bytes.chunks_exact(kind.block_bytes());
    blocks.flat_map(|block| (0..kind.block_len()).map(|place| value(kind, block, place))).collect()
}

fn activations(values: &[f32], n_inputs: usize) -> Activations {
    let mut x = Activations::default();
    x.start(values.len() / n_inputs, n_inputs).copy_from_slice(values);
    x
}

fn product(blocks: &Blocks, values: &[f32], isa: Isa) -> Vec<f32> {
    let n_rows = values.len() / blocks.n_inputs();
    let mut y = vec![f32::NAN; n_rows * blocks.n_outputs()];
    run::multiply(blocks, &mut activations(values, blocks.n_inputs()), &mut y, isa);
    y
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn rows_are_those_of_ggml() {
    let mut random = Random(1);
    for kind in BlockType::ALL {
        for (n_outputs, n_blocks) in [(1, 1), (16, 2), (37, 3)] {
            let n_inputs = n_blocks * kind.block_len();
            let bytes = random.blocks(kind, n_outputs * n_blocks);
            let blocks = Blocks::pack(kind, &bytes, n_outputs, n_inputs);
            assert_eq!(blocks.bytes(), n_outputs.next_multiple_of(16) * n_blocks * kind.block_bytes());
            let mut row = vec![0.0; n_inputs];
            for (output, expected) in weights(kind, &bytes).chunks_exact(n_inputs).enumerate() {
                blocks.row(output, &mut row);
                assert_eq!(bits(&row), bits(expected), "{} row {output}", kind.name());
            }
        }
    }
}

#[test]
fn products_are_those_of_rounded_inputs() {
    let mut random = Random(2);
    for kind in BlockType::ALL {
        for (n_rows, n_outputs, n_blocks) in [(1, 1, 1), (2, 16, 9), (3, 17, 2), (7, 40, 1), (16, 33, 3), (33, 50, 2)] {
            let n_inputs = n_blocks * kind.block_len();
            let bytes = random.blocks(kind, n_outputs * n_blocks);
            let weights = weights(kind, &bytes);
            let blocks = Blocks::pack(kind, &bytes, n_outputs, n_inputs);
            let values: Vec<f32> = (0..n_rows * n_inputs).map(|_| random.float() * 3.0).collect();
            let rounded: Vec<f64> = values.chunks_exact(32).flat_map(rounded).collect();
            for isa in Isa::available() {
                let y = product(&blocks, &values, isa);
                for (i, y) in y.iter().enumerate() {
                    let (x, w) = (&rounded[i / n_outputs * n_inputs..], &weights[i % n_outputs * n_inputs..]);
                    let terms = x.iter().zip(w).take(n_inputs).map(|(x, w)| x * f64::from(*w));
                    let (sum, size) = terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()));
                    let error = (f64::from(*y) - sum).abs();
                    assert!(error <= 2e-6 * size, "{} on {}: {y} for {sum}", kind.name(), isa.name());
                }
            }
        }
    }
}

/// A unit of inputs as the product sees it.
fn rounded(values: &[f32]) -> Vec<f64> {
    let largest = values.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
    let codes = values.iter().map(|value| f64::from((value * (127.0 / largest)).round_ties_even()));
    codes.map(|code| code * f64::from(largest / 127.0)).collect()
}

#[test]
fn every_set_gives_the_same_bits_for_a_row_alone_and_in_a_batch() {
    let mut random = Random(3);
    for kind in BlockType::ALL {
        let (n_outputs, n_inputs) = (75, kind.block_len() * 3);
        let blocks = Blocks::pack(kind, &random.blocks(kind, n_outputs * 3), n_outputs, n_inputs);
        let values: Vec<f32> = (0..45 * n_inputs).map(|_| random.float()).collect();
        let rows: Vec<&[f32]> = values.chunks_exact(n_inputs).collect();
        let alone: Vec<f32> = rows.iter().flat_map(|row| product(&blocks, row, Isa::Portable)).collect();
        for isa in Isa::available() {
            for n_rows in (1..=33).chain([45]) {
                let y = product(&blocks, &values[..n_rows * n_inputs], isa);
                assert_eq!(bits(&y), bits(&alone[..n_rows * n_outputs]), "{} {n_rows} on {}", kind.name(), isa.name());
            }
        }
    }
}

#[test]
fn extremes_of_codes_and_inputs_do_not_overflow() {
    for kind in BlockType::ALL {
        let n_inputs = 1024.max(kind.block_len());
        for byte in [0, 127, 128, 255] {
            let mut bytes = vec![byte; 20 * n_inputs / kind.block_len() * kind.block_bytes()];
            let (step, min) = super::ggml::steps(kind);
            for block in bytes.chunks_exact_mut(kind.block_bytes()) {
                for at in [Some(step), min].into_iter().flatten() {
                    block[at..at + 2].copy_from_slice(&f16::ONE.to_le_bytes());
                }
            }
            let blocks = Blocks::pack(kind, &bytes, 20, n_inputs);
            let weights = weights(kind, &bytes);
            for value in [0.0, -0.0, 1.0, -1.0, 1e30, -1e30, 1e-40, 1e-44] {
                let values = vec![value; 5 * n_inputs];
                let sum: f64 = weights[..n_inputs].iter().map(|w| f64::from(*w) * f64::from(value)).sum();
                for isa in Isa::available() {
                    for y in product(&blocks, &values, isa) {
                        let error = (f64::from(y) - sum).abs();
                        let bound = 1e-5 * sum.abs() + 1e-28;
                        assert!(error <= bound, "{} {value} on {}: {y} for {sum}", kind.name(), isa.name());
                    }
                }
            }
        }
    }
}

#[test]
fn what_is_not_finite_shows_in_every_output_of_its_row() {
    let mut random = Random(5);
    for kind in BlockType::ALL {
        let n_inputs = kind.block_len() * 2;
        let blocks = Blocks::pack(kind, &random.blocks(kind, 18 * 2), 18, n_inputs);
        for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut values: Vec<f32> = (0..6 * n_inputs).map(|_| random.float()).collect();
            values[3 * n_inputs + 7] = bad;
            for isa in Isa::available() {
                for (i, y) in product(&blocks, &values, isa).iter().enumerate() {
                    assert_eq!(y.is_finite(), i / 18 != 3, "{} on {}", kind.name(), isa.name());
                }
            }
        }
    }
}

#[test]
fn inputs_are_rounded_again_after_a_start() {
    let mut random = Random(6);
    let mut x = Activations::default();
    let kinds = [BlockType::Q4_0, BlockType::Q6k, BlockType::Q4_1, BlockType::Q2k, BlockType::Q3k, BlockType::Q4_0];
    for (round, n_rows) in [20, 3, 33].into_iter().enumerate() {
        let n_inputs = 256 * (3 - round);
        let values: Vec<f32> = (0..n_rows * n_inputs).map(|_| random.float()).collect();
        x.start(n_rows, n_inputs).copy_from_slice(&values);
        assert_eq!((x.values(), x.n_rows(), x.n_inputs()), (&*values, n_rows, n_inputs));
        for kind in kinds {
            let bytes = random.blocks(kind, 19 * n_inputs / kind.block_len());
            let blocks = Blocks::pack(kind, &bytes, 19, n_inputs);
            let mut y = vec![f32::NAN; n_rows * 19];
            blocks.multiply(&mut x, &mut y);
            assert_eq!(bits(&y), bits(&product(&blocks, &values, Isa::current())));
        }
    }
}
