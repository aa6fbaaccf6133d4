//! Every kernel, run by the emulation, beside the processor's own loops and the definitions.

use std::rc::Rc;

use half::{bf16, f16};

use crate::compress::{ActivationGrid, PackedWeights, quantize_fp8, quantize_ggml, round_to_nearest};
use crate::cuda::card::{Buffer, Card, Launch};
use crate::cuda::emulated_card::EmulatedCard;
use crate::cuda::matrix::{Matrix, Onto};
use crate::cuda::rounding::Rounding;
use crate::kernels::{Activation, HeadShape, Rows, Sight, add_and_norm, attend, divergence, gate, rms_norm};
use crate::model::GgmlType;
use crate::nn::toy::noise;
use crate::recipe::{Execution, Fp8Scale, Group, IntFormat};

fn card() -> Rc<dyn Card> {
    Rc::new(EmulatedCard::without_library())
}

fn values(seed: usize, n: usize, scale: f32) -> Vec<f32> {
    (0..n).map(|i| noise(seed, i, scale)).collect()
}

fn read(buffer: &Buffer, n: usize) -> Vec<f32> {
    let mut values = vec![0.0; n];
    buffer.read(&mut values).unwrap();
    values
}

/// Products of every count of rows, and rows by number, of one matrix.
fn check(packed: &PackedWeights, [outputs, inputs]: [usize; 2], grid: ActivationGrid, scale: f32, what: &str) {
    let card = card();
    let matrix = Matrix::new(&card, &Rc::default(), packed, [outputs, inputs], Execution::Packed, grid).unwrap();
    let weights = packed.dequantize();
    let bias = values(9, outputs, 1.0);
    let bias_buffer = Buffer::of(&card, &bias).unwrap();
    for rows in [1, 2, 8, 11] {
        let x = values(rows, rows * inputs, scale);
        let rounding = Rounding::new(&card, rows, inputs).unwrap();
        let (on_card, y) = (Buffer::of(&card, &x).unwrap(), Buffer::floats(&card, rows * outputs).unwrap());
        let input = rounding.of(on_card.address(), rows);
        matrix.multiply(input, grid, y.address(), bias_buffer.address(), Onto::Nothing).unwrap();
        let mut found = read(&y, rows * outputs);
        if grid == ActivationGrid::Float {
            // Twice the product, once the bias.
            matrix.multiply(input, grid, y.address(), 0, Onto::Output).unwrap();
            let twice = read(&y, rows * outputs);
            for ((found, twice), bias) in found.iter_mut().zip(twice).zip(bias.iter().cycle()) {
                *found = (twice - bias) / 2.0 + bias;
            }
        }
        for (row, (x, found)) in x.chunks(inputs).zip(found.chunks(outputs)).enumerate() {
            let x = rounded(x, grid);
            for (output, (weights, found)) in weights.chunks(inputs).zip(found).enumerate() {
                let terms = || x.iter().zip(weights).map(|(x, w)| f64::from(*x) * f64::from(*w));
                let (sum, size) = (terms().sum::<f64>(), terms().map(f64::abs).sum::<f64>());
                let exact = sum + f64::from(bias[output]);
                // A lane's chain of additions, then five of the warp; the bias and its removal round once each.
                let bound = (inputs as f64 / 32.0 + 8.0) * 1.2e-7 * size + 4e-7 * (1.0 + exact.abs() + size);
                let error = (f64::from(*found) - exact).abs();
                assert!(error <= bound, "{what} {rows} rows, {row} {output}: {found} {exact} ± {bound}");
            }
        }
    }
    if !matrix.takes_tokens() {
        let ids = [outputs as u32 - 1, 0, outputs as u32 / 2];
        let (ids_buffer, hidden) = (Buffer::of(&card, &ids).unwrap(), Buffer::floats(&card, 3 * inputs).unwrap());
        matrix.gather(ids_buffer.address(), 3, hidden.address()).unwrap();
        let found = read(&hidden, 3 * inputs);
        for (id, found) in ids.iter().zip(found.chunks(inputs)) {
            let expected = &weights[*id as usize * inputs..][..inputs];
            for (found, expected) in found.iter().zip(expected) {
                let bound = expected.abs() * 3e-7 + f32::MIN_POSITIVE + 2e-7 * scale_of(&weights);
                assert!((found - expected).abs() <= bound, "{what} row {id}: {found} {expected}");
            }
        }
    }
}

fn scale_of(weights: &[f32]) -> f32 {
    weights.iter().fold(0.0, |most: f32, weight| most.max(weight.abs()))
}

fn rounded(x: &[f32], grid: ActivationGrid) -> Vec<f32> {
    let scale = match grid {
        ActivationGrid::Float => return x.to_vec(),
        ActivationGrid::Int8PerToken => scale_of(x) / 127.5,
        ActivationGrid::Int8Static { scale } => scale,
    };
    x.iter()
        .map(|x| if scale > 0.0 { (x / scale).round_ties_even().clamp(-128.0, 127.0) * scale } else { 0.0 })
        .collect()
}

#[test]
fn float_products_are_within_their_bound() {
    for (outputs, inputs) in [(5, 64), (7, 41), (4, 1000), (9, 3)] {
        for scale in [1.0, 1e-30, 1e15] {
            let weights = values(1, outputs * inputs, 0.5);
            let shape = [outputs, inputs];
            let what = |name: &str| format!("{name} {outputs} × {inputs} by {scale}");
            let packed = [
                ("f32", PackedWeights::F32(weights.clone())),
                ("f16", PackedWeights::F16(weights.iter().map(|w| f16::from_f32(*w)).collect())),
                ("bf16", PackedWeights::Bf16(weights.iter().map(|w| bf16::from_f32(*w)).collect())),
                ("zeros", PackedWeights::F16(vec![f16::ZERO; weights.len()])),
            ];
            for (name, packed) in packed {
                check(&packed, shape, ActivationGrid::Float, scale, &what(name));
            }
            for fp8 in [Fp8Scale::Tensor, Fp8Scale::Row, Fp8Scale::Block] {
                let packed = PackedWeights::Fp8(quantize_fp8(&weights, inputs, fp8).unwrap());
                check(&packed, shape, ActivationGrid::Float, scale, &what("fp8"));
            }
        }
    }
    let weights = values(2, 130 * 300, 0.5);
    let packed = PackedWeights::Fp8(quantize_fp8(&weights, 300, Fp8Scale::Block).unwrap());
    check(&packed, [130, 300], ActivationGrid::Float, 1.0, "fp8 squares");
}

#[test]
fn small_and_huge_halves_keep_their_values() {
    let all: Vec<f16> = (0..=u16::MAX).map(f16::from_bits).filter(|half| half.is_finite()).collect();
    let packed = PackedWeights::F16(all[..63_488].to_vec());
    let card = card();
    let matrix =
        Matrix::new(&card, &Rc::default(), &packed, [62, 1024], Execution::Packed, ActivationGrid::Float).unwrap();
    let ids: Vec<u32> = (0..62).collect();
    let (ids, out) = (Buffer::of(&card, &ids).unwrap(), Buffer::floats(&card, 63_488).unwrap());
    matrix.gather(ids.address(), 62, out.address()).unwrap();
    assert_eq!(read(&out, 63_488), packed.dequantize());
}

#[test]
fn grid_products_are_within_their_bound() {
    let shapes = [(6, 64), (5, 96), (3, 320)];
    for (outputs, inputs) in shapes {
        let weights = values(3, outputs * inputs, 0.7);
        for bits in [4, 8] {
            for group in [Group::Row, Group::Size(32), Group::Size(16)] {
                for symmetric in [true, false] {
                    let format = IntFormat { bits, group, symmetric };
                    if !inputs.is_multiple_of(group.len(inputs)) {
                        continue;
                    }
                    let packed = PackedWeights::Int(round_to_nearest(&weights, inputs, format).unwrap());
                    let what = format!("{format:?} {outputs} × {inputs}");
                    let grids = [
                        ActivationGrid::Float,
                        ActivationGrid::Int8PerToken,
                        ActivationGrid::Int8Static { scale: 0.01 },
                    ];
                    for grid in grids {
                        check(&packed, [outputs, inputs], grid, 1.0, &what);
                    }
                    check(&packed, [outputs, inputs], ActivationGrid::Int8PerToken, 0.0, &what);
                }
            }
        }
    }
    // Odd rows of 8-bit codes, whole and in the product of integers.
    let format = IntFormat { bits: 8, group: Group::Row, symmetric: true };
    let packed = PackedWeights::Int(round_to_nearest(&values(4, 5 * 77, 0.7), 77, format).unwrap());
    check(&packed, [5, 77], ActivationGrid::Float, 1.0, "int8 odd");
    check(&packed, [5, 77], ActivationGrid::Int8PerToken, 1.0, "int8 × int8 odd");
    let format = IntFormat { bits: 4, ..format };
    let packed = PackedWeights::Int(round_to_nearest(&values(4, 5 * 77, 0.7), 77, format).unwrap());
    check(&packed, [5, 77], ActivationGrid::Float, 1.0, "int4 odd");
}

#[test]
fn block_products_are_within_their_bound() {
    for format in GgmlType::ALL {
        let wide = if crate::compress::block_type(format).block_len() == 32 { [32, 96, 224] } else { [256, 512, 1280] };
        for (outputs, inputs) in [5, 3, 2].into_iter().zip(wide) {
            for scale in [0.3, 0.0, 20.0] {
                let weights = values(5, outputs * inputs, scale);
                let packed = quantize_ggml(&weights, inputs, format).unwrap();
                check(&packed, [outputs, inputs], ActivationGrid::Float, 1.0, &format!("{format:?} × {inputs}"));
            }
        }
    }
}

#[test]
fn what_is_no_number_shows() {
    let card = card();
    let packed = PackedWeights::F32(values(1, 2 * 32, 1.0));
    let format = IntFormat { bits: 8, group: Group::Row, symmetric: true };
    let ints = PackedWeights::Int(round_to_nearest(&values(1, 2 * 32, 1.0), 32, format).unwrap());
    let rounding = Rounding::new(&card, 1, 32).unwrap();
    for bad in [f32::NAN, f32::INFINITY] {
        let mut x = values(2, 32, 1.0);
        x[17] = bad;
        let (x, y) = (Buffer::of(&card, &x).unwrap(), Buffer::floats(&card, 2).unwrap());
        let input = rounding.of(x.address(), 1);
        for (packed, grid) in [
            (&packed, ActivationGrid::Float),
            (&packed, ActivationGrid::Int8PerToken),
            (&ints, ActivationGrid::Int8PerToken),
        ] {
            let matrix = Matrix::new(&card, &Rc::default(), packed, [2, 32], Execution::Packed, grid).unwrap();
            matrix.multiply(input, grid, y.address(), 0, Onto::Nothing).unwrap();
            assert!(read(&y, 2).iter().all(|value| !value.is_finite()), "{grid:?}");
        }
    }
}

#[test]
fn norms_and_gates_are_the_processor_s() {
    let card = card();
    for (rows, width) in [(1, 64), (3, 300), (2, 7)] {
        let weight = values(1, width, 1.0);
        for scale in [1.0, 1e-12, 1e12, 0.0] {
            let (hidden, added) = (values(2, rows * width, scale), values(3, rows * width, scale));
            let mut expected = vec![0.0; hidden.len()];
            let buffers = [&hidden, &added, &weight].map(|values| Buffer::of(&card, values).unwrap());
            let out = Buffer::floats(&card, hidden.len()).unwrap();
            for adds in [false, true] {
                let mut stream = hidden.clone();
                if adds {
                    add_and_norm(&mut stream, &added, &weight, 1e-5, &mut expected);
                } else {
                    rms_norm(&stream, &weight, 1e-5, &mut expected);
                }
                let [hidden, added, weight] = buffers.each_ref().map(Buffer::address);
                let added = if adds { added } else { 0 };
                let args = [hidden, added, weight, out.address(), width as u64, f64::from(1e-5_f32).to_bits()];
                card.launch(Launch { kernel: "rms_norm", grid: [rows, 1, 1], threads: 256, args: &args }).unwrap();
                assert_eq!(read(&buffers[0], stream.len()), stream);
                for (found, expected) in read(&out, expected.len()).iter().zip(&expected) {
                    assert!((found - expected).abs() <= 2e-6 * expected.abs().max(1e-6), "{found} {expected}");
                }
            }
        }
    }
    let (x, up) = (values(1, 1000, 12.0), values(2, 1000, 1.0));
    for (kind, activation) in [Activation::Silu, Activation::GeluTanh, Activation::Gelu].into_iter().enumerate() {
        let mut expected = vec![0.0; x.len()];
        gate(&x, &up, activation, &mut expected);
        let buffers = [&x, &up].map(|values| Buffer::of(&card, values).unwrap());
        let args = [buffers[0].address(), buffers[1].address(), 1000, kind as u64];
        card.launch(Launch { kernel: "gate", grid: [4, 1, 1], threads: 256, args: &args }).unwrap();
        for (found, expected) in read(&buffers[0], 1000).iter().zip(&expected) {
            assert!((found - expected).abs() <= 5e-6 * (0.1 + expected.abs()), "{activation:?}: {found} {expected}");
        }
    }
}

#[test]
fn logits_reduce_as_on_the_processor() {
    let card = card();
    for (n, scale) in [(1, 1.0), (33, 3.0), (512, 30.0), (3000, 80.0)] {
        let (reference, mut variant) = (values(1, 3 * n, scale), values(2, 3 * n, scale));
        // One row is equal to the reference's, one has a logit that is no number.
        variant[..n].copy_from_slice(&reference[..n]);
        variant[2 * n] = f32::INFINITY;
        let targets = [n as u32 / 2, n as u32 - 1, 0];
        let buffers = [&reference, &variant].map(|values| Buffer::of(&card, values).unwrap());
        let (ids, out) = (Buffer::of(&card, &targets).unwrap(), Buffer::zeroed(&card, 3 * 4 * 8).unwrap());
        let args = [buffers[0].address(), buffers[1].address(), ids.address(), out.address(), n as u64];
        card.launch(Launch { kernel: "divergence", grid: [3, 1, 1], threads: 512, args: &args }).unwrap();
        let mut found = [[0.0_f64; 4]; 3];
        out.read(found.as_flattened_mut()).unwrap();
        for row in 0..2 {
            let range = row * n..(row + 1) * n;
            let expected = divergence(&reference[range.clone()], &variant[range], targets[row] as usize);
            let numbers = [expected.nll, expected.reference_nll, expected.kl];
            for (found, expected) in found[row].iter().zip(numbers) {
                assert!((found - expected).abs() < 4e-6 * (1.0 + expected.abs()), "{n}: {found} {expected}");
            }
            assert_eq!(found[row][3] > 0.5, expected.same_top1);
        }
        assert_eq!(found[0][2], 0.0);
        assert!(!found[2][0].is_finite() && !found[2][2].is_finite() && found[2][1].is_finite());
    }
}

#[test]
fn choices_follow_the_shares() {
    let card = card();
    let n = 700;
    let logits = values(6, n, 2.0);
    let exact: Vec<f64> = logits.iter().map(|logit| (f64::from(*logit) / 0.7).exp()).collect();
    let total: f64 = exact.iter().sum();
    let buffer = Buffer::of(&card, &logits).unwrap();
    let token = Buffer::of(&card, &[0_u32]).unwrap();
    for draw in [0.0, 0.013, 0.37, 0.5, 0.9999] {
        let (draws, counters) = (Buffer::of(&card, &[9.0, draw]).unwrap(), Buffer::of(&card, &[5_i32, 1]).unwrap());
        let [buffer, draws, counts, out] = [&buffer, &draws, &counters, &token].map(Buffer::address);
        let args = [buffer, n as u64, 0.7_f64.to_bits(), draws, counts, out];
        card.launch(Launch { kernel: "choose", grid: [1, 1, 1], threads: 512, args: &args }).unwrap();
        let (mut found, mut counted) = ([0_u32], [0_i32; 2]);
        token.read(&mut found).unwrap();
        counters.read(&mut counted).unwrap();
        let mut reached = 0.0;
        let expected = exact.iter().position(|share| {
            reached += share / total;
            draw < reached
        });
        assert_eq!((Some(found[0] as usize), counted), (expected, [6, 2]), "{draw}");
    }
}

#[test]
fn keys_and_values_are_stored_as_the_processor_rounds_them() {
    let card = card();
    let mut values: Vec<f32> =
        (0..=u16::MAX).map(f16::from_bits).filter(|half| half.is_finite()).map(f32::from).collect();
    // Halfway between two halves, a little to either side, and what leaves their range.
    let between = values.windows(2).map(|pair| f32::midpoint(pair[0], pair[1])).collect::<Vec<_>>();
    values.extend(between.iter().flat_map(|value| [*value, value * 1.000_001, value * 0.999_999]));
    values.extend([65519.9, 65520.0, 1e30, -65520.0, f32::INFINITY, f32::NEG_INFINITY, 1e-9, f32::MIN_POSITIVE]);
    values.truncate(values.len() / 64 * 64);
    let tokens = values.len() / 64;
    let (cos, sin) = (vec![1.0_f32; tokens * 32], vec![0.0_f32; tokens * 32]);
    let query = vec![0.0_f32; tokens * 64];
    let floats = [&query, &values, &values, &cos, &sin].map(|values| Buffer::of(&card, values).unwrap());
    let halves = [(); 2].map(|()| Buffer::zeroed(&card, values.len() * 2).unwrap());
    let counters = Buffer::of(&card, &[0_i32, 0]).unwrap();
    let [query, key, value, cos, sin] = floats.each_ref().map(Buffer::address);
    let [keys, stored] = halves.each_ref().map(Buffer::address);
    let args = [query, key, value, cos, sin, keys, stored, counters.address(), 1, 1, 64, 0];
    let grid = [tokens, 1, 1];
    card.launch(Launch { kernel: "rotate_and_store_f16", grid, threads: 256, args: &args }).unwrap();
    let expected: Vec<u16> = values.iter().map(|value| f16::from_f32(*value).to_bits()).collect();
    for buffer in &halves {
        let mut found = vec![0_u16; values.len()];
        buffer.read(&mut found).unwrap();
        for ((found, expected), value) in found.iter().zip(&expected).zip(&values) {
            // A rotation by nothing makes a zero of either sign.
            let same = found == expected || (found | expected).trailing_zeros() >= 15 || !value.is_finite();
            assert!(same, "{value}: {found:x} {expected:x}");
        }
    }
}

/// Attention of `seq` tokens behind `before` others, split as asked, beside the processor's.
fn check_attention(heads: HeadShape, before: usize, seq: usize, sight: Sight, splits: usize) {
    let HeadShape { n_heads, n_kv_heads, head_dim } = heads;
    let card = card();
    let tokens = before + seq;
    let query = values(1, seq * n_heads * head_dim, 3.0);
    let (keys, numbers) =
        (values(2, tokens * n_kv_heads * head_dim, 3.0), values(3, tokens * n_kv_heads * head_dim, 1.0));
    let mut expected = vec![0.0; query.len()];
    attend(&query, Rows::F32(&keys), Rows::F32(&numbers), heads, sight, &mut expected);
    let buffers = [&query, &keys, &numbers].map(|values| Buffer::of(&card, values).unwrap());
    let mixed = Buffer::floats(&card, query.len()).unwrap();
    let (parts, sums) = (
        Buffer::floats(&card, splits * query.len()).unwrap(),
        Buffer::floats(&card, splits * seq * n_heads * 2).unwrap(),
    );
    let counters = Buffer::of(&card, &[i32::try_from(before).unwrap(), 0]).unwrap();
    let [query, keys, numbers] = buffers.each_ref().map(Buffer::address);
    let shape = [n_heads as u64, n_kv_heads as u64, head_dim as u64];
    let (window, sinks) = (sight.window.unwrap_or(0) as u64, sight.sinks as u64);
    let args = [
        query,
        keys,
        numbers,
        mixed.address(),
        parts.address(),
        sums.address(),
        counters.address(),
        seq as u64,
        shape[0],
        shape[1],
        shape[2],
        window,
        sinks,
    ];
    let grid = [(seq * n_heads / n_kv_heads).div_ceil(4), n_kv_heads, splits];
    card.launch(Launch { kernel: "attend_f32", grid, threads: 128, args: &args }).unwrap();
    if splits > 1 {
        let args = [parts.address(), sums.address(), mixed.address(), splits as u64, shape[2]];
        card.launch(Launch { kernel: "combine", grid: [seq * n_heads, 1, 1], threads: 256, args: &args }).unwrap();
    }
    for (place, (found, expected)) in read(&mixed, expected.len()).iter().zip(&expected).enumerate() {
        let what = format!("{heads:?} {before} {seq} {sight:?} {splits} at {place}");
        assert!((found - expected).abs() < 2e-5, "{what}: {found} {expected}");
    }
}

#[test]
fn attention_is_the_processor_s() {
    let whole = Sight { window: None, sinks: 0 };
    let narrow = Sight { window: Some(9), sinks: 2 };
    for (n_heads, n_kv_heads, head_dim) in [(4, 2, 16), (6, 1, 40), (2, 2, 256), (7, 7, 3)] {
        let heads = HeadShape { n_heads, n_kv_heads, head_dim };
        for (before, seq) in [(0, 1), (0, 7), (31, 1), (64, 5), (100, 33)] {
            for sight in [whole, narrow] {
                for splits in [1, 3] {
                    check_attention(heads, before, seq, sight, splits);
                }
            }
        }
    }
}
