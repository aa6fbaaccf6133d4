//! Work that takes time, each piece on a named thread of its own; results come back typed.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::app::command::DialogKind;
use crate::app::dialogs;
use crate::model::ModelSource;
use crate::recipe::Recipe;
use crate::session::{Demo, Wake};

/// Results that wait to be taken in; a task that ends when all are used waits on its own thread.
const CAPACITY: usize = 16;
/// The largest recipe file that is read.
const MAX_RECIPE_BYTES: u64 = 1 << 20;
/// A dialog that is gone sooner never appeared.
const NO_DIALOG: Duration = Duration::from_millis(250);

/// What a task found or did.
#[derive(Debug)]
pub(super) enum TaskResult {
    /// Where the demo's files lie.
    Demo(Result<Box<Demo>, String>),
    /// What was chosen.
    Dialog(DialogKind, Choice),
    /// What a path is.
    Looked(PathBuf, Result<Looked, Refusal>),
    /// A file was written, with what to say of it, or not.
    Exported(Result<String, String>),
}

/// How a dialog ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// A path was chosen.
    Path(PathBuf),
    /// The user closed it.
    Cancelled,
    /// It never appeared: no portal, no display.
    Absent,
}

/// What a path is.
#[derive(Debug)]
pub(super) enum Looked {
    /// A model.
    Model(ModelSource),
    /// A recorded study.
    Study,
    /// A recipe.
    Recipe(Box<Recipe>),
    /// A text to evaluate on.
    Data,
}

/// Why a path is of no use.
#[derive(Debug)]
pub(super) enum Refusal {
    /// Nothing that the program can open.
    Unknown,
    /// It looked right but could not be read.
    Unreadable(String),
}

/// The threads that are at work.
pub(super) struct Tasks {
    sender: Sender<TaskResult>,
    receiver: Receiver<TaskResult>,
    wake: Wake,
    dialog_open: bool,
}

impl Tasks {
    /// No task yet. `wake` is called when a result waits.
    pub(super) fn new(wake: Wake) -> Self {
        let (sender, receiver) = bounded(CAPACITY);
        Self { sender, receiver, wake, dialog_open: false }
    }

    /// The next result, if one waits.
    pub(super) fn next(&mut self) -> Option<TaskResult> {
        let result = self.receiver.try_recv().ok()?;
        if matches!(result, TaskResult::Dialog(..)) {
            self.dialog_open = false;
        }
        Some(result)
    }

    /// Unpacks the demo if it is not there yet.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(super) fn demo(&self) -> std::io::Result<()> {
        self.spawn("task-demo", || {
            TaskResult::Demo(crate::session::demo().map(Box::new).map_err(|error| error.to_string()))
        })
    }

    /// Finds out what a path is.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(super) fn look(&self, path: PathBuf) -> std::io::Result<()> {
        self.spawn("task-look", move || {
            let path = expand_home(path);
            let looked = look(&path);
            TaskResult::Looked(path, looked)
        })
    }

    /// Opens a dialog, unless one is open. Returns whether it did.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(super) fn dialog(&mut self, kind: DialogKind, suggested: String) -> std::io::Result<bool> {
        if self.dialog_open {
            return Ok(false);
        }
        self.spawn("task-dialog", move || {
            let asked = Instant::now();
            let choice = match dialogs::ask(kind, &suggested) {
                Some(path) => Choice::Path(path),
                None if asked.elapsed() < NO_DIALOG => Choice::Absent,
                None => Choice::Cancelled,
            };
            TaskResult::Dialog(kind, choice)
        })?;
        self.dialog_open = true;
        Ok(true)
    }

    /// Writes a file with `write`, which gets the path.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(super) fn export(
        &self,
        path: PathBuf,
        write: impl FnOnce(&Path) -> Result<String, String> + Send + 'static,
    ) -> std::io::Result<()> {
        self.spawn("task-export", move || {
            let path = expand_home(path);
            TaskResult::Exported(write(&path))
        })
    }

    fn spawn(&self, name: &str, work: impl FnOnce() -> TaskResult + Send + 'static) -> std::io::Result<()> {
        let (sender, wake) = (self.sender.clone(), self.wake.clone());
        let run = move || {
            if sender.send(work()).is_ok() {
                wake();
            }
        };
        std::thread::Builder::new().name(name.to_owned()).spawn(run).map(drop)
    }
}

fn look(path: &Path) -> Result<Looked, Refusal> {
    let name = path.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
    let extension = path.extension().map(|extension| extension.to_string_lossy().to_lowercase());
    let extension = extension.as_deref();
    if path.is_dir() {
        let is_model = path.join("config.json").is_file();
        let source = ModelSource::Safetensors { dir: path.to_owned() };
        return if is_model { Ok(Looked::Model(source)) } else { Err(Refusal::Unknown) };
    }
    if let Err(error) = std::fs::metadata(path) {
        return Err(Refusal::Unreadable(error.to_string()));
    }
    match extension {
        Some("gguf") => Ok(Looked::Model(ModelSource::Gguf { file: path.to_owned() })),
        Some("study") => Ok(Looked::Study),
        Some("toml") => read_recipe(path).map(|recipe| Looked::Recipe(Box::new(recipe))).map_err(Refusal::Unreadable),
        Some("jsonl") => Ok(Looked::Data),
        Some("safetensors") => Ok(Looked::Model(beside(path))),
        _ if name == "config.json" => Ok(Looked::Model(beside(path))),
        _ => Err(Refusal::Unknown),
    }
}

fn beside(path: &Path) -> ModelSource {
    ModelSource::Safetensors { dir: path.parent().unwrap_or(Path::new(".")).to_owned() }
}

fn read_recipe(path: &Path) -> Result<Recipe, String> {
    let mut text = String::new();
    let file = File::open(path).map_err(|error| error.to_string())?;
    file.take(MAX_RECIPE_BYTES).read_to_string(&mut text).map_err(|error| error.to_string())?;
    Recipe::from_toml(&text).map_err(|error| error.to_string())
}

fn expand_home(path: PathBuf) -> PathBuf {
    match (path.strip_prefix("~"), std::env::var_os("HOME")) {
        (Ok(rest), Some(home)) => PathBuf::from(home).join(rest),
        _ => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_known_by_what_lies_there() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir(at("model")).unwrap();
        std::fs::write(at("model/config.json"), "{}").unwrap();
        std::fs::create_dir(at("empty")).unwrap();
        for name in ["a.gguf", "b.STUDY", "c.jsonl", "d.txt", "bad.toml"] {
            std::fs::write(at(name), "x").unwrap();
        }
        std::fs::write(at("good.toml"), Recipe::reference().to_toml()).unwrap();
        let check = |name: &str, expected: &str| {
            let found = match look(&at(name)) {
                Ok(Looked::Model(ModelSource::Safetensors { dir })) if dir == at("model") => "folder",
                Ok(Looked::Model(ModelSource::Gguf { .. })) => "gguf",
                Ok(Looked::Study) => "study",
                Ok(Looked::Recipe(_)) => "recipe",
                Ok(Looked::Data) => "data",
                Ok(Looked::Model(_)) => "another model",
                Err(Refusal::Unknown) => "unknown",
                Err(Refusal::Unreadable(_)) => "unreadable",
            };
            assert_eq!(found, expected, "{name}");
        };
        check("model", "folder");
        check("model/config.json", "folder");
        check("empty", "unknown");
        check("a.gguf", "gguf");
        check("b.STUDY", "study");
        check("c.jsonl", "data");
        check("d.txt", "unknown");
        check("bad.toml", "unreadable");
        check("good.toml", "recipe");
        check("absent.gguf", "unreadable");
    }
}
