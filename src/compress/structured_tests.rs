use super::*;
use crate::compress::synthetic::{Normal, Synthetic, relative_output_error};
use rand::SeedableRng as _;
use rand::rngs::StdRng;

/// `weights` (rows, kept) back in their places among `row_len` columns of zeros.
fn masked(weights: &[f32], row_len: usize, kept: &[usize]) -> Vec<f32> {
    let rows = weights.chunks(kept.len()).flat_map(|weights| {
        let mut row = vec![0.0; row_len];
        kept.iter().zip(weights).for_each(|(column, weight)| row[*column] = *weight);
        row
    });
    rows.collect()
}

#[test]
fn the_highest_stay_in_their_order() {
    let scores = [3.0, 1.0, 2.0, 2.0, 9.0];
    for (n_kept, expected) in [
        (0, vec![]),
        (1, vec![4]),
        (2, vec![0, 4]),
        (3, vec![0, 3, 4]),
        (4, vec![0, 2, 3, 4]),
        (9, vec![0, 1, 2, 3, 4]),
    ] {
        assert_eq!(highest(&scores, n_kept), expected);
    }
}

/// Two key-value heads of width 2, each read by two queries, on a stream of width 3.
#[test]
fn units_are_scored_with_everything_that_belongs_to_them() {
    let mut q = vec![0.0; 8 * 3];
    let (mut k, mut o) = (vec![0.0; 4 * 3], vec![0.0; 3 * 8]);
    q[7 * 3] = 2.0;
    k[2 * 3 + 2] = 1.0;
    o[8 + 4] = 2.0;
    assert_eq!(weight_norms(&[&q, &k, &[0.0; 12]], &o, 3, 2), [0.0, 3.0]);
    o[3] = 5.0;
    assert_eq!(weight_norms(&[&q, &k, &[0.0; 12]], &o, 3, 2), [5.0, 3.0]);
    let mut moments = Moments::new(8);
    moments.observe(&[3.0, 0.0, 0.0, 4.0, 0.0, 0.0, 1.0, 0.0], 1);
    let moments = moments.finish();
    assert_eq!(activation_norms(&moments, 2), [5.0, 1.0]);
    assert_eq!(activation_norms(&moments, 8)[3], 4.0);
    assert_eq!(sum_units(&[1.0, 2.0, 3.0, 4.0], 2), [3.0, 7.0]);
    assert_eq!(features_of_units(&[0, 2], 3), [0, 1, 2, 6, 7, 8]);
}

#[test]
fn slices_are_the_rows_and_columns_asked_for() {
    let matrix: Vec<f32> = (0..12_u8).map(f32::from).collect();
    assert_eq!(select_rows(&matrix, 4, &[0, 2]), [0.0, 1.0, 2.0, 3.0, 8.0, 9.0, 10.0, 11.0]);
    assert_eq!(select_columns(&matrix, 4, &[1, 3]), [1.0, 3.0, 5.0, 7.0, 9.0, 11.0]);
    assert_eq!(select_rows(&matrix[..3], 1, &[2]), [2.0]);
}

/// x ↦ relu(x Wᵀ + b) Vᵀ, one sum after the other.
fn mlp(x: &[f32], up: &[f32], bias: &[f32], down: &[f32]) -> Vec<f32> {
    let dot = |row: &[f32], x: &[f32]| row.iter().zip(x).map(|(a, b)| a * b).sum::<f32>();
    let inner: Vec<f32> = up.chunks(x.len()).zip(bias).map(|(row, bias)| (dot(row, x) + bias).max(0.0)).collect();
    down.chunks(inner.len()).map(|row| dot(row, &inner)).collect()
}

#[test]
fn a_cut_mlp_computes_what_the_masked_one_does() {
    let mut normal = Normal(StdRng::seed_from_u64(5));
    let mut draw = |n: usize| -> Vec<f32> { (0..n).map(|_| normal.next() as f32).collect() };
    let (hidden, inner) = (12, 40);
    let (up, bias, down, x) = (draw(inner * hidden), draw(inner), draw(hidden * inner), draw(hidden));
    for n_kept in [1, 8, 33, 40] {
        let kept = highest(&weight_norms(&[&up], &down, hidden, inner), n_kept);
        let small_down = select_columns(&down, inner, &kept);
        let cut = mlp(&x, &select_rows(&up, hidden, &kept), &select_rows(&bias, 1, &kept), &small_down);
        assert_eq!(cut, mlp(&x, &up, &bias, &masked(&small_down, inner, &kept)), "{n_kept} kept");
    }
}

#[test]
fn the_update_never_errs_more_than_the_mask() {
    for seed in 0..8 {
        let layer = Synthetic::new([24, 48], 400, seed);
        for n_kept in [4, 24, 47] {
            let kept = highest(&activation_norms(&layer.calibration, 48), n_kept);
            let updated = least_squares_update(&layer.dense, layer.shape, &layer.calibration, &kept).unwrap();
            assert!(updated.notes.is_empty());
            let error =
                |weights: &[f32]| relative_output_error(&layer.dense, &masked(weights, 48, &kept), &layer.calibration);
            let (updated, mask) = (error(&updated.weights), error(&select_columns(&layer.dense, 48, &kept)));
            assert!(updated < mask, "seed {seed}, {n_kept} kept: {updated} {mask}");
        }
    }
}

/// At the least-squares solution the residual is orthogonal to every input that stays.
#[test]
fn the_update_is_the_least_squares_solution() {
    let layer = Synthetic::new([6, 32], 300, 3);
    let kept: Vec<usize> = (0..32).filter(|feature| feature % 3 != 0).collect();
    let updated = least_squares_update(&layer.dense, layer.shape, &layer.calibration, &kept).unwrap().weights;
    let full = masked(&updated, 32, &kept);
    let gram = layer.calibration.gram();
    for row in 0..6 {
        for &feature in &kept {
            let column = &gram[feature * 32..(feature + 1) * 32];
            let weights = layer.dense[row * 32..].iter().zip(&full[row * 32..]);
            let terms: Vec<f64> = weights.zip(column).map(|((a, b), g)| (f64::from(*a) - f64::from(*b)) * g).collect();
            let size: f64 = terms.iter().map(|term| term.abs()).sum();
            assert!(terms.iter().sum::<f64>().abs() < 1e-5 * size, "row {row}, feature {feature}");
        }
    }
}

#[test]
fn keeping_everything_changes_nothing() {
    let layer = Synthetic::new([8, 16], 20, 1);
    let all: Vec<usize> = (0..16).collect();
    let updated = least_squares_update(&layer.dense, layer.shape, &layer.calibration, &all).unwrap();
    assert_eq!(updated, Survivors { weights: layer.dense, notes: Vec::new() });
}

/// Twins carry the same signal: the one that stays takes over all of it.
#[test]
fn a_survivor_takes_over_its_twin() {
    let mut moments = Moments::new(3);
    moments.observe(&[1.0, 1.0, 0.5, 2.0, 2.0, -1.0, -3.0, -3.0, 0.25], 1);
    let moments = moments.finish();
    let updated = least_squares_update(&[1.0, 2.0, 5.0], [1, 3], &moments, &[0, 2]).unwrap();
    assert!((updated.weights[0] - 3.0).abs() < 1e-6 && (updated.weights[1] - 5.0).abs() < 1e-6);
    // Both stay: nothing tells them apart, and that is said.
    let updated = least_squares_update(&[1.0, 2.0, 5.0], [1, 3], &moments, &[0, 1]).unwrap();
    assert!(updated.notes[0].contains("span"), "{:?}", updated.notes);
    assert!(updated.weights.iter().all(|weight| weight.is_finite()));
}

#[test]
fn dead_and_missing_inputs_have_words() {
    let mut moments = Moments::new(2);
    assert!(matches!(least_squares_update(&[1.0; 2], [1, 2], &moments, &[0]), Err(CompressError::NotCalibrated)));
    moments.observe(&[0.0, 0.0], 1);
    let updated = least_squares_update(&[1.0, 2.0], [1, 2], &moments.finish(), &[1]).unwrap();
    assert_eq!(updated.weights, [2.0]);
    assert!(updated.notes[0].contains("zero"));
    let other = Moments::new(3);
    assert!(matches!(least_squares_update(&[1.0; 2], [1, 2], &other, &[0]), Err(CompressError::Inputs { .. })));
}
