use super::*;
use crate::compress::synthetic::Synthetic;

fn sparsity(method: SparsityMethod, fraction: f64, scope: SparsityScope) -> Sparsity {
    Sparsity { scope, ..Sparsity::new(method, fraction) }
}

fn pruned(dense: &[f32], kept: &[bool]) -> Vec<f32> {
    dense.iter().zip(kept).map(|(weight, kept)| if *kept { *weight } else { 0.0 }).collect()
}

#[test]
fn the_smallest_go_and_ties_go_in_order() {
    type Case<'a> = (&'a [f32], usize, f64, SparsityScope, &'a [bool]);
    use SparsityScope::{Matrix, Row};
    let (yes, no) = (true, false);
    let cases: [Case<'_>; 8] = [
        (&[3.0, -1.0, 2.0, -4.0], 4, 0.5, Matrix, &[yes, no, no, yes]),
        (&[3.0, -1.0, 2.0, -4.0], 4, 0.49, Matrix, &[yes, no, yes, yes]),
        (&[3.0, -1.0, 2.0, -4.0], 4, 0.0, Matrix, &[yes; 4]),
        (&[5.0, 4.0, 1.0, 2.0], 2, 0.5, Row, &[yes, no, no, yes]),
        (&[5.0, 4.0, 1.0, 2.0], 2, 0.5, Matrix, &[yes, yes, no, no]),
        (&[1.0, -1.0, 1.0, -1.0], 4, 0.5, Matrix, &[no, no, yes, yes]),
        (&[0.0, 0.0, 0.0, 1.0], 2, 0.5, Matrix, &[no, no, yes, yes]),
        (&[2.0, 1.0, 1.0, 1.0, 0.0, 3.0], 3, 0.34, Row, &[yes, no, yes, yes, no, yes]),
    ];
    for (dense, row_len, fraction, scope, expected) in cases {
        let sparsity = sparsity(SparsityMethod::Magnitude, fraction, scope);
        assert_eq!(keep_mask(dense, row_len, &sparsity, None).unwrap(), expected, "{dense:?} {fraction} {scope:?}");
    }
    assert!(keep_mask(&[], 4, &Sparsity::magnitude(0.5), None).unwrap().is_empty());
}

#[test]
fn exactly_the_asked_share_goes() {
    let layer = Synthetic::layer(1);
    let [rows, row_len] = layer.shape;
    // Many ties: half precision repeats magnitudes.
    let dense: Vec<f32> = layer.dense.iter().map(|weight| (weight * 64.0).round() / 64.0).collect();
    for method in [SparsityMethod::Magnitude, SparsityMethod::Wanda] {
        for fraction in [0.1, 0.3, 0.5, 0.95] {
            let masks = [SparsityScope::Row, SparsityScope::Matrix].map(|scope| {
                keep_mask(&dense, row_len, &sparsity(method, fraction, scope), Some(&layer.calibration)).unwrap()
            });
            let zeros = |kept: &[bool]| kept.iter().filter(|kept| !**kept).count();
            let a_row = (row_len as f64 * fraction) as usize;
            assert!(masks[0].chunks(row_len).all(|kept| zeros(kept) == a_row), "{method:?} {fraction}");
            assert_eq!(zeros(&masks[1]), ((rows * row_len) as f64 * fraction) as usize, "{method:?} {fraction}");
        }
        for pattern in [Pattern::TWO_OF_FOUR, Pattern::FOUR_OF_EIGHT, Pattern { zeros: 1, len: 4 }] {
            let sparsity = Sparsity::with_pattern(method, pattern);
            let kept = keep_mask(&dense, row_len, &sparsity, Some(&layer.calibration)).unwrap();
            let mut runs = kept.chunks(usize::from(pattern.len));
            assert!(runs.all(|run| run.iter().filter(|kept| !**kept).count() == usize::from(pattern.zeros)));
        }
    }
}

/// Of the six ways to keep two of four, the mask keeps the largest sum.
#[test]
fn two_of_four_is_the_best_of_the_six_patterns() {
    let layer = Synthetic::layer(3);
    let kept =
        keep_mask(&layer.dense, 128, &Sparsity::with_pattern(SparsityMethod::Magnitude, Pattern::TWO_OF_FOUR), None);
    for (weights, kept) in layer.dense.chunks(4).zip(kept.unwrap().chunks(4)) {
        let sum = |picked: &dyn Fn(usize) -> bool| -> f32 {
            weights.iter().enumerate().filter(|(at, _)| picked(*at)).map(|(_, weight)| weight.abs()).sum()
        };
        let pairs = (0..4).flat_map(|a| (a + 1..4).map(move |b| (a, b)));
        let best = pairs.map(|(a, b)| sum(&|at| at == a || at == b)).fold(0.0, f32::max);
        assert_eq!(sum(&|at| kept[at]), best);
    }
}

/// A straightforward sort of every row, as the reference implementation does it.
#[test]
fn wanda_is_the_sort_of_every_row() {
    let layer = Synthetic::layer(5);
    let moments = &layer.calibration;
    let kept = keep_mask(&layer.dense, 128, &Sparsity::new(SparsityMethod::Wanda, 0.3), Some(moments)).unwrap();
    for (row, kept) in layer.dense.chunks(128).zip(kept.chunks(128)) {
        let score = |at: usize| {
            let squares: f64 = layer.inputs.iter().skip(at).step_by(128).map(|x| f64::from(*x).powi(2)).sum();
            f64::from(row[at].abs()) * (squares / moments.n_tokens() as f64).sqrt()
        };
        let mut order: Vec<(f64, usize)> = (0..128).map(|at| (score(at), at)).collect();
        order.sort_by(|a, b| a.partial_cmp(b).unwrap());
        assert!(order.iter().enumerate().all(|(rank, (_, at))| kept[*at] == (rank >= 38)));
    }
    let scores: Vec<f64> = wanda_scores(&layer.dense, 128, moments).unwrap().collect();
    let expected = f64::from(layer.dense[200].abs()) * (moments.sum_squares()[72] / 1024.0).sqrt();
    assert_eq!((scores.len(), scores[200]), (layer.dense.len(), expected));
}

#[test]
fn inputs_of_one_size_make_wanda_magnitude_by_rows() {
    let layer = Synthetic::layer(2);
    let mut white = Moments::new(128);
    for feature in 0..128 {
        let mut token = vec![0.0; 128];
        token[feature] = -4.0;
        white.observe(&token, 1);
    }
    let white = white.finish();
    for fraction in [0.2, 0.5, 0.77] {
        let wanda =
            keep_mask(&layer.dense, 128, &Sparsity::new(SparsityMethod::Wanda, fraction), Some(&white)).unwrap();
        let rows = sparsity(SparsityMethod::Magnitude, fraction, SparsityScope::Row);
        assert_eq!(wanda, keep_mask(&layer.dense, 128, &rows, None).unwrap());
    }
}

#[test]
fn wanda_errs_less_than_magnitude_on_inputs_that_it_has_not_seen() {
    for pattern in [None, Some(Pattern::TWO_OF_FOUR)] {
        for seed in 0..8 {
            let layer = Synthetic::layer(seed);
            let [magnitude, wanda] = [SparsityMethod::Magnitude, SparsityMethod::Wanda].map(|method| {
                let sparsity =
                    pattern.map_or(Sparsity::new(method, 0.5), |pattern| Sparsity::with_pattern(method, pattern));
                let kept = keep_mask(&layer.dense, 128, &sparsity, Some(&layer.calibration)).unwrap();
                layer.held_out_error(&pruned(&layer.dense, &kept))
            });
            assert!(wanda < magnitude, "seed {seed}: {wanda} {magnitude}");
        }
    }
}

#[test]
fn what_cannot_be_scored_is_refused() {
    let wanda = Sparsity::new(SparsityMethod::Wanda, 0.5);
    let refused = |moments: Option<&Moments>| keep_mask(&[1.0; 8], 4, &wanda, moments).unwrap_err();
    assert!(matches!(refused(None), CompressError::NotCalibrated));
    assert!(matches!(refused(Some(&Moments::new(4))), CompressError::NotCalibrated));
    let mut other = Moments::new(2);
    other.observe(&[1.0, 2.0], 1);
    assert!(matches!(refused(Some(&other)), CompressError::Inputs { n_inputs: 2, row_len: 4 }));
    let pattern = Sparsity::with_pattern(SparsityMethod::Magnitude, Pattern::TWO_OF_FOUR);
    assert!(matches!(keep_mask(&[1.0; 6], 6, &pattern, None), Err(CompressError::RowLength { row_len: 6, .. })));
    assert!(keep_mask(&[1.0; 8], 4, &Sparsity::new(SparsityMethod::SparseGpt, 0.5), None).is_err());
}
