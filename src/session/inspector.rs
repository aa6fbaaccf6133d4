//! The layer that is looked into: at most one worker process, and what the last ones found.
//!
//! The process is started and heard on thread `inspector`. It never runs beside a study: timing shares no core with it.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::cache;
use crate::model::LayerPath;
use crate::recipe::Calibration;
use crate::session::{OpenModel, Wake};
use crate::study::Failure;
use crate::worker::heat_map::HeatMap;
use crate::worker::host::WorkerConfig;
use crate::worker::inspection::{Finding, InspectSpec, LayerView};
use crate::worker::inspector::LayerInspector;

/// How often the thread looks up from waiting.
const LOOK_UP: Duration = Duration::from_millis(50);
/// Findings that wait for the window; beyond it the worker waits.
const CAPACITY: usize = 64;
/// Inspections that are kept, besides the one shown.
const KEPT: usize = 16;
/// Bytes of the heat maps that are kept.
const KEPT_BYTES: usize = 96 << 20;
/// A heat map that is older was left by a program that was killed.
const LEFT_OVER: Duration = Duration::from_hours(24);

/// A layer to look into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InspectRequest {
    /// The layer.
    pub layer: LayerPath,
    /// The text that its inputs are taken from.
    pub calibration: Option<Calibration>,
}

/// How an inspection stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InspectionState {
    /// A study is running; it begins after that.
    Waiting,
    /// A worker is at it.
    Running,
    /// Everything was found out.
    Done,
    /// The user ended it; what was found stays.
    Cancelled,
    /// The worker found no more, with the reason.
    Failed(String),
}

/// A layer with what was found out about it so far.
#[derive(Debug, Clone, PartialEq)]
pub struct Inspection {
    /// What was asked for.
    pub request: InspectRequest,
    /// How it stands.
    pub state: InspectionState,
    /// What was found.
    pub view: LayerView,
    /// The magnitudes of its weights, or why they cannot be shown.
    pub map: Option<Result<Arc<HeatMap>, String>>,
    /// Changes with every finding: caches are keyed by it.
    pub generation: u64,
}

/// The inspections of the open model. Invariant: none is of another one, see [`Self::forget`].
#[derive(Debug, Default)]
pub(super) struct Inspector {
    shown: Option<Inspection>,
    kept: VecDeque<Inspection>,
    running: Option<Running>,
    generation: u64,
}

#[derive(Debug)]
struct Running {
    updates: Receiver<Update>,
    cancelled: Arc<AtomicBool>,
}

#[derive(Debug)]
enum Update {
    Found(Finding),
    Map(Result<Arc<HeatMap>, String>),
    Failed(Failure),
}

impl Inspector {
    /// The inspection that was asked for last.
    pub(super) fn shown(&self) -> Option<&Inspection> {
        self.shown.as_ref()
    }

    /// Another model is opened: what was found was of the one before, and the running inspection ends.
    pub(super) fn forget(&mut self) {
        // Generations go on, so that no cache of what was shown fits.
        *self = Self { generation: self.generation + 1, ..Self::default() };
    }

    /// Shows `request`: at once what is known of it, else from the next poll on. One that failed or was cancelled begins
    /// anew.
    pub(super) fn ask(&mut self, request: InspectRequest) {
        let is_usable =
            |state: &InspectionState| !matches!(state, InspectionState::Cancelled | InspectionState::Failed(_));
        let is_shown = |shown: &Inspection| shown.request == request && is_usable(&shown.state);
        if self.shown.as_ref().is_some_and(is_shown) {
            return;
        }
        self.running = None;
        if let Some(before) = self.shown.take().filter(|before| before.state == InspectionState::Done) {
            self.kept.push_back(before);
        }
        self.generation += 1;
        self.shown = match self.kept.iter().position(|kept| kept.request == request) {
            Some(index) => self.kept.remove(index),
            None => Some(Inspection {
                request,
                state: InspectionState::Waiting,
                view: LayerView::default(),
                map: None,
                generation: self.generation,
            }),
        };
        let held = |kept: &VecDeque<Inspection>| -> usize {
            kept.iter().flat_map(|kept| &kept.map).flatten().map(|map| map.held_bytes()).sum()
        };
        while self.kept.len() > KEPT || held(&self.kept) > KEPT_BYTES {
            self.kept.pop_front();
        }
    }

    /// Ends the running inspection; what was found stays.
    pub(super) fn cancel(&mut self) {
        self.running = None;
        if let Some(shown) = &mut self.shown
            && matches!(shown.state, InspectionState::Running | InspectionState::Waiting)
        {
            shown.state = InspectionState::Cancelled;
        }
    }

    /// A study begins: the running inspection ends, and begins again after it.
    pub(super) fn make_way(&mut self) {
        self.running = None;
        if let Some(shown) = &mut self.shown
            && shown.state == InspectionState::Running
        {
            self.generation += 1;
            let request = shown.request.clone();
            let (view, generation) = (LayerView::default(), self.generation);
            *shown = Inspection { request, state: InspectionState::Waiting, view, map: None, generation };
        }
    }

    /// Whether an inspection was asked for and has not begun.
    pub(super) fn is_waiting(&self) -> bool {
        self.shown.as_ref().is_some_and(|shown| shown.state == InspectionState::Waiting)
    }

    /// Takes in what was found, and begins what waits when there is a `config`. Returns whether anything happened.
    pub(super) fn poll(&mut self, config: Option<io::Result<WorkerConfig>>, model: &OpenModel, wake: &Wake) -> bool {
        match config {
            Some(Ok(config)) => self.begin(config, model, wake),
            Some(Err(error)) => self.fail(format!("start the worker: {error}")),
            None => {
                let Some(running) = &self.running else { return false };
                let updates: Vec<Update> = running.updates.try_iter().collect();
                let any = !updates.is_empty();
                for update in updates {
                    self.take_in(update);
                }
                return any;
            }
        }
        true
    }

    fn fail(&mut self, reason: String) {
        if let Some(shown) = &mut self.shown {
            shown.state = InspectionState::Failed(reason);
        }
    }

    fn begin(&mut self, config: WorkerConfig, model: &OpenModel, wake: &Wake) {
        let Some(shown) = &mut self.shown else { return };
        let Some(layer) = model.graph.layers.iter().find(|layer| layer.path == shown.request.layer) else {
            let reason = format!("the model has no layer {:?}", shown.request.layer.as_str());
            return self.fail(reason);
        };
        let InspectRequest { layer: path, calibration } = shown.request.clone();
        let spec = InspectSpec { source: model.source.clone(), layer: path, calibration, map: None };
        let (to_window, updates) = bounded(CAPACITY);
        let cancelled = Arc::new(AtomicBool::new(false));
        let task = Task { config, spec, shape: layer.shape, updates: to_window, cancelled: Arc::clone(&cancelled) };
        let wake = Arc::clone(wake);
        let thread = std::thread::Builder::new().name("inspector".to_owned()).spawn(move || task.run(&wake));
        match thread {
            Ok(_) => {
                shown.state = InspectionState::Running;
                self.running = Some(Running { updates, cancelled });
            }
            Err(error) => self.fail(format!("start the thread \"inspector\": {error}")),
        }
    }

    fn take_in(&mut self, update: Update) {
        let Some(shown) = &mut self.shown else { return };
        self.generation += 1;
        shown.generation = self.generation;
        match update {
            Update::Found(Finding::Complete) => shown.state = InspectionState::Done,
            Update::Found(finding) => shown.view.apply(finding),
            Update::Map(map) => shown.map = Some(map),
            Update::Failed(failure) => shown.state = InspectionState::Failed(failure.message),
        }
    }
}

impl Drop for Running {
    /// The thread ends its worker within [`LOOK_UP`]; nothing in a frame waits for that.
    fn drop(&mut self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }
}

/// What the thread is given.
struct Task {
    config: WorkerConfig,
    spec: InspectSpec,
    shape: [usize; 2],
    updates: Sender<Update>,
    cancelled: Arc<AtomicBool>,
}

impl Task {
    fn run(self, wake: &Wake) {
        let tell = |update| {
            let is_heard = self.updates.send(update).is_ok();
            wake();
            is_heard
        };
        let file = match map_file() {
            Ok(file) => Some(file),
            Err(error) => {
                tell(Update::Map(Err(format!("make a file for it in the cache folder: {error}"))));
                None
            }
        };
        let map = file.as_ref().map(|file| file.path().to_owned());
        let spec = InspectSpec { map: map.clone(), ..self.spec.clone() };
        let mut worker = match LayerInspector::start(&self.config, spec) {
            Ok(worker) => worker,
            Err(failure) => {
                tell(Update::Failed(failure));
                return;
            }
        };
        while !self.cancelled.load(Ordering::Relaxed) {
            let update = match worker.next(LOOK_UP) {
                Ok(None) => continue,
                Ok(Some(Finding::Map)) => {
                    let read = map.as_deref().map(|path| HeatMap::read(path, self.shape));
                    let Some(read) = read else { continue };
                    Update::Map(read.map(Arc::new).map_err(|error| error.to_string()))
                }
                Ok(Some(finding)) => Update::Found(finding),
                Err(failure) => Update::Failed(failure),
            };
            let is_last = matches!(update, Update::Found(Finding::Complete) | Update::Failed(_));
            if !tell(update) || is_last {
                return;
            }
        }
    }
}

/// A file for a heat map, removed with the value.
fn map_file() -> io::Result<tempfile::NamedTempFile> {
    let cache = cache::default_dir().ok_or_else(|| io::Error::other("neither XDG_CACHE_HOME nor HOME is set"))?;
    let folder = cache.join("inspect");
    std::fs::create_dir_all(&folder)?;
    remove_left_over(&folder, SystemTime::now());
    tempfile::Builder::new().prefix("layer-").suffix(".map").tempfile_in(folder)
}

/// Removes heat maps that nobody reads any more.
fn remove_left_over(folder: &Path, now: SystemTime) {
    let age = |path: &PathBuf| now.duration_since(path.metadata()?.modified()?).map_err(io::Error::other);
    let Ok(entries) = folder.read_dir() else { return };
    for path in
        entries.flatten().map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|is| is == "map"))
    {
        if age(&path).is_ok_and(|age| age > LEFT_OVER)
            && let Err(error) = std::fs::remove_file(&path)
        {
            log::debug!("an old heat map stays: {error}: {}", path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(layer: &str) -> InspectRequest {
        InspectRequest { layer: LayerPath::from(layer), calibration: None }
    }

    fn finish(inspector: &mut Inspector) {
        inspector.take_in(Update::Found(Finding::Complete));
    }

    #[test]
    fn what_was_found_is_kept_and_failures_begin_anew() {
        let mut inspector = Inspector::default();
        inspector.ask(request("a"));
        finish(&mut inspector);
        let generation = inspector.shown().unwrap().generation;
        inspector.ask(request("b"));
        assert_eq!(inspector.shown().unwrap().state, InspectionState::Waiting);
        inspector.cancel();
        assert_eq!(inspector.shown().unwrap().state, InspectionState::Cancelled);
        inspector.ask(request("b"));
        assert_eq!(inspector.shown().unwrap().state, InspectionState::Waiting, "asked for again");
        inspector.ask(request("a"));
        let shown = inspector.shown().unwrap();
        assert_eq!((&shown.state, shown.generation), (&InspectionState::Done, generation), "nothing is done twice");
        inspector.forget();
        assert!(inspector.shown().is_none() && !inspector.is_waiting());
        inspector.ask(request("a"));
        let shown = inspector.shown().unwrap();
        assert_eq!(shown.state, InspectionState::Waiting, "nothing is known of another model");
        assert!(shown.generation > generation, "no cache of the other one fits");
    }

    #[test]
    fn a_study_pushes_a_running_one_back() {
        let mut inspector = Inspector::default();
        inspector.ask(request("a"));
        inspector.shown.as_mut().unwrap().state = InspectionState::Running;
        inspector.shown.as_mut().unwrap().view.n_candidates = 3;
        inspector.make_way();
        let shown = inspector.shown().unwrap();
        assert_eq!((&shown.state, shown.view.n_candidates), (&InspectionState::Waiting, 0));
        finish(&mut inspector);
        inspector.make_way();
        assert_eq!(inspector.shown().unwrap().state, InspectionState::Done);
    }

    #[test]
    fn old_maps_are_removed_and_others_stay() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["layer-1.map", "other.txt"] {
            std::fs::write(dir.path().join(name), "x").unwrap();
        }
        remove_left_over(dir.path(), SystemTime::now());
        assert!(dir.path().join("layer-1.map").exists());
        remove_left_over(dir.path(), SystemTime::now() + 2 * LEFT_OVER);
        assert!(!dir.path().join("layer-1.map").exists() && dir.path().join("other.txt").exists());
    }
}
