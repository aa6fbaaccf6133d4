//! `trimtab export`: a variant as a model that other programs load.

use std::io::IsTerminal as _;
use std::path::Path;

use anyhow::{Context as _, bail};
use indicatif::{ProgressBar, ProgressStyle};

use crate::cli::args::{DtypeArg, ExportArgs, ExportFormat};
use crate::cli::interrupt::stop_on_interrupt;
use crate::cli::out::{Out, say};
use crate::cli::progress::Progress;
use crate::cli::{Verdict, compression, open};
use crate::device::DeviceSpec;
use crate::export::{Existing, ModelLayout};
use crate::model::StoredFormat;
use crate::session::{ExportStep, ModelExport, export_model};
use crate::study::{Outcome, StudyEvent};
use crate::units;

pub(super) fn run(args: &ExportArgs, out: &mut Out) -> anyhow::Result<Verdict> {
    let layout = ModelLayout::from(args.format);
    if args.dtype.is_some() && layout != ModelLayout::Safetensors {
        bail!("--dtype is for safetensors; elsewhere each tensor has the type that the recipe names");
    }
    let checkpoint = open::model(&args.model)?;
    let recipe = open::calibrated(open::recipe(&args.recipe, Path::new(""))?, &args.calibration);
    let device = open::device(DeviceSpec::all_cores())?;
    open::check(&recipe, checkpoint.graph(), &device)?;
    let job = ModelExport {
        source: &checkpoint,
        recipe: &recipe,
        device: &device,
        layout,
        dtype: args.dtype.map(StoredFormat::from),
        out: &args.out,
        existing: if args.replace { Existing::Replace } else { Existing::Refuse },
    };
    let stopping = stop_on_interrupt().context("listen for interrupts")?;
    let mut shown = Shown { making: None, bar: None };
    let written = export_model(&job, &stopping, &mut |step| shown.observe(step));
    shown.finish();
    let written = written?;
    for note in &written.notes {
        say(&format!("note: {note}"));
    }
    say(&format!("wrote {} and read it back", units::bytes(written.bytes)));
    out.data(&written.path.display().to_string())?;
    Ok(Verdict::Done)
}

/// What is shown of an export on its way: first of the making, then of the writing.
struct Shown {
    making: Option<Progress>,
    bar: Option<ProgressBar>,
}

impl Shown {
    fn observe(&mut self, step: ExportStep<'_>) {
        match step {
            ExportStep::Making(event) => {
                self.making.get_or_insert_with(|| Progress::over_trials(1)).observe(event);
                if let StudyEvent::TrialFinished { outcome: Outcome::Done(measurements), .. } = event {
                    self.finish();
                    for (name, line) in compression::lines(measurements) {
                        say(&format!("{name:<11} {line}"));
                    }
                }
            }
            ExportStep::Writing { done, total } => {
                let bar = self.bar.get_or_insert_with(progress_bar);
                bar.set_length(total);
                bar.set_position(done);
            }
        }
    }

    fn finish(&mut self) {
        if let Some(making) = self.making.take() {
            making.finish();
        }
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

/// A bar on a terminal, nothing elsewhere: writing takes seconds.
fn progress_bar() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:24} {binary_bytes} of {binary_total_bytes}, {eta} left");
    ProgressBar::new(0).with_style(style.expect("the template is right"))
}

impl From<ExportFormat> for ModelLayout {
    fn from(format: ExportFormat) -> Self {
        match format {
            ExportFormat::Safetensors => Self::Safetensors,
            ExportFormat::CompressedTensors => Self::CompressedTensors,
            ExportFormat::Gguf => Self::Gguf,
        }
    }
}

impl From<DtypeArg> for StoredFormat {
    fn from(dtype: DtypeArg) -> Self {
        match dtype {
            DtypeArg::F32 => Self::F32,
            DtypeArg::F16 => Self::F16,
            DtypeArg::Bf16 => Self::Bf16,
        }
    }
}
