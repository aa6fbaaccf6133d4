//! Against f64 on every instruction set, over odd lengths.

use half::f16;

use super::functions::{decay, exp};
use super::*;

fn values(n: usize, seed: f32) -> Vec<f32> {
    (0..n).map(|i| ((i as f32 * 12.9898 + seed).sin() * 43_758.547).fract() * 3.0).collect()
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|value| f64::from(*value)).collect()
}

/// Widths of one row to several chains, with and without tails.
const WIDTHS: [usize; 9] = [1, 7, 16, 33, 64, 127, 288, 576, 2049];

/// Half an ulp.
const HALF: f64 = 1.0 / 16_777_216.0;

fn on_each_set(check: impl Fn(Isa)) {
    Isa::available().for_each(check);
}

fn assert_near(found: &[f32], expected: &[f64], bound: impl Fn(f64) -> f64, name: &str) {
    assert_eq!(found.len(), expected.len());
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        let error = (f64::from(*found) - expected).abs();
        assert!(error <= bound(*expected), "{name} {index}: {found} {expected}");
    }
}

#[test]
fn norms_agree_with_f64() {
    on_each_set(|isa| {
        for width in WIDTHS {
            for scale in [1.0, 1e-20, 1e15] {
                let x: Vec<f32> = values(5 * width, 1.0).iter().map(|x| x * scale).collect();
                let (weight, bias) = (values(width, 2.0), values(width, 3.0));
                let (mut y, mut z) = (vec![f32::NAN; x.len()], vec![f32::NAN; x.len()]);
                rms_norm_on(isa, &x, &weight, 1e-5, &mut y);
                layer_norm_on(isa, &x, &weight, Some(&bias), 1e-5, &mut z);
                for (row, x) in x.chunks(width).enumerate() {
                    let (x, n) = (wide(x), width as f64);
                    let rms = (x.iter().map(|x| x * x).sum::<f64>() / n + f64::from(1e-5_f32)).sqrt();
                    let expected: Vec<f64> = x.iter().zip(wide(&weight)).map(|(x, w)| x * w / rms).collect();
                    let bound = |y: f64| y.abs() * (n / 64.0 + 10.0) * HALF + 1e-42;
                    assert_near(&y[row * width..][..width], &expected, bound, "rms");
                    let mean = x.iter().sum::<f64>() / n;
                    let variance = x.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / n;
                    let deviation = (variance + f64::from(1e-5_f32)).sqrt();
                    let size = x.iter().fold(0.0, |max: f64, x| max.max(x.abs())) / deviation;
                    let expected: Vec<f64> = x
                        .iter()
                        .zip(wide(&weight).iter().zip(wide(&bias)))
                        .map(|(x, (w, b))| (x - mean) / deviation * w + b)
                        .collect();
                    // The weights are up to 3.
                    let bound = |y: f64| (3.0 * size * (n / 32.0 + 20.0) + y.abs()) * HALF;
                    // One value is its own mean: what is left is rounding.
                    assert_near(&z[row * width..][..width], &expected, bound, "layer");
                }
            }
        }
    });
}

#[test]
fn a_residual_with_its_norm_is_one_after_the_other() {
    on_each_set(|isa| {
        for (rows, width) in [(1, 1), (3, 33), (7, 288), (64, 576)] {
            let (hidden, added, weight) = (values(rows * width, 1.0), values(rows * width, 2.0), values(width, 3.0));
            let (mut a, mut b) = (hidden.clone(), hidden.clone());
            let (mut c, mut d) = (vec![0.0; rows * width], vec![0.0; rows * width]);
            add_and_norm_on(isa, &mut a, &added, &weight, 1e-6, &mut c);
            add_in_place_on(isa, &mut b, &added);
            rms_norm_on(isa, &b, &weight, 1e-6, &mut d);
            assert_eq!((&a, &c), (&b, &d));
            assert!(a.iter().zip(hidden.iter().zip(&added)).all(|(a, (h, x))| *a == h + x));
            let last = (rows - 1) * width;
            rms_norm_on(isa, &b[last..], &weight, 1e-6, &mut c[..width]);
            assert_eq!(c[..width], d[last..], "a row does not depend on those beside it");
            let mut biased = hidden.clone();
            add_bias_on(isa, &mut biased, &weight);
            assert!(biased.iter().zip(&hidden).enumerate().all(|(i, (y, x))| *y == x + weight[i % width]));
        }
    });
}

#[test]
fn gates_agree_with_f64() {
    /// erfc by its integral from |z| on, by Simpson's rule.
    fn phi(x: f64) -> f64 {
        let density = |t: f64| (-t * t / 2.0).exp() / std::f64::consts::TAU.sqrt();
        let (n, end) = (400, x.abs().min(12.0));
        let step = end / f64::from(n);
        let weight = |i: i32| if i == 0 || i == n { 1.0 } else { f64::from(2 + 2 * (i % 2)) };
        let area: f64 = (0..=n).map(|i| weight(i) * density(f64::from(i) * step)).sum::<f64>() * step / 3.0;
        0.5 + area.copysign(x)
    }
    let mut x: Vec<f32> = (-4000..4001).map(|i| i as f32 * 0.025).collect();
    x.extend([1e-40, -1e-40, 0.0, -0.0, 1e30, -1e30, f32::MAX, f32::MIN, 88.5, -88.5, 88.9, -88.9, -103.9]);
    let up: Vec<f32> = x.iter().map(|_| 1.0).collect();
    on_each_set(|isa| {
        let run = |act| {
            let mut y = vec![f32::NAN; x.len()];
            gate_on(isa, &x, &up, act, &mut y);
            y
        };
        let of = |function: fn(f64) -> f64| -> Vec<f64> { wide(&x).into_iter().map(function).collect() };
        let expected = of(|x| x / (1.0 + (-x).exp()));
        assert_near(&run(Activation::Silu), &expected, |y| y.abs() * 12.0 * HALF + 3e-37, "silu");
        let expected = of(|x| {
            let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x * x * x);
            x / (1.0 + (-2.0 * u).exp())
        });
        assert_near(&run(Activation::GeluTanh), &expected, |y| y.abs() * 24.0 * HALF + 1e-7, "gelu by tanh");
        for ((x, y), expected) in x.iter().zip(run(Activation::Gelu)).zip(of(|x| x * phi(x))) {
            let bound = f64::from(x.abs()) * 2e-7;
            assert!((f64::from(y) - expected).abs() <= bound, "gelu {x}: {y} {expected}");
        }
        let shifted: Vec<f32> = x.iter().map(|x| x * 0.5).collect();
        let mut y = vec![f32::NAN; x.len()];
        gate_on(isa, &x, &shifted, Activation::Silu, &mut y);
        assert!(y.iter().zip(run(Activation::Silu)).zip(&shifted).all(|((y, act), up)| *y == act * up));
    });
}

#[test]
fn what_is_no_number_stays_none() {
    on_each_set(|isa| {
        for place in [0, 15, 16, 40] {
            let mut x = values(41, 1.0);
            x[place] = f32::NAN;
            let mut y = vec![0.0; 41];
            for act in [Activation::Silu, Activation::GeluTanh, Activation::Gelu] {
                gate_on(isa, &x, &[1.0; 41], act, &mut y);
                assert!(y.iter().enumerate().all(|(i, y)| y.is_nan() == (i == place)), "{act:?}");
                gate_on(isa, &[f32::NEG_INFINITY], &[1.0], act, &mut y[..1]);
                assert!(y[0].is_nan(), "{act:?}");
                gate_on(isa, &[f32::INFINITY], &[1.0], act, &mut y[..1]);
                assert_eq!(y[0], f32::INFINITY, "{act:?}");
            }
            rms_norm_on(isa, &x, &[1.0; 41], 1e-5, &mut y);
            assert!(y.iter().all(|y| y.is_nan()));
            layer_norm_on(isa, &x, &[1.0; 41], None, 1e-5, &mut y);
            assert!(y.iter().all(|y| y.is_nan()));
            for bad in [f32::NAN, f32::INFINITY] {
                x[place] = bad;
                let mut row = x.clone();
                softmax_on(isa, &mut row);
                assert!(row.iter().all(|y| y.is_nan()));
            }
            x[place] = f32::NEG_INFINITY;
            softmax_on(isa, &mut x);
            assert!(x[place] == 0.0 && (x.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        }
    });
}

#[test]
fn softmax_agrees_with_f64() {
    on_each_set(|isa| {
        for n in WIDTHS {
            for scale in [1.0, 30.0, 1e30] {
                let x: Vec<f32> = values(n, 4.0).iter().map(|x| x * scale).collect();
                let max = x.iter().fold(f64::MIN, |max, x| max.max(f64::from(*x)));
                let weights: Vec<f64> = wide(&x).iter().map(|x| (x - max).exp()).collect();
                let sum: f64 = weights.iter().sum();
                let mut y = x.clone();
                softmax_on(isa, &mut y);
                // A difference of f32 scores errs by half an ulp of itself, at most 87.
                let bound = |y: f64| y * (n as f64 / 64.0 + 100.0) * HALF + 2e-38;
                assert_near(&y, &weights.iter().map(|w| w / sum).collect::<Vec<_>>(), bound, "softmax");
            }
        }
        softmax_on(isa, &mut []);
    });
}

#[test]
fn rotation_agrees_with_f64_in_both_orders() {
    on_each_set(|isa| {
        for (seq, heads, head_dim) in [(1, 1, 2), (3, 2, 6), (5, 6, 48), (130, 9, 64)] {
            let half = head_dim / 2;
            let angle = |i: usize| (i as f64 * 0.37).sin() * 3.0;
            let cos: Vec<f32> = (0..seq * half).map(|i| angle(i).cos() as f32).collect();
            let sin: Vec<f32> = (0..seq * half).map(|i| angle(i).sin() as f32).collect();
            let rows = values(seq * heads * head_dim, 5.0);
            for order in [RotaryOrder::Halves, RotaryOrder::Interleaved] {
                let mut expected = vec![0.0; rows.len()];
                for (number, head) in rows.chunks(head_dim).enumerate() {
                    for pair in 0..half {
                        let (low, high) = match order {
                            RotaryOrder::Halves => (pair, pair + half),
                            RotaryOrder::Interleaved => (2 * pair, 2 * pair + 1),
                        };
                        let at = number / heads * half + pair;
                        let (c, s) = (f64::from(cos[at]), f64::from(sin[at]));
                        let (x, y) = (f64::from(head[low]), f64::from(head[high]));
                        expected[number * head_dim + low] = x * c - y * s;
                        expected[number * head_dim + high] = x * s + y * c;
                    }
                }
                let mut found = rows.clone();
                rotate_on(isa, &mut found, &cos, &sin, head_dim, order);
                assert_near(&found, &expected, |_| 6.0 * 2.0 * HALF, "rotation");
            }
        }
        rotate_on(isa, &mut [], &[], &[], 64, RotaryOrder::Halves);
    });
}

#[test]
fn powers_of_e_are_within_three_ulp() {
    let mut x: Vec<f32> = (-208_000..178_000).map(|i| i as f32 * 0.000_5).collect();
    x.extend([f32::MIN, f32::MAX, f32::INFINITY, f32::NEG_INFINITY, 88.722_84, 88.73]);
    for x in x {
        let exact = f64::from(x).exp();
        let found = f64::from(exp(x));
        if exact >= f64::from(f32::MAX) + 1e31 {
            assert_eq!(exp(x), f32::INFINITY, "{x}");
        } else {
            assert!((found - exact).abs() <= exact * 6.0 * HALF + 3e-45, "{x}: {found} {exact}");
        }
        if (-87.0..=0.0).contains(&x) {
            assert!((f64::from(decay(x)) - exact).abs() <= exact * 6.0 * HALF, "{x}");
        } else if x < -87.0 {
            assert_eq!(decay(x), 0.0);
        }
    }
    assert!(exp(f32::NAN).is_nan() && decay(f32::NAN).is_nan());
}

#[test]
fn registers_agree_with_plain_lanes() {
    fn check<V: Register>() {
        let mut x: Vec<f32> = (-95_000..0).map(|i| i as f32 * 0.001).collect();
        x.extend([f32::NAN, f32::NEG_INFINITY, f32::MIN, -0.0, 0.0, -1e-40, -87.0, -87.00001]);
        x.resize(x.len().next_multiple_of(LANES), 0.0);
        for x in x.as_chunks().0 {
            let mut found = [0.0; LANES];
            V::of(x).decay().write(&mut found);
            for (found, x) in found.iter().zip(x) {
                let (found, exact) = (f64::from(*found), f64::from(*x).exp());
                let is_near = (found - exact).abs() <= exact * 6.0 * HALF;
                let expected = if *x < -87.0 { found == 0.0 } else { is_near || found.is_nan() && x.is_nan() };
                assert!(expected, "{x}: {found}");
            }
            if x.iter().all(|x| !x.is_nan()) {
                assert_eq!(V::of(x).largest(), x.iter().fold(f32::NEG_INFINITY, |max, x| max.max(*x)));
                let (sum, exact) = (f64::from(V::of(x).sum()), wide(x).iter().sum::<f64>());
                assert!(sum == exact || (sum - exact).abs() <= exact.abs() * 8.0 * HALF, "{sum} {exact}");
            }
        }
        for bits in (0..=u16::MAX).step_by(LANES) {
            let halves = std::array::from_fn(|lane| f16::from_bits(bits + lane as u16));
            let mut found = [0.0; LANES];
            V::of_halves(&halves).write(&mut found);
            for (found, half) in found.iter().zip(halves) {
                let expected = half.to_f32();
                assert!(found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan(), "{half:?}");
            }
        }
        let nan = V::splat(f32::NAN);
        let mut found = [0.0; LANES];
        nan.larger(V::splat(2.0)).write(&mut found);
        assert_eq!(found, [2.0; LANES]);
    }
    on_each_set(|isa| match isa {
        Isa::Avx512 | Isa::Avx512Vnni => compiled_for(isa, check::<Wide>),
        Isa::Avx2 | Isa::Avx2Vnni => compiled_for(isa, check::<Pair>),
        Isa::Neon | Isa::NeonDotprod | Isa::NeonI8mm => check::<Quad>(),
        Isa::Portable => check::<Lanes>(),
    });
}
