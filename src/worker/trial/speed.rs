//! Speed of a variant beside the reference, interleaved so that drift cancels.

use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::measure::{Judgement, Sections, phase_speed};
use crate::runtime::{Placed, Repetition, repetition, token_trace};
use crate::study::{Arm, Disturbance, Failure, FailureKind, Phase, Speed, SpeedWorkload, StudyEvent};
use crate::telemetry::DisturbanceProbe;
use crate::worker::trial::energy::{Mark, Stretches};
use crate::worker::trial::{TrialSink, failure};

/// How often a step within a repetition is told.
const STEP_INTERVAL: Duration = Duration::from_millis(100);

/// What timing found.
pub(super) struct Timed {
    pub(super) speed: Speed,
    /// Energy of the variant's repetitions.
    pub(super) stretches: Stretches,
    /// Sections that were made again.
    pub(super) repeats: u32,
    /// What disturbed sections that count.
    pub(super) disturbance: Disturbance,
    /// Kernels of a token of the variant on a card.
    pub(super) launches: Option<u64>,
}

/// Times both arms, and reads the energy of the variant's repetitions between its timed sections. The reference's own trial
/// has one arm and no ratio.
pub(super) fn measure(
    reference: &Placed,
    variant: &Placed,
    workload: &SpeedWorkload,
    seed: u64,
    sink: &TrialSink<'_>,
) -> Result<Timed, Failure> {
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
    let mut sections = Sections::new(workload.repetitions, is_reference);
    let total = sections.len() as u32;
    let mut run = |arm, done| {
        sink.progress(Phase::Prefill, done, total);
        sink.check()?;
        let text = match arm {
            Arm::Variant => &mut *own_text,
            Arm::Reference => &mut *reference_text,
        };
        let steps = Steps { sink, done, total, told: Cell::new(None), marks: Cell::new([sink.energy_now(); 3]) };
        let times = repetition(text, &trace, prompt, &|step| steps.tell(step, decode)).map_err(failure)?;
        Ok((times, steps.marks.get()))
    };
    // Warm-up: pages, caches and thread pools of both arms.
    run(Arm::Variant, 0)?;
    if !is_reference {
        run(Arm::Reference, 0)?;
    }
    let (mut samples, mut stretches) = (Samples::default(), Stretches::default());
    let (mut section, mut disturbance) = (Vec::new(), Disturbance::default());
    let mut probe = DisturbanceProbe::start(sink.spec.device, sink.uuid);
    let mut began = Instant::now();
    while let Some(arm) = sections.next_arm() {
        let (times, marks) = run(arm, sections.n_done() as u32 - 1)?;
        tell(&times, arm, sink);
        section.push((times, marks, arm));
        if !sections.is_due(began.elapsed().as_secs_f64()) {
            continue;
        }
        let seen = probe.look();
        if sections.judge(!seen.is_quiet()) == Judgement::Keep {
            disturbance.join(seen);
            for (times, marks, arm) in section.drain(..) {
                stretches.push(arm, marks);
                samples.push(times, arm);
            }
        }
        section.clear();
        began = Instant::now();
    }
    let speed = samples.finish(workload, is_reference, seed).ok_or_else(|| {
        Failure::new(FailureKind::NonFinite, "the clock did not advance; use a longer prompt or more decoded tokens")
    })?;
    let launches = own_text.launches();
    Ok(Timed { speed, stretches, repeats: sections.repeats(), disturbance, launches })
}

/// Tells between two timed sections that a repetition goes on: a slow model may take minutes for one.
struct Steps<'a> {
    sink: &'a TrialSink<'a>,
    /// Repetitions done and in all.
    done: u32,
    total: u32,
    told: Cell<Option<Instant>>,
    /// The energy before the prompt, after it and after the last token.
    marks: Cell<[Option<Mark>; 3]>,
}

impl Steps<'_> {
    /// After the prompt (step 0) and each of `n_steps` tokens. Neither allocates nor waits; `false` when the trial should end.
    fn tell(&self, step: usize, n_steps: usize) -> bool {
        if step == 0 || step == n_steps {
            let mut marks = self.marks.get();
            marks[if step == 0 { 1 } else { 2 }] = self.sink.energy_now();
            self.marks.set(marks);
        }
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
            limits: None,
        })
    }
}
