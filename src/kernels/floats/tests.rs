use half::{bf16, f16};

use super::*;

/// Shapes (rows, outputs, inputs) with every kind of tail.
const SHAPES: [[usize; 3]; 16] = [
    [1, 1, 1],
    [1, 17, 3],
    [1, 300, 77],
    [2, 64, 288],
    [3, 97, 130],
    [4, 150, 200],
    [5, 63, 511],
    [6, 16, 512],
    [7, 130, 513],
    [8, 33, 1100],
    [9, 200, 64],
    [12, 20, 2],
    [13, 33, 1100],
    [33, 80, 96],
    [19, 288, 288],
    [400, 40, 33],
];

struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let x = (self.0 ^ (self.0 >> 33)).wrapping_mul(0xff51afd7ed558ccd);
        x ^ (x >> 29)
    }

    fn value(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / 8388608.0 - 1.0
    }

    fn values(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.value()).collect()
    }

    fn codes(&mut self, n: usize, below: u64) -> Vec<u8> {
        (0..n).map(|_| (self.bits() % below) as u8).collect()
    }
}

/// Every format, with the numbers that it stands for.
fn every_format(random: &mut Random, n_outputs: usize, n_inputs: usize) -> Vec<(String, Floats, Vec<f32>)> {
    let n = n_outputs * n_inputs;
    let values = random.values(n);
    let halves: Vec<f16> = values.iter().map(|value| f16::from_f32(*value)).collect();
    let brains: Vec<bf16> = values.iter().map(|value| bf16::from_f32(*value)).collect();
    let mut all = vec![
        ("f32".to_owned(), Floats::f32(&values, n_outputs, n_inputs), values.clone()),
        ("f16".to_owned(), Floats::f16(&halves, n_outputs, n_inputs), halves.iter().map(|w| w.to_f32()).collect()),
        ("bf16".to_owned(), Floats::bf16(&brains, n_outputs, n_inputs), brains.iter().map(|w| w.to_f32()).collect()),
    ];
    let codes: Vec<u8> = random.codes(n, 256).iter().map(|code| if code & 0x7f == 0x7f { 1 } else { *code }).collect();
    let positive = |random: &mut Random, n: usize| -> Vec<f32> { (0..n).map(|_| random.value().abs() + 0.1).collect() };
    let (tensor, rows) = (random.value(), positive(random, n_outputs));
    let per_row = n_inputs.div_ceil(128);
    let squares = positive(random, n_outputs.div_ceil(128) * per_row);
    for (name, scales) in [
        ("fp8 tensor", Fp8Scales::Tensor(tensor)),
        ("fp8 rows", Fp8Scales::Rows(&rows)),
        ("fp8 squares", Fp8Scales::Squares(&squares)),
    ] {
        let value = |i: usize| {
            let scale = match scales {
                Fp8Scales::Tensor(scale) => scale,
                Fp8Scales::Rows(scales) => scales[i / n_inputs],
                Fp8Scales::Squares(scales) => scales[i / n_inputs / 128 * per_row + i % n_inputs / 128],
            };
            e4m3(codes[i]) * scale
        };
        let values = (0..n).map(value).collect();
        all.push((name.to_owned(), Floats::fp8(&codes, scales, n_outputs, n_inputs), values));
    }
    for (bits, group_len) in [(4_u8, 32), (4, 96), (4, n_inputs), (8, 64), (8, 128), (8, n_inputs)] {
        let below = 1 << bits;
        let codes = random.codes(n, below);
        let n_groups = n_inputs.div_ceil(group_len);
        let scales: Vec<f16> = positive(random, n_outputs * n_groups).into_iter().map(f16::from_f32).collect();
        let zero_codes = random.codes(n_outputs * n_groups, below);
        let zero_floats: Vec<f16> =
            zero_codes.iter().map(|code| f16::from_f32(f32::from(*code) * 0.77 + 0.25)).collect();
        for zeros in [Zeros::Middle, Zeros::Codes(&zero_codes), Zeros::Floats(&zero_floats)] {
            let value = |i: usize| {
                let group = i / n_inputs * n_groups + i % n_inputs / group_len;
                let zero = match zeros {
                    Zeros::Middle => f32::from(1_u8 << (bits - 1)),
                    Zeros::Codes(codes) => f32::from(codes[group]),
                    Zeros::Floats(values) => values[group].to_f32(),
                };
                scales[group].to_f32() * (f32::from(codes[i]) - zero)
            };
            let values = (0..n).map(value).collect();
            let floats = Floats::int(bits, group_len, &codes, &scales, zeros, n_outputs, n_inputs);
            all.push((format!("int{bits} of {group_len}, {zeros:?}"), floats, values));
        }
    }
    all
}

/// E4M3 by its definition.
fn e4m3(code: u8) -> f32 {
    let (exponent, fraction) = (i32::from(code >> 3 & 15), f32::from(code & 7));
    let magnitude =
        if exponent == 0 { fraction * 2_f32.powi(-9) } else { (1.0 + fraction / 8.0) * 2_f32.powi(exponent - 7) };
    if code & 0x80 == 0 { magnitude } else { -magnitude }
}

fn product(floats: &Floats, isa: Isa, x: &[f32], n_rows: usize) -> Vec<f32> {
    let mut y = vec![f32::NAN; n_rows * floats.n_outputs()];
    floats.multiply_on(isa, x, &mut y);
    y
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn every_format_is_the_product_with_its_numbers() {
    let mut random = Random(1);
    for [n_rows, n_outputs, n_inputs] in SHAPES {
        let x = random.values(n_rows * n_inputs);
        for (name, floats, weights) in every_format(&mut random, n_outputs, n_inputs) {
            let name = format!("{name}: {n_rows} x {n_outputs} x {n_inputs}");
            let mut row = vec![f32::NAN; n_inputs];
            for (output, weights) in weights.chunks(n_inputs).enumerate() {
                floats.row(output, &mut row);
                assert_eq!(bits(&row), bits(weights), "{name}");
            }
            let wide = Floats::f32(&weights, n_outputs, n_inputs);
            for isa in Isa::available() {
                let y = product(&floats, isa, &x, n_rows);
                assert_eq!(bits(&y), bits(&product(&wide, isa, &x, n_rows)), "as in f32: {name} on {isa:?}");
                for (y, x) in y.chunks(n_outputs).zip(x.chunks(n_inputs)).step_by(n_rows.div_ceil(5)) {
                    assert_eq!(bits(y), bits(&product(&floats, isa, x, 1)), "alone: {name} on {isa:?}");
                    check_against_f64(y, x, &weights, &name);
                }
            }
        }
    }
}

fn check_against_f64(y: &[f32], x: &[f32], weights: &[f32], name: &str) {
    for (y, weights) in y.iter().zip(weights.chunks(x.len())) {
        let terms = x.iter().zip(weights).map(|(x, w)| f64::from(*x) * f64::from(*w));
        let (sum, size) = terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()));
        // A chain of n rounded additions errs by at most n/2 ulp of the sum of magnitudes.
        let bound = size * x.len() as f64 * f64::from(f32::EPSILON);
        assert!((f64::from(*y) - sum).abs() <= bound, "{name}: {y} {sum}");
    }
}

#[test]
fn batches_of_every_size_give_the_rows_alone() {
    let (n_outputs, n_inputs) = (83, 330);
    let mut random = Random(2);
    let x = random.values(33 * n_inputs);
    for (name, floats, _) in every_format(&mut random, n_outputs, n_inputs) {
        for isa in Isa::available() {
            let alone: Vec<f32> = x.chunks(n_inputs).flat_map(|x| product(&floats, isa, x, 1)).collect();
            for n_rows in 2..=33 {
                let y = product(&floats, isa, &x[..n_rows * n_inputs], n_rows);
                assert_eq!(bits(&y), bits(&alone[..y.len()]), "{n_rows} rows of {name} on {isa:?}");
            }
        }
    }
}

#[test]
fn every_code_is_its_number() {
    // One input, so that a product with 1 is the weight.
    let patterns: Vec<u16> = (0..=u16::MAX).collect();
    let halves: Vec<f16> = patterns.iter().map(|bits| f16::from_bits(*bits)).collect();
    let brains: Vec<bf16> = patterns.iter().map(|bits| bf16::from_bits(*bits)).collect();
    let codes: Vec<u8> = (0..=u8::MAX).collect();
    for isa in Isa::available() {
        for n_rows in [1, 7] {
            let check = |floats: &Floats, expected: &[f32]| {
                let y = product(floats, isa, &vec![1.0; n_rows], n_rows);
                for y in y.chunks(expected.len()) {
                    for (code, (y, expected)) in y.iter().zip(expected).enumerate() {
                        let is_same = y == expected || y.is_nan() && expected.is_nan();
                        assert!(is_same, "{} {code:#x} on {isa:?}: {y} {expected}", floats.name());
                    }
                }
                for (output, expected) in expected.iter().enumerate() {
                    let mut row = [0.0];
                    floats.row(output, &mut row);
                    assert!(row[0] == *expected || row[0].is_nan() && expected.is_nan());
                }
            };
            check(&Floats::f16(&halves, 65536, 1), &halves.iter().map(|half| half.to_f32()).collect::<Vec<_>>());
            check(&Floats::bf16(&brains, 65536, 1), &brains.iter().map(|half| half.to_f32()).collect::<Vec<_>>());
            for scale in [1.0, 1e-42, 3e-39, 1e30] {
                let value = |code: &u8| if code & 0x7f == 0x7f { f32::NAN } else { e4m3(*code) * scale };
                let values: Vec<f32> = codes.iter().map(value).collect();
                check(&Floats::fp8(&codes, Fp8Scales::Tensor(scale), 256, 1), &values);
            }
            for scale in [f16::from_bits(1), f16::MAX] {
                let values: Vec<f32> = (0..256).map(|code| scale.to_f32() * (code - 128) as f32).collect();
                check(&Floats::int(8, 1, &codes, &[scale; 256], Zeros::Middle, 256, 1), &values);
                let codes = &codes[..16];
                let values: Vec<f32> = (0..16).map(|code| scale.to_f32() * (code - 15) as f32).collect();
                check(&Floats::int(4, 32, codes, &[scale; 16], Zeros::Codes(&[15; 16]), 16, 1), &values);
            }
        }
    }
}

#[test]
fn weights_that_no_power_of_two_fits_are_held_in_single_precision() {
    let floats = Floats::fp8(&[0, 1, 0x80, 2], Fp8Scales::Rows(&[1e37, 1.0]), 2, 2);
    assert_eq!(floats.name(), "f32");
    for isa in Isa::available() {
        assert_eq!(product(&floats, isa, &[1.0, 1.0], 1), [1e37 / 512.0, 1.0 / 256.0]);
    }
}

#[test]
fn extremes_go_through() {
    let mut random = Random(3);
    for (name, floats, weights) in every_format(&mut random, 40, 70) {
        for isa in Isa::available() {
            for extreme in [f32::INFINITY, f32::NAN] {
                for n_rows in [1, 9] {
                    let mut x = random.values(n_rows * 70);
                    x[69] = extreme;
                    let y = product(&floats, isa, &x, n_rows);
                    for (output, y) in y.iter().enumerate() {
                        let is_hit = output < 40;
                        assert_eq!(y.is_finite(), !is_hit, "{name} on {isa:?}: {output} {}", weights[69]);
                    }
                }
            }
            let tiny: Vec<f32> = random.values(70).iter().map(|x| x * 1e-42).collect();
            let sum = |weights: &[f32]| -> f64 { tiny.iter().zip(weights).map(|(x, w)| f64::from(x * w)).sum() };
            for (y, weights) in product(&floats, isa, &tiny, 1).iter().zip(weights.chunks(70)) {
                assert!((f64::from(*y) - sum(weights)).abs() <= 1e-42, "denormals: {name} on {isa:?}");
            }
        }
    }
    let huge = Floats::f32(&[f32::MAX, f32::MAX, -0.0, 1.0], 2, 2);
    for isa in Isa::available() {
        assert_eq!(product(&huge, isa, &[1.0, 1.0], 1), [f32::INFINITY, 1.0]);
    }
}

#[test]
fn bytes_are_the_formats() {
    let (n_outputs, n_inputs) = (64, 256);
    let n = n_outputs * n_inputs;
    let zeros = vec![0_u8; n];
    let groups = n / 32;
    let scales = vec![f16::ONE; groups];
    let bytes = |floats: &Floats| floats.bytes();
    assert_eq!(bytes(&Floats::f32(&vec![0.0; n], n_outputs, n_inputs)), n * 4);
    assert_eq!(bytes(&Floats::f16(&vec![f16::ZERO; n], n_outputs, n_inputs)), n * 2);
    assert_eq!(bytes(&Floats::bf16(&vec![bf16::ZERO; n], n_outputs, n_inputs)), n * 2);
    assert_eq!(bytes(&Floats::fp8(&zeros, Fp8Scales::Tensor(1.0), n_outputs, n_inputs)), n + 4);
    assert_eq!(bytes(&Floats::fp8(&zeros, Fp8Scales::Rows(&[1.0; 64]), n_outputs, n_inputs)), n + 64 * 4);
    assert_eq!(bytes(&Floats::fp8(&zeros, Fp8Scales::Squares(&[1.0; 2]), n_outputs, n_inputs)), n + 2 * 4);
    let int = |bits, zeros_of| Floats::int(bits, 32, &zeros, &scales, zeros_of, n_outputs, n_inputs).bytes();
    assert_eq!(int(8, Zeros::Middle), n + groups * 2);
    assert_eq!(int(8, Zeros::Codes(&zeros[..groups])), n + groups * 3);
    assert_eq!(int(4, Zeros::Codes(&zeros[..groups])), n / 2 + groups * 5 / 2);
    assert_eq!(int(4, Zeros::Floats(&scales)), n / 2 + groups * 4);
}

#[test]
fn empty_products_are_zeros() {
    for (n_outputs, n_inputs) in [(0, 0), (0, 5), (5, 0)] {
        let floats = Floats::f32(&[], n_outputs, n_inputs);
        let mut y = vec![1.0; 3 * n_outputs];
        floats.multiply(&vec![1.0; 3 * n_inputs], &mut y);
        assert!(y.iter().all(|y| *y == 0.0));
        floats.multiply(&[], &mut []);
    }
}
