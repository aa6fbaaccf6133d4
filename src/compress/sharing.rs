//! One tensor, or one basis of the inputs, for several layers.

use crate::compress::low_rank::{Decomposition, whitened};
use crate::compress::solver::{Host, Solver};
use crate::compress::whitening::Whitening;
use crate::compress::{CompressError, Moments};

/// A basis of the inputs that layers share, and what each makes of it.
#[derive(Debug, Clone, PartialEq)]
pub struct SharedBasis {
    /// (rank, `in_features`), row-major.
    pub down: Vec<f32>,
    /// (`out_features`, rank) of each layer.
    pub ups: Vec<Vec<f32>>,
    /// Rows of `down`.
    pub rank: usize,
    /// Of the stacked whitened weights, falling.
    pub singular_values: Vec<f64>,
    /// Sum of the squares of the singular values that went: Σ ‖X (W − up · down)ᵀ‖² over the layers, where X holds the
    /// calibrated inputs of all of them.
    pub discarded: f64,
    /// What did not go as asked, in words.
    pub notes: Vec<String>,
}

/// The mean of matrices of one shape, summed in f64; of equal ones it is each of them.
pub fn tie(members: &[&[f32]]) -> Vec<f32> {
    let Some((first, rest)) = members.split_first() else { return Vec::new() };
    let n = members.len() as f64;
    let mean = |(index, value): (usize, &f32)| {
        let others: f64 = rest.iter().map(|member| f64::from(member[index]) - f64::from(*value)).sum();
        (f64::from(*value) + others / n) as f32
    };
    first.iter().enumerate().map(mean).collect()
}

/// The basis of `rank` inputs that serves `members` best, by one decomposition of the stacked `[W₁ L; W₂ L; …]` where L Lᵀ is
/// the sum of their `XᵀX`.
///
/// - `members`: (`out_features`, `in_features`) each, row-major, of `shape`
/// - `moments`: of the inputs of each member
///
/// # Errors
/// [`CompressError::Shape`] without members or with one of another shape, [`CompressError::NotCalibrated`] when a member's
/// inputs are missing, [`CompressError::Inputs`] when they are another layer's, [`CompressError::Factorization`] when the
/// decomposition fails.
///
/// Paper: Wang et al., 2024, arXiv:2410.03765.
pub fn shared_basis(
    members: &[&[f32]],
    shape: [usize; 2],
    rank: usize,
    moments: &[&Moments],
) -> Result<SharedBasis, CompressError> {
    shared_basis_with(members, shape, rank, moments, &Host)
}

/// [`shared_basis`], with its decomposition by `solver`.
///
/// # Errors
/// As [`shared_basis`], and [`CompressError::Device`].
pub(crate) fn shared_basis_with(
    members: &[&[f32]],
    shape: [usize; 2],
    rank: usize,
    moments: &[&Moments],
    solver: &dyn Solver,
) -> Result<SharedBasis, CompressError> {
    let [rows, row_len] = shape;
    let len = rows.saturating_mul(row_len);
    if let Some(other) = members.iter().find(|member| member.len() != len) {
        return Err(CompressError::Shape { len: other.len(), rows, row_len });
    }
    if moments.len() != members.len() {
        return Err(CompressError::NotCalibrated);
    }
    let mut gram = vec![0.0; row_len * row_len];
    for moments in moments {
        moments.check(row_len)?;
        gram.iter_mut().zip(moments.gram()).for_each(|(sum, value)| *sum += value);
    }
    let whitening = Whitening::of_gram(&gram, row_len)?;
    let stacked = whitened(&members.concat(), [rows * members.len(), row_len], Some(&whitening))?;
    let factors = Decomposition::of(&stacked, Some(whitening), solver)?.factors(rank);
    Ok(SharedBasis {
        down: factors.down,
        ups: factors.up.chunks(rows * factors.rank).map(<[f32]>::to_vec).collect(),
        rank: factors.rank,
        singular_values: factors.singular_values,
        discarded: factors.discarded,
        notes: factors.notes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compress::synthetic::{Synthetic, trace};

    #[test]
    fn tying_takes_the_mean_and_leaves_equal_layers_alone() {
        assert_eq!(tie(&[&[1.0, -2.0], &[2.0, 4.0], &[6.0, 4.0]]), [3.0, 2.0]);
        let layer = Synthetic::layer(1).dense;
        assert_eq!(tie(&[&layer, &layer, &layer]), layer);
        assert_eq!(tie(&[&layer]), layer);
        assert!(tie(&[]).is_empty());
    }

    fn error(layer: &[f32], up: &[f32], basis: &SharedBasis, gram: &[f64]) -> f64 {
        let width = basis.down.len() / basis.rank;
        let mut error: Vec<f64> = layer.iter().map(|weight| f64::from(*weight)).collect();
        for (row, up) in error.chunks_mut(width).zip(up.chunks(basis.rank)) {
            for (up, down) in up.iter().zip(basis.down.chunks(width)) {
                row.iter_mut().zip(down).for_each(|(error, down)| *error -= f64::from(*up) * f64::from(*down));
            }
        }
        trace(&error, gram)
    }

    #[test]
    fn the_error_of_a_shared_basis_is_what_was_discarded() {
        let layers = [4, 5, 6].map(|seed| Synthetic::new([40, 48], 400, seed));
        let members: Vec<&[f32]> = layers.iter().map(|layer| &layer.dense[..]).collect();
        let moments: Vec<&Moments> = layers.iter().map(|layer| &layer.calibration).collect();
        let mut gram = vec![0.0; 48 * 48];
        for moments in &moments {
            gram.iter_mut().zip(moments.gram()).for_each(|(sum, value)| *sum += value);
        }
        let mut last = f64::INFINITY;
        for rank in [1, 7, 20, 47] {
            let basis = shared_basis(&members, [40, 48], rank, &moments).unwrap();
            assert_eq!((basis.rank, basis.ups.len(), basis.singular_values.len()), (rank, 3, 48));
            let found: f64 = members.iter().zip(&basis.ups).map(|(member, up)| error(member, up, &basis, &gram)).sum();
            // The factors are f32: their rounding is all that the sums differ by.
            assert!((found / basis.discarded - 1.0).abs() < 1e-5, "rank {rank}: {found} {}", basis.discarded);
            assert!(basis.discarded < last);
            last = basis.discarded;
        }
        let full = shared_basis(&members, [40, 48], 48, &moments).unwrap();
        assert_eq!(full.discarded, 0.0);
        for (member, up) in members.iter().zip(&full.ups) {
            assert!(error(member, up, &full, &gram) < 1e-9 * trace_of(member, &gram));
        }
    }

    fn trace_of(member: &[f32], gram: &[f64]) -> f64 {
        trace(&member.iter().map(|weight| f64::from(*weight)).collect::<Vec<_>>(), gram)
    }

    /// Two equal layers with one input need no more of a basis than one of them.
    #[test]
    fn sharing_a_layer_with_itself_is_its_own_factorization() {
        let layer = Synthetic::new([24, 32], 300, 8);
        let both = shared_basis(&[&layer.dense[..]; 2], [24, 32], 24, &[&layer.calibration; 2]).unwrap();
        assert_eq!(both.ups[0], both.ups[1]);
        let whole = trace_of(&layer.dense, layer.calibration.gram());
        assert!(error(&layer.dense, &both.ups[0], &both, layer.calibration.gram()) < 1e-9 * whole);
        assert!(both.discarded < 1e-20 * whole, "{}", both.discarded);
    }

    #[test]
    fn what_does_not_belong_together_is_refused() {
        let layer = Synthetic::new([8, 16], 40, 2);
        let moments = &layer.calibration;
        assert!(matches!(shared_basis(&[], [8, 16], 2, &[]), Err(CompressError::Shape { .. })));
        assert!(matches!(shared_basis(&[&layer.dense], [8, 16], 2, &[]), Err(CompressError::NotCalibrated)));
        assert!(matches!(
            shared_basis(&[&layer.dense, &layer.dense[1..]], [8, 16], 2, &[moments; 2]),
            Err(CompressError::Shape { .. })
        ));
        assert!(matches!(shared_basis(&[&layer.dense], [16, 8], 2, &[moments]), Err(CompressError::Inputs { .. })));
    }
}
