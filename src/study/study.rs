//! The fold of all events.

use std::collections::BTreeMap;

use crate::study::{
    Caution, EndReason, LiveSeries, Measurements, Outcome, StudyEvent, StudyHeader, TrialId, TrialSpec,
};

/// A study as its events tell it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Study {
    /// What was asked for; `None` before the first record.
    pub header: Option<Box<StudyHeader>>,
    /// Every trial by its number.
    pub trials: BTreeMap<TrialId, Trial>,
    /// Why no more trials are asked for; `None` while there may be more.
    pub ended: Option<EndReason>,
    /// The running trial's series.
    pub live: LiveSeries,
    /// Changes with every event that changes a finished trial: caches are keyed by it.
    pub generation: u64,
}

/// One trial of a study.
#[derive(Debug, Clone, PartialEq)]
pub struct Trial {
    /// What is tried.
    pub spec: TrialSpec,
    /// How it stands.
    pub state: TrialState,
}

/// How a trial stands.
#[derive(Debug, Clone, PartialEq)]
pub enum TrialState {
    /// Begun, not ended.
    Running,
    /// Ended.
    Finished {
        /// What came of it.
        outcome: Outcome,
        /// What the reader of its numbers must know.
        cautions: Vec<Caution>,
        /// Wall time, in seconds.
        elapsed_secs: f64,
        /// Resident memory over time: milliseconds since the start and bytes.
        memory_curve: Vec<(u64, u64)>,
    },
}

impl Trial {
    /// The measurements, if it was done.
    pub fn measurements(&self) -> Option<&Measurements> {
        match &self.state {
            TrialState::Finished { outcome: Outcome::Done(measurements), .. } => Some(measurements),
            _ => None,
        }
    }

    /// The cautions, if it ended.
    pub fn cautions(&self) -> &[Caution] {
        match &self.state {
            TrialState::Finished { cautions, .. } => cautions,
            TrialState::Running => &[],
        }
    }
}

impl Study {
    /// The study that these events tell.
    pub fn from_events<'a>(events: impl IntoIterator<Item = &'a StudyEvent>) -> Self {
        let mut study = Self::default();
        for event in events {
            study.apply(event);
        }
        study
    }

    /// Takes in one event. An event about a trial that never started is ignored.
    pub fn apply(&mut self, event: &StudyEvent) {
        self.live.apply(event);
        match event {
            StudyEvent::StudyCreated { header } => {
                let generation = self.generation;
                *self = Self { header: Some(header.clone()), generation, ..Self::default() };
            }
            StudyEvent::StudyResumed { limits, budget } => {
                self.ended = None;
                if let Some(header) = &mut self.header {
                    (header.spec.limits, header.spec.budget) = (*limits, *budget);
                }
            }
            StudyEvent::TrialStarted { spec } => {
                self.ended = None;
                self.trials.insert(spec.id, Trial { spec: (**spec).clone(), state: TrialState::Running });
            }
            StudyEvent::TrialFinished { trial, outcome, cautions, elapsed_secs, memory_curve } => {
                let Some(trial) = self.trials.get_mut(trial) else { return };
                trial.state = TrialState::Finished {
                    outcome: outcome.clone(),
                    cautions: cautions.clone(),
                    elapsed_secs: *elapsed_secs,
                    memory_curve: memory_curve.clone(),
                };
            }
            StudyEvent::StudyEnded { reason } => self.ended = Some(reason.clone()),
            StudyEvent::Progress { .. }
            | StudyEvent::Sampled { .. }
            | StudyEvent::QualityWindow { .. }
            | StudyEvent::LayerCompressed { .. }
            | StudyEvent::MemorySampled { .. } => return,
        }
        self.generation += 1;
    }

    /// The reference's measurements, once trial 0 is done.
    pub fn reference(&self) -> Option<&Measurements> {
        self.trials.get(&TrialId(0)).and_then(Trial::measurements)
    }

    /// The number that the next trial gets.
    pub fn next_id(&self) -> TrialId {
        TrialId(self.trials.keys().next_back().map_or(0, |last| last.0 + 1))
    }
}
