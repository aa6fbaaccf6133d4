//! Files that the window writes, each on the thread of its task.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use log::Level;

use crate::app::app::App;
use crate::app::command::ExportKind;
use crate::app::words;
use crate::checkpoint;
use crate::device::DeviceInfo;
use crate::export::{Existing, ExportSummary, ModelLayout, profile, report, tables};
use crate::model::ModelSource;
use crate::recipe::Recipe;
use crate::session::{ModelExport, ModelState, export_model};
use crate::study::{ProfileReport, Study, journal};

/// What an export writes from. Made in the frame, so it is small; what is large is read on the task's thread.
enum Source {
    Recipe(String),
    Journal(PathBuf),
    Study(Box<Study>),
    Model(Box<Variant>),
    /// With the title of its timeline.
    Profile(Arc<ProfileReport>, String),
}

/// A variant of the open model.
struct Variant {
    model: ModelSource,
    recipe: Recipe,
    device: DeviceInfo,
}

impl App {
    /// Begins to write a file.
    pub(super) fn export(&mut self, kind: ExportKind, path: PathBuf, existing: Existing) {
        let Some(source) = self.export_source(kind) else {
            return self.notices.push(Level::Warn, words::current().shell.needs_model.to_owned());
        };
        let shown = path.display().to_string();
        self.notices.push(Level::Info, (words::current().shell.exporting)(&shown));
        let started = self.tasks.export(path, move |path| write(kind, source, path, existing));
        self.report(started);
    }

    fn export_source(&self, kind: ExportKind) -> Option<Source> {
        let draft = self.editor.draft();
        Some(match (kind, self.session.model(), self.session.journal()) {
            (ExportKind::Recipe, ..) => Source::Recipe(draft.recipe.to_toml()),
            (ExportKind::ProfileTrace | ExportKind::ProfileCsv, model, _) => {
                let profiling = self.session.profiling()?;
                let name = if let ModelState::Open(model) = model { model.graph.name.as_str() } else { "" };
                let title = format!("{name}: {}", profiling.request.recipe.name);
                Source::Profile(profiling.report.clone()?, title)
            }
            (kind, ModelState::Open(model), _) if layout(kind).is_some() => {
                let recipe = draft.recipe.clone().calibrated_on(&self.prefs.sweep.calibration);
                let model = model.source.clone();
                Source::Model(Box::new(Variant { model, recipe, device: self.device() }))
            }
            (kind, ..) if layout(kind).is_some() => return None,
            (_, _, Some(journal)) => Source::Journal(journal.to_owned()),
            (_, _, None) => Source::Study(Box::new(self.session.study().clone())),
        })
    }
}

/// Writes the file; returns what to say of it.
fn write(kind: ExportKind, source: Source, path: &Path, existing: Existing) -> Result<String, String> {
    let text = match source {
        Source::Recipe(text) => text,
        Source::Model(variant) => return write_model(kind, &variant, path, existing),
        Source::Profile(report, title) if kind == ExportKind::ProfileTrace => profile::trace(&report, &title),
        Source::Profile(report, _) => profile::csv(&report),
        Source::Journal(file) => table(kind, &journal::read_study(&file).map_err(|error| error.to_string())?.0),
        Source::Study(study) => table(kind, &study),
    };
    if existing == Existing::Refuse && path.symlink_metadata().is_ok() {
        return Err((words::current().shell.exists)(&path.display().to_string()));
    }
    tables::write(path, text.as_bytes()).map_err(|error| error.to_string())?;
    Ok(path.display().to_string())
}

fn table(kind: ExportKind, study: &Study) -> String {
    match kind {
        ExportKind::TrialsCsv => tables::csv(study),
        ExportKind::TrialsJsonLines => tables::json_lines(study),
        _ => report::html(study),
    }
}

/// The layout of an export of the model; `None` of other files.
fn layout(kind: ExportKind) -> Option<ModelLayout> {
    Some(match kind {
        ExportKind::Safetensors => ModelLayout::Safetensors,
        ExportKind::Gguf => ModelLayout::Gguf,
        ExportKind::CompressedTensors => ModelLayout::CompressedTensors,
        ExportKind::Recipe
        | ExportKind::TrialsCsv
        | ExportKind::TrialsJsonLines
        | ExportKind::Report
        | ExportKind::ProfileTrace
        | ExportKind::ProfileCsv => return None,
    })
}

/// Writes the variant; a worker makes it first where that is needed. Begun, it goes on to its end.
fn write_model(kind: ExportKind, variant: &Variant, path: &Path, existing: Existing) -> Result<String, String> {
    let source = checkpoint::open(&variant.model).map_err(|error| error.to_string())?;
    let Some(layout) = layout(kind) else { return Err(words::current().shell.needs_model.to_owned()) };
    let is_file = layout == ModelLayout::Gguf;
    let job = ModelExport {
        source: &source,
        recipe: &variant.recipe,
        device: &variant.device,
        layout,
        dtype: None,
        out: path,
        // A dialog asks about files, not about folders.
        existing: if is_file { existing } else { Existing::Refuse },
    };
    let written = export_model(&job, &AtomicBool::new(false), &mut |_| {});
    let ExportSummary { path, bytes, notes } = written.map_err(|error| error.to_string())?;
    let mut said = format!("{} ({})", path.display(), crate::units::bytes(bytes));
    for note in notes {
        said.push_str("; ");
        said.push_str(&note);
    }
    Ok(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_only_when_the_user_agreed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mine.toml");
        let save = |existing| write(ExportKind::Recipe, Source::Recipe("new".to_owned()), &path, existing);
        save(Existing::Refuse).unwrap();
        std::fs::write(&path, "mine").unwrap();
        assert!(save(Existing::Refuse).unwrap_err().contains("exists already"));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
        save(Existing::Replace).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "new");
    }
}
