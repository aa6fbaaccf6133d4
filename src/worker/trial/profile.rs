//! Where the time of a variant's passes goes.

use std::time::Instant;

use crate::measure::{abba, paired_ratio};
use crate::nn::{Mark, Work};
use crate::runtime::{Placed, Timed, token_trace};
use crate::study::{
    Arm, Caution, Failure, FailureKind, Measurements, OperationProfile, PassKind, PassProfile, Phase, ProfileReport,
    ProfileWorkload, TrialSpec,
};
use crate::telemetry::{ConditionsProbe, DisturbanceProbe};
use crate::worker::trial::variant::{Built, measurements};
use crate::worker::trial::{Open, TrialSink, disturbed, failure, plan_cautions, reference};

impl Open {
    /// Makes the variant of a trial and takes its passes apart.
    pub(super) fn profile(
        &mut self,
        spec: &TrialSpec,
        workload: ProfileWorkload,
        threads: u16,
        sink: &TrialSink<'_>,
    ) -> Result<(Measurements, Vec<Caution>, ProfileReport), Failure> {
        let Built { plan, variant, report, mut cautions } = self.build(spec, None, sink)?;
        let max_context = variant.model.config().max_context;
        check(workload, max_context)?;
        let placed = self.put(&variant.model)?;
        let n_tokens = workload.prompt.max(workload.context + 1) as usize;
        let trace = token_trace(&reference(&self.store), n_tokens, spec.seed);
        let (conditions, mut disturbance) = (ConditionsProbe::start(), DisturbanceProbe::start(spec.device, sink.uuid));
        let kinds = [PassKind::Prefill { tokens: workload.prompt }, PassKind::Decode { context: workload.context }];
        let passes = kinds.into_iter().map(|kind| {
            let passes = Passes { model: &placed, kind, trace: &trace, repetitions: workload.repetitions };
            passes.profile(spec.seed, sink)
        });
        let passes = passes.collect::<Result<Vec<_>, _>>()?;
        let seen = disturbance.look();
        let ceilings = self.ceilings(threads)?;
        // A card is not shared as threads are, and its tensor cores are not under the ceilings that were measured.
        if ceilings.card.is_none() {
            ceilings.take_in(&passes);
        }
        let ceilings = ceilings.clone();
        let conditions = conditions.finish(threads);
        cautions.extend(plan_cautions(&plan));
        cautions.extend(disturbed(&seen, 0));
        let measurements = measurements(&plan, &variant, report, conditions.clone(), Some(&placed));
        Ok((measurements, cautions, ProfileReport { passes, ceilings, conditions }))
    }
}

fn check(workload: ProfileWorkload, max_context: usize) -> Result<(), Failure> {
    let refuse = |message: String| Err(Failure::new(FailureKind::Data, message));
    let ProfileWorkload { prompt, context, repetitions } = workload;
    if prompt == 0 || context == 0 || repetitions < 2 {
        return refuse("a profile needs a prompt and a context of at least 1 token and 2 repetitions".to_owned());
    }
    if prompt as usize > max_context || context as usize >= max_context {
        let text = format!("a prompt of {prompt} tokens, or one token behind {context}, exceeds the context");
        return refuse(format!("{text} of {max_context}"));
    }
    Ok(())
}

/// The passes of one kind.
struct Passes<'a> {
    model: &'a Placed,
    kind: PassKind,
    trace: &'a [u32],
    repetitions: u32,
}

/// One pass.
enum Run {
    Plain(Timed),
    Marked(Sample),
}

/// One pass with the clock.
struct Sample {
    nanos: u64,
    marks: Vec<Mark>,
}

impl Passes<'_> {
    /// Runs passes with the clock between operations and without it, turn about. On a card the plain ones replay a token's
    /// recorded step.
    fn profile(&self, seed: u64, sink: &TrialSink<'_>) -> Result<PassProfile, Failure> {
        let (phase, past, tokens) = match self.kind {
            PassKind::Prefill { tokens } => (Phase::Prefill, 0, &self.trace[..tokens as usize]),
            PassKind::Decode { context } => (Phase::Decode, context as usize, &self.trace[context as usize..][..1]),
        };
        let works = self.model.work(tokens.len(), past);
        let mut text = self.model.text(past + tokens.len()).map_err(failure)?;
        let total = 2 * self.repetitions;
        sink.progress(phase, 0, total);
        if past > 0 {
            text.run(&self.trace[..past]).map_err(failure)?;
        }
        let mut run = |arm: Arm| {
            sink.check()?;
            text.truncate(past).map_err(failure)?;
            if arm == Arm::Reference {
                return Ok(Run::Plain(text.run_timed(tokens).map_err(failure)?));
            }
            let began = Instant::now();
            text.run_marked(tokens).map_err(failure)?;
            let nanos = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
            Ok(Run::Marked(Sample { nanos, marks: text.marks().map_err(failure)? }))
        };
        // Warm-up: pages, caches, threads and marks.
        run(Arm::Reference)?;
        run(Arm::Variant)?;
        let (mut plain, mut samples) = (Vec::new(), Vec::new());
        // The arm that is profiled is the variant of the other comparisons.
        for (done, arm) in abba(self.repetitions).enumerate() {
            match run(arm)? {
                Run::Plain(timed) => plain.push(timed),
                Run::Marked(sample) => samples.push(sample),
            }
            sink.progress(phase, done as u32 + 1, total);
        }
        Ok(self.summary(works, &plain, &samples, seed))
    }

    fn summary(&self, works: Vec<Work>, plain: &[Timed], samples: &[Sample], seed: u64) -> PassProfile {
        let profiled: Vec<u64> = samples.iter().map(|sample| sample.nanos).collect();
        let profiled_nanos = median(profiled.clone());
        // The recorded pass that is the most ordinary one.
        let typical = samples.iter().min_by_key(|sample| sample.nanos.abs_diff(profiled_nanos));
        let typical = typical.map_or(&[][..], |sample| &sample.marks);
        let operations = works.into_iter().enumerate().map(|(index, work)| OperationProfile {
            block: work.block,
            operation: work.operation,
            nanos: median(samples.iter().map(|sample| duration(&sample.marks, index)).collect()),
            span_nanos: span(typical, index),
            flops: work.flops,
            streamed_bytes: work.streamed_bytes,
            activation_bytes: work.activation_bytes,
            arithmetic: work.arithmetic,
            product: work.product,
        });
        let card_nanos: Option<Vec<u64>> = plain.iter().map(|timed| timed.card_nanos).collect();
        let plain: Vec<u64> = plain.iter().map(|timed| timed.nanos).collect();
        let secs = |nanos: &[u64]| nanos.iter().map(|nanos| *nanos as f64 * 1e-9).collect::<Vec<f64>>();
        PassProfile {
            kind: self.kind,
            repetitions: self.repetitions,
            profiled_nanos,
            plain_nanos: median(plain.clone()),
            card_nanos: card_nanos.map(median),
            overhead: paired_ratio(&secs(&profiled), &secs(&plain), seed),
            operations: operations.collect(),
        }
    }
}

/// Begin and end of the operation so numbered.
fn span(marks: &[Mark], index: usize) -> [u64; 2] {
    let end = |index: usize| marks.get(index).map_or(0, |mark| mark.end_nanos);
    [index.checked_sub(1).map_or(0, end), end(index)]
}

fn duration(marks: &[Mark], index: usize) -> u64 {
    let [begin, end] = span(marks, index);
    end.saturating_sub(begin)
}

/// The middle of the values, 0 of none.
fn median(mut values: Vec<u64>) -> u64 {
    values.sort_unstable();
    match values.len() {
        0 => 0,
        n if n % 2 == 1 => values[n / 2],
        n => u64::midpoint(values[n / 2 - 1], values[n / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Operation;

    #[test]
    fn spans_are_contiguous_and_medians_are_those_of_the_values() {
        let mark = |end_nanos| Mark { block: None, operation: Operation::Head, end_nanos };
        let marks = [mark(10), mark(25), mark(25)];
        assert_eq!([0, 1, 2].map(|index| span(&marks, index)), [[0, 10], [10, 25], [25, 25]]);
        assert_eq!(duration(&marks, 1), 15);
        assert_eq!([vec![], vec![7], vec![9, 1], vec![5, 1, 9]].map(median), [0, 7, 5, 5]);
    }

    #[test]
    fn a_workload_that_does_not_fit_is_refused() {
        let workload = |prompt, context, repetitions| ProfileWorkload { prompt, context, repetitions };
        assert!(check(workload(256, 255, 2), 256).is_ok());
        for wrong in [workload(257, 1, 2), workload(1, 256, 2), workload(0, 1, 2), workload(1, 0, 2), workload(1, 1, 1)]
        {
            assert_eq!(check(wrong, 256).unwrap_err().kind, FailureKind::Data, "{wrong:?}");
        }
    }
}
