//! Two finished trials side by side.

use crate::app::plots::metrics::{Cell, Metric};
use crate::app::plots::running_mean::RunningMean;
use crate::recipe::Recipe;
use crate::study::{Measurements, Quality, Trial, WindowScore};
use crate::units::{change, interval};

/// What a difference amounts to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// B is better, beyond the interval or exactly.
    Better,
    /// B is worse, beyond the interval or exactly.
    Worse,
    /// The interval contains no difference.
    NotResolved,
    /// Both are the same.
    Same,
    /// There is no interval to judge by.
    Unjudged,
    /// Layers of a side are simulated: its speed and memory are not its own.
    Simulated,
    /// Zeros in place are all that differs: neither side is faster or smaller.
    Masked,
    /// Measured on different texts or protocols.
    DifferentProtocol,
    /// One side lacks the number.
    Missing,
}

/// One line of the comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The number.
    pub metric: Metric,
    /// On side A.
    pub a: Cell,
    /// On side B.
    pub b: Cell,
    /// From A to B: relative for perplexity, rates and bytes, absolute for KL (nats) and top-1 (points).
    pub change: String,
    /// What it amounts to.
    pub verdict: Verdict,
}

/// [`lines`] of two trials; where both are the checkpoint but for zeros in place, speed and memory are not compared.
pub fn trial_lines(a: &Trial, b: &Trial) -> Option<Vec<Line>> {
    let mut lines = lines(a.measurements()?, b.measurements()?);
    let recipes = [&a.spec.recipe, &b.spec.recipe];
    let is_dense = |recipe: &&Recipe| recipe.is_masked_only() || recipe.is_reference();
    if recipes.iter().all(is_dense) && recipes.iter().any(|recipe| recipe.is_masked_only()) {
        for line in lines.iter_mut().filter(|line| line.metric.is_of_the_run()) {
            (line.change, line.verdict) = (String::new(), Verdict::Masked);
        }
    }
    Some(lines)
}

/// Every metric of `a` and `b` with the change between them.
pub fn lines(a: &Measurements, b: &Measurements) -> Vec<Line> {
    // Energy is told by few machines: where no side has it there is no line.
    let has_energy = a.energy.is_some() || b.energy.is_some();
    Metric::ALL
        .into_iter()
        .filter(|metric| *metric != Metric::Energy || has_energy)
        .map(|metric| {
            let (change, verdict) = difference(metric, a, b);
            Line { metric, a: metric.cell(a), b: metric.cell(b), change, verdict }
        })
        .collect()
}

fn difference(metric: Metric, a: &Measurements, b: &Measurements) -> (String, Verdict) {
    if metric.is_of_the_run() && (a.simulated_layers > 0 || b.simulated_layers > 0) {
        return (String::new(), Verdict::Simulated);
    }
    let (Some(value_a), Some(value_b)) = (metric.value(a), metric.value(b)) else {
        return (String::new(), Verdict::Missing);
    };
    match metric {
        Metric::Perplexity | Metric::Kl | Metric::Top1 => match (&a.quality, &b.quality) {
            (Some(a), Some(b)) => quality_difference(metric, a, b),
            _ => (String::new(), Verdict::Missing),
        },
        Metric::Prefill | Metric::Decode => rate_difference(metric, a, b),
        Metric::Bytes | Metric::Bits if value_a == value_b => ("=".to_owned(), Verdict::Same),
        Metric::Bytes | Metric::Bits => {
            let verdict = if value_b < value_a { Verdict::Better } else { Verdict::Worse };
            (change(value_b / value_a), verdict)
        }
        Metric::Peak | Metric::Energy => (change(value_b / value_a), Verdict::Unjudged),
    }
}

/// Paired by window: what both texts share cancels.
fn quality_difference(metric: Metric, a: &Quality, b: &Quality) -> (String, Verdict) {
    let comparable =
        a.protocol == b.protocol && a.split == b.split && a.tokens == b.tokens && a.windows.len() == b.windows.len();
    if !comparable {
        return (String::new(), Verdict::DifferentProtocol);
    }
    let of = |window: &WindowScore| match metric {
        Metric::Perplexity => window.nll,
        Metric::Kl => window.kl,
        _ => 100.0 * window.top1,
    };
    let paired = RunningMean::of(a.windows.iter().zip(&b.windows).map(|(a, b)| of(b) - of(a)));
    let Some(ci95) = paired.ci95() else { return (String::new(), Verdict::Missing) };
    let verdict = judge(ci95, metric.more_is_better());
    let text = match metric {
        Metric::Perplexity => {
            let percent = |log: f64| 100.0 * log.exp_m1();
            format!("{} %", signed(percent(paired.mean()), ci95.map(percent)))
        }
        Metric::Kl => signed(paired.mean(), ci95),
        _ => format!("{} pp", signed(paired.mean(), ci95)),
    };
    (text, verdict)
}

/// From each side's ratio to the reference that ran beside it, so that drift between trials cancels.
fn rate_difference(metric: Metric, a: &Measurements, b: &Measurements) -> (String, Verdict) {
    let (Some(a), Some(b)) = (log_ratio(metric, a), log_ratio(metric, b)) else {
        return (String::new(), Verdict::Missing);
    };
    let log = b[0] - a[0];
    let below = (b[0] - b[1]).hypot(a[2] - a[0]);
    let above = (b[2] - b[0]).hypot(a[0] - a[1]);
    let ci95 = [log - below, log + above];
    let percent = |log: f64| 100.0 * log.exp_m1();
    (format!("{} %", signed(percent(log), ci95.map(percent))), judge(ci95, true))
}

/// Logarithm of the ratio to the reference with its interval: value, lower, upper. The reference's own is exactly 0.
fn log_ratio(metric: Metric, measurements: &Measurements) -> Option<[f64; 3]> {
    let phase = metric.phase(measurements)?;
    let logs = phase.ratio.map_or([0.0; 3], |ratio| [ratio.value, ratio.ci95[0], ratio.ci95[1]].map(f64::ln));
    logs.iter().all(|log| log.is_finite()).then_some(logs)
}

fn judge(ci95: [f64; 2], more_is_better: bool) -> Verdict {
    match (ci95[0] > 0.0, ci95[1] < 0.0) {
        _ if ci95 == [0.0, 0.0] => Verdict::Same,
        (false, false) => Verdict::NotResolved,
        (true, _) => {
            if more_is_better {
                Verdict::Better
            } else {
                Verdict::Worse
            }
        }
        (_, true) => {
            if more_is_better {
                Verdict::Worse
            } else {
                Verdict::Better
            }
        }
    }
}

/// `+1.20 ± 0.30`, with a true minus sign.
fn signed(value: f64, ci95: [f64; 2]) -> String {
    let text = interval(value, ci95);
    match text.strip_prefix('-') {
        Some(rest) => format!("−{rest}"),
        None if value == 0.0 => text,
        None => format!("+{text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::plots::fixtures::measurements;

    fn line(a: &Measurements, b: &Measurements, metric: Metric) -> Line {
        lines(a, b).into_iter().find(|line| line.metric == metric).unwrap()
    }

    #[test]
    fn a_clear_difference_is_judged_by_its_direction() {
        let (reference, q4) = (measurements(0, 320), measurements(2, 320));
        for (metric, expected) in [
            (Metric::Perplexity, Verdict::Worse),
            (Metric::Kl, Verdict::Worse),
            (Metric::Top1, Verdict::Worse),
            (Metric::Prefill, Verdict::Better),
            (Metric::Decode, Verdict::Better),
            (Metric::Bytes, Verdict::Better),
            (Metric::Bits, Verdict::Better),
            (Metric::Peak, Verdict::Unjudged),
            (Metric::Energy, Verdict::Unjudged),
        ] {
            assert_eq!(line(&reference, &q4, metric).verdict, expected, "{metric:?}");
        }
        assert!(line(&reference, &q4, Metric::Bytes).change.starts_with('−'));
        assert!(line(&q4, &reference, Metric::Bytes).change.starts_with('+'));
        assert_eq!(line(&q4, &reference, Metric::Decode).verdict, Verdict::Worse);
    }

    #[test]
    fn zeros_in_place_are_never_faster() {
        let study = crate::app::plots::fixtures::study(17);
        let reference = &study.trials[&crate::study::TrialId(0)];
        let masked = study.trials.values().find(|trial| trial.spec.recipe.is_masked_only()).unwrap();
        for line in trial_lines(reference, masked).unwrap() {
            let is_masked = line.verdict == Verdict::Masked;
            assert_eq!(is_masked, line.metric.is_of_the_run(), "{line:?}");
        }
    }

    #[test]
    fn a_trial_beside_itself_has_no_difference() {
        let q4 = measurements(2, 320);
        for metric in [Metric::Perplexity, Metric::Kl, Metric::Top1, Metric::Bytes] {
            assert_eq!(line(&q4, &q4, metric).verdict, Verdict::Same, "{metric:?}");
        }
        assert_eq!(line(&q4, &q4, Metric::Decode).verdict, Verdict::NotResolved);
    }

    #[test]
    fn an_interval_that_contains_one_is_not_resolved() {
        let (reference, pruned) = (measurements(0, 320), measurements(5, 320));
        let mut close = pruned;
        close.speed.as_mut().unwrap().decode.ratio =
            Some(crate::study::Ratio { value: 1.01, ci95: [0.98, 1.04], n_pairs: 5 });
        assert_eq!(line(&reference, &close, Metric::Decode).verdict, Verdict::NotResolved);
    }

    #[test]
    fn what_cannot_be_compared_says_why() {
        let (reference, simulated) = (measurements(0, 320), measurements(3, 320));
        assert_eq!(line(&reference, &simulated, Metric::Decode).verdict, Verdict::Simulated);
        let mut other = measurements(1, 320);
        other.quality.as_mut().unwrap().protocol = "gptq-128".to_owned();
        assert_eq!(line(&reference, &other, Metric::Kl).verdict, Verdict::DifferentProtocol);
        other.quality = None;
        assert_eq!(line(&reference, &other, Metric::Kl).verdict, Verdict::Missing);
    }
}
