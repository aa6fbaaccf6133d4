//! Estimates with 95 % intervals, and the ratio of two interleaved arms.

use statrs::distribution::{Binomial, ContinuousCDF as _, DiscreteCDF as _, StudentsT};

use crate::study::{Estimate, Ratio};

/// Fewest samples from which a 99th percentile is given.
pub const MIN_P99_SAMPLES: usize = 1_000;

/// Resamples of a bootstrap: the 2.5 % tails hold 50 of them.
const RESAMPLES: usize = 2_000;

/// Fewest pairs for the bootstrap. With fewer its interval is too short (in simulation half of all comparisons of equal
/// arms are declared different at two pairs, 6 % at five), so Student's t on log ratios is used.
const MIN_BOOTSTRAP_PAIRS: usize = 10;

/// The median with its binomial order-statistic interval.
///
/// Distribution-free: the interval runs between two order statistics and covers with at least 95 %. Below six samples no
/// pair does; the interval is then the range of the samples, which covers with 1 − 2^(1−n), and a single sample is its
/// own interval. `None` when `samples` is empty or has a value that is not finite.
///
/// Paper: Conover, Practical Nonparametric Statistics, 3rd edition, section 3.2.
pub fn median_estimate(samples: &[f64]) -> Option<Estimate> {
    let sorted = sorted_finite(samples)?;
    let n = sorted.len();
    let rank = lower_rank(n).max(1);
    Some(Estimate {
        value: percentile(&sorted, 0.5),
        ci95: [sorted[rank - 1], sorted[n - rank]],
        n: u32::try_from(n).unwrap_or(u32::MAX),
    })
}

/// The largest rank (from 1) with at most 2.5 % of Binomial(n, ½) below it; 0 when there is none.
fn lower_rank(n: usize) -> usize {
    let binomial = Binomial::new(0.5, n as u64).expect("one half is a probability");
    let (mut fits, mut too_large) = (0, n / 2 + 1);
    while fits + 1 < too_large {
        let middle = usize::midpoint(fits, too_large);
        if binomial.cdf(middle as u64 - 1) <= 0.025 {
            fits = middle;
        } else {
            too_large = middle;
        }
    }
    fits
}

/// The quantile `q` (0 to 1) of values sorted upwards, linear between order statistics (type 7 of Hyndman and Fan, 1996,
/// the default of R and numpy).
///
/// `sorted` must not be empty.
pub fn percentile(sorted: &[f64], q: f64) -> f64 {
    let position = q.clamp(0.0, 1.0) * (sorted.len() - 1) as f64;
    let below = position as usize;
    let above = (below + 1).min(sorted.len() - 1);
    let weight = position - below as f64;
    if weight == 0.0 { sorted[below] } else { sorted[below] + weight * (sorted[above] - sorted[below]) }
}

/// The mean over windows with Student's t interval: positions of one window are not independent, windows are the unit.
///
/// Every window must weigh the same. `None` with fewer than two windows, because one window says nothing about the spread
/// between windows and no finite interval would be honest; also `None` when the result is not finite.
pub fn mean_estimate_clustered(window_means: &[f64]) -> Option<Estimate> {
    let n = window_means.len();
    if n < 2 {
        return None;
    }
    let mean = window_means.iter().sum::<f64>() / n as f64;
    let squares: f64 = window_means.iter().map(|value| (value - mean).powi(2)).sum();
    let standard_error = (squares / (n - 1) as f64 / n as f64).sqrt();
    let half = student_t_975(n - 1) * standard_error;
    let estimate = Estimate { value: mean, ci95: [mean - half, mean + half], n: u32::try_from(n).unwrap_or(u32::MAX) };
    (mean.is_finite() && half.is_finite()).then_some(estimate)
}

/// How much faster the variant is: its rate over the reference's, from the seconds of paired blocks, above 1 is faster.
///
/// The value is the ratio of the two medians. The interval is the percentile bootstrap over pairs; with fewer than ten
/// pairs it is Student's t on the log ratios of the pairs, widened to hold the value. Blocks beyond the shorter arm are
/// not used. `None` with fewer than two pairs or when a time is not finite and positive.
///
/// Paper: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3.
pub fn paired_ratio(reference_secs: &[f64], variant_secs: &[f64], seed: u64) -> Option<Ratio> {
    let pairs: Vec<(f64, f64)> = reference_secs.iter().copied().zip(variant_secs.iter().copied()).collect();
    let is_time = |secs: f64| secs.is_finite() && secs > 0.0;
    if pairs.len() < 2 || !pairs.iter().all(|(reference, variant)| is_time(*reference) && is_time(*variant)) {
        return None;
    }
    let value = ratio_of_medians(&mut pairs.clone());
    let [low, high] =
        if pairs.len() < MIN_BOOTSTRAP_PAIRS { log_ratio_interval(&pairs)? } else { bootstrap_interval(&pairs, seed) };
    let ci95 = [low.min(value), high.max(value)];
    let finite = value.is_finite() && ci95.iter().all(|bound| bound.is_finite());
    finite.then_some(Ratio { value, ci95, n_pairs: u32::try_from(pairs.len()).unwrap_or(u32::MAX) })
}

fn log_ratio_interval(pairs: &[(f64, f64)]) -> Option<[f64; 2]> {
    let logs: Vec<f64> = pairs.iter().map(|(reference, variant)| (reference / variant).ln()).collect();
    mean_estimate_clustered(&logs).map(|estimate| estimate.ci95.map(f64::exp))
}

fn bootstrap_interval(pairs: &[(f64, f64)], seed: u64) -> [f64; 2] {
    let mut random = SplitMix64(seed);
    let mut resample = pairs.to_vec();
    let mut ratios: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            resample.fill_with(|| pairs[random.below(pairs.len())]);
            ratio_of_medians(&mut resample)
        })
        .collect();
    ratios.sort_by(f64::total_cmp);
    [percentile(&ratios, 0.025), percentile(&ratios, 0.975)]
}

/// Reorders `pairs`.
fn ratio_of_medians(pairs: &mut [(f64, f64)]) -> f64 {
    median_by(pairs, |pair| pair.0) / median_by(pairs, |pair| pair.1)
}

fn median_by(pairs: &mut [(f64, f64)], key: impl Fn(&(f64, f64)) -> f64) -> f64 {
    let middle = pairs.len() / 2;
    let odd = pairs.len() % 2 == 1;
    let (below, upper, _) = pairs.select_nth_unstable_by(middle, |a, b| key(a).total_cmp(&key(b)));
    let upper = key(upper);
    if odd {
        return upper;
    }
    let lower = below.iter().map(&key).fold(f64::NEG_INFINITY, f64::max);
    f64::midpoint(lower, upper)
}

/// The 97.5 % quantile of Student's t.
fn student_t_975(freedom: usize) -> f64 {
    StudentsT::new(0.0, 1.0, freedom as f64).expect("at least one degree of freedom").inverse_cdf(0.975)
}

fn sorted_finite(samples: &[f64]) -> Option<Vec<f64>> {
    if samples.is_empty() || !samples.iter().all(|sample| sample.is_finite()) {
        return None;
    }
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    Some(sorted)
}

/// A small generator whose stream never changes: intervals of recorded studies can be computed again.
///
/// Paper: Steele, Lea and Flood, OOPSLA 2014 (the generator splitmix64).
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Uniform in 0..n; the bias of the multiplication is below n / 2^64.
    fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next()) * n as u128) >> 64) as usize
    }
}

#[cfg(test)]
#[path = "stats_tests.rs"]
mod tests;
