//! The card's linear algebra, by the emulation, beside the processor's.

use faer::Mat;

use crate::compress::{
    Columns, Compressed, Factor, Hessian, Host, Job, Line, Mask, Moments, Solver, Target, compress, compress_with,
    fitted,
};
use crate::cuda::Device;
use crate::model::StoredFormat;
use crate::nn::toy::noise;
use crate::recipe::{
    Correction, GptqOptions, Group, IntFormat, LayerSettings, LowRankMethod, Pattern, Rounding, Sparsity,
    SparsityMethod, WeightFormat,
};

fn numbers(seed: usize, n: usize) -> Vec<f32> {
    (0..n).map(|at| noise(seed, at, 1.0)).collect()
}

/// Of inputs of `width` features that depend on each other; some are larger, and number 5 is dead.
fn moments(width: usize) -> Moments {
    let mut x = numbers(3, (2 * width + 3) * width);
    for token in x.chunks_mut(width) {
        let common = token[0];
        token.iter_mut().enumerate().for_each(|(at, value)| *value = (*value + common) * (1 + at % 7) as f32);
        token.iter_mut().skip(5).take(1).for_each(|value| *value = 0.0);
    }
    let mut moments = Moments::new(width);
    moments.observe(&x, 1);
    moments.finish()
}

fn largest<'a>(values: impl IntoIterator<Item = &'a f64>) -> f64 {
    values.into_iter().fold(0.0, |largest, value| largest.max(value.abs()))
}

fn assert_near(found: &[f64], expected: &[f64], share: f64, what: &str) {
    let bound = share * largest(expected);
    assert_eq!(found.len(), expected.len(), "{what}");
    for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!((found - expected).abs() <= bound, "{what} at {at}: {found} {expected} ± {bound}");
    }
}

#[test]
fn a_factor_is_the_processor_s() {
    let card = Device::emulated();
    for width in [1, 7, 64, 65, 130] {
        let moments = moments(width);
        let hessian = Hessian::new(&moments, width).unwrap();
        for order in [(0..width).collect(), hessian.act_order()] {
            let expected = Host.factor(&hessian, order.clone(), 0.01).unwrap().unwrap();
            let found = card.factor(&hessian, order, 0.01).unwrap().unwrap();
            assert_eq!((found.damping, &found.order), (expected.damping, &expected.order));
            assert_near(&found.upper, &expected.upper, 1e-12, &format!("width {width}"));
            let below = |upper: &Factor| (0..width).all(|row| (0..row).all(|at| upper.upper[row * width + at] == 0.0));
            assert!(below(&found), "width {width}");
        }
    }
    assert_eq!(card.allocated_bytes().0, 0);
}

/// Two inputs that are more alike than each is like itself need more damping, or there is none that helps.
#[test]
fn damping_rises_until_a_factor_exists() {
    let (card, width) = (Device::emulated(), 130);
    let moments = moments(width);
    for (across, damping) in [(0.5, Some(0.01)), (1.05, Some(0.1)), (5.0, None), (f64::NAN, None)] {
        let mut gram = vec![0.0; width * width];
        gram.iter_mut().step_by(width + 1).for_each(|value| *value = 1.0);
        (gram[3 * width + 100], gram[100 * width + 3]) = (across, across);
        let mut hessian = Hessian::new(&moments, width).unwrap();
        (hessian.diagonal, hessian.mean, hessian.scale) = (vec![1.0; width], 1.0, 1.0);
        hessian.gram = &gram;
        let [found, expected] =
            [&card as &dyn Solver, &Host].map(|solver| solver.factor(&hessian, (0..width).collect(), 0.01).unwrap());
        assert_eq!(found.as_ref().map(|factor| factor.damping), damping, "{across}");
        assert_eq!(expected.as_ref().map(|factor| factor.damping), damping, "{across}");
        if let (Some(found), Some(expected)) = (found, expected) {
            assert_near(&found.upper, &expected.upper, 1e-12, "damped");
        }
    }
}

const ROWS: usize = 11;
const WIDTH: usize = 192;
const INT4: IntFormat = IntFormat { bits: 4, group: Group::Size(32), symmetric: false };

fn group_lines(dense: &[f32], group: usize) -> Vec<Line> {
    let lines = dense.chunks(group).map(|weights| fitted(weights.iter().map(|weight| f64::from(*weight)), INT4));
    lines.collect::<Result<_, _>>().unwrap()
}

/// The loss, the restored weights and the lines of both solvers.
fn both(order: &[usize], setup: impl Fn(&mut Columns<'_>, &[f32])) -> [(f64, Vec<f32>, Vec<Line>); 2] {
    let moments = moments(WIDTH);
    let hessian = Hessian::new(&moments, WIDTH).unwrap();
    let factor = Host.factor(&hessian, order.to_vec(), 0.01).unwrap().unwrap();
    let dense = numbers(8, ROWS * WIDTH);
    [&Device::emulated() as &dyn Solver, &Host].map(|solver| {
        let mut columns = Columns::new(&dense, hessian.is_dead(), &factor);
        setup(&mut columns, &dense);
        let loss = solver.run_columns(&mut columns).unwrap();
        (loss, columns.restored(), columns.lines)
    })
}

#[test]
fn columns_are_the_processor_s_for_every_mask_and_target() {
    let natural: Vec<usize> = (0..WIDTH).collect();
    let masks = [
        Mask::Given,
        Mask::Fraction(0.5),
        Mask::Pattern(Pattern::TWO_OF_FOUR),
        // A run that no group of 32 ends with.
        Mask::Pattern(Pattern { zeros: 2, len: 6 }),
        // Longer than a warp has columns.
        Mask::Pattern(Pattern { zeros: 100, len: 192 }),
    ];
    let wide = IntFormat { group: Group::Row, ..INT4 };
    let targets = [
        (Target::Itself, WIDTH),
        (Target::Line, 32),
        (Target::Refitted(INT4), 32),
        (Target::Refitted(INT4), 96),
        (Target::Refitted(wide), WIDTH),
        (Target::Fp8, 64),
    ];
    for mask in masks {
        for (target, group) in targets {
            for is_masked in [false, true] {
                let [found, expected] = both(&natural, |columns, dense| {
                    (columns.mask, columns.target, columns.group) = (mask, target, group);
                    columns.lines = group_lines(dense, group);
                    if target == Target::Fp8 {
                        columns.lines.iter_mut().for_each(|line| line.step *= 0.125);
                    }
                    if is_masked {
                        columns.keep.iter_mut().step_by(3).for_each(|keep| *keep = false);
                    }
                });
                let what = format!("{mask:?} {target:?} {group} {is_masked}");
                assert_alike(&found, &expected, target, &what);
                if mask != Mask::Given {
                    // A mask that is chosen on the way joins none that was given.
                    break;
                }
            }
        }
    }
}

#[test]
fn columns_in_another_order_find_their_lines() {
    let order: Vec<usize> = (0..WIDTH).map(|at| at * 35 % WIDTH).collect();
    for (target, group) in [(Target::Line, 16), (Target::Fp8, WIDTH)] {
        let [found, expected] = both(&order, |columns, dense| {
            (columns.target, columns.group, columns.lines) = (target, group, group_lines(dense, group));
        });
        assert_alike(&found, &expected, target, &format!("{target:?}"));
    }
}

/// Sums have another order: a weight that is rounded by feedback alone differs by rounding of f32, one on a grid not at all,
/// as none here lies that near to the middle between two codes.
fn assert_alike(found: &(f64, Vec<f32>, Vec<Line>), expected: &(f64, Vec<f32>, Vec<Line>), target: Target, what: &str) {
    assert!((found.0 / expected.0 - 1.0).abs() < 1e-9 || found.0 == expected.0, "{what}: {} {}", found.0, expected.0);
    assert_eq!(found.2, expected.2, "{what}");
    for (at, (found, expected)) in found.1.iter().zip(&expected.1).enumerate() {
        let bound = if target == Target::Itself { 1e-6 * expected.abs() } else { 0.0 };
        assert!((found - expected).abs() <= bound, "{what} at {at}: {found} {expected}");
    }
}

#[test]
fn a_weight_that_feedback_carries_beyond_f32_is_refused() {
    let moments = moments(WIDTH);
    let hessian = Hessian::new(&moments, WIDTH).unwrap();
    let factor = Host.factor(&hessian, (0..WIDTH).collect(), 0.01).unwrap().unwrap();
    let mut columns = Columns::new(&numbers(8, WIDTH), hessian.is_dead(), &factor);
    columns.work[7] = 1e300;
    let error = Device::emulated().run_columns(&mut columns).unwrap_err();
    assert!(error.to_string().contains("f32 after error feedback"), "{error}");
}

#[test]
fn output_errors_are_the_processor_s() {
    let card = Device::emulated();
    for (rows, width) in [(1, 1), (3, 70), (130, 65)] {
        let moments = moments(width);
        let dense = numbers(1, rows * width);
        let restored: Vec<f32> = dense.iter().map(|weight| (weight * 8.0).round() / 8.0).collect();
        let [found, expected] = [&card as &dyn Solver, &Host]
            .map(|solver| solver.output_error(&dense, &restored, &moments).unwrap().unwrap());
        assert!((found / expected - 1.0).abs() < 1e-12, "{rows} {width}: {found} {expected}");
        let zeros = vec![0.0; rows * width];
        assert_eq!(card.output_error(&zeros, &restored, &moments).unwrap(), None);
    }
}

/// (rows, columns) of rank `rank` with singular values that fall by `decay` from one to the next.
fn matrix([rows, columns]: [usize; 2], rank: usize, decay: f64) -> Mat<f64> {
    let of = |seed, n| Mat::from_fn(n, rank, |i, j| f64::from(noise(seed, i * rank + j, 1.0)));
    let (left, mut right) = (of(1, rows), of(2, columns));
    for (power, column) in right.col_iter_mut().enumerate() {
        column.iter_mut().for_each(|value| *value *= decay.powf(power as f64));
    }
    &left * right.transpose()
}

#[test]
fn singular_values_and_vectors_are_those_of_the_matrix() {
    let card = Device::emulated();
    let cases = [
        ("wide", matrix([20, 70], 20, 1.0)),
        ("tall", matrix([90, 33], 33, 1.0)),
        ("square", matrix([48, 48], 48, 1.0)),
        ("a row", matrix([1, 9], 1, 1.0)),
        ("steep", matrix([40, 40], 40, 0.4)),
        ("of rank 4", matrix([40, 50], 4, 0.5)),
        ("of equal values", Mat::from_fn(34, 40, |i, j| if j == 39 - i { 2.0 } else { 0.0 })),
        ("zero", Mat::zeros(33, 35)),
    ];
    for (what, matrix) in cases {
        let found = card.thin_svd(&matrix).unwrap();
        let expected = Host.singular_values(&matrix).unwrap();
        assert_near(&found.values, &expected, 1e-13, what);
        assert_eq!(card.singular_values(&matrix).unwrap(), found.values, "{what}");
        assert!(found.values.is_sorted_by(|a, b| a >= b), "{what}");
        let scaled = Mat::from_fn(matrix.ncols(), found.values.len(), |i, j| found.v[(i, j)] * found.values[j]);
        let lack = &matrix - &found.u * scaled.transpose();
        assert!(lack.norm_max() <= 1e-13 * (1e-300 + expected[0]) * 10.0, "{what}: {}", lack.norm_max());
        // Vectors of nothing but rounding have no direction.
        let n = found.values.iter().filter(|value| **value > 1e-12 * expected[0]).count();
        for vectors in [&found.u, &found.v] {
            let some = vectors.subcols(0, n);
            let products = some.transpose() * some;
            let error = &products - Mat::<f64>::identity(n, n);
            assert!(n == 0 || error.norm_max() < 1e-12, "{what}: {}", error.norm_max());
        }
    }
    let mut broken = matrix([8, 8], 8, 1.0);
    broken[(2, 3)] = f64::NAN;
    assert!(card.thin_svd(&broken).unwrap_err().to_string().contains("converge"));
    assert_eq!(card.allocated_bytes().0, 0);
}

#[test]
fn a_layer_is_compressed_as_on_the_processor() {
    let (shape, moments) = ([40, 96], moments(96));
    let dense = numbers(4, 40 * 96);
    let int4 = WeightFormat::Int(INT4);
    let gptq = Rounding::Gptq(GptqOptions::default());
    let whitened = LowRankMethod::Whitened;
    let layers = [
        LayerSettings { rounding: gptq, ..LayerSettings::of(int4) },
        LayerSettings { rounding: gptq, ..LayerSettings::of(WeightFormat::Q4_0) },
        LayerSettings {
            sparsity: Some(Sparsity::new(SparsityMethod::SparseGpt, 0.5)),
            ..LayerSettings::of(WeightFormat::F32)
        },
        LayerSettings { correction: Some(Correction { rank: 8, method: whitened }), ..LayerSettings::of(int4) },
    ];
    let card = Device::emulated();
    for settings in &layers {
        let job = Job { dense: &dense, shape, settings, native: StoredFormat::F32, moments: Some(&moments) };
        let [found, expected]: [Compressed; 2] = [compress_with(&job, &card).unwrap(), compress(&job).unwrap()];
        assert_eq!((found.activations, &found.notes), (expected.activations, &expected.notes));
        let errors = [found.output_error, expected.output_error].map(Option::unwrap);
        assert!((errors[0] / errors[1] - 1.0).abs() < 1e-6, "{settings:?}: {errors:?}");
        let all = found.weights.dequantize().into_iter().zip(expected.weights.dequantize());
        let n_far = all.filter(|(found, expected)| (found - expected).abs() > 1e-5).count();
        assert_eq!(n_far, 0, "{settings:?}");
    }
}
