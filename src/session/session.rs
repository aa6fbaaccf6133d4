//! The state that both front ends share.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Receiver, Sender, bounded};
use log::Level;

use crate::device::{DeviceInfo, DeviceSpec};
use crate::model::ModelSource;
use crate::session::handle::{DriverHandle, Record, Update};
use crate::session::inspector::{InspectRequest, Inspection, Inspector};
use crate::session::model::open_model;
use crate::session::profiler::{ProfileRequest, Profiler, Profiling};
use crate::session::run::{Run, RunStatus};
use crate::session::{CacheState, ModelState, OpenModel, StartError, cache, devices, paths};
use crate::study::{Study, StudyHeader, StudySpec, journal};
use crate::telemetry::{GpuDevice, Telemetry, TelemetrySnapshot};
use crate::worker::Runner;
use crate::worker::cuda::{self, CudaDevices};
use crate::worker::host::{WorkerConfig, WorkerHandle};

/// Called from any thread when [`Session::poll`] has something to take in. Must not block.
pub type Wake = Arc<dyn Fn() + Send + Sync>;

/// GUI-free application state.
pub struct Session {
    wake: Wake,
    studies_dir: Option<PathBuf>,
    worker: Option<PathBuf>,
    model: ModelState,
    study: Study,
    journal: Option<PathBuf>,
    running: Option<(DriverHandle, Run)>,
    inspector: Inspector,
    profiler: Profiler,
    tasks: (Sender<TaskResult>, Receiver<TaskResult>),
    telemetry: Telemetry,
    devices: Vec<DeviceInfo>,
    /// What the worker for NVIDIA cards says, once it was asked.
    cuda: Option<CudaDevices>,
    /// The GPUs that `devices` was made of.
    seen_gpus: Vec<GpuDevice>,
    notices: Vec<(Level, String)>,
    cache: CacheState,
}

/// What a thread of its own found out.
enum TaskResult {
    Opened(ModelSource, Result<Arc<OpenModel>, String>),
    Replayed(PathBuf, Result<(Box<Study>, Vec<String>), String>),
    Cache(Result<u64, String>),
    Cuda(CudaDevices),
}

impl Session {
    /// A session without model and study. `wake` is called when there is something to poll.
    pub fn new(wake: Wake) -> Self {
        let telemetry = Telemetry::start(Some(Arc::clone(&wake)));
        let devices = devices(&telemetry.snapshot(), None);
        let mut session = Self {
            wake,
            studies_dir: paths::studies_dir(),
            worker: None,
            model: ModelState::Closed,
            study: Study::default(),
            journal: None,
            running: None,
            inspector: Inspector::default(),
            profiler: Profiler::default(),
            tasks: bounded(16),
            telemetry,
            devices,
            cuda: None,
            seen_gpus: Vec::new(),
            notices: Vec::new(),
            cache: CacheState::new(),
        };
        session.task("task-devices", || TaskResult::Cuda(cuda::devices()));
        session
    }

    /// The same session with new studies recorded in `dir`.
    #[must_use]
    pub fn with_studies_dir(self, dir: PathBuf) -> Self {
        Self { studies_dir: Some(dir), ..self }
    }

    /// The same session with `exe` as the program of its workers, in the place of this one.
    #[must_use]
    pub fn with_worker(self, exe: PathBuf) -> Self {
        Self { worker: Some(exe), ..self }
    }

    /// Begins to open a model on a thread of its own. Inspections and the profile of the one before are forgotten.
    pub fn open(&mut self, source: ModelSource) {
        self.inspector.forget();
        self.profiler.forget();
        self.model = ModelState::Opening(source.clone());
        self.task("task-open", move || TaskResult::Opened(source.clone(), open_model(source).map(Arc::new)));
    }

    /// How the model stands.
    pub fn model(&self) -> &ModelState {
        &self.model
    }

    /// Takes in what happened since the last call, for at most `budget`. Returns whether anything did, and whether more
    /// is waiting.
    pub fn poll(&mut self, budget: Duration) -> (bool, bool) {
        let began = Instant::now();
        let mut any = self.refresh_devices() | self.poll_inspector() | self.profiler.poll();
        loop {
            if let Ok(result) = self.tasks.1.try_recv() {
                self.take_task(result);
            } else if let Some(update) = self.running.as_ref().and_then(|(driver, _)| driver.try_next()) {
                self.take_update(update);
            } else {
                return (any, false);
            }
            any = true;
            if began.elapsed() >= budget {
                let waits = self.running.as_ref().is_some_and(|(driver, _)| driver.has_next());
                return (any, waits || !self.tasks.1.is_empty());
            }
        }
    }

    /// The study as its events tell it.
    pub fn study(&self) -> &Study {
        &self.study
    }

    /// The journal of the study shown, if it has one.
    pub fn journal(&self) -> Option<&Path> {
        self.journal.as_deref()
    }

    /// Starts a study in a new journal of the session's folder, or goes on with the journal given.
    ///
    /// What goes wrong with the journal later becomes a notice.
    ///
    /// # Errors
    /// [`StartError`] says what to do next.
    pub fn start(&mut self, spec: StudySpec, resume: Option<PathBuf>) -> Result<(), StartError> {
        let mut runners: Vec<Box<dyn Runner>> = Vec::new();
        for device in spec.devices() {
            let config = self.worker_config(spec.model.clone(), device).map_err(StartError::Thread)?;
            runners.push(Box::new(WorkerHandle::new(config)));
        }
        self.start_with(spec, resume, runners)
    }

    /// As [`Self::start`], with others than worker processes: a runner for each of [`StudySpec::devices`].
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_with(
        &mut self,
        spec: StudySpec,
        resume: Option<PathBuf>,
        runners: Vec<Box<dyn Runner>>,
    ) -> Result<(), StartError> {
        if self.running.is_some() {
            return Err(StartError::Busy);
        }
        let ModelState::Open(model) = &self.model else { return Err(StartError::NoModel) };
        if model.source != spec.model {
            let (wanted, open) = (spec.model.name(), model.source.name());
            return Err(StartError::Mismatch(format!(
                "it is of the model {wanted:?}, but {open:?} is open; open it first"
            )));
        }
        let header = StudyHeader {
            app_version: env!("CARGO_PKG_VERSION").to_owned(),
            graph: model.graph.clone(),
            device: self.describe(spec.device),
            created_unix_secs: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            data_hash: None,
            spec,
        };
        if resume.is_none() {
            // The study shown before it must not be counted as this one's.
            self.show(Study::default(), None);
        }
        self.inspector.make_way();
        self.profiler.cancel();
        let record = resume.map_or_else(|| Record::New(self.studies_dir.clone()), Record::Resume);
        let run = Run::new(&header.spec);
        let driver = DriverHandle::start(header, record, runners, Arc::clone(&self.wake))?;
        self.running = Some((driver, run));
        Ok(())
    }

    /// Shows a recorded study, read only. Its model is not opened.
    pub fn replay(&mut self, journal: PathBuf) {
        if self.running.is_some() {
            self.notice(Level::Warn, "stop the running study before you open another one".to_owned());
            return;
        }
        self.task("task-replay", move || {
            let read = journal::read_study(&journal);
            let result = read.map(|(study, damage)| (Box::new(study), damage)).map_err(|error| error.to_string());
            TaskResult::Replayed(journal, result)
        });
    }

    /// How far the running study is; `None` when none runs.
    pub fn status(&self) -> Option<RunStatus> {
        let (driver, run) = self.running.as_ref()?;
        Some(run.status(&self.study, driver))
    }

    /// Starts no new trial until it is called with `false`.
    pub fn pause(&self, paused: bool) {
        if let Some((driver, _)) = &self.running {
            driver.pause(paused);
        }
    }

    /// Ends the running trial and the study; what is finished stays.
    pub fn stop(&self) {
        if let Some((driver, _)) = &self.running {
            driver.stop();
        }
    }

    /// Looks into a layer of the open model, as soon as no study runs.
    pub fn inspect(&mut self, request: InspectRequest) {
        match &self.model {
            ModelState::Open(_) => {
                self.inspector.ask(request);
                (self.wake)();
            }
            _ => self.notice(Level::Warn, "open a model before you look into its layers".to_owned()),
        }
    }

    /// Ends the running inspection; what was found stays.
    pub fn cancel_inspection(&mut self) {
        self.inspector.cancel();
    }

    /// The inspection of the open model that was asked for last, as far as it is.
    pub fn inspection(&self) -> Option<&Inspection> {
        self.inspector.shown()
    }

    /// Takes the passes of a variant of the open model apart. Refused while a study runs, which it would disturb.
    pub fn profile(&mut self, request: ProfileRequest) {
        let ModelState::Open(model) = &self.model else {
            return self.notice(Level::Warn, "open a model before you profile it".to_owned());
        };
        if self.running.is_some() {
            return self.notice(Level::Warn, "stop the running study before you profile a variant".to_owned());
        }
        let config = self.worker_config(model.source.clone(), request.device);
        self.inspector.make_way();
        self.profiler.begin(request, config, &self.wake);
    }

    /// Ends the running profile.
    pub fn cancel_profile(&mut self) {
        self.profiler.cancel();
    }

    /// The profile of the open model that was asked for last, as far as it is.
    pub fn profiling(&self) -> Option<&Profiling> {
        self.profiler.shown()
    }

    /// The devices of this machine.
    pub fn devices(&self) -> &[DeviceInfo] {
        &self.devices
    }

    /// The newest readings of the host and its GPUs.
    pub fn telemetry(&self) -> Arc<TelemetrySnapshot> {
        self.telemetry.snapshot()
    }

    /// What the cache of compressed layers takes up, as it was last counted: by [`Self::measure_cache`] and after a study.
    pub fn cache(&self) -> &CacheState {
        &self.cache
    }

    /// Begins to count the bytes of the cache.
    pub fn measure_cache(&mut self) {
        self.cache_task("task-cache", cache::size);
    }

    /// Begins to empty the cache. What a running study is making stays.
    pub fn clear_cache(&mut self) {
        self.cache_task("task-clear-cache", cache::clear);
    }

    fn cache_task(&mut self, name: &str, work: fn(&Path) -> Result<u64, String>) {
        let Some(dir) = self.cache.dir.clone().filter(|_| !self.cache.busy) else { return };
        self.cache.busy = self.task(name, move || TaskResult::Cache(work(&dir)));
    }

    /// What the user should know, in order: taken out by this call.
    pub fn take_notices(&mut self) -> Vec<(Level, String)> {
        std::mem::take(&mut self.notices)
    }

    fn worker_config(&self, source: ModelSource, device: DeviceSpec) -> std::io::Result<WorkerConfig> {
        let mut config = WorkerConfig::new(source, device)?;
        if let (Some(exe), DeviceSpec::Cpu { .. }) = (&self.worker, device) {
            config.exe.clone_from(exe);
        }
        Ok(config)
    }

    fn poll_inspector(&mut self) -> bool {
        let ModelState::Open(model) = &self.model else { return false };
        let is_quiet = self.running.is_none() && !self.profiler.is_running();
        let may_begin = is_quiet && self.inspector.is_waiting();
        let config = may_begin.then(|| self.worker_config(model.source.clone(), DeviceSpec::all_cores()));
        self.inspector.poll(config, model, &self.wake)
    }

    /// Returns whether the thread could be started.
    fn task(&mut self, name: &str, work: impl FnOnce() -> TaskResult + Send + 'static) -> bool {
        let (results, wake) = (self.tasks.0.clone(), Arc::clone(&self.wake));
        let body = move || {
            // Fails only when the session is gone.
            if results.send(work()).is_ok() {
                wake();
            }
        };
        match std::thread::Builder::new().name(name.to_owned()).spawn(body) {
            Ok(_) => true,
            Err(error) => {
                self.notice(Level::Error, format!("start the thread {name:?}: {error}"));
                false
            }
        }
    }

    fn take_task(&mut self, result: TaskResult) {
        match result {
            // The user has asked for another one since.
            TaskResult::Opened(source, _) if !matches!(&self.model, ModelState::Opening(wanted) if *wanted == source) =>
                {}
            TaskResult::Opened(_, Ok(model)) => self.model = ModelState::Open(model),
            TaskResult::Opened(source, Err(message)) => {
                self.notice(Level::Error, message.clone());
                self.model = ModelState::Refused { source, message };
            }
            TaskResult::Replayed(..) if self.running.is_some() => {}
            TaskResult::Replayed(path, Ok((study, damage))) => {
                for line in damage {
                    self.notice(Level::Warn, line);
                }
                self.show(*study, Some(path));
            }
            TaskResult::Replayed(_, Err(message)) => self.notice(Level::Error, message),
            TaskResult::Cuda(found) => {
                self.devices = devices(&self.telemetry.snapshot(), Some(&found));
                self.cuda = Some(found);
            }
            TaskResult::Cache(found) => {
                self.cache.busy = false;
                match found {
                    Ok(bytes) => self.cache.bytes = Some(bytes),
                    Err(message) => self.notice(Level::Warn, message),
                }
            }
        }
    }

    fn take_update(&mut self, update: Update) {
        match update {
            Update::Began { study, journal } => {
                if let Some((_, run)) = &mut self.running {
                    run.begin(&study);
                }
                self.show(*study, journal);
            }
            Update::Event(event) => {
                if let Some((_, run)) = &mut self.running {
                    run.apply(&event);
                }
                self.study.apply(&event);
            }
            Update::Notice(level, text) => self.notice(level, text),
            Update::Over => {
                self.running = None;
                self.measure_cache();
            }
        }
    }

    /// Generations go on, so that no cache of the study before it fits.
    fn show(&mut self, study: Study, journal: Option<PathBuf>) {
        let generation = self.study.generation + study.generation + 1;
        self.study = Study { generation, ..study };
        self.journal = journal;
    }

    fn notice(&mut self, level: Level, text: String) {
        self.notices.push((level, text));
    }

    fn describe(&self, spec: DeviceSpec) -> DeviceInfo {
        let is_same = |info: &&DeviceInfo| match (info.spec, spec) {
            (DeviceSpec::Cpu { .. }, DeviceSpec::Cpu { .. }) => true,
            (a, b) => a == b,
        };
        let known = self.devices.iter().find(is_same).cloned();
        let unknown = || DeviceInfo::named(spec, spec.label());
        DeviceInfo { spec, ..known.unwrap_or_else(unknown) }
    }

    /// Telemetry names devices after its first reading; a GPU may be lost later.
    fn refresh_devices(&mut self) -> bool {
        let snapshot = self.telemetry.snapshot();
        let is_read = self.devices[0].memory_bytes.is_some() || snapshot.history.is_empty();
        if is_read && snapshot.gpus == self.seen_gpus {
            return false;
        }
        self.seen_gpus.clone_from(&snapshot.gpus);
        let found = devices(&snapshot, self.cuda.as_ref());
        let is_changed = found != self.devices;
        self.devices = found;
        is_changed
    }
}
