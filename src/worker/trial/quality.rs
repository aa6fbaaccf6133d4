//! Quality of a variant, window by window.

use std::path::PathBuf;
use std::time::SystemTime;

use candle_core::Tensor;

use crate::eval::{self, ScoredWindow};
use crate::measure::QualityAccumulator;
use crate::nn::Llama;
use crate::runtime::{Placed, RuntimeError};
use crate::study::{Caution, Failure, FailureKind, MemoryEstimate, Phase, Quality, QualityWorkload, StudyEvent};
use crate::worker::trial::{Open, TrialSink, data_failure, failure, reference};

/// Most bytes of reference states that are kept; windows beyond are run again by the reference for every trial.
const MAX_STATE_BYTES: u64 = MemoryEstimate::MAX_STATES_BYTES;

/// The windows of the last text with the reference's states before the head, kept between trials.
#[derive(Default)]
pub(super) struct ReferenceTexts {
    current: Option<(TextKey, eval::Windows, Vec<Option<Tensor>>)>,
}

/// What the windows of a text depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
struct TextKey {
    data: PathBuf,
    modified: Option<SystemTime>,
    context: usize,
    windows: Option<u32>,
}

impl Open {
    /// Scores `variant` on every window of the workload.
    pub(super) fn score(
        &mut self,
        workload: &QualityWorkload,
        variant: &Placed,
        sink: &TrialSink<'_>,
        cautions: &mut Vec<Caution>,
    ) -> Result<Quality, Failure> {
        self.prepare(workload, sink)?;
        let reference = reference(&self.store);
        let (_, windows, states) = self.texts.current.as_ref().expect("the text was prepared above");
        let total = windows.tokens.len() as u32;
        if total < windows.available {
            cautions.push(Caution::PartOfSplit { scored: total, available: windows.available });
        }
        let split = workload.data.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
        let mut quality = QualityAccumulator::new(workload.protocol.id(workload.context), split);
        let mut scorer = variant.scorer(&self.reference, workload.context).map_err(failure)?;
        for (index, (tokens, states)) in windows.tokens.iter().zip(states).enumerate() {
            if !sink.progress(Phase::Quality, index as u32, total) {
                sink.check()?;
            }
            let scored = if let Some(scorer) = &mut scorer {
                eval::summarize(&scorer.score(tokens).map_err(failure)?)
            } else {
                score_here(&reference, variant.host(), states.as_ref(), tokens)
            };
            let ScoredWindow { score, kl } = scored.map_err(failure)?;
            sink.sink.event(StudyEvent::QualityWindow { trial: sink.spec.id, index: index as u32, score });
            let refused = |error: crate::measure::QualityError| Failure::new(FailureKind::NonFinite, error.to_string());
            quality.push(score, &kl, kl.len() as u32).map_err(refused)?;
        }
        quality.finish().map_err(|error| Failure::new(FailureKind::Data, error.to_string()))
    }

    /// Reads and cuts the text and runs the reference over it, unless the last trial did.
    fn prepare(&mut self, workload: &QualityWorkload, sink: &TrialSink<'_>) -> Result<(), Failure> {
        let modified = std::fs::metadata(&workload.data).and_then(|data| data.modified()).ok();
        let key =
            TextKey { data: workload.data.clone(), modified, context: workload.context, windows: workload.windows };
        if self.texts.current.as_ref().is_some_and(|(current, ..)| *current == key && modified.is_some()) {
            return Ok(());
        }
        self.texts.current = None;
        let reference = reference(&self.store);
        let max_context = reference.config().max_context;
        if workload.context > max_context {
            let message = format!("a context of {} exceeds the model's {max_context}", workload.context);
            return Err(Failure::new(FailureKind::Data, message));
        }
        let texts = eval::read_texts(&workload.data).map_err(|error| data_failure(&error))?;
        let bos = self.bos();
        let windows = eval::cut(&texts, self.tokenizer()?, bos, workload.context, workload.windows)
            .map_err(|error| data_failure(&error))?;
        drop(texts);
        let total = windows.tokens.len() as u32;
        let state_bytes = (workload.context * reference.config().hidden_size * 4) as u64;
        let kept = usize::try_from(MAX_STATE_BYTES / state_bytes.max(1)).unwrap_or(usize::MAX);
        let mut states = Vec::with_capacity(windows.tokens.len());
        for (index, tokens) in windows.tokens.iter().enumerate() {
            if !sink.progress(Phase::Reference, index as u32, total) {
                sink.check()?;
            }
            let state = if index < kept && !self.reference.is_on_card() {
                Some(eval::reference_states(&reference, tokens).map_err(failure)?)
            } else {
                None
            };
            states.push(state);
        }
        self.texts.current = Some((key, windows, states));
        Ok(())
    }
}

/// Scores a window on the processor, with the reference's states where they were kept.
fn score_here(
    reference: &Llama,
    variant: &Llama,
    states: Option<&Tensor>,
    tokens: &[u32],
) -> Result<ScoredWindow, RuntimeError> {
    let own;
    let states = if let Some(states) = states {
        states
    } else {
        own = eval::reference_states(reference, tokens)?;
        &own
    };
    eval::score_window(reference, states, variant, tokens)
}
