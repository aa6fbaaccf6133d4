//! One trial in the worker process: resolve, build, score, time, sample.
//!
//! A healthy worker keeps the model, the reference's states before the head and compressed layers between trials, so a
//! trial recompresses only layers whose settings changed.

mod quality;
mod speed;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::device::{DeviceInfo, DeviceSpec};
use crate::eval::DataError;
use crate::model::{ModelFamily, ModelSource, StoredFormat};
use crate::nn::{Llama, NnError};
use crate::recipe::{Plan, Recipe, WeightFormat};
use crate::runtime::{ModelStore, RuntimeError, Sampling, Variant, generate};
use crate::study::{
    Caution, Conditions, Failure, FailureKind, Measurements, Memory, Phase, SampleWorkload, StudyEvent, TrialSpec,
};
use crate::telemetry::{ConditionsProbe, memory};
use crate::worker::serve::{Executor, Sink};

/// Runs trials of one model on one device.
pub struct TrialExecutor {
    source: ModelSource,
    threads: u16,
    open: Option<Open>,
}

/// What stays between trials.
struct Open {
    store: ModelStore,
    tokenizer: Option<tokenizers::Tokenizer>,
    texts: quality::ReferenceTexts,
}

impl TrialExecutor {
    /// An executor that reads the model with its first trial.
    pub fn new(source: ModelSource, threads: u16) -> Self {
        Self { source, threads, open: None }
    }

    fn open(&mut self, device: DeviceSpec, sink: &TrialSink<'_>) -> Result<&mut Open, Failure> {
        if self.open.is_none() {
            let checkpoint = crate::checkpoint::open(&self.source).map_err(RuntimeError::from).map_err(failure)?;
            let progress = |done, total| sink.progress(Phase::Load, done, total);
            let store = ModelStore::load(checkpoint, device, &progress).map_err(failure)?;
            self.open = Some(Open { store, tokenizer: None, texts: quality::ReferenceTexts::default() });
        }
        Ok(self.open.as_mut().expect("it was opened above"))
    }
}

impl Executor for TrialExecutor {
    fn run(&mut self, spec: &TrialSpec, sink: &Sink) -> Result<(Measurements, Vec<Caution>), Failure> {
        let sink = TrialSink { spec, sink };
        memory::reset_peak();
        let threads = self.threads;
        let probe = ConditionsProbe::start();
        let open = self.open(spec.device, &sink)?;
        let plan = resolve(&spec.recipe, &open.store, spec.device)?;
        let variant = build(&mut open.store, &plan, &sink)?;
        let mut cautions = Vec::new();

        let quality = match &spec.workload.quality {
            None => None,
            Some(workload) => Some(open.score(workload, &variant.model, &sink, &mut cautions)?),
        };
        let dequantized_quality = match &spec.workload.quality {
            Some(workload) if workload.dequantized && has_blocks(&plan) => {
                let plain = build(&mut open.store, &plan.dequantized(), &sink)?;
                Some(open.score(workload, &plain.model, &sink, &mut Vec::new())?)
            }
            _ => None,
        };
        let speed = match &spec.workload.speed {
            None => None,
            Some(workload) => Some(speed::measure(&open.store, &variant, workload, spec.seed, &sink)?),
        };
        let sample_text = match &spec.workload.sample {
            None => None,
            Some(workload) => Some(open.sample(workload, &variant.model, spec.seed, &sink)?),
        };
        let conditions = probe.finish(threads);
        cautions.extend(plan_cautions(&plan, &open.store, &conditions, speed.is_some()));
        let memory = Memory {
            weight_bytes: plan.weight_bytes(),
            held_bytes: variant.held_bytes(),
            peak_rss_bytes: memory::peak_resident_bytes(),
            peak_gpu_bytes: None,
        };
        let measurements = Measurements {
            quality,
            dequantized_quality,
            speed,
            memory,
            bits_per_weight: plan.bits_per_weight(),
            simulated_layers: plan.n_simulated() as u32,
            products: variant.products(),
            compressed_layers: variant.compressed_layers,
            compress_secs: variant.compress_secs,
            sample_text,
            conditions,
        };
        Ok((measurements, cautions))
    }
}

impl Open {
    /// The tokenizer, read on first use: a trial that only times needs none.
    fn tokenizer(&mut self) -> Result<&tokenizers::Tokenizer, Failure> {
        if self.tokenizer.is_none() {
            let tokenizer = self.store.checkpoint().tokenizer().map_err(RuntimeError::from).map_err(failure)?;
            self.tokenizer = Some(tokenizer);
        }
        Ok(self.tokenizer.as_ref().expect("it was read above"))
    }

    fn bos(&self) -> Option<u32> {
        let ModelFamily::Llama(config) = &self.store.checkpoint().graph().family;
        config.bos_token
    }

    fn sample(
        &mut self,
        workload: &SampleWorkload,
        model: &Llama,
        seed: u64,
        sink: &TrialSink<'_>,
    ) -> Result<String, Failure> {
        let bos = self.bos();
        let tokenizer = self.tokenizer()?;
        let refused = |error: tokenizers::Error| Failure::new(FailureKind::Model, format!("tokenize: {error}"));
        let prompt = tokenizer.encode_fast(workload.prompt.as_str(), false).map_err(refused)?;
        let prompt: Vec<u32> = bos.into_iter().chain(prompt.get_ids().iter().copied()).collect();
        if prompt.is_empty() {
            return Err(Failure::new(FailureKind::Data, "the sample prompt is empty; give it a word"));
        }
        let sampling = Sampling { temperature: workload.temperature, seed };
        let progress = |done| sink.progress(Phase::Sample, done, workload.tokens);
        let text = generate(model, &prompt, workload.tokens as usize, sampling, &progress).map_err(failure)?;
        sink.check()?;
        let whole: Vec<u32> = prompt.iter().chain(&text).copied().collect();
        tokenizer.decode(&whole, true).map_err(refused)
    }
}

/// The sink with what every step needs of it.
struct TrialSink<'a> {
    spec: &'a TrialSpec,
    sink: &'a Sink,
}

impl TrialSink<'_> {
    /// Tells how far a step is; `false` when the trial should end.
    fn progress(&self, phase: Phase, done: u32, total: u32) -> bool {
        self.sink.event(StudyEvent::Progress { trial: self.spec.id, phase, done, total });
        !self.sink.is_cancelled()
    }

    fn check(&self) -> Result<(), Failure> {
        if self.sink.is_cancelled() { Err(failure(RuntimeError::Cancelled)) } else { Ok(()) }
    }
}

fn resolve(recipe: &Recipe, store: &ModelStore, device: DeviceSpec) -> Result<Plan, Failure> {
    let device = DeviceInfo { spec: device, name: String::new(), memory_bytes: None, unavailable: None };
    recipe.resolve(store.checkpoint().graph(), &device).map_err(|issues| {
        let text: Vec<String> = issues.iter().map(ToString::to_string).collect();
        Failure::new(FailureKind::Recipe, text.join("\n"))
    })
}

fn build(store: &mut ModelStore, plan: &Plan, sink: &TrialSink<'_>) -> Result<Variant, Failure> {
    let last = AtomicU32::new(u32::MAX);
    let progress = |done: u32, total: u32| {
        // Both cores ask; one event a finished layer is enough.
        if last.swap(done, Ordering::Relaxed) == done {
            return !sink.sink.is_cancelled();
        }
        sink.progress(Phase::Compress, done, total)
    };
    store.build(plan, &progress).map_err(failure)
}

fn has_blocks(plan: &Plan) -> bool {
    plan.layers.iter().any(|layer| layer.settings.weights.ggml().is_some())
}

fn plan_cautions(plan: &Plan, store: &ModelStore, conditions: &Conditions, timed: bool) -> Vec<Caution> {
    let graph = store.checkpoint().graph();
    let count = |keep: &dyn Fn(usize) -> bool| (0..plan.layers.len()).filter(|index| keep(*index)).count() as u32;
    let simulated = plan.n_simulated() as u32;
    let masked = count(&|index| plan.layers[index].settings.sparsity.is_some());
    let widened = count(&|index| {
        plan.layers[index].settings.weights == WeightFormat::Native
            && matches!(graph.layers[index].stored, StoredFormat::F16 | StoredFormat::Bf16)
    });
    let mut cautions = Vec::new();
    if simulated > 0 {
        cautions.push(Caution::Simulated { layers: simulated });
    }
    if masked > 0 {
        cautions.push(Caution::Masked { layers: masked });
    }
    if widened > 0 {
        cautions.push(Caution::Widened { layers: widened });
    }
    if timed && !conditions.busy_processes.is_empty() {
        cautions.push(Caution::Disturbed { processes: conditions.busy_processes.clone() });
    }
    cautions
}

/// The class and words of a failed step.
#[expect(clippy::needless_pass_by_value, reason = "the shape that map_err wants")]
fn failure(error: RuntimeError) -> Failure {
    let kind = match &error {
        RuntimeError::Checkpoint(_) | RuntimeError::Nn(NnError::Missing(_)) => FailureKind::Model,
        RuntimeError::Compress { .. } | RuntimeError::Device { .. } => FailureKind::Recipe,
        RuntimeError::NonFinite { .. } => FailureKind::NonFinite,
        RuntimeError::Cancelled => FailureKind::Cancelled,
        RuntimeError::Nn(NnError::Context { .. } | NnError::Token { .. }) => FailureKind::Data,
        RuntimeError::Nn(NnError::Candle(error)) | RuntimeError::Candle(error) => {
            if error.to_string().contains("out of memory") { FailureKind::OutOfMemory } else { FailureKind::Panicked }
        }
    };
    let hint = match kind {
        FailureKind::NonFinite => "; the model or the recipe makes numbers overflow. Try a milder recipe",
        FailureKind::OutOfMemory => "; choose a smaller model, a shorter context or smaller formats",
        _ => "",
    };
    Failure::new(kind, format!("{error}{hint}"))
}

/// The class and words of a text that cannot be used.
fn data_failure(error: &DataError) -> Failure {
    Failure::new(FailureKind::Data, error.to_string())
}

/// Shares the reference without holding on to the store.
fn reference(store: &ModelStore) -> Arc<Llama> {
    Arc::clone(store.reference())
}
