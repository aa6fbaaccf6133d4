use super::*;
use crate::compress::synthetic::{Synthetic, relative_output_error, trace};

const METHODS: [LowRankMethod; 2] = [LowRankMethod::Svd, LowRankMethod::Whitened];

fn product(factors: &Factors) -> Vec<f32> {
    let width = factors.down.len() / factors.rank;
    let mut weights = Vec::new();
    for up in factors.up.chunks(factors.rank) {
        let mut row = vec![0.0_f64; width];
        for (up, down) in up.iter().zip(factors.down.chunks(width)) {
            row.iter_mut().zip(down).for_each(|(sum, down)| *sum += f64::from(*up) * f64::from(*down));
        }
        weights.extend(row.into_iter().map(|sum| sum as f32));
    }
    weights
}

/// tr((W − Ŵ) G (W − Ŵ)ᵀ) of the factors before they are rounded to f32, and tr(W G Wᵀ).
fn exact_error(layer: &Synthetic, method: LowRankMethod, rank: usize) -> (f64, f64, f64) {
    let [rows, width] = layer.shape;
    let parts = Decomposition::new(&layer.dense, layer.shape, method, Some(&layer.calibration), &Host).unwrap();
    let (u, v) = (parts.svd.u.clone(), parts.svd.v.clone());
    let mut down = Mat::from_fn(width, rank, |row, k| v[(row, k)] * parts.singular_values()[k]);
    if let Some(whitening) = &parts.whitening {
        whitening.undo(&mut down);
    }
    let weights = MatRef::from_row_major_slice(&layer.dense, rows, width);
    let error = |row: usize, column: usize| {
        let product: f64 = (0..rank).map(|k| u[(row, k)] * down[(column, k)]).sum();
        f64::from(weights[(row, column)]) - product
    };
    let error: Vec<f64> =
        (0..rows).flat_map(|row| (0..width).map(move |column| (row, column))).map(|(r, c)| error(r, c)).collect();
    let dense: Vec<f64> = layer.dense.iter().map(|weight| f64::from(*weight)).collect();
    let identity: Vec<f64> = (0..width * width).map(|at| f64::from(u8::from(at % (width + 1) == 0))).collect();
    let gram = if method == LowRankMethod::Svd { &identity[..] } else { layer.calibration.gram() };
    let discarded = parts.factors(rank).discarded;
    (trace(&error, gram), discarded, trace(&dense, gram))
}

#[test]
fn the_error_is_what_was_discarded() {
    for shape in [[24, 32], [40, 16]] {
        let layer = Synthetic::new(shape, 200, 7);
        for method in METHODS {
            for rank in [1, 5, 15] {
                let (error, discarded, whole) = exact_error(&layer, method, rank);
                assert!((error - discarded).abs() < 1e-12 * whole, "{shape:?} {method:?} {rank}: {error} {discarded}");
                assert!((error / discarded - 1.0).abs() < 1e-10, "{shape:?} {method:?} {rank}: {error} {discarded}");
            }
        }
    }
}

#[test]
fn more_rank_errs_less_and_full_rank_is_the_matrix() {
    for shape in [[24, 32], [32, 24], [1, 9], [9, 1], [16, 16]] {
        let layer = Synthetic::new(shape, 300, 11);
        let full = shape[0].min(shape[1]);
        for method in METHODS {
            let mut last = f64::INFINITY;
            for rank in 1..=full {
                let factors = low_rank_of_rank(&layer.dense, shape, rank, method, Some(&layer.calibration)).unwrap();
                assert_eq!((factors.up.len(), factors.down.len()), (shape[0] * rank, rank * shape[1]));
                let restored = product(&factors);
                let error = match method {
                    LowRankMethod::Whitened => relative_output_error(&layer.dense, &restored, &layer.calibration),
                    LowRankMethod::Svd => {
                        layer.dense.iter().zip(&restored).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>()
                    }
                };
                assert!(error <= last, "{shape:?} {method:?} {rank}: {error} {last}");
                last = error;
                if rank == full {
                    let worst = layer.dense.iter().zip(&restored).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                    assert!(worst <= 1e-5, "{shape:?} {method:?}: {worst}");
                }
            }
        }
    }
}

/// The ratio of a reference experiment with layers of the same kind is 0.15.
#[test]
fn whitening_helps_on_inputs_that_it_has_not_seen() {
    let mut ratios = Vec::new();
    for seed in 0..6 {
        let layer = Synthetic::layer(seed);
        let [plain, whitened] = METHODS.map(|method| {
            let factors = low_rank_of_rank(&layer.dense, layer.shape, 32, method, Some(&layer.calibration)).unwrap();
            layer.held_out_error(&product(&factors))
        });
        assert!(whitened < plain, "seed {seed}: {whitened} {plain}");
        ratios.push(whitened / plain);
    }
    let mean = ratios.iter().sum::<f64>() / ratios.len() as f64;
    assert!(mean < 0.25, "{mean}: {ratios:?}");
}

#[test]
fn ranks_follow_their_rule() {
    // Singular values 4, 2, 1 of a matrix of rank 3: squares 16, 4, 1 of 21.
    let mut dense = vec![0.0; 4 * 6];
    for (at, value) in [(0, 4.0), (8, 2.0), (16, 1.0)] {
        dense[at] = value;
    }
    let cases = [
        (RankRule::Energy(1.0), 1, 3),
        (RankRule::Energy(20.0 / 21.0 - 1e-9), 1, 2),
        (RankRule::Energy(20.0 / 21.0 + 1e-9), 1, 3),
        (RankRule::Energy(0.5), 1, 1),
        (RankRule::Energy(0.5), 2, 2),
        (RankRule::ErrorBudget(1.0 / 21.0 + 1e-9), 1, 2),
        (RankRule::ErrorBudget(0.999), 1, 1),
        (RankRule::Ratio(0.9), 1, 2),
        (RankRule::Ratio(0.01), 1, 1),
        (RankRule::Ratio(0.9), 3, 3),
        (RankRule::Ratio(5.0), 8, 4),
    ];
    for (rank, align, expected) in cases {
        let rule = LowRank { method: LowRankMethod::Svd, rank, align };
        let factors = factorize(&dense, [4, 6], &rule, None).unwrap();
        assert_eq!(factors.rank, expected, "{rule:?}");
        assert!((factors.singular_values.iter().map(|value| value * value).sum::<f64>() - 21.0).abs() < 1e-12);
    }
    let values = singular_values(&dense, [4, 6], LowRankMethod::Svd, None).unwrap();
    for (found, expected) in values.iter().zip([4.0, 2.0, 1.0, 0.0]) {
        assert!((found - expected).abs() < 1e-12, "{values:?}");
    }
}

#[test]
fn the_factors_share_the_size_of_the_matrix() {
    let layer = Synthetic::layer(2);
    for method in METHODS {
        let factors = low_rank_of_rank(&layer.dense, layer.shape, 20, method, Some(&layer.calibration)).unwrap();
        for k in 0..20 {
            let up: f64 = factors.up.iter().skip(k).step_by(20).map(|value| f64::from(*value).powi(2)).sum();
            let down: f64 = factors.down.chunks(128).nth(k).unwrap().iter().map(|v| f64::from(*v).powi(2)).sum();
            assert!((up / down - 1.0).abs() < 1e-4, "{method:?} {k}: {up} {down}");
        }
    }
}

#[test]
fn zero_matrices_and_missing_ranks_are_no_special_case() {
    let layer = Synthetic::new([6, 8], 50, 1);
    let twins: Vec<f32> = layer.dense[..8].repeat(6);
    for (dense, full) in [(vec![0.0; 48], 1), (twins, 1)] {
        for method in METHODS {
            let factors = low_rank_of_rank(&dense, [6, 8], full, method, Some(&layer.calibration)).unwrap();
            let restored = product(&factors);
            assert!(dense.iter().zip(&restored).all(|(a, b)| (a - b).abs() < 1e-5), "{method:?}: {restored:?}");
            let energy = LowRank { method, rank: RankRule::Energy(0.999), align: 1 };
            assert_eq!(factorize(&dense, [6, 8], &energy, Some(&layer.calibration)).unwrap().rank, 1);
        }
    }
}

/// Fewer tokens than features: the moments have no factor until something is added, which is said.
#[test]
fn inputs_that_span_too_little_are_damped_in_words() {
    let few = Synthetic::new([16, 32], 12, 9);
    let factors = low_rank_of_rank(&few.dense, few.shape, 12, LowRankMethod::Whitened, Some(&few.calibration)).unwrap();
    assert!(factors.notes[0].contains("span"), "{:?}", factors.notes);
    assert!(relative_output_error(&few.dense, &product(&factors), &few.calibration) < 1e-4);
    let mut dead = Moments::new(32);
    dead.observe(&[0.0; 64], 1);
    let dead = dead.finish();
    let factors = low_rank_of_rank(&few.dense, few.shape, 16, LowRankMethod::Whitened, Some(&dead)).unwrap();
    assert!(factors.notes[0].contains("zero"), "{:?}", factors.notes);
    assert!(factors.notes[1].contains("not smaller"), "{:?}", factors.notes);
    let plain = low_rank_of_rank(&few.dense, few.shape, 16, LowRankMethod::Svd, None).unwrap();
    assert_eq!(product(&factors), product(&plain));
}

#[test]
fn what_does_not_fit_is_refused() {
    let whitened = |moments: Option<&Moments>| low_rank_of_rank(&[1.0; 6], [2, 3], 1, LowRankMethod::Whitened, moments);
    assert!(matches!(whitened(None), Err(CompressError::NotCalibrated)));
    assert!(matches!(whitened(Some(&Moments::new(3))), Err(CompressError::NotCalibrated)));
    assert!(matches!(whitened(Some(&Moments::new(4))), Err(CompressError::Inputs { n_inputs: 4, row_len: 3 })));
    let mut lost = Moments::new(3);
    lost.observe(&[f32::NAN, 1.0, 1.0], 1);
    assert!(matches!(whitened(Some(&lost.finish())), Err(CompressError::NonFiniteMoments)));
    let shape = low_rank_of_rank(&[1.0; 5], [2, 3], 1, LowRankMethod::Svd, None);
    assert!(matches!(shape, Err(CompressError::Shape { .. })));
}
