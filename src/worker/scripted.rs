//! A runner that replays recorded trials, for tests and demonstrations.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use crate::study::{Arm, Failure, FailureKind, Outcome, Phase, StudyEvent, TrialId, TrialSpec};
use crate::worker::Runner;

/// Replays the trials of a recorded study at once. A trial is found by what it tries, whatever its number.
#[derive(Debug, Default)]
pub struct ScriptedRunner {
    recorded: HashMap<String, Vec<StudyEvent>>,
    running: Option<TrialId>,
    pending: VecDeque<StudyEvent>,
}

impl ScriptedRunner {
    /// The trials that `events` tell of.
    pub fn new(events: &[StudyEvent]) -> Self {
        let mut keys = HashMap::new();
        let mut recorded: HashMap<String, Vec<StudyEvent>> = HashMap::new();
        for event in events {
            if let StudyEvent::TrialStarted { spec } = event {
                keys.insert(spec.id, spec.key());
                recorded.insert(spec.key(), Vec::new());
            } else if let Some(script) =
                event.trial().and_then(|trial| keys.get(&trial)).and_then(|key| recorded.get_mut(key))
            {
                if let StudyEvent::TrialFinished { trial, outcome, .. } = event
                    && script.is_empty()
                {
                    script.extend(live_events(*trial, outcome));
                }
                script.push(event.clone());
            }
        }
        Self { recorded, ..Self::default() }
    }
}

impl Runner for ScriptedRunner {
    fn submit(&mut self, spec: &TrialSpec) {
        self.running = Some(spec.id);
        let script = self
            .recorded
            .get(&spec.key())
            .filter(|script| matches!(script.last(), Some(StudyEvent::TrialFinished { .. })));
        self.pending = match script {
            Some(script) => script.iter().map(|event| renumbered(event, spec.id)).collect(),
            None => [failed(spec.id, FailureKind::Data, "the recording has no such trial")].into(),
        };
    }

    fn next_event(&mut self, _timeout: Duration) -> Option<StudyEvent> {
        let event = self.pending.pop_front()?;
        if self.pending.is_empty() {
            self.running = None;
        }
        Some(event)
    }

    fn cancel(&mut self, _grace: Duration) {
        if let Some(trial) = self.running {
            self.pending = [failed(trial, FailureKind::Cancelled, "cancelled")].into();
        }
    }
}

fn failed(trial: TrialId, kind: FailureKind, message: &str) -> StudyEvent {
    StudyEvent::TrialFinished {
        trial,
        outcome: Outcome::Failed(Failure::new(kind, message)),
        cautions: Vec::new(),
        elapsed_secs: 0.0,
        memory_curve: Vec::new(),
    }
}

/// The live events that a finished trial's own record still holds.
fn live_events(trial: TrialId, outcome: &Outcome) -> Vec<StudyEvent> {
    let Outcome::Done(measurements) = outcome else { return Vec::new() };
    let mut events = Vec::new();
    if let Some(quality) = &measurements.quality {
        let windows = quality.windows.iter().enumerate();
        events.extend(windows.map(|(index, score)| StudyEvent::QualityWindow {
            trial,
            index: index as u32,
            score: *score,
        }));
    }
    if let Some(speed) = &measurements.speed {
        for (phase, speed) in [(Phase::Prefill, &speed.prefill), (Phase::Decode, &speed.decode)] {
            for (arm, samples) in [(Arm::Variant, &speed.samples_nanos), (Arm::Reference, &speed.reference_nanos)] {
                events.extend(samples.iter().map(|nanos| StudyEvent::Sampled { trial, phase, arm, nanos: *nanos }));
            }
        }
    }
    events
}

fn renumbered(event: &StudyEvent, id: TrialId) -> StudyEvent {
    let mut event = event.clone();
    match &mut event {
        StudyEvent::TrialStarted { spec } => spec.id = id,
        StudyEvent::Progress { trial, .. }
        | StudyEvent::Sampled { trial, .. }
        | StudyEvent::QualityWindow { trial, .. }
        | StudyEvent::LayerCompressed { trial, .. }
        | StudyEvent::MemorySampled { trial, .. }
        | StudyEvent::TrialFinished { trial, .. } => *trial = id,
        StudyEvent::StudyCreated { .. } | StudyEvent::StudyResumed { .. } | StudyEvent::StudyEnded { .. } => {}
    }
    event
}
