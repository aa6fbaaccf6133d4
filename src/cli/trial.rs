//! One trial in a worker of its own, for `eval` and `bench`.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::cli::args::VariantArgs;
use crate::cli::out::say;
use crate::cli::progress::Progress;
use crate::cli::{checks, open};
use crate::model::{ModelGraph, ModelSource};
use crate::recipe::Recipe;
use crate::study::{Caution, Failure, Measurements, Outcome, StudyEvent, TrialId, TrialSpec, Workload};
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

/// Runs `variant` of the model on `workload` and waits for its end.
///
/// # Errors
/// When model, recipe or device cannot be used: nothing was run.
pub(super) fn run(model: &Path, variant: &VariantArgs, workload: Workload) -> anyhow::Result<Ran> {
    let (source, graph) = headers(model)?;
    checks::workload(&workload, graph.family.max_context())?;
    let recipe = open::calibrated(open::recipe(&variant.recipe, Path::new(""))?, &variant.calibration);
    let device = open::device(open::device_spec(&variant.device, variant.threads)?)?;
    open::check(&recipe, &graph, &device)?;
    // Trial 0 is the reference in every study.
    let id = TrialId(u32::from(recipe != Recipe::reference()));
    let spec = TrialSpec { id, recipe, device: device.spec, workload, seed: variant.seed };
    let mut runner = WorkerHandle::new(WorkerConfig::new(source, device.spec)?);
    let (result, cautions) = run_to_end(&mut runner, &spec);
    Ok(Ran { recipe: spec.recipe, result, cautions })
}

fn headers(model: &Path) -> anyhow::Result<(ModelSource, ModelGraph)> {
    let checkpoint = open::model(model)?;
    // The worker has the same current folder, and a message with the whole path is a better message.
    Ok((checkpoint.source().clone(), checkpoint.graph().clone()))
}

fn run_to_end(runner: &mut dyn Runner, spec: &TrialSpec) -> (Result<Box<Measurements>, Failure>, Vec<Caution>) {
    let mut progress = Progress::over_trials(1);
    let began = Instant::now();
    runner.submit(spec);
    loop {
        let Some(event) = runner.next_event(PATIENCE) else { continue };
        progress.observe(&event);
        if let StudyEvent::TrialFinished { outcome, cautions, .. } = event {
            progress.finish();
            log::info!("the trial took {}", crate::units::duration(began.elapsed().as_secs_f64()));
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
