use super::super::tokens::TokenGrid;
use super::*;

/// Numbers that look random.
pub(in super::super) struct Noise(pub(in super::super) u64);

impl Noise {
    pub(in super::super) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    /// In −1..1.
    pub(in super::super) fn float(&mut self) -> f32 {
        self.bits() as f32 / (1_u64 << 30) as f32 - 1.0
    }
}

struct Case {
    bits: u8,
    group_len: usize,
    shape: [usize; 2],
    codes: Vec<u8>,
    scales: Vec<f16>,
    zero_codes: Vec<u8>,
    zero_floats: Vec<f16>,
}

impl Case {
    fn new(bits: u8, group_len: usize, shape: [usize; 2], noise: &mut Noise) -> Self {
        let most = (1_u64 << bits) - 1;
        let n_groups = shape[0] * (shape[1] / group_len);
        let code = |noise: &mut Noise| (noise.bits() % (most + 1)) as u8;
        Self {
            bits,
            group_len,
            shape,
            codes: (0..shape[0] * shape[1]).map(|_| code(noise)).collect(),
            scales: (0..n_groups).map(|_| f16::from_f32(0.01 + noise.float().abs())).collect(),
            zero_codes: (0..n_groups).map(|_| code(noise)).collect(),
            zero_floats: (0..n_groups).map(|_| f16::from_f32(noise.float() * 2.0 * most as f32)).collect(),
        }
    }

    fn zeros(&self) -> [Zeros<'_>; 3] {
        [Zeros::Middle, Zeros::Codes(&self.zero_codes), Zeros::Floats(&self.zero_floats)]
    }

    fn pack(&self, zeros: Zeros<'_>) -> Ints {
        Ints::pack(self.bits, self.group_len, &self.codes, &self.scales, zeros, self.shape)
    }

    fn zero(&self, zeros: Zeros<'_>, group: usize) -> f64 {
        match zeros {
            Zeros::Middle => f64::from(1 << (self.bits - 1)),
            Zeros::Codes(zeros) => f64::from(zeros[group]),
            Zeros::Floats(zeros) => zeros[group].to_f64(),
        }
    }

    /// Products in f64, and the bound of what f32 may lose.
    fn expected(&self, zeros: Zeros<'_>, x: &Tokens, row: usize, output: usize) -> (f64, f64) {
        let (mut sum, mut most) = (0.0, 0.0);
        for input in 0..self.shape[1] {
            let group = output * (self.shape[1] / self.group_len) + input / self.group_len;
            let weight = f64::from(self.codes[output * self.shape[1] + input]) - self.zero(zeros, group);
            let term = self.scales[group].to_f64() * weight * f64::from(x.codes(row)[input]);
            sum += term;
            most += term.abs();
        }
        let scale = f64::from(x.scale(row));
        let n_groups = (self.shape[1] / self.group_len) as f64;
        (scale * sum, scale.abs() * most * (n_groups + 4.0) * f64::from(f32::EPSILON) + 1e-30)
    }
}

fn rows(n_rows: usize, n_inputs: usize, noise: &mut Noise) -> Tokens {
    let x: Vec<f32> = (0..n_rows * n_inputs).map(|_| noise.float()).collect();
    let mut tokens = Tokens::default();
    tokens.round(&x, n_inputs, TokenGrid::Dynamic);
    tokens
}

fn check(case: &Case, n_rows: usize, noise: &mut Noise) {
    let [n_outputs, n_inputs] = case.shape;
    let x = rows(n_rows, n_inputs, noise);
    for zeros in case.zeros() {
        let ints = case.pack(zeros);
        let name = format!("{} bits, groups of {}, {:?}, {n_rows} rows", case.bits, case.group_len, case.shape);
        let mut plain = vec![f32::NAN; n_rows * n_outputs];
        ints.multiply_with(Isa::Portable, &x, &mut plain);
        for (place, value) in plain.iter().enumerate() {
            let (expected, bound) = case.expected(zeros, &x, place / n_outputs, place % n_outputs);
            assert!((f64::from(*value) - expected).abs() <= bound, "{name}: {value} for {expected} at {place}");
        }
        for isa in Isa::available() {
            let mut y = vec![f32::NAN; n_rows * n_outputs];
            ints.multiply_with(isa, &x, &mut y);
            assert!(y == plain, "{name}: {isa:?}");
        }
    }
}

#[test]
fn products_equal_the_plain_form_bit_for_bit() {
    let noise = &mut Noise(1);
    for bits in [8, 4] {
        for n_rows in 1..=33 {
            check(&Case::new(bits, 64, [23, 128], noise), n_rows, noise);
        }
        for (group_len, n_inputs) in [(32, 32), (32, 288), (64, 192), (96, 288), (128, 384), (128, 128)] {
            for n_outputs in [1, 16, 65, 100] {
                for n_rows in [1, 5, 8] {
                    check(&Case::new(bits, group_len, [n_outputs, n_inputs], noise), n_rows, noise);
                }
            }
        }
        for n_inputs in [1, 3, 7, 12, 33, 100, 255, 577] {
            for (n_outputs, n_rows) in [(1, 1), (17, 3), (80, 14), (130, 2)] {
                check(&Case::new(bits, n_inputs, [n_outputs, n_inputs], noise), n_rows, noise);
            }
        }
    }
}

#[test]
fn the_largest_sums_do_not_overflow() {
    for n_inputs in [LONGEST, LONGEST + 5, 2 * LONGEST + 64] {
        let scales = vec![f16::ONE; 18];
        for (code, zero) in [(255, 0), (0, 255), (255, 255)] {
            let zero_codes = [zero; 18];
            let codes = vec![code; 18 * n_inputs];
            let ints = Ints::pack(8, n_inputs, &codes, &scales, Zeros::Codes(&zero_codes), [18, n_inputs]);
            let mut x = Tokens::default();
            x.round(&vec![-1000.0; n_inputs], n_inputs, TokenGrid::Static { scale: 1.0 });
            let expected = (f64::from(code) - f64::from(zero)) * -128.0 * n_inputs as f64;
            for isa in Isa::available() {
                let mut y = [f32::NAN; 18];
                ints.multiply_with(isa, &x, &mut y);
                assert!(y.iter().all(|y| (f64::from(*y) - expected).abs() <= expected.abs() * 1e-6), "{isa:?}: {y:?}");
            }
        }
    }
}

#[test]
fn a_row_gives_the_weights_back() {
    let noise = &mut Noise(2);
    for (bits, group_len, shape) in [(8, 32, [17, 96]), (4, 64, [33, 128]), (8, 77, [5, 77]), (4, 51, [19, 51])] {
        let case = Case::new(bits, group_len, shape, noise);
        for zeros in case.zeros() {
            let ints = case.pack(zeros);
            assert_eq!((ints.n_outputs(), ints.n_inputs(), ints.bits()), (shape[0], shape[1], bits));
            for output in 0..shape[0] {
                let mut values = vec![0.0; shape[1]];
                ints.row(output, &mut values);
                for (input, value) in values.iter().enumerate() {
                    let group = output * (shape[1] / group_len) + input / group_len;
                    let code = f32::from(case.codes[output * shape[1] + input]);
                    let zero = case.zero(zeros, group) as f32;
                    assert_eq!(*value, case.scales[group].to_f32() * (code - zero));
                }
            }
        }
    }
}

#[test]
fn bytes_are_those_of_the_format() {
    let noise = &mut Noise(3);
    for (bits, group_len, shape, expected) in [
        (8, 64, [32, 64], [32 * 64 + 32 * 2, 32 * 64 + 32 * 3, 32 * 64 + 32 * 4]),
        (4, 32, [32, 64], [32 * 32 + 64 * 2, 32 * 32 + 64 * 2 + 32, 32 * 32 + 64 * 4]),
    ] {
        let case = Case::new(bits, group_len, shape, noise);
        assert_eq!(case.zeros().map(|zeros| case.pack(zeros).bytes()), expected);
    }
}

#[test]
fn what_is_not_finite_stays_so_and_zeros_stay_zeros() {
    let case = Case::new(8, 40, [20, 40], &mut Noise(4));
    let mut x = vec![0.0; 3 * 40];
    x[7] = f32::INFINITY;
    x[80 + 39] = f32::NAN;
    let mut tokens = Tokens::default();
    tokens.round(&x, 40, TokenGrid::Dynamic);
    for isa in Isa::available() {
        let mut y = vec![1.0; 60];
        case.pack(Zeros::Middle).multiply_with(isa, &tokens, &mut y);
        assert!(y[..20].iter().chain(&y[40..]).all(|y| y.is_nan()), "{isa:?}");
        assert!(y[20..40].iter().all(|y| *y == 0.0), "{isa:?}");
    }
}
