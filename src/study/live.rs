//! The series of the trial that is running, for live plots.

use crate::study::compression::mean;
use crate::study::{Arm, Phase, StudyEvent, TrialId, WindowScore};

/// What the running trial has shown so far; emptied when another one begins.
#[derive(Debug, Clone, PartialEq)]
pub struct LiveSeries {
    /// The trial.
    pub trial: Option<TrialId>,
    /// Whether it has ended, so that another may take its place.
    is_free: bool,
    /// Its step with units done and in all.
    pub progress: Option<(Phase, u32, u32)>,
    /// Timed samples of the prompt, in order: arm and nanoseconds.
    pub prefill_nanos: Vec<(Arm, u64)>,
    /// Timed samples of single tokens, in order: arm and nanoseconds.
    pub decode_nanos: Vec<(Arm, u64)>,
    /// Windows scored so far.
    pub windows: Vec<WindowScore>,
    /// Relative output error of each layer compressed so far, where it has one.
    pub layer_errors: Vec<Option<f64>>,
    /// Resident memory of the worker: milliseconds since the start and bytes.
    pub memory: Vec<(u64, u64)>,
    /// Where phases began: milliseconds since the start (of the last memory reading) and the phase.
    pub phases: Vec<(u64, Phase)>,
}

impl Default for LiveSeries {
    fn default() -> Self {
        Self {
            trial: None,
            is_free: true,
            progress: None,
            prefill_nanos: Vec::new(),
            decode_nanos: Vec::new(),
            windows: Vec::new(),
            layer_errors: Vec::new(),
            memory: Vec::new(),
            phases: Vec::new(),
        }
    }
}

impl LiveSeries {
    /// The longest series kept; later samples are not drawn. A trial's own record is complete.
    pub const MAX_SAMPLES: usize = 20_000;

    /// Mean relative output error of the layers compressed so far.
    pub fn mean_layer_error(&self) -> Option<f64> {
        mean(self.layer_errors.iter().flatten().copied())
    }

    /// Takes in one event. Of trials that run at the same time the first is followed to its end, then another.
    pub(super) fn apply(&mut self, event: &StudyEvent) {
        match event {
            StudyEvent::TrialStarted { spec } if self.is_free => *self = Self::of(spec.id),
            StudyEvent::TrialFinished { trial, .. } => self.is_free |= self.trial == Some(*trial),
            StudyEvent::StudyEnded { .. } => self.is_free = true,
            event => {
                let Some(trial) = event.trial() else { return };
                if self.is_free && self.trial != Some(trial) {
                    *self = Self::of(trial);
                }
                if self.trial == Some(trial) {
                    self.follow(event);
                }
            }
        }
    }

    fn of(trial: TrialId) -> Self {
        Self { trial: Some(trial), is_free: false, ..Self::default() }
    }

    fn follow(&mut self, event: &StudyEvent) {
        match event {
            StudyEvent::Progress { phase, done, total, .. } => {
                // Prompts and single tokens alternate: they are one stretch.
                let goes_on = match self.phases.last() {
                    Some((_, Phase::Decode)) => phase.is_timed(),
                    Some((_, before)) => before == phase,
                    None => false,
                };
                if !goes_on {
                    let now = self.memory.last().map_or(0, |(at, _)| *at);
                    self.phases.push((now, *phase));
                }
                self.progress = Some((*phase, *done, *total));
            }
            StudyEvent::Sampled { phase, arm, nanos, .. } => {
                let series = if *phase == Phase::Prefill { &mut self.prefill_nanos } else { &mut self.decode_nanos };
                push_bounded(series, (*arm, *nanos));
            }
            StudyEvent::QualityWindow { score, .. } => push_bounded(&mut self.windows, *score),
            StudyEvent::LayerCompressed { output_error, .. } => push_bounded(&mut self.layer_errors, *output_error),
            StudyEvent::MemorySampled { at_millis, rss_bytes, .. } => {
                push_bounded(&mut self.memory, (*at_millis, *rss_bytes));
            }
            StudyEvent::StudyCreated { .. }
            | StudyEvent::StudyResumed { .. }
            | StudyEvent::TrialStarted { .. }
            | StudyEvent::TrialFinished { .. }
            | StudyEvent::StudyEnded { .. } => {}
        }
    }
}

fn push_bounded<T>(series: &mut Vec<T>, value: T) {
    if series.len() < LiveSeries::MAX_SAMPLES {
        series.push(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timing_is_one_stretch_however_its_phases_alternate() {
        let mut live = LiveSeries::default();
        let trial = TrialId(1);
        for phase in [Phase::Quality, Phase::Prefill, Phase::Decode, Phase::Prefill, Phase::Decode, Phase::Sample] {
            live.apply(&StudyEvent::Progress { trial, phase, done: 0, total: 2 });
            assert_eq!(live.progress, Some((phase, 0, 2)));
        }
        let phases: Vec<Phase> = live.phases.iter().map(|(_, phase)| *phase).collect();
        assert_eq!(phases, [Phase::Quality, Phase::Prefill, Phase::Decode, Phase::Sample]);
    }

    #[test]
    fn of_trials_at_the_same_time_one_is_followed_to_its_end() {
        let mut live = LiveSeries::default();
        let sampled = |live: &mut LiveSeries, trial, nanos| {
            live.apply(&StudyEvent::Sampled { trial: TrialId(trial), phase: Phase::Decode, arm: Arm::Variant, nanos });
            (live.trial, live.decode_nanos.len())
        };
        assert_eq!(sampled(&mut live, 1, 10), (Some(TrialId(1)), 1));
        assert_eq!(sampled(&mut live, 2, 20), (Some(TrialId(1)), 1), "another trial's");
        assert_eq!(sampled(&mut live, 1, 11), (Some(TrialId(1)), 2));
        live.apply(&StudyEvent::TrialFinished {
            trial: TrialId(1),
            outcome: crate::study::Outcome::Failed(crate::study::Failure::new(
                crate::study::FailureKind::Cancelled,
                "",
            )),
            cautions: Vec::new(),
            elapsed_secs: 0.0,
            memory_curve: Vec::new(),
        });
        assert_eq!(live.decode_nanos.len(), 2, "it is still shown");
        assert_eq!(sampled(&mut live, 2, 21), (Some(TrialId(2)), 1));
    }
}
