use ::half::f16;

use super::super::floats::Zeros;
use super::super::ints::Ints;
use super::super::tokens::{TokenGrid, Tokens};
use super::*;

/// Numbers that look random.
struct Noise(u64);

impl Noise {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    /// In −1..1.
    fn float(&mut self) -> f32 {
        self.bits() as f32 / (1_u64 << 30) as f32 - 1.0
    }
}

/// Which weights are not zero.
#[derive(Debug, Clone, Copy)]
enum Pattern {
    Random(f32),
    None,
    All,
    OneARow,
    TwoOfFour,
}

impl Pattern {
    const EVERY: [Self; 7] = [
        Self::Random(0.5),
        Self::Random(0.7),
        Self::Random(0.95),
        Self::None,
        Self::All,
        Self::OneARow,
        Self::TwoOfFour,
    ];

    fn keeps(self, row: usize, column: usize, width: usize, noise: &mut Noise) -> bool {
        match self {
            Self::Random(sparsity) => noise.float().abs() >= sparsity,
            Self::None => false,
            Self::All => true,
            Self::OneARow => column == row * 7 % width,
            Self::TwoOfFour => (column % 4 + row) % 4 < 2,
        }
    }
}

fn mask(pattern: Pattern, [n_outputs, n_inputs]: [usize; 2], noise: &mut Noise) -> Vec<bool> {
    (0..n_outputs * n_inputs).map(|at| pattern.keeps(at / n_inputs, at % n_inputs, n_inputs, noise)).collect()
}

const SHAPES: [[usize; 2]; 10] =
    [[1, 1], [16, 4], [17, 3], [5, 66], [33, 129], [64, 64], [100, 288], [130, 511], [65, 130], [48, 1031]];

fn check_half(pattern: Pattern, shape: [usize; 2], n_rows: usize, noise: &mut Noise) {
    let [n_outputs, n_inputs] = shape;
    let keep = mask(pattern, shape, noise);
    let weights: Vec<f16> =
        keep.iter().map(|keep| if *keep { f16::from_f32(noise.float() + 1.5) } else { f16::ZERO }).collect();
    let sparse = SparseHalf::pack(&weights, n_outputs, n_inputs);
    let n_nonzero = keep.iter().filter(|keep| **keep).count();
    assert_eq!([sparse.n_outputs(), sparse.n_inputs(), sparse.n_nonzero()], [n_outputs, n_inputs, n_nonzero]);
    let bits = n_outputs.next_multiple_of(16) * n_inputs.next_multiple_of(4);
    assert_eq!(sparse.bytes(), n_nonzero * 2 + bits / 8 + n_outputs.div_ceil(16) * 4 + 132);
    let mut row = vec![0.0; n_inputs];
    for output in 0..n_outputs {
        sparse.row(output, &mut row);
        assert!(row.iter().zip(&weights[output * n_inputs..]).all(|(row, weight)| *row == weight.to_f32()));
    }
    let x: Vec<f32> = (0..n_rows * n_inputs).map(|_| noise.float()).collect();
    for isa in Isa::available() {
        let mut y = vec![f32::NAN; n_rows * n_outputs];
        sparse.multiply_with(isa, &x, &mut y);
        for (place, y) in y.iter().enumerate() {
            let (row, output) = (place / n_outputs, place % n_outputs);
            let pairs = x[row * n_inputs..][..n_inputs].iter().zip(&weights[output * n_inputs..]);
            let expected = pairs.fold(0.0, |sum, (x, weight)| multiply_add(isa, weight.to_f32(), *x, sum));
            assert_eq!(*y, expected, "{isa:?} {pattern:?} {shape:?}, {n_rows} rows, at {row}, {output}");
        }
    }
}

/// a · b + c as a set makes it: rounded once, but for plain code of a build that cannot assume the instruction.
fn multiply_add(isa: Isa, a: f32, b: f32, c: f32) -> f32 {
    let is_fused = isa != Isa::Portable || cfg!(any(target_feature = "fma", target_arch = "aarch64"));
    if is_fused { a.mul_add(b, c) } else { a * b + c }
}

fn check_ints(pattern: Pattern, shape: [usize; 2], n_rows: usize, noise: &mut Noise) {
    let [n_outputs, n_inputs] = shape;
    let keep = mask(pattern, shape, noise);
    let code = |noise: &mut Noise| match ((noise.bits() % 256) as u8).cast_signed() {
        0 => -128,
        code => code,
    };
    let codes: Vec<i8> = keep.iter().map(|keep| if *keep { code(noise) } else { 0 }).collect();
    let scales: Vec<f16> = (0..n_outputs).map(|_| f16::from_f32(noise.float().abs() + 0.01)).collect();
    let sparse = SparseInts::pack(&codes, &scales, n_outputs, n_inputs);
    let n_nonzero = keep.iter().filter(|keep| **keep).count();
    assert_eq!([sparse.n_outputs(), sparse.n_inputs(), sparse.n_nonzero()], [n_outputs, n_inputs, n_nonzero]);
    let n_lanes = n_outputs.next_multiple_of(16);
    let bits = n_lanes * n_inputs.next_multiple_of(4);
    assert_eq!(sparse.bytes(), n_nonzero + bits / 8 + n_lanes / 4 + 4 + 64 + n_lanes * 2);
    let mut row = vec![0.0; n_inputs];
    for output in 0..n_outputs {
        sparse.row(output, &mut row);
        let weights = codes[output * n_inputs..].iter().map(|code| scales[output].to_f32() * f32::from(*code));
        assert!(row.iter().zip(weights).all(|(row, weight)| *row == weight));
    }
    let x: Vec<f32> = (0..n_rows * n_inputs).map(|_| noise.float()).collect();
    let mut tokens = Tokens::default();
    tokens.round(&x, n_inputs, TokenGrid::Dynamic);
    let raised: Vec<u8> = codes.iter().map(|code| *code as u8 ^ 128).collect();
    let mut dense = vec![f32::NAN; n_rows * n_outputs];
    Ints::pack(8, n_inputs, &raised, &scales, Zeros::Middle, shape).multiply(&tokens, &mut dense);
    for isa in Isa::available() {
        let name = format!("{isa:?} {pattern:?} {shape:?}, {n_rows} rows");
        let mut y = vec![f32::NAN; n_rows * n_outputs];
        sparse.multiply_with(isa, &x, &mut y);
        for (place, y) in y.iter().enumerate() {
            let (row, output) = (place / n_outputs, place % n_outputs);
            let pairs = x[row * n_inputs..][..n_inputs].iter().zip(&codes[output * n_inputs..]);
            let sum = pairs.fold(0.0, |sum, (x, code)| multiply_add(isa, f32::from(*code), *x, sum));
            assert_eq!(*y, scales[output].to_f32() * sum, "{name} at {row}, {output}");
        }
        sparse.multiply_tokens_with(isa, &tokens, &mut y);
        assert!(y == dense, "tokens: {name}");
    }
}

#[test]
fn products_equal_the_dense_ones_bit_for_bit() {
    let noise = &mut Noise(5);
    for pattern in Pattern::EVERY {
        for shape in SHAPES {
            for n_rows in [1, 3, 8, 9, 14] {
                check_half(pattern, shape, n_rows, noise);
                check_ints(pattern, shape, n_rows, noise);
            }
        }
    }
    for n_rows in (1..=33).chain([96, 97, 200]) {
        check_half(Pattern::Random(0.5), [70, 266], n_rows, noise);
        check_ints(Pattern::Random(0.5), [70, 266], n_rows, noise);
    }
}

#[test]
fn rows_beyond_the_length_of_exact_sums_are_cut() {
    let n_inputs = (1 << 15) + 68;
    let sparse = SparseInts::pack(&vec![-128; 2 * n_inputs], &[f16::ONE; 2], 2, n_inputs);
    let mut tokens = Tokens::default();
    tokens.round(&vec![-1000.0; n_inputs], n_inputs, TokenGrid::Static { scale: 1.0 });
    for isa in Isa::available() {
        let mut y = [f32::NAN; 2];
        sparse.multiply_tokens_with(isa, &tokens, &mut y);
        assert_eq!(y, [(n_inputs << 14) as f32; 2], "{isa:?}");
    }
}

#[test]
fn what_is_not_finite_stays_so() {
    let mut weights = vec![f16::ZERO; 20 * 12];
    weights[25] = f16::INFINITY;
    weights[26] = f16::from_bits(1);
    let sparse = SparseHalf::pack(&weights, 20, 12);
    for isa in Isa::available() {
        for n_rows in [1, 3, 12] {
            let mut x = vec![1.0; n_rows * 12];
            let mut y = vec![0.0; n_rows * 20];
            sparse.multiply_with(isa, &x, &mut y);
            assert!((0..20).all(|output| y[output] == if output == 2 { f32::INFINITY } else { 0.0 }), "{isa:?}");
            x[7] = f32::NAN;
            x[(n_rows - 1) * 12] = f32::INFINITY;
            sparse.multiply_with(isa, &x, &mut y);
            assert!(y[..20].iter().chain(&y[(n_rows - 1) * 20..]).all(|y| y.is_nan()), "zero times infinity: {isa:?}");
        }
    }
}
