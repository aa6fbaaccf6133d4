//! Quality over windows: perplexity, divergence and agreement with window-clustered intervals.

use crate::measure::stats::{mean_estimate_clustered, percentile};
use crate::study::{Estimate, Quality, WindowScore};

/// A text whose quality cannot be stated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QualityError {
    /// A number of a window is NaN or infinite.
    #[error("score window {window}: {what} is not finite; the variant is numerically broken there")]
    NotFinite {
        /// Number of the window, from 0.
        window: u32,
        /// Which number.
        what: &'static str,
    },
    /// There is nothing to average.
    #[error("score the text: no window scored; use more text or a shorter context")]
    NoWindows,
    /// The windows are finite and an average over them is not.
    #[error("score the text: {what} is too large to be a number")]
    TooLarge {
        /// Which number.
        what: &'static str,
    },
}

/// Gathers the scores of windows into a [`Quality`].
#[derive(Debug)]
pub struct QualityAccumulator {
    protocol: String,
    split: String,
    tokens: u64,
    windows: Vec<WindowScore>,
    kl: Vec<f32>,
}

impl QualityAccumulator {
    /// Without windows.
    ///
    /// - `protocol`: the identifier with its context, see [`crate::study::Protocol::id`]
    /// - `split`: the text's name
    pub fn new(protocol: impl Into<String>, split: impl Into<String>) -> Self {
        Self { protocol: protocol.into(), split: split.into(), tokens: 0, windows: Vec::new(), kl: Vec::new() }
    }

    /// Takes in one window, in order.
    ///
    /// - `score`: means over the window's scored positions; every window must have equally many of them
    /// - `kl_positions`: KL(reference ‖ variant) of each scored position, in nats
    /// - `scored`: scored positions
    ///
    /// # Errors
    /// [`QualityError::NotFinite`] names the window. What was taken in before stays.
    pub fn push(&mut self, score: WindowScore, kl_positions: &[f32], scored: u32) -> Result<(), QualityError> {
        let window = u32::try_from(self.windows.len()).unwrap_or(u32::MAX);
        let positions_finite = kl_positions.iter().all(|kl| kl.is_finite());
        for (finite, what) in [
            (score.nll.is_finite(), "the variant's loss"),
            (score.reference_nll.is_finite(), "the reference's loss"),
            (score.kl.is_finite() && positions_finite, "the KL divergence"),
            (score.top1.is_finite(), "the agreement"),
        ] {
            if !finite {
                return Err(QualityError::NotFinite { window, what });
            }
        }
        self.tokens += u64::from(scored);
        self.windows.push(score);
        self.kl.extend_from_slice(kl_positions);
        Ok(())
    }

    /// The quality over all windows taken in.
    ///
    /// Intervals are Student's t over windows; perplexity's is taken on the logarithm. Differences are paired by window.
    /// There is no interval with one window: positions within it are not independent, so none stands in for the missing
    /// spread between windows (see [`Estimate::interval`]).
    ///
    /// # Errors
    /// [`QualityError::NoWindows`] without a window; [`QualityError::TooLarge`] when a loss is so large that its
    /// exponential is not a number.
    pub fn finish(self) -> Result<Quality, QualityError> {
        if self.windows.is_empty() || self.kl.is_empty() {
            return Err(QualityError::NoWindows);
        }
        let over_windows = |what: &'static str, of: fn(&WindowScore) -> f64| {
            let means: Vec<f64> = self.windows.iter().map(of).collect();
            let estimate = match means[..] {
                [value] => value.is_finite().then_some(Estimate { value, ci95: [value; 2], n: 1 }),
                _ => mean_estimate_clustered(&means),
            };
            estimate.ok_or(QualityError::TooLarge { what })
        };
        let nll = over_windows("the loss", |window| window.nll)?;
        let reference_nll = over_windows("the reference's loss", |window| window.reference_nll)?;
        let perplexity = Estimate { value: nll.value.exp(), ci95: nll.ci95.map(f64::exp), n: nll.n };
        if !perplexity.ci95[1].is_finite() || !reference_nll.value.exp().is_finite() {
            return Err(QualityError::TooLarge { what: "the perplexity" });
        }
        let top1 = over_windows("the agreement", |window| window.top1)?;
        let mut kl: Vec<f64> = self.kl.iter().map(|kl| f64::from(*kl)).collect();
        kl.sort_by(f64::total_cmp);
        Ok(Quality {
            tokens: self.tokens,
            perplexity,
            reference_perplexity: reference_nll.value.exp(),
            log_perplexity_difference: over_windows("the difference of losses", |window| {
                window.nll - window.reference_nll
            })?,
            kl_mean: over_windows("the KL divergence", |window| window.kl)?,
            kl_median: percentile(&kl, 0.5),
            kl_p99: percentile(&kl, 0.99),
            kl_max: percentile(&kl, 1.0),
            // A share cannot leave 0 to 1, whatever the symmetric interval says.
            top1_agreement: Estimate { ci95: top1.ci95.map(|bound| bound.clamp(0.0, 1.0)), ..top1 },
            windows: self.windows,
            protocol: self.protocol,
            split: self.split,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(nll: f64, reference_nll: f64, kl: f64, top1: f64) -> WindowScore {
        WindowScore { nll, reference_nll, kl, top1 }
    }

    fn gathered(windows: &[WindowScore]) -> Result<Quality, QualityError> {
        let mut gathered = QualityAccumulator::new("gptq-4", "text");
        for score in windows {
            gathered.push(*score, &[score.kl as f32 / 2.0, score.kl as f32 * 1.5], 3)?;
        }
        gathered.finish()
    }

    /// Expected values: numpy 2 and scipy 1.17 `stats.t.interval(0.95, n - 1, mean, stats.sem(x))` on the same windows.
    #[test]
    fn quality_matches_scipy() {
        let quality = gathered(&[
            window(1.20, 1.10, 0.010, 0.90),
            window(1.35, 1.22, 0.014, 0.94),
            window(1.10, 1.03, 0.008, 0.98),
            window(1.27, 1.15, 0.012, 1.00),
        ])
        .unwrap();
        let near = |found: f64, expected: f64| assert!((found - expected).abs() < 1e-8, "{found} {expected}");
        near(quality.perplexity.value, PERPLEXITY[0]);
        near(quality.perplexity.ci95[0], PERPLEXITY[1]);
        near(quality.perplexity.ci95[1], PERPLEXITY[2]);
        near(quality.reference_perplexity, 1.125_f64.exp());
        near(quality.log_perplexity_difference.value, 0.105);
        near(quality.log_perplexity_difference.ci95[0], DIFFERENCE[0]);
        near(quality.log_perplexity_difference.ci95[1], DIFFERENCE[1]);
        near(quality.kl_mean.value, 0.011);
        near(quality.top1_agreement.value, 0.955);
        assert_eq!(quality.top1_agreement.ci95[1], 1.0);
        near(quality.kl_max, f64::from(0.014_f32 * 1.5));
        assert_eq!((quality.tokens, quality.windows.len()), (12, 4));
    }

    const PERPLEXITY: [f64; 3] = [3.421229536290, 2.889548685460, 4.050740379935];
    const DIFFERENCE: [f64; 2] = [0.062900192577, 0.147099807423];

    #[test]
    fn the_reference_beside_itself_loses_nothing() {
        let quality = gathered(&[window(1.2, 1.2, 0.0, 1.0), window(1.5, 1.5, 0.0, 1.0)]).unwrap();
        assert_eq!(quality.log_perplexity_difference.ci95, [0.0, 0.0]);
        assert_eq!(quality.kl_mean.ci95, [0.0, 0.0]);
        assert_eq!(quality.perplexity.value, quality.reference_perplexity);
    }

    #[test]
    fn one_window_has_values_and_no_interval() {
        let quality = gathered(&[window(1.2, 1.1, 0.01, 0.9)]).unwrap();
        assert_eq!(quality.perplexity.value, 1.2_f64.exp());
        assert_eq!((quality.kl_mean.value, quality.tokens), (0.01, 3));
        for estimate in [quality.perplexity, quality.log_perplexity_difference, quality.kl_mean, quality.top1_agreement]
        {
            assert_eq!((estimate.n, estimate.ci95, estimate.interval()), (1, [estimate.value; 2], None));
        }
        let two = gathered(&[window(1.2, 1.2, 0.0, 1.0), window(1.5, 1.5, 0.0, 1.0)]).unwrap();
        assert_eq!(two.kl_mean.interval(), Some([0.0, 0.0]));
    }

    #[test]
    fn what_is_not_finite_is_named() {
        let good = window(1.0, 1.0, 0.0, 1.0);
        let check = |bad: WindowScore, what: &'static str| {
            assert_eq!(gathered(&[good, bad]), Err(QualityError::NotFinite { window: 1, what }));
        };
        check(WindowScore { nll: f64::NAN, ..good }, "the variant's loss");
        check(WindowScore { reference_nll: f64::INFINITY, ..good }, "the reference's loss");
        check(WindowScore { kl: f64::NAN, ..good }, "the KL divergence");
        check(WindowScore { top1: f64::NAN, ..good }, "the agreement");
        let mut one_position = QualityAccumulator::new("gptq-4", "text");
        let refused = one_position.push(good, &[0.0, f32::NAN], 2);
        assert_eq!(refused, Err(QualityError::NotFinite { window: 0, what: "the KL divergence" }));
        assert_eq!(gathered(&[]), Err(QualityError::NoWindows));
        let huge = WindowScore { nll: 800.0, ..good };
        assert_eq!(gathered(&[huge, huge]), Err(QualityError::TooLarge { what: "the perplexity" }));
    }
}
