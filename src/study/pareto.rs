//! The front of trials that no other trial beats in every objective.

use crate::study::{Measurements, Study, Trial, TrialId};

/// A measured quantity to trade off; smaller is better for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Objective {
    /// Mean KL to the reference, in nats.
    Kl,
    /// Perplexity over the reference's, minus 1.
    PerplexityIncrease,
    /// Time of a decoded token, in seconds.
    DecodeLatency,
    /// Time of the prompt, in seconds.
    PrefillLatency,
    /// Bytes of the packed weights.
    WeightBytes,
    /// Peak resident memory of the worker, in bytes.
    PeakMemory,
    /// Energy of a decoded token, in joules.
    DecodeEnergy,
}

impl Objective {
    /// Every objective.
    pub const ALL: [Self; 7] = [
        Self::Kl,
        Self::PerplexityIncrease,
        Self::DecodeLatency,
        Self::PrefillLatency,
        Self::WeightBytes,
        Self::PeakMemory,
        Self::DecodeEnergy,
    ];

    /// Whether the value is what ran, and not the recipe's alone.
    pub const fn is_of_the_run(self) -> bool {
        matches!(self, Self::DecodeLatency | Self::PrefillLatency | Self::PeakMemory | Self::DecodeEnergy)
    }

    /// The value of this objective in `measurements`, if it was measured *and is the variant's own*: latency, peak
    /// memory and energy of a simulated variant are not.
    pub fn value(self, measurements: &Measurements) -> Option<f64> {
        let own = measurements.simulated_layers == 0;
        match self {
            Self::Kl => measurements.quality.as_ref().map(|quality| quality.kl_mean.value),
            Self::PerplexityIncrease => {
                measurements.quality.as_ref().map(|quality| quality.log_perplexity_difference.value.exp_m1())
            }
            Self::DecodeLatency => {
                measurements.speed.as_ref().filter(|_| own).map(|speed| speed.decode.latency_secs.value)
            }
            Self::PrefillLatency => {
                measurements.speed.as_ref().filter(|_| own).map(|speed| speed.prefill.latency_secs.value)
            }
            Self::WeightBytes => Some(measurements.memory.weight_bytes as f64),
            Self::PeakMemory => measurements.memory.peak_bytes().filter(|_| own).map(|bytes| bytes as f64),
            Self::DecodeEnergy => measurements
                .energy
                .as_ref()
                .filter(|_| own)
                .and_then(|energy| energy.decode_joules_per_token)
                .map(|found| found.value),
        }
    }
}

impl Trial {
    /// The value of `objective`, if it was measured and is what the recipe made: time, memory and energy of a trial whose weights
    /// are masked and nothing else are the reference's, whatever the clock said.
    pub fn value(&self, objective: Objective) -> Option<f64> {
        if objective.is_of_the_run() && self.spec.recipe.is_masked_only() {
            return None;
        }
        objective.value(self.measurements()?)
    }
}

/// The finished trials of `study` that no other one beats in both objectives, by rising `x`.
///
/// Ties in `x` keep the smallest `y`. Trials that lack either value are not on the front.
pub fn pareto_front(study: &Study, x: Objective, y: Objective) -> Vec<TrialId> {
    let mut points: Vec<(f64, f64, TrialId)> =
        study.trials.iter().filter_map(|(id, trial)| Some((trial.value(x)?, trial.value(y)?, *id))).collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)).then(a.2.cmp(&b.2)));
    let mut best = f64::INFINITY;
    points.retain(|(_, value, _)| {
        let keeps = *value < best;
        best = best.min(*value);
        keeps
    });
    points.into_iter().map(|(.., id)| id).collect()
}

#[cfg(test)]
#[path = "pareto_tests.rs"]
mod tests;
