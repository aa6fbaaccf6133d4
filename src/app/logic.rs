//! What the window does: takes in events and results, applies commands, brings derived state up to date.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

use log::Level;

use crate::app::app::App;
use crate::app::command::{Command, DialogKind, ExportKind, PinSlot};
use crate::app::context::ViewContext;
use crate::app::editor::Gesture;
use crate::app::tasks::{Choice, Looked, Refusal, TaskResult};
use crate::app::theme::Tokens;
use crate::app::words::{self, Words};
use crate::app::{RunOptions, dialogs};
use crate::device::{DeviceInfo, DeviceSpec};
use crate::export::Existing;
use crate::model::{ModelGraph, ModelSource};
use crate::session::{Demo, ModelState, Session};
use crate::study::{Objective, Phase, StrategySpec, Study, TrialId, pareto_front};

/// Time for events in one frame; what is left comes with the next one.
const EVENT_BUDGET: Duration = Duration::from_millis(4);

impl App {
    /// Opens what the command line names, or nothing: the first screen then offers the demo.
    pub(super) fn begin(&mut self, options: RunOptions) {
        let started = self.tasks.demo();
        self.report(started);
        self.session.measure_cache();
        match options {
            RunOptions { replay: Some(path), .. } => self.session.replay(path),
            RunOptions { open: Some(path), .. } => {
                let started = self.tasks.look(path);
                self.report(started);
            }
            RunOptions { open: None, replay: None } => self.prefs.open_demo = true,
        }
    }

    /// Before each frame: events, results, commands, then what follows from them.
    pub(super) fn advance(&mut self, ctx: &egui::Context) {
        let (_, more) = self.session.poll(EVENT_BUDGET);
        if more {
            ctx.request_repaint();
        }
        for (level, text) in self.session.take_notices() {
            self.notices.push(level, text);
        }
        while let Some(result) = self.tasks.next() {
            self.take_in(result);
        }
        if !ctx.input(|input| input.pointer.any_down()) {
            self.editor.end_drag();
        }
        for command in self.commands.drain() {
            self.apply(command, ctx);
        }
        let device = self.device();
        self.editor.resolve(graph(&self.session), &device, &self.prefs.sweep.calibration);
        let open = match self.session.model() {
            ModelState::Open(model) => Some(&**model),
            _ => None,
        };
        let (draft, study) = (self.editor.draft(), self.session.study());
        self.planner.update(open, &device, &self.prefs.sweep, draft, study);
        self.notices.expire(ctx);
        if self.selection.trial.is_none() && self.session.status().is_none() && self.chosen_at != study.generation {
            self.chosen_at = study.generation;
            self.selection.trial = worth_a_look(study);
        }
        let phase = study.live.progress.map(|(phase, ..)| phase);
        let timed = self.session.status().is_some() && phase.is_some_and(Phase::is_timed);
        self.timed.store(timed, Ordering::Relaxed);
    }

    /// Draws a frame from what [`App::advance`] left.
    pub(super) fn show(&mut self, ui: &mut egui::Ui) {
        let (words, theme) = (words::current(), Tokens::of(ui.ctx().theme()));
        let telemetry = self.session.telemetry();
        let also_on = self.also_on();
        let cx = ViewContext {
            words,
            theme,
            model: self.session.model(),
            graph: graph(&self.session),
            draft: self.editor.draft(),
            can_undo: self.editor.can_undo(),
            can_redo: self.editor.can_redo(),
            study: self.session.study(),
            status: self.session.status(),
            inspection: self.session.inspection(),
            profiling: self.session.profiling(),
            selection: &self.selection,
            devices: self.session.devices(),
            device: self.device_spec(),
            also_on: &also_on,
            sweep: &self.prefs.sweep,
            plan: self.planner.plan(),
            recent: &self.prefs.recent,
            log: self.notices.log(),
            telemetry: &telemetry,
            cache: self.session.cache(),
            commands: &self.commands,
        };
        self.view.ui(&cx, ui);
        self.notices.ui(words, theme, ui.ctx());
    }

    fn apply(&mut self, command: Command, ctx: &egui::Context) {
        let Some(command) = self.view.apply(command) else { return };
        let gesture = if ctx.input(|input| input.pointer.any_down()) { Gesture::Dragging } else { Gesture::Whole };
        match command {
            Command::SetRecipe(recipe) => self.editor.set(*recipe, gesture),
            Command::LoadRecipe(id) => {
                if let Some(trial) = self.session.study().trials.get(&id) {
                    self.editor.set(trial.spec.recipe.clone(), Gesture::Whole);
                }
            }
            Command::Undo => self.editor.undo(),
            Command::Redo => self.editor.redo(),
            Command::SelectLayers(layers) => self.selection.layers = layers,
            Command::SelectTrial(id) => self.selection.trial = id,
            Command::HoverTrial(id) => self.selection.hovered = id,
            Command::Pin(PinSlot::A, id) => self.selection.pinned_a = id,
            Command::Pin(PinSlot::B, id) => self.selection.pinned_b = id,
            Command::SetSweep(sweep) => self.prefs.sweep = *sweep,
            Command::UseData(path) => self.prefs.sweep.quality.data = path,
            Command::UseCalibration(path) => self.calibrate_on(path),
            Command::SetDevice(device) => self.prefs.device = Some(device),
            Command::ShareWith(device, is_on) => {
                self.prefs.also_on.retain(|other| *other != device);
                self.prefs.also_on.extend(is_on.then_some(device));
            }
            Command::SetTheme(theme) => {
                self.prefs.theme = theme;
                ctx.set_theme(theme);
            }
            Command::Notice(level, text) => self.notices.push(level, text),
            Command::Copy(text) => ctx.copy_text(text),
            Command::Quit => ctx.send_viewport_cmd(egui::ViewportCommand::Close),
            other => self.apply_to_session(other),
        }
    }

    fn apply_to_session(&mut self, command: Command) {
        match command {
            Command::OpenModel(source) => self.open(source),
            Command::OpenPath(path) => {
                let started = self.tasks.look(path);
                self.report(started);
            }
            Command::OpenDemo => {
                self.prefs.open_demo = true;
                let started = self.tasks.demo();
                self.report(started);
            }
            Command::Replay(path) => self.replay(path),
            Command::Dialog(kind) => self.dialog(kind),
            Command::Run(strategy) => self.run(*strategy),
            Command::Pause(paused) => self.session.pause(paused),
            Command::Stop => self.session.stop(),
            Command::Inspect(request) => self.session.inspect(request),
            Command::CancelInspection => self.session.cancel_inspection(),
            Command::Profile(request) => self.session.profile(*request),
            Command::CancelProfile => self.session.cancel_profile(),
            Command::Resume => self.resume(),
            Command::ClearCache => self.session.clear_cache(),
            Command::Export(kind, path, existing) => self.export(kind, path, existing),
            other => log::debug!("nobody applies {other:?}"),
        }
    }

    fn open(&mut self, source: ModelSource) {
        self.prefs.remember(source.path());
        self.prefs.calibrate(&source);
        self.selection.layers.clear();
        self.session.open(source);
    }

    fn unpacked(&mut self, demo: Demo) {
        if self.prefs.sweep.quality.data.as_os_str().is_empty() {
            self.prefs.sweep.quality.data = demo.search;
        }
        self.prefs.demo = Some((demo.model.clone(), demo.calibration));
        if std::mem::take(&mut self.prefs.open_demo) {
            self.open(demo.model);
        } else if let ModelState::Open(model) = self.session.model() {
            self.prefs.calibrate(&model.source);
        }
    }

    /// The text for every recipe that names none, and for the one that is being edited if it names another.
    fn calibrate_on(&mut self, path: PathBuf) {
        let recipe = &self.editor.draft().recipe;
        if recipe.calibration.data.is_some() {
            let mut recipe = recipe.clone();
            recipe.calibration.data = Some(path.clone());
            self.editor.set(recipe, Gesture::Whole);
        }
        self.prefs.sweep.calibration = path;
    }

    fn replay(&mut self, path: PathBuf) {
        self.prefs.remember(&path);
        self.forget_trials();
        self.session.replay(path);
    }

    /// Trials of another study have the same numbers: nothing of the old one stays selected.
    fn forget_trials(&mut self) {
        let layers = std::mem::take(&mut self.selection.layers);
        self.selection = crate::app::context::Selection { layers, ..Default::default() };
    }

    fn dialog(&mut self, kind: DialogKind) {
        let model = || graph(&self.session).map(|graph| graph.name.clone()).unwrap_or_default();
        let name = match kind {
            DialogKind::Export(ExportKind::Recipe) => self.editor.draft().recipe.name.clone(),
            DialogKind::Export(ExportKind::ProfileTrace | ExportKind::ProfileCsv) => format!("{}-profile", model()),
            _ => model(),
        };
        let started = self.tasks.dialog(kind, dialogs::suggested(kind, &name));
        self.report(started.map(drop));
    }

    fn run(&mut self, strategy: StrategySpec) {
        let ModelState::Open(model) = self.session.model() else {
            return self.notices.push(Level::Warn, words::current().shell.needs_model.to_owned());
        };
        let mut spec = self.prefs.sweep.spec(strategy, model.source.clone(), self.device_spec());
        spec.also_on = self.also_on();
        self.forget_trials();
        if let Err(error) = self.session.start(spec, None) {
            self.notices.push(Level::Error, error.to_string());
        }
    }

    fn resume(&mut self) {
        let Some(header) = &self.session.study().header else { return };
        let mut spec = header.spec.clone();
        // A card that shared the study and is gone does not hold it up.
        spec.also_on.retain(|card| self.can_run(*card));
        let Some(journal) = self.session.journal().map(Path::to_owned) else { return };
        if let Err(error) = self.session.start(spec, Some(journal)) {
            self.notices.push(Level::Error, error.to_string());
        }
    }

    fn take_in(&mut self, result: TaskResult) {
        let words: &Words = words::current();
        match result {
            TaskResult::Demo(Ok(demo)) => self.unpacked(*demo),
            TaskResult::Demo(Err(reason)) => {
                self.prefs.open_demo = false;
                self.notices.push(Level::Error, (words.shell.unreadable)(words.open.demo, &reason));
            }
            // A dialog that saves asks before it gives the path of a file that exists.
            TaskResult::Dialog(kind, Choice::Path(path)) => {
                self.commands.push(dialogs::command(kind, path, Existing::Replace));
            }
            TaskResult::Dialog(_, Choice::Cancelled) => {}
            TaskResult::Dialog(kind, Choice::Absent) => {
                let name = self.editor.draft().recipe.name.clone();
                self.view.ask_for_path(kind, dialogs::suggested(kind, &name));
            }
            TaskResult::Looked(path, looked) => self.opened(&path, looked),
            TaskResult::Exported(Ok(saved)) => self.notices.push(Level::Info, (words.shell.saved)(&saved)),
            TaskResult::Exported(Err(reason)) => {
                self.notices.push(Level::Error, (words.shell.not_saved)(&reason));
            }
        }
    }

    fn opened(&mut self, path: &Path, looked: Result<Looked, Refusal>) {
        let words = &words::current().shell;
        let shown = path.display().to_string();
        match looked {
            Ok(Looked::Model(source)) => self.open(source),
            Ok(Looked::Study) => self.replay(path.to_owned()),
            Ok(Looked::Data) => path.clone_into(&mut self.prefs.sweep.quality.data),
            Ok(Looked::Recipe(recipe)) => {
                self.notices.push(Level::Info, (words.recipe_opened)(&recipe.name));
                self.editor.set(*recipe, Gesture::Whole);
            }
            Err(Refusal::Unknown) => self.notices.push(Level::Warn, (words.unknown_file)(&shown)),
            Err(Refusal::Unreadable(reason)) => {
                self.notices.push(Level::Error, (words.unreadable)(&shown, &reason));
            }
        }
    }

    pub(super) fn report(&mut self, started: std::io::Result<()>) {
        if let Err(error) = started {
            self.notices.push(Level::Error, (words::current().shell.no_thread)(&error.to_string()));
        }
    }

    /// The device for the next study: the chosen one while it is there, all cores otherwise.
    fn device_spec(&self) -> DeviceSpec {
        let devices = self.session.devices();
        let chosen = self.prefs.device.filter(|spec| devices.iter().any(|device| device.spec == *spec));
        chosen.or(devices.first().map(|device| device.spec)).unwrap_or_else(DeviceSpec::all_cores)
    }

    /// The cards that share the next study: those chosen that are there and can run trials, where the device is a card.
    fn also_on(&self) -> Vec<DeviceSpec> {
        let device = self.device_spec();
        let others = self.prefs.also_on.iter().copied().filter(|spec| *spec != device && self.can_run(*spec));
        match device {
            DeviceSpec::Cpu { .. } => Vec::new(),
            DeviceSpec::Cuda { .. } => others.collect(),
        }
    }

    fn can_run(&self, spec: DeviceSpec) -> bool {
        self.session.devices().iter().any(|info| info.spec == spec && info.unavailable.is_none())
    }

    pub(super) fn device(&self) -> DeviceInfo {
        let spec = self.device_spec();
        let known = self.session.devices().iter().find(|device| device.spec == spec).cloned();
        known.unwrap_or_else(|| DeviceInfo::named(spec, spec.label()))
    }
}

/// The trial that a study at rest is opened with: the fastest one on the front of speed and quality, or of bytes and
/// quality where no speed was measured, that is not the reference.
fn worth_a_look(study: &Study) -> Option<TrialId> {
    [Objective::DecodeLatency, Objective::WeightBytes]
        .into_iter()
        .find_map(|cost| pareto_front(study, cost, Objective::Kl).into_iter().find(|id| *id != TrialId(0)))
        .or_else(|| study.trials.keys().next_back().copied())
}

/// The layers that panels show: the open model's, else those of the study shown.
fn graph(session: &Session) -> Option<&ModelGraph> {
    match session.model() {
        ModelState::Open(model) => Some(&model.graph),
        _ => session.study().header.as_ref().map(|header| &header.graph),
    }
}
