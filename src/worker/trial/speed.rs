//! Speed of a variant beside the reference, interleaved so that drift cancels.

use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::measure::{abba, phase_speed};
use crate::runtime::{Placed, Repetition, repetition, token_trace};
use crate::study::{Arm, Failure, FailureKind, Phase, Speed, SpeedWorkload, StudyEvent};
use crate::worker::trial::{TrialSink, failure};

/// How often a step within a repetition is told.
const STEP_INTERVAL: Duration = Duration::from_millis(100);

/// Times both arms. The reference's own trial has one arm and no ratio.
pub(super) fn measure(
    reference: &Placed,
    variant: &Placed,
    workload: &SpeedWorkload,
    seed: u64,
    sink: &TrialSink<'_>,
) -> Result<Speed, Failure> {
    let is_reference = Arc::ptr_eq(reference.host(), variant.host());
    let (prompt, decode) = (workload.prompt as usize, workload.decode as usize);
    if prompt == 0 || decode == 0 || workload.repetitions < 2 {
        let message = "speed needs a prompt and a decode of at least 1 token and 2 repetitions";
        return Err(Failure::new(FailureKind::Data, message));
    }
    let trace = token_trace(reference.host(), prompt + decode, seed);
    let max_context = reference.host().config().max_context;
    if prompt > max_context || decode > max_context {
        let message =
            format!("a prompt of {prompt} or a decode of {decode} tokens exceeds the context of {max_context}");
        return Err(Failure::new(FailureKind::Data, message));
    }
    let capacity = trace.len().min(max_context);
    // A variant may have other heads and another format of its cache.
    let mut own_text = variant.text(capacity).map_err(failure)?;
    let mut reference_text = reference.text(capacity).map_err(failure)?;
    let order: Vec<Arm> = if is_reference {
        vec![Arm::Variant; workload.repetitions as usize]
    } else {
        abba(workload.repetitions).collect()
    };
    let total = order.len() as u32;
    let mut run = |arm, done| {
        sink.progress(Phase::Prefill, done, total);
        sink.check()?;
        let text = match arm {
            Arm::Variant => &mut *own_text,
            Arm::Reference => &mut *reference_text,
        };
        let steps = Steps { sink, done, total, told: Cell::new(None) };
        repetition(text, &trace, prompt, &|_| steps.tell()).map_err(failure)
    };
    // Warm-up: pages, caches and thread pools of both arms.
    run(Arm::Variant, 0)?;
    if !is_reference {
        run(Arm::Reference, 0)?;
    }
    let mut samples = Samples::default();
    for (done, arm) in order.into_iter().enumerate() {
        let times = run(arm, done as u32)?;
        tell(&times, arm, sink);
        samples.push(times, arm);
    }
    samples.finish(workload, is_reference, seed).ok_or_else(|| {
        Failure::new(FailureKind::NonFinite, "the clock did not advance; use a longer prompt or more decoded tokens")
    })
}

/// Tells between two timed sections that a repetition goes on: a slow model may take minutes for one.
struct Steps<'a> {
    sink: &'a TrialSink<'a>,
    /// Repetitions done and in all.
    done: u32,
    total: u32,
    told: Cell<Option<Instant>>,
}

impl Steps<'_> {
    /// Neither allocates nor waits; `false` when the trial should end.
    fn tell(&self) -> bool {
        let now = Instant::now();
        if self.told.get().is_none_or(|told| now - told >= STEP_INTERVAL) {
            self.told.set(Some(now));
            self.sink.progress(Phase::Decode, self.done, self.total);
        }
        !self.sink.sink.is_cancelled()
    }
}

/// Sends the samples of a repetition after it: nothing is sent while the clock runs.
fn tell(times: &Repetition, arm: Arm, sink: &TrialSink<'_>) {
    let trial = sink.spec.id;
    let sample = |phase, nanos| StudyEvent::Sampled { trial, phase, arm, nanos };
    sink.sink.event(sample(Phase::Prefill, times.prefill_nanos));
    for nanos in &times.decode_nanos {
        sink.sink.event(sample(Phase::Decode, *nanos));
    }
}

/// Times of both arms and both phases.
#[derive(Default)]
struct Samples {
    prefill: [Vec<u64>; 2],
    decode: [Vec<u64>; 2],
}

impl Samples {
    fn push(&mut self, times: Repetition, arm: Arm) {
        let arm = usize::from(arm == Arm::Reference);
        self.prefill[arm].push(times.prefill_nanos);
        self.decode[arm].extend(times.decode_nanos);
    }

    fn finish(self, workload: &SpeedWorkload, is_reference: bool, seed: u64) -> Option<Speed> {
        let [prefill, reference_prefill] = self.prefill;
        let [decode, reference_decode] = self.decode;
        let block = workload.decode as usize;
        Some(Speed {
            prompt_tokens: workload.prompt,
            decode_tokens: workload.decode,
            prefill: phase_speed(workload.prompt, prefill, reference_prefill, 1, is_reference, seed)?,
            decode: phase_speed(1, decode, reference_decode, block, is_reference, seed)?,
        })
    }
}
