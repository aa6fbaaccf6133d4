//! Magnitude pruning.

use crate::recipe::SparsityScope;

/// Sets the weights of smallest magnitude to zero.
///
/// - `weights`: (rows, `row_len`), row-major
/// - returns a copy in which exactly ⌊n · `fraction`⌋ weights of each group that competes (the matrix, or each row) are
///   zero beside those that survive by magnitude and happen to be zero; the others are unchanged bit for bit
///
/// Ties are broken by position, the earlier weight goes first: a threshold comparison would prune above the target
/// wherever magnitudes repeat, as they do in half precision.
///
/// Paper: Han et al., `NeurIPS` 2015, arXiv:1506.02626; comparison groups as in Sun et al., ICLR 2024, arXiv:2306.11695.
pub fn magnitude_prune(weights: &[f32], row_len: usize, fraction: f64, scope: SparsityScope) -> Vec<f32> {
    let mut pruned = weights.to_vec();
    let group = match scope {
        SparsityScope::Matrix => pruned.len(),
        SparsityScope::Row => row_len,
    };
    let mut keys = Vec::with_capacity(group);
    for group in pruned.chunks_mut(group.max(1)) {
        prune_group(group, fraction, &mut keys);
    }
    pruned
}

fn prune_group(group: &mut [f32], fraction: f64, keys: &mut Vec<u64>) {
    let n_pruned = (group.len() as f64 * fraction) as usize;
    if n_pruned == 0 {
        return;
    }
    // Magnitudes of finite floats order like their bits; the position in the low half breaks ties.
    keys.clear();
    keys.extend(group.iter().zip(0_u64..).map(|(weight, position)| u64::from(weight.abs().to_bits()) << 32 | position));
    let (below, last, _) = keys.select_nth_unstable(n_pruned - 1);
    for key in below.iter().chain(std::iter::once(&*last)) {
        group[(key & u64::from(u32::MAX)) as usize] = 0.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(weights: &[f32], row_len: usize, fraction: f64, scope: SparsityScope, expected: &[f32]) {
        assert_eq!(magnitude_prune(weights, row_len, fraction, scope), expected);
    }

    #[test]
    fn the_smallest_go_and_the_rest_stays() {
        let w = [3.0, -1.0, 2.0, -4.0];
        check(&w, 4, 0.5, SparsityScope::Matrix, &[3.0, 0.0, 0.0, -4.0]);
        check(&w, 4, 0.49, SparsityScope::Matrix, &[3.0, 0.0, 2.0, -4.0]);
        check(&w, 4, 0.0, SparsityScope::Matrix, &w);
        check(&w, 2, 0.5, SparsityScope::Row, &[3.0, 0.0, 0.0, -4.0]);
        check(&[5.0, 4.0, 1.0, 2.0], 2, 0.5, SparsityScope::Row, &[5.0, 0.0, 0.0, 2.0]);
        check(&[5.0, 4.0, 1.0, 2.0], 2, 0.5, SparsityScope::Matrix, &[5.0, 4.0, 0.0, 0.0]);
    }

    #[test]
    fn ties_do_not_prune_above_the_target() {
        check(&[1.0; 4], 4, 0.5, SparsityScope::Matrix, &[0.0, 0.0, 1.0, 1.0]);
        check(&[0.0, 0.0, 0.0, 1.0], 4, 0.5, SparsityScope::Matrix, &[0.0, 0.0, 0.0, 1.0]);
    }

    #[test]
    fn exact_sparsity_on_a_large_matrix() {
        let weights: Vec<f32> = (1_u32..=10_000).map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 + 1.0).collect();
        for fraction in [0.1, 0.3, 0.5, 0.95] {
            for (scope, rows) in [(SparsityScope::Matrix, 1), (SparsityScope::Row, 100)] {
                let zeros = magnitude_prune(&weights, 100, fraction, scope).iter().filter(|w| **w == 0.0).count();
                assert_eq!(zeros, expected_zeros(fraction, rows), "{fraction} {scope:?}");
            }
        }
    }

    fn expected_zeros(fraction: f64, rows: usize) -> usize {
        (10_000.0 / rows as f64 * fraction) as usize * rows
    }
}
