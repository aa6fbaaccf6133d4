//! Products of many rows and attention of prompts, run by the emulation and by the twin of cuBLASLt.

use std::rc::Rc;

use half::{bf16, f16};

use crate::compress::{ActivationGrid, PackedWeights, quantize_fp8, quantize_ggml, round_to_nearest};
use crate::cuda::card::{Buffer, Card, Gemm, GemmType, Launch};
use crate::cuda::cublaslt;
use crate::cuda::emulated_card::EmulatedCard;
use crate::cuda::matrix::{Matrix, Onto};
use crate::cuda::rounding::Rounding;
use crate::kernels::{HeadShape, Rows, Sight, attend};
use crate::model::GgmlType;
use crate::nn::toy::noise;
use crate::recipe::{Execution, Fp8Scale, Group, IntFormat};

/// With plain loops in the place of the library, and with its twin.
fn cards() -> [Rc<dyn Card>; 2] {
    [Rc::new(EmulatedCard::default()), Rc::new(EmulatedCard::with_twin())]
}

fn values(seed: usize, n: usize, scale: f32) -> Vec<f32> {
    (0..n).map(|i| noise(seed, i, scale)).collect()
}

fn read<T: bytemuck::Pod>(buffer: &Buffer, n: usize) -> Vec<T> {
    let mut values = vec![T::zeroed(); n];
    buffer.read(&mut values).unwrap();
    values
}

fn upload(card: &Rc<dyn Card>, packed: &PackedWeights, shape: [usize; 2], grid: ActivationGrid) -> Matrix {
    Matrix::new(card, &Rc::default(), packed, shape, Execution::Packed, grid).unwrap()
}

/// The most that rounding errs by, relative to a number: of weights that are written out, and of activations.
fn roundings(name: &str) -> (f64, f64) {
    // The last bit of a number of 11 or 8 bits is 2^-10 or 2^-7 of its leading one; rounding errs by half of it.
    let (half, brain) = (2.0_f64.powi(-11), 2.0_f64.powi(-8));
    match name {
        "f32" => (0.0, 0.0),
        "f16" => (0.0, half),
        "bf16" => (0.0, brain),
        _ => (half, half),
    }
}

/// Products of every count of rows, with bias and onto what is there, beside the dequantized product.
fn check(name: &str, packed: &PackedWeights, [outputs, inputs]: [usize; 2], grid: ActivationGrid, x_scale: f32) {
    let weights = packed.dequantize();
    let (bias, before) = (values(9, outputs, x_scale), values(8, 70 * outputs, x_scale));
    let (w_error, x_error) = roundings(name);
    for (card, rows) in cards().into_iter().flat_map(|card| [1, 8, 9, 17, 70].map(|rows| (Rc::clone(&card), rows))) {
        let matrix = upload(&card, packed, [outputs, inputs], grid);
        assert!(matrix.label().contains("prompts by cuBLASLt"), "{}", matrix.label());
        let mut x = values(rows, rows * inputs, x_scale);
        // What single channels of real models have.
        x[inputs / 2] = 1e6 * x_scale;
        let rounding = Rounding::new(&card, rows, inputs).unwrap();
        let (on_card, y) = (Buffer::of(&card, &x).unwrap(), Buffer::of(&card, &before[..rows * outputs]).unwrap());
        let bias_buffer = Buffer::of(&card, &bias).unwrap();
        let input = rounding.of(on_card.address(), rows);
        matrix.multiply(input, grid, y.address(), bias_buffer.address(), Onto::Nothing).unwrap();
        let once: Vec<f32> = read(&y, rows * outputs);
        matrix.multiply(input, grid, y.address(), 0, Onto::Output).unwrap();
        let twice: Vec<f32> = read(&y, rows * outputs);
        let largest = x.iter().fold(0.0_f64, |most, x| most.max(f64::from(x.abs())));
        for row in 0..rows {
            let x = on_grid(&x[row * inputs..][..inputs], grid);
            for output in 0..outputs {
                let weights = &weights[output * inputs..][..inputs];
                let terms = || x.iter().zip(weights).map(|(x, w)| f64::from(*x) * f64::from(*w));
                let (sum, size) = (terms().sum::<f64>(), terms().map(f64::abs).sum::<f64>());
                let bias = f64::from(bias[output]);
                let exact = sum + bias;
                let (w_error, x_error) = if rows > 8 { (w_error, x_error) } else { (0.0, 0.0) };
                // Both roundings, sums in f32, and what underflows in halves: 2^-39 of the largest.
                let weight_size: f64 = weights.iter().map(|weight| f64::from(weight.abs())).sum();
                let bound = (w_error + x_error + w_error * x_error + inputs as f64 * 6e-8) * size
                    + 2.0_f64.powi(-38) * largest * weight_size
                    + 4e-7 * (size + bias.abs());
                let at = row * outputs + output;
                let error = (f64::from(once[at]) - exact).abs();
                assert!(error <= bound, "{name} {rows} rows, {row} {output}: {} {exact} ± {bound}", once[at]);
                let error = (f64::from(twice[at]) - f64::from(once[at]) - sum).abs();
                assert!(
                    error <= bound * 1.01,
                    "{name} {rows} rows onto, {row} {output}: {} {sum} ± {bound}",
                    twice[at]
                );
            }
        }
    }
}

fn on_grid(x: &[f32], grid: ActivationGrid) -> Vec<f32> {
    let largest = x.iter().fold(0.0, |most: f32, x| most.max(x.abs()));
    let scale = match grid {
        ActivationGrid::Float => return x.to_vec(),
        ActivationGrid::Int8PerToken => largest / 127.5,
        ActivationGrid::Int8Static { scale } => scale,
    };
    x.iter().map(|x| (x / scale).round_ties_even().clamp(-128.0, 127.0) * scale).collect()
}

#[test]
fn float_weights_are_within_their_roundings() {
    for (outputs, inputs) in [(5, 64), (7, 41), (3, 3), (16, 200)] {
        for scale in [1.0, 1e-20, 1e12] {
            let weights = values(1, outputs * inputs, 0.5);
            let halves = weights.iter().map(|weight| f16::from_f32(*weight)).collect();
            let brains = weights.iter().map(|weight| bf16::from_f32(*weight)).collect();
            let shape = [outputs, inputs];
            check("f32", &PackedWeights::F32(weights), shape, ActivationGrid::Float, scale);
            check("f16", &PackedWeights::F16(halves), shape, ActivationGrid::Float, scale);
            check("bf16", &PackedWeights::Bf16(brains), shape, ActivationGrid::Float, scale);
        }
    }
}

#[test]
fn packed_weights_are_written_out_within_their_roundings() {
    for format in GgmlType::ALL {
        let inputs = if crate::compress::block_type(format).block_len() == 32 { 96 } else { 512 };
        for scale in [0.3, 3e4, 3e-7] {
            let packed = quantize_ggml(&values(5, 5 * inputs, scale), inputs, format).unwrap();
            check(&format!("{format:?}"), &packed, [5, inputs], ActivationGrid::Float, 1.0);
        }
    }
    for scale in [Fp8Scale::Tensor, Fp8Scale::Row, Fp8Scale::Block] {
        // Weights beyond the halves of either end too.
        for size in [40.0, 1e6, 1e-9] {
            let packed = PackedWeights::Fp8(quantize_fp8(&values(2, 6 * 300, size), 300, scale).unwrap());
            check("fp8", &packed, [6, 300], ActivationGrid::Float, 1.0);
        }
    }
    for (bits, inputs, group) in
        [(4, 77, Group::Row), (8, 77, Group::Row), (4, 96, Group::Size(32)), (8, 96, Group::Size(16))]
    {
        for symmetric in [true, false] {
            let format = IntFormat { bits, group, symmetric };
            let packed = PackedWeights::Int(round_to_nearest(&values(4, 5 * inputs, 0.7), inputs, format).unwrap());
            check("int", &packed, [5, inputs], ActivationGrid::Float, 1.0);
            if bits == 4 {
                check("int", &packed, [5, inputs], ActivationGrid::Int8Static { scale: 0.01 }, 1.0);
            }
        }
    }
}

#[test]
fn a_matrix_larger_than_its_place_goes_in_slices() {
    // 64 outputs of a slice are its least: 2^20 inputs fill the place with them.
    let (outputs, inputs, rows) = (70, 1 << 20, 9);
    let packed = quantize_ggml(&values(5, outputs * 32, 0.3), 32, GgmlType::Q8_0).unwrap();
    let PackedWeights::Ggml { format, bytes } = packed else { panic!("blocks") };
    // Every block of a row but its first two is nothing, so that the product is quickly told.
    let zeros = vec![0_u8; bytes.len() / outputs];
    let mut all = Vec::new();
    for row in bytes.chunks(zeros.len()) {
        all.extend_from_slice(row);
        (1..inputs / 32).for_each(|_| all.extend_from_slice(&zeros));
    }
    let packed = PackedWeights::Ggml { format, bytes: all };
    let card: Rc<dyn Card> = Rc::new(EmulatedCard::default());
    let matrix = upload(&card, &packed, [outputs, inputs], ActivationGrid::Float);
    let mut x = vec![0.0_f32; rows * inputs];
    x[8 * inputs] = 1.0;
    let rounding = Rounding::new(&card, rows, inputs).unwrap();
    let (on_card, y) = (Buffer::of(&card, &x).unwrap(), Buffer::floats(&card, rows * outputs).unwrap());
    matrix
        .multiply(rounding.of(on_card.address(), rows), ActivationGrid::Float, y.address(), 0, Onto::Nothing)
        .unwrap();
    let found: Vec<f32> = read(&y, rows * outputs);
    let firsts = PackedWeights::Ggml { format, bytes }.dequantize();
    for (output, found) in found[8 * outputs..].iter().enumerate() {
        let expected = firsts[output * 32];
        assert!((found - expected).abs() <= expected.abs() * 1e-3, "{output}: {found} {expected}");
    }
}

#[test]
fn integers_are_exactly_those_of_our_kernel() {
    let format = IntFormat { bits: 8, group: Group::Row, symmetric: true };
    for (outputs, inputs) in [(16, 77), (8, 64), (24, 200)] {
        let packed = PackedWeights::Int(round_to_nearest(&values(4, outputs * inputs, 0.7), inputs, format).unwrap());
        for grid in [ActivationGrid::Int8PerToken, ActivationGrid::Int8Static { scale: 0.01 }] {
            let run = |card: Rc<dyn Card>, rows: usize| {
                let matrix = upload(&card, &packed, [outputs, inputs], grid);
                let mut x = values(rows, rows * inputs, 1.0);
                x[3] = 1e6;
                x[inputs + 3] = f32::NAN;
                let rounding = Rounding::new(&card, rows, inputs).unwrap();
                let [x, bias] = [&x, &values(9, outputs, 1.0)].map(|values| Buffer::of(&card, values).unwrap());
                let y = Buffer::floats(&card, rows * outputs).unwrap();
                let input = rounding.of(x.address(), rows);
                matrix.multiply(input, grid, y.address(), bias.address(), Onto::Nothing).unwrap();
                (matrix.label().contains("cuBLASLt int8"), read::<u32>(&y, rows * outputs))
            };
            for rows in [9, 17, 40] {
                let (by_library, ours) = run(Rc::new(EmulatedCard::without_library()), rows);
                assert!(!by_library);
                assert!(ours[outputs..2 * outputs].iter().all(|bits| f32::from_bits(*bits).is_nan()));
                for card in cards() {
                    assert_eq!(run(card, rows), (true, ours.clone()), "{outputs} × {inputs}, {rows} rows");
                }
            }
        }
    }
    // The library has no product of five outputs.
    let packed = PackedWeights::Int(round_to_nearest(&values(4, 5 * 64, 0.7), 64, format).unwrap());
    for card in cards() {
        assert_eq!(upload(&card, &packed, [5, 64], ActivationGrid::Int8PerToken).label(), "trimtab int8 × int8 (cuda)");
    }
}

#[test]
fn what_is_no_number_shows_in_its_rows() {
    let weights = values(1, 8 * 32, 1.0);
    let all = [
        PackedWeights::F32(weights.clone()),
        PackedWeights::Bf16(weights.iter().map(|weight| bf16::from_f32(*weight)).collect()),
        PackedWeights::F16(weights.iter().map(|weight| f16::from_f32(*weight)).collect()),
        quantize_ggml(&weights, 32, GgmlType::Q4_0).unwrap(),
    ];
    for (card, packed) in cards().into_iter().flat_map(|card| all.iter().map(move |packed| (Rc::clone(&card), packed)))
    {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for grid in [ActivationGrid::Float, ActivationGrid::Int8PerToken] {
                let matrix = upload(&card, packed, [8, 32], grid);
                let mut x = values(2, 20 * 32, 1.0);
                x[7 * 32 + 17] = bad;
                let rounding = Rounding::new(&card, 20, 32).unwrap();
                let (x, y) = (Buffer::of(&card, &x).unwrap(), Buffer::floats(&card, 20 * 8).unwrap());
                matrix.multiply(rounding.of(x.address(), 20), grid, y.address(), 0, Onto::Nothing).unwrap();
                for (row, found) in read::<f32>(&y, 20 * 8).chunks(8).enumerate() {
                    assert!(
                        found.iter().all(|value| value.is_finite() == (row != 7)),
                        "{bad} {grid:?} {row}: {found:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn activations_are_rounded_once_for_what_shares_them() {
    let card: Rc<dyn Card> = Rc::new(EmulatedCard::default());
    let halves = |seed| PackedWeights::F16(values(seed, 8 * 32, 1.0).into_iter().map(f16::from_f32).collect());
    let [first, second] = [1, 2].map(|seed| upload(&card, &halves(seed), [8, 32], ActivationGrid::Float));
    let rounding = Rounding::new(&card, 20, 32).unwrap();
    let (x, other) =
        (Buffer::of(&card, &values(3, 640, 1.0)).unwrap(), Buffer::of(&card, &values(4, 640, 9.0)).unwrap());
    let y = [(); 5].map(|()| Buffer::floats(&card, 160).unwrap());
    let run = |matrix: &Matrix, input, y: &Buffer| {
        matrix.multiply(input, ActivationGrid::Float, y.address(), 0, Onto::Nothing).unwrap();
    };
    let input = rounding.of(x.address(), 20);
    run(&first, input, &y[0]);
    run(&second, input, &y[1]);
    // Others take the room; the first ones are rounded again.
    run(&second, input.others(other.address()), &y[2]);
    run(&second, input, &y[3]);
    x.write(&values(4, 640, 9.0)).unwrap();
    run(&second, rounding.of(x.address(), 20), &y[4]);
    let y = y.each_ref().map(|y| read::<f32>(y, 160));
    assert_eq!(y[1], y[3]);
    assert_eq!(y[2], y[4]);
    assert!(y[0] != y[1] && y[1] != y[2]);
}

#[test]
fn the_twin_of_the_library_multiplies_as_plain_loops() {
    let [plain, twin] = cards();
    for (numbers, outputs, inputs, rows) in [
        (GemmType::F32, 7, 12, 9),
        (GemmType::F16, 7, 16, 33),
        (GemmType::Bf16, 64, 40, 10),
        (GemmType::Int8, 16, 32, 17),
        (GemmType::Int8, 8, 16, 16),
        (GemmType::Int8, 6, 16, 20),
    ] {
        for (adds, has_alpha) in [(false, false), (true, false), (true, true)] {
            let run = |card: &Rc<dyn Card>| {
                let bytes = numbers.bytes();
                let some = |seed, n: usize| {
                    let numbers_of = values(seed, n, 1.0);
                    match numbers {
                        GemmType::F32 => bytemuck::cast_slice(&numbers_of).to_vec(),
                        GemmType::F16 => numbers_of.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect(),
                        GemmType::Bf16 => numbers_of.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect(),
                        GemmType::Int8 => numbers_of.iter().map(|x| (x * 127.0) as i8 as u8).collect::<Vec<u8>>(),
                    }
                };
                let stride = inputs + 16 / bytes;
                let [weights, x] =
                    [(1, outputs), (2, rows)].map(|(seed, n)| Buffer::of(card, &some(seed, n * stride)).unwrap());
                let y = Buffer::of(card, &values(3, rows * (outputs + 8), 1.0)).unwrap();
                let alpha = Buffer::of(card, &[0.25_f32]).unwrap();
                let gemm = Gemm {
                    numbers,
                    weights: weights.address(),
                    x: x.address(),
                    y: y.address(),
                    shape: [rows, outputs, inputs],
                    strides: [stride, stride, outputs + 8],
                    alpha: if has_alpha { alpha.address() } else { 0 },
                    adds,
                };
                let has = card.has_gemm(&gemm).unwrap();
                if has {
                    card.gemm(&gemm).unwrap();
                }
                (has, read::<u32>(&y, rows * (outputs + 8)))
            };
            let is_integer = numbers == GemmType::Int8;
            if has_alpha && numbers != GemmType::F16 || is_integer && (adds || outputs % 8 != 0 || rows < 17) {
                continue;
            }
            let expected = run(&plain);
            assert!(expected.0, "{numbers:?}");
            // The last columns are another's.
            assert_eq!(run(&twin), expected, "{numbers:?} {adds} {has_alpha}");
        }
    }
    // What the library's documents exclude, it has not.
    let gemm = Gemm { numbers: GemmType::Int8, shape: [20, 6, 16], strides: [16, 16, 6], ..Gemm::default() };
    assert!(!twin.has_gemm(&gemm).unwrap());
    assert!(!twin.has_gemm(&Gemm { shape: [16, 8, 16], strides: [16, 16, 8], ..gemm }).unwrap());
    assert!(twin.has_gemm(&Gemm { shape: [17, 8, 16], strides: [16, 16, 8], ..gemm }).unwrap());
}

#[test]
fn a_folder_without_the_library_has_none() {
    assert!(!cublaslt::load_from(std::path::Path::new(env!("CARGO_MANIFEST_DIR"))));
}

/// Attention of `seq` tokens behind `before` others, in tiles, beside the processor's.
fn check_attention(heads: HeadShape, before: usize, seq: usize, sight: Sight, is_half: bool) {
    let HeadShape { n_heads, n_kv_heads, head_dim } = heads;
    let card: Rc<dyn Card> = Rc::new(EmulatedCard::default());
    let len = (before + seq) * n_kv_heads * head_dim;
    let (query, keys, numbers) = (values(1, seq * n_heads * head_dim, 3.0), values(2, len, 3.0), values(3, len, 1.0));
    let halves = [&keys, &numbers].map(|all| all.iter().map(|x| f16::from_f32(*x)).collect::<Vec<_>>());
    let bits = halves.each_ref().map(|all| all.iter().map(|x| x.to_bits()).collect::<Vec<_>>());
    let mut expected = vec![0.0; query.len()];
    let query_buffer = Buffer::of(&card, &query).unwrap();
    let cache = if is_half {
        let [keys, numbers] = halves.each_ref();
        attend(&query, Rows::F16(keys), Rows::F16(numbers), heads, sight, &mut expected);
        bits.map(|all| Buffer::of(&card, &all).unwrap())
    } else {
        attend(&query, Rows::F32(&keys), Rows::F32(&numbers), heads, sight, &mut expected);
        [&keys, &numbers].map(|all| Buffer::of(&card, all).unwrap())
    };
    let mixed = Buffer::floats(&card, query.len()).unwrap();
    launch_tiles(&card, [&query_buffer, &cache[0], &cache[1], &mixed], heads, [before, seq], sight, is_half);
    for (place, (found, expected)) in read::<f32>(&mixed, expected.len()).iter().zip(&expected).enumerate() {
        let what = format!("{heads:?} {before} {seq} {sight:?} {is_half} at {place}");
        assert!((found - expected).abs() < 2e-5, "{what}: {found} {expected}");
    }
}

fn launch_tiles(
    card: &Rc<dyn Card>,
    buffers: [&Buffer; 4],
    heads: HeadShape,
    [before, seq]: [usize; 2],
    sight: Sight,
    is_half: bool,
) {
    let HeadShape { n_heads, n_kv_heads, head_dim } = heads;
    let counters = Buffer::of(card, &[i32::try_from(before).unwrap(), 0]).unwrap();
    let [query, keys, numbers, mixed] = buffers.map(Buffer::address);
    let shape = [seq, n_heads, n_kv_heads, head_dim, sight.window.unwrap_or(0), sight.sinks].map(|size| size as u64);
    let args = [&[query, keys, numbers, mixed, counters.address()][..], &shape].concat();
    let room = head_dim.next_power_of_two().max(64);
    let kernel = format!("attend_tile_{}_{room}", if is_half { "f16" } else { "f32" });
    let grid = [(seq * n_heads / n_kv_heads).div_ceil(64), n_kv_heads, 1];
    card.launch(Launch { kernel: &kernel, grid, threads: 128, args: &args }).unwrap();
}

#[test]
fn attention_in_tiles_is_the_processor_s() {
    let whole = Sight { window: None, sinks: 0 };
    let narrow = Sight { window: Some(9), sinks: 2 };
    for (n_heads, n_kv_heads, head_dim) in
        [(4, 2, 16), (6, 1, 40), (2, 2, 256), (7, 7, 3), (8, 2, 64), (3, 1, 128), (2, 1, 130)]
    {
        let heads = HeadShape { n_heads, n_kv_heads, head_dim };
        for (before, seq) in [(0, 1), (0, 9), (31, 17), (64, 64), (100, 133)] {
            for sight in [whole, narrow] {
                for is_half in [false, true] {
                    check_attention(heads, before, seq, sight, is_half);
                }
            }
        }
    }
}

#[test]
fn a_key_or_value_that_is_no_number_shows_in_what_sees_it() {
    let heads = HeadShape { n_heads: 4, n_kv_heads: 2, head_dim: 64 };
    let (seq, sight) = (130, Sight { window: None, sinks: 0 });
    for bad in [f32::NAN, f32::INFINITY] {
        for which in 0..3 {
            let card: Rc<dyn Card> = Rc::new(EmulatedCard::default());
            let mut all = [values(1, seq * 4 * 64, 1.0), values(2, seq * 2 * 64, 1.0), values(3, seq * 2 * 64, 1.0)];
            // The first head of token 70, or the first key head of that place.
            let width = all[which].len() / seq;
            all[which][70 * width + 5] = bad;
            let buffers = all.each_ref().map(|values| Buffer::of(&card, values).unwrap());
            let mixed = Buffer::floats(&card, seq * 4 * 64).unwrap();
            launch_tiles(&card, [&buffers[0], &buffers[1], &buffers[2], &mixed], heads, [0, seq], sight, false);
            let found = read::<f32>(&mixed, seq * 4 * 64);
            for token in 0..seq {
                for head in 0..4 {
                    let row = &found[(token * 4 + head) * 64..][..64];
                    let channels = if which == 2 { &row[5..6] } else { row };
                    let is_hit = if which == 0 { token == 70 && head == 0 } else { token >= 70 && head < 2 };
                    // A key of −∞ times a query counts for nothing; queries of both signs are there.
                    let shows = channels.iter().all(|value| !value.is_finite());
                    let minus = which == 1 && bad == f32::INFINITY && all[0][(token * 4 + head) * 64 + 5] < 0.0;
                    assert!(shows || !is_hit || minus, "{bad} {which} {token} {head}");
                    // The other key head and the tiles before know nothing of it.
                    let is_far = head >= 2 || token < 64;
                    assert!(!is_far || row.iter().all(|value| value.is_finite()), "{bad} {which} {token} {head}");
                }
            }
        }
    }
}
