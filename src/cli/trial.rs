//! One trial in a worker of its own, for `eval`, `bench` and `profile`.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::cli::args::VariantArgs;
use crate::cli::out::say;
use crate::cli::progress::Progress;
use crate::cli::{checks, open};
use crate::model::{ModelGraph, ModelSource};
use crate::recipe::{Plan, Recipe};
use crate::study::{
    Caution, Failure, FailureKind, Measurements, MemoryEstimate, Outcome, ProfileReport, ProfileWorkload, StudyEvent,
    TrialId, TrialSpec, Workload,
};
use crate::telemetry::memory;
use crate::units;
use crate::worker::Runner;
use crate::worker::host::{WorkerConfig, WorkerHandle};

/// Between two looks for events.
const PATIENCE: Duration = Duration::from_millis(500);

/// What came of the trial.
pub(super) struct Ran {
    /// Its recipe.
    pub(super) recipe: Recipe,
    /// Everything measured, or why not.
    pub(super) result: Result<Box<Measurements>, Failure>,
    /// What the reader of the numbers must know.
    pub(super) cautions: Vec<Caution>,
}

/// What came of profiling.
pub(super) struct Profiled {
    /// The recipe.
    pub(super) recipe: Recipe,
    /// Where the time goes, or why that is not known.
    pub(super) result: Result<Box<ProfileReport>, Failure>,
    /// What the reader of the numbers must know.
    pub(super) cautions: Vec<Caution>,
}

/// Runs `variant` of the model on `workload` and waits for its end.
///
/// # Errors
/// When model, recipe or device cannot be used: nothing was run.
pub(super) fn run(model: &Path, variant: &VariantArgs, workload: Workload) -> anyhow::Result<Ran> {
    let (mut runner, spec) = prepare(model, variant, workload)?;
    runner.submit(&spec);
    let (result, cautions) = run_to_end(&mut runner);
    Ok(Ran { recipe: spec.recipe, result, cautions })
}

/// Takes the passes of `variant` apart.
///
/// # Errors
/// As [`run`].
pub(super) fn profile(model: &Path, variant: &VariantArgs, workload: ProfileWorkload) -> anyhow::Result<Profiled> {
    let (mut runner, spec) = prepare(model, variant, Workload::default())?;
    runner.submit_profile(&spec, workload);
    let (result, cautions) = run_to_end(&mut runner);
    let silent = || Failure::new(FailureKind::Protocol, "the worker reported no profile");
    let result = result.and_then(|_| runner.take_profile().ok_or_else(silent));
    Ok(Profiled { recipe: spec.recipe, result, cautions })
}

/// A worker for the model, and the trial that it is given.
fn prepare(model: &Path, variant: &VariantArgs, workload: Workload) -> anyhow::Result<(WorkerHandle, TrialSpec)> {
    let (source, graph) = headers(model)?;
    checks::workload(&workload, graph.family.max_context())?;
    let recipe = open::calibrated(open::recipe(&variant.recipe, Path::new(""))?, &variant.calibration);
    let device = open::device(open::device_spec(&variant.device, variant.threads)?)?;
    let plan = open::check(&recipe, &graph, &device)?;
    say_memory(&plan, &graph, &workload);
    // Trial 0 is the reference in every study.
    let id = TrialId(u32::from(recipe != Recipe::reference()));
    let spec = TrialSpec { id, recipe, device: device.spec, workload, seed: variant.seed };
    Ok((WorkerHandle::new(WorkerConfig::new(source, device.spec)?), spec))
}

/// Says how much memory the trial takes at its most, and warns when less is free.
fn say_memory(plan: &Plan, graph: &ModelGraph, workload: &Workload) {
    let text = workload.quality.as_ref().and_then(|quality| std::fs::metadata(&quality.data).ok());
    let needed = MemoryEstimate::new(plan, graph, workload, text.map(|text| text.len())).peak_bytes();
    let free = memory::available_bytes();
    let beside = free.map_or_else(String::new, |free| format!(" of {} free", units::bytes(free)));
    log::info!("predicted peak memory: {}{beside}", units::bytes(needed));
    if let Some(free) = free.filter(|free| needed > *free) {
        say(&format!(
            "caution: the trial takes about {} and {} are free: the system may end it; choose smaller formats, fewer \
             calibration windows or a smaller model",
            units::bytes(needed),
            units::bytes(free)
        ));
    }
}

fn headers(model: &Path) -> anyhow::Result<(ModelSource, ModelGraph)> {
    let checkpoint = open::model(model)?;
    // The worker has the same current folder, and a message with the whole path is a better message.
    Ok((checkpoint.source().clone(), checkpoint.graph().clone()))
}

fn run_to_end(runner: &mut dyn Runner) -> (Result<Box<Measurements>, Failure>, Vec<Caution>) {
    let mut progress = Progress::over_trials(1);
    let began = Instant::now();
    loop {
        let Some(event) = runner.next_event(PATIENCE) else { continue };
        progress.observe(&event);
        if let StudyEvent::TrialFinished { outcome, cautions, .. } = event {
            progress.finish();
            log::info!("the trial took {}", units::duration(began.elapsed().as_secs_f64()));
            let result = match outcome {
                Outcome::Done(measurements) => Ok(measurements),
                Outcome::Failed(failure) => Err(failure),
            };
            return (result, cautions);
        }
    }
}

/// Says on standard error what the reader of the numbers must know.
pub(super) fn say_cautions(cautions: &[Caution]) {
    for caution in cautions {
        say(&format!("caution: {caution}"));
    }
}
