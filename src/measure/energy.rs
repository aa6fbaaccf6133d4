//! Energy per token from readings of a counter around the timed sections.

use crate::measure::stats::mean_estimate_clustered;
use crate::study::Estimate;

/// What a phase of one repetition took.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stretch {
    /// Energy, in joules.
    pub joules: f64,
    /// Time, in seconds.
    pub secs: f64,
}

/// Values of the counter that all stretches together must span: an end that falls between two values errs by half of one,
/// so twenty leave an error of a few per cent, which the interval shows.
const MIN_REFRESHES: f64 = 20.0;

/// Joules per token over the stretches of a phase, `tokens` each: the mean, because what one stretch misses of the counter's
/// last value the next one has.
///
/// `None` below two stretches, where one is shorter than the time between two values of the counter, where all together
/// span fewer than twenty, and where nothing was counted.
pub fn joules_per_token(stretches: &[Stretch], tokens: u32, refresh_secs: f64) -> Option<Estimate> {
    let secs: f64 = stretches.iter().map(|stretch| stretch.secs).sum();
    let is_short = stretches.iter().any(|stretch| stretch.secs < refresh_secs);
    if tokens == 0 || is_short || secs < MIN_REFRESHES * refresh_secs {
        return None;
    }
    let each: Vec<f64> = stretches.iter().map(|stretch| stretch.joules / f64::from(tokens)).collect();
    let found = mean_estimate_clustered(&each).filter(|found| found.value > 0.0)?;
    Some(Estimate { ci95: [found.ci95[0].max(0.0), found.ci95[1]], ..found })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stretches(joules: &[f64], secs: f64) -> Vec<Stretch> {
        joules.iter().map(|joules| Stretch { joules: *joules, secs }).collect()
    }

    #[test]
    fn a_token_has_its_share_of_each_repetition() {
        let found = joules_per_token(&stretches(&[6.0, 6.4, 6.8], 0.1), 64, 0.001).unwrap();
        assert!((found.value - 0.1).abs() < 1e-12);
        assert_eq!(found.n, 3);
        // Student's t with two degrees of freedom: 4.3027 times 0.4 / 64 / sqrt(3).
        assert!((found.ci95[1] - found.value - 4.302_653 * 0.4 / 64.0 / 3.0_f64.sqrt()).abs() < 1e-6);
    }

    #[test]
    fn a_counter_that_steps_late_evens_out_over_repetitions() {
        // 50 W for 5 ms is 0.25 J; the counter has a value each millisecond, so a stretch sees 4, 5 or 6 of them.
        let counted = [0.20, 0.25, 0.30, 0.25, 0.30, 0.20, 0.25, 0.25];
        let found = joules_per_token(&stretches(&counted, 0.005), 10, 0.001).unwrap();
        assert!((found.value - 0.025).abs() < 1e-12);
        assert!(found.ci95[0] < 0.025 && found.ci95[1] > 0.025);
    }

    #[test]
    fn what_the_counter_cannot_tell_is_absent() {
        assert_eq!(joules_per_token(&[], 1, 0.001), None);
        assert_eq!(joules_per_token(&stretches(&[1.0], 1.0), 1, 0.001), None, "one says nothing of the spread");
        assert_eq!(joules_per_token(&stretches(&[1.0; 40], 0.0009), 1, 0.001), None, "shorter than a refresh");
        assert_eq!(joules_per_token(&stretches(&[1.0; 4], 0.004), 1, 0.001), None, "sixteen refreshes");
        assert_eq!(joules_per_token(&stretches(&[0.0; 9], 1.0), 1, 0.001), None, "nothing was counted");
        assert_eq!(joules_per_token(&stretches(&[1.0; 9], 1.0), 0, 0.001), None);
    }
}
