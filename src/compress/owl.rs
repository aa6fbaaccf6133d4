//! A pruning fraction for each block: blocks with more outliers keep more.

use crate::recipe::Sparsity;

/// A score above so many times the mean is an outlier.
pub const OUTLIER_MULTIPLE: f64 = 5.0;

/// Half of the span of the blocks' densities.
pub const OWL_LAMBDA: f64 = 0.08;

/// What the fractions need to know of a block.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OwlBlock {
    /// Outliers in a hundred scores.
    pub outlier_percent: f64,
    /// Weights that are pruned with the block's fraction.
    pub n_weights: u64,
}

impl OwlBlock {
    /// Of the scores of all its layers, one after the other; they are read twice and not kept.
    pub fn new(scores: impl Iterator<Item = f64> + Clone) -> Self {
        let (mut n, mut sum) = (0_u64, 0.0);
        scores.clone().for_each(|score| {
            n += 1;
            sum += score;
        });
        let threshold = OUTLIER_MULTIPLE * sum / n.max(1) as f64;
        let n_outliers = scores.filter(|score| *score > threshold).count();
        Self { outlier_percent: 100.0 * n_outliers as f64 / n.max(1) as f64, n_weights: n }
    }
}

/// The share of zeros of each block, whose mean over all weights is `fraction`.
///
/// Outlier ratios are scaled to 0 to 2 λ and centred on the kept share, as in the paper, with blocks weighted by their
/// size. What would leave 0 to [`Sparsity::MAX_FRACTION`] is cut there, and the other blocks move so that the mean stays.
///
/// Paper: Yin et al., ICML 2024 (OWL), arXiv:2310.05175.
pub fn owl_fractions(blocks: &[OwlBlock], fraction: f64) -> Vec<f64> {
    let percents = || blocks.iter().map(|block| block.outlier_percent);
    let (low, high) = percents().fold((f64::INFINITY, 0.0_f64), |(low, high), x| (low.min(x), high.max(x)));
    let span = high - low;
    let density = |percent: f64| if span > 0.0 { (percent - low) / span * 2.0 * OWL_LAMBDA } else { 0.0 };
    let wanted: Vec<f64> = percents().map(|percent| -density(percent)).collect();
    let total: f64 = blocks.iter().map(|block| block.n_weights as f64).sum();
    let moved = |shift: f64| wanted.iter().map(move |wanted| (wanted + shift).clamp(0.0, Sparsity::MAX_FRACTION));
    let mean = |shift: f64| moved(shift).zip(blocks).map(|(x, block)| x * block.n_weights as f64).sum::<f64>() / total;
    // The mean grows with the shift, so halving finds it to the last bit.
    let (mut below, mut above) = (0.0, Sparsity::MAX_FRACTION + 2.0 * OWL_LAMBDA);
    for _ in 0..60 {
        let middle = f64::midpoint(below, above);
        if mean(middle) < fraction { below = middle } else { above = middle }
    }
    moved(above).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(percents: &[f64]) -> Vec<OwlBlock> {
        let sizes = (0..).map(|n| 1000 + 300 * n);
        percents
            .iter()
            .zip(sizes)
            .map(|(&outlier_percent, n_weights)| OwlBlock { outlier_percent, n_weights })
            .collect()
    }

    #[test]
    fn outliers_are_counted_above_five_means() {
        // Mean 1.99: only 100 is above five times that.
        let scores = [vec![1.0; 98], vec![0.99, 100.0]].concat();
        assert_eq!(OwlBlock::new(scores.iter().copied()), OwlBlock { outlier_percent: 1.0, n_weights: 100 });
        assert_eq!(OwlBlock::new([].into_iter()), OwlBlock { outlier_percent: 0.0, n_weights: 0 });
    }

    #[test]
    fn the_mean_over_all_weights_is_the_fraction() {
        for percents in [&[0.1, 3.0, 0.5, 1.0][..], &[0.0, 0.0], &[2.0], &[9.0, 0.0, 0.0, 0.0, 0.0, 0.1]] {
            let blocks = blocks(percents);
            let total: f64 = blocks.iter().map(|block| block.n_weights as f64).sum();
            for fraction in [0.0, 0.01, 0.05, 0.5, 0.7, 0.9, 0.94, 0.95] {
                let fractions = owl_fractions(&blocks, fraction);
                let mean: f64 = fractions.iter().zip(&blocks).map(|(x, block)| x * block.n_weights as f64).sum();
                assert!((mean / total - fraction).abs() < 1e-12, "{percents:?} {fraction}: {fractions:?}");
                assert!(fractions.iter().all(|x| (0.0..=Sparsity::MAX_FRACTION).contains(x)));
            }
        }
        assert!(owl_fractions(&[], 0.5).is_empty());
    }

    /// Densities as the paper's formula gives them for blocks of one size.
    #[test]
    fn equal_blocks_follow_the_formula() {
        let percents = [1.0, 2.0, 5.0];
        let blocks: Vec<OwlBlock> =
            percents.iter().map(|&outlier_percent| OwlBlock { outlier_percent, n_weights: 64 }).collect();
        let scaled = percents.map(|percent| (percent - 1.0) / 4.0 * 0.16);
        let mean = scaled.iter().sum::<f64>() / 3.0;
        for (found, scaled) in owl_fractions(&blocks, 0.7).iter().zip(scaled) {
            assert!((1.0 - found - (scaled - mean + 0.3)).abs() < 1e-12);
        }
    }
}
