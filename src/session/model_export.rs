//! A variant as a model that other programs load: what only a worker can make is made by one first.

use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::cache::{VariantError, VariantFile};
use crate::checkpoint::Checkpoint;
use crate::device::DeviceInfo;
use crate::export::{
    self, Existing, ExportError, ExportSummary, ModelLayout, Weights, compressed_tensors, gguf, safetensors,
};
use crate::model::StoredFormat;
use crate::recipe::{Recipe, RecipeIssue};
use crate::study::{Caution, Failure, FailureKind, Outcome, StudyEvent, TrialId, TrialSpec, Workload};
use crate::worker::Runner as _;
use crate::worker::host::{WorkerConfig, WorkerHandle};

/// Between two looks for events, and at whether to stop.
const PATIENCE: Duration = Duration::from_millis(200);
/// How long a worker may take to end when it is asked to.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// What is written, and where.
#[derive(Debug, Clone, Copy)]
pub struct ModelExport<'a> {
    /// The model.
    pub source: &'a Checkpoint,
    /// The variant of it.
    pub recipe: &'a Recipe,
    /// Where it is made, if a worker must make it.
    pub device: &'a DeviceInfo,
    /// The layout of the files.
    pub layout: ModelLayout,
    /// The dtype of all tensors; for [`ModelLayout::Safetensors`] alone.
    pub dtype: Option<StoredFormat>,
    /// The file or folder.
    pub out: &'a Path,
    /// What to do when it exists.
    pub existing: Existing,
}

/// How far an export is.
#[derive(Debug, Clone, Copy)]
pub enum ExportStep<'a> {
    /// A worker makes the variant; its events are those of a trial.
    Making(&'a StudyEvent),
    /// So many bytes of all are written.
    Writing {
        /// Bytes written.
        done: u64,
        /// Bytes in all.
        total: u64,
    },
}

/// Why a variant is not exported. Nothing is left behind in any case.
#[derive(Debug, thiserror::Error)]
pub enum ModelExportError {
    /// The recipe does not fit the model or the device.
    #[error("the recipe cannot be used: {}", listed(.0))]
    Recipe(Vec<RecipeIssue>),
    /// The layout cannot hold the variant; known before any work.
    #[error("export the model: {}", .0.join("; "))]
    Refused(Vec<String>),
    /// The worker cannot be started, or what it makes has no place.
    #[error("make the variant: {0}")]
    Worker(#[from] io::Error),
    /// The worker did not make it.
    #[error("make the variant: {}: {}", .0.kind.label(), .0.message)]
    Failed(Failure),
    /// It cannot be written.
    #[error(transparent)]
    Export(#[from] ExportError),
}

impl From<VariantError> for ModelExportError {
    fn from(error: VariantError) -> Self {
        Self::Export(error.into())
    }
}

fn listed(issues: &[RecipeIssue]) -> String {
    issues.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// Writes the variant on this thread; ends early once `stopping` is set.
///
/// # Errors
/// [`ModelExportError`]. What the layout cannot hold and a target that cannot be taken are found before any work.
pub fn export_model(
    job: &ModelExport<'_>,
    stopping: &AtomicBool,
    observe: &mut dyn FnMut(ExportStep<'_>),
) -> Result<ExportSummary, ModelExportError> {
    let graph = job.source.graph();
    let plan = job.recipe.resolve(graph, job.device).map_err(ModelExportError::Recipe)?;
    let judged = export::expressible(&plan, graph, job.layout);
    if !judged.refusals.is_empty() {
        return Err(ModelExportError::Refused(judged.refusals));
    }
    export::check_target(job.source, job.layout, job.out, job.existing)?;
    let mut summary = if export::needs_worker(&plan) {
        // Beside the target: there must be room for the variant there anyway.
        let beside = job.out.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let folder = tempfile::Builder::new().prefix(".trimtab-").tempdir_in(beside)?;
        let file = folder.path().join("variant");
        let cautions = make(job, &file, stopping, observe)?;
        let variant = VariantFile::open(&file)?;
        let mut summary = write(job, Weights::Variant(&variant), stopping, observe)?;
        summary.notes.extend(cautions.iter().filter(|caution| is_of_making(caution)).map(ToString::to_string));
        summary
    } else {
        let settings: Vec<_> = plan.layers.iter().map(|layer| layer.settings).collect();
        write(job, Weights::Settings(&settings), stopping, observe)?
    };
    summary.notes.extend(export::unsaid(&plan));
    Ok(summary)
}

/// Runs a worker until the variant is at `file`; gives what it cautions of.
fn make(
    job: &ModelExport<'_>,
    file: &Path,
    stopping: &AtomicBool,
    observe: &mut dyn FnMut(ExportStep<'_>),
) -> Result<Vec<Caution>, ModelExportError> {
    let device = job.device.spec;
    let recipe = job.recipe.clone();
    let spec = TrialSpec { id: TrialId(1), recipe, device, workload: Workload::default(), seed: 0 };
    let mut runner = WorkerHandle::new(WorkerConfig::new(job.source.source().clone(), device)?);
    runner.submit_make(&spec, file);
    let mut is_ending = false;
    loop {
        if !is_ending && stopping.load(Ordering::Relaxed) {
            is_ending = true;
            runner.cancel(STOP_GRACE);
        }
        let Some(event) = runner.next_event(PATIENCE) else { continue };
        observe(ExportStep::Making(&event));
        let StudyEvent::TrialFinished { outcome, cautions, .. } = event else { continue };
        return match outcome {
            Outcome::Done(_) => Ok(cautions),
            Outcome::Failed(failure) if failure.kind == FailureKind::Cancelled => Err(ExportError::Cancelled.into()),
            Outcome::Failed(failure) => Err(ModelExportError::Failed(failure)),
        };
    }
}

/// Whether a caution speaks of how the variant was made, and not of how it was measured.
fn is_of_making(caution: &Caution) -> bool {
    matches!(caution, Caution::ThinCalibration { .. } | Caution::ShortCalibration { .. } | Caution::Noted { .. })
}

fn write(
    job: &ModelExport<'_>,
    weights: Weights<'_>,
    stopping: &AtomicBool,
    observe: &mut dyn FnMut(ExportStep<'_>),
) -> Result<ExportSummary, ExportError> {
    let progress = &mut |done, total| {
        observe(ExportStep::Writing { done, total });
        if stopping.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let ModelExport { source, out, existing, .. } = *job;
    match job.layout {
        ModelLayout::Safetensors => safetensors::write(source, weights, job.dtype, out, existing, progress),
        ModelLayout::CompressedTensors => compressed_tensors::write(source, weights, out, existing, progress),
        ModelLayout::Gguf => gguf::write(source, weights, out, existing, progress),
    }
}
