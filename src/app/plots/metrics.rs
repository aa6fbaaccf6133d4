//! The numbers that tables and comparisons show, each with its unit and its interval.

use crate::study::{Estimate, Measurements, PhaseSpeed};
use crate::units::{interval, ratio, significant};

/// A number of a finished trial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Metric {
    /// exp of the mean negative log likelihood.
    Perplexity,
    /// Mean KL to the reference, in nats.
    Kl,
    /// Share of positions with the same most likely token, in per cent.
    Top1,
    /// Rate of the prompt, in tokens a second.
    Prefill,
    /// Rate of single tokens, in tokens a second.
    Decode,
    /// Bytes of the packed weights, in MiB.
    Bytes,
    /// Effective bits per weight.
    Bits,
    /// Peak resident memory of the worker, in MiB.
    Peak,
    /// Energy of a decoded token, in millijoules.
    Energy,
}

/// A number as text: the value, and what is drawn in a quieter tone behind it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cell {
    /// `3.357`; empty when there is none.
    pub value: String,
    /// `± 0.012`, `± 8  1.84 ×`, `n.r.`; may be empty.
    pub quiet: String,
}

impl Metric {
    /// Every metric, in the order of the table.
    pub const ALL: [Self; 9] = [
        Self::Perplexity,
        Self::Kl,
        Self::Top1,
        Self::Prefill,
        Self::Decode,
        Self::Bytes,
        Self::Bits,
        Self::Peak,
        Self::Energy,
    ];

    /// Whether more is better.
    pub const fn more_is_better(self) -> bool {
        matches!(self, Self::Top1 | Self::Prefill | Self::Decode)
    }

    /// Whether the number is not the variant's own when layers are simulated.
    pub const fn is_of_the_run(self) -> bool {
        matches!(self, Self::Prefill | Self::Decode | Self::Peak | Self::Energy)
    }

    /// The variant's own number in the metric's unit (MiB for bytes, per cent for top-1); `None` when it was not measured
    /// or is simulated.
    pub fn value(self, measurements: &Measurements) -> Option<f64> {
        let run = measurements.simulated_layers == 0 || !self.is_of_the_run();
        if !run {
            return None;
        }
        match self {
            Self::Bytes => Some(mib(measurements.memory.weight_bytes)),
            Self::Bits => Some(measurements.bits_per_weight),
            Self::Peak => measurements.memory.peak_bytes().map(mib),
            _ => self.estimate(measurements).map(|estimate| estimate.value),
        }
    }

    /// The number with its interval, in the metric's unit, simulated or not; `None` for those without one.
    fn estimate(self, measurements: &Measurements) -> Option<Estimate> {
        let quality = measurements.quality.as_ref();
        match self {
            Self::Perplexity => quality.map(|quality| quality.perplexity),
            Self::Kl => quality.map(|quality| quality.kl_mean),
            Self::Top1 => quality.map(|quality| {
                let Estimate { value, ci95, n } = quality.top1_agreement;
                Estimate { value: 100.0 * value, ci95: ci95.map(|end| 100.0 * end), n }
            }),
            Self::Prefill | Self::Decode => self.phase(measurements).map(|phase| phase.tokens_per_second),
            Self::Energy => {
                let Estimate { value, ci95, n } = measurements.energy.as_ref()?.decode_joules_per_token?;
                Some(Estimate { value: 1e3 * value, ci95: ci95.map(|end| 1e3 * end), n })
            }
            Self::Bytes | Self::Bits | Self::Peak => None,
        }
    }

    /// The timed phase behind a rate.
    pub fn phase(self, measurements: &Measurements) -> Option<&PhaseSpeed> {
        let speed = measurements.speed.as_ref()?;
        match self {
            Self::Prefill => Some(&speed.prefill),
            Self::Decode => Some(&speed.decode),
            _ => None,
        }
    }

    /// The number as text. Simulated runs say `sim`; a ratio to the reference whose interval contains 1 is `n.r.`.
    pub fn cell(self, measurements: &Measurements) -> Cell {
        if self == Self::Energy && self.estimate(measurements).is_none() {
            return Cell::default();
        }
        if measurements.simulated_layers > 0 && self.is_of_the_run() {
            return Cell { value: String::new(), quiet: "sim".to_owned() };
        }
        let Some(estimate) = self.estimate(measurements) else {
            let value = self.value(measurements).map(|value| significant(value, 3)).unwrap_or_default();
            return Cell { value, quiet: String::new() };
        };
        let text = interval(estimate.value, estimate.ci95);
        let (value, half) = text.split_once(" ± ").unwrap_or((&text, ""));
        let mut quiet = if half.is_empty() { String::new() } else { format!("± {half}") };
        if let Some(found) = self.phase(measurements).and_then(|phase| phase.ratio) {
            quiet.push_str("  ");
            quiet.push_str(&if found.is_resolved() { ratio(found.value) } else { "n.r.".to_owned() });
        }
        Cell { value: value.to_owned(), quiet }
    }
}

/// Bytes in MiB.
pub fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::plots::fixtures;
    use crate::study::Ratio;

    #[test]
    fn simulated_runs_have_quality_and_bytes_and_no_speed() {
        let simulated = fixtures::measurements(3, 320);
        for metric in Metric::ALL {
            let own = !metric.is_of_the_run();
            assert_eq!(metric.value(&simulated).is_some(), own, "{metric:?}");
            assert_eq!(metric.cell(&simulated).quiet == "sim", !own, "{metric:?}");
        }
    }

    #[test]
    fn energy_is_in_millijoules_with_its_interval() {
        let mut measured = fixtures::measurements(1, 320);
        let found = Estimate { value: 0.125, ci95: [0.12, 0.13], n: 8 };
        measured.energy.as_mut().unwrap().decode_joules_per_token = Some(found);
        let cell = Metric::Energy.cell(&measured);
        assert_eq!((cell.value.as_str(), cell.quiet.as_str()), ("125.0", "± 5.0"));
        assert_eq!(Metric::Energy.value(&measured), Some(125.0));
        measured.simulated_layers = 1;
        assert_eq!((Metric::Energy.value(&measured), Metric::Energy.cell(&measured).quiet.as_str()), (None, "sim"));
    }

    #[test]
    fn an_unresolved_ratio_is_not_a_number() {
        let mut measured = fixtures::measurements(1, 320);
        assert!(Metric::Decode.cell(&measured).quiet.ends_with('×'));
        let ratio = Ratio { value: 1.01, ci95: [0.98, 1.04], n_pairs: 5 };
        measured.speed.as_mut().unwrap().decode.ratio = Some(ratio);
        assert!(Metric::Decode.cell(&measured).quiet.ends_with("n.r."));
        let reference = fixtures::measurements(0, 320);
        assert!(!Metric::Decode.cell(&reference).quiet.contains('×'));
    }

    #[test]
    fn what_was_not_measured_is_empty_and_not_zero() {
        let mut bare = fixtures::measurements(1, 320);
        (bare.quality, bare.speed, bare.energy, bare.memory.peak_rss_bytes) = (None, None, None, None);
        for metric in [
            Metric::Perplexity,
            Metric::Kl,
            Metric::Top1,
            Metric::Prefill,
            Metric::Decode,
            Metric::Peak,
            Metric::Energy,
        ] {
            assert_eq!(metric.cell(&bare), Cell::default());
            assert_eq!(metric.value(&bare), None);
        }
    }
}
