//! One trial in the worker process: resolve, build, score, time, sample.
//!
//! A healthy worker keeps the model, the reference's states before the head and compressed layers between trials, so a
//! trial recompresses only layers whose settings changed.

mod calibration;
mod ceilings;
mod energy;
mod profile;
mod quality;
mod speed;
mod variant;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::cache::{DEFAULT_BUDGET_BYTES, Store};
use crate::device::{DeviceInfo, DeviceSpec};
use crate::eval::DataError;
use crate::model::{ModelFamily, ModelSource};
use crate::nn::{Llama, NnError};
use crate::recipe::{Plan, Recipe};
use crate::runtime::{ModelStore, Placed, RuntimeError, Sampling};
use crate::study::{
    CardMemoryEstimate, Caution, Ceilings, Disturbance, Failure, FailureKind, Measurements, MemoryEstimate, Phase,
    ProfileReport, ProfileWorkload, SampleWorkload, Speed, StudyEvent, TrialSpec, Workload,
};
use crate::telemetry::{ConditionsProbe, memory};
use crate::worker::serve::{Executor, Sink};
use crate::worker::trial::energy::{Mark, TrialEnergy};
use crate::worker::trial::variant::{Built, measurements};

/// Runs trials of one model on one device.
pub struct TrialExecutor {
    source: ModelSource,
    threads: u16,
    files: Option<PathBuf>,
    open: Option<Open>,
}

/// What stays between trials.
struct Open {
    store: ModelStore,
    reference: Placed,
    tokenizer: Option<tokenizers::Tokenizer>,
    texts: quality::ReferenceTexts,
    calibrations: calibration::CalibrationTexts,
    /// Measured once a worker.
    ceilings: Option<Ceilings>,
}

/// The devices beside the processor that this program can open.
///
/// # Errors
/// When there is none, with what is missing.
pub fn devices() -> Result<Vec<DeviceInfo>, Failure> {
    crate::runtime::devices().map_err(failure)
}

impl TrialExecutor {
    /// An executor that reads the model with its first trial.
    pub fn new(source: ModelSource, threads: u16) -> Self {
        Self { source, threads, files: None, open: None }
    }

    /// Keeps calibrations and compressed layers in the folder `files`, where later workers find them; `None` keeps nothing.
    #[must_use]
    pub fn with_files(mut self, files: Option<PathBuf>) -> Self {
        self.files = files;
        self
    }

    fn open(&mut self, device: DeviceSpec, sink: &TrialSink<'_>) -> Result<&mut Open, Failure> {
        if self.open.is_none() {
            let checkpoint = crate::checkpoint::open(&self.source).map_err(RuntimeError::from).map_err(failure)?;
            let progress = |done, total| sink.progress(Phase::Load, done, total);
            let store = ModelStore::load(checkpoint, device, &progress).map_err(failure)?;
            // What is made of random weights is of no use to later workers.
            let is_model = !matches!(self.source, ModelSource::Shape { .. });
            let files = self.files.as_deref().filter(|_| is_model);
            let store = store.with_files(files.and_then(open_files));
            let reference = store.place().load(store.reference(), &progress).map_err(failure)?;
            self.open = Some(Open {
                store,
                reference,
                tokenizer: None,
                texts: quality::ReferenceTexts::default(),
                calibrations: calibration::CalibrationTexts::default(),
                ceilings: None,
            });
        }
        Ok(self.open.as_mut().expect("it was opened above"))
    }
}

impl Executor for TrialExecutor {
    fn run(&mut self, spec: &TrialSpec, sink: &Sink) -> Result<(Measurements, Vec<Caution>), Failure> {
        let uuid = uuid(spec.device)?;
        let energy = TrialEnergy::begin(spec.device, uuid.as_deref());
        let sink = TrialSink { spec, sink, energy: Some(&energy), uuid: uuid.as_deref() };
        memory::reset_peak();
        let threads = self.threads;
        let probe = ConditionsProbe::start();
        let open = self.open(spec.device, &sink)?;
        let Built { plan, variant, mut report, mut cautions } = open.build(spec, None, &sink)?;
        // What making it took is the report's; the trial's own peak is that of a variant that is there.
        if let Some(report) = &mut report {
            report.peak_rss_bytes = memory::peak_resident_bytes();
        }
        memory::reset_peak();
        open.store.place().forget_peak();

        let is_calibrated = report.as_ref().is_some_and(|report| report.calibration.is_some());
        if let Some(scored) = spec.workload.quality.as_ref().filter(|_| is_calibrated)
            && same_file(plan.calibration.data.as_deref(), &scored.data)
        {
            cautions.push(Caution::CalibratedOnScored);
        }
        let placed = open.put(&variant.model)?;
        let quality = match &spec.workload.quality {
            None => None,
            Some(workload) => Some(open.score(workload, &placed, &sink, &mut cautions)?),
        };
        let dequantized_quality = match &spec.workload.quality {
            Some(workload) if workload.dequantized && has_blocks(&plan) => {
                let plain = open.store.dequantized(&variant, &plan).map_err(failure)?;
                let plain = open.put(&plain)?;
                Some(open.score(workload, &plain, &sink, &mut Vec::new())?)
            }
            _ => None,
        };
        let timed = match &spec.workload.speed {
            None => None,
            Some(workload) => Some(speed::measure(&open.reference, &placed, workload, spec.seed, &sink)?),
        };
        let sample_text = match &spec.workload.sample {
            None => None,
            Some(workload) => Some(open.sample(workload, &placed, spec.seed, &sink)?),
        };
        let mut conditions = probe.finish(threads);
        let stretches = timed.as_ref().map(|timed| &timed.stretches);
        let energy = energy.finish(stretches, spec.workload.speed.as_ref());
        let energy = energy.map_err(|reason| conditions.no_energy = Some(reason)).ok();
        conditions.repeated_sections = timed.as_ref().map_or(0, |timed| timed.repeats);
        cautions.extend(plan_cautions(&plan));
        cautions.extend(timed.as_ref().and_then(|timed| disturbed(&timed.disturbance, timed.repeats)));
        let mut known = measurements(&plan, &variant, report, conditions, Some(&placed));
        known.memory.predicted_peak_bytes = Some(open.predicted_bytes(&plan, &spec.workload));
        known.memory.peak_gpu_bytes = open.store.place().peak_bytes();
        let mut speed = None;
        if let (Some(timed), Some(workload)) = (timed, &spec.workload.speed) {
            // Behind everything that is counted: the ceilings of a card take memory and time of it.
            let limits = open.decode_limits(&placed, workload, timed.launches)?;
            cautions.extend(limits.and_then(|limits| limits.caution(timed.speed.decode.latency_secs.value)));
            speed = Some(Speed { limits, ..timed.speed });
        }
        let measurements = Measurements { quality, dequantized_quality, speed, energy, sample_text, ..known };
        Ok((measurements, cautions))
    }

    fn make(&mut self, spec: &TrialSpec, out: &Path, sink: &Sink) -> Result<(Measurements, Vec<Caution>), Failure> {
        let sink = TrialSink { spec, sink, energy: None, uuid: None };
        memory::reset_peak();
        let threads = self.threads;
        self.open(spec.device, &sink)?.make(spec, out, threads, &sink)
    }

    fn profile(
        &mut self,
        spec: &TrialSpec,
        workload: ProfileWorkload,
        sink: &Sink,
    ) -> Result<(Measurements, Vec<Caution>, ProfileReport), Failure> {
        let uuid = uuid(spec.device)?;
        let sink = TrialSink { spec, sink, energy: None, uuid: uuid.as_deref() };
        memory::reset_peak();
        let threads = self.threads;
        self.open(spec.device, &sink)?.profile(spec, workload, threads, &sink)
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

    /// A model where trials run; the reference is there already.
    fn put(&self, model: &Arc<Llama>) -> Result<Placed, Failure> {
        if Arc::ptr_eq(model, self.reference.host()) {
            return Ok(self.reference.clone());
        }
        self.store.place().put(model).map_err(failure)
    }

    /// What the trial's peak was to be, by what was known before it ran.
    fn predicted_bytes(&self, plan: &Plan, workload: &Workload) -> u64 {
        let graph = self.store.checkpoint().graph();
        match plan.device {
            DeviceSpec::Cpu { .. } => {
                let text = workload.quality.as_ref().and_then(|quality| std::fs::metadata(&quality.data).ok());
                MemoryEstimate::new(plan, graph, workload, text.map(|text| text.len())).running_bytes()
            }
            DeviceSpec::Cuda { .. } => {
                let found = CardMemoryEstimate::new(plan, graph, workload);
                found.peak_bytes() - if self.store.place().has_library() { 0 } else { found.library_bytes }
            }
        }
    }

    fn bos(&self) -> Option<u32> {
        let ModelFamily::Llama(config) = &self.store.checkpoint().graph().family;
        config.bos_token
    }

    fn sample(
        &mut self,
        workload: &SampleWorkload,
        model: &Placed,
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
        let text = model.generate(&prompt, workload.tokens as usize, sampling, &progress).map_err(failure)?;
        sink.check()?;
        let whole: Vec<u32> = prompt.iter().chain(&text).copied().collect();
        tokenizer.decode(&whole, true).map_err(refused)
    }
}

/// The sink with what every step needs of it.
struct TrialSink<'a> {
    spec: &'a TrialSpec,
    sink: &'a Sink,
    /// Absent where nothing is measured.
    energy: Option<&'a TrialEnergy>,
    /// The identity of the GPU, by which sensors know it.
    uuid: Option<&'a str>,
}

impl TrialSink<'_> {
    /// Tells how far a step is; `false` when the trial should end.
    fn progress(&self, phase: Phase, done: u32, total: u32) -> bool {
        self.sink.event(StudyEvent::Progress { trial: self.spec.id, phase, done, total });
        if let Some(energy) = self.energy {
            energy.touch();
        }
        !self.sink.is_cancelled()
    }

    /// The energy so far; `None` where it is not known.
    fn energy_now(&self) -> Option<Mark> {
        self.energy.and_then(TrialEnergy::mark)
    }

    fn check(&self) -> Result<(), Failure> {
        if self.sink.is_cancelled() { Err(failure(RuntimeError::Cancelled)) } else { Ok(()) }
    }
}

fn resolve(recipe: &Recipe, store: &ModelStore, device: DeviceSpec) -> Result<Plan, Failure> {
    let device = DeviceInfo::named(device, "");
    recipe.resolve(store.checkpoint().graph(), &device).map_err(|issues| {
        let text: Vec<String> = issues.iter().map(ToString::to_string).collect();
        Failure::new(FailureKind::Recipe, text.join("\n"))
    })
}

/// The folder of kept results; a variant can be made without.
fn open_files(dir: &Path) -> Option<Store> {
    let store = Store::open(dir, DEFAULT_BUDGET_BYTES);
    store.inspect_err(|error| log::warn!("results are not kept for later: {error}: {}", dir.display())).ok()
}

fn has_blocks(plan: &Plan) -> bool {
    plan.layers.iter().any(|layer| layer.settings.weights.ggml().is_some())
}

/// What disturbed the numbers that count, though they were taken again.
fn disturbed(seen: &Disturbance, repeats: u32) -> Option<Caution> {
    let Disturbance { processes, is_throttled, has_slept } = seen.clone();
    (!seen.is_quiet()).then_some(Caution::Disturbed { processes, is_throttled, has_slept, repeats })
}

fn plan_cautions(plan: &Plan) -> Vec<Caution> {
    let is_kept = |index: usize| plan.layers[index].shape.is_some();
    let count = |keep: &dyn Fn(usize) -> bool| {
        (0..plan.layers.len()).filter(|index| is_kept(*index) && keep(*index)).count() as u32
    };
    let simulated = plan.n_simulated() as u32;
    let masked = count(&|index| plan.layers[index].settings.sparsity.is_some_and(|sparsity| !sparsity.is_bitmask()));
    let mut cautions = Vec::new();
    if simulated > 0 {
        cautions.push(Caution::Simulated { layers: simulated });
    }
    if masked > 0 {
        cautions.push(Caution::Masked { layers: masked });
    }
    cautions
}

/// The identity of the GPU that trials run on; the processor has none.
fn uuid(device: DeviceSpec) -> Result<Option<String>, Failure> {
    if let DeviceSpec::Cpu { .. } = device {
        return Ok(None);
    }
    let found = devices()?.into_iter().find(|info| info.spec == device);
    Ok(found.and_then(|info| info.gpu?.uuid))
}

/// The class and words of a failed step.
#[expect(clippy::needless_pass_by_value, reason = "the shape that map_err wants")]
fn failure(error: RuntimeError) -> Failure {
    let kind = match &error {
        #[cfg(feature = "cuda")]
        RuntimeError::Compress { source, .. } if card_error(source).is_some() => {
            card_error(source).map_or(FailureKind::Device, card_failure)
        }
        RuntimeError::Checkpoint(_)
        | RuntimeError::BrokenWeight { .. }
        | RuntimeError::Nn(NnError::Missing(_) | NnError::Shape(_) | NnError::Stored(_)) => FailureKind::Model,
        RuntimeError::Compress { .. } | RuntimeError::Device { .. } | RuntimeError::NoText => FailureKind::Recipe,
        RuntimeError::NonFinite { .. } => FailureKind::NonFinite,
        RuntimeError::Cancelled => FailureKind::Cancelled,
        #[cfg(feature = "cuda")]
        RuntimeError::Cuda(error) => card_failure(error),
        RuntimeError::File(_) | RuntimeError::Nn(NnError::Context { .. } | NnError::Token { .. }) => FailureKind::Data,
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

/// What a card told while it compressed a layer.
#[cfg(feature = "cuda")]
fn card_error<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a crate::cuda::CudaError> {
    error.source().and_then(|source| source.downcast_ref())
}

/// The class of what happened on a card.
#[cfg(feature = "cuda")]
fn card_failure(error: &crate::cuda::CudaError) -> FailureKind {
    use crate::cuda::CudaError;
    match error {
        CudaError::Memory { .. } => FailureKind::OutOfMemory,
        CudaError::NoDriver | CudaError::OldDriver { .. } | CudaError::NoCard | CudaError::OldCard { .. } => {
            FailureKind::Spawn
        }
        CudaError::Fault(_) | CudaError::Lost(_) | CudaError::Refused(_) => FailureKind::Device,
        CudaError::Unsupported(_) => FailureKind::Recipe,
        CudaError::Tokens(_) => FailureKind::Data,
        CudaError::Weights(_) => FailureKind::Model,
        CudaError::Ended => FailureKind::Cancelled,
    }
}

/// The class and words of a text that cannot be used.
fn data_failure(error: &DataError) -> Failure {
    Failure::new(FailureKind::Data, error.to_string())
}

/// Whether both names lead to the same file, or to files with the same bytes.
fn same_file(a: Option<&Path>, b: &Path) -> bool {
    let Some(a) = a else { return false };
    let place = |path: &Path| std::fs::canonicalize(path).ok();
    let len = |path: &Path| std::fs::metadata(path).map(|data| data.len()).ok();
    let hash = |path: &Path| Some(blake3::hash(&std::fs::read(path).ok()?));
    place(a) == place(b) || (len(a) == len(b) && hash(a) == hash(b))
}

/// Shares the reference without holding on to the store.
fn reference(store: &ModelStore) -> Arc<Llama> {
    Arc::clone(store.reference())
}
