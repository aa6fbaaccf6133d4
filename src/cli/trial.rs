//! One trial in a worker of its own, for `eval`, `bench` and `profile`.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::checkpoint::Checkpoint;
use crate::cli::args::{RunArgs, VariantArgs};
use crate::cli::out::say;
use crate::cli::progress::Progress;
use crate::cli::{checks, open};
use crate::device::{DeviceInfo, DeviceSpec};
use crate::model::ModelGraph;
use crate::recipe::{Plan, Recipe};
use crate::study::{
    Caution, Failure, FailureKind, Measurements, Outcome, ProfileReport, ProfileWorkload, StudyEvent, TrialId,
    TrialSpec, Workload, predicted_peak_bytes,
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

/// Runs one variant on `workload` and waits for its end.
///
/// # Errors
/// When recipe or device cannot be used: nothing was run.
pub(super) fn run(model: &Checkpoint, variant: &VariantArgs, workload: &Workload) -> anyhow::Result<Ran> {
    let (mut runner, specs) = prepare(model, std::slice::from_ref(&variant.recipe), &variant.run, workload)?;
    let spec = specs.into_iter().next().context("a recipe")?;
    let mut progress = Progress::over_trials(1);
    let ran = run_one(&mut runner, spec, &mut progress);
    progress.finish();
    Ok(ran)
}

/// Runs each of `recipes` on `workload`, one after the other in one worker. `ended` hears of each.
///
/// # Errors
/// When one of the recipes, or the device, cannot be used: nothing was run.
pub(super) fn run_all(
    model: &Checkpoint,
    recipes: &[String],
    args: &RunArgs,
    workload: &Workload,
    mut ended: impl FnMut(&Progress, &Ran),
) -> anyhow::Result<Vec<Ran>> {
    let (mut runner, specs) = prepare(model, recipes, args, workload)?;
    let mut progress = Progress::over_trials(specs.len() as u32);
    let mut ran = Vec::new();
    for spec in specs {
        let done = run_one(&mut runner, spec, &mut progress);
        ended(&progress, &done);
        ran.push(done);
    }
    progress.finish();
    Ok(ran)
}

fn run_one(runner: &mut WorkerHandle, spec: TrialSpec, progress: &mut Progress) -> Ran {
    runner.submit(&spec);
    let (result, cautions) = run_to_end(runner, progress);
    Ran { recipe: spec.recipe, result, cautions }
}

/// Takes the passes of `variant` apart.
///
/// # Errors
/// As [`run`].
pub(super) fn profile(
    model: &Checkpoint,
    variant: &VariantArgs,
    workload: ProfileWorkload,
) -> anyhow::Result<Profiled> {
    let (mut runner, specs) =
        prepare(model, std::slice::from_ref(&variant.recipe), &variant.run, &Workload::default())?;
    let spec = specs.into_iter().next().context("a recipe")?;
    runner.submit_profile(&spec, workload);
    let mut progress = Progress::over_trials(1);
    let (result, cautions) = run_to_end(&mut runner, &mut progress);
    progress.finish();
    let silent = || Failure::new(FailureKind::Protocol, "the worker reported no profile");
    let result = result.and_then(|_| runner.take_profile().ok_or_else(silent));
    Ok(Profiled { recipe: spec.recipe, result, cautions })
}

/// A worker for the model, and the trials that it is given.
fn prepare(
    model: &Checkpoint,
    recipes: &[String],
    args: &RunArgs,
    workload: &Workload,
) -> anyhow::Result<(WorkerHandle, Vec<TrialSpec>)> {
    // The worker has the same current folder, and a message with the whole path is a better message.
    let (source, graph) = (model.source().clone(), model.graph());
    checks::workload(workload, graph.family.max_context())?;
    let device = open::device(open::device_spec(&args.device, args.threads)?)?;
    let mut specs = Vec::new();
    for (index, recipe) in recipes.iter().enumerate() {
        let recipe = open::calibrated(open::recipe(recipe, Path::new(""))?, &args.calibration);
        let plan = open::check(&recipe, graph, &device)?;
        say_memory(&plan, graph, &device, workload);
        // Trial 0 is the reference in every study.
        let id = TrialId(if recipe == Recipe::reference() { 0 } else { index as u32 + 1 });
        specs.push(TrialSpec { id, recipe, device: device.spec, workload: workload.clone(), seed: args.seed });
    }
    Ok((WorkerHandle::new(WorkerConfig::new(source, device.spec)?), specs))
}

/// Says how much memory the trial takes at its most, and warns when less is free.
fn say_memory(plan: &Plan, graph: &ModelGraph, device: &DeviceInfo, workload: &Workload) {
    let text = workload.quality.as_ref().and_then(|quality| std::fs::metadata(&quality.data).ok());
    let needed = predicted_peak_bytes(plan, graph, workload, text.map(|text| text.len()));
    let free = match device.spec {
        DeviceSpec::Cpu { .. } => memory::available_bytes(),
        DeviceSpec::Cuda { .. } => device.memory_bytes,
    };
    let beside = free.map_or_else(String::new, |free| format!(" of {}", units::bytes(free)));
    log::info!("predicted peak memory: {}{beside}", units::bytes(needed));
    if let Some(free) = free.filter(|free| needed > *free) {
        let (needed, free) = (units::bytes(needed), units::bytes(free));
        say(&match device.spec {
            DeviceSpec::Cpu { .. } => format!(
                "caution: the trial takes about {needed} and {free} are free: the system may end it; choose smaller \
                 formats, fewer calibration windows or a smaller model"
            ),
            DeviceSpec::Cuda { .. } => format!(
                "caution: the trial takes about {needed} of the card's memory, which is {free}: it may not fit; choose \
                 smaller formats, a shorter prompt or context, or a smaller model"
            ),
        });
    }
}

fn run_to_end(runner: &mut dyn Runner, progress: &mut Progress) -> (Result<Box<Measurements>, Failure>, Vec<Caution>) {
    let began = Instant::now();
    loop {
        let Some(event) = runner.next_event(PATIENCE) else { continue };
        progress.observe(&event);
        if let StudyEvent::TrialFinished { outcome, cautions, .. } = event {
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
