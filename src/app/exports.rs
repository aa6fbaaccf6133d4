//! Files that the window writes, each on the thread of its task.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use log::Level;

use crate::app::app::App;
use crate::app::command::ExportKind;
use crate::app::words;
use crate::checkpoint;
use crate::export::{Existing, ExportSummary, gguf, report, safetensors, tables};
use crate::model::ModelSource;
use crate::recipe::LayerSettings;
use crate::session::ModelState;
use crate::study::{Study, journal};

/// What an export writes from. Made in the frame, so it is small; what is large is read on the task's thread.
enum Source {
    Recipe(String),
    Journal(PathBuf),
    Study(Box<Study>),
    Model(ModelSource, Vec<LayerSettings>),
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
            (ExportKind::Safetensors | ExportKind::Gguf, ModelState::Open(model), _) => {
                Source::Model(model.source.clone(), draft.settings.clone())
            }
            (ExportKind::Safetensors | ExportKind::Gguf, ..) => return None,
            (_, _, Some(journal)) => Source::Journal(journal.to_owned()),
            (_, _, None) => Source::Study(Box::new(self.session.study().clone())),
        })
    }
}

/// Writes the file; returns what to say of it.
fn write(kind: ExportKind, source: Source, path: &Path, existing: Existing) -> Result<String, String> {
    let text = match source {
        Source::Recipe(text) => text,
        Source::Model(model, settings) => return write_model(kind, &model, &settings, path, existing),
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

fn write_model(
    kind: ExportKind,
    model: &ModelSource,
    settings: &[LayerSettings],
    path: &Path,
    existing: Existing,
) -> Result<String, String> {
    let source = checkpoint::open(model).map_err(|error| error.to_string())?;
    let go_on = &mut |_, _| ControlFlow::Continue(());
    let written = if kind == ExportKind::Gguf {
        gguf::write(&source, settings, path, existing, go_on)
    } else {
        // A dialog asks about files, not about folders.
        safetensors::write(&source, settings, None, path, Existing::Refuse, go_on)
    };
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
